"""What `bnjax audit` compares without a user's function: bnjax's own rules and their arguments.

Each rule is tried on ordinary numbers, and near both ends of a dtype's range: all channels large or
tiny, channels of different scales side by side, one outlier in a batch. There, the arguments are
u = x / unit with a power of two per channel, the moments are divided by unit and unit², and ε = 0
unless the name of the case says otherwise:

    batch_norm(unit u, γ, β; ε) = batch_norm(u, γ, β; ε / unit²)                         (BN.5)

A rule computes the left side at the scale of x, its reference the right side at the scale of 1:
the reference overflows in no dtype, and every derivative by u is of the size of 1, so that no
channel hides the errors of another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bnjax import audit, batch_norm, ghost_batch_norm, normalize, renorm
from bnjax.activations import ACTIVATIONS, Activation

DTYPES = ("float16", "bfloat16", "float32", "float64")

Arguments = tuple[Any, ...]
MakeArguments = Callable[[str], Arguments]

_BATCHES = (  # shape, feature axes, where
    ((5, 3), -1, "none"),
    ((2, 3), -1, "none"),  # two samples: all terms cancel
    ((2, 3, 4), 1, "mask"),
    ((2, 2, 3, 2), (1, -1), "weights"),
)
# second derivatives go as unit^-2, for which float32 has no room
_FIRST_ORDER = tuple(mode for mode in audit.MODES if mode not in ("rev-over-rev", "fwd-over-rev"))
# exponents of 2 in bfloat16 and float32; others get the same share of their range
_FAR, _NEAR, _OUTLIER = 60, 45, 50


class Case(NamedTuple):
    """One of bnjax's rules, its reference, and arguments of one kind, which share their programs.

    Attributes:
        rule: The name of the rule.
        f: The function with the rule.
        g: The same in plain JAX operations.
        inputs: By description, a function from a dtype's name to the arguments in that dtype.
        modes: The modes that are compared.
        argnums: The arguments to differentiate with respect to; None for all.
    """

    rule: str
    f: Callable[..., Any]
    g: Callable[..., Any]
    inputs: dict[str, MakeArguments]
    modes: tuple[str, ...] = audit.MODES
    argnums: tuple[int, ...] | None = None


def own_cases(seed: int) -> list[Case]:
    """List bnjax's rules, with arguments drawn from `seed`."""
    rng = np.random.default_rng(seed)
    cases = [_ordinary("vjp", *batch, rng) for batch in _BATCHES]
    cases += [_ordinary("jvp", *batch, rng) for batch in _BATCHES[::3]]
    cases.append(_ghost_batches(rng))
    cases.append(_given_statistics(rng))
    cases.append(_renormalization("vjp", rng))
    y = rng.normal(size=7)
    cases.append(Case("g'", _by_g_prime, _by_autodiff, {"all activations": partial(_cast, (y,))}))
    for rule, where in (("vjp", None), ("jvp", rng.uniform(0.2, 2, (5, 1)))):
        normalization = partial(batch_norm, rule=rule, eps=0.0, where=where)
        cases.append(range_case(f"batch_norm {rule}", normalization, rng, where=where))
    cases.append(_tiny_beside_epsilon(rng))
    cases.append(_given_statistics_in_range(rng))
    cases.append(_renormalization_in_range("jvp", rng))
    return cases


def range_case(
    rule: str,
    normalization: Callable[..., Any],
    rng: np.random.Generator,
    *,
    where: np.ndarray | None = None,
) -> Case:
    """Build the case that tries a batch normalization at ε = 0 over the range of each dtype.

    Args:
        rule: The name of the rule.
        normalization: (x, γ, β) -> (y, (μ, σ², count)), over axis 0 of (5, 3) numbers.
        rng: What the arguments are drawn from.
        where: The weights that it uses, (5, 1), or None.
    """
    u = 2 * rng.normal(size=(5, 3)) + 1
    gamma, beta = rng.normal(size=(2, 3))

    def with_unit(*exponents: int, variance: bool = True) -> MakeArguments:
        def make(dtype: str) -> Arguments:
            unit = np.array([power_of_two(dtype, k) for k in exponents])
            return _cast((u, gamma, beta, unit, np.array(float(variance))), dtype)

        return make

    def with_outlier(dtype: str) -> Arguments:
        unit = power_of_two(dtype, _OUTLIER)
        one = u.copy()
        one[1:, 1] /= unit
        one[0, 1] = 1
        return _cast((one, gamma, beta, np.array([1, unit, 1]), np.array(1.0)), dtype)

    prefix = "(5, 3)" + ("" if where is None else ", weights")
    inputs = {
        # unit⁻², a cotangent of the variance, would leave float32
        "x of 1e18": with_unit(*[_FAR] * 3, variance=False),
        "x of 3e13": with_unit(*[_NEAR] * 3),
        "x of 3e-14": with_unit(*[-_NEAR] * 3),
        "x of 1e-18": with_unit(*[-_FAR] * 3, variance=False),
        "channels of 1e-18, 1, 1e18": with_unit(-_FAR, 0, _FAR, variance=False),
        "outlier of 1e15": with_outlier,
    }
    return Case(
        rule,
        partial(_in_units, normalization),
        partial(_plain_in_units, where=where, eps=0.0),
        {f"{prefix}, {what}": make for what, make in inputs.items()},
        _FIRST_ORDER,
        (0, 1, 2),
    )


