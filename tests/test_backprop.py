import ast
import itertools
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from jax import lax
from networks import KINDS, MASKS, TARGETS, B, X, chosen, parameters

from bnjax import Network, NormDense, backprop, batch_norm, cost, matrix
from bnjax.activations import ACTIVATIONS
from bnjax.costs import COSTS

# relative to the whole gradient; what is left is rounding, some 1e-15 of it per layer
TOLERANCE = 1e-12


def network(depth, kind="norm", **options):
    return Network((3, *[4] * (depth - 1), 2), **KINDS[kind], **options)


def by_jax(net, rule, params, state, x, targets, where=None):
    def objective(params):
        return cost(net, params, state, x, targets, rule=rule, where=where)[0]

    return jax.value_and_grad(objective)(params)


def three_gradients(net, params, state, x, targets, where=None):
    return {
        "hand": backprop.value_and_grad(net, params, x, targets, where=where),
        "rule": by_jax(net, "vjp", params, state, x, targets, where),
        "autodiff": by_jax(net, "autodiff", params, state, x, targets, where),
    }


def assert_agree(gradients, tolerance=TOLERANCE):
    gradients = jax.device_get(gradients)
    value, wanted = gradients["autodiff"]
    size = np.linalg.norm([np.linalg.norm(leaf) for leaf in jax.tree.leaves(wanted)])
    assert size > 1e-3
    for name, (other, got) in gradients.items():
        chex.assert_trees_all_equal_shapes_and_dtypes(got, wanted)
        assert abs(other - value) <= tolerance * abs(value), name
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            assert np.linalg.norm(a - b) <= tolerance * size, name


# by default every activation x cost is met in every kind and mask; `slow` adds all their products
CASES = list(itertools.product(KINDS, MASKS, range(1, 6)))
QUICK = [
    ("baseline", "weights", 2),
    ("norm", "no mask", 3),
    ("norm", "mask", 1),
    ("norm output", "mask", 2),
]


