"""What happens in either network, and in one more than in the other.

How long the error is in each layer (BL.4, G.5), where activations are flat (BL.9), how much neurons
differ (G.1), and how large the weight gradients are and what they consist of (G.2, G.3).

Nothing here is said of every run: each function reads its figures and words what they show.
"""

import math

import numpy as np

from bnjax import geometry
from bnjax.app.report.evidence import Evidence
from bnjax.app.report.finding import Finding, mean_cosine, normalized, ratio_of
from bnjax.app.report.words import LABELS, layer, listed, number, sentence, share, times, when
from bnjax.app.run.metrics import steps_to_target


def learned(evidence: Evidence) -> Finding | None:
    """Return how far each network came (BL.6)."""
    if not evidence.metrics:
        return None
    parts, figures, ends = [], {}, {}
    for name, lines in evidence.metrics.items():
        last = lines[-1]
        if not math.isfinite(last["cost"]):
            figures[name] = {"epochs": last["epoch"], "diverged": True}
            parts.append(f"{LABELS[name]} diverged: its cost is not finite any more")
            continue
        ends[name] = figures[name] = {"epochs": last["epoch"], "steps": last["step"]}
        if last["test_accuracy"] is None:
            ends[name]["test_cost"] = last["test_cost"]
            parts.append(
                f"{LABELS[name]} stands at a test cost of {number(last['test_cost'])} after "
                f"{last['step']:,} mini-batches, and at {number(last['cost'])} on the training set"
            )
            continue
        reached = steps_to_target(lines)
        ends[name] |= {
            "test_accuracy": last["test_accuracy"],
            "steps_to_95": reached,
        }
        to = f"first at 95 % after {reached:,}" if reached else "never at 95 %"
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


def amplitudes(evidence: Evidence) -> Finding | None:
    """Hold the sizes of both networks' gradients against each other (G.2, G.3)."""
    both = _both(evidence)
    if both is None:
        return None
    bl, bn = both
    count = bn["removed"].shape[1]
    ratio = ratio_of(bn["W_bar"], bl["W_bar"])[:, :count]
    if not np.isfinite(ratio).any():
        return None
    k, at = np.unravel_index(np.nanargmax(np.abs(np.log10(ratio))), ratio.shape)
    most, epoch, end = ratio[k, at], int(bn["epoch"][k]), ratio[-1, at]
    angles = ratio_of(mean_cosine(bn["cos3"]), mean_cosine(bl["cos3"]))[k, at]
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
            text += " At the last look " + _against(float(end))
    return Finding(
        "amplitudes",
        "How large the adjustments are",
        text,
        ("G.2", "G.3"),
        figures,
        abs(math.log10(most)),
    )


def averages(evidence: Evidence) -> Finding | None:
    """Return how much of the baseline's gradient is of averages alone (G.3)."""
    rows = evidence.history.get("baseline")
    if rows is None:
        return None
    ratio = ratio_of(rows["means"], rows["covariance"])
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
        f"{number(typical)} times the other in the median, and {number(float(ratio[k, at]))} times "
        f"as large in {where} {when(figures['epoch'])}."
    )
    if normalized(evidence) is not None:
        text += " Normalization takes this part off: its weights learn from differences only."
    return Finding(
        "averages",
        "What moves the baseline",
        text,
        ("G.3", "G.2"),
        figures,
        max(0.0, math.log10(max(typical, 1e-9))),
    )


def errors(evidence: Evidence) -> Finding | None:
    """Return how the error changes on its way back (BL.4, G.5)."""
    if not evidence.history:
        return None
    parts, figures, extremes = [], {}, {}
    for name, rows in evidence.history.items():
        if rows["error"].shape[1] < 2:
            return None
        ratio = ratio_of(rows["error"][:, 0], rows["error"][:, -1])
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
            + _at_last(k, rows, f", and {_arrives(float(ratio[-1]))} at the last look")
        )
    if not parts:
        return None
    text = "On its way back through the layers an error shrinks or grows: "
    text += "; ".join(parts) + "."
    logs = [math.log10(value) for value in extremes.values()]
    strength = abs(logs[0] - logs[1]) if len(logs) == 2 else abs(logs[0])
    tags = tuple({"baseline": "BL.4", "bn": "G.5"}[name] for name in figures)
    return Finding("errors", "How much error arrives", text, tags, figures, strength)


def inputs(evidence: Evidence) -> Finding | None:
    """Return where activations are flat, and what they are fed with (BL.9)."""
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


def directions(evidence: Evidence) -> Finding | None:
    """Return how far the neurons of a layer say the same (G.1)."""
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
            + _at_last(k, rows, f", and to {_directions_of(course[-1, at])} at the last look")
        )
    if not parts:
        return None
    text = "Neurons that rise and fall together say one thing: the " + "; the ".join(parts) + "."
    strength = abs(math.log10(least[0] / least[1])) if len(least) == 2 else 0.0
    return Finding("directions", "How much the neurons differ", text, ("G.1",), figures, strength)


def dead(evidence: Evidence) -> Finding | None:
    """Name layers where no error arrives."""
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


def _against(ratio: float) -> str:
    if math.isnan(ratio):
        return "one of the two is zero."
    if ratio >= 1:
        return f"it is {times(ratio)} as large."
    return f"it is the baseline's that is {times(1 / ratio)} as large."


def _arrives(ratio: float) -> str:
    return "none arrives" if math.isnan(ratio) else f"{number(ratio)} times its length"


def _directions_of(count: float) -> str:
    return "none, as none varies," if math.isnan(count) else number(float(count))


def _at_last(k: int | np.intp, rows: np.ndarray, text: str) -> str:
    """Return the text, unless the last look is the one that was spoken of."""
    return text if k + 1 < len(rows) else ""


def _both(evidence: Evidence) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both networks' rows at the epochs at which both were recorded."""
    rows = evidence.history
    if not {"baseline", "bn"} <= rows.keys() or not rows["bn"]["removed"].shape[1]:
        return None
    epochs = np.intersect1d(rows["baseline"]["epoch"], rows["bn"]["epoch"])
    if not len(epochs):
        return None
    bl, bn = (rows[name][np.isin(rows[name]["epoch"], epochs)] for name in ("baseline", "bn"))
    return bl, bn
