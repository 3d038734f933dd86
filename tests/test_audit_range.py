"""The range that `bnjax audit` tries: a rule that forms r³ is refused near both ends of it."""

import jax
import jax.numpy as jnp
import pytest

from bnjax import audit
from bnjax.own_rules import DTYPES, range_case


def power_of_two_near(a):
    return jnp.exp2(jnp.floor(jnp.log2(a)))


def moments_of(x):
    """The mean, the deviations in a power of two per channel, that unit, and 1/std in it."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(wide, 0, keepdims=True)
    unit = power_of_two_near(jnp.max(jnp.abs(wide - mean), 0, keepdims=True))
    deviation = (wide - mean) / unit
    return mean, deviation, unit, 1 / jnp.sqrt(jnp.mean(deviation**2, 0, keepdims=True))


def forward(x, gamma, beta):
    """A batch norm without ε that is right at every scale."""
    mean, deviation, unit, r = moments_of(x)
    y = (gamma[None] * (deviation * r) + beta[None]).astype(x.dtype)
    return y, (mean[0], (unit / r * (unit / r))[0])


def cubed(gamma, deviation, unit, r, y_bar):
    """γ r³ (x − μ) ⟨ȳ (x − μ)⟩, from the factors as they stand."""
    x, r = deviation * unit, r / unit
    return gamma * r**3 * jnp.mean(y_bar * x, 0, keepdims=True) * x


def grouped(gamma, deviation, unit, r, y_bar):
    """The same as γ r x̂ ⟨ȳ x̂⟩."""
    x_hat = deviation * r
    return gamma * (r / unit) * (x_hat * jnp.mean(y_bar * x_hat, 0, keepdims=True))


def batch_norm_with(projection):
    rule = jax.custom_vjp(forward)

    def pull(saved, bars):
        x, gamma = saved
        y_bar, (mean_bar, var_bar) = bars
        _, deviation, unit, r = moments_of(x)
        y_bar = y_bar.astype(r.dtype)
        wide = gamma[None].astype(r.dtype)
        x_bar = wide * (r / unit) * (y_bar - jnp.mean(y_bar, 0, keepdims=True))
        x_bar -= projection(wide, deviation, unit, r, y_bar)
        x_bar += (mean_bar[None] + 2 * var_bar[None] * (deviation * unit)) / len(x)
        gamma_bar, beta_bar = jnp.sum(y_bar * deviation * r, 0), jnp.sum(y_bar, 0)
        bars = x_bar, gamma_bar, beta_bar
        return tuple(a.astype(b.dtype) for a, b in zip(bars, (x, gamma, gamma), strict=True))

    rule.defvjp(lambda x, gamma, beta: (forward(x, gamma, beta), (x, gamma)), pull)
    return rule


def reports(rule, rng, dtypes):
    case = range_case("planted", rule, rng)
    compare = audit.make_compare(
        case.f, case.g, argnums=case.argnums, modes=("value", "vjp"), transforms="jit"
    )
    return {
        (what, dtype): compare(make(dtype))
        for what, make in case.inputs.items()
        for dtype in dtypes
    }


def test_a_pull_back_that_forms_the_cube_of_r_is_refused_at_every_scale(rng):
    found = reports(batch_norm_with(cubed), rng, ("float32", "float64"))
    assert len(found) == 12
    for what, report in found.items():
        failed = {(row.mode, row.leaf) for row in report.rows if row.failed}
        assert failed == {("vjp", "u")}, what


@pytest.mark.slow
def test_the_same_with_its_factors_grouped_is_accepted(rng):
    for what, report in reports(batch_norm_with(grouped), rng, DTYPES).items():
        assert report.ok, f"{what}:\n{report}"
