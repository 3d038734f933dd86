"""What holds on eight devices: `test_devices` runs this file in a process that has them."""

import re
import sys
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from compiling import quick_jit
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bnjax import Network, apply, batch_norm, bn_apply, fold, init, renorm, training

rng = np.random.default_rng(0)
B, C = 24, 3
X, Y_BAR = rng.normal(2, 3, (B, C)), rng.normal(size=(B, C))
GAMMA, BETA, MEAN_BAR, VAR_BAR = rng.normal(size=(4, C))
WEIGHTS = rng.uniform(0.5, 2, (B, 1))
WEIGHTS[:7] = WEIGHTS[12] = 0  # the first two of eight shards hold nothing
MASK = np.ones((B, C), bool)
MASK[:6] = MASK[8, 1] = MASK[:, 2] = False  # one channel has nothing at all
HIDDEN = np.where(WEIGHTS > 0, X, np.nan)
STATISTICS = rng.uniform(1, 4, (2, 8, C))  # of each device: mean and standard deviation
GROUPS = ((0, 3, 5, 6), (1, 2, 4, 7))
RULES = ("vjp", "jvp", "autodiff")


def mesh(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def close(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, np.reshape(b, a.shape), rtol=1e-11, atol=1e-12)


def collectives(f, *args):
    """Count the collectives of the compiled f."""
    text = quick_jit(f).lower(*args).compile().as_text()
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf" ({kinds})(?:-start)?\(", text)
    return {kind: found.count(kind) for kind in sorted(set(found))}


def wanted(x=X, where=None):
    """y, moments and all gradients of the whole batch, from the equations."""
    y, *moments = reference.batch_norm(x, GAMMA, BETA, weights=where)[:4]
    moments.append(reference.effective_count(x, weights=where))
    pulled = reference.pull_back(x, Y_BAR, GAMMA, weights=where, mean_bar=MEAN_BAR, var_bar=VAR_BAR)
    return y, moments, pulled


def cost(y, moments, y_bar):
    """A sum over samples, and a part in the moments that is the same on all devices."""
    return jnp.sum(y * y_bar), jnp.sum(moments.mean * MEAN_BAR + moments.var * VAR_BAR)


def through_shard_map(over, names, where, rule, check, spread=None):
    """Differentiate from outside: the moments leave through P()."""
    some = () if where is None else (where,)

    def local(x, gamma, beta, *w):
        w = w[0] if w else None
        return batch_norm(x, gamma, beta, where=w, axis_name=names, rule=rule)

    rows = P(spread or names)
    run = jax.shard_map(
        local,
        mesh=over,
        in_specs=(rows, P(), P(), *(rows for _ in some)),
        out_specs=(rows, P()),
        check_vma=check,
    )

    def total(x, gamma, beta):
        y, moments = run(x, gamma, beta, *some)
        return sum(cost(y, moments, Y_BAR)), (y, moments)

    return total


def through_map(over, where, rule):
    """Differentiate from outside of pmap or vmap, each of which returns eight equal moments."""

    def shards(a):
        return a.reshape(8, -1, a.shape[-1])

    def local(x, gamma, beta, y_bar, w):
        y, moments = batch_norm(x, gamma, beta, where=w, axis_name="d", rule=rule)
        of_samples, of_moments = cost(y, moments, y_bar)
        return of_samples + of_moments / 8, (y, moments)

    mapped = over(local, axis_name="d", in_axes=(0, None, None, 0, 0))

    def total(x, gamma, beta):
        costs, (y, moments) = mapped(shards(x), gamma, beta, shards(Y_BAR), shards(where))
        return jnp.sum(costs), (y.reshape(B, C), jax.tree.map(lambda m: m[0], moments))

    return total


def results(total, x):
    grad = quick_jit(jax.grad(total, (0, 1, 2), has_aux=True))
    grads, (y, moments) = grad(x, GAMMA, BETA)
    return y, tuple(moments), grads


def some_slow(names, quick, *cases):
    """Parametrize with cases, of which those that are not in `quick` are slow."""
    marked = [c if c in quick else pytest.param(*c, marks=pytest.mark.slow) for c in cases]
    return pytest.mark.parametrize(names, marked)


WAYS = "checked", "unchecked", "pmap", "vmap"
QUICK_WAYS = {("checked", "vjp"), ("unchecked", "jvp"), ("pmap", "vjp"), ("vmap", "autodiff")}


