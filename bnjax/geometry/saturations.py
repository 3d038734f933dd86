"""How far the activations behind the layers are saturated, found in a traced program.

The activation of a layer is the function g of its y alone that is computed entry by entry before
anything else follows: a linear operation, a mean, a sum with other values. In between y may be
added to other values, as in a residual block: g is then a function of that sum. g' (BL.9) is found
by differentiating the program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import JaxprEqn

from bnjax.geometry.equations import RESHAPING, UNCHANGED, evaluate, is_elementwise
from bnjax.geometry.feeds import Value
from bnjax.geometry.layers import SATURATED

_SUMS = ("add", "add_any", "sub")
_LINEAR = (*_SUMS, *UNCHANGED, *RESHAPING, "neg", "transpose", "name")
_FAR = 50.0  # |y| at which a bounded activation is flat


class Saturations:
    """The activations of the layers of one program, found while it is evaluated."""

    def __init__(self) -> None:
        """Begin without any layer."""
        self._source: dict[Value, Value] = {}  # a value is a function of its source's entries
        self._nonlinear: set[Value] = set()
        self._layers: dict[Value, tuple[dict[str, Array], ...]] = {}  # behind which a source is
        self._seen: list[Value] = []  # outputs of activations, before another layer uses them
        self._used: list[Value] = []

    def add_layer(self, arrays: dict[str, Array], y: Value) -> None:
        """Note the output of a layer; `arrays` get what is found."""
        self._source[y] = y
        self._layers[y] = (arrays,)

    def follow(self, eqn: JaxprEqn, inputs: Sequence[Value], outs: Sequence[Value]) -> None:
        """Note what an equation computes of the values that are followed."""
        own = [v for v in inputs if v.batch]
        if len(outs) == 1 and is_elementwise(eqn):
            sources = {self._source.get(v) for v in own}
            uniform = all(v.names or _uniform(v) for v in inputs if not v.batch)
            if len(sources) == 1 and None not in sources and uniform:
                self._follow_function(eqn, own, outs[0])
                return
            straight = [v for v in own if v in self._source and v not in self._nonlinear]
            if eqn.primitive.name in _SUMS and straight:
                self.use([v for v in own if v not in straight])
                self._source[outs[0]] = outs[0]
                self._layers[outs[0]] = tuple(
                    layer for v in straight for layer in self._layers[self._source[v]]
                )
                return
        self.use(own)

    def _follow_function(self, eqn: JaxprEqn, own: list[Value], out: Value) -> None:
        self._source[out] = self._source[own[0]]
        scaled = eqn.primitive.name in ("mul", "div") and len(own) == 1
        if self._nonlinear.intersection(own) or not (scaled or eqn.primitive.name in _LINEAR):
            self._nonlinear.add(out)

    def use(self, values: Sequence[Value]) -> None:
        """Note that values are used in another way than entry by entry."""
        self._seen += [v for v in values if v in self._nonlinear]

    def next_layer(self) -> None:
        """Note that a layer follows: what is computed behind the last one is the cost."""
        self._used += self._seen
        self._seen = []

    def measure(self) -> None:
        """Put into the layers' arrays "saturated" and "bounded", where an activation is known.

        "saturated" is the fraction of the entries with |g'| under `SATURATED`, a scalar; where
        several activations follow a layer, the smallest of theirs. "bounded" is 1 where g is flat
        on both sides, or else 0.
        """
        for value in dict.fromkeys(self._used):
            source = self._source[value]
            y = jax.lax.stop_gradient(source.array)
            flat = _is_flat(value, source, y)
            ends = [_is_flat(value, source, jnp.full_like(y, end)) for end in (-_FAR, _FAR)]
            bounded = jnp.logical_and(*ends)
            for name, share in (("saturated", flat.mean()), ("bounded", bounded.mean().round())):
                for arrays in self._layers[source]:
                    arrays[name] = jnp.minimum(arrays.get(name, 1), share)


def _is_flat(value: Value, source: Value, y: Array) -> Array:
    """Return where the value, as a function of its source, has no derivative at y."""

    def function(y: Array) -> Any:
        known = {source: y}

        def at(v: Value) -> Any:
            if v not in known:
                if v.eqn is None or not v.batch:
                    return v.array
                (known[v],) = evaluate(v.eqn, [*map(at, v.inputs)])
            return known[v]

        return at(value)

    _, slope = jax.jvp(function, (y,), (jnp.ones_like(y),))
    return jnp.abs(slope) < SATURATED


def _uniform(v: Value) -> bool:
    """Return whether a constant is the same number everywhere."""
    broadcast = v.eqn is not None and v.eqn.primitive.name == "broadcast_in_dim"
    return jnp.size(v.array) == 1 or (broadcast and jnp.size(v.inputs[0].array) == 1)
