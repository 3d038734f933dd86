"""What an audit says of right and wrong rules, and what it does with unusual functions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnjax import audit
from bnjax.audit.diagnosis import diagnose
from bnjax.audit.richardson import step_sizes, taylor_order

FEW = {"modes": "vjp", "transforms": "jit"}


def scaled_rule(factor):
    """A tanh layer over a dict of parameters; its pull-back of W is off by a factor."""

    @jax.custom_vjp
    def layer(params, x):
        return jnp.tanh(x @ params["W"])

    def pull(saved, y_bar):
        W, x, y = saved
        z_bar = y_bar * (1 - y) * (1 + y)
        return {"W": factor * (x.T @ z_bar)}, z_bar @ W.T

    layer.defvjp(lambda p, x: ((y := jnp.tanh(x @ p["W"])), (p["W"], x, y)), pull)
    return layer


def plain(params, x):
    return jnp.tanh(x @ params["W"])


def layer_arguments(dtype):
    rng = np.random.default_rng(0)
    return {"W": jnp.asarray(rng.normal(size=(3, 2)), dtype)}, jnp.asarray(
        rng.normal(size=(4, 3)), dtype
    )


@pytest.fixture(scope="module")
def refusal():
    return audit.compare(scaled_rule(1.0005), plain, layer_arguments("bfloat16"), key=7)


def test_every_mode_has_rows_under_every_transform(refusal):
    rows = {(row.mode, row.transform, row.leaf) for row in refusal.rows}
    vjp = {("vjp", t, leaf) for t in audit.TRANSFORMS for leaf in ("params['W']", "x")}
    value = {("value", t, "output") for t in ("plain", "jit", "vmap")}
    second = {("rev-over-rev", "jit", leaf) for leaf in ("params['W']", "x")}
    assert vjp | value | second <= rows


def test_a_factor_that_bfloat16_hides_is_found_in_float64(refusal):
    wrong = {(row.leaf, row.dtype) for row in refusal.rows if row.failed and row.mode == "vjp"}
    assert wrong == {("params['W']", "float64")}
    right = [row for row in refusal.rows if row.leaf == "x" and row.mode == "vjp"]
    assert right and all(row.scaled < 3 and row.cosine > 0.9999 for row in right)


def test_the_message_names_leaf_values_kind_and_key(refusal):
    with pytest.raises(AssertionError) as caught:
        refusal.raise_if_failed()
    worst, said = refusal.worst, str(caught.value)
    assert said.startswith("layer: ") and said.endswith("to repeat: key=7")
    assert f"{worst.got:.9g}, not {worst.wanted:.9g}" in said and "params['W'][" in said
    assert "off by a factor of 1.0005" in said
    np.testing.assert_allclose(worst.got / worst.wanted, 1.0005, rtol=1e-12)


def test_a_custom_vjp_without_forward_mode_has_not_failed_for_that(refusal):
    forward = [row for row in refusal.rows if row.mode == "jvp"]
    assert forward and all(row.verdict == "no forward mode" for row in forward)
    assert not any(row.failed for row in forward)


def test_a_report_can_be_read_and_stored(refusal):
    table = str(refusal)
    for said in ("fwd-over-rev", "no forward mode", "all 8 cotangents, all 18 tangents", "key=7"):
        assert said in table
    assert refusal._repr_html_().count("<tr>") > table.count("\nvjp")
    stored = json.loads(json.dumps(refusal.to_json(), allow_nan=False))
    assert stored["ok"] is False and len(stored["rows"]) == len(refusal.rows)


def test_what_is_saved_is_counted(refusal):
    # W, x and y, in bfloat16
    assert refusal.saved["f"] == (3, 2 * (6 + 12 + 8), 2 * 26 / (2 * 18))
    assert refusal.saved["g"].bytes > 0


def test_the_same_key_gives_the_same_report():
    run = audit.make_compare(scaled_rule(1.0), plain, **FEW)
    args = layer_arguments("float32")
    keys = (7, jax.random.key(7), 8)
    same, typed, other = (run(args, key=key) for key in keys)
    assert same.ok and same.rows == typed.rows != other.rows
    assert typed.key == "key=jax.random.key(7)"


def test_x64_may_be_off():
    with jax.enable_x64(False):
        args = layer_arguments("float32")
        # float32 alone would not tell it from a rounding
        report = audit.compare(scaled_rule(1 + 1e-8), plain, args, **FEW)
        assert args[1].dtype == jnp.float32 and report.worst.dtype == "float64"
        assert report.worst.why == "off by a factor of 1"


def cancelling(large, x):
    return (x * x + large) - large


@pytest.mark.parametrize(("ours", "ok"), [(1e4, True), (1e7, False)])
def test_errors_are_scaled_by_the_terms_that_cancel(ours, ok):
    x = (jnp.asarray([0.1, 0.7], jnp.float32),)
    report = audit.compare(
        lambda x: cancelling(ours, x), lambda x: cancelling(1e4, x), x, modes="value"
    )
    # the sum of x² and 1e4 has lost all but three of its digits: that is no error
    assert report.rows[0].absolute > 1e-5 and report.ok == ok


def test_without_a_reference_finite_differences_are_one():
    x = jnp.asarray([0.3, -1.2, 2.0], jnp.float16)
    report = audit.compare(jnp.sin, None, (x,), **FEW)
    assert report.ok
    taylor = report.rows[-1]
    assert taylor.mode == "taylor" and abs(taylor.got - 2) < 0.1

    @jax.custom_jvp
    def wrong(x):
        return jnp.sin(x)

    wrong.defjvps(lambda x_dot, _, x: 1.0005 * jnp.cos(x) * x_dot)
    report = audit.compare(wrong, None, (x,), **FEW)
    assert report.rows[0].why == "off by a factor of 1.0005"
    assert report.rows[-1].verdict == "disagrees"  # the remainder falls with h


def test_a_kink_further_away_is_no_wrong_slope():
    h = step_sizes()
    beyond = np.maximum(h - 0.01, 0)  # as of a sort whose order changes at 0.01
    assert taylor_order(3 * h + beyond, np.asarray(3.0), h, 1e-16) is None
    assert taylor_order(3 * h + beyond, np.asarray(3.001), h, 1e-16) < 1.1
    assert taylor_order(np.exp(h) - 1 + beyond, np.asarray(1.0), h, 1e-16) > 1.9


def test_where_there_is_no_derivative_none_is_judged():
    report = audit.compare(jax.nn.relu, None, (jnp.array([-1.0, 0.0, 2.0]),), **FEW)
    assert report.ok and report.rows[0].verdict == "agrees"
    report = audit.compare(jax.nn.relu, None, (jnp.zeros(1),), **FEW)
    assert report.rows[0].verdict == "not judged"


@pytest.mark.slow
def test_many_arguments_are_differenced_along_random_directions():
    rule = jax.custom_jvp(jnp.cos)
    rule.defjvps(lambda x_dot, _, x: -jnp.sin(x) * x_dot * (x < 1.9))
    run = audit.make_compare(rule, None, **FEW)
    report = run((jnp.linspace(-1.0, 1.8, 50),))
    assert report.ok and "9 random of 50 cotangents" in report.tried
    assert not run((jnp.linspace(-1.0, 2.0, 50),)).ok


@pytest.mark.slow
def test_constants_keys_and_static_arguments_are_handed_on():
    def f(x, count, key, name, eps=0.5):
        bits = jax.random.key_data(key)[-1].astype(x["a"].dtype)
        return {"y": (x["a"] + eps) * bits * count, "n": count + 1, name: x["b"] ** 2}

    x = {"a": jnp.ones(2, jnp.float32), "b": np.float32(0.3)}
    args = (x, jnp.arange(2), jax.random.key(3), "name")
    report = audit.compare(f, f, args, modes=("value", "vjp"), transforms="jit")
    leaves = [row.leaf for row in report.rows]
    assert report.ok
    assert leaves == ["output['name']", "output['y']", "output['n']", "x['a']", "x['b']"]
    chosen = audit.compare(f, f, (x, *args[1:], 0.5), argnums=4, **FEW)
    assert [row.leaf for row in chosen.rows] == ["eps"]


def test_an_empty_array_beside_others_is_no_obstacle():
    def f(x, empty):
        return jnp.sin(x) + jnp.sum(empty), 2 * empty

    args = (jnp.array([0.3, -1.2]), jnp.ones((0, 3)))
    for g in (f, None):
        report = audit.compare(f, g, args, modes=("value", "vjp"), transforms="jit")
        assert report.ok and {row.leaf for row in report.rows} >= {"output[1]", "empty"}


def test_a_function_that_refuses_float64_is_judged_in_its_own_dtype():
    def f(x):
        if x.dtype != jnp.float32:
            raise TypeError("float32 only")
        return x * x

    report = audit.compare(f, lambda x: x * x, (jnp.ones(2, jnp.float32),), **FEW)
    assert report.ok and report.rows[0].dtype == "float32"
    assert "float32 only" in report.notes[0]


def test_a_function_is_as_exact_as_what_it_computes_in():
    def f(x):
        return jnp.sin(x.astype(jnp.bfloat16)).astype(x.dtype)

    x = (jnp.array([0.3, 0.7]),)
    report = audit.compare(f, jnp.sin, x, **FEW)
    assert report.ok and report.rows[0].relative > 1e-4
    assert "coarsest epsilon found inside f: 0.0078" in report.notes[0]


def test_the_reference_may_keep_to_the_dtype_of_the_arguments():
    run = audit.make_compare(scaled_rule(1.01), plain, dtype_reference=None, **FEW)
    report = run(layer_arguments("float32"))
    relative = {row.leaf: row.relative for row in report.rows}
    np.testing.assert_allclose(relative["params['W']"], 0.01, rtol=1e-4)
    assert relative["x"] < 1e-6 and {row.dtype for row in report.rows} == {"float32"}


WANTED = np.random.default_rng(0).normal(size=(5, 3, 3))


@pytest.mark.parametrize(
    ("got", "said"),
    [
        (1.0005 * WANTED, "off by a factor of 1.0005"),
        (-WANTED, "the sign is wrong"),
        (np.swapaxes(WANTED, 1, 2), "transposed"),
        (WANTED + WANTED[:, :1], "a term that is constant along axis 0 is missing or superfluous"),
        (0 * WANTED, "the result is zero everywhere"),
        (WANTED[:, ::-1], "the right values in the wrong places"),
        (np.where(WANTED > 1, np.nan, WANTED), "NaN at"),
        (WANTED**3, ""),
    ],
)
def test_simple_patterns_are_named(got, said):
    found = diagnose(got, WANTED)
    assert found.startswith(said) and bool(found) == bool(said)


ONE = jnp.ones(2)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: audit.compare(jnp.sin, None, ONE), TypeError, "`args` must be a tuple.*\\(x,\\)"),
        (lambda: audit.compare(jnp.sin, None, (ONE + 1j,)), TypeError, "must be real.*complex128"),
        (lambda: audit.compare(jnp.sin, None, (1,)), ValueError, "must hold a floating array"),
        (lambda: audit.compare(jnp.sin, None, (ONE,), argnums=1), ValueError, "`argnums` .* got 1"),
        (
            lambda: audit.compare(jnp.sin, None, (ONE,), modes="vpj"),
            ValueError,
            "got 'vpj'; did you mean 'vjp'",
        ),
        (
            lambda: audit.compare(jnp.sin, None, (ONE,), transforms=("pmap",)),
            ValueError,
            "`transforms` must be one of all, jit, plain, remat, scan, vmap; got 'pmap'",
        ),
        (lambda: audit.compare(jnp.sin, None, (ONE,), transforms=()), ValueError, "at least one"),
        (
            lambda: audit.compare(jnp.sin, None, (ONE,), rtol=0),
            ValueError,
            "`rtol` must be positive",
        ),
        (
            lambda: audit.compare(jnp.sin, None, (ONE,), dtype_reference="float32"),
            ValueError,
            "`dtype_reference` must be 'float64', or None",
        ),
        (
            lambda: audit.compare(jnp.sin, jnp.sum, (ONE,)),
            ValueError,
            "the same structure and shap",
        ),
        (
            lambda: audit.compare(jnp.sin, None, (jnp.ones((0, 3)),)),
            ValueError,
            r"`args` must hold at least one number .* got the shape \(0, 3\) of `x`",
        ),
        (
            lambda: audit.compare(lambda x: x[:0], None, (ONE,)),
            ValueError,
            r"`f` must return at least one floating number; got empty arrays, .* \(\(0,\),\)",
        ),
        (lambda: audit.compare(jnp.argmax, None, (ONE,)), ValueError, "must return a floating arr"),
        (
            lambda: audit.compare(
                jnp.sin,
                lambda x: jax.pure_callback(np.sin, x, x, vmap_method="sequential"),
                (ONE,),
                **FEW,
            ),
            ValueError,
            "`g` must be differentiable.*pass a function of plain JAX operations",
        ),
    ],
)
def test_bad_input_is_refused_in_words(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.slow
def test_what_a_transform_cannot_run_is_a_row_and_no_crash():
    kept = {}

    @jax.custom_vjp
    def leaking(x):
        return jnp.sin(x)

    def forward(x):
        kept.setdefault("x", x)
        return jnp.sin(x), None

    leaking.defvjp(forward, lambda _, y_bar: (y_bar * jnp.cos(kept["x"]),))
    x = (jnp.array([0.3, 1.0]),)
    report = audit.compare(leaking, jnp.sin, x, modes=("value", "vjp"))
    raised = {row.transform for row in report.rows if row.verdict == "raises"}
    assert {"jit", "scan"} <= raised
    assert all(row.verdict == "agrees" for row in report.rows if row.mode == "value")

    @jax.custom_vjp
    def outside(x):
        return jax.pure_callback(np.sin, x, x)

    outside.defvjp(lambda x: (outside(x), x), lambda x, y_bar: (y_bar * jnp.cos(x),))
    report = audit.compare(outside, jnp.sin, x, modes=("value", "vjp"))
    assert {row.transform for row in report.rows if row.failed} == {"vmap"}
    assert "vmap_method" in report.worst.why


def test_an_audit_compiles_while_jit_is_disabled():
    with jax.disable_jit():
        assert audit.compare(jnp.tanh, None, (jnp.ones(3),), **FEW).ok
