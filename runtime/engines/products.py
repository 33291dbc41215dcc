"""Array products carried out a layer's rows at a time: the frame shared by `bitserial` and `fused`, and both engines.

Both compute every sum exactly in integers and count the same events; they differ in how a product is formed: AND,
shift and add on
packed bit planes, or an integer multiplication.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sasimc.isa.instructions.array import INPUT_BITS, streamed_positions
from sasimc.isa.machine import Machine, activation_steps
from sasimc.isa.objects import Geometry
from sasimc.runtime import kernels as K
from sasimc.runtime.engines.base import EngineBase
from sasimc.runtime.engines.cells import uninitialised
from sasimc.runtime.engines.helpers import driven_cycles, gradient_depthwise_bits, gradient_depthwise_sums
from sasimc.runtime.engines.operands import BoundMatrix, BoundView, Window, scratch_block

__all__ = [
    "BitserialEngine",
    "FusedEngine",
    "ProductEngine",
    "depthwise_taps",
    "gradient_patches",
    "streamed_elements",
    "two_bytes",
]

Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]
_ONE = Geometry("<one element>")


def depthwise_taps(weights: npt.NDArray[np.int8], kernel: tuple[int, int]) -> npt.NDArray[np.int8]:
    """Depth-wise rows [C, m * taps] (multiplier slowest) as [kh, kw, C * m]."""
    kh, kw = kernel
    chans = weights.shape[0]
    return np.ascontiguousarray(weights.reshape(chans, -1, kh, kw).transpose(2, 3, 0, 1).reshape(kh, kw, -1))


def gradient_patches(buf: Bytes, a: BoundView, window: Window, r0: int, r1: int) -> npt.NDArray[np.int16]:
    """Patches minus the pad value, int16 [P, taps * C]; 0 outside the plane."""
    patches = K.gather_patches(buf, a.kv, window.geom, a.pad_byte, r0, r1)
    values = (patches.view(np.int8) if a.signed else patches).astype(np.int16)
    return values - np.int16(a.pad) if a.pad else values


def streamed_elements(x: BoundView, geom: Geometry, acc: BoundView, r0: int, r1: int) -> Bytes:
    """Bytes [positions, C] a depth-wise product streams for input rows r0..r1, border elements included."""
    y0, y1, x0, x1 = streamed_positions(x, geom, acc, r0, r1)
    out = np.full((y1 - y0, x1 - x0, x.channels), x.pad_byte, np.uint8)
    out[r0 - y0 : r1 - y0, -x0 : x.width - x0] = x.get(r0, r1).view(np.uint8)
    return out.reshape(-1, x.channels)


def skip_plan(machine: Machine, mat: BoundMatrix) -> tuple[Any, ...]:
    """The arguments of `driven_cycles` that a matrix decides: tiles, places, units, their number, copies, MATs, banks."""
    subs = sorted(mat.loads)
    place = {s: i for i, s in enumerate(subs)}
    free = machine.activation.rule == "free"
    owner = [machine.bank_of(s) if free else machine.group_of(s) for s in subs]
    number = {u: i for i, u in enumerate(sorted(set(owner)))}
    (bh, bw), (mh, mw) = machine.activation.banks, machine.activation.mats
    where = np.array([place[s] for s in mat.index[:, 0].tolist()], np.int64)
    unit = np.array([number[u] for u in owner], np.int64)
    return mat.index, where, unit, len(number), mat.copies, mh * mw if free else 0, bh * bw


def two_bytes(values: npt.NDArray[np.int16]) -> Bytes:
    """Each value as low byte, high byte: uint8, last axis twice as long."""
    return np.ascontiguousarray(values).view(np.uint8)


class ProductEngine(EngineBase):
    """Products over whole row ranges. Subclasses say how one matrix product is formed.

    Outermost loops run as tapes (`engines.tapes`) where ``tape_of`` has one for them: on ``threads`` threads, without the interpreter;
    ``timed`` makes them measure the time of each operation. ``product_ns``, ``tap_ns``: rough time of a product.
    """

    dw_engine: ClassVar[str]
    product_ns: ClassVar[float]
    tap_ns: ClassVar[float]
    prepare: ClassVar[staticmethod[..., Any]]
    dense: ClassVar[staticmethod[..., Sums]]
    dense_acc: ClassVar[staticmethod[..., int]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.threads, self.timed = 1, False
        self.tape_of: Callable[[int], Any] = lambda start: None
        self._words: tuple[tuple[Any, ...], npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def loop(self, count: int) -> None:
        start = self.index
        super().loop(count)
        if self.skips or count <= 0 or len(self.stack) > 1 or not self.budget:
            return
        tape = self.tape_of(start)
        if tape is not None and tape.run(self, count):
            self.stack.pop()
            self.pc = self.match[start] + 1

    def words(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(registers for a tape, the machine as its handlers read it), layout in `engines.tape_kernels`."""
        s = self.state
        memories = (s.buf, s.acc, s.host, s.cells, s.written, s.wear)
        if self._words is None or any(a is not b for a, b in zip(memories, self._words[0], strict=True)):
            regs = np.zeros(len(s.regs), np.int64)
            flat = [n for a in (s.buf, s.acc, s.host, regs) for n in (a.ctypes.data, a.size)]
            words = (*flat, s.cells.ctypes.data, s.written.ctypes.data, *s.cells.shape, s.wear.ctypes.data)
            self._words = memories, regs, np.array(words, np.int64)
        return self._words[1:]

    @property
    def bitserial(self) -> int:
        """1 for bit-serial products, 0 for integer ones."""
        return K.ENGINES[self.dw_engine]

    def loaded(self, mat: BoundMatrix) -> bool:
        """Whether every cell of the matrix was written or loaded."""
        if "initialised" not in mat.ready and uninitialised(self.state.written, mat.index, 0, mat.k)[0] < 0:
            mat.ready["initialised"] = True
        return "initialised" in mat.ready

    def prepared_shape(self, k: int, n: int) -> tuple[int, int]:
        """First two sizes of prepared weights [k, n]."""
        return self.prepare(np.zeros((k, n), np.int8)).shape[:2]

    def prepared(self, mat: BoundMatrix, transposed: bool) -> Any:
        """The matrix (or its transpose) as the dense kernels take it."""
        found = mat.ready.get(transposed)
        if found is None:
            weights = self.stored(mat)
            found = mat.ready[transposed] = self.prepare(np.ascontiguousarray(weights.T) if transposed else weights)
        return found

    def taps(self, mat: BoundMatrix, geom: Geometry) -> npt.NDArray[np.int8]:
        """The matrix as the depth-wise kernels take it."""
        found = mat.ready.get(geom.kernel)
        if found is None:
            found = mat.ready[geom.kernel] = depthwise_taps(self.stored(mat), geom.kernel)
        return found

    def _window_ones(self, x: BoundView, window: Window, r0: int, r1: int) -> int:
        """One bits among the streamed elements of the windows of output rows r0..r1, border elements included."""
        my, y0, y1, outside = window.uses(r0, r1)
        ones = int(K.popcount_sum(self.state.buf, x.kv, my, window.mx, y0, y1))
        return ones + outside * x.channels * x.pad_byte.bit_count() if x.pad_byte else ones

    def _skip_zero_bits(self, mat: BoundMatrix, streamed: Bytes) -> None:
        """Book what word lines save that are active only for the one bits of their input byte."""
        plan = mat.plans.get("skip")
        if plan is None:
            full = activation_steps(self.machine, mat.loads) * INPUT_BITS
            plan = mat.plans["skip"] = (full, skip_plan(self.machine, mat))
        waves = -(-streamed.shape[0] // mat.copies)
        self.phase.skip(self.index, waves * plan[0] - int(driven_cycles(np.ascontiguousarray(streamed), *plan[1])))

    def _element_ones(self, e: BoundView, r0: int, r1: int) -> int:
        return self._window_ones(e, self.window(_ONE, e, e), r0, r1)

    def forward_product(self, acc: BoundView, x: BoundView, mat: BoundMatrix, geom: Geometry, r0: int, r1: int) -> None:
        window = self.window(geom, x, acc)
        prepared = self.prepared(mat, False)
        self.measure("sense_ones", self._window_ones(x, window, r0, r1) * INPUT_BITS * mat.n)
        patches = K.gather_patches(self.state.buf, x.kv, window.geom, x.pad_byte, r0, r1)
        if self.skips:
            self._skip_zero_bits(mat, patches)
        if self.dense_acc(patches, prepared, x.signed, self.state.acc, acc.kv, r0, 0, mat.n):
            self.overflow(acc)

    def transposed_product(self, acc: BoundView, e: BoundView, mat: BoundMatrix, geom: Geometry, r0: int, r1: int) -> None:
        prepared = self.prepared(mat, True)
        window, one = self.window(geom, acc, e), self.window(_ONE, e, e)
        self.measure("sense_ones", self._window_ones(e, one, r0, r1) * INPUT_BITS * mat.k)
        errors = K.gather_patches(self.state.buf, e.kv, one.geom, 0, r0, r1)
        if window.identity:
            wrapped = self.dense_acc(errors, prepared, True, self.state.acc, acc.kv, r0, 0, mat.k)
        else:
            products = self.dense(errors, prepared, mat.k, True)
            wrapped = K.scatter_patches(self.state.acc, acc.kv, products, window.geom, r0, r1)
        if wrapped:
            self.overflow(acc)

    def depthwise_product(self, acc: BoundView, x: BoundView, mat: BoundMatrix, geom: Geometry, r0: int, r1: int) -> None:
        taps = self.taps(mat, geom)
        y0, y1, x0, x1 = streamed_positions(x, geom, acc, r0, r1)
        ones = self._element_ones(x, r0, r1)
        if x.pad_byte:
            ones += ((y1 - y0) * (x1 - x0) - (r1 - r0) * x.width) * x.channels * x.pad_byte.bit_count()
        self.measure("sense_ones", ones * INPUT_BITS * mat.n)
        if self.skips:
            self._skip_zero_bits(mat, streamed_elements(x, geom, acc, r0, r1))
        window = self.window(geom, x, acc)
        state = self.state
        if K.dw_scatter(self.dw_engine, state.buf, x.kv, x.signed, taps, window.geom, x.pad_byte, y0, y1, state.acc, acc.kv):
            self.overflow(acc)

    def depthwise_transposed(self, acc: BoundView, e: BoundView, mat: BoundMatrix, geom: Geometry, r0: int, r1: int) -> None:
        taps = self.taps(mat, geom)
        self.measure("sense_ones", self._element_ones(e, r0, r1) * INPUT_BITS * mat.n)
        if self.skips:
            self._skip_zero_bits(mat, K.gather_patches(self.state.buf, e.kv, self.window(_ONE, e, e).geom, 0, r0, r1))
        window = self.window(geom, acc, e)
        if K.dw_scatter_t(self.dw_engine, self.state.buf, e.kv, taps, window.geom, r0, r1, self.state.acc, acc.kv):
            self.overflow(acc)

    def _into_scratch(self, scratch: BoundMatrix, values: Bytes) -> None:
        self._write(scratch, scratch_block(scratch, *values.shape), 0, 0, values)

    def gradient_product(
        self,
        acc: BoundView,
        a: BoundView,
        e: BoundView,
        scratch: BoundMatrix,
        geom: Geometry,
        stationary: str,
        r0: int,
        r1: int,
    ) -> None:
        buf, window, one = self.state.buf, self.window(geom, a, e), self.window(_ONE, e, e)
        k, n = acc.height, e.channels
        errors = K.gather_patches(buf, e.kv, one.geom, 0, r0, r1)
        if stationary == "a":
            patches = K.gather_patches(buf, a.kv, window.geom, 0, r0, r1)
            self._into_scratch(scratch, patches)
            self.measure("sense_ones", self._window_ones(e, one, r0, r1) * INPUT_BITS * k)
            streamed = np.ascontiguousarray(errors.T)
            sums = np.ascontiguousarray(self.dense(streamed, self.prepare(patches.view(np.int8)), k, True).T)
        else:
            self._into_scratch(scratch, errors)
            held = self.prepare(errors.view(np.int8))
            if a.pad:
                sums, ones = self._nine_bits(gradient_patches(buf, a, window, r0, r1), held, n)
            else:
                patches = K.gather_patches(buf, a.kv, window.geom, 0, r0, r1)
                sums, ones = (
                    self.dense(np.ascontiguousarray(patches.T), held, n, a.signed),
                    self._window_ones(a, window, r0, r1),
                )
            self.measure("sense_ones", ones * INPUT_BITS * n)
        if K.accumulate(self.state.acc, acc.kv, sums, 0, 0):
            self.overflow(acc)

    def _nine_bits(self, values: npt.NDArray[np.int16], held: Any, n: int) -> tuple[Sums, int]:
        """Products of values in -255..255 streamed as 9-bit two's complement: eight plain bits and a sign bit that
        weighs -256."""
        columns = np.ascontiguousarray(values.T)
        low, sign = columns.astype(np.uint8), (columns < 0).astype(np.uint8)
        ones = int(np.bitwise_count(low).sum(dtype=np.int64)) + int(sign.sum(dtype=np.int64))
        return self.dense(low, held, n, False) - (self.dense(sign, held, n, False) << np.int32(8)), ones

    def gradient_depthwise(
        self, acc: BoundView, a: BoundView, e: BoundView, scratch: BoundMatrix, geom: Geometry, r0: int, r1: int
    ) -> None:
        buf, window, one = self.state.buf, self.window(geom, a, e), self.window(_ONE, e, e)
        chans, taps = a.channels, geom.taps
        values = gradient_patches(buf, a, window, r0, r1).reshape(-1, taps, chans)
        errors = K.gather_patches(buf, e.kv, one.geom, 0, r0, r1).view(np.int8)
        rows = values.transpose(2, 0, 1).reshape(-1, taps)  # one row a channel and pixel
        wide = a.pad != 0 or a.dtype == "u8"
        self._into_scratch(scratch, two_bytes(rows) if wide else np.ascontiguousarray(rows.astype(np.int8)).view(np.uint8))
        self.measure("sense_ones", self._window_ones(e, one, r0, r1) * INPUT_BITS * taps * (2 if wide else 1))
        sums = np.zeros((chans, taps), np.int32)
        self._depthwise_sums(values, np.ascontiguousarray(errors), sums)
        if K.accumulate(self.state.acc, acc.kv, sums, 0, 0):
            self.overflow(acc)

    def _depthwise_sums(self, values: npt.NDArray[np.int16], errors: npt.NDArray[np.int8], sums: Sums) -> None:
        raise NotImplementedError


class BitserialEngine(ProductEngine):
    """The arrays' own arithmetic on packed bit planes: AND, count, shift, add, sign extension."""

    name = "bitserial"
    dw_engine = "bitserial"
    product_ns, tap_ns = 0.045, 0.45
    prepare = staticmethod(K.pack_weights)
    dense = staticmethod(K.dense_bitserial)
    dense_acc = staticmethod(K.dense_bitserial_acc)

    def _depthwise_sums(self, values: npt.NDArray[np.int16], errors: npt.NDArray[np.int8], sums: Sums) -> None:
        gradient_depthwise_bits(values, errors, sums)


class FusedEngine(ProductEngine):
    """Integer products, for long runs."""

    name = "fused"
    dw_engine = "fused"
    product_ns, tap_ns = 0.01, 0.2
    prepare = staticmethod(K.prepare_fused)
    dense = staticmethod(K.dense_fused)
    dense_acc = staticmethod(K.dense_fused_acc)

    def _depthwise_sums(self, values: npt.NDArray[np.int16], errors: npt.NDArray[np.int8], sums: Sums) -> None:
        gradient_depthwise_sums(values, errors, sums)