def power_of_two(dtype: str, exponent: int) -> float:
    """Return 2^exponent for bfloat16 and float32; else what takes the same share of the range."""
    return 2.0 ** int(exponent * jnp.finfo(dtype).maxexp / jnp.finfo(jnp.float32).maxexp)


def _cast(arguments: Arguments, dtype: str) -> Arguments:
    return tuple(jnp.asarray(a, dtype) for a in arguments)


def _ordinary(rule: str, shape: tuple[int, ...], axis: Any, where: str, rng: Any) -> Case:
    features = [a % len(shape) for a in np.atleast_1d(axis)]
    gamma, beta = rng.normal(size=(2, *(shape[a] for a in features)))
    weights = rng.uniform(0.2, 2, [1 if a in features else n for a, n in enumerate(shape)])
    weights.flat[0] = 0
    chosen = {"none": None, "mask": weights > 0, "weights": weights}[where]

    def run(x: Any, gamma: Any, beta: Any, *, rule: str) -> Any:
        y, moments = batch_norm(x, gamma, beta, axis=axis, where=chosen, rule=rule, eps=0.01)
        return y, moments.mean, moments.var

    what = f"{shape}, axis {axis}" + ("" if where == "none" else f", {where}")
    args = rng.normal(size=shape) * 2 + 1, gamma, beta
    f, g = partial(run, rule=rule), partial(run, rule="autodiff")
    return Case(f"batch_norm {rule}", f, g, {what: partial(_cast, args)})


def _ghost_batches(rng: Any) -> Case:
    weights = rng.uniform(0.2, 2, (5, 2, 1))
    weights[1, 0] = 0

    def f(*args: Any) -> Any:
        y, moments = ghost_batch_norm(*args, size=2, where=weights, eps=0.01)
        return y, moments.mean, moments.var

    def g(x: Any, *vectors: Any) -> Any:
        ys, means, variances = [], [], []
        for start in (0, 2, 4):  # two groups of two, and one sample
            group = slice(start, start + 2)
            options = {"where": weights[group], "eps": 0.01, "rule": "autodiff"}
            y, moments = batch_norm(x[group], *vectors, **options)
            for found, one in zip((ys, means, variances), (y, *moments[:2]), strict=True):
                found.append(one)
        return jnp.concatenate(ys), jnp.stack(means), jnp.stack(variances)

    args = rng.normal(size=(5, 2, 3)) * 2 + 1, *rng.normal(size=(2, 3))
    what = "(5, 2, 3), groups of 2, weights"
    return Case("ghost_batch_norm vjp", f, g, {what: partial(_cast, args)})


def _in_units(
    normalization: Callable[..., Any], u: Any, gamma: Any, beta: Any, unit: Any, variance: Any
) -> Any:
    """Normalize x = unit u; return y, μ/unit and σ²/unit², the last times 0 if it is left out."""
    y, moments = normalization(u * unit[None], gamma, beta)
    mean, var = moments[:2]
    return y, mean / unit, variance * (var / unit / unit)


def _plain_in_units(
    u: Any, gamma: Any, beta: Any, unit: Any, variance: Any, *, where: Any, eps: float
) -> Any:
    """Compute the same with plain operations, at the scale of 1."""
    w = jnp.ones((len(u), 1), u.dtype) if where is None else jnp.asarray(where, u.dtype)
    n = jnp.sum(w)
    mean = jnp.sum(w * u, 0) / n
    deviation = u - mean[None]
    var = jnp.sum(w * deviation**2, 0) / n
    y = gamma[None] * deviation / jnp.sqrt(var + eps / unit / unit)[None]
    return jnp.where(w > 0, y, 0) + beta[None], mean, variance * var


def _tiny_beside_epsilon(rng: np.random.Generator) -> Case:
    """Build the case of a variance far below ε, with a mask: r is ε^(−1/2), whatever x."""
    eps, mask = 1e-5, np.array([[True], [False], [True], [True], [True]])
    normalization = partial(batch_norm, eps=eps, where=mask)
    case = range_case("batch_norm vjp", normalization, rng, where=mask)
    what = "x of 1e-18"
    return case._replace(
        g=partial(_plain_in_units, where=mask, eps=eps),
        inputs={f"(5, 3), mask, {what}, ε = 1e-5": case.inputs[f"(5, 3), weights, {what}"]},
    )


