"""What is there for a compiler's sake, in one place: what XLA does without it, and when it may go.

On paper nothing here changes a result. Thresholds and barriers were chosen by measuring on XLA:CPU
with JAX 0.10 to 0.12; `benchmarks/RESULTS.md` lists what was tried. Before removing one, compare
programs and times with `benchmarks/programs.py` and `benchmarks/batch_norm.py`.
"""

import enum
import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

Tree = TypeVar("Tree")

_ROW = 1024  # numbers in a row of a batch with few channels
_FEW_CHANNELS = 64  # below this a row is mostly overhead, and a column one long, lossy sum
_MANY_SAMPLES = 1 << 8
_SMALL = 1 << 17  # numbers up to which short sums matter more than long reads
_CHAIN = 16  # additions in a row that lose next to nothing
_CHAIN_OF_SUMS = 8  # beside a sample far out each of them loses as much, and the arrays are small
_GPU_PARTS = 16  # of a sum between feature axes, at most
_GPU_ROWS = 128  # samples in such a part, at least: the parts' sums are next to nothing beside them


class Reader(enum.IntEnum):
    """The loops over the batch that each read x, or a cotangent of it, once more."""

    REMAINDER = 1  # Σ z, z = a (x − shift)
    SQUARES = 2  # Σ z²
    NORMALIZED = 3  # y
    INNER_PRODUCTS = 4  # Σ t, Σ t z
    KERNEL = 5  # K(t)


def reread(arrays: Tree, reader: Reader) -> Tree:
    """Return the arrays so that what is formed from them is formed anew, not shared.

    XLA:CPU has no fusion with two results: a value that two loops need, x − shift say, it writes
    out and reads back, which takes one and a half times as long. Behind a barrier each loop forms
    it while reading x. XLA merges two barriers around the same operand
    (https://github.com/jax-ml/jax/issues/13999), so that each reader stands behind a number of
    barriers of its own. A GPU or TPU shares the value inside one loop and needs no barrier.
    Remove it when XLA:CPU fuses several reductions of one operand.

    Args:
        arrays: A pytree of arrays.
        reader: The loop that reads them.
    """
    return _behind_barriers(arrays, reader)


def opaque(a: Array) -> Array:
    """Return `a`, which may be a constant, so that XLA:CPU computes with it once.

    A division of per-channel vectors by a constant becomes a product, and XLA:CPU computes
    products anew for each number of the batch that needs one. Remove it when per-channel
    expressions are no longer inlined into the loop over the batch.
    """
    return _behind_barriers(a, 1)


def rounded_product(a: Array, row: Array) -> Array:
    """Return a · row so that it is rounded before anything is added to it.

    LLVM contracts a product and a sum to one multiply-add in the vectorized part of a loop, and
    not in what remains of it (https://github.com/openxla/xla/issues/41579): a sample's last bit
    would depend on where it stands in the batch. What a select returns is not contracted; a
    barrier would cost a pass, and exporters do not know it. The condition reads the row alone: a
    second use of a would keep XLA:TPU from fusing all this into the convolution that a comes from.
    Remove it when XLA:CPU contracts all or nothing.
    """
    return jnp.where(row == row, a * row, jnp.nan)  # NaN in any case where the row is


def as_written(factor: Array) -> Array:
    """Return a scaled number so that products with it are formed in the order they are written in.

    XLA computes (a/b)(a/b) as a²/b², and (a b)(a b) as a² b² where a is a constant: the squares
    overflow or underflow where the scaled number, which is near one, does not. Remove it when XLA
    keeps the order of floating-point products.
    """
    return lax.optimization_barrier(factor)


def separate(partial_sum: Array, *, on_gpu: bool) -> Array:
    """Return a partial sum, which XLA then does not merge with the sum over it.

    XLA folds a reduction of a reduction into one. On a CPU that is one long chain of additions, in
    which small terms are lost (https://github.com/jax-ml/jax/issues/4199); elsewhere it is one pass
    instead of two. Remove it when XLA:CPU sums pairwise.

    Args:
        partial_sum: What is summed again.
        on_gpu: Whether the sum was split for a GPU's sake (`split_for_gpu`).
    """
    return _behind_barriers(partial_sum, 1, on_gpu=on_gpu)


