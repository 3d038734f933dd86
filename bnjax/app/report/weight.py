"""One weight: its three vectors, its gradient put together from their angles, and why it learns.

(G.2)  ∂C/∂W_ji = B γ_i r_i σ(Δ_i) σ(u_j) [cos θ3 − ρ_i² cos θ1 cos θ2]
(G.3)  ∂C/∂W_ji = B σ(Δ_i) σ(u_j) cos θ3 + B ⟨Δ_i⟩⟨u_j⟩
(G.6)  sin θ1 = 0 ⇒ ∂C/∂W_ji = 0 for all j,  sin θ2 = 0 ⇒ ∂C/∂W_ji = 0

G.3 is the gradient without normalization.

Δ̂, û and x̂ are corners of a triangle on a sphere, θ1, θ2 and θ3 its sides. At ε = 0 the law of
cosines makes the bracket of G.2 sin θ1 sin θ2 cos A, with A the triangle's angle at x̂.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from bnjax import geometry, network
from bnjax.app.errors import UserError, nearest
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.words import LABELS, degrees, number, share
from bnjax.geometry import Angles
from bnjax.network import Dense, Network, NormDense, Params

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
        corner: A in degrees; None where two of the three are aligned or one has no direction.
        amplitude: G.2's, G.3's.
        bracket: G.2's, G.3's.
        means: B ⟨Δ⟩⟨u⟩; None with normalization.
        gradient: ∂C/∂W_ji from these.
        gamma_gradient: ∂C/∂γ_i; None without normalization.
        larger_than: Share of the neuron's weights with a smaller |gradient|.
        text: Sentences: it learns because, it stopped because.
        tags: Of the equations.
    """

    network: str
    layer: int
    neuron: int
    input: int
    cosines: tuple[float, float, float]
    defined: tuple[bool, bool, bool]
    corner: float | None
    amplitude: float
    bracket: float
    means: float | None
    gradient: float
    gamma_gradient: float | None
    larger_than: float
    text: str
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return what it is called."""
        return (
            f"layer {self.layer}, neuron {self.neuron}, input {self.input} of "
            f"{LABELS[self.network]}"
        )


def examine(
    evidence: Evidence,
    *,
    layer: int | None = None,
    neuron: int | None = None,
    input: int | None = None,
    name: str | None = None,
) -> Weight:
    """Look at one weight.

    Args:
        evidence: The run.
        layer: Counted from zero; by default the last normalized one.
        neuron: By default the one with the largest gradient of a weight; without a layer, too, the
            one whose weight normalization takes most off.
        input: By default the one with the neuron's largest gradient, or that weight's.
        name: Of the network; "bn" where the run has it.

    Raises:
        UserError: There is no such weight, or nothing is known of single ones.
    """
    if not evidence.angles:
        raise UserError(
            f"--layer: nothing is known of single weights of {evidence.path}. "
            + " ".join(evidence.missing)
        )
    name = name or ("bn" if "bn" in evidence.angles else "baseline")
    if name not in evidence.angles:
        raise UserError(
            f"--network: {evidence.path} has no network {name!r}: {nearest(name, evidence.angles)}"
        )
    layers = evidence.angles[name]
    normalized = [at for at, each in enumerate(layers) if each.rho is not None]
    at = (normalized[-1] if normalized else len(layers) - 1) if layer is None else layer
    _check("--layer", at, len(layers), f"the layers of {LABELS[name]}")
    angles = layers[at]
    parts, gradients, reasons = _read(angles)
    amplitude, bracket, means = (
        None if part is None else np.asarray(part, np.float64) for part in parts
    )
    assert amplitude is not None and bracket is not None
    W_bar = amplitude * bracket + (0 if means is None else means)
    n_in, n_out = W_bar.shape
    striking = W_bar
    if layer is None and means is None:  # the one that x̂ takes most off
        striking = amplitude * (np.asarray(angles.cos3, np.float64) - bracket)
    i = int(np.abs(striking).max(0).argmax()) if neuron is None else neuron
    _check("--neuron", i, n_out, f"the neurons of layer {at}")
    j = int(np.abs(striking[:, i]).argmax()) if input is None else input
    _check("--input", j, n_in, f"the inputs of layer {at}")
    cosines = tuple(float(each) for each in (angles.cos1[i], angles.cos2[j, i], angles.cos3[j, i]))
    defined = tuple(
        bool(each) for each in (angles.delta_varies[i], angles.u_varies[j], angles.x_varies[i])
    )
    known: dict[str, Any] = {
        "network": name,
        "layer": at,
        "neuron": i,
        "input": j,
        "cosines": cosines,
        "defined": defined,
        "corner": _corner(cosines) if all(defined) else None,
        "amplitude": float(amplitude[j, i]),
        "bracket": float(bracket[j, i]),
        "means": None if means is None else float(means[j, i]),
        "gradient": float(W_bar[j, i]),
        "gamma_gradient": None,
        "larger_than": float(np.mean(np.abs(W_bar[:, i]) < abs(W_bar[j, i]))),
    }
    if isinstance(gradients, NormDense):
        known["gamma_gradient"] = float(gradients.gamma[i])
    reason = geometry.REASONS[int(reasons[j, i])]
    say = _say_normalized if angles.rho is not None else _say_baseline
    text, tags = say(Weight(**known, text="", tags=()), reason, angles)
    return Weight(**known, text=text, tags=tags)


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


def _say_normalized(weight: Weight, reason: str, angles: Angles) -> tuple[str, tuple[str, ...]]:
    theta1, theta2, theta3 = map(degrees, weight.cosines)
    cos1, cos2, cos3 = weight.cosines
    i = weight.neuron
    assert angles.rho is not None
    taken = float(angles.rho[i]) ** 2 * cos1 * cos2
    if reason != "learning":
        text = f"Stopped because {reason}"
        if reason.startswith("the error is aligned"):
            assert weight.gamma_gradient is not None
            text += f" (θ1 = {theta1:.1f}°, ∂C/∂γ = {number(weight.gamma_gradient)})"
        elif reason.startswith("the input is aligned"):
            text += f" (θ2 = {theta2:.1f}°): whatever it could teach, normalization takes off"
        return text + f". {_size(weight)}", ("G.6", "G.2")
    if abs(weight.bracket) < _LITTLE:
        verb, because = "Hardly learning", "little is left in the bracket"
    else:
        verb, because = "Learning", f"{number(abs(weight.bracket))} is left in the bracket"
    more = "more than there was" if abs(taken) > abs(cos3) else "of it"
    text = (
        f"{verb} because {because}: error and input stand at θ3 = {theta3:.0f}°, cos θ3 = "
        f"{number(cos3)}; "
    )
    against = taken * cos3 > 0
    if abs(taken) < 0.005:
        text += "x̂ changes nothing about it"
    elif against:
        text += f"along x̂ normalization takes off {number(taken)}" + (
            f", {more}" if abs(taken) > abs(cos3) else ""
        )
    else:
        text += f"taking off what lies along x̂ adds {number(-taken)}"
    text += f" (θ1 = {theta1:.0f}°, θ2 = {theta2:.0f}°)."
    if weight.corner is not None:
        text += f" Beside x̂ the two stand at {weight.corner:.0f}°"
        text += ", nearly a right angle." if abs(weight.corner - 90) < 6 else "."
    return f"{text} {_size(weight)}", ("G.2", "G.1")


def _say_baseline(weight: Weight, reason: str, angles: Angles) -> tuple[str, tuple[str, ...]]:
    del angles
    assert weight.means is not None
    apart = weight.amplitude * weight.bracket
    if reason != "learning":
        return f"Stopped because {reason}. {_size(weight)}", ("G.3",)
    largest = max(abs(apart), abs(weight.means))
    parts = (
        f"what tells samples apart gives {number(apart)} (θ3 = {degrees(weight.cosines[2]):.0f}°), "
        f"the averages {number(weight.means)}"
    )
    if abs(weight.gradient) < _LITTLE * largest:
        return f"Hardly learning because two parts balance: {parts}. {_size(weight)}", (
            "G.6",
            "G.3",
        )
    which = "what tells samples apart" if abs(apart) > abs(weight.means) else "the averages"
    return f"Learning because of {which}: {parts}. {_size(weight)}", ("G.3",)


def _size(weight: Weight) -> str:
    return (
        f"∂C/∂W = {number(weight.gradient)}, in size above {share(weight.larger_than)} of the "
        "neuron's weights."
    )


def _corner(cosines: tuple[float, ...]) -> float | None:
    cos1, cos2, cos3 = cosines
    sines = math.sqrt((1 - cos1**2) * (1 - cos2**2))
    return degrees((cos3 - cos1 * cos2) / sines) if sines > 1e-3 else None


def _check(option: str, value: int, count: int, what: str) -> None:
    if not 0 <= value < count:
        raise UserError(f"{option}: expected one of {what}, 0 to {count - 1}, got {value}")
