import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiling import quick_jit
from jax.tree_util import Partial

from bnjax import Network, cost, training

rng = np.random.default_rng(0)
X, TARGETS = jnp.asarray(rng.normal(size=(11, 4))), jnp.asarray(rng.random((11, 2)) > 0.5) * 1.0
NETS = {"bn": Network((4, 5, 2)), "baseline": Network((4, 5, 2), norm=False)}


@pytest.mark.parametrize("gradient", ["rule", "hand", "autodiff"])
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_step_of_sgd_is_bl6(key, net, gradient):
    start = training.init(net, optax.sgd(0.3), key)
    after, value = quick_jit(training.make_step(net, optax.sgd(0.3), gradient=gradient))(
        start, X, TARGETS
    )
    objective = jax.value_and_grad(
        lambda p: cost(net, p, start.state, X, TARGETS, rule="autodiff"), has_aux=True
    )
    (wanted, state), grads = quick_jit(objective)(start.params)
    moved = jax.tree.map(lambda p, g: p - 0.3 * g, start.params, grads)  # BL.6
    chex.assert_trees_all_close((after.params, after.state), (moved, state), rtol=1e-11, atol=1e-13)
    assert after.step == 1 and abs(value - wanted) < 1e-13


def test_shuffle_deals_every_sample_once(key):
    order = training.shuffle(key, 11, 4)
    assert order.shape == (3, 4) and order[:2].min() >= 0
    assert sorted(order.ravel().tolist()) == [-1, *range(11)]
    assert training.shuffle(key, 8, 4).min() == 0


@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize(
    ("name", "batch_size"),
    [
        ("bn", 4),
        ("baseline", 11),
        pytest.param("bn", 11, marks=pytest.mark.slow),
        pytest.param("baseline", 4, marks=pytest.mark.slow),
    ],
)
def test_an_epoch_is_its_steps_with_the_last_batch_whole(key, name, batch_size):
    net, optimizer = NETS[name], optax.sgd(0.5, momentum=0.9)
    order = training.shuffle(key, 11, batch_size)
    step = quick_jit(training.make_step(net, optimizer))
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


@pytest.mark.usefixtures("quick_training")
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
    epoch = quick_jit(lambda s, o: jax.lax.scan(lambda s, i: step(s, X[i], TARGETS[i]), s, o))
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

    grid = quick_jit(jax.vmap(jax.vmap(trained, (None, 0)), (0, None)))(rates, seeds)
    trained = quick_jit(trained)
    for i in range(2):
        for j in range(2):
            alone = trained(rates[i], seeds[j])
            chex.assert_trees_all_close(
                jax.tree.map(lambda a, i=i, j=j: a[i, j], grid), alone, rtol=1e-10, atol=1e-12
            )


@pytest.mark.usefixtures("quick_training")
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


def test_weight_decay_leaves_all_but_the_weights_alone(key):
    params = training.init(NETS["bn"], optax.sgd(1.0), key).params
    for mask in (training.decay_mask, training.decay_mask(params)):
        decay = optax.add_decayed_weights(0.1, mask=mask)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = decay.update(zeros, decay.init(params), params)
        wanted = tuple(z._replace(W=0.1 * p.W) for z, p in zip(zeros, params, strict=True))
        chex.assert_trees_all_close(updates, wanted, rtol=1e-15)


def fitted(name, key, optimizer, train_state=None, rows=11, **options):
    net = NETS[name]
    train_state = train_state or training.init(net, optimizer, key)
    options = {"batch_size": 4, "epochs": 5} | options
    return training.fit(net, optimizer, train_state, X[:rows], TARGETS[:rows], key=key, **options)


def copied(progress):
    return jax.tree.map(np.array, progress._replace(epoch=np.int32(progress.epoch)))


@pytest.mark.usefixtures("quick_training")
def test_a_run_is_its_epochs_traced_once_donated_and_evaluated(key):
    optimizer = optax.adam(0.05)
    epoch = training.make_epoch(NETS["bn"], optimizer)
    state, costs = training.init(NETS["bn"], optimizer, key), []
    for number in range(1, 6):
        order = training.shuffle(jax.random.fold_in(key, number), 11, 4)
        state, some = epoch(state, order, X, TARGETS)
        costs.append(some)
    traces = []

    def counted(updates, state, params=None):
        traces.append(1)
        return optimizer.update(updates, state, params)

    def evaluate(factor, train_state):
        return {"b": factor * train_state.params[-1].b[0], "step": train_state.step}

    counting = optax.GradientTransformation(optimizer.init, counted)
    start = training.init(NETS["bn"], counting, key)
    evaluate = Partial(evaluate, jnp.array(3.0))
    run = fitted("bn", key, counting, start, epochs_per_call=2, evaluate=evaluate)
    seen = [copied(progress) for progress in run]
    assert [int(p.epoch) for p in seen] == [2, 4, 5]
    chex.assert_trees_all_close(seen[-1].train_state, state, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([p.costs for p in seen]), costs, rtol=1e-10)
    assert len(traces) == 2  # with a mask and without
    assert start.params[0].W.is_deleted()
    assert [p.evaluations["step"].tolist() for p in seen] == [[3, 6], [9, 12], [15]]
    assert all(p.evaluations["b"][-1] == 3 * p.train_state.params[-1].b[0] for p in seen)


