"""Every public function lowers for platforms that are not here, as what it is there."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

import bnjax
from bnjax import Network, backprop, geometry, jacobian, population, training
from bnjax.activations import ACTIVATIONS
from bnjax.costs import COSTS

PLATFORMS = ("cuda", "rocm", "tpu")
ROOMS = {
    "geometry": geometry,
    "backprop": backprop,
    "jacobian": jacobian,
    "population": population,
    "training": training,
}
# what runs on the host: loops over data, devices, checks and static choices
ON_THE_HOST = {
    "geometry": {"empty_look", "faults", "look_dtype", "report"},
    "population": {"check_seen"},
    "training": {
        *("copy_everywhere", "data_mesh", "decay_mask", "fit", "fit_batches", "local_rows"),
        *("measure_population", "prefetch", "spread", "sweep"),
    },
}
B, N = 8, 3


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


@pytest.fixture(autouse=True)
def no_look_at_this_machine(monkeypatch):
    """A program is what it is on its own platform, wherever it was traced."""

    def look(*args, **more):
        raise AssertionError("a device of this machine was looked at")

    for name in ("default_backend", "devices", "local_devices", "device_count"):
        monkeypatch.setattr(jax, name, look)


def lower(function, *args):
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*args)
    assert exported.platforms == PLATFORMS


X, C, ROW = shape(B, N), shape(N), shape(B, 1)


BATCHES = {
    "few channels": (shape(256, 3), -1),
    "large": (shape(512, 256), -1),
    "channels first": (shape(4, 6, 6, 5), 1),
}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, "vjp") for name in BATCHES),
        ("few channels", "autodiff"),
        ("channels first", "jvp"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("few channels", "jvp"),
                ("large", "jvp"),
                ("large", "autodiff"),
                ("channels first", "autodiff"),
            )
        ),
    ],
)
def test_batch_norm_lowers_for_every_platform(name, rule):
    x, axis = BATCHES[name]

    def both(x, gamma, beta, where):
        def norm(x, gamma, beta, where=None):
            return bnjax.batch_norm(x, gamma, beta, axis=axis, rule=rule, where=where)

        y, pull_back = jax.vjp(norm, x, gamma, beta)
        return y, pull_back(y), norm(x, gamma, beta, where)

    c = shape(x.shape[axis])
    lower(both, x, c, c, shape(x.shape[0], *[1] * (len(x.shape) - 1), dtype=bool))


def test_normalize_lowers_for_every_platform():
    lower(jax.grad(lambda *args: jnp.sum(bnjax.normalize(*args)), range(5)), X, C, C, C, C)


def of_networks():
    x, targets, where = shape(B, 4), shape(B, 2), shape(B)
    for options in ({"norm": False}, {"norm_output": True}):
        net = Network((4, N, 2), **options)
        params, state = jax.eval_shape(partial(bnjax.init, net), jax.eval_shape(jax.random.key, 0))
        yield net, params, state, x, targets, where


@pytest.mark.parametrize("train", [True, False])
def test_networks_lower_for_every_platform(train):
    for net, params, state, x, targets, where in of_networks():

        def everything(key, params, state, x, targets, where, net=net):
            def cost(params):
                return bnjax.cost(net, params, state, x, targets, train=train, where=where)

            found = [bnjax.init(net, key), jax.value_and_grad(cost, has_aux=True)(params)]
            if not net.norm:
                return found, bnjax.apply(net, params, x)
            return found, bnjax.bn_apply(net, params, state, x, train=train)

        key = jax.eval_shape(jax.random.key, 0)
        lower(everything, key, params, state, x, targets, where)


def test_activations_and_costs_lower_for_every_platform():
    def everything(x, targets):
        activated = [(one.g(x), one.g_prime(x)) for one in ACTIVATIONS.values()]
        costs = [
            (one.per_sample(x, targets), one.link(x), one.error(x, targets))
            for one in COSTS.values()
        ]
        return activated, costs

    lower(everything, X, X)


def calls():
    """Public functions of a room, by name, each with arguments to lower it with."""
    *_, (net, params, state, x, targets, where) = of_networks()
    key = jax.eval_shape(jax.random.key, 0)
    u, W = shape(B, 4), shape(4, N)
    angles = jax.eval_shape(geometry.layer_angles, u, X, X, C)
    moments = bnjax.Moments(C, C, C)
    several = bnjax.Moments(*[shape(5, N)] * 3)
    kept = jax.eval_shape(partial(population.init, N))
    pooled = jax.eval_shape(partial(population.empty, N))
    start = jax.eval_shape(partial(training.init, net, optax.adam(0.1)), key)
    order = jax.eval_shape(partial(training.shuffle, samples=B, batch_size=4), key)
    batch = params, x, targets
    return {
        "geometry": {
            **{
                name: (getattr(geometry, name), angles)
                for name in (
                    *("dead", "gradients", "handed_to_gamma", "propagated", "reasons", "removed"),
                    *("stopped", "synced", "weight_parts"),
                )
            },
            **{name: (getattr(geometry, name), u) for name in ("percentiles", "rank", "spread")},
            "effective_rate": (geometry.effective_rate, W),
            "layer_angles": (geometry.layer_angles, u, X, X, C),
            "observe": (partial(geometry.observe, net), *batch),
            "observe_function": (
                partial(geometry.observe_function, partial(bnjax.cost, net), has_aux=True),
                *(params, state, x, targets),
            ),
            "saturation": (partial(geometry.saturation, activation="tanh"), X),
            "summarize": (partial(geometry.summarize, net), *batch),
            "weight_norms": (geometry.weight_norms, W, W),
        },
        "backprop": {
            "staged_chain": (backprop.staged_chain, X, C, X),
            **{
                name: (partial(getattr(backprop, name), net), *batch)
                for name in ("intermediates", "value_and_grad", "value_moments_and_grad")
            },
        },
        "jacobian": {
            "activation_jacobian": (partial(jacobian.activation_jacobian, activation="tanh"), X),
            "beta_jacobian": (lambda: jacobian.beta_jacobian(B, N),),
            "frozen_weight_jacobian": (jacobian.frozen_weight_jacobian, u, W, C),
            "gamma_jacobian": (jacobian.gamma_jacobian, X),
            "kernel": (jacobian.kernel, X, C),
            "kernel_eigenvalues": (jacobian.kernel_eigenvalues, X),
            "kernel_product": (jacobian.kernel_product, X, X, C),
            "mixing_matrix": (jacobian.mixing_matrix, X),
            "weight_jacobian": (jacobian.weight_jacobian, u, W, C),
        },
        "population": {
            "add": (population.add, pooled, moments),
            "average": (population.average, several),
            "empty": (partial(population.empty, N),),
            "init": (partial(population.init, N),),
            "merge": (population.merge, pooled, pooled),
            "pool": (population.pool, several),
            "statistics": (population.statistics, kept),
            "to_state": (population.to_state, pooled),
            "update": (population.update, kept, moments),
        },
        "training": {
            "init": (partial(training.init, net, optax.adam(0.1)), key),
            "make_accumulating_step": (
                training.make_accumulating_step(net, optax.adam(0.1)),
                start,
                *(shape(2, *one.shape) for one in (x, targets)),
            ),
            "make_epoch": (training.make_epoch(net, optax.adam(0.1)), start, order, x, targets),
            "make_step": (training.make_step(net, optax.adam(0.1)), start, x, targets, where),
            "shuffle": (partial(training.shuffle, samples=B, batch_size=4), key),
        },
    }


@pytest.mark.parametrize("room", ROOMS)
def test_all_public_functions_of_a_room_lower_for_every_platform(room):
    functions = calls()[room]
    public = {
        name
        for name in ROOMS[room].__all__
        if callable(one := getattr(ROOMS[room], name)) and not inspect.isclass(one)
        if name[0].islower()
    }
    assert public - ON_THE_HOST.get(room, set()) == set(functions)

    def everything(arguments):
        return {name: functions[name][0](*args) for name, args in arguments.items()}

    lower(everything, {name: args for name, (_, *args) in functions.items()})


def test_programs_for_accelerators_hold_none_of_the_cpu_s_barriers():
    def both(x, gamma, beta, y_bar):
        y, pull_back = jax.vjp(lambda *args: bnjax.batch_norm(*args)[0], x, gamma, beta)
        return y, pull_back(y_bar)

    x, c = shape(512, 256), shape(256)
    traced = jax.jit(both).trace(x, c, c, x)
    barriers = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("barrier")
        for platform in ("cpu", *PLATFORMS)
    }
    assert barriers.pop("cpu") > 8
    assert set(barriers.values()) == {0}, barriers
