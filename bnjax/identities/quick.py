"""Compile for a few runs on small arrays: what counts is the compiler's time, not the program's."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax

# the first two spare LLVM its work; the others suit XLA:CPU as JAX 0.10 has it, where they save
# three quarters of the time (JAX 0.12 knows the last one only)
_WANTED: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def quick(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the decorator that jits a function for `static` arguments, and returns NumPy arrays."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @cache
        def jitted() -> Callable[..., Any]:
            # not while importing: asking for the options starts JAX's backend
            return jax.jit(function, static_argnames=static, compiler_options=_options())

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return jax.device_get(jitted()(*args, **kwargs))

        return call

    return decorate


@cache
def _options() -> dict[str, Any]:
    """Keep the options that this version of XLA knows."""
    known = {}
    probe = jax.jit(lambda: 0).lower()
    for name, value in _WANTED.items():
        try:
            probe.compile(compiler_options={name: value})
        except Exception:  # noqa: BLE001 - whatever it is, the checks run without the option
            continue
        known[name] = value
    return known
