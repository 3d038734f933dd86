import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnjax import Network, cost, training

rng = np.random.default_rng(0)
X, TARGETS = jnp.asarray(rng.normal(size=(11, 4))), jnp.asarray(rng.random((11, 2)) > 0.5) * 1.0
NETS = {"bn": Network((4, 5, 2)), "baseline": Network((4, 5, 2), norm=False)}


@pytest.mark.parametrize("gradient", ["rule", "hand", "autodiff"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_step_of_sgd_is_bl6(key, net, gradient):
    start = training.init(net, optax.sgd(0.3), key)
    after, value = jax.jit(training.make_step(net, optax.sgd(0.3), gradient=gradient))(
        start, X, TARGETS
    )
    objective = jax.value_and_grad(
        lambda p: cost(net, p, start.state, X, TARGETS, rule="autodiff"), has_aux=True
    )
    (wanted, state), grads = jax.jit(objective)(start.params)
    moved = jax.tree.map(lambda p, g: p - 0.3 * g, start.params, grads)  # BL.6
    chex.assert_trees_all_close((after.params, after.state), (moved, state), rtol=1e-11, atol=1e-13)
    assert after.step == 1 and abs(value - wanted) < 1e-13


def test_shuffle_deals_every_sample_once(key):
    order = training.shuffle(key, 11, 4)
    assert order.shape == (3, 4) and order[:2].min() >= 0
    assert sorted(order.ravel().tolist()) == [-1, *range(11)]
    assert training.shuffle(key, 8, 4).min() == 0


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
@pytest.mark.parametrize("batch_size", [4, 11])
def test_an_epoch_is_its_steps_with_the_last_batch_whole(key, net, batch_size):
    optimizer = optax.sgd(0.5, momentum=0.9)
    order = training.shuffle(key, 11, batch_size)
    step = jax.jit(training.make_step(net, optimizer))
    one_by_one, wanted = training.init(net, optimizer, key), []
    for indices in np.asarray(order):
        rows = indices[indices >= 0]
        one_by_one, value = step(one_by_one, X[rows], TARGETS[rows])
        wanted.append(value)
    start = training.init(net, optimizer, key)
    got, costs = training.make_epoch(net, optimizer)(start, order, X, TARGETS)
    chex.assert_trees_all_close(
        (got, costs), (one_by_one, jnp.stack(wanted)), rtol=1e-10, atol=1e-12
    )


def test_an_epoch_is_traced_once_and_its_state_is_donated(key):
    net, optimizer = NETS["bn"], optax.sgd(0.5)
    traces = []

    def counted(updates, state, params=None):
        traces.append(1)
        return optimizer.update(updates, state, params)

    epoch = training.make_epoch(net, optax.GradientTransformation(optimizer.init, counted))
    state = start = training.init(net, optimizer, key)
    for number in range(4):
        order = training.shuffle(jax.random.fold_in(key, number), 8, 4)
        state, _ = epoch(state, order, X[:8], TARGETS[:8])
        if number == 0:
            once = len(traces)
    assert len(traces) == once
    assert start.params[0].W.is_deleted()


def test_chex_sees_one_trace(key):
    net, optimizer = NETS["bn"], optax.sgd(0.5)
    chex.clear_trace_counter()
    step = chex.assert_max_traces(training.make_step(net, optimizer), n=1)
    epoch = jax.jit(lambda s, o: jax.lax.scan(lambda s, i: step(s, X[i], TARGETS[i]), s, o))
    state = training.init(net, optimizer, key)
    for number in range(3):
        state, _ = epoch(state, training.shuffle(jax.random.fold_in(key, number), 8, 4))
    assert state.step == 6


def test_steps_map_over_seeds_and_learning_rates(key):
    net = NETS["bn"]
    rates = jnp.array([0.1, 1.0])
    seeds = jax.random.split(key, 2)

    def trained(rate, seed):
        optimizer = optax.sgd(rate)
        state = training.init(net, optimizer, seed)
        for _ in range(3):
            state, value = training.make_step(net, optimizer)(state, X, TARGETS)
        return state.params, value

    grid = jax.jit(jax.vmap(jax.vmap(trained, (None, 0)), (0, None)))(rates, seeds)
    for i in range(2):
        for j in range(2):
            alone = jax.jit(trained)(rates[i], seeds[j])
            chex.assert_trees_all_close(
                jax.tree.map(lambda a, i=i, j=j: a[i, j], grid), alone, rtol=1e-10, atol=1e-12
            )


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_training_lowers_the_cost(key, net):
    optimizer = optax.adam(0.05)
    epoch, state = training.make_epoch(net, optimizer), training.init(net, optimizer, key)
    for number in range(60):
        order = training.shuffle(jax.random.fold_in(key, number), 11, 4)
        state, costs = epoch(state, order, X, (X[:, :2] > 0) * 1.0)
        if number == 0:
            first = costs.mean()
    assert costs.mean() < first / 3


def test_an_unknown_gradient_is_refused():
    with pytest.raises(ValueError, match="`gradient` must be one of .*did you mean 'rule'?"):
        training.make_step(NETS["bn"], optax.sgd(1.0), gradient="rules")
