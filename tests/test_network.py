import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit

from bnjax import Activation, Network, apply, bn_apply, cost, init, network

rng = np.random.default_rng(0)
X, TARGETS = rng.normal(size=(6, 4)), (rng.random((6, 2)) > 0.5).astype(float)


run = quick_jit(bn_apply, static_argnames=("net", "train"))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_both_networks_start_from_the_same_weights(key):
    baseline, _ = init(Network((4, 5, 3, 2), norm=False), key)
    bn, state = init(Network((4, 5, 3, 2)), key)
    for a, b in zip(baseline, bn, strict=True):
        np.testing.assert_array_equal(a.W, b.W)
    assert [type(layer).__name__ for layer in bn] == ["NormDense", "NormDense", "Dense"]
    assert len(state) == 2 and float(jnp.abs(bn[0].W).max()) <= (6 / 9) ** 0.5


def test_by_default_all_layers_come_from_one_uniform_draw(key):
    drawn = np.asarray(jax.random.uniform(key, (25,), float, -1, 1))
    params, _ = init(Network((4, 5, 1), norm=False), key)
    layers = zip(params, ((4, 5), (5, 1)), (drawn[:20], drawn[20:]), strict=True)
    for (W, b), shape, part in layers:
        np.testing.assert_array_equal(W, (6 / sum(shape)) ** 0.5 * part.reshape(shape))
        assert not b.any()
    same = Network((4, 5, 1), norm=False, initializer="glorot_uniform", init_scale=1)
    chex.assert_trees_all_equal(init(same, key)[0], params)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "he_uniform" else pytest.mark.slow, id=name)
        for name in network.INITIALIZERS
    ],
)
def test_weights_are_as_large_as_their_initializer_says(name, key):
    """As Glorot & Bengio 2010, He et al. 2015, LeCun et al. 1998 and Saxe et al. 2014 have them."""
    n_in, n_out = 300, 100
    net = Network((n_in, n_out), initializer=name, init_scale=4.0)
    ((W, _),), _ = init(net, key)
    variance = {"glorot": 2 / (n_in + n_out), "he": 2 / n_in, "lecun": 1 / n_in}
    wanted = 16 * variance.get(name.split("_")[0], 1 / n_in)
    assert W.shape == (n_in, n_out) and np.var(W) == pytest.approx(wanted, rel=0.05)
    if "uniform" in name:
        assert np.abs(W).max() == pytest.approx((3 * wanted) ** 0.5, rel=1e-3)
    if name == "orthogonal":
        np.testing.assert_allclose(W.T @ W, 16 * np.eye(n_out), atol=1e-10)


def test_an_initializer_of_one_s_own_draws_each_layer_by_itself(key):
    def draw(key, shape, dtype):
        return jax.random.normal(key, shape, dtype) / shape[0]

    for norm in (True, False):
        params, _ = init(Network((3, 5, 2), norm=norm, initializer=draw, init_scale=2.0), key)
        for layer, k in zip(params, jax.random.split(key, 2), strict=True):
            shape = layer.W.shape
            np.testing.assert_array_equal(layer.W, 2 * jax.random.normal(k, shape) / shape[0])


def test_apply_is_bl1(key):
    net = Network((4, 5, 2), norm=False)
    (first, last), _ = init(net, key)
    first = first._replace(b=jnp.arange(5.0))
    wanted = sigmoid(X @ np.asarray(first.W) + np.arange(5.0)) @ np.asarray(last.W)
    got = quick_jit(apply, static_argnums=0)(net, (first, last), X)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("norm_output", [False, True])
def test_bn_apply_is_bn1_to_bn3(key, norm_output):
    net = Network((4, 5, 2), norm_output=norm_output, eps=0.1)
    (first, last), state = init(net, key)
    first = first._replace(gamma=jnp.arange(1.0, 6.0), beta=jnp.arange(5.0))
    u = sigmoid(reference.batch_norm(X @ first.W, first.gamma, first.beta, eps=0.1)[0])
    wanted = reference.batch_norm(u @ last.W, eps=0.1)[0] if norm_output else u @ last.W
    got, new = run(net, (first, last), state, X, train=True)
    np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(new[0].mean, (X @ first.W).mean(0), rtol=1e-11)
    assert len(new) == len(state) == 1 + norm_output


def test_evaluation_uses_the_statistics_and_leaves_the_state(key):
    net = Network((4, 5, 2), decay=None)
    params, state = init(net, key)
    _, state = run(net, params, state, X, train=True)
    together, same = bn_apply(net, params, state, X, train=False)
    assert same is state
    alone, _ = bn_apply(net, params, state, X[2:3], train=False)
    np.testing.assert_allclose(alone[0], together[2], rtol=1e-12)


