"""The compiler options of an audit."""

from typing import Any

import jax


def compiler_options() -> dict[str, Any] | None:
    """Return the options for a program that runs a few times, whose compilation takes longer.

    Without LLVM's optimizations, a whole audit on the CPU takes a fifth less time (measured with
    the XLA of JAX 0.10 and 0.12). JAX's own setting, `jax_optimization_level`, has no such effect
    on the CPU in JAX 0.10; once it has, it can replace this option. Other backends keep XLA's
    defaults.
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
