"""The recipes of docs/guides/: their code runs as it stands, and does what the page says."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit

from bnjax import batch_norm, geometry, normalize, population

DOCS = Path(__file__).parents[1] / "docs" / "guides"


def recipes(page, *, chosen, **names):
    """What the code blocks of a page define, those that hold `chosen`."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    found = [block for block in blocks if chosen in block]
    assert found
    for block in found:
        exec(block, names)
    return names


@pytest.fixture
def network(rng):
    """Parameters, data, and statistics of another data set."""
    params = {
        name: {
            "W": jnp.asarray(rng.normal(size=(n, 4))),
            "gamma": jnp.ones(4) * 1.5,
            "beta": jnp.full(4, 0.1),
        }
        for name, n in (("first", 3), ("second", 4))
    }
    x, other = jnp.asarray(rng.normal(size=(2, 16, 3))) * 2 + 1
    own = recipes("fine_tuning.md", chosen="def forward")
    before = {name: population.init(4, float) for name in params}
    state = quick_jit(lambda p, s, x: own["update"](s, own["forward"](p, {}, x)[1]))(
        params, before, other
    )
    return own, params, state, x


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), a, b)))


def test_a_frozen_layer_is_a_fixed_map_of_each_sample_and_its_statistics_stay(network):
    own, params, state, x = network
    forward = quick_jit(partial(own["forward"], frozen=("first", "second")))
    y, moments = forward(params, state, x)
    assert moments == {} and own["update"](state, moments) == state
    one = forward(params, state, x[3:4])[0]
    np.testing.assert_allclose(one[0], y[3], rtol=1e-12, atol=1e-14)
    grads = quick_jit(jax.grad(lambda p: forward.__wrapped__(p, state, x)[0].sum()))
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads(params)))


def test_some_layers_are_frozen_with_their_parameters_and_thawed(network):
    own, params, state, x = network
    own |= recipes("fine_tuning.md", chosen="def backbone_fixed", **own)
    update, forward = map(quick_jit, (own["update"], own["forward"]))
    grads, moments = quick_jit(
        jax.grad(
            lambda p: (lambda y, m: (y.sum(), m))(*own["backbone_fixed"](p, state, x)), has_aux=True
        )
    )(params)
    assert not any(jnp.any(g) for g in grads["first"].values()) and jnp.any(grads["second"]["W"])
    after = update(state, moments)
    assert same(after["first"], state["first"]) and not same(after["second"], state["second"])
    thawed = update(after, forward(params, after, x)[1])
    wanted = (
        0.9 * after["first"].mean * 0.1 / 0.19 + 0.1 * (x @ params["first"]["W"]).mean(0) / 0.19
    )
    np.testing.assert_allclose(thawed["first"].mean, wanted, rtol=1e-12)  # P.7: the second batch
    own |= recipes(
        "fine_tuning.md",
        chosen="population.init(params",
        **own | {"state": after, "params": params},
    )
    anew = update(own["state"], forward(params, own["state"], x)[1])
    np.testing.assert_allclose(anew["first"].mean, (x @ params["first"]["W"]).mean(0), rtol=1e-6)


def test_statistics_are_measured_after_fine_tuning(network):
    own, params, _, x = network
    names = own | {"params": params, "x": x}
    state = recipes("fine_tuning.md", chosen="def moments_of", **names)["state"]
    np.testing.assert_allclose(state["first"].mean, (x @ params["first"]["W"]).mean(0), rtol=1e-12)