@some_slow(("way", "rule"), QUICK_WAYS | {("checked", "autodiff")}, *product(WAYS, RULES))
def test_a_spread_batch_is_one_batch(way, rule):
    if way.endswith("checked"):
        total = through_shard_map(mesh(d=8), "d", WEIGHTS, rule, way == "checked")
    else:
        total = through_map({"pmap": jax.pmap, "vmap": jax.vmap}[way], WEIGHTS, rule)
    # autodiff's cotangents go through what is hidden: 0 · NaN
    close(results(total, X if rule == "autodiff" else HIDDEN), wanted(X, WEIGHTS))


MASKS = {"none": None, "mask": MASK, "nothing": np.zeros((B, 1)), "weights": WEIGHTS}


@some_slow(
    ("check", "name"),
    {(True, "mask"), (False, "nothing"), (False, "none")},
    *product((True, False), ("none", "mask", "nothing")),
)
def test_whatever_lies_on_each_device(check, name):
    where = MASKS[name]
    total = through_shard_map(mesh(d=8), "d", where, "vjp", check)
    close(results(total, X), wanted(X, where))


@some_slow(
    ("check", "rule", "each"),
    {(True, "vjp", False), (True, "jvp", True)},
    *((True, "vjp", False), (True, "vjp", True), (True, "jvp", True), (False, "vjp", True)),
)
def test_a_spread_batch_is_renormalized_as_one(check, rule, each):
    """With the same running statistics everywhere, or with each device's own (R.1)."""
    mean, std = STATISTICS if each else STATISTICS[:, :1].repeat(8, 1)
    bounds = {"r_max": 1.5, "d_max": 0.4}

    def local(x, gamma, beta, mean, var):
        if each:
            mean, var = mean[0], var[0]
        return renorm(x, (mean, var), gamma, beta, axis_name="d", rule=rule, **bounds)[0]

    rows, spec = P("d"), P("d") if each else P()
    run = jax.shard_map(
        local,
        mesh=mesh(d=8),
        in_specs=(rows, P(), P(), spec, spec),
        out_specs=rows,
        check_vma=check,
    )
    kept = (mean, std**2) if each else (mean[0], std[0] ** 2)
    y, pulled = quick_jit(lambda *args: jax.vjp(lambda *a: run(*a, *kept), *args))(X, GAMMA, BETA)

    def plain(x, gamma, beta):
        x = x.reshape(8, -1, C)
        mu, sigma = x.mean((0, 1)), jnp.sqrt(x.var((0, 1)) + 1e-5)
        s = jnp.sqrt(std**2 + 1e-5)
        ratio = jnp.clip(sigma[None] / s, 1 / 1.5, 1.5)[:, None]
        offset = jnp.clip((mu[None] - mean) / s, -0.4, 0.4)[:, None]
        x_hat = (x - mu[None, None]) / sigma[None, None]
        ratio, offset = jax.lax.stop_gradient((ratio, offset))
        return (gamma[None, None] * (ratio * x_hat + offset) + beta[None, None]).reshape(B, C)

    wanted, theirs = jax.vjp(plain, X, GAMMA, BETA)
    close((y, pulled(Y_BAR)), (wanted, theirs(Y_BAR)))


@pytest.mark.parametrize(("check", "rule"), [(True, "vjp"), (True, "jvp"), (False, "vjp")])
def test_two_axes_are_one_batch(check, rule):
    total = through_shard_map(mesh(d=4, m=2), ("m", "d"), WEIGHTS, rule, check)
    close(results(total, HIDDEN), wanted(X, WEIGHTS))


@pytest.mark.parametrize("check", [True, False])
def test_one_axis_of_two_normalizes_along_it_alone(check):
    over = mesh(m=2, d=4)
    run = jax.shard_map(
        lambda x: batch_norm(x, GAMMA, BETA, axis_name="d"),
        mesh=over,
        in_specs=P(("m", "d")),
        out_specs=(P(("m", "d")), P("m")),
        check_vma=check,
    )

    def total(x):
        y, moments = run(x)
        return jnp.sum(y * Y_BAR), (y, moments)

    x_bar, (y, moments) = quick_jit(jax.grad(total, has_aux=True))(X)
    for half in (slice(0, 12), slice(12, 24)):
        close(y[half], reference.batch_norm(X[half], GAMMA, BETA)[0])
        close(x_bar[half], reference.pull_back(X[half], Y_BAR[half], GAMMA)[0])
    close(moments.mean, np.stack([X[:12].mean(0), X[12:].mean(0)]))


