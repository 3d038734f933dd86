"""A quick compiler: compiling is what takes the time, and float64 needs no optimization."""

import jax

from bnjax.identities.quick import _options


def quick_jit(function, **more):
    """Jit a function for a few runs on small arrays."""
    return jax.jit(function, compiler_options=_options(), **more)


def quick_flags():
    """The same for all that a process compiles, as its XLA_FLAGS."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in _options().items())
