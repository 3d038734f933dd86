"""The linear operation that feeds a normalization, found by following x back through a program.

Between the two may lie a bias or whatever else is added that does not depend on the batch, casts,
reshapes and transposes that keep the channels apart from the samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax import Array
from jax.extend.core import JaxprEqn

from bnjax.geometry.equations import LINEAR, RESHAPING, UNCHANGED, called_name


@dataclass(frozen=True, eq=False)
class Value:
    """A value of a program, and where it comes from.

    Attributes:
        array: The array, usually traced.
        names: The parameters that it is computed from; empty where it depends on the batch.
        batch: Whether it depends on the batch.
        eqn: The equation that computes it, or None.
        inputs: That equation's inputs.
        origin: What it is where `eqn` is None, in words.
    """

    array: Any
    names: frozenset[str] = frozenset()
    batch: bool = False
    eqn: JaxprEqn | None = None
    inputs: tuple["Value", ...] = ()
    origin: str = "a constant"


class Feed(NamedTuple):
    """A linear operation Λ(u, W), and the way from x back to its output.

    Attributes:
        u: Its input.
        W: Its weights.
        output: Λ(u, W).
        eqn: Its equation, which holds how the axes correspond.
        weights_first: Whether W is its first operand.
        neurons: The axes of the output that are W's, one entry per neuron.
        moves: What turns an array of x's shape into one of the output's: a shape to reshape to, or
            a permutation to transpose by, one after the other.
    """

    u: Value
    W: Value
    output: Value
    eqn: JaxprEqn
    weights_first: bool
    neurons: tuple[int, ...]
    moves: tuple[tuple[str, tuple[int, ...]], ...] = ()


class Unfollowed(Exception):
    """Why x cannot be followed back to a linear operation, in words."""


def find_feed(x: Value, features: tuple[int, ...]) -> Feed:
    """Follow x back to the linear operation whose neurons are x's channels.

    Raises:
        Unfollowed: There is none.
    """
    moves: list[tuple[str, tuple[int, ...]]] = []
    channel = [axis in features for axis in range(x.array.ndim)]
    while x.eqn is None or x.eqn.primitive.name not in LINEAR:
        if x.eqn is None:
            raise Unfollowed(f"its input is {x.origin}, not the output of a linear operation")
        before = _operand(x.eqn, x.inputs)
        move = _move(x.eqn, x.array.shape, before.array.shape)
        if move is not None:
            moves.append(move)
            channel = _moved_channels(channel, x.array.shape, move)
        x = before
    try:
        feed = linear_operation(x)
    except Unfollowed as reason:
        raise Unfollowed(f"its input is {reason}") from None
    shape = x.array.shape
    if any(channel[a] != (a in feed.neurons) for a in range(len(shape)) if shape[a] > 1):
        raise Unfollowed("its channels are not the outputs of the linear operation before it")
    return feed._replace(moves=tuple(moves))


def linear_operation(x: Value) -> Feed:
    """Return the linear operation that computes x, without moves.

    Raises:
        Unfollowed: Not one operand is the parameters' and the other the batch's; or it is one of
            the rare operations that are not measured.
    """
    assert x.eqn is not None
    first, second = x.inputs
    if first.batch and second.batch:
        raise Unfollowed("the product of two arrays that both depend on the batch")
    if not first.batch and not second.batch:
        raise Unfollowed("the product of two arrays that do not depend on the batch")
    W = second if first.batch else first
    if not W.names:
        raise Unfollowed("a linear operation whose weights are not in `params`")
    weights_first = W is first
    if x.eqn.primitive.name == "conv_general_dilated":
        if weights_first:
            raise Unfollowed("a convolution with the batch, of an image that is a parameter")
        if x.eqn.params["batch_group_count"] != 1:
            raise Unfollowed("a convolution with groups of samples")
        neurons = (x.eqn.params["dimension_numbers"].out_spec[1],)
    else:
        (left, _), batched = x.eqn.params["dimension_numbers"]
        if any(batched):
            raise Unfollowed("a batched product, in which each element has its own weights")
        free = W.array.ndim - len(left)
        start = 0 if weights_first else x.array.ndim - free
        neurons = tuple(range(start, start + free))
    return Feed(first if first.batch else second, W, x, x.eqn, weights_first, neurons)


def apply_moves(a: Array, moves: Sequence[tuple[str, tuple[int, ...]]]) -> Array:
    """Apply `Feed.moves`."""
    for kind, numbers in moves:
        a = a.reshape(numbers) if kind == "reshape" else a.transpose(numbers)
    return a


def _operand(eqn: JaxprEqn, inputs: tuple[Value, ...]) -> Value:
    """Return the one input of an equation to follow."""
    name = eqn.primitive.name
    if name in UNCHANGED or name in RESHAPING or name in ("transpose", "name"):
        return inputs[0]
    if name in ("add", "add_any", "sub"):
        varying = [value for value in inputs if value.batch]
        if len(varying) > 1:
            raise Unfollowed("its input is a sum of several arrays that depend on the batch")
        # b − x would be fed by −W
        if varying and not (name == "sub" and varying[0] is inputs[1]):
            return varying[0]
    raise Unfollowed(f"its input is the output of `{called_name(eqn)}`, not of a linear operation")


def _move(
    eqn: JaxprEqn, shape: tuple[int, ...], before: tuple[int, ...]
) -> tuple[str, tuple[int, ...]] | None:
    """Return what undoes an equation, or None for one that moves nothing."""
    name = eqn.primitive.name
    if name == "transpose":
        permutation = eqn.params["permutation"]
        return "transpose", tuple(permutation.index(a) for a in range(len(permutation)))
    if name not in RESHAPING:
        if shape != before:
            raise Unfollowed(f"its input is broadcast by `{name}`")
        return None
    ones = [[size for size in each if size != 1] for each in (shape, before)]
    if name == "broadcast_in_dim" and ones[0] != ones[1]:
        raise Unfollowed("its input is broadcast")
    return "reshape", before


def _moved_channels(
    channel: list[bool], shape: tuple[int, ...], move: tuple[str, tuple[int, ...]]
) -> list[bool]:
    """Return which axes are channels after a move."""
    kind, numbers = move
    if kind == "reshape":
        return _reshaped_channels(channel, shape, numbers)
    order = [a for a in numbers if channel[a] and shape[a] > 1]
    if order != sorted(order):
        raise Unfollowed("its channels are in another order than the linear operation's outputs")
    return [channel[a] for a in numbers]


def _reshaped_channels(
    channel: list[bool], old: tuple[int, ...], new: tuple[int, ...]
) -> list[bool]:
    """Return which axes are channels after a reshape, group by group of axes that it mixes."""
    found, i, j = [False] * len(new), 0, 0
    while i < len(old) and j < len(new):
        rows, columns, left, right = [i], [j], old[i], new[j]
        while left != right:
            if left < right:
                rows.append(rows[-1] + 1)
                left *= old[rows[-1]]
            else:
                columns.append(columns[-1] + 1)
                right *= new[columns[-1]]
        kinds = {channel[a] for a in rows if old[a] > 1}
        if len(kinds) > 1:
            raise Unfollowed("a reshape before it mixes channels with samples")
        for a in columns:
            found[a] = kinds == {True}
        i, j = rows[-1] + 1, columns[-1] + 1
    return found
