"""A quick compiler: compiling is what takes the time, and float64 needs no optimization."""

import jax

from bnjax._xla import options_for_small_programs


def quick_jit(function, **more):
    """Jit a function for a few runs on small arrays."""
    return jax.jit(function, compiler_options=options_for_small_programs(), **more)


def quick_flags():
    """The same for all that a process compiles, as its XLA_FLAGS."""
    options = options_for_small_programs()
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
