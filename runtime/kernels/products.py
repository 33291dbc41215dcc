"""The inner loops of dense products: a tile of integer dot products, and bit-serial products by looking up.

`write_*` write LLVM code for a form of `kernels.forms`; the intrinsics below them are what numba's code calls, in the form of this
process. Operands are addresses; nothing checks a bound. Both add their sums into 32-bit accumulators and tell whether one wrapped.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from sasimc.runtime.kernels.forms import FORM, Form
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
    splat,
    store,
    vector,
    when,
    wrapped_any,
)

__all__ = [
    "bit_block_signed",
    "bit_block_unsigned",
    "dot_row",
    "dot_tile",
    "dot_tile_narrow",
    "narrow_block_signed",
    "narrow_block_unsigned",
    "narrow_tables_signed",
    "narrow_tables_unsigned",
    "tables_signed",
    "tables_unsigned",
    "write_bit_block",
    "write_dot_tile",
    "write_tables",
]


def declared(builder: Any, name: str, kind: ir.FunctionType) -> Any:
    """A function of the module, declared once."""
    module = builder.module
    return module.globals.get(name) or ir.Function(module, kind, name)


def dot4(builder: Any, form: Form, total: Any, x: Any, w: Any) -> Any:
    """total (int32 lanes) + 4 products of bytes a lane: x with the sign that the form wants, w int8; for forms that have an instruction."""
    lanes = form.lanes
    operand = vector(I8, 4 * lanes)
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}" if form.dot == "vpdpbusd" else "llvm.aarch64.neon.sdot.v4i32.v16i8"
    kind = ir.FunctionType(total.type, [total.type, operand, operand])
    return builder.call(declared(builder, name, kind), [total, builder.bitcast(x, operand), builder.bitcast(w, operand)])


def dot2(builder: Any, total: Any, x: Any, w: Any) -> Any:
    """total (int32 lanes) + 2 products of int16 a lane. Code generators know this as vpmaddwd, or as smull and addp."""
    lanes = total.type.count
    wide = vector(I32, 2 * lanes)
    products = builder.mul(builder.sext(w, wide), builder.sext(x, wide))
    none = ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, none, ir.Constant(vector(I32, lanes), [2 * lane + first for lane in range(lanes)]))
        for first in (0, 1)
    )
    return builder.add(total, builder.add(even, odd))


def write_dot_tile(builder: Any, form: Form, pixels: int, blocks: int, operands: list[Any]) -> Any:
    """Add integer dot products of `pixels` rows of x with `blocks` times 16 weight columns into accumulators.

    operands (64-bit): address of x, bytes from one row of x to the next, groups of 4 elements in a row, address of the weights, start,
    address of the addresses (int64) of each row's sums, what to add to them, how many of the rows count.
    x as `dense.prepare_rows` gives it. Weights of a block: 64 bytes for each group (`dense.fill_fused`), then 16 int32 with which the sums
    begin if start is 1 (0: they begin with 0). Returns -1 (int32) if a sum left 32 bits, else 0.
    """
    x_, x_row, quads, w_, start, targets_, offset, count = operands
    lanes, parts = form.lanes, LANES // form.lanes
    sums_kind = vector(I32, lanes)
    x, w, targets = pointer(builder, x_), pointer(builder, w_), pointer(builder, targets_)
    block_bytes = builder.mul(builder.add(quads, integer(1)), integer(4 * LANES))
    vectors = [(block, part) for block in range(blocks) for part in range(parts)]
    starts = [builder.mul(block_bytes, integer(block)) for block in range(blocks)]
    rows = [builder.mul(x_row, integer(pixel)) for pixel in range(pixels)]

    def weights(group: Any, block: int, part: int, half: int) -> Any:
        where = builder.add(builder.add(starts[block], builder.mul(group, integer(4 * LANES))), integer(0))
        if form.dot:
            return load(builder, w, builder.add(where, integer(4 * lanes * part)), vector(I8, 4 * lanes))
        two = load(builder, w, builder.add(where, integer(2 * LANES * half + 2 * lanes * part)), vector(I8, 2 * lanes))
        return builder.sext(two, vector(I16, 2 * lanes))

    def body(group: Any, state: list[Any]) -> list[Any]:
        sums = list(state)
        for half in range(1 if form.dot else 2):
            held = [weights(group, block, part, half) for block, part in vectors]
            for pixel in range(pixels):
                # four bytes, or two 16-bit values
                step = builder.mul(group, integer(4 if form.dot else 8))
                where = builder.add(builder.add(rows[pixel], step), integer(4 * half))
                given = splat(builder, load(builder, x, where, I32), sums_kind)
                for number in range(len(vectors)):
                    place = pixel * len(vectors) + number
                    if form.dot:
                        sums[place] = dot4(builder, form, sums[place], given, held[number])
                    else:
                        sums[place] = dot2(builder, sums[place], builder.bitcast(given, vector(I16, 2 * lanes)), held[number])
        return sums

    begin = [constant(0, sums_kind)] * len(vectors)
    if form.dot:
        mask = splat(builder, builder.trunc(builder.neg(start), I32), sums_kind)
        begin = [builder.and_(builder.bitcast(weights(quads, block, part, 0), sums_kind), mask) for block, part in vectors]
    sums = loop(builder, quads, begin * pixels, body)
    wrapped: Any = constant(0, sums_kind)
    for pixel in range(pixels):

        def add(pixel: int = pixel, wrapped: Any = wrapped) -> Any:
            to = pointer(builder, builder.add(load(builder, targets, 8 * pixel, I64), offset))
            for number in range(len(vectors)):
                wrapped = add_checked(builder, sums[pixel * len(vectors) + number], to, 4 * lanes * number, wrapped)
            return wrapped

        wrapped = when(builder, builder.icmp_signed("<", integer(pixel), count), wrapped, add) if pixel else add()
    return wrapped_any(builder, wrapped)


def _look_up(builder: Any, form: Form, table: Any, index: Any) -> Any:
    """Of every 128 bits the bytes of the table (16) at the indices 0..15."""
    kind = table.type
    if form.look_up:
        return builder.call(declared(builder, form.look_up, ir.FunctionType(kind, [kind, kind])), [table, index])
    found: Any = ir.Constant(kind, ir.Undefined)
    for place in range(kind.count):
        chosen = builder.add(builder.extract_element(index, ir.Constant(I32, place)), ir.Constant(I8, place & ~15))
        byte = builder.extract_element(table, builder.zext(chosen, I32))
        found = builder.insert_element(found, byte, ir.Constant(I32, place))
    return found


def _dot_bytes(builder: Any, form: Form, total: Any, x: Any, weights: list[int]) -> Any:
    """total (int32 lanes) + 4 products a lane: bytes x of up to 120 times constants, of which neighbours weigh at most 192 together."""
    lanes = form.lanes
    factors = ir.Constant(x.type, weights * lanes)
    if form.dot:
        return dot4(builder, form, total, x, factors)
    halves, words = vector(I16, 2 * lanes), total.type
    if form.x86 and form.look_up:
        join = {4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}[lanes]
        add = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[lanes]
        kind = ir.FunctionType(halves, [x.type, x.type])
        pairs = builder.call(declared(builder, f"llvm.x86.{join}", kind), [x, factors])
        kind = ir.FunctionType(words, [halves, halves])
        return builder.add(total, builder.call(declared(builder, f"llvm.x86.{add}", kind), [pairs, constant(1, halves)]))
    both = builder.bitcast(x, halves)
    even, odd = (ir.Constant(halves, [weights[first], weights[first + 2]] * lanes) for first in (0, 1))
    low, high = builder.and_(both, constant(255, halves)), builder.lshr(both, constant(8, halves))
    pairs = builder.bitcast(builder.add(builder.mul(low, even), builder.mul(high, odd)), words)
    by = constant(16, words)
    return builder.add(total, builder.add(builder.ashr(builder.shl(pairs, by), by), builder.ashr(pairs, by)))


def write_tables(builder: Any, form: Form, signed_x: bool, operands: list[Any]) -> None:
    """Of every four word lines, what each of the 16 subsets of them adds up to where a stored bit is 1, for `write_bit_block`.

    operands (64-bit): address of x (a byte a word line), vectors of 2 * lanes word lines, address of the tables. The input bits are shifted
    and added apart for the lower and the upper four, so that a sum fits a byte; upper bits with a sign have 32 added. Of a vector come four
    tables: lower bits of the first four of every 8 lines, of the second four, upper bits of the first, of the second.
    """
    x_, vectors, tables_ = operands
    lanes, groups = form.lanes, form.lanes // 4
    x, tables = pointer(builder, x_), pointer(builder, tables_)
    lines = vector(I8, 2 * lanes)
    nothing = constant(0, lines)

    def body(number: Any, state: list[Any]) -> list[Any]:
        given = load(builder, x, builder.mul(number, integer(2 * lanes)), lines)
        upper = builder.lshr(given, constant(4, lines))
        if signed_x:
            upper = builder.sub(builder.xor(upper, constant(8, lines)), constant(8, lines))
        where = builder.mul(number, integer(16 * lanes))
        for half, bits in enumerate((builder.and_(given, constant(15, lines)), upper)):
            for side in (0, 1):
                table = constant(32, vector(I8, 4 * lanes)) if half and signed_x else None
                for line in range(4):
                    mask = [
                        8 * group + 4 * side + line if subset >> line & 1 else 2 * lanes
                        for group in range(groups)
                        for subset in range(16)
                    ]
                    part = shuffle(builder, bits, nothing, mask)
                    table = part if table is None else builder.add(table, part)
                store(builder, table, tables, builder.add(where, integer(4 * lanes * (2 * half + side))))
        return state

    loop(builder, vectors, [], body)


def write_bit_block(builder: Any, form: Form, signed_x: bool, operands: list[Any]) -> Any:
    """Bit-serial dot product of one pixel with 16 weight columns, added into 16 accumulators.

    operands (64-bit): address of the tables of `write_tables`, of the weight bit planes (`dense.pack_weights`), vectors of word lines,
    address of the sums. The stored bits of four word lines, bit plane by bit plane, choose what those lines add to the bit line; the sums of
    the planes are shifted and added, the sign plane's subtracted (two's complement, paper fig. 4). Returns -1 (int32) if a sum left 32
    bits, else 0.
    """
    tables_, planes_, vectors, target_ = operands
    lanes = form.lanes
    bytes_, halves, words = vector(I8, 4 * lanes), vector(I16, 2 * lanes), vector(I32, lanes)
    tables, planes, target = pointer(builder, tables_), pointer(builder, planes_), pointer(builder, target_)
    parts = LANES // lanes  # vectors of the 64 bytes that 32 word lines, 4 columns and 4 planes take
    shift = parts.bit_length() - 1
    low = constant(15, bytes_)

    def body(number: Any, state: list[Any], fours: range) -> list[Any]:
        where = builder.mul(number, integer(16 * lanes))
        given = [load(builder, tables, builder.add(where, integer(4 * lanes * place)), bytes_) for place in range(4)]
        word, part = builder.lshr(number, integer(shift)), builder.and_(number, integer(parts - 1))
        at_word = builder.add(builder.mul(word, integer(32 * LANES)), builder.mul(part, integer(4 * lanes)))
        state = list(state)
        for four in fours:
            for first_plane in (0, 4):
                at_planes = builder.add(at_word, integer(4 * LANES * (2 * four + first_plane // 4)))
                stored = load(builder, planes, at_planes, bytes_)
                second = builder.bitcast(builder.lshr(builder.bitcast(stored, halves), constant(4, halves)), bytes_)
                indices = builder.and_(stored, low), builder.and_(second, low)
                weights = [1 << plane if plane < 7 else -128 for plane in range(first_plane, first_plane + 4)]
                for half in (0, 1):
                    found = [_look_up(builder, form, given[2 * half + side], indices[side]) for side in (0, 1)]
                    place = 2 * (four - fours.start) + half
                    state[place] = _dot_bytes(builder, form, state[place], builder.add(*found), weights)
        return state

    four_lanes = vector(I32, 4)
    wrapped: Any = constant(0, four_lanes)
    # of the 32s that were added, 16 a table, the planes leave -1: their weights' sum
    owed = splat(builder, builder.trunc(builder.mul(vectors, integer(256 * lanes)), I32), four_lanes)
    together = 2 if form.x86 and lanes < 16 else 4  # fours of columns whose sums stay in registers
    for begin in range(0, 4, together):
        fours = range(begin, begin + together)

        def step(number: Any, state: list[Any], fours: range = fours) -> list[Any]:
            return body(number, state, fours)

        sums = loop(builder, vectors, [constant(0, words)] * (2 * together), step)
        for four in fours:
            lower, upper = sums[2 * (four - begin) : 2 * (four - begin) + 2]
            total = builder.add(lower, builder.shl(upper, constant(4, words)))
            while total.type.count > 4:
                half = total.type.count // 2
                first, last = (shuffle(builder, total, total, list(range(start, start + half))) for start in (0, half))
                total = builder.add(first, last)
            total = builder.add(total, owed) if signed_x else total
            wrapped = add_checked(builder, total, target, 16 * four, wrapped)
    return wrapped_any(builder, wrapped)


def _dot_tile(pixels: int, blocks: int) -> Any:
    @intrinsic
    def dot(typingctx: Any, x: Any, row: Any, quads: Any, w: Any, start: Any, targets: Any, offset: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return write_dot_tile(builder, FORM, pixels, blocks, list(args))

        return types.int32(*[types.int64] * 8), codegen

    return dot


def _bit_block(form: Form, signed_x: bool) -> Any:
    @intrinsic
    def block(typingctx: Any, tables: Any, planes: Any, vectors: Any, target: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return write_bit_block(builder, form, signed_x, list(args))

        return types.int32(*[types.int64] * 4), codegen

    return block


def _tables(form: Form, signed_x: bool) -> Any:
    @intrinsic
    def tables(typingctx: Any, x: Any, vectors: Any, tables: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            write_tables(builder, form, signed_x, list(args))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), codegen

    return tables


dot_tile = _dot_tile(FORM.pixels, FORM.blocks)
dot_tile_narrow = _dot_tile(FORM.pixels, 1)
dot_row = _dot_tile(1, 2)
bit_block_unsigned, tables_unsigned = _bit_block(FORM, False), _tables(FORM, False)
bit_block_signed, tables_signed = _bit_block(FORM, True), _tables(FORM, True)
narrow_block_unsigned, narrow_tables_unsigned = _bit_block(FORM.narrow(), False), _tables(FORM.narrow(), False)
narrow_block_signed, narrow_tables_signed = _bit_block(FORM.narrow(), True), _tables(FORM.narrow(), True)
