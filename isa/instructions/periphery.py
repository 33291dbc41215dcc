"""Periphery: what happens to sums beside the arrays. All roundings are to nearest, ties to even (``rne`` on the page "Arithmetic")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sasimc.isa.machine import Machine
from sasimc.isa.spec import Cost, GeomField, Imm, Instruction, Reg, RowsField, TableField, ViewField

__all__ = ["MOST_NORMALISED"]

MOST_NORMALISED = 1 << 16
"""Channels of a layer norm: n^2 times the variance has 48 bits."""


def _elements(view: Any, r0: int, r1: int) -> int:
    return (r1 - r0) * view.width * view.channels


def _bits(view: Any, r0: int, r1: int) -> int:
    return (r1 - r0) * view.row_bits


def _cost(machine: Machine, elements: int, **events: int) -> Cost:
    return Cost(machine.controller.issue_cycles + -(-elements // machine.periphery.lanes), instructions=1, **events)


def _shapes(*views: Any) -> Iterator[str]:
    first = views[0]
    for v in views[1:]:
        if v.shape != first.shape:
            yield f"{first.name} is {first.shape} and {v.name} is {v.shape}: the shapes must agree"


def _bounds(table: Any, dst: Any) -> Iterator[str]:
    low, high = dst.limits
    if not low <= table.ints["lo"] <= table.ints["hi"] <= high:
        yield f"{table.name} clamps to {table.ints['lo']}..{table.ints['hi']}, outside {dst.dtype}"


class _Periphery(Instruction):
    group = "periphery"


class Bias(_Periphery):
    """Add the table's per-channel bias to accumulators: acc += bias[c] (``req`` adds it by itself; this is for sums kept at 32 bits)."""

    opcode = 0x40
    mnemonic = "bias"
    kernel = "add_bias"
    acc = ViewField("sums", "acc", "i32", "rw")
    table = TableField("constants", "requant")
    rows = RowsField("acc")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.acc, r0, r1)
        return _cost(machine, n, add_ops=n, accumulator_reads=n, accumulator_writes=n)


class Requantise(_Periphery):
    """dst = clamp(rne((acc + bias[c]) mult[c], shift[c]) + zero, lo, hi); the accumulators are cleared. ReLU and ReLU6 are bounds lo, hi."""

    opcode = 0x41
    mnemonic = "req"
    kernel = "requantise"
    split = "pixels"
    dst = ViewField("8-bit result", "buf", "u8 i8", "w")
    acc = ViewField("sums", "acc", "i32", "d")
    table = TableField("constants", "requant")
    rows = RowsField("acc")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.acc, r0, r1)
        return _cost(machine, n, requantise_ops=n, relu_ops=n, accumulator_reads=n, buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.acc)
        yield from _bounds(o.table, o.dst)


class AddLearnedBias(_Periphery):
    """Add biases that are learned to accumulators: acc += rne(src[c], down), src one 32-bit word a channel, in units of 2^-down sums. ``req`` adds the
    constant ones of its table."""

    opcode = 0x5A
    mnemonic = "badd"
    kernel = "add_learned_bias"
    acc = ViewField("sums", "acc", "i32", "rw")
    src = ViewField("a (1, 1, C) view of biases", "buf", "i32", "r", broadcast=True)
    down = Imm(6, "fraction bits of a bias")
    rows = RowsField("acc")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n, words = _elements(o.acc, r0, r1), o.src.channels
        return _cost(
            machine, n, shift_ops=words, add_ops=n, accumulator_reads=n, accumulator_writes=n, buffer_bits_read=32 * words
        )

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.src.shape != (1, 1, o.acc.channels):
            yield f"{o.src.name} is {o.src.shape}: a bias for each channel of {o.acc.name} is (1, 1, {o.acc.channels})"
        if not 0 <= o.down <= 31:
            yield f"{o.down} fraction bits are not between 0 and 31"


class Drain(_Periphery):
    """dst = acc as 32-bit words; the accumulators are cleared."""

    opcode = 0x42
    mnemonic = "drain"
    kernel = "drain"
    dst = ViewField("32-bit result", "buf", "i32", "w")
    acc = ViewField("sums", "acc", "i32", "d")
    rows = RowsField("acc")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.acc, r0, r1)
        return _cost(machine, n, accumulator_reads=n, buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.acc)