def by_psum(x, gamma, beta, where, names):
    """Batch norm as anyone would write it: what JAX differentiates rightly by itself."""
    n = jax.lax.psum(jnp.sum(where, 0), names)
    mean = jax.lax.psum(jnp.sum(where * x, 0), names) / n
    var = jax.lax.psum(jnp.sum(where * (x - mean[None]) ** 2, 0), names) / n
    x_hat = jnp.where(where > 0, (x - mean[None]) / jnp.sqrt(var + 1e-5)[None], 0)
    return gamma[None] * x_hat + beta[None], mean, var


@some_slow(
    ("check", "cast"),
    {(True, ()), (True, ("d", "m")), (False, ())},
    *product((True,), ((), ("d",), ("m",), ("d", "m"))),
    (False, ()),
)
def test_cotangents_inside_have_the_value_and_the_type_of_a_psum_by_hand(check, cast):
    over, names, types = mesh(d=4, m=2), ("d", "m"), {}

    def local(x, gamma, beta, y_bar, w):
        if cast:
            gamma, beta = (jax.lax.pcast(a, cast, to="varying") for a in (gamma, beta))

        def grads(rule):
            def f(x, gamma, beta):
                if rule == "by hand":
                    y, mean, var = by_psum(x, gamma, beta, w, names)
                else:
                    y, m = batch_norm(x, gamma, beta, where=w, axis_name=names, rule=rule)
                    mean, var = m.mean, m.var
                # cos: the cotangents of y differ from device to device in γ's part as well
                return jnp.sum(jnp.sin(y) * y_bar) + jnp.sum(mean * MEAN_BAR + var**2)

            found = jax.grad(f, (0, 1, 2))(x, gamma, beta)
            types[rule] = [jax.typeof(a).manual_axis_type.varying for a in found]
            return jax.tree.map(lambda a: a[None], found)

        return {rule: grads(rule) for rule in ("by hand", "vjp", "jvp")}

    rows = P(names)
    run = jax.shard_map(
        local,
        mesh=over,
        in_specs=(rows, P(), P(), rows, rows),
        out_specs=rows,
        check_vma=check,
    )
    found = quick_jit(run)(X, GAMMA, BETA, Y_BAR, WEIGHTS)
    for rule in ("vjp", "jvp"):
        assert types[rule] == types["by hand"]
        close(found[rule], found["by hand"])


@some_slow(
    ("way", "rule"),
    {("pmap", "vjp"), ("unchecked", "jvp")},
    *product(("pmap", "unchecked"), ("vjp", "jvp")),
)
def test_groups_normalize_among_themselves(way, rule):
    def local(x, gamma, y_bar, w):
        y, moments = batch_norm(
            x, gamma, BETA, where=w, axis_name="d", axis_index_groups=GROUPS, rule=rule
        )
        return sum(cost(y, moments, y_bar)), moments

    shards = [a.reshape(8, -1, a.shape[-1]) for a in (X, Y_BAR, WEIGHTS)]
    grad = jax.grad(local, (0, 1), has_aux=True)
    if way == "pmap":
        run = jax.pmap(grad, axis_name="d", in_axes=(0, None, 0, 0))
    else:

        def one(x, gamma, y_bar, w):
            return jax.tree.map(lambda a: a[None], grad(x[0], gamma, y_bar[0], w[0]))

        run = jax.shard_map(
            one,
            mesh=mesh(d=8),
            in_specs=(P("d"), P(), P("d"), P("d")),
            out_specs=P("d"),
            check_vma=False,
        )
        assert collectives(run, shards[0], GAMMA, *shards[1:]) == {"all-gather": 1, "all-reduce": 1}
    (x_bar, gamma_bar), moments = quick_jit(run)(shards[0], GAMMA, *shards[1:])
    for group in GROUPS:
        x, y_bar, w = (np.concatenate([a[i] for i in group]) for a in shards)
        # each of the four differentiates its own cost, and the moments are in all of them
        pulled = reference.pull_back(
            x, y_bar, GAMMA, weights=w, mean_bar=4 * MEAN_BAR, var_bar=4 * VAR_BAR
        )
        close(np.concatenate([x_bar[i] for i in group]), pulled[0])
        close(sum(gamma_bar[i] for i in group), pulled[1])
        for i in group:
            close(moments.var[i], reference.batch_norm(x, weights=w)[2])


