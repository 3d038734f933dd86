"""One weight: its three vectors, its gradient put together from their angles, and why it learns.

(G.2)  ∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − ρ_i² cos θ1 cos θ2]
(G.3)  ∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩
(G.6)  sin θ1 = 0 ⇒ ∂C/∂W_ji = 0 for all j,  sin θ2 = 0 ⇒ ∂C/∂W_ji = 0

G.3 is the gradient without normalization.

Δ̂, û and x̂ are corners of a triangle on a sphere, θ1, θ2 and θ3 its sides. At ε = 0 the law of
cosines makes the bracket of G.2 sin θ1 sin θ2 cos A, with A the triangle's angle at x̂.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from bnjax import geometry, network
from bnjax.app.errors import UserError, nearest
from bnjax.app.report.evidence import Evidence
from bnjax.app.run.networks import TITLES
from bnjax.geometry import Angles
from bnjax.network import Dense, Network, NormDense, Params
from bnjax.report import Finding
from bnjax.report.words import degrees, number, share

_LITTLE = 0.1  # of the amplitude: a bracket below it is called small


@dataclass(frozen=True)
class Weight:
    """One weight at the end of a run.

    Attributes:
        network: "bn" or "baseline".
        layer: Counted from zero, as are the next two.
        neuron: i.
        input: j.
        cosines: cos θ1, cos θ2, cos θ3.
        defined: Whether Δ, u and x have a direction.
        rho: ρ_i; None without normalization.
        amplitude: G.2's, G.3's.
        bracket: G.2's, G.3's.
        means: B ⟨Δ⟩⟨u⟩; None with normalization.
        gradient: ∂C/∂W_ji from these.
        gamma_gradient: ∂C/∂γ_i; None without normalization.
        larger_than: Share of the neuron's weights with a smaller |gradient|.
        reason: One of `geometry.REASONS`.
    """

    network: str
    layer: int
    neuron: int
    input: int
    cosines: tuple[float, float, float]
    defined: tuple[bool, bool, bool]
    rho: float | None
    amplitude: float
    bracket: float
    means: float | None
    gradient: float
    gamma_gradient: float | None
    larger_than: float
    reason: str

    @property
    def name(self) -> str:
        """Return what it is called."""
        return (
            f"layer {self.layer}, neuron {self.neuron}, input {self.input} of "
            f"{TITLES[self.network]}"
        )

    @property
    def corner(self) -> float | None:
        """Return A in degrees; None where two are aligned or one has no direction."""
        cos1, cos2, cos3 = self.cosines
        sines = math.sqrt((1 - cos1**2) * (1 - cos2**2))
        return degrees((cos3 - cos1 * cos2) / sines) if all(self.defined) and sines > 1e-3 else None

    @property
    def tags(self) -> tuple[str, ...]:
        """Return the tags of the equations that its text rests on."""
        halted = ("G.6",) if self.reason != "learning" or self._balanced else ()
        return (*halted, "G.3") if self.rho is None else (*halted, "G.2", "G.1")

    @property
    def text(self) -> str:
        """Return sentences: it learns because, it stopped because."""
        why = self._without_normalization() if self.rho is None else self._with_normalization()
        return (
            f"{why} Its gradient is ∂C/∂W = {number(self.gradient)}, in size above "
            f"{share(self.larger_than)} of the neuron's weights."
        )

    def _with_normalization(self) -> str:
        theta1, theta2, theta3 = (
            f"θ{k + 1} = {degrees(c):.1f}°" for k, c in enumerate(self.cosines)
        )
        if self.reason != "learning":
            return f"It stopped because {self.reason} ({theta1}, {theta2})."
        cos1, cos2, cos3 = self.cosines
        taken = (self.rho or 0.0) ** 2 * cos1 * cos2
        hardly = "hardly learns" if abs(self.bracket) < _LITTLE else "learns"
        text = (
            f"It {hardly}: of cos θ3 = {number(cos3)} ({theta3}) normalization takes off "
            f"{number(taken)}, what lies along x̂ ({theta1}, {theta2}), and leaves "
            f"{number(self.bracket)}."
        )
        if self.corner is None:
            return text
        right = ", nearly a right angle" if abs(self.corner - 90) < 6 else ""
        return f"{text} Beside x̂ error and input are at {self.corner:.0f}°{right}."

    @property
    def _balanced(self) -> bool:
        """Return whether the two parts of a gradient without normalization nearly cancel."""
        means = 0.0 if self.means is None else abs(self.means)
        return abs(self.gradient) < _LITTLE * means

    def _without_normalization(self) -> str:
        if self.reason != "learning":
            return f"It stopped because {self.reason}."
        apart, means = self.amplitude * self.bracket, self.means or 0.0
        parts = (
            f"differences give {number(apart)} (θ3 = {degrees(self.cosines[2]):.0f}°), the "
            f"averages {number(means)}."
        )
        if self._balanced:
            return f"It hardly learns because two parts balance: {parts}"
        which = "differences" if abs(apart) > abs(means) else "the averages"
        return f"It learns because of {which}: {parts}"


def examine(
    angles: Mapping[str, tuple[Angles, ...]],
    *,
    layer: int | None = None,
    neuron: int | None = None,
    input: int | None = None,
    name: str | None = None,
) -> Weight:
    """Look at one weight.

    Args:
        angles: Those of the layers of each network.
        layer: Counted from zero; by default the last normalized one.
        neuron: By default the one with the largest gradient of a weight; without a layer, too, the
            one whose weight normalization takes most off.
        input: By default the one with the neuron's largest gradient, or that weight's.
        name: Of the network; "bn" where there is one.

    Raises:
        UserError: There is no such weight.
    """
    name = name or ("bn" if "bn" in angles else "baseline")
    if name not in angles:
        raise UserError(f"--network: the run has no network {name!r}: {nearest(name, angles)}")
    layers = angles[name]
    normalized = [at for at, each in enumerate(layers) if each.rho is not None]
    at = (normalized or [len(layers) - 1])[-1] if layer is None else layer
    _check("--layer", at, len(layers), f"the layers of {TITLES[name]}")
    own = layers[at]
    (amplitude, bracket, means), gradients, reasons = jax.tree.map(
        lambda array: np.asarray(array, np.float64), _read(own)
    )
    W_bar = amplitude * bracket + (0 if means is None else means)
    striking = W_bar
    if layer is None and means is None:  # the one that x̂ takes most off
        striking = amplitude * (np.asarray(own.cos3, np.float64) - bracket)
    i = int(np.abs(striking).max(0).argmax()) if neuron is None else neuron
    _check("--neuron", i, W_bar.shape[1], f"the neurons of layer {at}")
    j = int(np.abs(striking[:, i]).argmax()) if input is None else input
    _check("--input", j, W_bar.shape[0], f"the inputs of layer {at}")
    return Weight(
        network=name,
        layer=at,
        neuron=i,
        input=j,
        cosines=(float(own.cos1[i]), float(own.cos2[j, i]), float(own.cos3[j, i])),
        defined=(bool(own.delta_varies[i]), bool(own.u_varies[j]), bool(own.x_varies[i])),
        rho=None if own.rho is None else float(own.rho[i]),
        amplitude=float(amplitude[j, i]),
        bracket=float(bracket[j, i]),
        means=None if means is None else float(means[j, i]),
        gradient=float(W_bar[j, i]),
        gamma_gradient=float(gradients.gamma[i]) if isinstance(gradients, NormDense) else None,
        larger_than=float(np.mean(np.abs(W_bar[:, i]) < abs(W_bar[j, i]))),
        reason=geometry.REASONS[int(reasons[j, i])],
    )


@jax.jit
def _read(angles: Angles) -> tuple[geometry.Parts, Dense | NormDense, jax.Array]:
    """Take all that is asked of a layer in one program: eagerly each step is one to compile."""
    return geometry.weight_parts(angles), geometry.gradients(angles), geometry.reasons(angles)


def by_autodiff(evidence: Evidence, weight: Weight) -> float:
    """Form ∂C/∂W_ji with `jax.grad` of the plain reference: no angle has a part in it."""
    net, params, *_ = evidence.networks[weight.network]
    assert evidence.batch is not None
    gradient = _differentiate(net, params, *evidence.batch)[weight.layer].W
    return float(gradient[weight.input, weight.neuron])


@partial(jax.jit, static_argnums=0)
def _differentiate(net: Network, params: Params, x: jax.Array, targets: jax.Array) -> Params:
    fresh = network.init(net, jax.random.key(0))[1]  # the moments go nowhere

    def cost(params: Params) -> jax.Array:
        return network.cost(net, params, fresh, x, targets, rule="autodiff")[0]

    return jax.grad(cost)(params)


def as_finding(weight: Weight, evidence: Evidence, *, checked: bool) -> Finding:
    """Return what the report says of a weight: its gradient, step by step, and by `jax.grad`."""
    from bnjax.app.report.sphere import Triangle

    cos1, cos2, cos3 = (number(cosine) for cosine in weight.cosines)
    steps = {"cos θ1 (Δ, x)": cos1, "cos θ2 (u, x)": cos2, "cos θ3 (Δ, u)": cos3}
    if weight.means is None:
        steps["bracket"] = f"cos θ3 − ρ² cos θ1 cos θ2 = {number(weight.bracket)}"
        steps["amplitude"] = f"B γ r σ(Δ) σ(u) = {number(weight.amplitude)}"
        together = f"{number(weight.amplitude)} · ({number(weight.bracket)})"
    else:
        steps["amplitude"] = f"B σ(Δ) σ(u) = {number(weight.amplitude)}"
        steps["averages"] = f"B ⟨Δ⟩⟨u⟩ = {number(weight.means)}"
        together = f"{number(weight.amplitude)} · ({cos3}) + ({number(weight.means)})"
    steps["∂C/∂W"] = f"{together} = {number(weight.gradient)}"
    if checked:  # to compile it takes a while
        steps["by jax.grad"] = number(by_autodiff(evidence, weight))
    if weight.gamma_gradient is not None:
        steps["∂C/∂γ"] = number(weight.gamma_gradient)
    return Finding(
        "weight",
        f"One weight: {weight.name}",
        "The error Δ, the input u and the sum x of one weight are three vectors with a number for "
        "each sample. The gradient is an amplitude, of their lengths, times a bracket, of the "
        "angles between them"
        + ("." if weight.means is None else ", plus the product of the averages of Δ and u."),
        weight.text,
        "This is the end of the run. Another one: bnjax explain RUN --layer L --neuron N --input J",
        items=steps,
        tags=weight.tags,
        pictures=(Triangle(weight),),
    )


def _check(option: str, value: int, count: int, what: str) -> None:
    if not 0 <= value < count:
        raise UserError(f"{option}: expected one of {what}, 0 to {count - 1}, got {value}")
