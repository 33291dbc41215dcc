"""The machinery all engines share: control, movement, periphery, rows in and out of the arrays, counters and traps.

Meanings of instructions (`sasimc.isa.instructions`) call these micro-operations. Engines add the array products and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sasimc.isa.machine import Machine
from sasimc.isa.objects import Geometry
from sasimc.isa.spec import PHASES
from sasimc.runtime import kernels as K
from sasimc.runtime.engines.cells import count_writes, gather_block, scatter_block, uninitialised, update_block
from sasimc.runtime.engines.helpers import pool_rows
from sasimc.runtime.engines.operands import BoundMatrix, BoundTable, BoundView, Window
from sasimc.runtime.state import State

__all__ = ["MEASURED", "EngineBase", "Executed", "PhaseCounter", "Region"]

MEASURED = (
    "sense_ones", "bits_flipped_compute", "bits_flipped_transposable",
    "rows_written_compute", "rows_written_transposable", "bits_written_compute", "bits_written_transposable",
)  # fmt: skip
"""Events that depend on data (rows and bits written only for ``wupc``); all others follow from the instructions' declarations."""

_INT32 = (-(1 << 31), (1 << 31) - 1)


Executed = dict[tuple[int, int, int], int]


class Region:
    """An overlapped region: what it executed, how often it ran; ``shortened`` tells by how much skipped array cycles shorten it.

    ``skips``: array cycles that zero input bits saved, by instruction; ``gained``: by how many cycles they shortened the region. ``length``: cycles it
    takes once, kept when it is first asked for.
    """

    __slots__ = ("executed", "gained", "length", "shortened", "skips", "times")

    def __init__(self, executed: Executed) -> None:
        self.executed, self.times = executed, 0
        self.shortened: Callable[[int], int] | None = None
        self.skips: dict[int, int] = {}
        self.gained = 0
        self.length: int | None = None


class PhaseCounter:
    """What one phase executed: how often each (instruction, r0, r1), the events that depend on data by instruction (``measured``), the cycles
    zero input bits saved (``skipped``; ``skips`` by instruction outside of regions)."""

    __slots__ = ("_price", "_waiting", "executed", "measured", "outer", "regions", "skipped", "skips", "start")

    def __init__(self, price: Callable[[Executed], Callable[[int], int]]) -> None:
        self.executed: Executed = {}
        self.outer: Executed | None = None
        self.start = 0
        self.regions: dict[int, list[Region]] = {}
        self.skipped = 0
        self.skips: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._price = price
        self.measured: dict[str, dict[int, int]] = {event: {} for event in MEASURED}

    def open_region(self, start: int) -> None:
        """What is executed from now on overlaps, until :meth:`close_region`."""
        self.close_region()
        self.outer, self.executed, self.start = self.executed, {}, start

    def close_region(self) -> None:
        """Book a region: equal ones (same start, same executions) are counted once with how often they ran."""
        if self.outer is None:
            return
        region, self.executed, self.outer = self.executed, self.outer, None
        found = self.region(self.start, region)
        found.times += 1
        if self._waiting:
            found.shortened = found.shortened or self._price(region)
            gained = found.shortened(sum(self._waiting.values()))
            found.gained += gained
            self.skipped += gained
            for index, cycles in self._waiting.items():
                found.skips[index] = found.skips.get(index, 0) + cycles
            self._waiting = {}

    def region(self, start: int, executed: Executed) -> Region:
        """The region that begins at ``start`` and executed this, new if there was none like it."""
        known = self.regions.setdefault(start, [])
        found = next((r for r in known if r.executed == executed), None)
        if found is None:
            found = Region(executed)
            known.append(found)
        return found

    def total(self) -> Executed:
        """Executions inside and outside of regions."""
        out = dict(self.executed)
        for region in (r for known in self.regions.values() for r in known):
            for key, times in region.executed.items():
                out[key] = out.get(key, 0) + times * region.times
        return out

    def skip(self, index: int, cycles: int) -> None:
        """Array cycles of instruction ``index`` that zero input bits saved (``bit_serial.zero_skip = "cycles"``); what a region gains of them is
        known at its end."""
        if self.outer is None:
            self.skipped += cycles
        skips = self.skips if self.outer is None else self._waiting
        skips[index] = skips.get(index, 0) + cycles


