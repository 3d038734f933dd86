"""Measure and draw the three pictures of docs/why.md.

    python benchmarks/accelerators.py --json --who bnjax flax haiku equinox "two passes"
        --targets v5e h100 --only 8192x512 32x28x28x128 > passes.json
    python benchmarks/why.py --passes passes.json
    python benchmarks/why.py --draw        # only draw again what docs/pictures/why.json holds

Digits: the relative error of y and of x̄ where the mean is large, float32, x of 256 samples and 64
channels, against the formula in float64. Scales: the test accuracy on digits after so many epochs,
both networks, weights multiplied by a factor at the start, over the learning rate; the median over
seeds. Passes: how often compiled programs move the batch through memory, forward and backward.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _layers
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import machine
from jax import Array, lax
from matplotlib import rc_context
from matplotlib.figure import Figure

from bnjax import Network, bn_apply, training
from bnjax.app import data as datasets

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
OFFSETS = tuple(10.0**k for k in range(7))
FACTORS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
EPOCHS, BATCH_SIZE, SEEDS = 20, 60, (0, 1, 2)
WHO = ("bnjax", "flax", "haiku", "equinox")
THEMES = {  # background, text, grid; the site has a light and a dark half
    "light": ("none", "#222832", "#c9cbd0"),
    "dark": ("none", "#ced6dd", "#4b5563"),
}
COLOURS = {
    "bnjax": "#3b82f6",
    "flax": "#e07b39",
    "haiku": "#a855c7",
    "equinox": "#4ba36b",
    "torch": "#b8860b",
    "two passes": "#888f99",
}


def errors(y: Any, wanted: np.ndarray) -> float | None:
    """Return the relative error, or None where a result is NaN."""
    error = np.linalg.norm(np.asarray(y, np.float64) - wanted) / np.linalg.norm(wanted)
    return float(error) if np.isfinite(error) else None


def exact(x: np.ndarray, y_bar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x̄ in float64, γ = 1 and β = 0."""
    deviation = x - x.mean(0)
    r = (deviation.var(0) + _layers.EPS) ** -0.5
    y = deviation * r
    return y, r * (y_bar - y_bar.mean(0) - y * (y_bar * y).mean(0))


def by_torch(x: np.ndarray, y_bar: np.ndarray) -> tuple[Any, Any]:
    import torch

    given = torch.tensor(x, requires_grad=True)
    y = torch.nn.functional.batch_norm(given, None, None, training=True, eps=_layers.EPS)
    y.backward(torch.tensor(y_bar))
    assert given.grad is not None
    return y.detach().numpy(), given.grad.numpy()


def by_jax(layer: Callable[..., Array], x: np.ndarray, y_bar: np.ndarray) -> tuple[Array, Array]:
    gamma, beta = jnp.ones(x.shape[1]), jnp.zeros(x.shape[1])

    @jax.jit
    def both(x, y_bar):
        y, pull_back = jax.vjp(lambda x: layer(x, gamma, beta, axis=-1), x)
        return y, pull_back(y_bar)[0]

    return both(x, y_bar)


def measure_means() -> dict[str, dict[str, list[float | None]]]:
    """Compute the errors of y and of x̄ by framework, one for each offset."""
    rng = np.random.default_rng(0)
    noise, y_bar = rng.normal(size=(2, 256, 64)).astype(np.float32)
    found: dict[str, dict[str, list[float | None]]] = {}
    for offset in OFFSETS:
        x = np.float32(offset) + noise
        wanted = exact(x.astype(np.float64), y_bar.astype(np.float64))
        results = {who: by_jax(_layers.LAYERS[who].train, x, y_bar) for who in WHO}
        results["torch"] = by_torch(x, y_bar)
        for who, result in results.items():
            row = found.setdefault(who, {"y": [], "x_bar": []})
            for name, got, right in zip(("y", "x_bar"), result, wanted, strict=True):
                row[name].append(errors(got, right))
    return found


def make_run(net: Network) -> Callable[..., Array]:
    """Make (rate, factor, key, training set, test set) -> accuracy on the test set at the end."""

    @jax.jit
    def run(rate: Array, factor: Array, key: Array, train: Any, test: Any) -> Array:
        optimizer = optax.sgd(rate)
        train_epoch = training.make_epoch(net, optimizer)
        start = training.init(net, optimizer, key)
        start = start._replace(
            params=tuple(layer._replace(W=factor * layer.W) for layer in start.params)
        )

        def epoch(train_state, number):
            order_key = jax.random.fold_in(jax.random.fold_in(key, 1), number)
            order = training.shuffle(order_key, len(train[0]), BATCH_SIZE)
            return train_epoch(train_state, order, *train)[0], None

        end = lax.scan(epoch, start, jnp.arange(1, EPOCHS + 1))[0]
        logits, _ = bn_apply(net, end.params, end.state, test[0], train=False)
        return jnp.mean(jnp.argmax(logits, 1) == jnp.argmax(test[1], 1))

    return run


