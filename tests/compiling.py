"""A quick compiler: compiling is what takes the time, and float64 needs no optimization."""

from contextlib import contextmanager
from functools import partial, wraps

import jax
import pytest

from bnjax._xla import options_for_loops, options_for_small_programs

_jit = jax.jit


def quick_jit(function, **more):
    """Jit a function for a few runs on small arrays."""
    return _jit(function, compiler_options=options_for_small_programs(), **more)


def quick_flags():
    """The same for all that a process compiles, as its XLA_FLAGS."""
    options = options_for_small_programs()
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


@contextmanager
def quickly_compiled():
    """Within it, what the library and the application jit when they are called is quick too.

    Not what they jitted when they were imported, nor what is called while something is traced:
    options are those of a whole program.
    """
    options_for_small_programs(), options_for_loops()  # compile, the first time

    def jit(function=None, **more):
        if function is None:
            return partial(jit, **more)
        more.pop("compiler_options", None)
        quick, traced = quick_jit(function, **more), _jit(function, **more)

        @wraps(function)
        def call(*args, **kwargs):
            leaves = jax.tree.leaves((args, kwargs))
            inside = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
            return (traced if inside else quick)(*args, **kwargs)

        call.lower, call.trace = quick.lower, traced.trace
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", jit)
        yield