def test_groups_elsewhere_are_refused_in_words():
    def bn(x, groups=GROUPS, name="d"):
        return batch_norm(x, axis_name=name, axis_index_groups=groups)[0]

    shards = X.reshape(8, 3, C)
    with pytest.raises(ValueError, match="pmap and shard_map.check_vma=False.*Split the mesh axis"):
        jax.shard_map(bn, mesh=mesh(d=8), in_specs=P("d"), out_specs=P("d"))(X)
    with pytest.raises(ValueError, match="pmap and shard_map.check_vma=False"):
        jax.vmap(bn, axis_name="d")(shards)
    with pytest.raises(ValueError, match="needs `axis_name`; got none"):
        bn(X, name=None)
    for groups in (((0, 1), (2, 3)), ((0, 1, 2), (3, 4, 5, 6, 7))):
        with pytest.raises(ValueError, match=r"must hold each of 0\.\.7 once, in groups of one"):
            jax.pmap(partial(bn, groups=groups), axis_name="d")(shards)


@pytest.mark.parametrize("names", ["v", ("d", "v")])
def test_an_axis_of_vmap_inside_checked_shard_map_is_refused_in_words(names):
    def inner(x):
        return jax.vmap(lambda x: batch_norm(x, axis_name=names)[0], axis_name="v")(x)

    run = partial(jax.shard_map, inner, mesh=mesh(d=8), in_specs=P(None, "d"))
    x = X.reshape(3, 8, C)
    with pytest.raises(ValueError, match="axis of vmap inside shard_map.*check_vma=False"):
        run(out_specs=P(None, "d"))(x)
    if names != "v":
        y = quick_jit(run(out_specs=P(None, "d"), check_vma=False))(x)
        close(y.reshape(B, C), reference.batch_norm(X)[0])


CHECKED_WEIGHTS = tuple(product((True, False), ("none", "weights")))
QUICK_WEIGHTS = {(True, "weights"), (False, "none")}


@some_slow(("check", "name"), QUICK_WEIGHTS, *CHECKED_WEIGHTS)
def test_one_collective_each_way(check, name):
    where = MASKS[name]
    rows, some = P("d"), () if where is None else (where,)

    def forward(x, gamma, beta, y_bar, *w):
        return batch_norm(x, gamma, beta, where=w[0] if w else None, axis_name="d")

    def both(x, gamma, beta, y_bar, *w):
        (y, moments), pull = jax.vjp(lambda *a: forward(*a, None, *w), x, gamma, beta)
        return (y, moments), pull((y_bar, jax.tree.map(lambda m: 2 * m, moments)))

    run = partial(
        jax.shard_map,
        mesh=mesh(d=8),
        in_specs=(rows, P(), P(), rows) + (rows,) * len(some),
        check_vma=check,
    )
    args = (X, GAMMA, BETA, Y_BAR, *some)
    grads = (rows, P(), P()) if check else (rows, rows, rows)
    assert collectives(run(forward, out_specs=(rows, P())), *args) == {"all-gather": 1}
    assert collectives(run(both, out_specs=((rows, P()), grads)), *args) == {
        "all-gather": 1,
        "all-reduce": 1,
    }