def _given_statistics(rng: np.random.Generator) -> Case:
    mean, gamma, beta = rng.normal(size=(3, 3))
    args = rng.normal(size=(4, 3)), mean, rng.uniform(0.5, 2, 3), gamma, beta
    f, g = partial(normalize, eps=0.1), partial(_plain_normalize, eps=0.1)
    return Case("normalize", f, g, {"(4, 3)": partial(_cast, args)})


def _given_statistics_in_range(rng: np.random.Generator) -> Case:
    mean, gamma, beta = rng.normal(size=(3, 3))
    args = rng.normal(size=(4, 3)), mean, rng.uniform(0.5, 2, 3), gamma, beta

    def with_unit(*exponents: int) -> MakeArguments:
        def make(dtype: str) -> Arguments:
            return _cast((*args, np.array([power_of_two(dtype, k) for k in exponents])), dtype)

        return make

    def f(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, unit: Any) -> Any:
        return normalize(x * unit[None], mean * unit, var * unit * unit, gamma, beta, eps=0.0)

    def g(*args: Any) -> Any:
        return _plain_normalize(*args[:-1], eps=0.0)

    inputs = {
        "(4, 3), x of 3e13": with_unit(*[_NEAR] * 3),
        "(4, 3), x of 3e-14": with_unit(*[-_NEAR] * 3),
        "(4, 3), channels of 3e-14, 1, 3e13": with_unit(-_NEAR, 0, _NEAR),
    }
    return Case("normalize", f, g, inputs, _FIRST_ORDER, (0, 1, 2, 3, 4))


def _plain_normalize(x: Any, mean: Any, var: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
    gamma, mean, var, beta = (a[None] for a in (gamma, mean, var, beta))
    return gamma * (x - mean) / jnp.sqrt(var + eps) + beta


_BOUNDS: dict[str, Any] = {"r_max": 1.5, "d_max": 0.4}


def _renormalization_arguments(rng: np.random.Generator) -> Arguments:
    """Draw x, γ, β and statistics of which a part meets the bounds."""
    x, (mean, gamma, beta) = 2 * rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    return x, gamma, beta, mean, rng.uniform(1, 9, 3)


def _renormalization(rule: str, rng: np.random.Generator) -> Case:
    where = np.array([[True], [False], [True], [True], [True]])

    def f(x: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
        options = {"where": where, "eps": 0.1, "rule": rule, **_BOUNDS}
        return renorm(x, (mean, var), gamma, beta, **options)[0]

    g = partial(_plain_renorm, where=where, eps=0.1)
    inputs = {"(5, 3), mask": partial(_cast, _renormalization_arguments(rng))}
    return Case(f"renorm {rule}", f, g, inputs, argnums=(0, 1, 2))


def _renormalization_in_range(rule: str, rng: np.random.Generator) -> Case:
    args = _renormalization_arguments(rng)

    def with_unit(*exponents: int) -> MakeArguments:
        def make(dtype: str) -> Arguments:
            return _cast((*args, np.array([power_of_two(dtype, k) for k in exponents])), dtype)

        return make

    def f(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, unit: Any) -> Any:
        statistics = mean * unit, var * unit * unit
        return renorm(x * unit[None], statistics, gamma, beta, eps=0.0, rule=rule, **_BOUNDS)[0]

    def g(*args: Any) -> Any:
        return _plain_renorm(*args[:-1], where=np.ones((5, 1), bool), eps=0.0)

    inputs = {"(5, 3), channels of 3e-14, 1, 3e13": with_unit(-_NEAR, 0, _NEAR)}
    return Case(f"renorm {rule}", f, g, inputs, _FIRST_ORDER, (0, 1, 2))


def _plain_renorm(
    x: Any, gamma: Any, beta: Any, mean: Any, var: Any, *, where: Any, eps: float
) -> Any:
    gamma, beta, mean, var = (a[None] for a in (gamma, beta, mean, var))
    n = where.sum()
    center = jnp.sum(jnp.where(where, x, 0), 0, keepdims=True) / n
    deviation = jnp.where(where, x - center, 0)
    std = jnp.sqrt(jnp.sum(deviation**2, 0, keepdims=True) / n + eps)
    given = jnp.sqrt(var + eps)
    r_max, d_max = _BOUNDS.values()
    ratio = jax.lax.stop_gradient(jnp.clip(std / given, 1 / r_max, r_max))
    offset = jax.lax.stop_gradient(jnp.clip((center - mean) / given, -d_max, d_max))
    return jnp.where(where, gamma * (deviation / std * ratio + offset), 0) + beta


def _written(activation: Activation) -> Callable[[Any], Any]:
    @jax.custom_jvp
    def g(y: Any) -> Any:
        return activation.g(y)

    g.defjvps(lambda y_dot, _, y: activation.g_prime(y) * y_dot)
    return g


def _by_g_prime(y: Any) -> dict[str, Any]:
    return {name: _written(activation)(y) for name, activation in ACTIVATIONS.items()}


def _by_autodiff(y: Any) -> dict[str, Any]:
    return {name: activation.g(y) for name, activation in ACTIVATIONS.items()}
