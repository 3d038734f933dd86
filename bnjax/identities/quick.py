"""Compile small programs for a few runs: quickly, and with products in full precision."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax

from bnjax import _xla


def quick(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the decorator that jits a function for `static` arguments, and returns NumPy arrays."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @cache
        def jitted() -> Callable[..., Any]:
            # not at import: asking for the options starts JAX's backend
            options = _xla.options_for_small_programs()
            return jax.jit(exact, static_argnames=static, compiler_options=options)

        @wraps(function)
        def exact(*args: Any, **kwargs: Any) -> Any:
            # what is traced in here multiplies exactly: NVIDIA GPUs and TPUs do not by default
            with jax.default_matmul_precision("highest"):
                return function(*args, **kwargs)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return jax.device_get(jitted()(*args, **kwargs))

        return call

    return decorate