def counting_traces(optimizer):
    """An optimizer that does the same, and the list to which each trace of it adds."""
    traces = []

    def counted(updates, state, params=None):
        traces.append(1)
        return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, counted), traces


@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize("name", ["make_epoch", "fit", "fit_batches", "sweep"])
def test_what_is_called_again_with_the_same_arguments_is_not_traced_again(key, name):
    net, rows = NETS["baseline"], (X[:8], TARGETS[:8])
    optimizer, traces = counting_traces(optax.sgd(0.5))
    order, grid = training.shuffle(key, 8, 4), (jnp.ones(2), key[None])
    train = {
        "make_epoch": lambda start: training.make_epoch(net, optimizer)(start, order, *rows),
        "fit": lambda start: [*fitted("baseline", key, optimizer, start, rows=8, epochs=2)],
        "fit_batches": lambda start: next(
            training.fit_batches(net, optimizer, start, lambda number: [rows], epochs=1)
        ),
        "sweep": lambda start: training.sweep(
            net, constant, *grid, *rows, epochs=1, batch_size=4, at_once=1
        ),
    }[name]

    def constant(rate):
        return optimizer

    train(training.init(net, optimizer, key))
    once = len(traces)
    train(training.init(net, optimizer, key))
    assert len(traces) == once > 0


@pytest.mark.usefixtures("quick_training")
def test_a_run_goes_on_in_any_call_without_another_trace(key):
    optimizer, traces = counting_traces(optax.sgd(0.5))
    *_, last = fitted("bn", key, optimizer, epochs=2, epochs_per_call=3)
    for start, epochs in ((2, 4), (4, 9)):
        options = {"start": start, "epochs": epochs, "epochs_per_call": 3}
        *_, last = fitted("bn", key, optimizer, last.train_state, **options)
    assert last.epoch == 9 and len(traces) == 2  # with a mask and without


@pytest.mark.parametrize("mesh", [None, training.data_mesh()], ids=["device", "mesh"])
@pytest.mark.usefixtures("quick_training")
def test_a_run_copies_nothing_that_it_was_not_told_to(key, mesh):
    x, targets = np.asarray(X), np.asarray(TARGETS)
    net, optimizer = NETS["baseline"], optax.sgd(0.5)
    start = training.init(net, optimizer, key)
    options = {"epochs": 3, "batch_size": 4, "epochs_per_call": 2, "mesh": mesh}
    with jax.transfer_guard("disallow"):
        run = training.fit(net, optimizer, start, x, targets, key=key, **options)
        assert [progress.epoch for progress in run] == [2, 3]


@pytest.mark.slow  # operation by operation, each compiled alone
def test_everything_trains_while_jit_is_disabled(key):
    net, optimizer = Network((4, 2)), optax.sgd(0.5)
    options = {"epochs": 1, "batch_size": 4}
    with jax.disable_jit():
        start = training.init(net, optimizer, key)
        fit = training.fit(net, optimizer, start, X[:4], TARGETS[:4], key=key, **options)
        state = next(fit).train_state
        grid = jnp.array([0.5]), key[None]
        swept = training.sweep(net, optax.sgd, *grid, X[:4], TARGETS[:4], **options)
    start = training.init(net, optimizer, key)
    wanted, _ = quick_jit(training.make_step(net, optimizer))(start, X[:4], TARGETS[:4])
    swept = jax.tree.map(lambda a: a[0, 0], swept.train_state)
    for got in (state, swept):
        chex.assert_trees_all_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_bits_of_one_without_a_break(key):
    optimizer = optax.sgd(0.5, momentum=0.9)
    whole, broken, rest = [], [], []
    for seen, options in (
        (whole, {}),
        (broken, {"epochs": 2}),
        (rest, {"start": 2}),
    ):
        state = broken[-1].train_state if "start" in options else None
        run = fitted("baseline", key, optimizer, state, rows=8, epochs_per_call=3, **options)
        seen += map(copied, run)
    assert [int(p.epoch) for p in (*whole, *broken, *rest)] == [3, 5, 2, 3, 5]
    chex.assert_trees_all_equal(whole[-1], rest[-1])
    chex.assert_trees_all_equal(whole[0].train_state, rest[0].train_state)
    np.testing.assert_array_equal(whole[0].costs[2:], rest[0].costs)


@pytest.mark.usefixtures("quick_training")
def test_a_stream_of_batches_trains_as_the_data_on_the_device(key):
    optimizer = optax.sgd(0.5)

    def batches(number):
        for indices in np.asarray(training.shuffle(jax.random.fold_in(key, number), 11, 4)):
            rows = indices[indices >= 0]
            yield np.asarray(X)[rows], np.asarray(TARGETS)[rows]

    net, options = NETS["baseline"], {"epochs": 2, "evaluate": lambda state: state.step}
    start = training.init(net, optimizer, key)
    streamed = training.fit_batches(net, optimizer, start, batches, **options)
    for ours, theirs in zip(streamed, fitted("baseline", key, optimizer, **options), strict=True):
        chex.assert_trees_all_close(copied(ours), copied(theirs), rtol=1e-10, atol=1e-12)