class Clip(_Periphery):
    """dst = clamp(src, lo, hi)."""

    opcode = 0x43
    mnemonic = "clip"
    kernel = "clip"
    dst = ViewField("result", "buf", "u8 i8", "w")
    src = ViewField("operand", "buf", "u8 i8", "r")
    lo = Imm(16, "lower bound")
    hi = Imm(16, "upper bound")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, relu_ops=n, buffer_bits_read=8 * n, buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)
        if o.dst.dtype != o.src.dtype:
            yield f"{o.dst.name} is {o.dst.dtype} and {o.src.name} is {o.src.dtype}: the types must agree"
        low, high = o.dst.limits
        if not low <= o.lo <= o.hi <= high:
            yield f"bounds {o.lo}..{o.hi} are not within {o.dst.dtype}"


class AddQuantised(_Periphery):
    """Residual addition of two scales: dst = clamp(rne((a - za) ma + (b - zb) mb, shift) + zy, lo, hi)."""

    opcode = 0x44
    mnemonic = "addq"
    kernel = "add_quantised"
    dst = ViewField("8-bit result", "buf", "u8 i8", "w")
    a = ViewField("first operand", "buf", "u8 i8", "r")
    b = ViewField("second operand", "buf", "u8 i8", "r")
    table = TableField("constants", "addq")
    rows = RowsField("dst")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.dst, r0, r1)
        return _cost(machine, n, requantise_ops=2 * n, add_ops=n, relu_ops=n, buffer_bits_read=16 * n, buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.a, o.b)


class LookUp(_Periphery):
    """dst = values[src - lowest value of its type]: any function of one 8-bit number. The table has 256 entries, or 256 for each channel; it is a constant
    of the instruction and stands in the controller's descriptor memory, beside those of ``req``. In training it gives derivatives."""

    opcode = 0x57
    mnemonic = "lut"
    kernel = "look_up"
    dst = ViewField("result", "buf", "u8 i8", "w")
    src = ViewField("operand", "buf", "u8 i8", "r")
    table = TableField("values", "lut")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, lut_ops=n, buffer_bits_read=8 * n, buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)


class Product(_Periphery):
    """Products of two tensors, each minus its zero point (the pad value of its view): acc += (a - pad) (b - pad). ``b`` and ``acc`` may have one
    row, pixel or channel where ``a`` has many: that of ``b`` stands for all, that of ``acc`` takes their sum."""

    opcode = 0x58
    mnemonic = "prod"
    kernel = "product"
    split = "own"
    acc = ViewField("sums", "acc", "i32", "a", broadcast=True)
    a = ViewField("first factor, or errors", "buf", "u8 i8", "r")
    b = ViewField("second factor", "buf", "u8 i8", "r", broadcast=True)
    rows = RowsField("a")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n, sums = _elements(o.a, r0, r1), _elements(o.acc, 0, 1) * (1 if o.acc.height == 1 else r1 - r0)
        read = _elements(o.b, 0, 1) * (1 if o.b.height == 1 else r1 - r0)
        return _cost(machine, n, product_ops=n, accumulator_reads=sums, accumulator_writes=sums, buffer_bits_read=8 * (n + read))

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        for v in (o.b, o.acc):
            if any(have not in (1, want) for have, want in zip(v.shape, o.a.shape, strict=True)):
                yield f"{v.name} is {v.shape} and {o.a.name} is {o.a.shape}: each size must be that of {o.a.name}, or 1"


class Softmax(_Periphery):
    """Softmax over the channels of every pixel (page "Arithmetic"): exponentials of max - src from the table, their sum's reciprocal, and
    dst = clamp(rne(p mult, shift) + zero, lo, hi) of p = exp / sum in 24 bits. Three passes: the maximum, the sum, the results."""

    opcode = 0x5D
    mnemonic = "smax"
    kernel = "softmax"
    split = "pixels"
    dst = ViewField("result", "buf", "u8 i8", "w")
    src = ViewField("operand", "buf", "u8 i8", "r")
    table = TableField("exponentials and factor", "softmax")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n, pixels = _elements(o.src, r0, r1), (r1 - r0) * o.src.width
        return _cost(
            machine, 3 * n + pixels, pool_ops=n, lut_ops=2 * n, add_ops=n, requantise_ops=2 * n, relu_ops=n, reciprocal_ops=pixels,
            buffer_bits_read=24 * n, buffer_bits_written=8 * n,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)
        yield from _bounds(o.table, o.dst)


class LayerNorm(_Periphery):
    """Layer norm over the channels of every pixel (page "Arithmetic"): sums of the elements and of their squares, a reciprocal square root, and a factor
    and an offset for each channel. Two passes: the sums, the results."""

    opcode = 0x5E
    mnemonic = "lnorm"
    kernel = "layer_norm"
    split = "pixels"
    dst = ViewField("result", "buf", "u8 i8", "w")
    src = ViewField("operand", "buf", "u8 i8", "r")
    table = TableField("constants", "norm")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n, pixels = _elements(o.src, r0, r1), (r1 - r0) * o.src.width
        return _cost(
            machine, 3 * n + pixels, product_ops=n, add_ops=n, requantise_ops=2 * n, relu_ops=n, reciprocal_ops=pixels,
            buffer_bits_read=16 * n, buffer_bits_written=8 * n,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)
        yield from _bounds(o.table, o.dst)
        if o.src.channels > MOST_NORMALISED:
            yield f"{o.src.name} has {o.src.channels} channels; a layer norm takes at most {MOST_NORMALISED}"


class AddAligned(_Periphery):
    """Sum of two int8 tensors with exponents ra and rb: E = max(ra, rb), dst = rne(a << 8, E - ra) + rne(b << 8, E - rb); the exponent of
    dst is E - 8."""

    opcode = 0x45
    mnemonic = "adda"
    kernel = "add_aligned"
    dst = ViewField("32-bit result", "buf", "i32", "w")
    a = ViewField("first operand", "buf", "i8", "r")
    b = ViewField("second operand", "buf", "i8", "r")
    ra = Reg("exponent of a")
    rb = Reg("exponent of b")
    rows = RowsField("dst")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.dst, r0, r1)
        return _cost(machine, n, shift_ops=2 * n, add_ops=n, buffer_bits_read=16 * n, buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.a, o.b)


