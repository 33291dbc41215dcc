"""The inner loops of depth-wise products: for a run of pixels, the sum over taps of x w, 16 channels at a time, channel by channel.

As in `kernels.products`, `write_taps` writes LLVM code for a form, and the intrinsics are what numba's code calls. Weights stand as those of
a dense product do whose word lines are the taps (`dense.prepare_fused`), so that one instruction meets four taps of a channel (or two).
"""

from __future__ import annotations

from typing import Any

from numba import types

from sasimc.runtime.kernels.forms import FORM, Form
from sasimc.runtime.kernels.products import dot2, dot4
from sasimc.runtime.kernels.simd import LANES, intrinsic
from sasimc.runtime.kernels.vector import (
    I8,
    I16,
    I32,
    I64,
    add_checked,
    constant,
    integer,
    load,
    loop,
    pointer,
    shuffle,
    store,
    vector,
    wrapped_any,
)

__all__ = [
    "prepare_taps",
    "taps_bitserial_signed",
    "taps_bitserial_unsigned",
    "taps_fused_signed",
    "taps_fused_unsigned",
    "write_prepare_taps",
    "write_taps",
]


def _mixed(builder: Any, form: Form, lines: list[Any]) -> list[list[Any]]:
    """Lines of 16 bytes, one for each of four taps, channel by channel: [step][part], a step is all taps (or two), a part is a register."""
    if form.dot:
        halves = [shuffle(builder, lines[i], lines[i + 1], list(range(2 * LANES))) for i in (0, 2)]
        channels = [range(part, part + form.lanes) for part in range(0, LANES, form.lanes)]
        return [[shuffle(builder, *halves, [LANES * tap + c for c in some for tap in range(4)]) for some in channels]]
    channels = [range(part, part + form.lanes) for part in range(0, LANES, form.lanes)]
    return [
        [shuffle(builder, lines[i], lines[i + 1], [LANES * tap + c for c in some for tap in range(2)]) for some in channels]
        for i in (0, 2)
    ]


def write_prepare_taps(builder: Any, form: Form, operands: list[Any]) -> None:
    """Weights of 16 channels as `write_taps` reads them.

    operands (64-bit): address of the first tap's 16 bytes, bytes from tap to tap, groups of four taps, address of the result: 64 bytes a
    group, then 16 int32 with which the sums begin.
    """
    w_, row, groups, out_ = operands
    w, out = pointer(builder, w_), pointer(builder, out_)
    sums = vector(I32, form.lanes)
    parts = LANES // form.lanes
    # signed inputs are multiplied as x + 128, a byte without a sign; unsigned ones as x - 128 where the form's bytes are signed
    offset = constant(-128, vector(I8, 4 * form.lanes))

    def body(group: Any, state: list[Any]) -> list[Any]:
        first = builder.mul(builder.shl(group, integer(2)), row)
        lines = [load(builder, w, builder.add(first, builder.mul(row, integer(tap))), vector(I8, LANES)) for tap in range(4)]
        at = builder.shl(group, integer(6))
        for step in _mixed(builder, form, lines):
            for part, mixed in enumerate(step):
                store(builder, mixed, out, at)
                at = builder.add(at, integer(mixed.type.count))
                if form.dot:
                    state = [*state[:part], dot4(builder, form, state[part], offset, mixed), *state[part + 1 :]]
        return state

    begin = loop(builder, groups, [constant(0, sums)] * parts, body)
    for part, total in enumerate(begin):
        store(builder, builder.neg(total), out, builder.add(builder.shl(groups, integer(6)), integer(4 * form.lanes * part)))


