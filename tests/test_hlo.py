"""The counter of compiled programs: what it reads in a text whose counts are known by hand."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from benchmarks import _hlo

ARRAY = 16 * 128 * 4  # bytes of f32[16,128]
ROW = 128 * 4


def scheduled(entry, *others):
    """A scheduled program with these instructions, and other computations."""
    lines = ["HloModule jit_f, is_scheduled=true, entry_computation_layout={()->f32[]}", ""]
    for head, body in (*others, ("ENTRY %main.1 (x: f32[16,128]) -> f32[16,128]", entry)):
        lines += [f"{head} {{", *(f"  {line}" for line in body), "}", ""]
    return "\n".join(lines)


X = "%x = f32[16,128]{1,0} parameter(0)"
ROOT = 'ROOT %y = f32[16,128]{1,0} negate(%x), metadata={op_name="jit(f)/neg (a)"}'


def test_an_instruction_reads_its_operands_and_writes_its_results():
    counts = _hlo.count(scheduled([X, ROOT]))
    assert counts == (2 * ARRAY, 2 * ARRAY, 1, Counter(), 0)


def test_names_for_values_move_nothing():
    free = [
        X,
        "%pair = (f32[16,128]{1,0}, f32[16,128]{1,0}) tuple(%x, %x)",
        "%one = f32[16,128]{1,0} get-tuple-element(%pair), index=0",
        "%flat = f32[2048]{0} bitcast(%one)",
        "ROOT %zero = f32[16,128]{1,0} constant({...})",
    ]
    assert _hlo.count(scheduled(free)) == (0, 0, 0, Counter(), 0)


def test_what_lies_in_another_memory_is_a_pass_but_not_in_hbm():
    entry = [
        "%x = f32[16,128]{1,0:T(8,128)} parameter(0)",
        "%start = (f32[16,128]{1,0:T(8,128)S(1)}, f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)}) "
        "copy-start(%x)",
        "%near = f32[16,128]{1,0:T(8,128)S(1)} copy-done(%start)",
        "ROOT %y = f32[16,128]{1,0:T(8,128)S(1)} negate(%near)",
    ]
    assert _hlo.count(scheduled(entry)) == (2 * ARRAY, ARRAY, 1, Counter(), 0)


def test_slices_that_are_prefetched_and_put_side_by_side_are_read_once():
    half = "f32[8,128]{1,0:T(8,128)S(1)}"
    started = f"((f32[16,128]{{1,0:T(8,128)}}), {half}, s32[]{{:S(2)}}) slice-start(%x)"
    entry = [
        "%x = f32[16,128]{1,0:T(8,128)} parameter(0)",
        f"%first = {started}, slice={{[0:8], [0:128]}}",
        f"%second = {started}, slice={{[8:16], [0:128]}}",
        f"%a = {half} slice-done(%first)",
        f"%b = {half} slice-done(%second)",
        "%near = f32[16,128]{1,0:T(8,128)S(1)} custom-call(%a, %b), "
        'custom_call_target="ConcatBitcast"',
        "ROOT %y = f32[16,128]{1,0:T(8,128)} negate(%near)",
    ]
    assert _hlo.count(scheduled(entry)) == (2 * ARRAY, 2 * ARRAY, 1, Counter(), 0)


@pytest.mark.parametrize(
    ("text", "numbers", "padded"),
    [
        ("f32[10,3]{1,0:T(8,128)}", 30, 16 * 128),
        ("f32[10,3]{0,1:T(4,128)}", 30, 4 * 128),  # columns lie together: 3 rows of 10
        ("bf16[10,3]{1,0:T(8,128)(2,1)}", 30, 16 * 128),
        ("f32[2,10,3]{2,1,0:T(8,128)S(1)}", 60, 2 * 16 * 128),
        ("f32[10,3]{1,0}", 30, 30),
        ("f32[]{:T(128)}", 1, 1),
        ("pred[<=10]{0}", 10, 10),
    ],
)
def test_an_array_is_padded_to_tiles_in_the_order_of_its_layout(text, numbers, padded):
    (shape,) = _hlo.shapes_in(text)
    width = {"f32": 4, "bf16": 2, "pred": 1}[shape.dtype]
    assert (shape.bytes, shape.padded) == (numbers * width, padded * width)
    assert shape.space == ("S(1)" in text)


def fused(*body):
    return "%fused (p0: f32[16,128], p1: f32[128]) -> f32[128]", body


def call_fused(kind):
    return f"ROOT %y = {kind} fusion(%x, %v), kind=kLoop, calls=%fused"


V = "%v = f32[128]{0} parameter(1)"
P0, P1 = "%p0 = f32[16,128]{1,0} parameter(0)", "%p1 = f32[128]{0} parameter(1)"


def test_a_fusion_that_uses_one_sample_reads_that_sample():
    body = fused(
        P0,
        "%row = f32[1,128]{1,0} slice(%p0), slice={[0:1], [0:128]}",
        "%flat = f32[128]{0} bitcast(%row)",
        P1,
        "ROOT %sum = f32[128]{0} add(%flat, %p1)",
    )
    counts = _hlo.count(scheduled([X, V, call_fused("f32[128]{0}")], body))
    assert counts.bytes == 3 * ROW


def test_a_fusion_that_uses_all_of_it_too_reads_all():
    body = fused(
        P0,
        "%row = f32[1,128]{1,0} slice(%p0), slice={[0:1], [0:128]}",
        P1,
        "%wide = f32[16,128]{1,0} broadcast(%p1), dimensions={1}",
        "ROOT %sum = f32[16,128]{1,0} subtract(%p0, %wide)",
    )
    counts = _hlo.count(scheduled([X, V, call_fused("f32[16,128]{1,0}")], body))
    assert counts.bytes == 2 * ARRAY + ROW


def test_a_fusion_inside_a_fusion_is_followed():
    whole = (
        "%inner (i: f32[16,128]) -> f32[2048]",
        [
            "%i = f32[16,128]{1,0} parameter(0)",
            "ROOT %flat = f32[2048]{0} bitcast(%i)",
        ],
    )
    part = (
        "%inner (i: f32[16,128]) -> f32[1,128]",
        [
            "%i = f32[16,128]{1,0} parameter(0)",
            "ROOT %row = f32[1,128]{1,0} slice(%i), slice={[0:1], [0:128]}",
        ],
    )
    for inner, read in ((whole, ARRAY), (part, ROW)):
        body = fused(
            P0,
            P1,
            "%f = f32[1,128]{1,0} fusion(%p0), kind=kLoop, calls=%inner",
            "ROOT %sum = f32[128]{0} add(%f, %p1)",
        )
        counts = _hlo.count(scheduled([X, V, call_fused("f32[128]{0}")], inner, body))
        assert counts.bytes == read + 2 * ROW


def branch(name, *operations):
    body = ["%x = f32[16,128]{1,0} parameter(0)"]
    for number, operation in enumerate(operations):
        body.append(f"%{number} = f32[16,128]{{1,0}} {operation}(%{number - 1 if number else 'x'})")
    return f"%{name} (x: f32[16,128]) -> f32[16,128]", body


@pytest.mark.parametrize(
    ("predicate", "which"),
    [
        ("pred[]", "true_computation=%rare, false_computation=%usual"),
        ("s32[]", "branch_computations={%usual, %rare}"),
    ],
)
def test_the_branch_that_moves_less_counts_and_the_rest_is_rare(predicate, which):
    entry = [
        X,
        f"%p = {predicate} parameter(1)",
        f"ROOT %y = f32[16,128]{{1,0}} conditional(%p, %x, %x), {which}",
    ]
    usual, rare = branch("usual", "negate"), branch("rare", "negate", "copy", "negate")
    counts = _hlo.count(scheduled(entry, usual, rare))
    assert counts == (2 * ARRAY, 2 * ARRAY, 1, Counter(), 4 * ARRAY)


def test_a_loop_of_known_length_counts_every_turn_and_one_of_unknown_length_as_rare():
    body = branch("body", "negate")
    loop = "ROOT %y = f32[16,128]{1,0} while(%x), condition=%until, body=%body"
    known = ', backend_config={"known_trip_count":{"n":"3"}}'
    assert _hlo.count(scheduled([X, loop + known], body)).bytes == 3 * 2 * ARRAY
    assert _hlo.count(scheduled([X, loop], body)) == (0, 0, 0, Counter(), 2 * ARRAY)


def test_a_called_computation_counts_as_if_it_stood_there():
    for operation, key in (("call", "to_apply"), ("async-start", "calls")):
        entry = [X, f"ROOT %y = f32[16,128]{{1,0}} {operation}(%x), {key}=%body"]
        counts = _hlo.count(scheduled(entry, branch("body", "negate")))
        assert counts.bytes == 2 * ARRAY and counts.kernels == 1


def test_collectives_are_counted_where_they_start_in_fusions_too():
    summed = (
        "%fused_sum (p: f32[128]) -> f32[128]",
        [
            "%p = f32[128]{0} parameter(0)",
            "ROOT %s = f32[128]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add",
        ],
    )
    entry = [
        "%v = f32[128]{0} parameter(0)",
        "%a = f32[128]{0} all-reduce(%v), replica_groups={{0,1}}, to_apply=%add",
        "%start = f32[128]{0} all-reduce-start(%a), replica_groups={{0,1}}, to_apply=%add",
        "%b = f32[128]{0} all-reduce-done(%start)",
        "%g = (f32[128]{0}, f32[256]{0}) all-gather-start(%b), dimensions={0}",
        "%c = f32[256]{0} all-gather-done(%g)",
        "%f = ((f32[128]{0}), f32[128]{0}) fusion-start(%b), kind=kCustom, calls=%fused_sum",
        "ROOT %y = f32[128]{0} fusion-done(%f)",
    ]
    counts = _hlo.count(scheduled(entry, summed))
    assert counts.collectives == {"all-reduce": 3, "all-gather": 1}
    assert counts.kernels == 0
    assert counts.bytes == (2 + 2 + 3 + 2) * ROW


def test_a_library_s_scratch_memory_is_no_result():
    entry = [
        X,
        "ROOT %y = (f32[16,128]{1,0}, u8[4096]{0}) custom-call(%x), "
        'custom_call_target="__cudnn$convForward"',
    ]
    assert _hlo.count(scheduled(entry)).bytes == 2 * ARRAY


def test_what_a_scalar_core_does_is_no_kernel():
    entry = ["%a = f32[]{:T(128)S(6)} constant(1)", "ROOT %b = f32[] negate(%a)"]
    assert _hlo.count(scheduled(entry)).kernels == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HloModule jit_f\n", "must be that of a scheduled HLO program"),
        ("HloModule jit_f, is_scheduled=true\n", "no ENTRY computation"),
        (scheduled([X, "y := negate x"]), "cannot read the instruction 'y := negate x'"),
        (scheduled([X, "ROOT %y = f32[] negate(x)"]), "cannot read the operands"),
        (scheduled([X, "ROOT %y = f32[] negate(%x"]), "a parenthesis is not closed"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        _hlo.count(text)


def test_the_text_of_this_jax_is_read():
    def f(x):
        far = jnp.any(jnp.sum(x, 0) > 1)
        return jax.lax.cond(far, lambda: -x + jnp.sum(x, 1, keepdims=True), lambda: 2 * x)

    x = jax.ShapeDtypeStruct((16, 128), jnp.float32)
    counts = _hlo.count(jax.jit(f).lower(x).compile().as_text())
    assert 3 * ARRAY <= counts.bytes < 4 * ARRAY  # x for the sum; x and the result
    assert ARRAY <= counts.rare < 2 * ARRAY  # x for its sums
    assert counts.kernels >= 2 and not counts.collectives