def split_size(size: int, numbers: int) -> tuple[int, ...]:
    """Return the sizes into which a sample axis of a batch of so many numbers is split.

    Short chains of additions lose less: a small batch is summed axis by axis. A large one is read
    in long rows, which already keep many sums side by side.
    """
    return _short_factors(size, _CHAIN) if numbers <= _SMALL else (size,)


def split_row(samples: int) -> tuple[int, ...]:
    """Return the sizes into which the samples of a row are split, of which each holds a sum."""
    return _short_factors(samples, _CHAIN_OF_SUMS)


def split_for_gpu(size: int, axes: int) -> tuple[int, ...]:
    """Return the sizes into which samples that feature axes enclose, (G, n, C), are split.

    XLA:GPU splits a long sum over the first axis, and forms two such sums while reading x once. A
    sum over the middle axis it leaves to G C columns, with few of which it prefers to write out
    what is summed: a forward and backward pass then moves the batch up to four times more. Remove
    it when `benchmarks/accelerators.py --who "bnjax, ghosts"` counts no more without it.

    Args:
        size: n.
        axes: The axes of the batch, neighbours of one kind merged.
    """
    if axes != 3:
        return (size,)
    most = min(_GPU_PARTS, max(size // _GPU_ROWS, 1))
    parts = max(d for d in range(1, most + 1) if size % d == 0)
    return (parts, size // parts) if parts > 1 else (size,)


def _short_factors(size: int, most: int) -> tuple[int, ...]:
    """Split a size into sizes of at most `most`, as far as its divisors allow."""
    short: list[int] = []
    while size > most:
        part = max(d for d in range(1, most + 1) if size % d == 0)
        if part == 1:
            break
        short.append(part)
        size //= part
    return size, *short


def samples_per_row(n: int, channels: int) -> int:
    """Choose how many samples of a batch (n, channels) stand side by side in one row.

    With few channels a row fills no vector register, and a column is one long sum: 1e6 samples of
    3 channels took 10 ms and lost 2.5e-6; seen as (n / k, 3 k) they take 1 ms and lose nothing.
    """
    if channels >= _FEW_CHANNELS or n < _MANY_SAMPLES:
        return 1
    if n * channels <= _SMALL:
        rows, most = n, n // _CHAIN
    else:  # a power of two of the rows left can still be shared out between devices
        rows, most = n // math.gcd(n, 64), _ROW // max(channels, 1)
    return max(d for d in range(1, most + 1) if rows % d == 0)


def by_platform(
    x: Array,
    *,
    cpu: Callable[[Array], Tree],
    elsewhere: Callable[[Array], Tree],
    gpu: Callable[[Array], Tree] | None = None,
) -> Tree:
    """Apply the function of x that suits the platform."""
    more = {} if gpu is None else {"cuda": gpu, "rocm": gpu}
    return lax.platform_dependent(x, cpu=cpu, default=elsewhere, **more)


def retry(
    fail: Callable[[int | Array, Tree], Array],
    again: Callable[[int | Array, Tree], Tree],
    first: Tree,
    *,
    most: int,
    axes: int,
) -> Tree:
    """Return what was computed first or, where that fails, again: rarely, in a part of its own.

    A loop, which XLA:TPU leaves a batch in its fast memory for. But a batch of more than two axes
    may lie there in an order that a convolution prefers, and on its way into a loop it would be
    copied into row-major order in any case. It gets a branch, behind barriers: XLA:GPU computes
    both sides of a branch of elementwise operations and sums alone, and selects. Use one of the
    two when they do as well as the other.

    Args:
        fail: From the number of attempts before and vectors, flags: where they fail.
        again: From the same, the next attempt's vectors.
        first: The vectors of attempt 0.
        most: How often to compute again, at most.
        axes: Of the batch that is read.
    """
    if axes > 2:

        def all_attempts() -> Tree:
            tree = first
            for attempt in range(most):
                tree = again(attempt, tree)
            return jax.tree.map(lax.optimization_barrier, tree)

        return lax.cond(_any(fail(0, first)), all_attempts, lambda: first)

    def unfinished(state: tuple[Array, Tree]) -> Array:
        return (state[0] < most) & _any(fail(*state))

    def step(state: tuple[Array, Tree]) -> tuple[Array, Tree]:
        return state[0] + 1, again(*state)

    return lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), first))[1]


