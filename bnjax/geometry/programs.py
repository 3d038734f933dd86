"""A traced program, evaluated equation by equation, to see each normalization in it.

Of each the arrays around it are kept, and a zero is added to its y: the gradient in that zero is
the error Δ = ∂C/∂y. Functions that are called (jit, remat) are entered, and so are the bodies of
scans; what else holds a normalization is evaluated as it is, and listed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from bnjax import _marks
from bnjax._marks import Mark
from bnjax.geometry.equations import (
    LINEAR,
    called_name,
    evaluate,
    holds_linear,
    inner_programs,
)
from bnjax.geometry.feeds import Feed, Unfollowed, Value, find_feed, linear_operation
from bnjax.geometry.saturations import Saturations

STEP = "[step]"  # stands for the index of a step of a scan in a name
# the equations that call a function, and where they hold it
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
_CALLS |= {"closed_call": "call_jaxpr", "core_call": "call_jaxpr", "custom_vmap_call": "call"}


@dataclass
class Site:
    """A layer of the program: a normalization with what feeds it, or a linear operation.

    Attributes:
        name: The parameter that its weights are, or that its γ is, or "".
        arrays: x, and where there are any, γ, u and W, and what `Saturations` finds; stacked along
            the steps of scans.
        norm: Whether it is a normalization.
        features: The feature axes of x.
        eps: ε.
        feed: The linear operation, or None.
        unfollowed: Why there is none.
        steps: The lengths of the scans around it, from outside.
    """

    name: str
    arrays: dict[str, Array]
    norm: bool
    features: tuple[int, ...]
    eps: float
    feed: Feed | None
    unfollowed: str = ""
    steps: tuple[int, ...] = ()


@dataclass
class Evaluation:
    """One evaluation of a program.

    Attributes:
        plain: Whether linear operations without normalization are layers, too.
        taps: What is added to each layer's y, in the order of `sites`, nested by scans; None to
            learn their shapes.
        shapes: The shapes of the taps.
        sites: The layers found.
        skipped: Names of normalizations that cannot be observed, and the reasons.
        saturations: The activations behind the layers.
    """

    plain: bool
    taps: Iterator[Any] | None = None
    shapes: list[Any] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    saturations: Saturations = field(default_factory=Saturations)
    _open: dict[int, dict[str, tuple[Mark, Value]]] = field(default_factory=dict)

    def run(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """Evaluate a program on values."""
        known = dict(zip(jaxpr.constvars, map(Value, consts), strict=True))
        known |= dict(zip(jaxpr.invars, args, strict=True))

        def value(atom: Any) -> Value:
            return Value(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            outs = self._equation(eqn, tuple(map(value, eqn.invars)))
            known |= dict(zip(eqn.outvars, outs, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: JaxprEqn, inputs: tuple[Value, ...]) -> list[Value]:
        name = eqn.primitive.name
        mark = _marks.read(eqn.params["name"]) if name == "name" else None
        if mark is not None:
            return [self._marked(mark, inputs[0])]
        if name in _CALLS and _CALLS[name] in eqn.params:
            called = eqn.params[_CALLS[name]]
            closed = isinstance(called, ClosedJaxpr)
            return self.run(*((called.jaxpr, called.consts) if closed else (called, ())), inputs)
        if name == "scan" and (_marks_in(eqn.params["jaxpr"].jaxpr) or self.plain):
            return self._scan(eqn, inputs)
        names = frozenset[str]().union(*(v.names for v in inputs))
        batch = any(v.batch for v in inputs)
        self._list_hidden(eqn, "".join(names) if len(names) == 1 else "", batch and bool(names))
        outs = [
            Value(a, frozenset() if batch else names, batch, eqn, inputs)
            for a in evaluate(eqn, [v.array for v in inputs])
        ]
        self.saturations.follow(eqn, inputs, outs)
        if name in LINEAR:
            if batch and names:
                self.saturations.next_layer()
            if self.plain:
                outs = [self._plain(outs[0])]
        return outs

    def _marked(self, mark: Mark, value: Value) -> Value:
        """Note what a mark shows; add the tap to y."""
        if mark.role == "x":
            self._open[mark.number] = {}
        around = self._open.setdefault(mark.number, {})
        around[mark.role] = mark, value
        if mark.role != "y":
            return value
        del self._open[mark.number]
        y = replace(value, eqn=None, inputs=(), origin="the output of another normalization")
        gamma = around.get("gamma")
        name = "" if gamma is None else _name(gamma[1])
        feed, unfollowed = None, "its input is not in the same part of the program"
        if "x" in around:
            try:
                feed = find_feed(around["x"][1], mark.features)
                name = _name(feed.W)
            except Unfollowed as reason:
                unfollowed = str(reason)
        obstacle = _obstacle(around)
        if obstacle:
            self.skipped.append((name, obstacle))
            return y
        arrays = {"x": around["x"][1].array}
        if gamma is not None:
            arrays["gamma"] = gamma[1].array
        if feed is not None:
            arrays |= {"u": feed.u.array, "W": feed.W.array}
            unfollowed = ""
        site = Site(name, arrays, True, mark.features, mark.eps, feed, unfollowed)
        return self._tapped(site, y)

    def _list_hidden(self, eqn: JaxprEqn, name: str, combines: bool) -> None:
        """List the layers inside an equation that is not entered."""
        inner = list(inner_programs(eqn))
        marks = dict.fromkeys(mark.number for one in inner for mark in _marks_in(one))
        number = len(marks)
        if self.plain and combines and not marks:
            number = int(any(holds_linear(one) for one in inner))
        reason = f"it is inside `{called_name(eqn)}`, which is not entered"
        self.skipped += [(name, reason)] * number

    def _plain(self, out: Value) -> Value:
        """Tap a linear operation that may have no normalization."""
        try:
            feed = linear_operation(out)
        except Unfollowed as reason:
            names = [_name(value) for value in out.inputs if value.names]
            if names and out.batch:  # of parameters and the batch
                self.skipped.append((names[0], f"it is {reason}"))
            return out
        arrays = {"x": out.array, "u": feed.u.array, "W": feed.W.array}
        return self._tapped(Site(_name(feed.W), arrays, False, feed.neurons, 0.0, feed), out)

    def _tapped(self, site: Site, y: Value) -> Value:
        self.sites.append(site)
        self.shapes.append(jax.ShapeDtypeStruct(y.array.shape, y.array.dtype))
        if self.taps is not None:
            y = replace(y, array=y.array + next(self.taps))
        self.saturations.add_layer(site.arrays, y)
        return y

    def _scan(self, eqn: JaxprEqn, inputs: tuple[Value, ...]) -> list[Value]:
        """Evaluate a scan whose body is evaluated in turn."""
        p = eqn.params
        body, (consts, carried) = p["jaxpr"], _count_scanned(eqn)
        initial, scanned = inputs[consts : consts + carried], inputs[consts + carried :]
        inside: list[Evaluation] = []

        def step(carry, slices):
            arrays, taps = slices
            inner = Evaluation(self.plain, None if taps is None else iter(taps))
            inside[:] = [inner]  # of the last trace, if there are several
            state = [Value(a, batch=True, origin="carried by a scan") for a in carry]
            parts = [
                replace(v, array=a, names=frozenset(n + STEP for n in v.names), eqn=None)
                for v, a in zip(scanned, arrays, strict=True)
            ]
            outs = inner.run(body.jaxpr, body.consts, [*inputs[:consts], *state, *parts])
            inner.saturations.use(outs)
            inner.saturations.next_layer()  # whoever reads the carry
            inner.saturations.measure()
            outs = [out.array for out in outs]
            return outs[:carried], (outs[carried:], [site.arrays for site in inner.sites])

        taps = None if self.taps is None else next(self.taps)
        xs = [v.array for v in scanned], taps
        options = {name: p[name] for name in ("length", "reverse", "unroll")}
        carry, (ys, found) = lax.scan(step, [v.array for v in initial], xs, **options)
        (inner,), length = inside, p["length"]
        self.shapes.append(
            jax.tree.map(lambda s: jax.ShapeDtypeStruct((length, *s.shape), s.dtype), inner.shapes)
        )
        for site, arrays in zip(inner.sites, found, strict=True):
            self.sites.append(replace(site, arrays=arrays, steps=(length, *site.steps)))
        self.skipped += inner.skipped
        batch = any(v.batch for v in inputs)
        return [Value(a, batch=batch, origin="the output of a scan") for a in [*carry, *ys]]


def _count_scanned(eqn: JaxprEqn) -> tuple[int, int]:
    """Return how many inputs of a scan are constants, and how many are carried.

    From the ranks, as the parameters that say so differ between versions of JAX: what is scanned or
    stacked has an axis more than in the body.
    """
    body = eqn.params["jaxpr"].jaxpr

    def whole(outside: Sequence[Any], inside: Sequence[Any]) -> int:
        pairs = zip(outside, inside, strict=True)
        return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)

    carried = whole(eqn.outvars, body.outvars)
    return whole(eqn.invars, body.invars) - carried, carried


def _obstacle(around: dict[str, tuple[Mark, Value]]) -> str:
    """Return why a normalization cannot be observed, or ""."""
    mark = around["y"][0]
    if mark.obstacle:
        return mark.obstacle
    if "x" not in around:
        return "its input is in another part of the program than its output"
    own = {role: value.array.ndim - found.ndim for role, (found, value) in around.items()}
    if own["x"] > mark.names or own["y"] > mark.names or own.get("gamma", 0):
        return "it is mapped by `vmap`, and each element is normalized by itself"
    if own["x"] != own["y"] or own["y"] < mark.names:
        return "it normalizes over an axis of a `vmap` whose elements are the same"
    return ""


def _name(value: Value) -> str:
    """Return the names of the parameters that a value is computed from."""
    return ", ".join(sorted(value.names))


def _marks_in(jaxpr: Jaxpr) -> list[Mark]:
    """Return the marks of y in a program, and in all that it holds."""
    found = []
    for eqn in jaxpr.eqns:
        mark = _marks.read(eqn.params["name"]) if eqn.primitive.name == "name" else None
        found += [mark] if mark is not None and mark.role == "y" else []
        for inner in inner_programs(eqn):
            found += _marks_in(inner)
    return found
