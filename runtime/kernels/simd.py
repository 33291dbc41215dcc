"""Small LLVM building blocks for the kernels as numba intrinsics: population counts, bit masks, copies of 16 bytes.

Generic LLVM vector code, which the code generator splits or joins to what the processor has. None of these functions checks a bound.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

__all__ = [
    "LANES",
    "copy16",
    "load_u64",
    "plane_words",
    "popcount",
    "taps_bitserial",
    "taps_fused",
]

LANES = 16
"""Lanes of one vector block: weight columns that are processed together."""

intrinsic: Any = _intrinsic  # the typing context is numba's argument, not the caller's: keep type checkers out
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_V32 = ir.VectorType(_I32, LANES)


def _data(context: Any, builder: Any, typ: Any, value: Any, element: ir.Type, offset: Any) -> Any:
    """Pointer to `element` at element number `offset` of the array `value` (offset counts the array's own elements)."""
    data = context.make_array(typ)(context, builder, value=value).data
    pointer = builder.gep(data, [offset])
    return builder.bitcast(pointer, element.as_pointer())


def _load(builder: Any, pointer: Any) -> Any:
    """A load that assumes no alignment beyond one byte."""
    value = builder.load(pointer)
    value.align = 1
    return value


def _splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


def _vector_constant(value: int, vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


@intrinsic
def popcount(typingctx: Any, value: Any) -> Any:
    """popcount(integer) -> number of one bits, in the type of the argument."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return (value(value), codegen) if isinstance(value, types.Integer) else None


@intrinsic
def load_u64(typingctx: Any, array: Any, offset: Any) -> Any:
    """load_u64(flat uint8 array, byte offset) -> the 8 bytes there as uint64, first byte lowest on little-endian machines."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, _data(context, builder, signature.args[0], args[0], _I64, args[1]))

    return types.uint64(array, types.intp), codegen


@intrinsic
def copy16(typingctx: Any, target: Any, to: Any, source: Any, first: Any) -> Any:
    """target[to .. +16] = source[first .. +16], flat uint8 arrays: one load and one store."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = ir.VectorType(ir.IntType(8), 16)
        value = _load(builder, _data(context, builder, signature.args[2], args[2], block, args[3]))
        builder.store(value, _data(context, builder, signature.args[0], args[0], block, args[1])).align = 1
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


@intrinsic
def plane_words(typingctx: Any, source: Any, src_offset: Any, target: Any, dst_offset: Any) -> Any:
    """Bit planes of 32 bytes: target[dst_offset + i] = word of bit i of source[src_offset .. +32], i = 0..7 (uint32)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.VectorType(ir.IntType(8), 32)
        values = _load(builder, _data(context, builder, signature.args[0], args[0], byte, args[1]))
        for bit in range(7, -1, -1):  # every bit in turn becomes the sign, whose mask processors form in one instruction
            word = builder.bitcast(builder.icmp_signed("<", values, _vector_constant(0, byte)), _I32)
            at = builder.add(args[3], ir.Constant(_I64, bit))
            builder.store(word, _data(context, builder, signature.args[2], args[2], _I32, at))
            values = builder.add(values, values)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), codegen


def _loop(builder: Any, count: Any, initial: list[Any], body: Any) -> list[Any]:
    """for k in range(count): state = body(k, state), with the state in registers; returns the last state."""
    before = builder.block
    head = builder.append_basic_block("loop")
    inside = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_I64)
    index.add_incoming(ir.Constant(_I64, 0), before)
    state = []
    for value in initial:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        state.append(phi)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    following = body(index, state)
    index.add_incoming(builder.add(index, ir.Constant(_I64, 1)), builder.block)
    for phi, value in zip(state, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return state


def _taps(bitserial: bool) -> Any:
    @intrinsic
    def taps(typingctx: Any, where: Any, starts: Any, count: Any, shift: Any, w: Any, at: Any, signed: Any, out: Any) -> Any:
        """Sum over taps t of x_t * w_t for 16 channels.

        where: int64, address of the first byte of every tap (moved on by `shift`); starts: int64, element of w (int16) where the
        tap's weights begin (moved on by `at`); count: number of taps; signed: 1 if the bytes are signed; out: int32, 16 sums
        stored at element `at`. A product is at most 255 * 128 and is formed in 16 bits; bit-serial sums of weights have 16 bits,
        too, so that count is at most 255 there.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            where_ptr = _data(context, builder, kinds[0], args[0], _I64, ir.Constant(_I64, 0))
            start_ptr = _data(context, builder, kinds[1], args[1], _I64, ir.Constant(_I64, 0))
            w_ptr = _data(context, builder, kinds[4], args[4], _I16, args[5])
            bytes_, halves = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(_I16, LANES)
            # all ones if the inputs are signed
            sign = _splat(builder, builder.trunc(builder.neg(args[6]), _I16), halves)
            flip = builder.and_(sign, _vector_constant(128, halves))

            def load(tap: Any) -> tuple[Any, Any]:
                """Bytes and weights of a tap, 16 bits each."""
                address = builder.add(builder.load(builder.gep(where_ptr, [tap])), args[3])
                x = builder.zext(_load(builder, builder.inttoptr(address, bytes_.as_pointer())), halves)
                weights = builder.gep(w_ptr, [builder.load(builder.gep(start_ptr, [tap]))])
                return x, _load(builder, builder.bitcast(weights, halves.as_pointer()))

            zero = _vector_constant(0, halves)

            def sense(tap: Any, state: list[Any]) -> list[Any]:
                # the word line of a channel is driven where its input bit is 1: AND of the stored weight with that bit
                x, weight = load(tap)
                sums = []
                for bit in range(8):
                    driven = builder.icmp_unsigned("!=", builder.and_(x, _vector_constant(1 << bit, halves)), zero)
                    sums.append(builder.add(state[bit], builder.select(driven, weight, zero)))
                return sums

            def multiply(tap: Any, state: list[Any]) -> list[Any]:
                x, weight = load(tap)
                product = builder.mul(builder.sub(builder.xor(x, flip), flip), weight)
                return [builder.add(state[0], builder.sext(product, _V32))]

            if bitserial:  # a sum for every input bit, shifted and added at the end; the sign cycle of a signed input subtracts
                sums = _loop(builder, args[2], [zero] * 8, sense)
                sums[7] = builder.sub(builder.xor(sums[7], sign), sign)
                total = builder.sext(sums[0], _V32)
                for bit in range(1, 8):
                    total = builder.add(total, builder.shl(builder.sext(sums[bit], _V32), _vector_constant(bit, _V32)))
            else:
                total = _loop(builder, args[2], [_vector_constant(0, _V32)], multiply)[0]
            builder.store(total, _data(context, builder, kinds[7], args[7], _V32, args[5])).align = 4
            return context.get_dummy_value()

        n = types.intp
        return types.void(where, starts, n, n, w, n, n, out), codegen

    return taps


taps_fused = _taps(False)
taps_bitserial = _taps(True)
