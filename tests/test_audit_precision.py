"""What an audit says of functions that compute with less inside than their arguments have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from bnjax import audit
from bnjax.audit.precision import coarsest_epsilon

QUICK = {"modes": ("value", "vjp", "fwd-over-rev"), "transforms": "jit"}
SAID = "the backward pass is computed more coarsely than the forward pass"


def coarse(a):
    return a.astype(jnp.bfloat16).astype(a.dtype)


def swish(x):
    return x * jax.nn.sigmoid(x)


def coarse_residuals(primal):
    """swish, exact, with a pull-back from residuals that were rounded to bfloat16."""

    def forward(x):
        return swish(x), coarse(x)

    def pull(x, y_bar):
        s = jax.nn.sigmoid(x)
        return (y_bar * (s + x * s * (1 - s)),)

    f = jax.custom_vjp(primal or (lambda x: forward(x)[0]))
    f.defvjp(forward, pull)
    return f


def attention(round_to, q, k, v):
    """Attention with scores and probabilities that are rounded."""
    scores = round_to(round_to(q) @ round_to(k).T)
    weights = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
    return round_to(weights / jnp.sum(weights, -1, keepdims=True)) @ round_to(v)


def bfloat16_attention():
    """The same as a kernel would have it: its pull-back is rounded as its value is."""
    f = jax.custom_vjp(lambda *args: attention(coarse, *args))

    def pull(args, y_bar):
        return jax.vjp(lambda *args: attention(coarse, *args), *args)[1](coarse(y_bar))

    f.defvjp(lambda *args: (f(*args), args), pull)
    return f


@pytest.fixture
def x(rng):
    return (jnp.asarray(rng.normal(size=5), jnp.float32),)


@pytest.mark.parametrize(
    ("primal", "g", "dtype"),
    [
        (swish, swish, "float32"),
        pytest.param(swish, swish, "float64", marks=pytest.mark.slow),
        pytest.param(swish, None, "float32", marks=pytest.mark.slow),
        # the forward of the rule, without what it saves
        pytest.param(None, swish, "float32", marks=pytest.mark.slow),
        (None, None, "float32"),
    ],
)
def test_a_backward_pass_coarser_than_the_forward_is_refused_in_words(x, primal, g, dtype):
    args = (x[0].astype(dtype),)
    report = audit.compare(coarse_residuals(primal), g, args, **QUICK)
    verdicts = {row.mode: row.verdict for row in report.rows}
    assert not report.ok and verdicts["value"] == "agrees" and verdicts["vjp"] == "coarse"
    assert report.worst.why.startswith(SAID) and "allow_coarse_derivatives" in report.worst.why
    assert 1e-4 < report.worst.relative < 1e-2
    assert "f computes with an epsilon of 0.0078 inside" in report.notes[-1]


def test_whoever_means_it_says_so(x):
    run = audit.make_compare(coarse_residuals(swish), swish, allow_coarse_derivatives=True, **QUICK)
    report = run(x)
    assert report.ok and "coarsest epsilon found inside f: 0.0078" in report.notes[-1]
    # what errs by more than bfloat16 is refused all the same
    wrong = audit.make_compare(
        coarse_residuals(swish),
        lambda x: 1.5 * swish(x),
        allow_coarse_derivatives=True,
        modes=("value", "vjp"),
        transforms="jit",
    )
    assert {row.verdict for row in wrong(x).rows} == {"disagrees"}


def test_arguments_in_bfloat16_excuse_what_is_computed_in_it(x):
    assert audit.compare(coarse_residuals(swish), swish, (x[0].astype(jnp.bfloat16),), **QUICK).ok


def test_a_pass_in_float32_is_no_coarser_than_arguments_in_float32(x):
    def pull(x, y_bar):
        x, y_bar = x.astype(jnp.float32), y_bar.astype(jnp.float32)
        return ((-jnp.sin(x) * y_bar).astype(x.dtype),)

    f = jax.custom_vjp(jnp.cos)
    f.defvjp(lambda x: (jnp.cos(x), x), lambda x, y_bar: (pull(x, y_bar)[0].astype(x.dtype),))
    assert audit.compare(f, jnp.cos, x, **QUICK).ok
    wide = audit.compare(f, jnp.cos, (x[0].astype(jnp.float64),), **QUICK)
    assert wide.worst.verdict == "coarse"


def test_a_coarse_tangent_is_named_as_one(x):
    f = jax.custom_jvp(jnp.sin)
    f.defjvps(lambda x_dot, _, x: jnp.cos(coarse(x)) * x_dot)
    report = audit.compare(f, jnp.sin, x, modes="jvp", transforms="jit")
    assert report.worst.verdict == "coarse"
    assert report.worst.why.startswith("the tangent is computed more coarsely than the value")


@pytest.mark.parametrize(
    ("grid", "reference", "transforms"),
    [
        (0, True, "jit"),
        pytest.param(0, True, ("plain", "jit"), marks=pytest.mark.slow),
        pytest.param(0, False, "jit", marks=pytest.mark.slow),
        # numbers that bfloat16 holds
        pytest.param(2**-3, True, "jit", marks=pytest.mark.slow),
    ],
)
def test_attention_that_rounds_in_both_directions_is_accepted(rng, grid, reference, transforms):
    args = rng.normal(size=(3, 4, 3))
    args = np.round(args / grid) * grid if grid else args
    args = tuple(jnp.asarray(a, jnp.float32) for a in args)
    g = (lambda *args: attention(lambda a: a, *args)) if reference else None
    modes = ("value", "vjp")
    report = audit.compare(bfloat16_attention(), g, args, modes=modes, transforms=transforms)
    report.raise_if_failed()
    assert "coarsest epsilon found inside f: 0.0078" in report.notes[-1]


def test_a_product_that_is_exact_at_zero_is_accepted(rng):
    """A gate that starts at 0 hides what it multiplies, but not from its own gradient."""
    a, gate = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32).at[1].set(0)

    def f(a, gate):
        return coarse(jnp.sin(a)) * gate

    report = audit.compare(f, lambda a, gate: jnp.sin(a) * gate, (a, gate), **QUICK)
    report.raise_if_failed()


def test_dead_code_has_no_precision():
    @jax.jit
    def both(x):
        return 2 * x, x.astype(jnp.bfloat16)

    dead = jax.make_jaxpr(lambda x: both(x)[0])(1.0)
    live = jax.make_jaxpr(lambda x: both(x)[1].astype(x.dtype))(1.0)
    assert coarsest_epsilon(dead) == np.finfo(np.float64).eps
    assert coarsest_epsilon(live) == jnp.finfo(jnp.bfloat16).eps


def products(text):
    """The lines of a lowered program that multiply matrices or convolve."""
    return [line for line in text.splitlines() if "dot_general" in line or "convolution" in line]


def exact(line):
    return line.count("HIGHEST") == 2


class Recorder:
    """`jax.jit` that also lowers, for accelerators, all that it compiles."""

    def __init__(self, jit, lowered):
        self.jit, self.lowered = jit, lowered

    def __call__(self, f, **options):
        compiled = self.jit(f, **options)
        recorder = self

        class Compiled:
            seen = set()

            def trace(self, *args, **kwargs):
                traced = compiled.trace(*args, **kwargs)
                if (program := str(traced.jaxpr)) not in self.seen:  # lowered once
                    self.seen.add(program)
                    for platform in ("tpu", "cuda"):
                        text = traced.lower(lowering_platforms=(platform,)).as_text()
                        recorder.lowered.append((platform, text))
                return traced

            def __call__(self, *args, **kwargs):
                self.trace(*args, **kwargs)
                return compiled(*args, **kwargs)

        return Compiled()


@pytest.mark.slow
@pytest.mark.parametrize("reference", [True, False], ids=["reference", "differences"])
def test_all_products_are_exact_on_accelerators(x, monkeypatch, reference):
    """On an H100 or a TPU the default would be TF32 or bfloat16, and look like a wrong rule."""
    settings = set()

    def plain(x):
        settings.add(jax.config.jax_default_matmul_precision)
        image = lax.conv(
            (x[:4] @ x[:4] * x)[None, None], jnp.ones((1, 1, 2), x.dtype), (1,), "VALID"
        )
        return image[0, 0]

    rule = jax.custom_vjp(plain)
    rule.defvjp(lambda x: jax.vjp(plain, x), lambda pull_back, y_bar: pull_back(y_bar))
    lowered = []
    monkeypatch.setattr(jax, "jit", Recorder(jax.jit, lowered))
    report = audit.compare(rule, plain if reference else None, x, modes=("value", "vjp"))
    monkeypatch.undo()
    report.raise_if_failed()
    assert settings == {"highest"}  # and what runs operation by operation
    for platform in ("tpu", "cuda"):
        found = [line for where, text in lowered if where == platform for line in products(text)]
        assert len(found) > 20 and all(map(exact, found))