class EngineBase:
    """State, control and the micro-operations outside the arrays. One instance belongs to one interpreter.

    ``index`` is the instruction being executed, ``pc`` the next one; ``budget`` says how many more may run; ``match`` maps a loop to its end. ``fail``
    raises a trap. ``price``, for an overlapped region, gives a function from skipped array cycles to the cycles the region gains.
    """

    name = ""

    def __init__(self, machine: Machine, state: State, match: dict[int, int], fail: Callable[[int, str, str], NoReturn]) -> None:
        self.machine, self.state, self.regs = machine, state, state.regs
        self.match, self._fail = match, fail
        self.index = self.pc = self.budget = 0
        self.running = False
        self.stack: list[list[int]] = []
        self.max_depth = machine.controller.loop_depth
        self._windows: dict[Any, Window] = {}
        self.skips = machine.bit_serial.zero_skip == "cycles"
        self.price: Callable[[Executed], Callable[[int], int]] = lambda region: lambda skipped: skipped
        self.reset_counters()

    # --------------------------------------------------------------------------------------------- counters and traps

    def reset_counters(self) -> None:
        """Set all counters to zero and the phase to forward."""
        self.phases = {name: PhaseCounter(lambda region: self.price(region)) for name in PHASES}
        self.phase = self.phases["forward"]

    def measure(self, event: str, count: int) -> None:
        """Book an event that depends on data, for the instruction being executed."""
        counts = self.phase.measured[event]
        counts[self.index] = counts.get(self.index, 0) + count

    def trap(self, kind: str, detail: str) -> NoReturn:
        """Stop the current instruction."""
        self._fail(self.index, kind, detail)

    def refuse(self, mnemonic: str, o: Any) -> NoReturn:
        """Trap for what the current instruction, with operands ``o``, found in its data."""
        if mnemonic == "escale":
            self.trap("escale overflow", f"a scaled error in {o.dst.name} does not fit 32 bits")
        if mnemonic == "xent":
            self.trap("label out of range", f"label {self.regs[o.label]} with {o.src.channels} classes")
        self.overflow(o.acc)

    def overflow(self, view: BoundView) -> NoReturn:
        """An accumulator of ``view`` left 32 bits."""
        self.trap("accumulator overflow", f"a sum in {view.name} does not fit 32 bits")

    def window(self, geom: Geometry, inner: BoundView, outer: BoundView) -> Window:
        """The window between an input-side and an output-side view."""
        key = (geom.name, inner, outer)
        found = self._windows.get(key)
        if found is None:
            found = self._windows[key] = Window(geom, inner.height, inner.width, outer.height, outer.width)
        return found

    # -------------------------------------------------------------------------------------------------------- control

    def start(self, pc: int) -> None:
        """Begin at an instruction with an empty loop stack, in the forward phase."""
        self.pc, self.running = pc, True
        self.stack.clear()
        self.phase = self.phases["forward"]

    def halt(self) -> None:
        self.phase.close_region()
        self.running = False

    def sync(self) -> None:
        self.phase.close_region()

    def overlap(self) -> None:
        self.phase.open_region(self.index)

    def set_phase(self, phase: str) -> None:
        self.phase.close_region()
        self.phase = self.phases[phase]

    def loop(self, count: int) -> None:
        if count <= 0:
            self.pc = self.match[self.index] + 1
            return
        if len(self.stack) >= self.max_depth:
            self.trap("loop depth", f"more than {self.max_depth} nested loops")
        self.stack.append([self.pc, count])

    def end_loop(self) -> None:
        if not self.stack:
            self.trap("loop depth", "end of a loop that was not begun")
        top = self.stack[-1]
        top[1] -= 1
        if top[1]:
            self.pc = top[0]
        else:
            self.stack.pop()

    # ------------------------------------------------------------------------------------------------------- movement

    def _host(self, view: BoundView, index: int) -> npt.NDArray[Any]:
        state = self.state
        found = state.host_views.get((view, index))
        if found is not None:
            return found
        end = view.high + index * view.batch
        if end > len(state.host) or index < 0:
            if index < 0 or end > self.machine.host.memory_bytes:
                self.trap(
                    "out of range",
                    f"sample {index} of {view.name} is outside the {self.machine.host.memory_bytes} bytes of host memory",
                )
            state.grow_host(end)
        found = state.host_views[view, index] = view.in_host(state.host, index)
        return found

    def host_load(self, dst: BoundView, src: BoundView, index: int, r0: int, r1: int) -> None:
        dst.put(r0, src.get(r0, r1, self._host(src, index)))

    def host_store(self, dst: BoundView, src: BoundView, index: int, r0: int, r1: int) -> None:
        dst.put(r0, src.get(r0, r1), self._host(dst, index))

    def copy(self, dst: BoundView, src: BoundView, shift: int, r0: int, r1: int) -> None:
        if r0 + shift < 0 or r1 + shift > dst.height:
            self.trap("out of range", f"rows {r0 + shift}..{r1 + shift - 1} of {dst.name}, which has {dst.height}")
        dst.put(r0 + shift, src.get(r0, r1))

    def fill(self, dst: BoundView, value: int, r0: int, r1: int) -> None:
        for _, at, count in dst.segments(r0, r1):
            dst.phys[at : at + count] = value

    def load_word(self, src: BoundView, index: int) -> int:
        return int(self._host(src, index)[0, 0, 0])

    def store_word(self, dst: BoundView, index: int, value: int) -> None:
        self._host(dst, index)[0, 0, 0] = value

    # --------------------------------------------------------------------------------------------- rows of the arrays

    def require(self, mat: BoundMatrix, k0: int = 0, k1: int = -1) -> None:
        """Trap when one of the logical rows was never written or loaded."""
        if "initialised" in mat.ready:
            return
        sub, row = uninitialised(self.state.written, mat.index, k0, mat.k if k1 < 0 else k1)
        if sub >= 0:
            self.trap("uninitialised rows", f"word line {row} of sub-array {sub} ({mat.name}) was never written")
        if k0 == 0 and k1 in (-1, mat.k):
            mat.ready["initialised"] = True

    def stored(self, mat: BoundMatrix) -> npt.NDArray[np.int8]:
        """The matrix [K, N] as it stands in the cells of copy 0."""
        self.require(mat)
        out = np.empty((mat.k, mat.n), np.uint8)
        gather_block(self.state.cells, mat.index, 0, 0, mat.k, out)
        return out.view(np.int8)

    def _write(self, mat: BoundMatrix, tiles: npt.NDArray[np.int64], k0: int, n0: int, values: npt.NDArray[np.uint8]) -> None:
        self.measure(
            f"bits_flipped_{mat.kind_of_cells}", int(scatter_block(self.state.cells, self.state.written, tiles, k0, n0, values))
        )
        count_writes(self.state.wear, tiles, k0, k0 + values.shape[0], n0, n0 + values.shape[1])
        mat.changed()

    def read_rows(self, dst: BoundView, mat: BoundMatrix, r0: int, r1: int) -> None:
        self.require(mat, r0, r1)
        out = np.zeros((r1 - r0, mat.n), np.uint8)
        gather_block(self.state.cells, mat.index, 0, r0, r1, out)
        dst.put(r0, out.view(np.int8)[:, None, :])

    def write_rows(self, mat: BoundMatrix, src: BoundView, r0: int, r1: int) -> None:
        values = np.ascontiguousarray(src.get(r0, r1)[:, 0, :]).view(np.uint8)
        self._write(mat, mat.index, r0, 0, values)

    def update_rows(self, mat: BoundMatrix, delta: BoundView, first: int, r0: int, r1: int) -> None:
        self.require(mat, r0, r1)
        old = np.empty((r1 - r0, mat.n), np.uint8)
        gather_block(self.state.cells, mat.index, 0, r0, r1, old)
        change = delta.get(r0, r1)[:, 0, :]
        block = old.view(np.int8)[:, first : first + change.shape[1]].astype(np.int16)
        new = np.clip(block - change, -127, 127).astype(np.int8)
        self._write(mat, mat.index, r0, first, new.view(np.uint8))

    def update_changed_rows(self, mat: BoundMatrix, delta: BoundView, first: int, r0: int, r1: int) -> None:
        change = np.ascontiguousarray(delta.get(r0, r1)[:, 0, :])
        for k in np.flatnonzero(change.any(axis=1)).tolist() if change.any() else ():
            self.require(mat, r0 + k, r0 + k + 1)
        rows, bits, flips = update_block(self.state.cells, self.state.wear, mat.index, r0, first, change)
        if rows:
            kind = "transposable" if mat.array == "transposable" else "compute"
            self.measure(f"rows_written_{kind}", int(rows))
            self.measure(f"bits_written_{kind}", int(bits))
            self.measure(f"bits_flipped_{kind}", int(flips))
            mat.changed()

    # ------------------------------------------------------------------------------------------------------ periphery

    def add_bias(self, acc: BoundView, table: BoundTable, r0: int, r1: int) -> None:
        for _, at, count in acc.segments(r0, r1):
            sums = acc.phys[at : at + count] + table.arrays["bias"]
            if sums.min() < _INT32[0] or sums.max() > _INT32[1]:
                self.overflow(acc)
            acc.phys[at : at + count] = sums

    def requantise(self, dst: BoundView, acc: BoundView, table: BoundTable, r0: int, r1: int) -> None:
        a, i = table.repeated, table.ints
        K.requant(
            self.state.acc, acc.kv, self.state.buf, dst.kv, a["bias"], a["mult"], a["shift"],
            i["zero"], i["lo"], i["hi"], r0, r1, True, a["half"],
        )  # fmt: skip

    def drain(self, dst: BoundView, acc: BoundView, r0: int, r1: int) -> None:
        for y, at, count in acc.segments(r0, r1):
            source = acc.phys[at : at + count]
            dst.put(y, source)
            source[...] = 0

    def clip(self, dst: BoundView, src: BoundView, lo: int, hi: int, r0: int, r1: int) -> None:
        dst.put(r0, np.clip(src.get(r0, r1), lo, hi))

    def add_quantised(self, dst: BoundView, a: BoundView, b: BoundView, table: BoundTable, r0: int, r1: int) -> None:
        i = table.ints
        K.add_q(
            self.state.buf, a.kv, a.signed, b.kv, b.signed, dst.kv,
            i["za"], i["ma"], i["zb"], i["mb"], i["shift"], i["zy"], i["lo"], i["hi"], r0, r1,
        )  # fmt: skip

    def add_aligned(self, dst: BoundView, a: BoundView, b: BoundView, ea: int, eb: int, r0: int, r1: int) -> None:
        K.aligned_add(self.state.buf8, a.kv, ea, self.state.buf8, b.kv, eb, self.state.buf32, dst.kv, r0, r1)

    def pool_sum(self, acc: BoundView, x: BoundView, geom: Geometry, r0: int, r1: int) -> None:
        window = self.window(geom, x, acc)
        if pool_rows(self.state.buf, x.kv, x.signed, self.state.acc, acc.kv, window.geom, x.pad, r0, r1):
            self.overflow(acc)

    def pool_sum_transposed(self, acc: BoundView, e: BoundView, geom: Geometry, r0: int, r1: int) -> None:
        if K.avgpool_t(self.state.buf, e.kv, self.state.acc, acc.kv, self.window(geom, acc, e).geom, r0, r1):
            self.overflow(acc)

    def pool_max(self, dst: BoundView, x: BoundView, geom: Geometry, r0: int, r1: int) -> None:
        K.maxpool(self.state.buf, x.kv, x.signed, dst.kv, self.window(geom, x, dst).geom, r0, r1)

    def pool_max_transposed(self, acc: BoundView, e: BoundView, x: BoundView, geom: Geometry, r0: int, r1: int) -> None:
        if K.maxpool_t(self.state.buf, x.kv, x.signed, e.kv, self.state.acc, acc.kv, self.window(geom, x, e).geom, r0, r1):
            self.overflow(acc)

    def upsample(self, acc: BoundView, x: BoundView, geom: Geometry, r0: int, r1: int) -> None:
        h, w = x.height, x.width
        if geom.mode == "linear2":
            wrapped = K.upsample_linear(self.state.buf, x.kv, x.signed, self.state.acc, acc.kv, h, w, r0, r1)
        else:
            wrapped = K.upsample_nearest(
                self.state.buf, x.kv, x.signed, self.state.acc, acc.kv, h, w, acc.height, acc.width, r0, r1
            )
        if wrapped:
            self.overflow(acc)

    def upsample_transposed(self, acc: BoundView, e: BoundView, geom: Geometry, r0: int, r1: int) -> None:
        h, w = acc.height, acc.width
        if geom.mode == "linear2":
            wrapped = K.upsample_linear_t(self.state.buf, e.kv, self.state.acc, acc.kv, h, w, r0, r1)
        else:
            wrapped = K.upsample_nearest_t(self.state.buf, e.kv, self.state.acc, acc.kv, h, w, e.height, e.width, r0, r1)
        if wrapped:
            self.overflow(acc)

    def make_mask(self, dst: BoundView, src: BoundView, table: BoundTable, r0: int, r1: int) -> None:
        i = table.ints
        K.make_mask(self.state.buf, src.kv, src.signed, i["lo"], i["hi"], bool(i["use_lo"]), bool(i["use_hi"]), dst.kv, r0, r1)

    def _errors(self, src: BoundView) -> npt.NDArray[Any]:
        return self.state.buf32 if src.dtype == "i32" else self.state.buf8

    def apply_mask(self, dst: BoundView, src: BoundView, bits: BoundView, r0: int, r1: int) -> None:
        K.escale(self._errors(src), src.kv, self.state.buf32, dst.kv, self.state.buf, bits.kv, K.NO_SCALE, r0, r1)

    def scale_error(self, dst: BoundView, src: BoundView, table: BoundTable, r0: int, r1: int) -> None:
        if K.escale(self._errors(src), src.kv, self.state.buf32, dst.kv, self.state.buf, K.NO_MASK, table.arrays["k"], r0, r1):
            self.trap("escale overflow", f"a scaled error in {dst.name} does not fit 32 bits")

    def range_bits(self, src: BoundView, r0: int, r1: int) -> int:
        return K.range_bits(self.state.buf32, src.kv, r0, r1)

    def shift_to_8(self, dst: BoundView, src: BoundView, shift: int, r0: int, r1: int) -> None:
        K.shift8(self.state.buf32, src.kv, self.state.buf, dst.kv, shift, r0, r1)

    def carried_shift_to_8(self, dst: BoundView, src: BoundView, shift: int, r0: int, r1: int) -> None:
        K.shift8_carried(self.state.buf32, src.kv, self.state.buf, dst.kv, shift, r0, r1)

    def pseudo_stochastic_round(self, dst: BoundView, src: BoundView, shift: int, r0: int, r1: int) -> None:
        dst.put(r0, K.psr(src.get(r0, r1), shift, 127 if dst.dtype == "i8" else K.STEP_LIMIT))

    def velocity(self, v: BoundView, src: BoundView, decay: int, r0: int, r1: int) -> None:
        v.put(r0, K.velocity(v.get(r0, r1), src.get(r0, r1), decay))

    def carry(self, dst: BoundView, low: BoundView, src: BoundView, r0: int, r1: int) -> None:
        delta, rest = K.carry(low.get(r0, r1), src.get(r0, r1))
        dst.put(r0, delta)
        low.put(r0, rest)

    def argmax(self, src: BoundView) -> int:
        return K.argmax(src.get(0, 1))

    def cross_entropy(self, dst: BoundView, src: BoundView, table: BoundTable, label: int) -> int:
        """docs/numerics.md, "Loss", with the targets of the table."""
        q = src.get(0, 1).reshape(-1).astype(np.int64)
        if not 0 <= label < q.size:
            self.trap("label out of range", f"label {label} with {q.size} classes")
        t = (int(q.max()) - q) * table.ints["mult"]
        n, f = t >> 12, t & 4095
        p = ((32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)) >> np.minimum(n, 62)) * (n <= 15)
        total = int(p.sum())
        target = np.full(q.size, table.ints["t_other"], np.int64)
        target[label] = table.ints["t_label"]
        errors = (p * 32768 + (total >> 1)) // total - target
        errors[label] -= errors.sum()
        dst.put(0, errors.reshape(1, 1, -1))
        return min(int(t[label]), 65536) + K.log2q12(total) - 61440