@pytest.mark.parametrize("norm", [True, False])
def test_a_masked_sample_influences_nothing(key, norm):
    net = Network((4, 5, 2), norm=norm)
    params, state = init(net, key)
    where = np.array([1, 1, 0, 1, 1, 1]) > 0
    x = np.where(where[:, None], X, np.nan)
    targets = np.where(where[:, None], TARGETS, np.inf)

    def f(params, x, targets, where=None):
        return cost(net, params, state, x, targets, where=where)

    value_and_grad = quick_jit(jax.value_and_grad(f, has_aux=True))
    got = value_and_grad(params, x, targets, where)
    wanted = value_and_grad(params, X[where], TARGETS[where])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


def test_an_activation_of_one_s_own(key):
    net = Network((4, 5, 2), activation=Activation(jnp.sin, jnp.cos), norm=False)
    params, _ = init(net, key)
    wanted = np.sin(X @ params[0].W) @ params[1].W
    np.testing.assert_allclose(
        quick_jit(apply, static_argnums=0)(net, params, X), wanted, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"sizes": [4, 2]}, TypeError, r"`sizes` must be a tuple.*got list"),
        ({"sizes": (4,)}, ValueError, "`sizes` must be"),
        ({"sizes": (4, 0, 2)}, ValueError, r"got \(4, 0, 2\)"),
        ({"activation": "rleu"}, ValueError, "did you mean 'relu'?"),
        ({"cost": "sigmoid"}, ValueError, "`cost` must be one of"),
        ({"norm": False, "norm_output": True}, ValueError, "got norm=False"),
        ({"eps": -1e-5}, ValueError, "`eps` must be a static, finite Python number >= 0"),
        ({"initializer": "glorot"}, ValueError, "`initializer` must be one of glorot_normal"),
        ({"init_scale": 0}, ValueError, "`init_scale` must be .* number > 0; got 0"),
        ({"init_scale": jnp.ones(())}, ValueError, "Scale traced numbers into the params"),
        ({"decay": 1.0}, ValueError, "`decay`, the weight on the old statistics"),
    ],
)
def test_a_network_that_cannot_be_is_refused(change, kind, message):
    with pytest.raises(kind, match=message):
        dataclasses.replace(Network((4, 2)), **change)


def test_arguments_that_do_not_fit_are_refused(key):
    net = Network((4, 3, 2))
    params, state = init(net, key)
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, 4\).*got \(6, 3\)"):
        bn_apply(net, params, state, X[:, :3], train=True)
    with pytest.raises(ValueError, match="`params` must be what `init` gives"):
        bn_apply(dataclasses.replace(net, norm=False), params, (), X, train=True)
    with pytest.raises(ValueError, match="one PopulationState per normalization: 1 in all; got 0"):
        bn_apply(net, params, (), X, train=True)
    with pytest.raises(ValueError, match=r"`where` must have shape \(6,\)"):
        bn_apply(net, params, state, X, train=True, where=np.ones((6, 1)))
    with pytest.raises(ValueError, match=r"`targets` must have shape \(6, 2\).*got \(6,\)"):
        cost(net, params, state, X, np.ones(6))
    with pytest.raises(ValueError, match="apply: `net` must be a baseline"):
        apply(net, params, X)


def test_several_running_statistics_are_kept_side_by_side(key):
    nets = [Network((4, 3, 2), decay=decay) for decay in (0.5, None)]
    nets.append(Network((4, 3, 2), decay=0.5, other_decays=(None,)))
    kept = []
    for net in nets:
        params, state = init(net, key)
        for x in (X, X[::-1] + 1, 2 * X):
            _, state = run(net, params, state, x, train=True)
        kept.append(state)
    chex.assert_trees_all_equal(kept[2], (*kept[0], *kept[1]))
    pairs = zip((nets[0], nets[0], nets[2]), kept, strict=True)
    first = [bn_apply(net, params, state, X, train=False)[0] for net, state in pairs]
    np.testing.assert_array_equal(first[2], first[0])
    assert np.abs(first[2] - first[1]).max() > 0.01
    with pytest.raises(ValueError, match=r"`other_decays`.* must be None or in \[0, 1\); got 1.0"):
        Network((4, 2), decay=0.5, other_decays=(1.0,))
    with pytest.raises(
        ValueError, match=r"per normalization and decay, 2 of these: 2 in all; got 1"
    ):
        bn_apply(nets[2], params, kept[0], X, train=True)


@pytest.mark.parametrize("norm", [True, False])
def test_merged_statistics_split_into_what_they_were(key, norm):
    net = Network((3, 4, 5, 2), norm=norm, other_decays=(None, 0.5))
    state = init(net, key)[1]
    state = tuple(one._replace(mean=one.mean + i) for i, one in enumerate(state))
    merged = network.merge_statistics(net, state)
    assert [one.mean.shape for one in merged] == [(9,)] * 3 * norm
    chex.assert_trees_all_equal(network.split_statistics(net, merged), state)