class PoolSum(_Periphery):
    """Window sums: acc += sum of x over the window (outside: pad value). With a 1 x 1 window it loads x into accumulators."""

    opcode = 0x46
    mnemonic = "pavg"
    kernel = "pool_sum"
    acc = ViewField("sums", "acc", "i32", "a")
    x = ViewField("input", "buf", "u8 i8", "r")
    geom = GeomField("x", "acc")
    rows = RowsField("acc", "output rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.acc, r0, r1)
        taps = n * o.geom.taps
        return _cost(machine, taps, pool_ops=taps, accumulator_reads=n, accumulator_writes=n, buffer_bits_read=8 * taps)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.acc.channels != o.x.channels:
            yield f"{o.acc.name} and {o.x.name} must have as many channels"


class PoolSumTransposed(_Periphery):
    """Backward of ``pavg``: each error is added to all positions of its window; positions outside are dropped."""

    opcode = 0x47
    mnemonic = "pavgt"
    kernel = "pool_sum_transposed"
    split = "whole"
    acc = ViewField("error sums of the input", "acc", "i32", "a")
    e = ViewField("errors", "buf", "i8", "r")
    geom = GeomField("acc", "e")
    rows = RowsField("e", "error rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.e, r0, r1)
        taps = n * o.geom.taps
        return _cost(machine, taps, pool_ops=taps, accumulator_reads=taps, accumulator_writes=taps, buffer_bits_read=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.acc.channels != o.e.channels:
            yield f"{o.acc.name} and {o.e.name} must have as many channels"


class PoolMax(_Periphery):
    """Window maxima; positions outside the input never win."""

    opcode = 0x48
    mnemonic = "pmax"
    kernel = "pool_max"
    dst = ViewField("result", "buf", "u8 i8", "w")
    x = ViewField("input", "buf", "u8 i8", "r")
    geom = GeomField("x", "dst")
    rows = RowsField("dst", "output rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.dst, r0, r1)
        taps = n * o.geom.taps
        return _cost(machine, taps, pool_ops=taps, buffer_bits_read=8 * taps, buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.dst.channels != o.x.channels or o.dst.dtype != o.x.dtype:
            yield f"{o.dst.name} and {o.x.name} must agree in channels and type"


class PoolMaxTransposed(_Periphery):
    """Backward of ``pmax``: the first maximum of each window (row by row) receives the error."""

    opcode = 0x49
    mnemonic = "pmaxt"
    kernel = "pool_max_transposed"
    split = "whole"
    acc = ViewField("error sums of the input", "acc", "i32", "a")
    e = ViewField("errors", "buf", "i8", "r")
    x = ViewField("input of the forward pool", "buf", "u8 i8", "r")
    geom = GeomField("x", "e")
    rows = RowsField("e", "error rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.e, r0, r1)
        taps = n * o.geom.taps
        return _cost(machine, taps, pool_ops=taps, accumulator_reads=n, accumulator_writes=n, buffer_bits_read=8 * (n + taps))

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.acc.shape != o.x.shape or o.acc.channels != o.e.channels:
            yield f"{o.acc.name} must have the shape of {o.x.name}, and {o.e.name} as many channels"


class Upsample(_Periphery):
    """Resample to the accumulators' size: ``linear2`` doubles both axes with weights {9, 3, 3, 1} (sums are 16 x the value), ``nearest`` reads
    input row floor(y H_in / H_out), column likewise."""

    opcode = 0x4A
    mnemonic = "ups"
    kernel = "upsample"
    acc = ViewField("result sums", "acc", "i32", "a")
    x = ViewField("input", "buf", "u8 i8", "r")
    geom = GeomField("x", "acc", "resampling mode", "linear2 nearest")
    rows = RowsField("acc", "output rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.acc, r0, r1)
        taps = n * (4 if o.geom.mode == "linear2" else 1)
        return _cost(machine, taps, pool_ops=taps, accumulator_reads=n, accumulator_writes=n, buffer_bits_read=8 * taps)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _resample(o.acc, o.x, o.geom)


def _resample(large: Any, small: Any, geom: Any) -> Iterator[str]:
    if large.channels != small.channels:
        yield f"{large.name} and {small.name} must have as many channels"
    if geom.mode == "linear2" and (large.height, large.width) != (2 * small.height, 2 * small.width):
        yield f"{large.name} must be twice as high and wide as {small.name} for linear2"


class UpsampleTransposed(_Periphery):
    """Backward of ``ups``: errors are added to the positions they were read from, with the same weights (16ths for ``linear2``)."""

    opcode = 0x4B
    mnemonic = "upst"
    kernel = "upsample_transposed"
    split = "whole"
    acc = ViewField("error sums of the input", "acc", "i32", "a")
    e = ViewField("errors", "buf", "i8", "r")
    geom = GeomField("acc", "e", "resampling mode", "linear2 nearest")
    rows = RowsField("e", "error rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.e, r0, r1)
        taps = n * (4 if o.geom.mode == "linear2" else 1)
        return _cost(machine, taps, pool_ops=taps, accumulator_reads=taps, accumulator_writes=taps, buffer_bits_read=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _resample(o.e, o.acc, o.geom)


class MakeMask(_Periphery):
    """One bit an element: 1 where the forward output was not clipped, that is (use_lo = 0 or q > lo) and (use_hi = 0 or q < hi)."""

    opcode = 0x4C
    mnemonic = "mask"
    kernel = "make_mask"
    dst = ViewField("packed bits", "buf", "bit", "w")
    src = ViewField("forward output", "buf", "u8 i8", "r")
    table = TableField("bounds", "mask")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, mask_ops=n, buffer_bits_read=8 * n, buffer_bits_written=n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)


class ApplyMask(_Periphery):
    """dst = src where the mask bit is 1, else 0 (int8 is widened)."""

    opcode = 0x4D
    mnemonic = "emask"
    kernel = "apply_mask"
    dst = ViewField("32-bit result", "buf", "i32", "w")
    src = ViewField("errors", "buf", "i32 i8", "r")
    bits_ = ViewField("packed bits", "buf", "bit", "r")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, mask_ops=n, buffer_bits_read=n + _bits(o.src, r0, r1), buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src, o.bits_)


class ScaleError(_Periphery):
    """dst = rne(src k[c], 15): the channel scales of a frozen layer on an error (int8 is widened). Traps when the result leaves 32 bits."""

    opcode = 0x4E
    mnemonic = "escale"
    kernel = "scale_error"
    dst = ViewField("32-bit result", "buf", "i32", "w")
    src = ViewField("errors", "buf", "i32 i8", "r")
    table = TableField("Q15 constants", "scale")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, scale_ops=n, buffer_bits_read=_bits(o.src, r0, r1), buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)

    @staticmethod
    def trap(machine: Machine, o: Any, regs: list[int], found: int) -> tuple[str, str]:
        return "escale overflow", f"a scaled error in {o.dst.name} does not fit 32 bits"


class Range(_Periphery):
    """rd = max(rd, bits(|src|)) over all elements: the range that decides a dynamic shift."""

    opcode = 0x4F
    mnemonic = "range"
    kernel = "range_bits"
    rd = Reg("running number of bits", write=True, largest=True)
    src = ViewField("operand", "buf", "i32", "r")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, range_ops=n, buffer_bits_read=32 * n)


class RangeBeyond(Range):
    """``range`` for a shift that is fixed already: rd = max(rd, bits(|src|)), and elements of more than rs + 7 bits, which the shift to 8 bits
    saturates, are counted (event ``saturated``). A register shift of zero or less shifts nothing."""

    opcode = 0x59
    mnemonic = "rangec"
    kernel = "range_beyond"
    rd = Reg("running number of bits", write=True, largest=True)
    src = ViewField("operand", "buf", "i32", "r")
    rs = Reg("shift")
    rows = RowsField("src")


class CutTo16(_Periphery):
    """dst = src as a number of 16 bits with its own exponent, rounded to odd (page "Arithmetic"): 11 digits stay, the lowest is 1 if a digit that is cut was.
    With s = max(0, bits(src) - 11): |dst| = s 2^10 + (floor(|src| / 2^s), or 1), with the sign of src. ``shr8`` reads it, and rounds it as it would round src."""

    opcode = 0x60
    mnemonic = "cut16"
    kernel = "cut16"
    dst = ViewField("numbers of 16 bits", "buf", "i16", "w")
    src = ViewField("operand", "buf", "i32", "r")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, shift_ops=n, buffer_bits_read=32 * n, buffer_bits_written=16 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)


class ShiftTo8(_Periphery):
    """Dynamic shift to 8 bits: dst = clamp(rne(src, rs), -127, 127); a register shift of zero or less shifts nothing. An i16 source holds what ``cut16`` made;
    where rs is the shift of the largest of all, as training has it, the result is that of the number before it was cut."""

    opcode = 0x50
    mnemonic = "shr8"
    kernel = "shift8"
    dst = ViewField("mantissas", "buf", "i8", "w")
    src = ViewField("operand", "buf", "i32 i16", "r")
    rs = Reg("shift")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, shift_ops=n, buffer_bits_read=_bits(o.src, r0, r1), buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)


class CarriedShiftTo8(_Periphery):
    """Shift to 8 bits that keeps sums: per pixel, channel by channel, t = src + r, dst = clamp(rne(t, rs), -127, 127), r = t - dst 2^rs, r = 0 before the
    first channel. For the errors of a loss, which sum to zero: rounded one by one, many small ones would all move the same way."""

    opcode = 0x56
    mnemonic = "shr8c"
    kernel = "shift8_carried"
    dst = ViewField("mantissas", "buf", "i8", "w")
    src = ViewField("operand", "buf", "i32", "r")
    rs = Reg("shift")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, shift_ops=n, add_ops=2 * n, buffer_bits_read=32 * n, buffer_bits_written=8 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)


class PseudoStochasticRound(_Periphery):
    """dst = pseudo-stochastic rounding of src / 2^rs (NITI; page "Arithmetic"): the discarded low bits decide, no random generator. A magnitude is
    at most 127 (dst i8), or 127 x 256 (dst i32: a 16-bit step of an accumulated weight)."""

    opcode = 0x51
    mnemonic = "psr"
    kernel = "round_pseudo_stochastically"
    dst = ViewField("what to subtract from the weights", "buf", "i8 i32", "w")
    src = ViewField("gradient", "buf", "i32", "r")
    rs = Reg("shift")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, round_ops=n, buffer_bits_read=32 * n, buffer_bits_written=_bits(o.dst, r0, r1))

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)


