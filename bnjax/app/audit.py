"""`bnjax audit`: hold bnjax's own rules, or a user's function, to a plain reference."""

import importlib
import json
import operator
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from bnjax import audit, batch_norm, normalize
from bnjax.activations import ACTIVATIONS, Activation
from bnjax.app.errors import UserError, nearest
from bnjax.app.folders import device_name, finite
from bnjax.app.options import Audit

_WORKERS = 2  # compiling is what takes the time, and it leaves Python's lock alone
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_BATCHES = (  # shape, feature axes, where
    ((5, 3), -1, "none"),
    ((2, 3), -1, "none"),  # two samples: all terms cancel
    ((2, 3, 4), 1, "mask"),
    ((2, 2, 3, 2), (1, -1), "weights"),
)


class Case(NamedTuple):
    """One of bnjax's rules on one kind of arguments."""

    rule: str
    what: str
    f: Callable[..., Any]
    g: Callable[..., Any]
    args: tuple[Any, ...]


def command(options: Audit) -> int:
    """Audit what the options name, bnjax's own rules if they name nothing; print what was found.

    Returns:
        The exit code: 0, or 1 if a rule and its reference disagree.

    Raises:
        UserError: The options do not fit, or a function cannot be loaded or called.
    """
    options.check()
    return _theirs(options) if options.functions else _ours(options)


def _theirs(options: Audit) -> int:
    """Audit a function of the user's."""
    sys.path.insert(0, "")  # what lies in the current folder can be named
    f, *rest = [_load(name, "functions") for name in options.functions]
    assert options.args is not None
    make_args = _load(options.args, "--args")
    try:
        args = make_args()
    except Exception as error:
        raise UserError(f"--args: {options.args}() raised {_said(error)}") from error
    try:
        report = audit.compare(
            f,
            rest[0] if rest else None,
            args,
            rtol=options.rtol,
            modes=options.modes or "all",
            transforms=options.transforms or "all",
            key=options.seed,
        )
    except Exception as error:  # their functions may raise anything
        said = str(error) if str(error).startswith("audit.") else _said(error)
        raise UserError(f"{options.functions[0]}: {said}") from error
    if options.json:
        print(json.dumps(report.to_json(), allow_nan=False))
    else:
        print(report)
    return 0 if report.ok else 1


def _load(name: str, option: str) -> Callable[..., Any]:
    """Import MODULE and take NAME out of it."""
    module, _, attribute = name.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise UserError(f"{option}: there is no module {module!r}") from None
        raise UserError(f"{option}: importing {module} raised {_said(error)}") from error
    except Exception as error:
        raise UserError(f"{option}: importing {module} raised {_said(error)}") from error
    try:
        found = operator.attrgetter(attribute)(loaded)
    except AttributeError:
        names = [one for one in vars(loaded) if not one.startswith("_")]
        hint = nearest(attribute, names)
        raise UserError(f"{option}: {module} has no {attribute!r}: {hint}") from None
    if not callable(found):
        raise UserError(f"{option}: {name} is no function but {type(found).__name__}")
    return found


def _said(error: Exception) -> str:
    first = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first[0]}"


def _ours(options: Audit) -> int:
    """Audit bnjax's own rules over shapes, axes, weights and dtypes."""
    began = time.perf_counter()
    jax.config.update("jax_enable_x64", True)
    cases = _cases(options.seed)
    console = Console(stderr=True)
    console.print(f"auditing {len(cases)} rules in {len(_DTYPES)} dtypes", highlight=False)

    def run(case: Case) -> list[audit.Report]:
        compare = audit.make_compare(
            case.f,
            case.g,
            rtol=options.rtol,
            modes=options.modes or "all",
            transforms=options.transforms or "jit",
        )
        casts = (jax.tree.map(lambda a: jnp.asarray(a, dtype), case.args) for dtype in _DTYPES)  # noqa: B023
        return [compare(args, key=options.seed) for args in casts]

    with ThreadPoolExecutor(_WORKERS) as pool:
        found = list(zip(cases, pool.map(run, cases), strict=True))
    entries = [
        {"rule": case.rule, "case": case.what, "dtype": dtype, **report.to_json()}
        for case, reports in found
        for dtype, report in zip(_DTYPES, reports, strict=True)
    ]
    worst = [max(reports, key=_badness).worst for _, reports in found]
    at = max(range(len(found)), key=lambda i: (worst[i].failed, worst[i].scaled))
    summary = {
        "rules": len(found),
        "comparisons": sum(len(entry["rows"]) for entry in entries),
        "failed": sum(not entry["ok"] for entry in entries),
        "worst": {"rule": cases[at].rule, "case": cases[at].what, **worst[at]._asdict()},
        "tolerance": entries[0]["tolerance"],
        "audits": entries,
        "device": device_name(),
        "seconds": time.perf_counter() - began,
    }
    if options.json:
        print(json.dumps(finite(summary), allow_nan=False))
    else:
        _show(found, summary)
    return 1 if summary["failed"] else 0


def _badness(report: audit.Report) -> tuple[bool, float]:
    return not report.ok, report.worst.scaled


def _cases(seed: int) -> list[Case]:
    """List the rules, each with float64 arguments that are cast to the other dtypes."""
    rng = np.random.default_rng(seed)
    cases = [_normalization("vjp", *batch, rng) for batch in _BATCHES]
    cases += [_normalization("jvp", *batch, rng) for batch in _BATCHES[::3]]
    mean, gamma, beta = rng.normal(size=(3, 3))
    args = rng.normal(size=(4, 3)), mean, rng.uniform(0.5, 2, 3), gamma, beta
    cases.append(Case("normalize", "(4, 3)", partial(normalize, eps=0.1), _plain, args))
    args = (rng.normal(size=7),)
    cases.append(Case("g'", "all activations", _by_g_prime, _by_autodiff, args))
    return cases


def _normalization(rule: str, shape: tuple[int, ...], axis: Any, where: str, rng: Any) -> Case:
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
    return Case(f"batch_norm {rule}", what, f, g, args)


def _plain(x: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
    gamma, mean, var, beta = (a[None] for a in (gamma, mean, var, beta))
    return gamma * (x - mean) / jnp.sqrt(var + 0.1) + beta


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


def _show(found: list[tuple[Case, list[audit.Report]]], summary: dict[str, Any]) -> None:
    """Print the summary for a person, on stdout."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 130  # a file has no width
    table = Table("rule", "on", title="worst error, in eps of each dtype", title_justify="left")
    for title in (*_DTYPES, "comparisons"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for case, reports in found:
        figures = (f"{report.worst.scaled:.2g}" for report in reports)
        verdict = "agrees" if all(report.ok for report in reports) else "disagrees"
        count = sum(len(report.rows) for report in reports)
        table.add_row(case.rule, case.what, *figures, str(count), verdict)
    console.print(table)
    for case, reports in found:
        for dtype, report in zip(_DTYPES, reports, strict=True):
            if not report.ok:
                console.print(f"{case.rule}, {case.what}, {dtype}:\n{report}", soft_wrap=True)
    worst = summary["worst"]
    console.print(
        f"{summary['rules']} rules in {len(_DTYPES)} dtypes, {summary['comparisons']} comparisons, "
        f"{summary['failed']} disagree; worst {worst['scaled']:.2g} eps, up to "
        f"{summary['tolerance']:g} agrees ({worst['mode']} of {worst['leaf']} in {worst['dtype']}, "
        f"{worst['rule']}, {worst['case']}); {summary['device']}, {summary['seconds']:.1f} s",
        soft_wrap=True,
    )