def measure_scales() -> dict[str, list[list[float]]]:
    """Compute the median accuracy by network: a row for each factor, a column for each rate."""
    found: dict[str, list] = {"baseline": [], "bn": []}
    for name, rows in found.items():
        run = None
        for seed in SEEDS:
            data = datasets.load("digits", cost="sigmoid_cross_entropy", seed=seed, scale="range")
            run = run or make_run(
                Network((data.n_in, 100, 100, 100, data.n_out), norm=name == "bn")
            )
            sets = (data.x_train, data.targets_train), (data.x_test, data.targets_test)
            key = jax.random.key(seed)
            rows.append([[float(run(r, f, key, *sets)) for r in RATES] for f in FACTORS])
    return {name: np.median(rows, 0).tolist() for name, rows in found.items()}


def read_passes(file: Path) -> list[dict[str, Any]]:
    """Read what `accelerators.py --json` counted, forward and backward."""
    programs = json.loads(file.read_text())["programs"]
    kept = ("target", "workload", "who", "dtype", "passes")
    return [
        {name: one[name] for name in kept}
        for one in programs
        if ":" not in one["workload"] and "," not in one["workload"] and "passes" in one
    ]


def draw_means(found: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    for panel, (what, title) in zip(axes, (("y", "y"), ("x_bar", "the gradient x̄")), strict=True):
        for who, row in found.items():
            values = np.array([np.nan if v is None else v for v in row[what]])
            style = {"color": COLOURS[who], "label": who, "marker": "o", "markersize": 4}
            style["linestyle"] = "--" if who == "torch" else "-"  # it lies on equinox's
            panel.loglog(OFFSETS, np.clip(values, None, 1e3), **style)
        panel.axhline(1, linewidth=1, linestyle=":", color="#888888")
        panel.set_xlabel("mean, in standard deviations")
        panel.set_title(f"error of {title}")
        panel.grid(alpha=0.5)
    axes[0].set_ylabel("relative error (1: no digit is right)")
    axes[0].legend(fontsize=8)


def draw_scales(found: dict[str, Any], figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"baseline": "without normalization", "bn": "with batch normalization"}
    for panel, (name, title) in zip(axes, titles.items(), strict=True):
        values = np.array(found[name])
        panel.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        for i, j in np.ndindex(*values.shape):
            colour = "#111111" if values[i, j] > 0.6 else "#ffffff"
            text = f"{100 * values[i, j]:.0f}"
            panel.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
        panel.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
        panel.set_yticks(range(len(FACTORS)), [f"{factor:g}" for factor in FACTORS])
        panel.set_xlabel("learning rate")
        panel.set_title(title)
    axes[0].set_ylabel("initial weights times")


def draw_passes(found: list[dict[str, Any]], figure: Figure) -> None:
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"v5e": "TPU v5e", "h100": "H100"}
    for panel, (target, title) in zip(axes, titles.items(), strict=True):
        chosen = {
            (one["workload"], one["who"]): one["passes"]
            for one in found
            if one["target"] == target and one["dtype"] == "float32"
        }
        shapes = list(dict.fromkeys(shape for shape, _ in chosen))
        whos = [who for who in COLOURS if any(one == who for _, one in chosen)]
        for k, who in enumerate(whos):
            at = [(shape, chosen[shape, who]) for shape in shapes if (shape, who) in chosen]
            where = [shapes.index(shape) + (k - len(whos) / 2 + 0.5) * 0.16 for shape, _ in at]
            bars = panel.bar(where, [v for _, v in at], 0.15, color=COLOURS[who], label=who)
            panel.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
        panel.axhline(8, linewidth=1, linestyle=":", color="#888888")
        panel.set_xticks(range(len(shapes)), shapes)
        panel.set_title(title)
    axes[0].set_ylabel("passes over the batch (8: the fewest)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(whos))


DRAWINGS = {"means": draw_means, "scales": draw_scales, "passes": draw_passes}


def draw(measured: dict[str, Any]) -> None:
    """Write each picture twice, for light and for dark pages."""
    for name, picture in DRAWINGS.items():
        for theme, (background, text, grid) in THEMES.items():
            colours = dict.fromkeys(
                ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
                text,
            )
            settings = {"svg.hashsalt": "bnjax", "grid.color": grid, "legend.framealpha": 0}
            settings |= {"axes.facecolor": background, "font.size": 10}
            with rc_context(colours | settings):
                figure = Figure(figsize=(8.4, 3.6), layout="constrained", facecolor=background)
                picture(measured[name], figure)
                figure.savefig(PICTURES / f"{name}_{theme}.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=Path, metavar="FILE", help="of accelerators.py --json")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    options = parser.parse_args()
    file = PICTURES / "why.json"
    measured = json.loads(file.read_text()) if file.exists() else {}
    if not options.draw:
        measured |= {"machine": machine(), "means": measure_means(), "scales": measure_scales()}
    if options.passes:
        measured["passes"] = read_passes(options.passes)
    file.write_text(json.dumps(measured, indent=1) + "\n")
    draw(measured)


if __name__ == "__main__":
    main()
