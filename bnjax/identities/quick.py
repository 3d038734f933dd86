"""Compile for a few runs on small arrays, where the compiler takes longer than the program."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import jax

# Seen with JAX 0.10 on CPU: together they save three quarters of the time to compile. JAX 0.12
# knows the last one only; `known_options` leaves out what this version of XLA does not know.
QUICK_OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,  # LLVM: no optimization
    "xla_llvm_disable_expensive_passes": True,  # LLVM: nor any slow pass
    "xla_cpu_use_fusion_emitters": False,  # XLA:CPU: the older emitters are faster to compile
    "xla_cpu_parallel_codegen_split_count": 1,  # XLA:CPU: one module, for small programs
}


def quick(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the decorator that jits a function for `static` arguments, and returns NumPy arrays."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @cache
        def jitted() -> Callable[..., Any]:
            # not at import: asking for the options starts JAX's backend
            options = known_options()
            return jax.jit(function, static_argnames=static, compiler_options=options)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return jax.device_get(jitted()(*args, **kwargs))

        return call

    return decorate


@cache
def known_options() -> dict[str, Any]:
    """Return those of `QUICK_OPTIONS` that this version of XLA knows."""
    known = {}
    probe = jax.jit(lambda: 0).lower()
    for name, value in QUICK_OPTIONS.items():
        try:
            probe.compile(compiler_options={name: value})
        except Exception:  # noqa: BLE001 - whatever is raised, the checks run without the option
            continue
        known[name] = value
    return known
