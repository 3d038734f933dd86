"""Counts read in a compiled program: what moves through memory, kernels, collectives.

The text of an optimized, scheduled program (`compiled.as_text()`) lists its instructions in the
order in which they run. An instruction reads its operands and writes its results, each once, but
for those that move nothing (`FREE`); what happens inside a fusion stays in registers.

- Passes: bytes of operands and results, in whatever memory they lie.
- HBM: bytes to and from memory space 0 alone, padded to the layout's tiles. A TPU's compiler keeps
  arrays in other memories where they fit; on a GPU both counts are the same.
- A conditional counts as the branch that moves least; what the costliest moves beyond that is the
  rare branch's. A loop whose number of turns is unknown counts as none, and one turn is the rare
  branch's.

Nothing here knows JAX: the counts depend on the text alone (`tests/test_hlo.py`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0}  # all others have their width in their name
# what computes nothing: names for values, their places, and what is known when compiled
FREE = {
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast"),
    *("after-all", "opt-barrier", "add-dependency", "partition-id", "replica-id"),
}
COLLECTIVES = (
    *("all-gather", "all-reduce", "all-to-all", "collective-broadcast"),
    *("collective-permute", "ragged-all-to-all", "reduce-scatter"),
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")


class Shape(NamedTuple):
    """An array's dtype, sizes, bytes without and with padding, and memory space."""

    dtype: str
    sizes: tuple[int, ...]
    bytes: float
    padded: float
    space: int

    @property
    def in_hbm(self) -> float:
        """Bytes in HBM, padded."""
        return self.padded if self.space == 0 else 0


class Instruction(NamedTuple):
    """One line: results, operation, operands by name (a parameter's is its number), attributes."""

    name: str
    shapes: tuple[Shape, ...]
    operation: str
    operands: tuple[str, ...]
    attributes: str

    def calls(self, *keys: str) -> list[str]:
        """The computations that these attributes name."""
        pattern = rf"\b(?:{'|'.join(keys)})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))"
        named = [several or one for several, one in re.findall(pattern, self.attributes)]
        return [name.strip().lstrip("%") for group in named for name in group.split(",")]


Program = dict[str, dict[str, Instruction]]  # computations of instructions, by name


class Counts(NamedTuple):
    """What one run of a program does; `rare` is the bytes that its rare branches add."""

    bytes: float = 0
    hbm: float = 0
    kernels: int = 0
    collectives: Counter[str] = Counter()
    rare: float = 0

    def __add__(self, other: "Counts") -> "Counts":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


def count(text: str) -> Counts:
    """Count what a compiled program moves, launches and communicates.

    Args:
        text: Of the optimized, scheduled program.

    Raises:
        ValueError: The text is not one that can be read.
    """
    program, entry = parse(text)
    return _count_computation(program, entry)


def parse(text: str) -> tuple[Program, str]:
    """Read a program's computations: (all of them, the name of the first to run)."""
    if "is_scheduled=true" not in text.partition("\n")[0]:
        raise ValueError("count: the text must be that of a scheduled HLO program.")
    program: Program = {}
    entry, body = None, None
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            body = program.setdefault(opened[2], {})
            entry = opened[2] if opened[1] else entry
        elif line.startswith("}"):
            body = None
        elif body is not None and line.strip():
            found = _INSTRUCTION.match(line)
            if found is None:
                raise ValueError(f"count: cannot read the instruction {line.strip()!r}.")
            body[found[2]] = Instruction(found[2], *_parse_right_side(found[3]))
    if entry is None:
        raise ValueError("count: found no ENTRY computation in the text.")
    return program, entry


def shapes_in(text: str) -> tuple[Shape, ...]:
    """Read all array shapes in the text of a type, tuples flattened."""
    return tuple(_shape(*found) for found in _SHAPE.findall(text))


def _shape(dtype: str, sizes: str, layout: str) -> Shape:
    known = tuple(int(size.removeprefix("<=")) for size in sizes.split(",") if size)
    width = BITS[dtype] if dtype in BITS else int(re.findall(r"\d+", dtype)[0])
    space = re.search(r"S\((\d+)\)", layout)
    order, _, tiles = layout.partition(":")
    physical = [known[int(axis)] for axis in reversed(order.split(",")) if axis]
    if tile := re.search(r"T\(([\d,]+)\)", tiles):
        for place, size in enumerate(reversed(tile[1].split(",")), 1):
            if place <= len(physical):
                physical[-place] = -(-physical[-place] // int(size)) * int(size)
    padded = math.prod(physical) if order else math.prod(known)
    return Shape(
        dtype,
        known,
        math.prod(known) * width / 8,
        padded * width / 8,
        int(space[1]) if space else 0,
    )


def _parse_right_side(text: str) -> tuple[tuple[Shape, ...], str, tuple[str, ...], str]:
    """Split `type operation(operands), attributes`."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opened = text.index("(", end)
    closed = _closing(text, opened)
    operation = text[end:opened].strip()
    inside = text[opened + 1 : closed]
    if operation in ("parameter", "constant"):
        operands = [inside]
    else:
        operands = re.findall(r"%([\w.\-]+)", inside)
        if inside.strip() and not operands:
            raise ValueError(f"count: cannot read the operands of {text!r}.")
    return shapes_in(text[:end]), operation, tuple(operands), text[closed + 1 :]


def _closing(text: str, start: int) -> int:
    """Return the place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"count: a parenthesis is not closed in {text[start : start + 80]!r}.")


def _count_computation(program: Program, name: str) -> Counts:
    body = program[name].values()
    return sum((_count_instruction(program, name, one) for one in body), Counts())


def _count_instruction(program: Program, computation: str, one: Instruction) -> Counts:
    operation = one.operation
    if operation == "conditional":
        names = one.calls("branch_computations", "true_computation", "false_computation")
        branches = [_count_computation(program, name) for name in names]
        usual = min(branches, key=lambda counts: counts.bytes)
        return usual._replace(rare=max(b.bytes + b.rare for b in branches) - usual.bytes)
    if operation == "while":
        return _count_loop(program, one)
    if operation in ("call", "async-start"):
        return sum(
            (_count_computation(program, name) for name in one.calls("to_apply", "calls")), Counts()
        )
    # "ConcatBitcast": a name for arrays that lie side by side, as its own type says
    if operation in FREE or operation.endswith(("-done", "-update")) or "ConcatBitcast" in one[-1]:
        return Counts()
    body = program[computation]
    collectives = Counter(_collectives(program, one))
    if operation in ("copy-start", "slice-start"):  # from one memory to another: no pass
        source = body[one.operands[0]].shapes[0]
        target = one.shapes[0 if operation == "copy-start" else 1]
        return Counts(hbm=target.in_hbm + (source.space == 0) * target.padded)
    reads = [_read(program, body, one, number) for number in range(len(one.operands))]
    writes = _written(one)
    arrays = one.shapes + tuple(s for name in one.operands for s in body[name].shapes)
    on_core = operation != "fusion" and all(shape.sizes == () for shape in arrays)
    return Counts(
        bytes=sum(total for total, _ in reads) + sum(shape.bytes for shape in writes),
        hbm=sum(hbm for _, hbm in reads) + sum(shape.in_hbm for shape in writes),
        kernels=0 if on_core or collectives else 1,
        collectives=collectives,
    )


def _count_loop(program: Program, one: Instruction) -> Counts:
    turn = sum((_count_computation(program, name) for name in one.calls("body")), Counts())
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', one.attributes)
    if known is None:
        return Counts(rare=turn.bytes + turn.rare)
    return sum((turn for _ in range(int(known[1]))), Counts())


def _collectives(program: Program, one: Instruction) -> Iterator[str]:
    """The collectives that an instruction starts, in a fusion too."""
    operation = one.operation.removesuffix("-start")
    if operation in COLLECTIVES:
        yield operation
    if operation == "fusion":
        for called in one.calls("calls"):
            for inner in program.get(called, {}).values():
                yield from _collectives(program, inner)


def _written(one: Instruction) -> tuple[Shape, ...]:
    """The results that are written."""
    if one.operation.endswith("-start"):
        return tuple(shape for shape in one.shapes if shape.sizes)[-1:]  # after the operands
    if one.operation == "custom-call":  # a library's scratch memory is no result
        return tuple(shape for shape in one.shapes if shape.dtype not in ("u8", "s8"))
    return one.shapes


def _read(
    program: Program, body: dict[str, Instruction], one: Instruction, number: int
) -> tuple[float, float]:
    """Return how much of an operand is read: (bytes, bytes in HBM)."""
    shapes = body[one.operands[number]].shapes
    whole = sum(shape.bytes for shape in shapes), sum(shape.in_hbm for shape in shapes)
    part = None
    if one.operation in ("slice", "dynamic-slice") and number == 0:
        part = one.shapes
    elif one.operation in ("fusion", "fusion-start"):
        part = _slices(program, one.calls("calls")[0], number)
    if part is None:
        return whole
    read = sum(shape.bytes for shape in part), sum(shape.padded for shape in part)
    return min(whole[0], read[0]), min(whole[1], read[1])


def _slices(program: Program, computation: str, number: int) -> tuple[Shape, ...] | None:
    """Return what a fused computation reads of a parameter, None for all of it."""
    body = program[computation]
    is_parameter = ("parameter", (str(number),))
    names = [name for name, one in body.items() if (one.operation, one.operands) == is_parameter]
    slices: tuple[Shape, ...] = ()
    while names:
        name = names.pop()
        users = [one for one in body.values() if name in one.operands]
        if not users and body[name].operation != "parameter":
            return None  # a result of the fusion
        for user in users:
            if user.operation in ("slice", "dynamic-slice"):
                slices += user.shapes
            elif user.operation == "bitcast":
                names.append(user.name)
            elif user.operation == "fusion":
                inner = _slices(program, user.calls("calls")[0], user.operands.index(name))
                if inner is None:
                    return None
                slices += inner
            else:
                return None
    return slices