def test_what_all_devices_hold_needs_no_collective():
    run = jax.shard_map(
        lambda x: batch_norm(x, axis_name="d"), mesh=mesh(d=8), in_specs=P(), out_specs=P()
    )
    assert collectives(run, X) == {}
    assert jax.jit(run)(X)[1].count.tolist() == [8.0 * B] * C


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_plain_jit_of_a_sharded_batch_is_right_and_communicates_little(rule):
    over = mesh(d=8)
    x, y_bar = jax.device_put((X, Y_BAR), NamedSharding(over, P("d")))
    gamma, beta = jax.device_put((GAMMA, BETA), NamedSharding(over, P()))

    def both(x, gamma, beta, y_bar):
        def f(*args):
            y, moments = batch_norm(*args, rule=rule)
            return jnp.sum(jnp.sin(y) * y_bar), (y, moments)

        return jax.grad(f, (0, 1, 2), has_aux=True)(x, gamma, beta)

    compiled = jax.jit(both).lower(x, gamma, beta, y_bar).compile()
    grads, (y, moments) = compiled(x, gamma, beta, y_bar)
    wide, mean, var, *_ = reference.batch_norm(X, GAMMA, BETA)
    close((y, moments.mean, moments.var), (wide, mean, var))
    close(grads, reference.pull_back(X, np.cos(wide) * Y_BAR, GAMMA))
    counts = collectives(both, x, gamma, beta, y_bar)
    # the eight samples of the first shift; the sums; in the rare branch the size of deviations
    # and the sums once or twice more; the pull-back's sums
    assert counts.pop("all-reduce") <= 6
    assert not counts


@some_slow(("check", "name"), QUICK_WEIGHTS, *CHECKED_WEIGHTS)
def test_single_precision_is_exact_under_an_offset(check, name, rng):
    where = MASKS[name]
    rows, n = P("d"), 32 * B
    w = () if where is None else (np.repeat(where, 32, 0).astype(np.float32),)
    y_bar = rng.normal(size=(n, C)).astype(np.float32)
    gamma, beta = GAMMA.astype(np.float32), BETA.astype(np.float32)
    run = jax.shard_map(
        lambda x, gamma, *w: batch_norm(x, gamma, beta, where=w[0] if w else None, axis_name="d"),
        mesh=mesh(d=8),
        in_specs=(rows, P(), *(rows for _ in w)),
        out_specs=(rows, P()),
        check_vma=check,
    )

    @jax.jit
    def everything(x, gamma):
        (y, moments), pull = jax.vjp(lambda *a: run(*a, *w), x, gamma)
        return y, moments.var, *pull((y_bar, jax.tree.map(jnp.zeros_like, moments)))

    weights = None if where is None else w[0]
    for offset in (0, 1e2, 1e4, 1e6):
        near = rng.normal(size=(n, C)) + offset
        far = np.sort(near, 0)  # each shard has another mean, and one has a row far off
        far[-1] = offset + 1e4
        for x in (near.astype(np.float32), far.astype(np.float32)):
            y, _, var, *_ = reference.batch_norm(x, gamma, beta, weights=weights)
            right = (y, var, *reference.pull_back(x, y_bar, gamma, weights=weights)[:2])
            for a, b in zip(everything(x, gamma), right, strict=True):
                assert a.dtype == jnp.float32
                assert reference.relative(a, b.reshape(a.shape)) <= 5e-7


def test_statistics_of_a_sharded_array_are_those_of_the_whole():
    net = Network((C, 4, 2), norm_output=True)
    params, _ = init(net, jax.random.key(0))
    spread = jax.device_put(X, NamedSharding(mesh(d=8), P("d")))
    for batch_size in (8, 10):  # three batches of eight; the same, where ten could be held
        found = training.measure_population(net, params, spread, batch_size=batch_size)
        close(found, training.measure_population(net, params, X, batch_size=batch_size))
    y = quick_jit(lambda x: bn_apply(net, params, found, x, train=False)[0])(spread)
    baseline, layers = fold(net, params, found)
    close(y, quick_jit(lambda x: apply(baseline, layers, x))(X))


def one_of_two_processes(address, number):
    """Hold this process's half of a batch, with weights of its own, to the whole."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, 2, number)
    over = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(over, P("d"))
    x = jax.make_array_from_callback(X.shape, rows, lambda index: HIDDEN[index])
    total = through_shard_map(over, "d", WEIGHTS, "vjp", True)
    y, moments, grads = results(total, x)
    right, right_moments, pulled = wanted(X, WEIGHTS)
    for part, whole in ((y, right), (grads[0], pulled[0])):
        shard = part.addressable_shards[0]
        close(np.asarray(shard.data), whole[shard.index])
    for part, whole in zip((*moments, *grads[1:]), (*right_moments, *pulled[1:]), strict=True):
        close(np.asarray(part.addressable_shards[0].data), whole)
    print("equal to the whole")


if __name__ == "__main__":
    one_of_two_processes(sys.argv[1], int(sys.argv[2]))
