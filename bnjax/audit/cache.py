"""The compiled programs of a comparison, kept for arguments of the same kind."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bnjax.audit.arguments import ArgumentLayout, OutputLayout, output_layout
from bnjax.audit.evaluation import (
    ComparisonConfig,
    ComparisonPrograms,
    Function,
    ReferencePrograms,
    compile_own,
    compile_wide,
)
from bnjax.audit.transforms import ProgramName
from bnjax.audit.trials import Trials


class ArgumentKind(NamedTuple):
    """What compiled programs depend on: arguments of one kind share them.

    Attributes:
        layout: The layout of the arguments.
        shapes: The shapes of the differentiated leaves and the constants.
        dtypes: Their dtypes; None for floating ones that are cast to float64.
        default: JAX's default float, float32 or float64; None if everything is cast.
    """

    layout: ArgumentLayout
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    default: Any

    def in_float64(self) -> "ArgumentKind":
        """Return the kind of the same arguments, cast to float64."""
        floating = (jnp.issubdtype(dtype, jnp.floating) for dtype in self.dtypes)
        dtypes = tuple(
            None if is_float else d for d, is_float in zip(self.dtypes, floating, strict=True)
        )
        return self._replace(dtypes=dtypes, default=None)


def argument_kind(layout: ArgumentLayout, leaves: list[Any], constants: list[Any]) -> ArgumentKind:
    """Return the kind of arguments that have been flattened."""
    arrays = (*leaves, *constants)
    shapes = tuple(np.shape(leaf) for leaf in arrays)
    dtypes = tuple(leaf.dtype for leaf in arrays)
    return ArgumentKind(layout, shapes, dtypes, jnp.result_type(float))


class ProgramCache:
    """The compiled programs that compare f with g, by the kind of their arguments."""

    def __init__(
        self,
        f: Function,
        g: Function | None,
        names: tuple[ProgramName, ...],
        *,
        few: int,
        in_float64: bool,
    ):
        self._f, self._g = f, g
        self._names, self._few, self._in_float64 = names, few, in_float64
        self._outputs: dict[ArgumentKind, OutputLayout] = {}
        self._wide: dict[ArgumentKind, ReferencePrograms] = {}
        self._programs: dict[ArgumentKind, ComparisonPrograms] = {}

    def outputs(self, kind: ArgumentKind, leaves: list[Any], constants: list[Any]) -> OutputLayout:
        """Return the layout of what f and g return."""
        if kind not in self._outputs:
            layout = _matching_outputs(self._f, self._g, kind.layout, leaves, constants)
            self._outputs[kind] = layout
        return self._outputs[kind]

    def programs(
        self, kind: ArgumentKind, constants: list[Any], trials: Trials
    ) -> ComparisonPrograms:
        """Return the programs, compiled if they are not yet; `outputs` must have been called."""
        if kind not in self._programs:
            config = ComparisonConfig(
                kind.layout, self._outputs[kind], self._names, self._few, self._in_float64
            )
            wide_kind = kind.in_float64() if self._in_float64 else kind
            if wide_kind not in self._wide:
                wide = compile_wide(self._f, self._g, config, constants, trials)
                self._wide[wide_kind] = wide
            self._programs[kind] = compile_own(
                self._f, self._g, config, self._wide[wide_kind], constants, trials
            )
        return self._programs[kind]


def _matching_outputs(
    f: Function,
    g: Function | None,
    layout: ArgumentLayout,
    leaves: list[Any],
    constants: list[Any],
) -> OutputLayout:
    """Return the layout of what f returns; check that g returns the same."""
    ours = output_layout(f, layout, leaves, constants)
    if not ours.floating:
        raise ValueError("audit.compare: `f` must return a floating array; got none.")
    if not any(math.prod(shape) for shape in ours.shapes[: ours.floating]):
        raise ValueError(
            "audit.compare: `f` must return at least one floating number; got empty arrays, of the "
            f"shapes {ours.shapes[: ours.floating]}."
        )
    if g is None:
        return ours
    theirs = output_layout(g, layout, leaves, constants)
    if (ours.labels, ours.shapes, ours.floating) != (theirs.labels, theirs.shapes, theirs.floating):
        raise ValueError(
            "audit.compare: `f` and `g` must return the same structure and shapes; got "
            f"{ours.shapes} in {ours.tree} from f and {theirs.shapes} in {theirs.tree} from g."
        )
    return ours._replace(reference_dtypes=theirs.dtypes)
