"""`bnjax predict`: a saved network on new data."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bnjax import costs, network
from bnjax.app.data import encode_known, filled, read_samples
from bnjax.app.errors import UserError, nearest, refusals
from bnjax.app.io import files
from bnjax.app.io.terminal import say
from bnjax.app.measures import evaluation
from bnjax.app.options import Predict
from bnjax.app.run.saved import SavedRun, load_run


def predict(options: Predict) -> int:
    """Predict as the options say; write a CSV; print what was found.

    Returns:
        The exit code, 0.

    Raises:
        UserError: The run or the data cannot be read or do not fit, or the CSV cannot be written.
    """
    run = load_run(options.run)
    name = options.network or ("bn" if "bn" in run.networks else "baseline")
    if name not in run.networks:
        raise UserError(
            f"--network: {options.run} has no network {name!r}: {nearest(name, run.networks)}"
        )
    out = Path(options.out) if options.out else run.path / "predictions.csv"
    if options.out and os.path.lexists(out) and not options.overwrite:
        raise UserError(f"--out: {out} exists; name another file, or add --overwrite")
    net, params, state, _ = run.networks[name]
    preparation = run.preparation
    raw, y, notes = read_samples(
        options.file,
        n_in=len(preparation.columns) or net.sizes[0],
        columns=preparation.columns,
        trained_label=preparation.label,
        label=options.label,
        max_size=options.max_size,
    )
    for note in (*notes, *filled(options.file, raw, preparation.columns)):
        say(note)
    x = jnp.asarray(preparation.features(raw))
    found: dict[str, Any] = {"samples": len(x), "network": name, "run": str(run.path)}
    logits, _ = network.bn_apply(net, params, state, x, train=False)
    if y is not None:
        targets = encode_known(f"{options.file}, labels", y, preparation, net.cost)
        cost, accuracy = evaluation.evaluate(
            net, params, state, x, jnp.asarray(targets), classify=bool(run.classes)
        )
        found |= {"cost": float(cost), "accuracy": float(accuracy) if run.classes else None}
        if preparation.targets:
            found["error"] = preparation.errors(logits, targets)
    _write(out, run, net.cost, logits, y)
    found["out"] = str(out)
    if options.json:
        print(files.to_json(found).decode())
    else:
        known = "" if y is None else f"cost {found['cost']:.4g}; "
        for target, error in found.get("error", {}).items():
            known += f"root mean square error of {target} {error:.4g}; "
        if y is not None and run.classes:
            known = f"accuracy {found['accuracy']:.1%}, {known}"
        print(f"{len(x)} samples of {options.file} by {name} of {run.path}: {known}see {out}")
    return 0


def _write(out: Path, run: SavedRun, cost: str, logits: Any, y: np.ndarray | None) -> None:
    """Write one line per sample: its number, its label if known, its prediction, the outputs."""
    outputs = np.asarray(costs.get(cost).link(logits))
    labels = [[]] * len(outputs) if y is None else y.reshape(len(y), -1).tolist()
    header = ["sample"] + ["label"] * len(labels[0])
    if run.classes:
        if outputs.shape[1] == 1:  # two classes share it: 1 stands for the second
            outputs = np.concatenate([1 - outputs, outputs], axis=1)
        kind = "p" if cost.endswith("cross_entropy") else "output"
        header += ["prediction", *(f"{kind}({name})" for name in run.classes)]
        predicted = [[run.classes[i]] for i in np.asarray(evaluation.decide(logits)).astype(int)]
    else:
        names = [target.name for target in run.preparation.targets]
        header[1:] = names * (y is not None) + [f"prediction({name})" for name in names]
        outputs = run.preparation.predictions(outputs)
        predicted = [[]] * len(outputs)
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(header)
    for number, row in enumerate(outputs.tolist()):
        rows.writerow([number, *labels[number], *predicted[number], *row])
    written = text.getvalue().encode("utf-8", "surrogateescape")
    with refusals(f"--out: {out} cannot be written", "name another file"):
        files.write(out, lambda file: file.write(written))