@pytest.mark.parametrize(
    ("kind", "mask", "depth"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_by_hand_by_rule_and_by_autodiff_agree(kind, mask, depth):
    @quick_jit
    def gradients(activation, cost, params, state, where):
        with chosen(activation, cost) as options:
            net = network(depth, kind, **options)
            return three_gradients(net, params, state, X, TARGETS, where)

    args = *parameters(network(depth, kind)), MASKS[mask]
    activations = range(len(ACTIVATIONS) if depth > 1 else 1)  # one layer has none
    for activation, cost_number in itertools.product(activations, range(len(COSTS))):
        assert_agree(gradients(activation, cost_number, *args))


@pytest.mark.parametrize(
    ("activation", "cost_name"), list(zip(ACTIVATIONS, itertools.cycle(COSTS), strict=False))
)
def test_by_name_they_agree_too(activation, cost_name):
    net = network(2, activation=activation, cost=cost_name)
    assert_agree(quick_jit(partial(three_gradients, net))(*parameters(net), X, TARGETS))


FORBIDDEN = {
    *("grad", "value_and_grad", "vjp", "jvp", "jacfwd", "jacrev", "jacobian", "hessian"),
    *("linearize", "linear_transpose", "custom_vjp", "custom_jvp"),
}


def test_backprop_uses_nothing_of_autodiff(monkeypatch):
    files = sorted(Path(backprop.__file__).parent.glob("*.py"))
    assert len(files) > 1
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jax"):
            assert not {alias.name for alias in node.names} & FORBIDDEN
        if isinstance(node, ast.Attribute):
            assert node.attr not in FORBIDDEN

    def refuse(*args, **kwargs):
        raise AssertionError("autodiff")

    net = network(3, "norm output", activation="tanh")
    params, _ = parameters(net)
    # not custom_vjp, custom_jvp: those that exist already may be called, and are looked for below
    for name in FORBIDDEN - {"jacobian", "custom_vjp", "custom_jvp"}:
        monkeypatch.setattr(jax, name, refuse)
    program = str(jax.make_jaxpr(partial(backprop.value_and_grad, net))(params, X, TARGETS))
    assert "tanh" in program and "custom_vjp" not in program


def wrong_gamma(monkeypatch):
    layers, right = [], (matrix.normalize_matrix, matrix.pull_back_matrix)

    def normalize_matrix(*args, **kwargs):
        y, residuals = right[0](*args, **kwargs)
        layers.append(residuals)
        return y, residuals

    def pull_back(residuals, y_bar):
        lower = layers[[layer.x is residuals.x for layer in layers].index(True) - 1]
        return (
            right[1](residuals._replace(gamma=lower.gamma), y_bar)[0],
            *right[1](residuals, y_bar)[1:],
        )

    monkeypatch.setattr(matrix, "normalize_matrix", normalize_matrix)
    monkeypatch.setattr(matrix, "pull_back_matrix", pull_back)


def wrong_error(monkeypatch, change):
    right = matrix.pull_back_matrix

    def pull_back(residuals, y_bar):
        x_bar, *small = right(residuals, y_bar)
        return change(residuals, y_bar, x_bar), *small

    monkeypatch.setattr(matrix, "pull_back_matrix", pull_back)


def unbiased(monkeypatch):
    right = matrix.pull_back_matrix
    monkeypatch.setattr(
        matrix,
        "pull_back_matrix",
        lambda residuals, y_bar: right(
            residuals._replace(inv_std=residuals.inv_std * ((B - 1) / B) ** 0.5), y_bar
        ),
    )


PLANTED = {
    "nothing": lambda monkeypatch: None,
    "γ of the layer below": wrong_gamma,
    "no ⟨Δ⟩": partial(
        wrong_error,
        change=lambda residuals, t, x: x + matrix.scale_row(residuals) * t.mean(0, keepdims=True),
    ),
    "a factor B": partial(wrong_error, change=lambda residuals, t, x: B * x),
    "half a per mille": partial(wrong_error, change=lambda residuals, t, x: 1.0005 * x),
    "the unbiased variance": unbiased,
}


by_autodiff = quick_jit(lambda p, s: by_jax(network(3), "autodiff", p, s, X, TARGETS))


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_error_is_refused(what, monkeypatch):
    net = network(3)
    params, state = parameters(net)
    PLANTED[what](monkeypatch)
    gradients = {
        "hand": quick_jit(lambda p: backprop.value_and_grad(net, p, X, TARGETS))(params),
        "autodiff": by_autodiff(params, state),
    }
    if what == "nothing":
        assert_agree(gradients)
    else:
        with pytest.raises(AssertionError, match="hand"):
            assert_agree(gradients)


@pytest.mark.parametrize("mask", ["no mask", "weights"])
def test_frozen_statistics_are_those_that_no_gradient_enters(mask):
    net, where = network(4, "norm output", activation="tanh"), MASKS[mask]
    params, _ = parameters(net)
    w = jnp.ones(B) if where is None else where.astype(float)

    def objective(params):
        u = X
        for layer in params:
            x = u @ layer.W
            _, moments = lax.stop_gradient(batch_norm(x, where=w[:, None], rule="autodiff"))
            x_hat = (x - moments.mean[None]) / jnp.sqrt(moments.var + net.eps)[None]
            y = layer.gamma[None] * jnp.where(w[:, None] > 0, x_hat, 0) + layer.beta[None]
            u = jnp.tanh(y)
        return jnp.sum(w * COSTS[net.cost].per_sample(y, TARGETS)) / jnp.sum(w)

    frozen = partial(backprop.value_and_grad, net, statistics="frozen", where=where)
    got, wanted = quick_jit(lambda p: (frozen(p, X, TARGETS), jax.value_and_grad(objective)(p)))(
        params
    )
    assert_agree({"hand": got, "autodiff": wanted})


def test_frozen_statistics_leave_out_the_two_means_of_d13():
    net = network(2)
    params, _ = parameters(net)

    @quick_jit
    def both(params):
        grads = [
            backprop.value_and_grad(net, params, X, TARGETS, statistics=statistics)[1]
            for statistics in backprop.STATISTICS
        ]
        return *grads, backprop.intermediates(net, params, X, TARGETS)[0]

    batch, frozen, layer = jax.tree.map(np.asarray, both(params))

    def mean(a):
        return np.mean(a, 0)

    u, delta, x_hat = layer.u[:, :, None], layer.delta[:, None], layer.x_hat[:, None]
    two = mean(delta) * mean(u) + mean(delta * x_hat) * mean(u * x_hat)
    wanted = -B * np.asarray(params[0].gamma) * layer.inv_std * two  # D.9 − D.13
    assert np.linalg.norm(wanted) > 1e-2
    np.testing.assert_allclose(batch[0].W - frozen[0].W, wanted, rtol=1e-11, atol=1e-14)
    chex.assert_trees_all_close((batch[0][1:], batch[1]), (frozen[0][1:], frozen[1]), rtol=1e-12)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "norm" else ()) for kind in KINDS]
)
def test_what_lies_under_a_mask_changes_nothing(kind):
    net = network(3, kind, cost="softmax_cross_entropy", activation="relu")
    params, _ = parameters(net)
    where = MASKS["mask"]
    f = quick_jit(partial(backprop.value_and_grad, net))
    hidden = [jnp.where(where[:, None], a, bad) for a, bad in ((X, jnp.nan), (TARGETS, jnp.inf))]
    chex.assert_trees_all_equal(f(params, *hidden, where=where), f(params, X, TARGETS, where=where))
    chex.assert_trees_all_close(
        f(params, *hidden, where=where), f(params, X[where], TARGETS[where]), rtol=1e-10, atol=1e-13
    )


