"""The README's code runs as it stands, and its commands are the ones that .ci/run runs."""

import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from bnjax import Network, init

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=pytest.mark.peers if "bnjax.layers" in code else ())
        for code in BLOCKS
    ],
    ids=lambda code: code.split("\n")[-2].strip()[:30],
)
def test_code_runs(code):
    if "bnjax.layers" in code:
        pytest.importorskip("flax", reason="pip install '.[flax]'")
    x, targets = jnp.ones((6, 64)), jnp.zeros((6, 10))
    net = Network((64, 5, 10))
    names = {"batches": [(x, targets)] * 3, "x": x, "targets": targets, "u": x}
    names |= {"key": jax.random.key(0), "net": net, "params": init(net, jax.random.key(0))[0]}
    names["layer"] = SimpleNamespace(  # as PyTorch's
        running_mean=x[0], running_var=x[0], num_batches_tracked=3, momentum=0.1, eps=1e-5
    )
    with jax.numpy_rank_promotion("allow"):  # a user's own code may promote ranks
        exec(code, names)
        if 'params["W"]' in code:
            params = {
                "W": jnp.ones((2, 64, 5)),
                "gamma": jnp.ones((2, 5)),
                "beta": jnp.ones((2, 5)),
                "V": jnp.ones((2, 5, 10)),
            }
            moved = names["step"](params, jax.random.normal(jax.random.key(0), (6, 64)), targets)
            assert float(abs(moved["V"] - params["V"]).max()) > 0


def test_ci_runs_the_readme_s_test_command():
    command = "pip install '.[test]' && pytest"
    assert command in README
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    for part in command.split(" && "):
        assert any(line.endswith(part) for line in lines)
