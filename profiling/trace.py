"""``sasrun --trace``: a timeline of simulated time in the trace-event JSON format that Perfetto and chrome://tracing open.

Time stamps are microseconds of the device (cycles / clock), in whole nanoseconds. The timeline is as long as the
interpreter says: every instruction takes the cycles it is charged, an overlapped region the cycles of the region. Within a region work is
drawn where it fits: an instruction begins at its place in program order (in proportion to its cycles), each unit works without a pause it does
not need, and no unit works longer than the region. Activation groups of one product take turns; they are drawn one after the other, each with
all its turns together.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from sasimc.isa.analysis.timing import UNITS, busy
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.isa.spec import PHASES
from sasimc.profiling.buffer_use import live_bytes
from sasimc.profiling.lanes import Lanes
from sasimc.runtime.engines.bind import instruction_text
from sasimc.runtime.interpreter import Interpreter

__all__ = ["DEFAULT_LIMIT", "MIN_LIMIT", "Price", "Tracer"]

DEFAULT_LIMIT: Final = 500_000
"""Events a trace holds at most: about 6 MB compressed."""

MIN_LIMIT: Final = 100

PROGRAM, UNIT_PID, COUNTERS = 1, 2, 3
"""Process numbers; those of the arrays follow from `LANE_PID`."""

_RESERVED: Final = 24
"""Events kept free for closing what is open."""

_SAMPLE_CYCLES: Final = 256
"""Counter tracks get a sample after at least so many cycles."""

_RATES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "word and bit lines driven per cycle": (
        "lines",
        ("row_activations", "row_activations_depthwise", "row_activations_gradient", "column_activations"),
    ),
    "bit cells sensed per cycle": ("bits", ("sense_ones",)),
    "bits written to arrays per cycle": ("bits", ("bits_written_compute", "bits_written_transposable")),
    "buffer traffic, bits per cycle": ("bits", ("buffer_bits_read", "buffer_bits_written")),
    "host traffic, bits per cycle": ("bits", ("host_bits_in", "host_bits_out")),
}
"""Counter track -> (series, events it sums)."""

Price = Callable[[Mapping[str, int], float], float]
"""Joules of some events and cycles; the runtime itself knows no energies."""

Key = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Step:
    """One executed instruction with its rows: the phase, the cycles it is charged (nothing overlapped), its events, data-dependent ones too."""

    key: Key
    phase: str
    cycles: float
    events: Mapping[str, int]


class Tracer:
    """Runs entry points on an interpreter and records what happens when, until ``limit`` events are recorded.

    Args:
        it: the interpreter; its values, cycles and events are those of an ordinary run.
        limit: most events (slices and counter samples) the trace may hold.
        price: joules of events, for the tracks of power and energy; without it there are none.
        lanes: what has a lane in the arrays: ``subarray``, ``bank``, ``group``, or ``auto``.

    ``full`` says that the limit was reached: :meth:`run` then runs without recording.
    """

    def __init__(self, it: Interpreter, limit: int = DEFAULT_LIMIT, price: Price | None = None, lanes: str = "auto") -> None:
        if limit < MIN_LIMIT:
            raise SasError(f"a trace of {limit} events", hint=f"at least {MIN_LIMIT}")
        self.it, self.limit, self.price = it, limit, price
        self.full = False
        self.runs = 0
        self.end = 0.0
        self._lanes = Lanes(it.program, lanes)
        self._slices: list[
            tuple[int, int, int, int, str, str, str]
        ] = []  # begin, end (ns), process, thread, name, category, arguments
        self._samples: list[tuple[int, str, str, float]] = []  # time (ns), track, series, value
        self._open: dict[int, tuple[int, str, str]] = {}  # depth on the program's lane -> begin (ns), name, category
        self._counted: dict[str, int] = {}
        self._counted_from = self._now = 0.0
        self._energy = 0.0
        self._live: dict[str, tuple[int, list[int]]] = {}
        self._in_use = -1

    @property
    def events(self) -> int:
        """Slices and samples recorded."""
        return len(self._slices) + len(self._samples)

    # ------------------------------------------------------------------------------------------------------- recording

    def run(self, entry: str) -> None:
        """What :meth:`Interpreter.run` does, recorded.

        Raises:
            Trap: as the interpreter; what came before stays recorded.
        """
        if self.full:
            self.it.run(entry)
            return
        self._now = self._counted_from = float(self.it.cycles)
        self.runs += 1
        self._enter(0, f"{entry} #{self.runs}", "run")
        try:
            for stretch, length in self._stretches(entry):
                if not self.full:
                    self._draw(stretch, length, entry)
                    self._keep_limit()
        finally:
            if not self.full:
                self._finish_run()

    def _keep_limit(self) -> None:
        """End the recording when too much is recorded: what the last stretch added beyond the limit goes."""
        over = self.events - (self.limit - _RESERVED)
        if over >= 0:
            self.full = True
            del self._slices[max(0, len(self._slices) - over) :]
            self._finish_run()

    def _stretches(self, entry: str) -> Iterator[tuple[list[_Step], float]]:
        """Instructions that are drawn together and how many cycles they take: single ones, and overlapped regions."""
        it, counters = self.it, self.it.counters
        names = {id(p): name for name, p in counters.phases.items()}
        seen = {(name, e): dict(counts) for name, p in counters.phases.items() for e, counts in p.measured.items()}
        phase, inside, region = counters.phases[PHASES[0]], False, list[_Step]()
        skipped = it.cycles_saved
        for index in it.steps(entry):
            cost = it.cost(it.stepped)
            events = dict(cost.events)
            for event, counts in phase.measured.items():
                known = seen[names[id(phase)], event]
                if grown := counts.get(index, 0) - known.get(index, 0):
                    known[index] = counts[index]
                    events[event] = events.get(event, 0) + grown
            step = _Step(it.stepped, names[id(phase)], cost.cycles, events)
            gained, skipped = it.cycles_saved - skipped, it.cycles_saved
            if not inside:
                yield [step], cost.cycles - gained
            else:
                region.append(step)
                if phase.outer is None:
                    executed: dict[Key, int] = {}
                    for s in region:
                        executed[s.key] = executed.get(s.key, 0) + 1
                    yield region, sum(s.cycles for s in region) - it.overlap(executed) - gained
                    region = []
            phase, inside = counters.phase, counters.phase.outer is not None

    def _ns(self, cycle: float) -> int:
        """Whole nanoseconds (the resolution of the viewers) of a moment in cycles."""
        return round(cycle * 1e9 / self.it.machine.clock_hz)

    def _draw(self, stretch: list[_Step], length: float, entry: str) -> None:
        """Slices and samples of a stretch; time moves on by its length.

        Every unit's work begins with its instruction or when the unit is free, but early enough for what the unit still has to do.
        """
        code, machine = self.it.program.code, self.it.machine
        serial = sum(s.cycles for s in stretch)
        scale = length / serial if serial else 0.0
        work = [busy(machine, code[s.key[0]].spec, self.it.cost(s.key)) for s in stretch]
        left = [float(sum(w[u] for w in work)) for u in range(len(UNITS))]
        squeeze = [min(1.0, length / n) if n else 1.0 for n in left]
        left = [n * q for n, q in zip(left, squeeze, strict=True)]
        free = [0.0] * len(UNITS)
        at, first = 0.0, self._ns(self._now)
        for number, (step, units) in enumerate(zip(stretch, work, strict=True), 1):
            after = at + step.cycles * scale if number < len(stretch) else length
            last = self._ns(self._now + after)
            self._place(step, first, last, entry)
            for u, cycles in enumerate(units):
                if cycles:
                    issued = at + (units[0] * scale if u else 0.0)
                    begin = max(free[u], min(issued, length - left[u]))
                    free[u] = begin + cycles * squeeze[u]
                    left[u] -= cycles * squeeze[u]
                    self._work(step, u, self._now + begin, self._now + free[u])
            for event, n in step.events.items():
                self._counted[event] = self._counted.get(event, 0) + n
            at, first = after, last
        self._now += length
        if self._now - self._counted_from >= _SAMPLE_CYCLES:
            self._sample()

    def _place(self, step: _Step, first: int, last: int, entry: str) -> None:
        """The instruction on the program's lane, under its node and phase; bytes in use from here on."""
        index = step.key[0]
        instr = self.it.program.code[index]
        self._enter(1, step.phase, "phase", first)
        self._enter(2, instr.origin.node or "(no node)", "node", first)
        if last > first:
            text = {"instruction": index, "text": instruction_text(instr), "rows": f"{step.key[1]}:{step.key[2]}"}
            if instr.line:
                text["line"] = instr.line
            self._slice(first, last, PROGRAM, 1, instr.spec.mnemonic, "instruction", json.dumps(text))
        start, live = self._live_bytes(entry)
        if (used := live[index - start]) != self._in_use:
            self._in_use = used
            self._samples.append((first, "buffer in use", "bytes", used))

    def _enter(self, depth: int, name: str, category: str, at: int | None = None) -> None:
        """Open a slice on the program's lane unless it is open; what is open at this depth or deeper is closed."""
        at = self._ns(self._now) if at is None else at
        if depth in self._open and self._open[depth][1] == name:
            return
        self._leave(depth, at)
        self._open[depth] = (at, name, category)

    def _leave(self, depth: int, at: int) -> None:
        for deep in sorted((d for d in self._open if d >= depth), reverse=True):
            begin, name, category = self._open.pop(deep)
            if at > begin:
                self._slices.append((begin, at, PROGRAM, 1, name, category, ""))

    def _work(self, step: _Step, unit: int, begin: float, end: float) -> None:
        """One unit's work on an instruction: a lane of its own, or the lanes of its sub-arrays."""
        instr = self.it.program.code[step.key[0]]
        if UNITS[unit] != "array":
            self._slice(
                self._ns(begin), self._ns(end), UNIT_PID, unit + 1, instr.spec.mnemonic, step.phase, _node(instr.origin.node)
            )
            return
        for process, thread, offset, part in self._lanes.shares(step.key, self.it.cost(step.key).events):
            first = begin + offset * (end - begin)
            last = min(end, first + part * (end - begin))
            what = json.dumps({"instruction": instr.spec.mnemonic})
            self._slice(
                self._ns(first), self._ns(last), process, thread, instr.origin.node or instr.spec.mnemonic, step.phase, what
            )

    def _slice(self, begin: int, end: int, process: int, thread: int, name: str, category: str, arguments: str) -> None:
        if end > begin:
            self._slices.append((begin, end, process, thread, name, category, arguments))

    def _sample(self) -> None:
        """One sample of every counter track for what was counted since the last one, at that moment."""
        at, cycles = self._ns(self._counted_from), self._now - self._counted_from
        for track, (series, events) in _RATES.items():
            rate = sum(self._counted.get(e, 0) for e in events) / cycles
            self._samples.append((at, track, series, rate))
        if self.price is not None:
            joules = self.price(self._counted, cycles)
            self._samples.append((at, "power", "W", joules * self.it.machine.clock_hz / cycles))
            self._samples.append((at, "energy so far", "J", self._energy))
            self._energy += joules
        self._counted, self._counted_from = {}, self._now

    def _finish_run(self) -> None:
        """Close what is open; the tracks fall to zero until the next run."""
        if self._now > self._counted_from:
            self._sample()
        now = self._ns(self._now)
        self.end = self._now
        self._leave(0, now)
        self._samples += [(now, track, series, 0.0) for track, (series, _) in _RATES.items()]
        self._samples.append((now, "buffer in use", "bytes", 0))
        self._in_use = 0
        if self.price is not None:
            self._samples += [(now, "power", "W", 0.0), (now, "energy so far", "J", self._energy)]

    def _live_bytes(self, entry: str) -> tuple[int, list[int]]:
        """First instruction of an entry point and bytes of the buffer in use at each from there on."""
        if entry not in self._live:
            program = self.it.program
            first, end = program.entries[entry], len(program.code) - 1
            last = next((i for i in range(first, end) if program.code[i].spec.mnemonic == "halt"), end)
            self._live[entry] = (first, [int(n) for n in live_bytes(program, first, last)])
        return self._live[entry]

    # --------------------------------------------------------------------------------------------------------- writing

    def write(self, path: Path, facts: Mapping[str, Any] | None = None) -> None:
        """Write the trace, compressed when the name ends in ``.gz``. ``facts`` go into ``otherData``.

        Raises:
            SasError: the file cannot be written.
        """
        data = "".join(self._json({str(k): v for k, v in (facts or {}).items()})).encode()
        write_atomically(path, gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)

    def _json(self, facts: dict[str, Any]) -> Iterator[str]:
        machine = self.it.machine
        other = {
            "clock_hz": machine.clock_hz, "machine": machine.name, "engine": self.it.engine, "runs": self.runs, "limit": self.limit,
            "truncated": self.full, "cycles": self.end, **facts,
        }  # fmt: skip
        yield f'{{"displayTimeUnit":"ns","otherData":{json.dumps(other)},"traceEvents":[\n'
        yield ",\n".join(json.dumps(e, separators=(",", ":")) for e in self._names())
        for begin, end, process, thread, name, category, arguments in sorted(
            self._slices, key=lambda s: (s[0], -s[1], s[2], s[3])
        ):
            tail = f',"args":{arguments}' if arguments else ""
            yield (
                f',\n{{"ph":"X","ts":{_us(begin)},"dur":{_us(end - begin)},"pid":{process},"tid":{thread},"name":{_text(name)},'
                f'"cat":{_text(category)}{tail}}}'
            )
        for at, track, series, value in sorted(self._samples, key=lambda s: s[0]):
            yield f',\n{{"ph":"C","ts":{_us(at)},"pid":{COUNTERS},"tid":0,"name":{_text(track)},"args":{{{_text(series)}:{value:.6g}}}}}'
        if self.full:
            what = _text(f"the limit of {self.limit} events is reached; the run went on")
            yield f',\n{{"ph":"i","s":"g","ts":{_us(self._ns(self.end))},"pid":{PROGRAM},"tid":1,"name":{what},"cat":"trace"}}'
        yield "\n]}\n"

    def _names(self) -> Iterator[dict[str, Any]]:
        """Metadata events: what the lanes are called, and their order."""
        processes = {PROGRAM: "program", UNIT_PID: "units", COUNTERS: "counters"}
        threads = {(PROGRAM, 1): "phases, nodes, instructions"}
        threads |= {(UNIT_PID, u + 1): _UNIT_LANES.get(name, name) for u, name in enumerate(UNITS) if name != "array"}
        used = {(s[2], s[3]) for s in self._slices}
        for (process, thread), (lane, name) in sorted(self._lanes.names.items()):
            if (process, thread) in used:
                processes[process] = lane
                threads[process, thread] = name
        for process, name in processes.items():
            yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}}
            yield {"ph": "M", "name": "process_sort_index", "pid": process, "tid": 0, "args": {"sort_index": process}}
        for (process, thread), name in threads.items():
            yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": name}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": process, "tid": thread, "args": {"sort_index": thread}}


_UNIT_LANES: Final = {"control": "controller", "adder_tree": "adder tree", "buffer": "global buffer", "host": "host interface"}


def _us(ns: int) -> str:
    """Nanoseconds as microseconds, exactly."""
    whole, part = divmod(ns, 1000)
    return f"{whole}.{part:03d}".rstrip("0").rstrip(".")


@lru_cache(maxsize=65536)
def _text(value: str) -> str:
    return json.dumps(value)


@lru_cache(maxsize=65536)
def _node(name: str) -> str:
    return json.dumps({"node": name}) if name else ""