def test_prefetch_is_so_many_batches_ahead():
    read = []

    def batches():
        for number in range(5):
            read.append(number)
            yield (np.array([number]),)

    seen = []
    for (number,) in training.prefetch(batches(), size=2):
        assert isinstance(number, jax.Array)
        seen.append((int(number[0]), len(read)))
    assert seen == [(0, 3), (1, 4), (2, 5), (3, 5), (4, 5)]


@pytest.mark.slow  # eight devices are looked at by default: test_devices
def test_a_batch_spread_over_a_mapped_axis_is_one_batch(key):
    optimizer = optax.sgd(0.3)
    where = jnp.arange(10) < 7  # the second half has but two
    start = training.init(NETS["bn"], optimizer, key)

    rows = (a[:10].reshape(2, 5, *a.shape[1:]) for a in (X, TARGETS, where))
    step = training.make_step(NETS["bn"], optimizer, axis_name="half")
    halves = quick_jit(jax.vmap(step, in_axes=(None, 0, 0, 0), axis_name="half"))(start, *rows)
    whole = quick_jit(training.make_step(NETS["bn"], optimizer))(start, X[:10], TARGETS[:10], where)
    for half in range(2):
        got = jax.tree.map(lambda a, half=half: a[half], halves)
        chex.assert_trees_all_close(got, whole, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 12}, "`batch_size` must be between 1 and the 11 samples; got 12"),
        ({"start": 6}, "at least `start`, 6; got 5"),
        ({"epochs_per_call": 0}, "`epochs_per_call` must be at least 1; got 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused_at_once(key, options, message):
    with pytest.raises(ValueError, match=message):
        fitted("bn", key, optax.sgd(1.0), **options)


def test_what_does_not_go_together_is_refused(key):
    net, optimizer = NETS["bn"], optax.sgd(1.0)
    with pytest.raises(ValueError, match="`targets` must have one row per row of `x`, 11; got 10"):
        start = training.init(net, optimizer, key)
        training.fit(net, optimizer, start, X, TARGETS[1:], epochs=1, batch_size=2, key=key)
    with pytest.raises(ValueError, match="'hand', which works on a single device"):
        training.make_step(net, optimizer, gradient="hand", axis_name="data")
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        training.prefetch([], size=0)
    with pytest.raises(ValueError, match="at least one batch; got none in epoch 1"):
        next(training.fit_batches(net, optimizer, start, lambda number: (), epochs=1))
    rows = [(np.ones((n, 4)), np.ones((n, 2))) for n in (2, 3)]
    with pytest.raises(ValueError, match="larger than the first, 2 rows; got 3"):
        next(training.fit_batches(net, optimizer, start, lambda number: rows, epochs=1))


def calls(key, gradient):
    """Every way to train on x and targets, by the name of the public function."""
    net, optimizer = NETS["bn"], optax.sgd(1.0)
    options = {"gradient": gradient}
    start, order = training.init(net, optimizer, key), training.shuffle(key, 6, 3)
    run = {"epochs": 1, "batch_size": 3}
    return {
        "make_step": lambda x, targets: training.make_step(net, optimizer, **options)(
            start, x, targets
        ),
        "make_epoch": lambda x, targets: training.make_epoch(net, optimizer, **options)(
            start, order, x, targets
        ),
        "fit": lambda x, targets: training.fit(
            net, optimizer, start, x, targets, key=key, **run, **options
        ),
        "fit_batches": lambda x, targets: next(
            training.fit_batches(
                net, optimizer, start, lambda number: [(x, targets)], epochs=1, **options
            )
        ),
        "sweep": lambda x, targets: training.sweep(
            net, optax.sgd, jnp.ones(2), key[None], x, targets, **run, **options
        ),
    }


@pytest.mark.parametrize("gradient", ["rule", "hand", "rules"])
@pytest.mark.parametrize("name", ["make_step", "make_epoch", "fit", "fit_batches", "sweep"])
def test_errors_name_the_function_that_was_called(key, name, gradient):
    train, x, targets = calls(key, gradient)[name], X[:6], TARGETS[:6]
    refused = [
        (x[:, :3], targets, r"`x` must have shape \(B, 4\)"),
        (x, targets[:, :1], r"`targets` must have shape \([36], 2\)"),
    ]
    if gradient == "rules":
        refused = [(x, targets, "`gradient` must be one of .*did you mean 'rule'")]
    for *args, message in refused:
        with pytest.raises(ValueError, match=f"training.{name}: {message}"):
            train(*args)


@pytest.mark.parametrize("gradient", ["rule", "hand"])
def test_a_batch_of_one_sample_is_refused_in_the_name_of_the_step(key, gradient):
    with pytest.raises(ValueError, match="training.make_step: `x` must leave at least two values"):
        calls(key, gradient)["make_step"](X[:1], TARGETS[:1])