class StochasticRound(_Periphery):
    """Unbiased stochastic rounding of src / 2^rs: up with the probability of what is cut off. The 32-bit number that decides is a function of five counts (page
    "Arithmetic"): the step in ``rk``, the sample in ``rb``, ``stream``, and row, pixel and channel, ``first`` being the first channel's. Limits as of ``psr``."""

    opcode = 0x5C
    mnemonic = "usr"
    kernel = "round_stochastically"
    dst = ViewField("result", "buf", "i8 i32", "w")
    src = ViewField("operand", "buf", "i32", "r")
    rs = Reg("shift")
    rk = Reg("number of the step")
    rb = Reg("number of the sample")
    stream = Imm(16, "number of the tensor")
    first = Imm(16, "number of the first channel")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, round_ops=n, buffer_bits_read=32 * n, buffer_bits_written=_bits(o.dst, r0, r1))

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)
        if o.stream < 0 or o.first < 0:
            yield f"stream {o.stream} and first channel {o.first} are counted from 0"


class Velocity(_Periphery):
    """Integer momentum: v = clamp(v - rne(v, decay) + src, -127 x 256, 127 x 256)."""

    opcode = 0x54
    mnemonic = "mom"
    kernel = "velocity"
    v = ViewField("velocity", "buf", "i32", "rw")
    src = ViewField("16-bit step", "buf", "i32", "r")
    decay = Imm(6, "the velocity loses 2^-decay of itself")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, shift_ops=n, add_ops=2 * n, buffer_bits_read=64 * n, buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.v, o.src)
        if not 1 <= o.decay <= 15:
            yield f"a decay of 2^-{o.decay} is not between 2^-1 and 2^-15"


class Carry(_Periphery):
    """16-bit update accumulator: ``low`` holds the low byte of a weight in 256ths of a step, the array its high byte.

    total = low - src; c = floor((total + 128) / 256); low = total - 256 c (-128..127); dst = -c, what to subtract from the weight (``wupc``).
    """

    opcode = 0x55
    mnemonic = "carry"
    kernel = "carry"
    dst = ViewField("what to subtract from the weights", "buf", "i8", "w")
    low = ViewField("low bytes", "buf", "i8", "rw")
    src = ViewField("16-bit step, at most 127 x 256", "buf", "i32", "r")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, add_ops=n, buffer_bits_read=40 * n, buffer_bits_written=16 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.low, o.src)


class UpdateBias(_Periphery):
    """Update of 32-bit biases that are learned: b = clamp(b - src, -2^30, 2^30)."""

    opcode = 0x5B
    mnemonic = "bupd"
    kernel = "update_bias"
    b = ViewField("biases", "buf", "i32", "rw")
    src = ViewField("what to subtract", "buf", "i32", "r")
    rows = RowsField("src")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, r0, r1)
        return _cost(machine, n, add_ops=n, buffer_bits_read=64 * n, buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.b, o.src)


class ArgMax(_Periphery):
    """rd = index of the largest element of a (1, 1, C) view, the lowest among equals."""

    opcode = 0x52
    mnemonic = "argmax"
    kernel = "argmax"
    split = "whole"
    rd = Reg("index", write=True)
    src = ViewField("logits", "buf", "u8 i8 i32", "r")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return _cost(machine, o.src.channels, pool_ops=o.src.channels, buffer_bits_read=_bits(o.src, 0, 1))

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.src.shape[:2] != (1, 1):
            yield f"{o.src.name} is {o.src.shape}; logits are (1, 1, C)"


class CrossEntropy(_Periphery):
    """Integer cross-entropy, base 2 (page "Arithmetic"): dst = softmax - target in Q15, summing to zero; rloss = the loss in Q12 bits. Traps
    when the label is not a channel."""

    opcode = 0x53
    mnemonic = "xent"
    kernel = "cross_entropy"
    split = "whole"
    dst = ViewField("errors of the logits", "buf", "i32", "w")
    src = ViewField("logits", "buf", "u8 i8", "r")
    table = TableField("constants", "loss")
    label = Reg("class of the sample")
    rloss = Reg("loss", write=True)

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = o.src.channels
        return _cost(machine, 4 * n, loss_ops=n, buffer_bits_read=8 * n, buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src)
        if o.src.shape[:2] != (1, 1):
            yield f"{o.src.name} is {o.src.shape}; logits are (1, 1, C)"

    @staticmethod
    def trap(machine: Machine, o: Any, regs: list[int], found: int) -> tuple[str, str]:
        return "label out of range", f"label {regs[o.label]} with {o.src.channels} classes"


class SquaredError(_Periphery):
    """Squared error of values (page "Arithmetic"): dst = src - target; rloss = the sum of the squares of the whole view, at most 2^31 - 1."""

    opcode = 0x5F
    mnemonic = "sqerr"
    kernel = "squared_error"
    split = "whole"
    dst = ViewField("errors of the output", "buf", "i32", "w")
    src = ViewField("output", "buf", "u8 i8", "r")
    wanted = ViewField("what it is to be, in steps of the output", "buf", "u8 i8", "r")
    rloss = Reg("loss", write=True)

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        n = _elements(o.src, 0, o.src.height)
        return _cost(machine, 2 * n, loss_ops=n, buffer_bits_read=16 * n, buffer_bits_written=32 * n)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _shapes(o.dst, o.src, o.wanted)
        if o.wanted.dtype != o.src.dtype:
            yield f"{o.wanted.name} is {o.wanted.dtype} and {o.src.name} is {o.src.dtype}: both are steps of the same scale"
