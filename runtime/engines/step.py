"""Reference engine: simulates each word-line activation and each input bit on the cells where they stand.

Each product follows `sasimc.isa.machine.activation_schedule` step by step, checks the activation limit in every step,
counts cycles and events as it
goes, and compares them with what the instruction declares. That makes the declarations of cost provable by running.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.footprint import covered_rows, window_rows
from sasimc.isa.instructions.array import INPUT_BITS, kept_zero, scratch_tiles, streamed_positions
from sasimc.isa.machine import activation_cycles, activation_schedule
from sasimc.isa.objects import Geometry
from sasimc.isa.spec import Instruction
from sasimc.runtime.engines.datapath import Datapath
from sasimc.runtime.engines.operands import BoundMatrix, BoundView, geometry_record
from sasimc.runtime.engines.step_kernels import drive_columns, drive_rows, scatter_taps, scatter_taps_transposed
from sasimc.runtime.kernel import FLIPS, ONES
from sasimc.runtime.kernels.cells import count_writes, scatter_block, tile_array
from sasimc.runtime.kernels.dense import accumulate
from sasimc.runtime.kernels.patches import gather_patches, scatter_patches

__all__ = ["Activation", "DeclarationError", "StepDatapath", "Stream"]

Ints = npt.NDArray[np.int64]
Sums = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
_ONE = Geometry("<one element>")


def _window(geom: Geometry, inner: BoundView, outer: BoundView) -> Any:
    return geometry_record(geom, inner, outer)[:12]


class DeclarationError(AssertionError):
    """An instruction's declared cost differs from what the reference engine counted: a defect of the declaration or of an
    engine."""


class Activation(NamedTuple):
    """One step: kind (``row`` or ``column``), number of the first pixel of its wave, and the active (sub-array, line)
    pairs."""

    kind: str
    pixel: int
    active: tuple[tuple[int, int], ...]


class Stream(NamedTuple):
    """Inputs int64 [P, K] that are streamed through word lines, as `step_kernels.drive_rows` is given them; ``weights``: bytes in the columns of each entry."""

    entries: Ints
    bounds: Ints
    tiles: int
    weights: tuple[Bytes, ...]
    inputs: Ints
    copies: int
    bits: int
    signed: bool
    width: int
    by_row: bool
    pairs: bool


class _Schedule(NamedTuple):
    entries: Ints
    bounds: Ints
    tiles: int


class _Counted:
    """Counts of one instruction: cycles, activations, shift-adds, sense operations, adder-tree operations (array),
    row writes."""

    def __init__(self) -> None:
        self.counts = np.zeros(5, np.int64)
        self.write_cycles = 0


class StepDatapath(Datapath):
    """Row activations one after another: a method named as a kernel stands in its place. ``on_activation`` (for tracing) is called at every step,
    ``on_stream`` (for looking inside) before inputs are streamed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_activation: Callable[[Activation], None] | None = None
        self.on_stream: Callable[[Stream], None] | None = None
        self.declared: Callable[[int, int, int], Any] = lambda number, r0, r1: None

    def overridden(self, spec: type[Instruction]) -> Callable[..., int] | None:
        return getattr(self, spec.kernel) if spec.kernel in PRODUCTS else None

    # ------------------------------------------------------------------------------------------------------- schedule

    def _schedule(self, queues: Mapping[int, list[tuple[int, ...]]], tiles: int) -> _Schedule:
        """Entries in the order of the activation rule; ``queues`` holds the lines of every sub-array in the order
        they are driven."""
        entries: list[tuple[int, ...]] = []
        bounds, taken = [0], dict.fromkeys(queues, 0)
        for active in activation_schedule(self.machine, {s: len(q) for s, q in queues.items()}):
            self._check_limit(active)
            for s in active:
                entries.append(queues[s][taken[s]])
                taken[s] += 1
            bounds.append(len(entries))
        return _Schedule(np.array(entries, np.int64).reshape(-1, 8), np.array(bounds, np.int64), tiles)

    def _check_limit(self, active: tuple[int, ...]) -> None:
        machine, rule = self.machine, self.machine.activation
        if rule.rule == "row":
            legal = len({machine.group_of(s) for s in active}) <= 1 and len(active) <= machine.group_size
        else:
            banks = [machine.bank_of(s) for s in active]
            per_bank = max((banks.count(b) for b in set(banks)), default=0)
            legal = len(set(banks)) <= rule.banks[0] * rule.banks[1] and per_bank <= rule.mats[0] * rule.mats[1]
        if not legal or len(set(active)) != len(active):
            self.trap("activation limit", f"sub-arrays {active} may not be active in one cycle")

    def _rows(self, tiles: Ints) -> _Schedule:
        queues: dict[int, list[tuple[int, ...]]] = {}
        for i, (sub, row, col, k, n, rows, cols, copy) in enumerate(tiles.tolist()):
            queues.setdefault(sub, []).extend((sub, row + r, col, cols, k + r, n, copy, i) for r in range(rows))
        return self._schedule(queues, len(tiles))

    def _columns(self, tiles: Ints) -> _Schedule:
        queues: dict[int, list[tuple[int, ...]]] = {}
        for i, (sub, row, col, k, n, rows, cols, copy) in enumerate(tiles.tolist()):
            if copy == 0:
                queues.setdefault(sub, []).extend((sub, row, col + c, rows, k, n + c, copy, i) for c in range(cols))
        return self._schedule(queues, len(tiles))

    def _of(self, mat: BoundMatrix, what: str) -> _Schedule:
        self.require(mat)
        found = mat.plans.get(what)
        if found is None:
            found = mat.plans[what] = self._rows(mat.index) if what == "rows" else self._columns(mat.index)
        return found

    def _trace(self, kind: str, schedule: _Schedule, pixels: int, copies: int) -> None:
        if self.on_activation is None:
            return
        line = 1 if kind == "row" else 2
        for first in range(0, pixels, copies):
            for a, b in zip(schedule.bounds[:-1], schedule.bounds[1:], strict=True):
                self.on_activation(Activation(kind, first, tuple((int(e[0]), int(e[line])) for e in schedule.entries[a:b])))

    def _stream(
        self, schedule: _Schedule, inputs: Ints, copies: int, bits: int, signed: bool, out: Sums, seen: Bytes,
        counted: _Counted, *, width: int, by_row: bool = False, pairs: bool = False,
    ) -> None:  # fmt: skip
        self._trace("row", schedule, inputs.shape[0], copies)
        if self.on_stream is not None:
            weights = tuple(self.state.cells[e[0], e[1], e[2] : e[2] + e[3]].copy() for e in schedule.entries)
            self.on_stream(Stream(*schedule, weights, inputs.copy(), copies, bits, signed, width, by_row, pairs))
        drive_rows(
            self.state.cells, schedule.entries, schedule.bounds, schedule.tiles, inputs, copies, bits, signed,
            pairs, by_row, width, out, seen, counted.counts,
        )  # fmt: skip

    def _compare(self, counted: _Counted, kind: str, r0: int, r1: int, adder_tree: int | None = None) -> None:
        """Book the sense operations; compare everything else with the declaration."""
        cycles, activations, shift_adds, ones, joined = (int(v) for v in counted.counts)
        self.counts[self.index, ONES] += ones
        cost = self.declared(self.index, r0, r1)
        if cost is None:
            return
        found = {
            "cycles": cycles + counted.write_cycles + self.machine.controller.issue_cycles,
            kind: activations,
            "shift_adds": shift_adds,
            "adder_tree_ops": joined if adder_tree is None else adder_tree,
        }
        stated = {"cycles": cost.cycles, **{e: cost.events.get(e, 0) for e in found if e != "cycles"}}
        if found != stated:
            wrong = ", ".join(f"{e}: declared {stated[e]}, counted {n}" for e, n in found.items() if n != stated[e])
            raise DeclarationError(f"instruction {self.index}, rows {r0}..{r1 - 1}: {wrong}")

    def _skip_zero_bits(self, mat: BoundMatrix, streamed: Ints) -> None:
        """Under ``zero_skip = "cycles"``: wave after wave, every word line takes as many cycles as its input has one bits."""
        if not self.skips:
            return
        schedule = self._of(mat, "rows")
        for first in range(0, len(streamed), mat.copies):
            loads: dict[int, int] = {}
            for sub, _, _, _, k, _, copy, _ in schedule.entries.tolist():
                if first + copy < len(streamed):
                    loads[sub] = loads.get(sub, 0) + int(streamed[first + copy, k]).bit_count()
            self.counters.phase.skip(self.index, (len(schedule.bounds) - 1) * INPUT_BITS - activation_cycles(self.machine, loads))

    @staticmethod
    def _values(patches: Bytes) -> Ints:
        """Stored bytes as the bit patterns that drive the word lines."""
        return patches.astype(np.int64)

    # ------------------------------------------------------------------------------------------------------- products

    def _elements_of(self, v: BoundView, r0: int, r1: int) -> Bytes:
        """Bytes [pixels, C] of rows r0..r1."""
        return gather_patches(self.state.buf, v.elements, _window(_ONE, v, v), 0, r0, r1)

    def _add(self, acc: BoundView, sums: Sums, first: int = 0) -> int:
        """Add sums [pixels, C] to the accumulators from row ``first`` on; non-zero if one left 32 bits."""
        return int(accumulate(self.state.acc, acc.elements, sums.reshape(-1, acc.channels), first, 0))

    def forward_product(self, o: Any, r0: int, r1: int) -> int:
        x, mat = o.x, o.mat
        patches = self._values(gather_patches(self.state.buf, x.elements, _window(o.geom, x, o.acc), x.pad_byte, r0, r1))
        out, counted = np.zeros((len(patches), mat.n), np.int32), _Counted()
        seen = np.zeros(out.shape, np.uint8)
        self._stream(self._of(mat, "rows"), patches, mat.copies, INPUT_BITS, x.signed, out, seen, counted, width=mat.n)
        self._compare(counted, "row_activations", r0, r1)
        self._skip_zero_bits(mat, patches)
        return self._add(o.acc, out, r0)

    def transposed_product(self, o: Any, r0: int, r1: int) -> int:
        errors = self._values(self._elements_of(o.e, r0, r1))
        out, counted, schedule = np.zeros((len(errors), o.mat.k), np.int32), _Counted(), self._of(o.mat, "columns")
        self._trace("column", schedule, len(errors), 1)
        drive_columns(
            self.state.cells, schedule.entries, schedule.bounds, schedule.tiles, errors,
            self.machine.transposed.bit_columns_per_cycle, out, np.zeros(out.shape, np.uint8), counted.counts,
        )  # fmt: skip
        self._compare(counted, "column_activations", r0, r1)
        return int(scatter_patches(self.state.acc, o.acc.elements, out, _window(o.geom, o.acc, o.e), r0, r1))

    def _each(self, mat: BoundMatrix, streamed: Ints, signed: bool, r0: int, r1: int) -> Sums:
        """Products of streamed elements [positions, C] with their kernels: int32 [positions, C, weights a row]."""
        out, counted = np.zeros((len(streamed), mat.k * mat.n), np.int32), _Counted()
        rows, seen = self._of(mat, "rows"), np.zeros((0, 0), np.uint8)
        self._stream(rows, streamed, mat.copies, INPUT_BITS, signed, out, seen, counted, width=mat.n, by_row=True)
        self._compare(counted, "row_activations_depthwise", r0, r1)
        self._skip_zero_bits(mat, streamed)
        return out.reshape(-1, mat.k, mat.n)

    def depthwise_product(self, o: Any, r0: int, r1: int) -> int:
        x, acc, geom = o.x, o.acc, o.geom
        y0, y1, x0, x1 = streamed_positions(x, geom, acc, r0, r1)
        streamed = np.full((y1 - y0, x1 - x0, x.channels), x.pad_byte, np.uint8)
        streamed[r0 - y0 : r1 - y0, -x0 : x.width - x0] = x.get(r0, r1).view(np.uint8)
        products = self._each(o.mat, self._values(streamed.reshape(-1, x.channels)), x.signed, r0, r1)
        sums = np.zeros(acc.shape, np.int32)
        scatter_taps(products, _window(geom, x, acc), y0, x0, x1 - x0, acc.channels // x.channels, sums)
        first, last = covered_rows(geom, acc.height, y0, y1)
        return self._add(acc, sums[first:last], first) if first < last else 0

    def depthwise_transposed(self, o: Any, r0: int, r1: int) -> int:
        products = self._each(o.mat, self._values(self._elements_of(o.e, r0, r1)), True, r0, r1)
        sums = np.zeros(o.acc.shape, np.int32)
        scatter_taps_transposed(products, _window(o.geom, o.acc, o.e), r0, sums)
        first, last = window_rows(o.geom, o.acc.height, o.e.height, r0, r1)
        return self._add(o.acc, sums[first:last], first) if first < last else 0

    # ------------------------------------------------------------------------------------------------------ gradients

    def _passes(
        self, scratch: BoundMatrix, stationary: Bytes, inputs: Ints, bits: int, signed: bool, out: Sums,
        counted: _Counted, *, width: int, by_row: bool = False, pairs: bool = False,
    ) -> None:  # fmt: skip
        """Write the stationary operand [K, N] pass by pass into the scratch rows and stream inputs [V, K] through
        each."""
        tiles, per_pass = tile_array(scratch_tiles(scratch.matrix, *stationary.shape)), len(scratch.tiles)
        seen = np.zeros(out.shape if not by_row else (0, 0), np.uint8)
        for i in range(0, len(tiles), per_pass):
            part = tiles[i : i + per_pass]
            self.counts[self.index, FLIPS] += scatter_block(self.state.cells, self.state.written, part, 0, 0, stationary)
            count_writes(self.state.wear, part, 0, stationary.shape[0], 0, stationary.shape[1])
            loads = {int(t[0]): int(t[5]) for t in part}
            steps = sum(1 for _ in activation_schedule(self.machine, loads))
            counted.write_cycles += steps * self.machine.write.cycles_per_row
            self._stream(self._rows(part), inputs, 1, bits, signed, out, seen, counted, width=width, by_row=by_row, pairs=pairs)

    def _patches(self, o: Any, r0: int, r1: int) -> npt.NDArray[np.int16]:
        """Patches minus the pad value, int16 [P, taps * C]; 0 outside the plane."""
        a = o.a
        patches = gather_patches(self.state.buf, a.elements, _window(o.geom, a, o.e), a.pad_byte, r0, r1)
        return (patches.view(np.int8) if a.signed else patches).astype(np.int16) - np.int16(a.pad)

    def gradient_product(self, o: Any, r0: int, r1: int) -> int:
        acc, a, counted = o.acc, o.a, _Counted()
        errors = np.ascontiguousarray(self._elements_of(o.e, r0, r1))
        patches = self._patches(o, r0, r1)
        k, n = acc.height, o.e.channels
        if o.stationary == "a":
            out = np.zeros((n, k), np.int32)
            held = patches.astype(np.int8).view(np.uint8)
            self._passes(o.scratch, held, np.ascontiguousarray(self._values(errors).T), INPUT_BITS, True, out, counted, width=k)
            sums = np.ascontiguousarray(out.T)
        else:
            bits = INPUT_BITS + (a.pad != 0)
            sums = np.zeros((k, n), np.int32)
            streamed = np.ascontiguousarray((patches.astype(np.int64) & ((1 << bits) - 1)).T)
            self._passes(o.scratch, errors, streamed, bits, a.signed or a.pad != 0, sums, counted, width=n)
        self._compare(counted, "row_activations_gradient", r0, r1)
        return self._add(acc, sums)

    def activation_product(self, o: Any, r0: int, r1: int) -> int:
        a, zero, counted = o.a, kept_zero(o.b), _Counted()
        held = self._elements_of(o.b, 0, 1) ^ np.uint8(0 if o.b.signed else 128)
        if zero:
            held = np.concatenate([held, np.full((len(held), 1), zero & 255, np.uint8)], axis=1)
        bits, pixels = INPUT_BITS + (a.pad != 0), self._elements_of(a, r0, r1)
        values = (pixels.view(np.int8) if a.signed else pixels).astype(np.int64) - a.pad
        out = np.zeros((len(pixels), held.shape[1]), np.int32)
        streamed = np.ascontiguousarray(values & ((1 << bits) - 1))
        self._passes(
            o.scratch, np.ascontiguousarray(held), streamed, bits, a.signed or a.pad != 0, out, counted, width=held.shape[1]
        )
        self._compare(counted, "row_activations_gradient", r0, r1)
        return self._add(o.acc, out[:, : o.b.channels] - (out[:, -1:] if zero else 0), r0)

    def gradient_depthwise(self, o: Any, r0: int, r1: int) -> int:
        chans, taps = o.a.channels, o.geom.taps
        values = self._patches(o, r0, r1).reshape(-1, taps, chans)
        pixels = len(values)
        rows = values.transpose(2, 0, 1).reshape(-1, taps)  # one row a channel and pixel
        wide = o.a.pad != 0 or o.a.dtype == "u8"  # each value as low byte, high byte
        held = np.ascontiguousarray(rows if wide else rows.astype(np.int8)).view(np.uint8)
        errors = self._values(self._elements_of(o.e, r0, r1))
        streamed = np.ascontiguousarray(errors.T).reshape(1, -1)
        width = held.shape[1]
        out, counted = np.zeros((1, chans * pixels * width), np.int32), _Counted()
        self._passes(o.scratch, held, streamed, INPUT_BITS, True, out, counted, width=width, by_row=True, pairs=wide)
        products = out.reshape(chans, pixels, width)
        if wide:
            products = products[:, :, 0::2] + (products[:, :, 1::2] << np.int32(8))
        self._compare(counted, "row_activations_gradient", r0, r1, adder_tree=products.size)
        return self._add(o.acc, products.sum(axis=1, dtype=np.int32))


PRODUCTS: Final[Mapping[str, Callable[..., int]]] = {
    product.__name__: product
    for product in (
        StepDatapath.forward_product, StepDatapath.transposed_product, StepDatapath.depthwise_product,
        StepDatapath.depthwise_transposed, StepDatapath.gradient_product, StepDatapath.gradient_depthwise,
        StepDatapath.activation_product,
    )
}  # fmt: skip
"""What stands in the place of a kernel."""
