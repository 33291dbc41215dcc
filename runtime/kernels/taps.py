"""The inner loops of depth-wise products: for a run of pixels, the sum over taps of x w, 16 channels at a time, channel by channel.

As in `kernels.products`, `write_taps` writes LLVM code for a form, and the intrinsics are what numba's code calls. Weights stand as those of
a dense product do whose word lines are the taps (`dense.prepare_fused`), so that one instruction meets four taps of a channel (or two).
"""

from __future__ import annotations

from typing import Any

from numba import types

from sasimc.runtime.kernels.forms import FORM, Form
from sasimc.runtime.kernels.packing import mixed
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
    vector,
    wrapped_any,
)

__all__ = [
    "taps_bitserial_signed",
    "taps_bitserial_unsigned",
    "taps_fused_signed",
    "taps_fused_unsigned",
    "write_taps",
]


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
            for step in mixed(builder, form, lines):
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


taps_fused_unsigned, taps_fused_signed = _taps(False, False), _taps(False, True)
taps_bitserial_unsigned, taps_bitserial_signed = _taps(True, False), _taps(True, True)
