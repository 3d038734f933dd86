import gc
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from compiling import quickly_compiled

# traced programs are many small objects, of which few are garbage
gc.set_threshold(200_000, 20, 100)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# helpers hold no doctests, and some of them import a peer
collect_ignore = [
    file.name for file in Path(__file__).parent.glob("*.py") if not file.name.startswith("test_")
]


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def rng(request):
    """A generator seeded by the test's name: it draws the same whatever ran before."""
    name = f"{request.path.name}::{request.node.name}"
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.fixture(scope="session")
def keras_on_jax(tmp_path_factory):
    """Keras, whenever it is imported, runs on JAX and reads no settings of this user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield


@pytest.fixture
def quick_training():
    """Training compiles quickly in this test, which is about what training does."""
    with quickly_compiled():
        yield


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    """The folder of the test's own, in which it runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory):
    """An npz of three classes, told by the first of three features.

    41 of its 51 samples are trained on: neither batches of 16 nor devices share them evenly.
    """
    x = np.random.default_rng(0).normal(size=(51, 3))
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=x, y=np.digitize(x[:, 0], [-0.5, 0.5]))
    return path


@pytest.fixture
def refused(capsys):
    """Run the command on what it must refuse in one line on stderr; return that line."""
    from bnjax.app.main import run

    def call(*arguments):
        assert run([*map(str, arguments)]) == 2
        printed = capsys.readouterr()
        *before, line = printed.err.splitlines()
        assert printed.out == "" and line.startswith("bnjax: ")
        assert before == [] or (len(before) == 1 and before[0].startswith("reading "))
        return line

    return call