def test_two_domains_do_not_see_each_other(rng):
    own = recipes("fine_tuning.md", chosen="def forward")
    own |= recipes("fine_tuning.md", chosen="def two_domains", **own)
    own |= recipes("fine_tuning.md", chosen="def mixed", **own)
    x, (gamma, beta) = rng.normal(size=(2, 6, 3)), rng.normal(size=(2, 2, 3))
    x[1] += 100
    y, state = quick_jit(own["two_domains"])(gamma, beta, population.init((2, 3), float), x)
    evaluate = quick_jit(own["evaluate"])
    for d in range(2):
        np.testing.assert_allclose(
            y[d], reference.batch_norm(x[d], gamma[d], beta[d])[0], rtol=1e-9
        )
        evaluated = evaluate(gamma, beta, state, x[d], d)
        mean, var = x[d].mean(0), x[d].var(0, ddof=1)
        wanted = normalize(x[d], mean, var, gamma[d], beta[d])
        np.testing.assert_allclose(evaluated, wanted, rtol=1e-9)
    order = rng.permutation(12)
    domain = np.repeat([0, 1], 6)[order]
    both, moments = quick_jit(own["mixed"])(
        gamma, beta, x.reshape(12, 3)[order], jnp.asarray(domain)
    )
    np.testing.assert_allclose(both, y.reshape(12, 3)[order], rtol=1e-9)
    np.testing.assert_allclose(moments.mean, x.mean(1), rtol=1e-12)


def test_the_gradient_of_a_kernel_is_put_together_from_its_angles(rng):
    own = recipes("own_network.md", chosen="def convolution_angles")
    x, kernel = rng.normal(size=(3, 4, 4, 2)), rng.normal(size=(3, 3, 2, 3))
    gamma, beta = rng.normal(size=(2, 3))
    targets = rng.normal(size=(3, 4, 4, 3))

    def cost(y):
        return jnp.sum((jnp.tanh(y) - targets) ** 2)

    def whole(kernel):
        product = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return cost(batch_norm(product, gamma, beta)[0])

    @quick_jit
    def by_angles(*args):
        return geometry.gradients(own["convolution_angles"](*args, cost)).W

    got = by_angles(x, kernel, gamma, beta).reshape(2, 3, 3, 3).transpose(1, 2, 0, 3)
    np.testing.assert_allclose(got, quick_jit(jax.grad(whole))(kernel), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_the_page_of_ghost_batches():
    state = recipes("ghost.md", chosen="ghost_batch_norm")["state"]
    assert state.batches.tolist() == [1] * 8


def test_the_page_on_explaining_lists_all_faults():
    page = (DOCS / "explain.md").read_text()
    listed = re.findall(r"^\| ([^|]*?) \| [^-]", page.split("What is wrong")[1], re.MULTILINE)
    assert len(listed) > 10
    for name in (found.name for found in geometry.FAULTS):
        first, _, last = name.rpartition(" ")
        assert name in listed or any(one.startswith(first) and last in one for one in listed)


@pytest.mark.peers
def test_linen_freezes_thaws_and_keeps_domains_apart(rng):
    pytest.importorskip("flax", reason="pip install '.[flax]'")
    own = recipes("fine_tuning.md", chosen="layers.linen", jax=jax, jnp=jnp)
    x = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    variables = own["Model"]().init(jax.random.key(0), x, False)
    before = variables["batch_stats"]
    statistics = {"clean": before, "adversarial": before}
    for frozen, moved in (("first", "second"), ("second", "first")):
        _, after = own["train_on"](variables["params"], statistics, "clean", x, (frozen,))
        assert same(after["adversarial"], before) and same(after["clean"][frozen], before[frozen])
        assert not same(after["clean"][moved], before[moved])


@pytest.mark.peers
def test_nnx_freezes_thaws_and_keeps_domains_apart(rng):
    nnx = pytest.importorskip("flax.nnx", reason="pip install '.[flax]'")
    own = recipes("fine_tuning.md", chosen="from flax import nnx", jax=jax, jnp=jnp)

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = own["layers"].BatchNorm(3, rngs=rngs)
            self.second = own["layers"].BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.second(self.first(x))

    model, x = Model(nnx.Rngs(0)), jnp.asarray(rng.normal(size=(8, 3)) + 5, jnp.float32)
    start = own["save_statistics"](model)
    own["freeze"](model, ["first"])
    model(x)
    clean = own["save_statistics"](model)
    assert same(clean["first"], start["first"]) and not same(clean["second"], start["second"])
    own["load_statistics"](model, start)  # the other domain's
    assert same(own["save_statistics"](model), start)
    own["freeze"](model, [])
    model(x)
    thawed = own["save_statistics"](model)
    assert not same(thawed["first"], start["first"])
