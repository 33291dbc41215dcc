"""Small LLVM building blocks for the kernels: population counts, bit masks and vector micro-kernels as numba intrinsics.

Everything is generic LLVM vector code of 16 lanes of 32 bits, which the code generator splits or joins to what the
processor has (AVX-512 with VPOPCNTDQ, AVX2, SSE2, NEON); only `dot_block` asks for one x86 instruction by name
(vpdpbusd), and has a generic form for processors without it. None of these functions checks a bound.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

__all__ = [
    "LANES",
    "bit_block_signed",
    "bit_block_unsigned",
    "copy16",
    "dot_block_1x2",
    "dot_block_8x2",
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
_V8 = ir.VectorType(ir.IntType(8), 4 * LANES)


def _has_vnni() -> bool:
    """True if the code is generated for a processor with 512-bit vpdpbusd (numba compiles for the host)."""
    from numba.core import config as numba_config

    config: Any = numba_config
    if config.CPU_FEATURES is not None:
        return "+avx512vnni" in config.CPU_FEATURES.split(",")
    if config.CPU_NAME not in (None, "", "host"):
        return False
    return bool(llvm.get_host_cpu_features().get("avx512vnni", False))


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
        zero = _vector_constant(0, byte)
        for bit in range(8):
            chosen = builder.and_(values, _vector_constant(1 << bit, byte))
            word = builder.bitcast(builder.icmp_unsigned("!=", chosen, zero), _I32)
            at = builder.add(args[3], ir.Constant(_I64, bit))
            builder.store(word, _data(context, builder, signature.args[2], args[2], _I32, at))
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


def _bit_block(signed_x: bool) -> Any:
    @intrinsic
    def bit_block(typingctx: Any, x: Any, x_at: Any, planes: Any, planes_at: Any, words: Any, out: Any, out_at: Any) -> Any:
        """Bit-serial dot product of one pixel with 16 weight columns.

        x: uint32 [words, 8] input bit planes; planes: uint32 [words, 8, 16] weight bit planes; out: int32 [16].
        For every input bit i and weight bit j: sense = x_i AND w_j, counted over the word lines and shifted by i + j;
        pairs with exactly one sign bit are subtracted (two's complement, paper fig. 4).
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            types_ = signature.args
            x_ptr = _data(context, builder, types_[0], args[0], _I32, args[1])
            p_ptr = _data(context, builder, types_[2], args[2], _V32, args[3])
            ctpop = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_V32, [_V32]), f"llvm.ctpop.v{LANES}i32")

            def body(word: Any, state: list[Any]) -> list[Any]:
                sums = list(state)
                first = builder.shl(word, ir.Constant(_I64, 3))
                weights = [_load(builder, builder.gep(p_ptr, [builder.add(first, ir.Constant(_I64, j))])) for j in range(8)]
                for i in range(8):
                    bits = _splat(builder, _load(builder, builder.gep(x_ptr, [builder.add(first, ir.Constant(_I64, i))])), _V32)
                    for j in range(8):
                        ones = builder.call(ctpop, [builder.and_(weights[j], bits)])
                        negative = (j == 7) != (signed_x and i == 7)
                        sums[i + j] = (builder.sub if negative else builder.add)(sums[i + j], ones)
                return sums

            sums = _loop(builder, args[4], [_vector_constant(0, _V32)] * 15, body)
            total = sums[0]
            for weight in range(1, 15):
                total = builder.add(total, builder.shl(sums[weight], _vector_constant(weight, _V32)))
            builder.store(total, _data(context, builder, types_[5], args[5], _V32, args[6])).align = 4
            return context.get_dummy_value()

        return types.void(x, types.intp, planes, types.intp, types.intp, out, types.intp), codegen

    return bit_block


bit_block_unsigned = _bit_block(False)
bit_block_signed = _bit_block(True)


def _dot4(builder: Any, total: Any, x: Any, w: Any) -> Any:
    """total (16 int32 lanes) + the products of 4 neighbouring pairs uint8 x int8 a lane."""
    if _has_vnni():
        operand = _V8 if llvm.llvm_version_info[0] >= 22 else _V32  # LLVM 22 changed the types of this instruction
        kind = ir.FunctionType(_V32, [_V32, operand, operand])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(function, [total, builder.bitcast(x, operand), builder.bitcast(w, operand)])
    wide = ir.VectorType(_I16, 4 * LANES)  # a product is at most 255 * 128
    products = builder.mul(builder.zext(builder.bitcast(x, _V8), wide), builder.sext(w, wide))
    none = ir.Constant(wide, ir.Undefined)
    for place in range(4):
        pick = ir.Constant(_V32, [4 * lane + place for lane in range(LANES)])
        total = builder.add(total, builder.sext(builder.shuffle_vector(products, none, pick), _V32))
    return total


def _dot_block(pixels: int, blocks: int) -> Any:
    @intrinsic
    def dot_block(
        typingctx: Any,
        x: Any,
        x_at: Any,
        x_row: Any,
        quads: Any,
        w: Any,
        w_at: Any,
        start: Any,
        out: Any,
        out_at: Any,
        out_row: Any,
    ) -> Any:
        """Integer dot products of `pixels` rows of x with `blocks` times 16 weight columns.

        x: uint8, row p at x_at + p * x_row, 4 * quads elements; w: int8 [blocks, quads + 1, 16, 4], the last group of a block is 16
        int32, with which the sums begin if start is 1 (0: they begin with 0); out: int32, row p at out_at + p * out_row.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            types_ = signature.args
            _, x_at_, x_row_, quads_, _, w_at_, start_, _, out_at_, out_row_ = args
            x_ptr = _data(context, builder, types_[0], args[0], ir.IntType(8), x_at_)
            w_ptr = _data(context, builder, types_[4], args[4], _V8, w_at_)
            groups = builder.add(quads_, ir.Constant(_I64, 1))
            first = _splat(builder, builder.trunc(builder.neg(start_), _I32), _V32)

            def weights(block: int, k: Any) -> Any:
                at = builder.add(builder.mul(groups, ir.Constant(_I64, block)), k)
                return _load(builder, builder.gep(w_ptr, [at]))

            def body(k: Any, state: list[Any]) -> list[Any]:
                held = [weights(block, k) for block in range(blocks)]
                sums = list(state)
                for pixel in range(pixels):
                    at = builder.add(builder.mul(x_row_, ir.Constant(_I64, pixel)), builder.shl(k, ir.Constant(_I64, 2)))
                    four = _load(builder, builder.bitcast(builder.gep(x_ptr, [at]), _I32.as_pointer()))
                    splat = _splat(builder, four, _V32)
                    for block in range(blocks):
                        at_sum = pixel * blocks + block
                        sums[at_sum] = _dot4(builder, sums[at_sum], splat, held[block])
                return sums

            begin = [builder.and_(builder.bitcast(weights(block, quads_), _V32), first) for block in range(blocks)]
            sums = _loop(builder, quads_, begin * pixels, body)
            for pixel in range(pixels):
                for block in range(blocks):
                    row = builder.add(out_at_, builder.mul(out_row_, ir.Constant(_I64, pixel)))
                    at = builder.add(row, ir.Constant(_I64, block * LANES))
                    pointer = _data(context, builder, types_[7], args[7], _V32, at)
                    builder.store(sums[pixel * blocks + block], pointer).align = 4
            return context.get_dummy_value()

        n = types.intp
        return types.void(x, n, n, n, w, n, n, out, n, n), codegen

    return dot_block


dot_block_8x2 = _dot_block(8, 2)
dot_block_1x2 = _dot_block(1, 2)


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
