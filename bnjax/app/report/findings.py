"""What the figures of a run say, in sentences; each carries the tags of its equations.

(BN.5)  the weights grow, so the learning rate falls
(D.13)  what normalization takes off a gradient
(G.2, G.3)  how large the adjustments are, and what they consist of
(G.4, G.6)  what stopped, and what handed its learning to γ
(G.5)  how long the error is, layer by layer

Nothing here is said of every run: each finding reads its figures and words what they show.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnjax import geometry
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.words import (
    LABELS,
    chance,
    layer,
    listed,
    number,
    sentence,
    share,
    times,
    when,
)

_CENTERS = (np.arange(geometry.COSINE_BINS) + 0.5) * 2 / geometry.COSINE_BINS - 1


@dataclass(frozen=True)
class Finding:
    """Something that the figures say.

    Attributes:
        name: Of its place in the report.
        title: A few words.
        text: Sentences.
        tags: Of the equations that it rests on.
        figures: The numbers in the text, and those behind it.
        strength: How far it is from nothing special, in orders of magnitude.
    """

    name: str
    title: str
    text: str
    tags: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    strength: float = 0.0


def find(evidence: Evidence) -> list[Finding]:
    """Say all that there is to say, in the order of the report."""
    found = (finding(evidence) for finding in _ALL)
    return [one for one in found if one is not None]


def outstanding(findings: list[Finding], most: int = 3) -> list[Finding]:
    """Choose the strongest findings, of those that are strong at all."""
    ranked = sorted(findings, key=lambda one: -one.strength)
    return [one for one in ranked[:most] if one.strength > 0.3]


def mean_cosine(shares: np.ndarray) -> np.ndarray:
    """Give the mean |cos| of histograms, (..., 40) -> (...); to half a bin."""
    return shares @ np.abs(_CENTERS)


def largest_cosine(shares: np.ndarray) -> np.ndarray:
    """Give the edge of the outermost bin that is not empty, (..., 40) -> (...)."""
    edge = np.abs(_CENTERS) + 1 / geometry.COSINE_BINS
    return np.max(np.where(shares > 0, edge, 0), -1)


def _learned(evidence: Evidence) -> Finding | None:
    if not evidence.metrics:
        return None
    parts, figures, ends = [], {}, {}
    for name, lines in evidence.metrics.items():
        last = lines[-1]
        ends[name] = figures[name] = {"epochs": last["epoch"], "steps": last["step"]}
        if last["test_accuracy"] is None:
            ends[name]["test_cost"] = last["test_cost"]
            parts.append(
                f"{LABELS[name]} stands at a test cost of {number(last['test_cost'])} after "
                f"{last['step']:,} mini-batches, and at {number(last['cost'])} on the training set"
            )
            continue
        reached = [line["step"] for line in lines if line["test_accuracy"] >= 0.95]
        ends[name] |= {
            "test_accuracy": last["test_accuracy"],
            "steps_to_95": reached[0] if reached else None,
        }
        to = f"first at 95 % after {reached[0]:,}" if reached else "never at 95 %"
        parts.append(
            f"{LABELS[name]} gets {100 * last['test_accuracy']:.1f} % of the test samples right "
            f"after {last['step']:,} mini-batches, {to}"
        )
    firsts = [each.get("steps_to_95") for each in ends.values()]
    strength = 0.0
    text = sentence("; ".join(parts))
    if len(firsts) == 2 and all(firsts):
        strength = abs(math.log10(firsts[0] / firsts[1]))
        text += f" That is {times(max(firsts) / min(firsts))} as many as the other needed."
    return Finding("curves", "What was learnt", text, ("BL.6", "BN.3"), figures, strength)


def _amplitudes(evidence: Evidence) -> Finding | None:
    both = _both(evidence)
    if both is None:
        return None
    bl, bn = both
    count = bn["removed"].shape[1]
    ratio = _ratio(bn["W_bar"], bl["W_bar"])[:, :count]
    if not np.isfinite(ratio).any():
        return None
    k, at = np.unravel_index(np.nanargmax(np.abs(np.log10(ratio))), ratio.shape)
    most, epoch, end = ratio[k, at], int(bn["epoch"][k]), ratio[-1, at]
    angles = _ratio(mean_cosine(bn["cos3"]), mean_cosine(bl["cos3"]))[k, at]
    figures = {
        "layer": int(at),
        "epoch": epoch,
        "baseline": float(bl["W_bar"][k, at]),
        "bn": float(bn["W_bar"][k, at]),
        "ratio": float(most),
        "ratio_at_end": float(end),
        "cosine_ratio": float(angles),
    }
    where = layer(int(at), bn["W"].shape[1])
    if max(most, 1 / most) < 2:
        text = (
            "Both networks adjust their weights about alike: root mean squares of ∂C/∂W differ by "
            f"less than a factor of 2 in every layer and at every look (most in {where}, "
            f"{when(epoch)}: {number(most)})."
        )
    else:
        larger = "with normalization" if most > 1 else "in the baseline"
        text = (
            f"{when(epoch)} the gradient of a weight in {where} is "
            f"{number(figures['bn'])} with normalization and {number(figures['baseline'])} in the "
            f"baseline (root mean squares): {times(max(most, 1 / most))} as large {larger}, "
            f"{abs(math.log10(most)):.1f} orders of magnitude. "
        )
        text = text[0].upper() + text[1:]
        aside = abs(math.log10(angles)) if angles > 0 else 0.0
        if aside < 0.5 * abs(math.log10(most)):
            text += (
                "The angles are not the reason: |cos θ3| is on average "
                f"{number(float(mean_cosine(bn['cos3'])[k, at]))} against "
                f"{number(float(mean_cosine(bl['cos3'])[k, at]))}. It is the lengths, of errors "
                "and inputs, and the factor γ r."
            )
        else:
            text += f"A factor of {number(angles)} of that comes from the angles, |cos θ3|."
        if epoch != bn["epoch"][-1]:
            text += f" At the last look it is {number(end)} times the baseline's in this layer."
    return Finding(
        "amplitudes",
        "How large the adjustments are",
        text,
        ("G.2", "G.3"),
        figures,
        abs(math.log10(most)),
    )


def _averages(evidence: Evidence) -> Finding | None:
    rows = evidence.history.get("baseline")
    if rows is None:
        return None
    ratio = _ratio(rows["means"], rows["covariance"])
    if not np.isfinite(ratio).any():
        return None
    k, at = np.unravel_index(np.nanargmax(ratio), ratio.shape)
    over = float(np.mean(ratio[np.isfinite(ratio)] > 1))
    typical = float(np.nanmedian(ratio))
    figures = {
        "layer": int(at),
        "epoch": int(rows["epoch"][k]),
        "largest_ratio": float(ratio[k, at]),
        "median_ratio": typical,
        "share_of_looks_above_1": over,
    }
    where = layer(int(at), rows["W"].shape[1])
    text = (
        "The baseline's gradient has two parts: what error and input have in common from sample to "
        "sample, and the product of their averages, which is the same whatever tells the samples "
        f"apart. The averages' part is the larger one in {share(over)} of all looks at a layer, "
        f"{number(typical)} times the other in the median, and {times(float(ratio[k, at]))} as "
        f"large in {where} {when(figures['epoch'])}."
    )
    if "bn" in evidence.history:
        text += " Normalization takes this part off: its weights learn from differences only."
    return Finding(
        "averages",
        "What moves the baseline",
        text,
        ("G.3", "G.2"),
        figures,
        max(0.0, math.log10(max(typical, 1e-9))),
    )


def _errors(evidence: Evidence) -> Finding | None:
    if not evidence.history:
        return None
    parts, figures, extremes = [], {}, {}
    for name, rows in evidence.history.items():
        if rows["error"].shape[1] < 2:
            return None
        ratio = _ratio(rows["error"][:, 0], rows["error"][:, -1])
        if not np.isfinite(ratio).any():
            continue
        k = int(np.nanargmax(np.abs(np.log10(ratio))))
        extremes[name] = float(ratio[k])
        figures[name] = {
            "epoch": int(rows["epoch"][k]),
            "first_over_last": float(ratio[k]),
            "first_over_last_at_end": float(ratio[-1]),
        }
        shrinks = ratio[k] < 1
        how = f"{times(float(max(ratio[k], 1 / ratio[k])))} {'shorter' if shrinks else 'longer'}"
        parts.append(
            f"in {LABELS[name]} the error that arrives at layer 0 is {how} than the one at the "
            f"output {when(figures[name]['epoch'])}"
            + _at_last(
                k, rows, f", and {number(float(ratio[-1]))} times its length at the last look"
            )
        )
    if not parts:
        return None
    text = "On its way back through the layers an error shrinks or grows: "
    text += "; ".join(parts) + "."
    logs = [math.log10(value) for value in extremes.values()]
    strength = abs(logs[0] - logs[1]) if len(logs) == 2 else abs(logs[0])
    tags = tuple({"baseline": "BL.4", "bn": "G.5"}[name] for name in figures)
    return Finding("errors", "How much error arrives", text, tags, figures, strength)


def _angles(evidence: Evidence) -> Finding | None:
    rows = _normalized(evidence)
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
        "passes": float(np.sqrt(np.maximum(0, 1 - last**2))),
    }
    begin = f"{when(int(rows['epoch'][0]))} it was {number(first)}" if len(rows) > 1 else ""
    text = (
        f"Errors and x̂ stand at cos θ1 = ±{number(last)} on average in the normalized layers"
        + (f"; {begin}" if begin else "")
        + f". Random vectors of {evidence.samples} samples: {number(random)}. "
    )
    if last < 0.9 * random:
        text += (
            "Below chance: γ has used up what lay along x̂, as ∂C/∂γ is proportional to cos θ1. Of "
            "what tells the samples apart hardly anything is kept from the weights."
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


def _handed(evidence: Evidence) -> Finding | None:
    rows = _normalized(evidence)
    if rows is None:
        return None
    shares = rows["handed_to_gamma"]
    nearest = largest_cosine(rows["cos1"])[:, : shares.shape[1]]
    return _stopping(
        "handed",
        "Learning handed to γ",
        rows,
        shares,
        nearest,
        "a neuron's error lies within 5.7° of x̂, so that its weights get nothing and γ learns "
        "instead",
        "neurons",
        "|cos θ1|",
        ("G.6", "G.4"),
    )


def _synced(evidence: Evidence) -> Finding | None:
    rows = _normalized(evidence)
    if rows is None:
        return None
    shares = rows["stopped"]
    nearest = largest_cosine(rows["cos2"])[:, : shares.shape[1]]
    found = _stopping(
        "synced",
        "Inputs in step with x̂",
        rows,
        shares,
        nearest,
        "a weight's input lies within 5.7° of x̂, so that the weight stops",
        "weights",
        "|cos θ2|",
        ("G.6",),
    )
    groups = rows["largest_group"]
    k, at = np.unravel_index(np.argmax(groups), groups.shape)
    size, with_group = int(groups[k, at]), float(rows["synced"][-1].max())
    found.figures.update(largest_group=size, neurons_with_a_group_at_end=with_group)
    if size == 0:
        return found
    text = (
        f"{found.text} The largest group of inputs synced to one neuron has {size} members "
        f"({layer(int(at), rows['W'].shape[1])}, {when(int(rows['epoch'][k]))}); at the last look "
        f"up to {share(with_group)} of a layer's neurons have such a group."
    )
    return Finding("synced", found.title, text, found.tags, found.figures, found.strength)


def _stopping(
    name: str,
    title: str,
    rows: np.ndarray,
    shares: np.ndarray,
    nearest: np.ndarray,
    happens: str,
    things: str,
    cosine: str,
    tags: tuple[str, ...],
) -> Finding:
    """Say how often something came to a halt, or how near it came to it."""
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
            f"It happens that {happens}: most in {layer(int(at), rows['W'].shape[1])}, "
            f"{when(figures['epoch'])}, with {share(most)} of the {things}; at the last look "
            f"{listed([share(float(each)) for each in shares[-1]])} from layer 0 on."
        )
        strength = math.log10(1 + 20 * most)
    else:
        k, at = np.unravel_index(np.argmax(nearest), nearest.shape)
        once = "one look" if looks == 1 else f"{looks} looks"
        text = (
            f"It does not happen that {happens}: not once in {once} at {things} of every "
            f"normalized layer. The nearest is {cosine} between "
            f"{nearest[k, at] - 2 / geometry.COSINE_BINS:.2f} and {nearest[k, at]:.2f} "
            f"({layer(int(at), rows['W'].shape[1])}, {when(int(rows['epoch'][k]))}); a halt needs "
            f"{math.sqrt(1 - geometry.ALIGNED**2):.3f}."
        )
        strength = 0.0
    return Finding(name, title, text, tags, figures, strength)


def _removed(evidence: Evidence) -> Finding | None:
    rows = _normalized(evidence)
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
        f"{moment} normalization takes off it a piece "
        f"{listed([number(float(each)) for each in last])} times as long as itself (layers from 0 "
        f"on, mean over neurons)"
    )
    if len(rows) > 1:
        start = listed([number(float(each)) for each in first])
        text += f"; {when(int(rows['epoch'][0]))} it was {start}"
    text += "."
    angles = evidence.angles.get("bn")
    if angles is not None and angles[at].rho is not None:
        parts = geometry.removed(angles[at])
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


def _inputs(evidence: Evidence) -> Finding | None:
    parts, figures, most = [], {}, []
    for name, rows in evidence.history.items():
        if not rows["saturated"].shape[1]:
            return None
        at = int(np.argmax(rows["saturated"][-1]))
        value, spread = float(rows["saturated"][-1, at]), rows["percentiles"][-1, at]
        figures[name] = {
            "layer": at,
            "saturated_at_end": value,
            "percentiles_at_end": [float(each) for each in spread],
        }
        most.append(max(value, 1e-3))
        parts.append(
            f"in {LABELS[name]} {share(value)} (layer {at}, whose middle half of inputs lies "
            f"between {number(float(spread[1]))} and {number(float(spread[3]))})"
        )
    if not parts:
        return None
    name = evidence.options["activation"]
    moment = when(int(next(iter(evidence.history.values()))["epoch"][-1]))
    text = (
        f"Where the {name} is nearly flat, |g'| < {geometry.SATURATED}, hardly any error passes. "
        + sentence(f"{moment} so many are in the layer with most: " + "; ".join(parts))
    )
    strength = abs(math.log10(most[0] / most[1])) if len(most) == 2 else 0.0
    return Finding(
        "inputs", "What the activations are fed with", text, ("BL.9", "BN.3"), figures, strength
    )


def _directions(evidence: Evidence) -> Finding | None:
    parts, figures, least = [], {}, []
    for name, rows in evidence.history.items():
        course = np.where(rows["directions"] > 0, rows["directions"], np.nan)
        if not np.isfinite(course).any():
            continue
        k, at = np.unravel_index(np.nanargmin(course), course.shape)
        hidden = evidence.options["hidden"]
        figures[name] = {
            "layer": int(at),
            "epoch": int(rows["epoch"][k]),
            "fewest": float(course[k, at]),
            "at_end": float(course[-1, at]),
            "outputs": int(hidden[at]),
        }
        least.append(float(course[k, at]))
        parts.append(
            f"{figures[name]['outputs']} outputs of {LABELS[name]}'s layer {at} amount to "
            f"{number(least[-1])} directions {when(figures[name]['epoch'])}"
            + _at_last(k, rows, f", and to {number(figures[name]['at_end'])} at the last look")
        )
    if not parts:
        return None
    text = "Neurons that rise and fall together say one thing: the " + "; the ".join(parts) + "."
    strength = abs(math.log10(least[0] / least[1])) if len(least) == 2 else 0.0
    return Finding("directions", "How much the neurons differ", text, ("G.1",), figures, strength)


def _rate(evidence: Evidence) -> Finding | None:
    rows = _normalized(evidence)
    if rows is None:
        return None
    count = rows["removed"].shape[1]
    fall = _ratio(rows["turning"][0, :count], rows["turning"][-1, :count])
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
    text = (
        "∂C/∂W stands at right angles to a normalized neuron's weights, up to |cos| = "
        f"{number(upright)}"
    )
    if "baseline" in evidence.history:
        other = float(evidence.history["baseline"]["cosine"][-1, :count].max())
        figures["largest_cosine_in_the_baseline"] = other
        text += f" (baseline: {number(other)})"
    text += "."
    strength = 0.0
    if len(rows) > 1:
        change = "grew" if norms[1] > norms[0] else "shrank"
        plain = evidence.options["optimizer"] == "sgd"
        text += (
            (" So each step lengthens them: in " if plain else " In ")
            + f"{layer(at, rows['W'].shape[1])} |W| {change} from {number(float(norms[0]))} to "
            f"{number(float(norms[1]))}."
        )
        if plain:
            text += (
                " As only their direction matters, it turns at the rate η/|W|²: at the end "
                f"{number(1 / float(fall[at]))} times what it was, without any schedule."
            )
            strength = abs(math.log10(float(fall[at])))
    return Finding("rate", "The learning rate sets itself", text, ("BN.5",), figures, strength)


def _epsilon(evidence: Evidence) -> Finding | None:
    rows = _normalized(evidence)
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


def _dead(evidence: Evidence) -> Finding | None:
    parts, figures, most = [], {}, 0.0
    for name, rows in evidence.history.items():
        last = rows["dead"][-1]
        at = int(np.argmax(last))
        if last[at] > 0:
            most = max(most, float(last[at]))
            figures[name] = {"layer": at, "share": float(last[at])}
            parts.append(f"{share(float(last[at]))} of layer {at} of {LABELS[name]}")
    if not parts:
        return None
    text = f"No error at all reaches {listed(parts)} on these samples: nothing moves there."
    return Finding("dead", "Dead neurons", text, ("BL.4",), figures, math.log10(1 + 20 * most))


def _at_last(k: int, rows: np.ndarray, text: str) -> str:
    """Give the text, unless the last look is the one that was spoken of."""
    return text if k + 1 < len(rows) else ""


def _both(evidence: Evidence) -> tuple[np.ndarray, np.ndarray] | None:
    """Give both networks' rows at the epochs that both were looked at."""
    rows = evidence.history
    if not {"baseline", "bn"} <= rows.keys() or not rows["bn"]["removed"].shape[1]:
        return None
    epochs = np.intersect1d(rows["baseline"]["epoch"], rows["bn"]["epoch"])
    if not len(epochs):
        return None
    bl, bn = (rows[name][np.isin(rows[name]["epoch"], epochs)] for name in ("baseline", "bn"))
    return bl, bn


def _normalized(evidence: Evidence) -> np.ndarray | None:
    rows = evidence.history.get("bn")
    return rows if rows is not None and rows["removed"].shape[1] else None


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide; NaN where either is zero, which has no order of magnitude."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a > 0) & (b > 0), a / b, np.nan)


_ALL: tuple[Callable[[Evidence], Finding | None], ...] = (
    _learned,
    _amplitudes,
    _averages,
    _errors,
    _angles,
    _handed,
    _synced,
    _removed,
    _inputs,
    _directions,
    _rate,
    _epsilon,
    _dead,
)
