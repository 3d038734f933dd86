"""What happens in the normalized layers.

The weights grow, so the effective learning rate falls (BN.5); what normalization removes from a
gradient (D.13); what stopped learning, and where γ took over (G.4, G.6); how much of an error
passes (G.5).

Nothing here is said of every run: each function reads its figures and words what they show.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from bnjax import geometry
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.finding import (
    BIN,
    Finding,
    largest_cosine,
    mean_cosine,
    normalized,
    ratio_of,
)
from bnjax.app.report.words import chance, layer, listed, number, sentence, share, when


def angles(evidence: Evidence) -> Finding | None:
    """Return how much of the error lies along x̂ (G.4, G.5)."""
    rows = normalized(evidence)
    if rows is None or not evidence.samples:
        return None
    count = rows["removed"].shape[1]
    course = mean_cosine(rows["cos1"])[:, :count].mean(1)
    random = chance(evidence.samples)
    first, last = float(course[0]), float(course[-1])
    figures = {
        "chance": random,
        "mean_cos1_first": first,
        "mean_cos1_last": last,
        "passes": math.sqrt(1 - last**2),
    }
    begin = f"{when(int(rows['epoch'][0]))} it was {number(first)}" if len(rows) > 1 else ""
    text = (
        f"In the normalized layers |cos θ1|, of errors and x̂, is {number(last)} on average"
        + (f"; {begin}" if begin else "")
        + f". Of random vectors of {evidence.samples} samples it is {number(random)}. "
    )
    if last < 0.9 * random:
        text += (
            "Below chance: γ has used up what lay along x̂, as ∂C/∂γ is proportional to cos θ1; the "
            f"error passes on nearly whole, |sin θ1| = {number(figures['passes'])}."
        )
    elif last > 1.1 * random:
        text += (
            "Above chance: part of the error lies along x̂, where γ learns from it and neither the "
            "weights nor the layers below see it."
        )
    else:
        text += "That is chance: normalization keeps no more of the error back than must be."
    return Finding(
        "angles",
        "Errors beside x̂",
        text,
        ("G.1", "G.4", "G.5"),
        figures,
        abs(math.log10(max(last, 1e-6) / random)),
    )


_removed_of = jax.jit(geometry.removed)


class _Halt(NamedTuple):
    """One of the two ways to a halt, and its words."""

    name: str
    title: str
    field: str
    cosine: str
    things: str
    happens: str
    tags: tuple[str, ...]


_GAMMA = _Halt(
    "handed",
    "Learning handed to γ",
    "handed_to_gamma",
    "cos1",
    "neurons",
    "a neuron's error lies within 5.7° of x̂, so that its weights get nothing and γ learns instead",
    ("G.6", "G.4"),
)
_SYNCED = _Halt(
    "synced",
    "Inputs in step with x̂",
    "stopped",
    "cos2",
    "weights",
    "a weight's input lies within 5.7° of x̂, so that the weight stops",
    ("G.6",),
)


def handed(evidence: Evidence) -> Finding | None:
    """Return how many neurons handed their learning to γ (G.6)."""
    rows = normalized(evidence)
    return None if rows is None else _stopping(evidence, rows, _GAMMA)


def synced(evidence: Evidence) -> Finding | None:
    """Return how many weights stopped as their inputs are in step with x̂ (G.6)."""
    rows = normalized(evidence)
    if rows is None:
        return None
    found = _stopping(evidence, rows, _SYNCED)
    groups = rows["largest_group"]
    k, at = np.unravel_index(np.argmax(groups), groups.shape)
    size, with_group = int(groups[k, at]), float(rows["synced"][-1].max())
    figures = {"largest_group": size, "neurons_with_a_group_at_end": with_group}
    text = found.text
    if size:
        text += (
            f" The largest group of inputs synced to one neuron has {size} members "
            f"({layer(int(at), rows['W'].shape[1])}, {when(int(rows['epoch'][k]))}); at the last "
            f"look up to {share(with_group)} of a layer's neurons have such a group."
        )
    return replace(found, text=text, figures=found.figures | figures)


def _stopping(evidence: Evidence, rows: np.ndarray, halt: _Halt) -> Finding:
    """Say how often something came to a halt, or how near it came to it."""
    shares = rows[halt.field]
    nearest = largest_cosine(rows[halt.cosine])[:, : shares.shape[1]]
    k, at = np.unravel_index(np.argmax(shares), shares.shape)
    most, looks = float(shares[k, at]), len(rows)
    figures: dict[str, Any] = {
        "largest_share": most,
        "largest_share_at_end": float(shares[-1].max()),
        "largest_cosine": float(nearest.max()),
        "looks": looks,
    }
    if most > 0:
        figures |= {"layer": int(at), "epoch": int(rows["epoch"][k])}
        text = (
            f"It happens that {halt.happens}: most in {layer(int(at), rows['W'].shape[1])}, "
            f"{when(figures['epoch'])}, with {share(most)} of the {halt.things}; at the last look "
            f"{listed([share(float(each)) for each in shares[-1]])}, layers from 0 on."
        )
        return Finding(halt.name, halt.title, text, halt.tags, figures, math.log10(1 + 20 * most))
    k, at = np.unravel_index(np.argmax(nearest), nearest.shape)
    once = "one look" if looks == 1 else f"{looks} looks"
    text = (
        f"It does not happen that {halt.happens}: not once in {once} at the {halt.things} of every "
        f"normalized layer. The nearest is |cos θ{halt.cosine[-1]}| between "
        f"{nearest[k, at] - BIN:.2f} and {nearest[k, at]:.2f} "
        f"({layer(int(at), rows['W'].shape[1])}, {when(int(rows['epoch'][k]))})"
    )
    measured = [a for a in evidence.angles.get("bn", ()) if a.rho is not None]
    if measured:
        end = max(float(np.abs(getattr(a, halt.cosine)).max()) for a in measured)
        figures["largest_cosine_at_end"] = end
        text += f", at the end of the run {end:.3f}"
    text += f"; a halt needs {math.sqrt(1 - geometry.ALIGNED**2):.3f}."
    return Finding(halt.name, halt.title, text, halt.tags, figures)


def removed(evidence: Evidence) -> Finding | None:
    """Return what normalization takes off the gradient with constant statistics (D.13)."""
    rows = normalized(evidence)
    if rows is None:
        return None
    last, first = rows["removed"][-1], rows["removed"][0]
    at = int(np.argmax(last))
    figures: dict[str, Any] = {
        "per_layer_first": [float(each) for each in first],
        "per_layer_last": [float(each) for each in last],
    }
    moment = sentence(when(int(rows["epoch"][-1])))[:-1]
    text = (
        "With its statistics held constant a neuron's weights would get another gradient. "
        f"{moment} normalization takes off a piece of it "
        f"{listed([number(float(each)) for each in last])} times as long as itself (layers from 0 "
        f"on, mean over neurons)"
    )
    if len(rows) > 1:
        start = listed([number(float(each)) for each in first])
        text += f"; {when(int(rows['epoch'][0]))} it was {start}"
    text += "."
    angles = evidence.angles.get("bn")
    if angles is not None and angles[at].rho is not None:
        parts = _removed_of(angles[at])
        by_mean, by_x_hat = float(parts.by_mean.mean()), float(parts.by_x_hat.mean())
        figures |= {"layer": at, "by_mean": by_mean, "by_x_hat": by_x_hat}
        text += (
            f" In {layer(at, rows['W'].shape[1])} the averages ⟨Δ⟩⟨u⟩ account for "
            f"{number(by_mean)}, what lies along x̂ for {number(by_x_hat)}: "
            + (
                "it is centring that does it, not scaling."
                if by_mean > 2 * by_x_hat
                else "it is scaling that does it, more than centring."
                if by_x_hat > 2 * by_mean
                else "centring and scaling both do."
            )
        )
    text += " Code that takes the statistics for constants gets that much wrong."
    strength = math.log10(1 + 2 * float(last.max()))
    return Finding("removed", "What normalization takes off", text, ("D.13",), figures, strength)


def rate(evidence: Evidence) -> Finding | None:
    """Return how the weights grew, and the learning rate fell (BN.5)."""
    rows = normalized(evidence)
    if rows is None:
        return None
    count = rows["removed"].shape[1]
    fall = ratio_of(rows["turning"][0, :count], rows["turning"][-1, :count])
    at = int(np.nanargmax(np.abs(np.log10(fall))))
    norms = rows["W"][[0, -1], at]
    upright = float(rows["cosine"][-1, :count].max())
    figures = {
        "layer": at,
        "W_first": float(norms[0]),
        "W_last": float(norms[1]),
        "rate_first_over_last": float(fall[at]),
        "largest_cosine_of_W_and_gradient": upright,
    }
    straight = upright < 0.01
    text = (
        f"∂C/∂W stands at right angles to a normalized neuron's weights, up to "
        f"|cos| = {number(upright)}"
        if straight
        else f"ε is too large for ∂C/∂W to stand at right angles to a normalized neuron's weights: "
        f"|cos| is up to {number(upright)}"
    )
    if "baseline" in evidence.history:
        other = float(evidence.history["baseline"]["cosine"][-1, :count].max())
        figures["largest_cosine_in_the_baseline"] = other
        text += f" (baseline: {number(other)})"
    text += "."
    strength = 0.0
    if len(rows) > 1:
        plain = straight and evidence.options["optimizer"] == "sgd"
        text += (
            (" So each step lengthens them: in " if plain else " In ")
            + f"{layer(at, rows['W'].shape[1])} |W| went from {number(float(norms[0]))} to "
            f"{number(float(norms[1]))}."
        )
        if plain:
            text += (
                " As only their direction matters, it turns at the rate η/|W|²: at the end "
                f"{number(1 / float(fall[at]))} times what it was, without any schedule."
            )
            strength = abs(math.log10(float(fall[at])))
    return Finding("rate", "The learning rate sets itself", text, ("BN.5",), figures, strength)


def epsilon(evidence: Evidence) -> Finding | None:
    """Return how far ε matters: 1 − ρ² (G.2)."""
    rows = normalized(evidence)
    if rows is None:
        return None
    k, at = np.unravel_index(np.argmax(rows["eps_share"]), rows["eps_share"].shape)
    most = float(rows["eps_share"][k, at])
    matters = most > 0.01
    text = (
        f"ε = {evidence.options['eps']:g} "
        + ("matters" if matters else "does not matter here")
        + f": 1 − ρ² is at most {number(most)} on average over a layer's neurons "
        f"({layer(int(at), rows['W'].shape[1])}, {when(int(rows['epoch'][k]))})."
        + (" Along x̂ that much of the error and of the gradient comes through." if matters else "")
    )
    figures = {"largest_share": most, "layer": int(at), "epoch": int(rows["epoch"][k])}
    strength = math.log10(1 + 10 * most) if matters else 0.0
    return Finding("epsilon", "How far ε matters", text, ("G.2", "D.3"), figures, strength)