def write_taps(builder: Any, form: Form, bitserial: bool, signed_x: bool, operands: list[Any]) -> Any:
    """Add, for a run of pixels, the sum over taps of x w of 16 channels into accumulators.

    operands (64-bit): address of the taps' addresses (int64, of the first pixel), address of what to add to each for the next pixel, groups
    of four taps, first channel (added to the addresses of taps), address of the weights, address of the first pixel's sums, bytes from one
    pixel's sums to the next, pixels. `bitserial` adds for every input bit the weights of the taps where it is 1, shifted; the sign bit's
    are subtracted. Returns -1 (int32) if a sum left 32 bits, else 0.
    """
    where_, moves_, groups, channel, w_, sums_, pitch, pixels = operands
    where, moves, w = pointer(builder, where_), pointer(builder, moves_), pointer(builder, w_)
    lanes, parts = form.lanes, LANES // form.lanes
    sums = vector(I32, lanes)
    flipped = bool(form.dot) and signed_x != (form.dot == "sdot")

    def pixel(number: Any, wrapped: list[Any]) -> list[Any]:
        def body(group: Any, state: list[Any]) -> list[Any]:
            state, lines = list(state), []
            for tap in range(4):
                at_tap = builder.add(builder.shl(group, integer(5)), integer(8 * tap))
                moved = builder.mul(load(builder, moves, at_tap, I64), number)
                address = builder.add(builder.add(load(builder, where, at_tap, I64), channel), moved)
                lines.append(load(builder, pointer(builder, address), 0, vector(I8, LANES)))
            at = builder.shl(group, integer(6))
            for step in _mixed(builder, form, lines):
                for part, given in enumerate(step):
                    weights = load(builder, w, at, given.type)
                    at = builder.add(at, integer(given.type.count))
                    if form.dot:
                        x, multiply = given, lambda total, x, w: dot4(builder, form, total, x, w)
                        if flipped and not bitserial:
                            x = builder.xor(x, constant(-128, x.type))
                    else:
                        wide = vector(I16, 2 * lanes)
                        x = (builder.sext if signed_x and not bitserial else builder.zext)(given, wide)
                        weights, multiply = builder.sext(weights, wide), lambda total, x, w: dot2(builder, total, x, w)
                    if not bitserial:
                        state[part] = multiply(state[part], x, weights)
                        continue
                    for bit in range(8):
                        driven = builder.and_(x, constant((1 << bit) - (256 if form.dot and bit == 7 else 0), x.type))
                        place = part + (parts if bit == 7 else 0)
                        state[place] = multiply(state[place], driven, weights)
            return state

        begin = [constant(0, sums)] * (2 * parts if bitserial else parts)
        if flipped and not bitserial:
            first = builder.shl(groups, integer(6))
            begin = [load(builder, w, builder.add(first, integer(4 * lanes * part)), sums) for part in range(parts)]
        found = loop(builder, groups, begin, body)
        if bitserial:  # the sign bit's, where the multiplication did not see it as the form's bytes have it
            turn = builder.sub if signed_x != (form.dot == "sdot") else builder.add
            found = [turn(found[part], found[parts + part]) for part in range(parts)]
        target = pointer(builder, builder.add(sums_, builder.mul(number, pitch)))
        total = wrapped[0]
        for part in range(parts):
            total = add_checked(builder, found[part], target, 4 * lanes * part, total)
        return [total]

    return wrapped_any(builder, loop(builder, pixels, [constant(0, sums)], pixel)[0])


def _taps(bitserial: bool, signed_x: bool) -> Any:
    @intrinsic
    def taps(
        typingctx: Any, where: Any, moves: Any, groups: Any, channel: Any, w: Any, sums: Any, pitch: Any, pixels: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return write_taps(builder, FORM, bitserial, signed_x, list(args))

        return types.int32(*[types.int64] * 8), codegen

    return taps


@intrinsic
def prepare_taps(typingctx: Any, w: Any, row: Any, groups: Any, out: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        write_prepare_taps(builder, FORM, list(args))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


taps_fused_unsigned, taps_fused_signed = _taps(False, False), _taps(False, True)
taps_bitserial_unsigned, taps_bitserial_signed = _taps(True, False), _taps(True, True)
