"""The inner loops of rounding to a byte: sums times a factor, words shifted; to the nearest integer, ties to even."""

from __future__ import annotations

from typing import Any

from numba import types

from sasimc.runtime.kernels.forms import FORM, Form
from sasimc.runtime.kernels.simd import intrinsic
from sasimc.runtime.kernels.vector import I8, I32, I64, constant, integer, load, loop, pointer, shuffle, splat, store, vector

__all__ = ["LEAST_SHIFT", "STEP", "requantise_constants", "requantise_run", "shift_run", "write_prepare", "write_requantise"]

STEP = FORM.lanes
"""Sums that are requantised together."""

LEAST_SHIFT = 32
"""Shifts from here on leave a result in the upper half of the 64-bit product."""


def _split(builder: Any, form: Form, value: Any) -> tuple[Any, Any]:
    """int32 lanes in 64 bits, in two vectors: the even and the odd ones on x86, whose multiplication takes them so, else the first and the last."""
    lanes = form.lanes
    long = vector(I64, lanes // 2)
    if not form.x86:
        halves = (shuffle(builder, value, value, list(range(first, first + lanes // 2))) for first in (0, lanes // 2))
        first, last = (builder.sext(half, long) for half in halves)
        return first, last
    by, both = constant(32, long), builder.bitcast(value, long)
    return builder.ashr(builder.shl(both, by), by), builder.ashr(both, by)


def _upper(builder: Any, form: Form, first: Any, last: Any) -> Any:
    """The upper 32 bits of what `_split` made, in order."""
    lanes = form.lanes
    words = vector(I32, lanes)
    a, b = builder.bitcast(first, words), builder.bitcast(last, words)
    if not form.x86:
        return shuffle(builder, a, b, list(range(1, 2 * lanes, 2)))
    return shuffle(builder, a, b, [lane + 1 if lane % 2 == 0 else lanes + lane for lane in range(lanes)])


def write_prepare(builder: Any, form: Form, operands: list[Any]) -> None:
    """Constants as `write_requantise` reads them: of every step, mult, shift - 32, twice half a vector of 2^(shift - 1) - 1 and twice half a
    vector of bias * mult.

    operands (64-bit): addresses of bias, mult, shift (int64 each), steps, address of the result (24 * lanes bytes a step).
    """
    bias_, mult_, shift_, steps, out_ = operands
    lanes = form.lanes
    words, long = vector(I32, lanes), vector(I64, lanes)
    sources, out = [pointer(builder, value) for value in (bias_, mult_, shift_)], pointer(builder, out_)

    def body(step: Any, state: list[Any]) -> list[Any]:
        where = builder.mul(step, integer(8 * lanes))
        bias, mult, shift = (builder.trunc(load(builder, source, where, long), words) for source in sources)
        halves = []
        for by in _split(builder, form, shift):
            one = constant(1, by.type)
            halves.append(builder.sub(builder.shl(one, builder.sub(by, one)), one))
        offsets = [builder.mul(a, b) for a, b in zip(_split(builder, form, bias), _split(builder, form, mult), strict=True)]
        at_out = builder.mul(step, integer(24 * lanes))
        for value in (mult, builder.sub(shift, constant(32, words)), *halves, *offsets):
            store(builder, value, out, at_out)
            at_out = builder.add(at_out, integer(4 * lanes))
        return state

    loop(builder, steps, [], body)


def write_requantise(builder: Any, form: Form, operands: list[Any]) -> None:
    """out = clamp(rne((sum + bias) * mult, shift) + zero, lo, hi), a byte each; the sums are cleared.

    operands (64-bit): addresses of the sums (int32), of the bytes, of what `write_prepare` made, numbers zero, lo, hi, steps of `form.lanes`
    sums. |(sum + bias) * mult| is less than 2^63 - 2^(shift - 1), shift is 32..62, so that a result is in the upper half of a product. The bias is added
    as bias * mult, in 64 bits: sum + bias may need more than 32.
    """
    sums_, out_, table_, zero_, low_, high_, steps = operands
    sums, out, table = (pointer(builder, value) for value in (sums_, out_, table_))
    lanes = form.lanes
    words, long = vector(I32, lanes), vector(I64, lanes // 2)
    zero, low, high = (splat(builder, builder.trunc(value, I32), words) for value in (zero_, low_, high_))

    def body(step: Any, state: list[Any]) -> list[Any]:
        at_sum, at_table = builder.mul(step, integer(4 * lanes)), builder.mul(step, integer(24 * lanes))
        mult, by = (load(builder, table, builder.add(at_table, integer(4 * lanes * place)), words) for place in range(2))
        wide = [load(builder, table, builder.add(at_table, integer(4 * lanes * place)), long) for place in range(2, 6)]
        halves, offsets = wide[:2], wide[2:]
        value = load(builder, sums, at_sum, words)
        store(builder, constant(0, words), sums, at_sum)
        products = [
            builder.add(builder.mul(a, b), offset)
            for a, b, offset in zip(_split(builder, form, value), _split(builder, form, mult), offsets, strict=True)
        ]
        odd = builder.and_(builder.ashr(_upper(builder, form, *products), by), constant(1, words))
        rounded = [
            builder.add(builder.add(product, half), more)
            for product, half, more in zip(products, halves, _split(builder, form, odd), strict=True)
        ]
        result = builder.add(builder.ashr(_upper(builder, form, *rounded), by), zero)
        result = builder.select(builder.icmp_signed(">", result, low), result, low)
        result = builder.select(builder.icmp_signed("<", result, high), result, high)
        store(builder, builder.trunc(result, vector(I8, lanes)), out, builder.mul(step, integer(lanes)))
        return state

    loop(builder, steps, [], body)


@intrinsic
def requantise_constants(typingctx: Any, bias: Any, mult: Any, shift: Any, steps: Any, out: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        write_prepare(builder, FORM, list(args))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def requantise_run(typingctx: Any, sums: Any, out: Any, table: Any, zero: Any, low: Any, high: Any, steps: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        write_requantise(builder, FORM, list(args))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), codegen


def write_shift(builder: Any, form: Form, operands: list[Any]) -> None:
    """out = clamp(rne(word, shift), -127, 127), a byte each.

    operands (64-bit): addresses of the words (int32) and bytes, shift (1..31), steps of `form.lanes` words. Nothing leaves 32 bits.
    """
    words_, out_, shift, steps = operands
    source, out = pointer(builder, words_), pointer(builder, out_)
    lanes = form.lanes
    words = vector(I32, lanes)
    one = constant(1, words)
    by = splat(builder, builder.trunc(shift, I32), words)
    half = builder.shl(one, builder.sub(by, one))
    below = builder.sub(builder.shl(one, by), one)

    def body(step: Any, state: list[Any]) -> list[Any]:
        value = load(builder, source, builder.mul(step, integer(4 * lanes)), words)
        whole, rest = builder.ashr(value, by), builder.and_(value, below)
        tie = builder.and_(
            builder.icmp_signed("==", rest, half), builder.icmp_signed("!=", builder.and_(whole, one), constant(0, words))
        )
        up = builder.or_(builder.icmp_signed(">", rest, half), tie)
        whole = builder.add(whole, builder.zext(up, words))
        for comparison, limit in (("<", constant(127, words)), (">", constant(-127, words))):
            whole = builder.select(builder.icmp_signed(comparison, whole, limit), whole, limit)
        store(builder, builder.trunc(whole, vector(I8, lanes)), out, builder.mul(step, integer(lanes)))
        return state

    loop(builder, steps, [], body)


@intrinsic
def shift_run(typingctx: Any, words: Any, out: Any, shift: Any, steps: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        write_shift(builder, FORM, list(args))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen
