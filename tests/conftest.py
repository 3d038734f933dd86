import zlib

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def rng(request):
    """A generator seeded by the test's name: it draws the same whatever ran before."""
    name = f"{request.path.name}::{request.node.name}"
    return np.random.default_rng(zlib.crc32(name.encode()))