@custom_vmap
def _any(flags: Array) -> Array:
    """Return whether any flag is set; under vmap, in any element.

    With a condition for each element, `vmap` computes everything, and selects.
    """
    return jnp.any(flags)


@_any.def_vmap
def _any_of_mapped(_: int, __: list[bool], flags: Array) -> tuple[Array, bool]:
    return _any(flags), False


def options_for_few_runs() -> dict[str, Any] | None:
    """Return the compiler options for a program that runs a few times.

    Without LLVM's optimizations a whole audit on the CPU takes a fifth less time, with JAX 0.10 and
    0.12. Remove it when `jax_optimization_level`, JAX's own setting, has that effect on the CPU.
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


# together they save three quarters of the time to compile, with JAX 0.10 on the CPU; JAX 0.12 has
# no fusion emitters any more
_SMALL_PROGRAM: dict[str, Any] = {
    "xla_backend_optimization_level": 0,  # LLVM: no optimization
    "xla_llvm_disable_expensive_passes": True,  # LLVM: nor any slow pass
    "xla_cpu_use_fusion_emitters": False,  # XLA:CPU: the older emitters are faster to compile
    "xla_cpu_parallel_codegen_split_count": 1,  # XLA:CPU: one module, for small programs
}


def options_for_small_programs() -> dict[str, Any]:
    """Return the compiler options for small programs that run once, as far as XLA knows them.

    Remove it when `jax_optimization_level` has that effect on the CPU.
    """
    return {name: value for name, value in _SMALL_PROGRAM.items() if _is_known(name, value)}


def options_for_loops() -> dict[str, Any] | None:
    """Return the compiler options for a program of nested loops that carry many arrays.

    XLA:CPU copies what a loop carries wherever it does not prove that nobody reads the old value
    any more: half of the copies in an epoch are for nothing. They start together, and threads hand
    them to each other: on four cores an epoch of a small network took up to a third longer. Remove
    it when XLA:CPU analyses live ranges by default, as XLA:GPU and XLA:TPU do.
    """
    name = "xla_cpu_copy_insertion_use_region_analysis"
    return {name: True} if jax.default_backend() == "cpu" and _is_known(name, True) else None


def options_for_short_loops() -> dict[str, Any] | None:
    """Return those for loops that run for seconds: half the time to compile, none more to run."""
    loops, small = options_for_loops(), options_for_small_programs()
    return loops and {**loops, **small, "xla_backend_optimization_level": 1}


@cache
def _is_known(name: str, value: Any) -> bool:
    """Return whether this release of XLA has that compiler option."""
    try:
        with jax.disable_jit(False):
            jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except Exception:  # noqa: BLE001 - whatever is raised, programs compile without the option
        return False
    return True


def _behind_barriers(arrays: Tree, number: int, *, on_gpu: bool = False) -> Tree:
    def behind(arrays: Tree) -> Tree:
        for _ in range(number):
            # one by one: around several, JAX 0.10 lets all of them vary under shard_map
            arrays = jax.tree.map(lax.optimization_barrier, arrays)
        return arrays

    more = {"cuda": behind, "rocm": behind} if on_gpu else {}
    return lax.platform_dependent(arrays, cpu=behind, default=lambda arrays: arrays, **more)
