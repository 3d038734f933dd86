"""Programs that run now and then: what they take to compile counts more than how fast they are."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax
from jax.core import Tracer

from bnjax._xla import options_for_small_programs


def jit_for_few_runs(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the decorator that jits a function called now and then: sooner ready, but slower.

    In traced code, where options are those of the whole program, the function is as written.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @cache
        def jitted() -> Callable[..., Any]:
            # not at import: asking for the options starts JAX's backend
            options = options_for_small_programs() if jax.default_backend() == "cpu" else None
            return jax.jit(function, static_argnames=static, compiler_options=options)

        @wraps(function)
        def call(*args: Any, **static_args: Any) -> Any:
            traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))
            return (function if traced else jitted())(*args, **static_args)

        return call

    return decorate
