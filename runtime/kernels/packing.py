"""Weights as the kernels of a form read them: lines of bytes mixed column by column, or sliced into bits."""

from __future__ import annotations

from typing import Any

from numba import types

from sasimc.runtime.kernels.forms import FORM, Form
from sasimc.runtime.kernels.products import dot4
from sasimc.runtime.kernels.simd import LANES, intrinsic
from sasimc.runtime.kernels.vector import I8, I32, constant, integer, load, loop, pointer, shuffle, store, vector

__all__ = ["mix_lines", "mixed", "slice_lines", "write_mix_lines"]


def mixed(builder: Any, form: Form, lines: list[Any]) -> list[list[Any]]:
    """Four lines of 16 bytes, column by column: [step][part]; a step is all lines (or two), a part fills a register."""
    if form.dot:
        low, high = (shuffle(builder, lines[i], lines[i + 1], list(range(2 * LANES))) for i in (0, 2))
        columns = [range(part, part + form.lanes) for part in range(0, LANES, form.lanes)]
        return [[shuffle(builder, low, high, [LANES * line + c for c in some for line in range(4)]) for some in columns]]
    columns = [range(part, part + form.lanes) for part in range(0, LANES, form.lanes)]
    return [
        [shuffle(builder, lines[i], lines[i + 1], [LANES * line + c for c in some for line in range(2)]) for some in columns]
        for i in (0, 2)
    ]


def write_mix_lines(builder: Any, form: Form, operands: list[Any]) -> None:
    """Weights of 16 columns as the integer kernels read them (`dense.prepare_fused`).

    operands (64-bit): address of the first word line's 16 bytes, bytes from one to the next, groups of four word lines, address of the
    result: 64 bytes a group, then 16 int32 with which the sums begin.
    """
    w_, row, groups, out_ = operands
    w, out = pointer(builder, w_), pointer(builder, out_)
    sums = vector(I32, form.lanes)
    parts = LANES // form.lanes
    # signed inputs are multiplied as x + 128, a byte without a sign; unsigned ones as x - 128 where the form's bytes are signed
    offset = constant(-128, vector(I8, 4 * form.lanes))

    def body(group: Any, state: list[Any]) -> list[Any]:
        first = builder.mul(builder.shl(group, integer(2)), row)
        lines = [load(builder, w, builder.add(first, builder.mul(row, integer(line))), vector(I8, LANES)) for line in range(4)]
        at = builder.shl(group, integer(6))
        for step in mixed(builder, form, lines):
            for part, given in enumerate(step):
                store(builder, given, out, at)
                at = builder.add(at, integer(given.type.count))
                if form.dot:
                    state = [*state[:part], dot4(builder, form, state[part], offset, given), *state[part + 1 :]]
        return state

    begin = loop(builder, groups, [constant(0, sums)] * parts, body)
    for part, total in enumerate(begin):
        store(builder, builder.neg(total), out, builder.add(builder.shl(groups, integer(6)), integer(4 * form.lanes * part)))


@intrinsic
def mix_lines(typingctx: Any, w: Any, row: Any, groups: Any, out: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        write_mix_lines(builder, FORM, list(args))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def slice_lines(typingctx: Any, w: Any, row: Any, out: Any) -> Any:
    """Bits of 8 lines of 16 bytes, `row` bytes apart: for every 4 columns and every 4 planes 16 bytes (64 from the next), column by column,
    the planes of a column together; bit k of a byte is line k."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w_, row_, out_ = args
        source, target, kind = pointer(builder, w_), pointer(builder, out_), vector(I8, LANES)
        lines = [load(builder, source, builder.mul(row_, integer(line)), kind) for line in range(8)]
        planes = []
        for bit in range(8):
            plane = constant(0, kind)
            for line, given in enumerate(lines):
                one = builder.and_(given, constant((1 << bit) - (256 if bit == 7 else 0), kind))
                moved = (
                    builder.shl(one, constant(line - bit, kind)) if line >= bit else builder.lshr(one, constant(bit - line, kind))
                )
                plane = builder.or_(plane, moved)
            planes.append(plane)
        for first in (0, 4):
            low, high = (shuffle(builder, planes[i], planes[i + 1], list(range(2 * LANES))) for i in (first, first + 2))
            for four in range(4):
                mask = [LANES * plane + column for column in range(4 * four, 4 * four + 4) for plane in range(4)]
                store(builder, shuffle(builder, low, high, mask), target, 4 * LANES * (2 * four + first // 4))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen
