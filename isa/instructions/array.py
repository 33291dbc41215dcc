"""Array instructions: products in the sub-arrays, forward and transposed, gradient products, row reads and SAS row writes.

All products are added to accumulators; the instruction that drains an accumulator clears it. One instruction is a sequence that a
controller steps through: pixels (row range x width), word lines (the matrix's tiles), input bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sasimc.isa.machine import Machine, activation_steps
from sasimc.isa.objects import Matrix, Tile
from sasimc.isa.spec import Choice, Cost, GeomField, Imm, Instruction, MatField, RowsField, ViewField

__all__ = ["INPUT_BITS", "MAX_SUM_LENGTH", "kept_zero", "never_written", "scratch_tiles", "streamed_positions"]

INPUT_BITS = 8

MAX_SUM_LENGTH = 65_793
"""Products of 255 x 128 that fit 32 bits."""


def streamed_positions(x: Any, geom: Any, out: Any, r0: int, r1: int) -> tuple[int, int, int, int]:
    """Rows y0..y1 and columns x0..x1 a depth-wise product streams for rows r0..r1 of ``x``.

    A zero point other than 0 makes border elements count: they are streamed too (the top border with row 0, the bottom border with
    the last row).
    """
    h, w, _ = x.shape
    if x.pad == 0:
        return r0, r1, 0, w
    bottom = (out.height - 1) * geom.stride[0] - geom.pad[0] + (geom.kernel[0] - 1) * geom.dilation[0] + 1
    right = (out.width - 1) * geom.stride[1] - geom.pad[1] + (geom.kernel[1] - 1) * geom.dilation[1] + 1
    return (-geom.pad[0] if r0 == 0 else r0), (max(bottom, h) if r1 == h else r1), -geom.pad[1], max(right, w)


class ForwardProduct(Instruction):
    """Dense product (paper figures 2c, 3a, 4): acc[y, x, n] += sum over k of patch(y, x)[k] W[k, n].

    The patch of output pixel (y, x) is read in the order (ky, kx, c); outside the input it reads the view's pad value. Each word line k
    of the matrix is active for 8 cycles, one input bit each; signed inputs and all weights are two's complement.
    """

    opcode = 0x20
    mnemonic = "vmm"
    group = "array"
    kernel = "forward_product"
    split = "pixels"
    acc = ViewField("output sums", "acc", "i32", "a")
    x = ViewField("input", "buf", "u8 i8", "r")
    mat = MatField("weights", "dense", sums="k")
    geom = GeomField("x", "acc")
    rows = RowsField("acc", "output rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        pixels, mat = (r1 - r0) * o.acc.width, o.mat
        waves = -(-pixels // mat.copies)
        return Cost(
            machine.controller.issue_cycles + waves * activation_steps(machine, mat.loads) * INPUT_BITS,
            instructions=1,
            row_activations=pixels * mat.activations,
            shift_adds=pixels * mat.products * INPUT_BITS,
            adder_tree_ops=pixels * mat.partial_sums,
            accumulator_reads=pixels * mat.n,
            accumulator_writes=pixels * mat.n,
            buffer_bits_read=pixels * mat.k * 8,
        )

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        k = o.geom.taps * o.x.channels
        if k != o.mat.k:
            yield f"{o.mat.name} has {o.mat.k} rows; a window of {o.geom.taps} x {o.x.channels} channels gives {k}"
        if o.acc.channels != o.mat.n:
            yield f"{o.mat.name} has {o.mat.n} columns and {o.acc.name} {o.acc.channels} channels"


class TransposedProduct(Instruction):
    """Transposed product (paper figure 5, equation 1): every error pixel gives W e, scattered to the input positions of its window.

    acc[y sh - pt + ky dh, x sw - pl + kx dw, c] += sum over n of W[(ky, kx, c), n] e[y, x, n]; positions outside are dropped. One bit
    column of a sub-array is driven a cycle (``transposed.bit_columns_per_cycle``), all its rows are sensed.
    """

    opcode = 0x21
    mnemonic = "vmmt"
    group = "array"
    kernel = "transposed_product"
    split = "pixels"
    acc = ViewField("error sums of the input", "acc", "i32", "a")
    e = ViewField("error of the output", "buf", "i8", "r")
    mat = MatField("weights in transposable sub-arrays", "dense", sums="n")
    geom = GeomField("acc", "e")
    rows = RowsField("e", "error rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        pixels, mat = (r1 - r0) * o.e.width, o.mat
        per_column = -(-machine.array.weight_bits // machine.transposed.bit_columns_per_cycle) * INPUT_BITS
        columns = sum(mat.column_loads.values())
        return Cost(
            machine.controller.issue_cycles + pixels * activation_steps(machine, mat.column_loads) * per_column,
            instructions=1,
            column_activations=pixels * columns * machine.array.weight_bits,
            shift_adds=pixels * mat.products * machine.array.weight_bits * INPUT_BITS,
            adder_tree_ops=pixels * (sum(t.rows for t in mat.tiles if t.copy == 0) - mat.k),
            accumulator_reads=pixels * mat.k,
            accumulator_writes=pixels * mat.k,
            buffer_bits_read=pixels * mat.n * 8,
        )

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.mat.array != "transposable":
            yield f"{o.mat.name} stands in compute sub-arrays; a transposed product needs transposable ones"
        k = o.geom.taps * o.acc.channels
        if k != o.mat.k:
            yield f"{o.mat.name} has {o.mat.k} rows; a window of {o.geom.taps} x {o.acc.channels} channels gives {k}"
        if o.e.channels != o.mat.n:
            yield f"{o.mat.name} has {o.mat.n} columns and {o.e.name} {o.e.channels} channels"


def _depthwise_cost(machine: Machine, mat: Matrix, positions: int) -> Cost:
    return Cost(
        machine.controller.issue_cycles + -(-positions // mat.copies) * activation_steps(machine, mat.loads) * INPUT_BITS,
        instructions=1,
        row_activations_depthwise=positions * mat.activations,
        shift_adds=positions * mat.products * INPUT_BITS,
        accumulator_reads=positions * mat.products,
        accumulator_writes=positions * mat.products,
        buffer_bits_read=positions * mat.k * 8,
    )


class DepthwiseProduct(Instruction):
    """Depth-wise multiply (paper figures 3b, 3c): every input element meets every element of its channel's kernel.

    Input rows stream; the product of x[iy, ix, c] with tap (ky, kx) is added to acc[oy, ox, n] where oy sh - pt + ky dh = iy and
    ox sw - pl + kx dw = ix; channel c feeds outputs c m .. c m + m - 1. With a pad value other than 0 the border elements are streamed.
    """

    opcode = 0x22
    mnemonic = "dwm"
    group = "array"
    kernel = "depthwise_product"
    split = "own"
    acc = ViewField("output sums", "acc", "i32", "a")
    x = ViewField("input", "buf", "u8 i8", "r")
    mat = MatField("one kernel a row", "depthwise")
    geom = GeomField("x", "acc")
    rows = RowsField("x", "input rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        y0, y1, x0, x1 = streamed_positions(o.x, o.geom, o.acc, r0, r1)
        return _depthwise_cost(machine, o.mat, (y1 - y0) * (x1 - x0))

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.x.channels != o.mat.k:
            yield f"{o.mat.name} holds {o.mat.k} kernels and {o.x.name} has {o.x.channels} channels"
        if o.acc.channels * o.geom.taps != o.mat.k * o.mat.n:
            yield f"{o.mat.name} holds {o.mat.n} weights a row; {o.geom.taps} taps and {o.acc.channels} outputs do not agree"


class DepthwiseTransposed(Instruction):
    """Error of a depth-wise layer: every error element meets every element of its channel's kernel; the product with tap (ky, kx) goes
    to acc[y sh - pt + ky dh, x sw - pl + kx dw, c]. The forward circuits are used, only the order of the additions differs.
    Needs a channel multiplier of 1."""

    opcode = 0x23
    mnemonic = "dwmt"
    group = "array"
    kernel = "depthwise_transposed"
    split = "own"
    acc = ViewField("error sums of the input", "acc", "i32", "a")
    e = ViewField("error of the output", "buf", "i8", "r")
    mat = MatField("one kernel a row", "depthwise")
    geom = GeomField("acc", "e")
    rows = RowsField("e", "error rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return _depthwise_cost(machine, o.mat, (r1 - r0) * o.e.width)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.e.channels != o.mat.k or o.acc.channels != o.mat.k:
            yield f"{o.mat.name} holds {o.mat.k} kernels; {o.e.name} and {o.acc.name} must have as many channels"
        if o.mat.n != o.geom.taps:
            yield f"{o.mat.name} holds {o.mat.n} weights a row; the window has {o.geom.taps} taps (channel multiplier must be 1)"


def scratch_tiles(mat: Matrix, k: int, n: int) -> list[Tile]:
    """Where a k x n operand stands in a scratch matrix: tiles in the order written, reusing the sub-arrays from the first one on."""
    slots = mat.tiles
    rows, cols = slots[0].rows, slots[0].cols
    out: list[Tile] = []
    for k0 in range(0, k, rows):
        for n0 in range(0, n, cols):
            s = slots[len(out) % len(slots)]
            out.append(Tile(s.subarray, s.row, s.col, k0, n0, min(rows, k - k0), min(cols, n - n0)))
    return out


def _scratch_cost(machine: Machine, mat: Matrix, k: int, n: int, vectors: int, bits: int) -> tuple[int, dict[str, int]]:
    """Cycles and events of writing a k x n operand (in as many passes as the scratch rows need) and streaming ``vectors`` inputs."""
    tiles, per_pass = scratch_tiles(mat, k, n), len(mat.tiles)
    cycles = 0
    for i in range(0, len(tiles), per_pass):
        loads = {t.subarray: t.rows for t in tiles[i : i + per_pass]}
        steps = activation_steps(machine, loads)
        cycles += steps * machine.write.cycles_per_row + vectors * steps * bits
    activations = sum(t.rows for t in tiles)
    products = sum(t.rows * t.cols for t in tiles)
    sums = sum(t.cols for t in tiles) - n
    return cycles, {
        "row_activations_gradient": vectors * activations,
        "shift_adds": vectors * products * bits,
        "adder_tree_ops": vectors * sums,
        "rows_written_compute": activations,
        "bits_written_compute": products * 8,
        "accumulator_reads": vectors * n,
        "accumulator_writes": vectors * n,
    }


def _too_long(o: Any) -> Iterator[str]:
    pixels = min(o.rows.count, o.e.height) * o.e.width
    if pixels > MAX_SUM_LENGTH:
        yield f"{pixels} pixels in one gradient product; at most {MAX_SUM_LENGTH} fit 32-bit sums"


class GradientProduct(Instruction):
    """Gradient of a dense layer (equation 2): acc[(ky, kx, c), 0, n] += sum over error pixels of (patch - pad) e[y, x, n].

    The stationary operand is written into scratch rows of compute sub-arrays, the other one is streamed bit-serially: ``e`` streams
    the patches (8 bits, 9 with a pad value other than 0), ``a`` streams the errors and keeps the patches (needs pad value 0).
    """

    opcode = 0x24
    mnemonic = "gradp"
    group = "array"
    kernel = "gradient_product"
    split = "own"
    acc = ViewField("gradient sums, shape (K, 1, N)", "acc", "i32", "a", whole=True)
    a = ViewField("activations", "buf", "u8 i8", "r")
    e = ViewField("errors", "buf", "i8", "r")
    scratch = MatField("scratch rows", "scratch", "w", sums="kn")
    geom = GeomField("a", "e")
    stationary = Choice("a", "e", doc="operand written into the scratch rows")
    rows = RowsField("e", "error rows")

    @staticmethod
    def operand(o: Any, r0: int, r1: int) -> tuple[int, int]:
        return (r1 - r0) * o.e.width, o.e.channels if o.stationary == "e" else o.acc.height

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        pixels, k, n = (r1 - r0) * o.e.width, o.acc.height, o.e.channels
        streamed, bits = (k, INPUT_BITS + (o.a.pad != 0)) if o.stationary == "e" else (n, INPUT_BITS)
        cycles, events = _scratch_cost(machine, o.scratch, *GradientProduct.operand(o, r0, r1), streamed, bits)
        return Cost(machine.controller.issue_cycles + cycles, instructions=1, buffer_bits_read=pixels * (k + n) * 8, **events)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        k = o.geom.taps * o.a.channels
        if o.acc.shape != (k, 1, o.e.channels):
            yield f"{o.acc.name} is {o.acc.shape}; the gradient is ({k}, 1, {o.e.channels})"
        yield from _too_long(o)
        if o.stationary == "a" and (o.a.pad != 0 or o.a.dtype != "i8"):
            yield f"{o.a.name} can be kept in scratch rows only as i8 with pad value 0"


class ActivationProduct(Instruction):
    """Product of two activation matrices, each minus its zero point (the pad value of its view): acc[y, x, n] += sum over k of
    (a[y, x, k] - pad) (b[0, k, n] - pad).

    ``b`` is written into scratch rows of compute sub-arrays, a word line for each k, uint8 less 128; every pixel of ``a`` streams through them bit-serially
    (8 bits, 9 with a pad value other than 0). Where the zero point of what stands there is not 0, one more column holds it, and its sum is
    subtracted from that of every other column.
    """

    opcode = 0x2A
    mnemonic = "vmma"
    group = "array"
    kernel = "activation_product"
    split = "own"
    acc = ViewField("output sums", "acc", "i32", "a")
    a = ViewField("matrix that is streamed, a row of it in each pixel", "buf", "u8 i8", "r")
    b = ViewField("matrix that is written, shape (1, K, N)", "buf", "u8 i8", "r", whole=True)
    scratch = MatField("scratch rows", "scratch", "w", sums="k")
    rows = RowsField("a")

    @staticmethod
    def operand(o: Any, r0: int, r1: int) -> tuple[int, int]:
        return o.b.width, o.b.channels + (kept_zero(o.b) != 0)

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        pixels, (k, wide), n = (r1 - r0) * o.a.width, ActivationProduct.operand(o, r0, r1), o.b.channels
        cycles, events = _scratch_cost(machine, o.scratch, k, wide, pixels, INPUT_BITS + (o.a.pad != 0))
        events["accumulator_reads"] = events["accumulator_writes"] = pixels * n
        return Cost(
            machine.controller.issue_cycles + cycles,
            instructions=1,
            buffer_bits_read=(pixels + n) * k * 8,
            add_ops=pixels * n * (wide - n),
            **events,
        )

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.b.height != 1 or o.b.width != o.a.channels:
            yield f"{o.b.name} is {o.b.shape}; rows of {o.a.channels} elements meet (1, {o.a.channels}, N)"
        if o.acc.shape != (o.a.height, o.a.width, o.b.channels):
            yield f"{o.acc.name} is {o.acc.shape}; the product is ({o.a.height}, {o.a.width}, {o.b.channels})"
        if o.a.channels > MAX_SUM_LENGTH // 2:
            yield f"sums of {o.a.channels} products; at most {MAX_SUM_LENGTH // 2} of 9 bits by 9 bits fit 32 bits"


def kept_zero(b: Any) -> int:
    """Zero point of the bytes that stand in scratch rows for a matrix of activations: int8, uint8 less 128."""
    return int(b.pad) - (128 if b.dtype == "u8" else 0)


class GradientDepthwise(Instruction):
    """Gradient of a depth-wise layer: acc[c, 0, (ky, kx)] += sum over error pixels of (x - pad) e. The patches of a channel are written into
    scratch rows (one row a pixel), its errors are streamed. Needs a channel multiplier of 1."""

    opcode = 0x25
    mnemonic = "gradd"
    group = "array"
    kernel = "gradient_depthwise"
    split = "own"
    acc = ViewField("gradient sums, shape (C, 1, taps)", "acc", "i32", "a", whole=True)
    a = ViewField("activations", "buf", "u8 i8", "r")
    e = ViewField("errors", "buf", "i8", "r")
    scratch = MatField("scratch rows", "scratch", "w")
    geom = GeomField("a", "e")
    rows = RowsField("e", "error rows")

    @staticmethod
    def operand(o: Any, r0: int, r1: int) -> tuple[int, int]:
        wide = 2 if o.a.pad != 0 or o.a.dtype == "u8" else 1  # a 9-bit value takes two weight columns
        return (r1 - r0) * o.e.width * o.e.channels, o.geom.taps * wide

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        pixels, channels, taps = (r1 - r0) * o.e.width, o.e.channels, o.geom.taps
        cycles, events = _scratch_cost(machine, o.scratch, *GradientDepthwise.operand(o, r0, r1), 1, INPUT_BITS)
        events["accumulator_reads"] = events["accumulator_writes"] = channels * taps
        events["adder_tree_ops"] = pixels * channels * taps
        return Cost(
            machine.controller.issue_cycles + cycles,
            instructions=1,
            buffer_bits_read=pixels * channels * (taps + 1) * 8,
            **events,
        )

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        yield from _too_long(o)
        if o.acc.shape != (o.a.channels, 1, o.geom.taps) or o.a.channels != o.e.channels:
            yield f"{o.acc.name} is {o.acc.shape}; the gradient is ({o.a.channels}, 1, {o.geom.taps}) and errors need as many channels"


def never_written(machine: Machine, name: str, found: int) -> tuple[str, str]:
    """The trap for word line ``found`` - 1, counted through all sub-arrays, which holds a cell that nobody wrote."""
    subarray, row = divmod(found - 1, machine.array.rows)
    return "uninitialised rows", f"word line {row} of sub-array {subarray} ({name}) was never written"


def _rows_touched(mat: Matrix, r0: int, r1: int, n0: int, n1: int) -> tuple[dict[int, int], int]:
    """Word lines by sub-array, and weights, of logical rows r0..r1 and columns n0..n1, all copies."""
    loads: dict[int, int] = {}
    weights = 0
    for t in mat.tiles:
        rows = min(t.k + t.rows, r1) - max(t.k, r0)
        cols = min(t.n + t.cols, n1) - max(t.n, n0)
        if rows > 0 and cols > 0:
            loads[t.subarray] = loads.get(t.subarray, 0) + rows
            weights += rows * cols
    return loads, weights


class RowRead(Instruction):
    """Read stored weights as memory: rows r of the matrix into a (K, 1, N) view."""

    opcode = 0x26
    mnemonic = "rdr"
    group = "array"
    kernel = "read_rows"
    split = "whole"
    dst = ViewField("destination, shape (K, 1, N)", "buf", "i8", "w")
    mat = MatField("matrix to read", "dense depthwise scratch")
    rows = RowsField("dst", "logical rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        loads, _ = _rows_touched(o.mat, r0, r1, 0, o.mat.n)
        bits = (r1 - r0) * o.mat.n * 8
        return Cost(
            machine.controller.issue_cycles + activation_steps(machine, loads) * machine.write.read_cycles_per_row,
            instructions=1, array_bits_read=bits, buffer_bits_written=bits,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.dst.shape != (o.mat.k, 1, o.mat.n):
            yield f"{o.dst.name} is {o.dst.shape}; {o.mat.name} reads as ({o.mat.k}, 1, {o.mat.n})"

    @staticmethod
    def trap(machine: Machine, o: Any, regs: list[int], found: int) -> tuple[str, str]:
        return never_written(machine, o.mat.name, found)


class RowWrite(Instruction):
    """SAS row write (paper section III-A): rows of a (K, 1, N) view into the matrix, every copy. One SOT pulse suspends the free layers of a
    row, the STT current of each bit line decides each bit. The matrix must be trainable or scratch."""

    opcode = 0x27
    mnemonic = "wrr"
    group = "array"
    kernel = "write_rows"
    split = "whole"
    mat = MatField("matrix to write", "dense depthwise scratch", "w")
    src = ViewField("source, shape (K, 1, N)", "buf", "i8", "r")
    rows = RowsField("src", "logical rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return _write_cost(machine, o.mat, r0, r1, 0, o.mat.n, 0)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.src.shape != (o.mat.k, 1, o.mat.n):
            yield f"{o.src.name} is {o.src.shape}; {o.mat.name} takes ({o.mat.k}, 1, {o.mat.n})"


def _write_cost(
    machine: Machine, mat: Matrix, r0: int, r1: int, n0: int, n1: int, update: int, *, every_row: bool = True
) -> Cost:
    """Row writes of a logical block; ``update`` adds the row reads and subtractions before them. Without ``every_row`` the rows and bits
    written depend on data and are counted as they happen; a row that is left out keeps its place in the schedule."""
    loads, weights = _rows_touched(mat, r0, r1, n0, n1)
    steps = activation_steps(machine, loads)
    cycles = machine.controller.issue_cycles + steps * (machine.write.cycles_per_row + update * machine.write.read_cycles_per_row)
    kind = "transposable" if mat.array == "transposable" else "compute"
    written = {f"rows_written_{kind}": sum(loads.values()), f"bits_written_{kind}": weights * 8} if every_row else {}
    return Cost(
        cycles,
        instructions=1,
        buffer_bits_read=(r1 - r0) * (n1 - n0) * 8,
        array_bits_read=update * weights * 8,
        update_ops=update * weights,
        **written,
    )


class WeightUpdate(Instruction):
    """Weight update (equation 3): read row, W = clamp(W - delta, -127, 127), SAS write; ``delta`` is (K, 1, columns) and stands for the matrix columns
    from ``first`` on."""

    opcode = 0x28
    mnemonic = "wupd"
    group = "array"
    kernel = "update_rows"
    split = "whole"
    mat = MatField("trainable matrix", "dense depthwise", "rw")
    delta = ViewField("what to subtract", "buf", "i8", "r")
    first = Imm(16, "first matrix column")
    rows = RowsField("delta", "logical rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return _write_cost(machine, o.mat, r0, r1, o.first, o.first + o.delta.channels, 1)

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if not o.mat.trainable:
            yield f"{o.mat.name} is frozen"
        if o.delta.height != o.mat.k or o.delta.width != 1 or o.first < 0 or o.first + o.delta.channels > o.mat.n:
            yield f"{o.delta.name} is {o.delta.shape} from column {o.first}; {o.mat.name} is {o.mat.k} x {o.mat.n}"

    @staticmethod
    def trap(machine: Machine, o: Any, regs: list[int], found: int) -> tuple[str, str]:
        return never_written(machine, o.mat.name, found)


class WeightUpdateChanged(WeightUpdate):
    """As ``wupd``, but a word line is written only where at least one of its weights changes: after ``carry`` most do not. Cycles are those of
    ``wupd`` (the schedule does not depend on data); rows and bits written are counted as they happen."""

    opcode = 0x29
    mnemonic = "wupc"
    group = "array"
    kernel = "update_changed_rows"
    split = "whole"
    mat = MatField("trainable matrix", "dense depthwise", "rw")
    delta = ViewField("what to subtract", "buf", "i8", "r")
    first = Imm(16, "first matrix column")
    rows = RowsField("delta", "logical rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        return _write_cost(machine, o.mat, r0, r1, o.first, o.first + o.delta.channels, 1, every_row=False)