def test_a_wholly_masked_batch_has_no_gradient():
    net = network(3)
    params, _ = parameters(net)
    f = quick_jit(partial(backprop.value_and_grad, net))
    value, grads = f(params, X, TARGETS, where=jnp.zeros(B))
    assert value == 0 and not any(jnp.any(g) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("dtype", "tolerance", "mask"),
    [
        ("float32", 1e-5, "weights"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("bfloat16", 0.05, "no mask"),
                ("float32", 1e-5, "no mask"),
                ("float32", 1e-5, "mask"),
                ("float16", 0.01, "weights"),
            )
        ),
    ],
)
def test_other_precisions_agree_with_the_rule(dtype, tolerance, mask):
    net = network(3, "norm output", activation="tanh")
    params, state = parameters(net, dtype)
    x, targets = X.astype(dtype), TARGETS.astype(dtype)
    gradients = quick_jit(partial(three_gradients, net))(params, state, x, targets, MASKS[mask])
    assert_agree(jax.tree.map(lambda a: np.asarray(a, np.float64), gradients), tolerance=tolerance)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients["hand"], gradients["rule"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_gradient_has_its_parameter_s_dtype(kind):
    net = network(3, kind)
    params, state = parameters(net, "float32")
    params = (params[0]._replace(W=params[0].W.astype("bfloat16")), *params[1:])
    # x and targets in float64, then as integers
    for x, targets in ((X, TARGETS), ((10 * X).astype(int), TARGETS > 0.5)):
        gradients = jax.eval_shape(partial(three_gradients, net), params, state, x, targets)
        chex.assert_trees_all_equal_shapes_and_dtypes(gradients["hand"], gradients["rule"])


@pytest.mark.parametrize(
    ("kind", "mask"), [("baseline", "mask"), ("norm", "no mask"), ("norm output", "weights")]
)
def test_the_intermediates_are_those_of_the_equations(kind, mask):
    net, where = network(3, kind, activation="tanh", eps=0.1), MASKS[mask]
    params, _ = parameters(net)

    @quick_jit
    def both(params, x, targets):
        layers = backprop.intermediates(net, params, x, targets, where=where)
        return layers, backprop.value_moments_and_grad(net, params, x, targets, where=where)

    layers, ((_, moments), grads) = both(params, X, TARGETS)
    u = np.asarray(X if where is None else jnp.where(where[:, None] > 0, X, 0))
    weights = None if where is None else np.asarray(where, float)[:, None]
    normalized = [layer.moments for layer in layers if layer.moments is not None]
    chex.assert_trees_all_equal(tuple(normalized), moments)
    for layer, p, grad in zip(layers, params, grads, strict=True):
        if isinstance(p, NormDense):
            y, mean, var, n, x_hat, r = reference.batch_norm(
                u @ p.W, p.gamma, p.beta, eps=0.1, weights=weights
            )
            x_bar = reference.pull_back(u @ p.W, layer.delta, p.gamma, eps=0.1, weights=weights)[0]
            found = mean, var, n, reference.effective_count(y, weights=weights)
            found = [part[0] for part in found]
            wanted = u, u @ p.W, x_hat, y, layer.delta, x_bar, found, r[0]
            small = (layer.delta * x_hat).sum(0), layer.delta.sum(0)  # D.5
        else:
            y, x_bar = u @ p.W + p.b[None], layer.delta
            wanted = u, None, None, y, layer.delta, None, None, None
            small = (layer.delta.sum(0),)
        for a, b in zip(jax.tree.leaves(layer), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
        for a, b in zip(grad, (u.T @ x_bar, *small), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
        u = np.tanh(y)


@pytest.mark.parametrize("gamma", [None, jnp.array([0.5, -2.0, 3.0])], ids=["no γ", "γ"])
@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.5])
def test_the_staged_chain_is_k_with_and_without_its_vanishing_term(eps, gamma, rng):
    x, y_bar = X + 5, jnp.asarray(rng.normal(size=X.shape))

    @quick_jit
    def chains(x, y_bar):
        stage = partial(backprop.staged_chain, x, gamma, y_bar, eps=eps)
        return stage(), stage(vanishing_term=False)

    x, y_bar, given = (np.asarray(a) for a in (x, y_bar, 1.0 if gamma is None else gamma))
    _, mean, var, *_, r = reference.batch_norm(x, eps=eps)
    x_bar = reference.pull_back(x, y_bar, given, eps=eps)[0]
    x_hat_bar = given * y_bar
    var_bar = -(r[0] ** 3) / 2 * (x_hat_bar * (x - mean)).sum(0)
    wanted = x_hat_bar, var_bar, -r[0] * x_hat_bar.sum(0), x_bar
    for chain in chains(x, y_bar):
        for a, b in zip(chain, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_arguments_that_do_not_fit_are_refused():
    net = network(2)
    params, _ = parameters(net)
    with pytest.raises(ValueError, match="`statistics` must be one of .*did you mean 'frozen'?"):
        backprop.value_and_grad(net, params, X, TARGETS, statistics="frosen")
    with pytest.raises(ValueError, match=r"`x` must have shape \(B, 3\).*got \(7, 2\)"):
        backprop.value_and_grad(net, params, X[:, :2], TARGETS)
    with pytest.raises(ValueError, match=r"`targets` must have shape \(7, 2\).*got \(7, 1\)"):
        backprop.intermediates(net, params, X, TARGETS[:, :1])
    with pytest.raises(ValueError, match=r"`where` must have shape \(7,\)"):
        backprop.value_and_grad(net, params, X, TARGETS, where=jnp.ones((B, 1)))
    with pytest.raises(ValueError, match="`params` must be what `init` gives"):
        backprop.value_and_grad(net, params[:1], X, TARGETS)
    with pytest.raises(ValueError, match="at least two values per channel"):
        backprop.value_and_grad(net, params, X[:1], TARGETS[:1])
    with pytest.raises(ValueError, match=r"`y_bar` must have the shape of `x`, \(7, 3\)"):
        backprop.staged_chain(X, None, X[:2])
