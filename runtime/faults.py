"""Bit errors of the arrays: failed writes, wrong reads, stuck cells, each with its rate, by sub-array kind.

What is drawn, and when (page "Run with bit errors"):

- *Write errors*: every bit of a word line that is written ends on the wrong side with this probability, whatever stood there before (a SAS
  write suspends every cell of the pulse and decides it anew). Weights that are loaded, trained or put back by the host are written.
- *Read errors*: every stored bit is sensed wrong with this probability for one run of the program (a batch of images, or a training
  step), and drawn anew for the next. What an update reads wrong it writes back.
- *Stuck cells*: drawn once; a stuck cell holds 0 or 1, with equal chance, for good.

- *Cells that differ* (``FaultPlan.cells``, `sasrun --variation`): every cell has probabilities of its own for a failed write, for a wrong read and a
  reversal by one read, fixed for the device; what is drawn anew in each run is only whether they happen. Reversals stay until the cell is written again.

All are changes of the cells between runs, so that every engine executes them in the same way, and nothing is done when there are none.
Copies of a weight (replicated tiles) get the same errors. Not modelled: errors in the scratch rows of gradient products, whose contents
live for one instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError, near
from sasimc.isa.objects import Matrix
from sasimc.isa.program import Program
from sasimc.isa.spec import MatField
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernels.cells import gather_block, tile_array

__all__ = ["KINDS", "Cells", "FaultPlan", "Faults", "Rates", "SubarrayCells", "draw_mask", "parse_bit_errors"]

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

KINDS = ("compute", "transposable")
"""Kinds of sub-arrays."""

_SPARSE = 0.02
_HELP = "a rate (write and read errors), or write=P,read=P,stuck=P,kind=compute|transposable; may be given more than once"


@dataclass(frozen=True)
class Rates:
    """Probabilities for one bit."""

    write: float = 0.0
    read: float = 0.0
    stuck: float = 0.0


class SubarrayCells(Protocol):
    """Probabilities of one sub-array's cells: ``write`` [rows, bits]; ``read`` and ``disturb`` [2, rows, bits], by the bit stored."""

    write: npt.NDArray[np.float32]
    read: npt.NDArray[np.float32]
    disturb: npt.NDArray[np.float32]


class Cells(Protocol):
    """The cells of one device; bit b of the weight in column c is bit column 8 c + b."""

    def subarray(self, number: int) -> SubarrayCells:
        """Those of one sub-array."""
        ...


@dataclass(frozen=True)
class FaultPlan:
    """Rates by sub-array kind, and the seed of everything drawn; ``cells``: a device whose cells differ; ``scrub``: runs after which what reads have
    turned round is written back (0: never)."""

    rates: Mapping[str, Rates] = field(default_factory=dict)
    seed: int = 0
    cells: Cells | None = None
    scrub: int = 0

    def of(self, kind: str) -> Rates:
        """The rates of a sub-array kind."""
        return self.rates.get(kind, Rates())

    @property
    def active(self) -> bool:
        """Whether there is anything to draw."""
        return self.cells is not None or any(r != Rates() for r in self.rates.values())

    def __str__(self) -> str:
        parts = []
        for kind, r in self.rates.items():
            named = [f"{what} {rate:g}" for what, rate in vars(r).items() if rate]
            if named:
                parts.append(f"{kind}: {', '.join(named)}")
        if self.cells is not None:
            parts.append("cells that differ")
        return "; ".join(parts) or "none"


def _rate(text: str, whole: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise SasError(f"--bit-error-rate {whole}: {text!r} is not a number", hint=_HELP) from None
    if not 0 <= value <= 1 or math.isnan(value):
        raise SasError(f"--bit-error-rate {whole}: a rate lies between 0 and 1", hint=_HELP)
    return value


def _parse_one(text: str) -> tuple[tuple[str, ...], dict[str, float]]:
    kinds, rates = KINDS, dict[str, float]()
    for part in text.split(","):
        name, equals, value = (p.strip() for p in part.partition("="))
        if not equals:
            rates |= dict.fromkeys(("write", "read"), _rate(name, text))
        elif name == "kind":
            if value not in KINDS:
                raise SasError(
                    f"--bit-error-rate {text}: no sub-array kind {value!r}", hint=near(value, KINDS) or " or ".join(KINDS)
                )
            kinds = (value,)
        elif name in vars(Rates()):
            rates[name] = _rate(value, text)
        else:
            raise SasError(f"--bit-error-rate {text}: no error {name!r}", hint=near(name, (*vars(Rates()), "kind")) or _HELP)
    if not rates:
        raise SasError(f"--bit-error-rate {text}: no rate is given", hint=_HELP)
    return kinds, rates


def parse_bit_errors(texts: Sequence[str], seed: int = 0) -> FaultPlan:
    """The plan of ``--bit-error-rate`` options: ``1e-4`` (write and read errors), ``write=1e-4,read=1e-6,stuck=1e-5,kind=transposable``.

    Without ``kind`` a text holds for all sub-arrays; a later one overrides what an earlier one says.

    Raises:
        SasError: text that means nothing, a rate outside 0..1.
    """
    rates = {kind: Rates() for kind in KINDS}
    for text in texts:
        kinds, given = _parse_one(text)
        for kind in kinds:
            rates[kind] = replace(rates[kind], **given)
    if seed < 0:
        raise SasError(f"--fault-seed {seed}: at least 0 is needed")
    return FaultPlan(rates, seed)


def draw_mask(rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Bytes:
    """Bytes in which every bit is 1 with probability ``rate``, independently.

    Rare ones are drawn by the gaps between them, which are geometric: the work grows with the errors, not with the bits.
    """
    mask = np.zeros(math.prod(shape), np.uint8)
    bits = 8 * mask.size
    if rate <= 0 or not bits:
        return mask.reshape(shape)
    if rate < _SPARSE:
        found, at = list[npt.NDArray[np.int64]](), -1
        while at < bits:
            some = int(1.2 * rate * (bits - at) + 16)
            gaps = np.minimum(rng.geometric(rate, some), bits + 1)  # 1e-18 has gaps that no sum of 64 bits holds
            places = at + np.cumsum(gaps)
            found.append(places)
            at = int(places[-1])
        chosen = np.concatenate(found)
        chosen = chosen[chosen < bits]
    else:
        chosen = np.flatnonzero(rng.random(bits, np.float32) < rate)
    np.bitwise_or.at(mask, chosen >> 3, (1 << (chosen & 7)).astype(np.uint8))
    return mask.reshape(shape)


def _bits(mask: Bytes) -> int:
    return int(np.bitwise_count(mask).sum(dtype=np.int64))


def _written_by(program: Program) -> frozenset[str]:
    """Names of the matrices whose weights the program itself writes."""
    return frozenset(
        str(value)
        for instr in program.code
        for f, value in zip(instr.spec.fields, instr.operands, strict=False)
        if isinstance(f, MatField) and f.write
    )


_RARE = 1e-7
"""Cells below it are not looked at one by one: their mean rate is drawn."""


class _Weak:
    """The cells of all matrices whose probability of something is not negligible, and the mean of all others.

    ``at``: bit positions, 8 x byte + bit, of bytes numbered through the matrices one after the other; ``rates`` [1 or 2, cells], by the bit stored where
    it depends on it; ``byte``: where that byte of the first copy stands in the arrays; ``rest`` [1 or 2], mean rate of the cells not listed.
    """

    def __init__(self, parts: Sequence[npt.NDArray[np.float32]], place: npt.NDArray[np.int64]) -> None:
        found, rates, first = list[npt.NDArray[np.int64]](), list[npt.NDArray[np.float32]](), 0
        others, count = np.zeros(len(parts[0])), 0
        for part in parts:
            flat = part.reshape(len(part), -1)
            weak = flat.max(axis=0) > _RARE
            here = np.flatnonzero(weak)
            found.append(here + first)
            rates.append(flat[:, here])
            others += np.where(weak, 0, flat).sum(axis=1, dtype=np.float64)
            count += flat.shape[1] - len(here)
            first += flat.shape[1]
        self.at, self.rates = np.concatenate(found), np.concatenate(rates, axis=1)
        self.rest, self._total, self._place = others / max(1, count), first, place

    def draw(self, rng: np.random.Generator, cells: Bytes, times: float = 1.0) -> npt.NDArray[np.int64]:
        """Bit positions that it happens to in ``times`` tries; ``cells``: the arrays, for the bits stored."""
        listed = self._chosen(rng, self.at, self.rates, cells, times)
        largest = float(self._often(self.rest.max(), times))
        some = rng.integers(0, self._total, rng.binomial(self._total, largest)) if largest else self.at[:0]
        share = np.repeat((self._often(self.rest, times) / max(largest, 1e-300))[:, None], len(some), axis=1)
        return np.setxor1d(listed, np.unique(self._chosen(rng, some, share, cells, 1.0)))

    def _chosen(
        self, rng: np.random.Generator, at: npt.NDArray[np.int64], rates: npt.NDArray[Any], cells: Bytes, times: float
    ) -> npt.NDArray[np.int64]:
        rate = rates[0]
        if len(rates) > 1:
            rate = np.where((cells.reshape(-1)[self._place[at >> 3]] >> (at & 7)) & 1, rates[1], rates[0])
        return at[rng.random(len(at)) < self._often(rate, times)]

    @staticmethod
    def _often(rate: Any, times: float) -> Any:
        return rate if times == 1 else -np.expm1(times * np.log1p(-np.minimum(rate, 1 - 1e-12)))


class Faults:
    """The bit errors of one simulated machine.

    Making it programs the arrays anew: what is loaded gets its write errors (unless ``fresh`` is False: the cells are as an earlier session left
    them), stuck cells take their value. Then every run belongs into :meth:`run`. ``counts``: bits wrong after writes, read wrong (summed
    over runs), stuck.
    """

    def __init__(self, plan: FaultPlan, interpreter: Interpreter, *, fresh: bool = True) -> None:
        self.plan, self._it = plan, interpreter
        self._state, program = interpreter.state, interpreter.program
        self.counts = {"write": 0, "read": 0, "stuck": 0, "disturb": 0, "runs": 0}
        self._drawn = 0
        self._matrices = {name: m for name, m in program.matrices.items() if m.kind != "scratch"}
        self._tiles = {name: tile_array(m.tiles) for name, m in self._matrices.items()}
        self._changing = _written_by(program) & frozenset(self._matrices)
        self._wear = self._state.wear.copy()
        self._stuck = self._draw_stuck()
        self._weak = self._weak_cells() if plan.cells is not None else None
        self._turned: dict[str, Bytes] = {}
        self._bits = sum(8 * t.rows * t.cols for m in self._matrices.values() for t in m.tiles)
        if fresh:
            self._program_all()
        else:
            self._pin(frozenset(self._matrices))

    # ------------------------------------------------------------------------------------------------------------ drawing

    def _rng(self, what: int) -> np.random.Generator:
        self._drawn += 1
        return np.random.default_rng([self.plan.seed, what, self._drawn])

    def _draw_stuck(self) -> dict[str, tuple[Bytes, Bytes]]:
        """(which bits are stuck, at what) for every matrix with stuck cells, as its first copy stands in the arrays."""
        shape, out = self._state.cells.shape, dict[str, tuple[Bytes, Bytes]]()
        for number, kind in enumerate(KINDS):
            rate = self.plan.of(kind).stuck
            if not rate:
                continue
            rng = np.random.default_rng([self.plan.seed, 3, number])
            where = draw_mask(rng, shape, rate)
            level = np.zeros(shape, np.uint8)
            hit = where != 0
            level[hit] = where[hit] & rng.integers(0, 256, int(hit.sum()), np.uint8)
            for name, m in self._of_kind(kind):
                mask, value = np.zeros((m.k, m.n), np.uint8), np.zeros((m.k, m.n), np.uint8)
                gather_block(where, self._tiles[name], 0, 0, m.k, mask)
                gather_block(level, self._tiles[name], 0, 0, m.k, value)
                if mask.any():
                    out[name] = mask, value
                    self.counts["stuck"] += _bits(mask)
        return out

    def _weak_cells(self) -> tuple[_Weak, _Weak, _Weak]:
        """What may go wrong in the first copy of every matrix: writes, reads, disturbs."""
        assert self.plan.cells is not None
        maps: dict[int, SubarrayCells] = {}
        parts: tuple[list[Any], list[Any], list[Any]] = [], [], []
        places: list[npt.NDArray[np.int64]] = []
        _, rows, columns = self._state.cells.shape
        for m in self._matrices.values():
            new = [np.zeros((states, m.k, m.n, 8), np.float32) for states in (1, 2, 2)]
            place = np.zeros((m.k, m.n), np.int64)
            for t in (t for t in m.tiles if t.copy == 0):
                if t.subarray not in maps:
                    maps[t.subarray] = self.plan.cells.subarray(t.subarray)
                cells = maps[t.subarray]
                block = slice(t.k, t.k + t.rows), slice(t.n, t.n + t.cols)
                for to, of in zip(new, (cells.write[None], cells.read, cells.disturb), strict=True):
                    to[:, *block] = of.reshape(len(of), rows, columns, 8)[:, t.row : t.row + t.rows, t.col : t.col + t.cols]
                lines = (t.subarray * rows + t.row + np.arange(t.rows)) * columns + t.col
                place[block] = lines[:, None] + np.arange(t.cols)
            for kept, one in zip(parts, new, strict=True):
                kept.append(one)
            places.append(place.ravel())
        where = np.concatenate(places)
        return _Weak(parts[0], where), _Weak(parts[1], where), _Weak(parts[2], where)

    def _masks(self, at: npt.NDArray[np.int64]) -> dict[str, Bytes]:
        """Bit positions of :class:`_Weak` as masks [K, N] of the matrices that have any."""
        out, first = dict[str, Bytes](), 0
        for name, m in self._matrices.items():
            low, high = np.searchsorted(at, (first, first + 8 * m.k * m.n))
            if high > low:
                mask, here = np.zeros(m.k * m.n, np.uint8), at[low:high] - first
                np.bitwise_or.at(mask, here >> 3, (1 << (here & 7)).astype(np.uint8))
                out[name] = mask.reshape(m.k, m.n)
            first += 8 * m.k * m.n
        return out

    def _disturb(self, reads: float) -> None:
        """Bits that ``reads`` of every cell turn round; every ``scrub`` runs they are put back."""
        if self.plan.scrub and self.counts["runs"] % self.plan.scrub == 0:
            for name, mask in self._turned.items():
                self._flip(name, mask)
            self._turned.clear()
        assert self._weak is not None
        found = self._masks(self._weak[2].draw(self._rng(4), self._state.cells, reads))
        for name, mask in found.items():
            self.counts["disturb"] += _bits(mask)
            self._flip(name, mask)
            self._turned[name] = self._turned.get(name, np.zeros_like(mask)) ^ mask
        self._pin(frozenset(found))

    def _of_kind(self, kind: str) -> Iterator[tuple[str, Matrix]]:
        wanted = kind == "transposable"
        return ((name, m) for name, m in self._matrices.items() if (m.array == "transposable") == wanted)

    def _rates(self, name: str) -> Rates:
        return self.plan.of("transposable" if self._matrices[name].array == "transposable" else "compute")

    # -------------------------------------------------------------------------------------------------------------- cells

    def _flip(self, name: str, mask: Bytes) -> None:
        """Flip bits of a matrix in every copy."""
        for t in self._matrices[name].tiles:
            part = mask[t.k : t.k + t.rows, t.n : t.n + t.cols]
            if part.any():
                self._state.cells[t.subarray, t.row : t.row + t.rows, t.col : t.col + t.cols] ^= part
        self._it._matrix(name).changed()

    def _pin(self, names: frozenset[str]) -> None:
        """Stuck cells take their value again."""
        for name in names & self._stuck.keys():
            mask, value = self._stuck[name]
            now = np.zeros(mask.shape, np.uint8)
            gather_block(self._state.cells, self._tiles[name], 0, 0, mask.shape[0], now)
            self._flip(name, (now ^ value) & mask)

    def _written(self, name: str, rows: Bools) -> Bools:
        """Which weights [K, N] stand in the word lines ``rows`` [sub-arrays, rows]."""
        m = self._matrices[name]
        out = np.zeros((m.k, m.n), np.bool_)
        for t in m.tiles:
            if t.copy == 0:
                out[t.k : t.k + t.rows, t.n : t.n + t.cols] = rows[t.subarray, t.row : t.row + t.rows, None]
        return out

    def _fail_writes(self, names: frozenset[str], rows: Bools | None) -> dict[str, Bools]:
        """Write errors in matrices that were written (``rows``: these word lines of them; None: all); returns what was written of each."""
        rng, out = self._rng(1), dict[str, Bools]()
        failing = self._masks(self._weak[0].draw(rng, self._state.cells)) if self._weak else {}
        for name, m in self._matrices.items():
            if name not in names:
                continue
            written = np.ones((m.k, m.n), np.bool_) if rows is None else self._written(name, rows)
            if not written.any():
                continue
            out[name] = written
            if rate := self._rates(name).write:
                wrong = draw_mask(rng, (m.k, m.n), rate) * written
                self.counts["write"] += _bits(wrong)
                self._flip(name, wrong)
            if name in failing:
                wrong = failing[name] * written
                self.counts["write"] += _bits(wrong)
                self._flip(name, wrong)
            if name in self._turned:
                self._turned[name] *= ~written
        self._pin(frozenset(out))
        return out

    def _program_all(self) -> None:
        loaded = frozenset(
            n for n, m in self._matrices.items() if all(self._state.written[t.subarray, t.row, t.col] for t in m.tiles)
        )
        self._fail_writes(loaded, None)

    def _pulsed(self) -> Bools | None:
        """Word lines written since the last look; None: none."""
        rows = self._state.wear != self._wear
        if not rows.any():
            return None
        self._wear[...] = self._state.wear
        return rows

    # --------------------------------------------------------------------------------------------------------------- runs

    @contextmanager
    def run(self) -> Iterator[None]:
        """What runs inside senses the cells with their read errors; its writes fail as planned. Cells that were not written have their true
        content again afterwards."""
        if (rows := self._pulsed()) is not None:  # by the host, since the last run
            self._fail_writes(self._changing | frozenset(n for n, m in self._matrices.items() if m.trainable), rows)
        rng, misread = self._rng(2), dict[str, Bytes]()
        weak = self._masks(self._weak[1].draw(rng, self._state.cells)) if self._weak else {}
        for name, m in self._matrices.items():
            rate, mask = self._rates(name).read, None
            if rate:
                mask = draw_mask(rng, (m.k, m.n), rate)
            if name in weak:
                mask = weak[name] if mask is None else mask ^ weak[name]
            if mask is not None and mask.any():
                misread[name] = mask
                self.counts["read"] += _bits(mask)
                self._flip(name, mask)
        self.counts["runs"] += 1
        sensed = self._it.events["sense_ones"]
        try:
            yield
        finally:
            rows = self._pulsed()
            for name, mask in misread.items():
                # a written word line holds what was written, read errors of the update included
                kept = self._written(name, rows) if rows is not None and name in self._changing else None
                self._flip(name, mask if kept is None else mask * ~kept)
            if rows is not None:
                self._fail_writes(self._changing, rows)
            if self._weak and self._bits:
                self._disturb((self._it.events["sense_ones"] - sensed) / self._bits)

    def summary(self) -> dict[str, Any]:
        """For a report: rates by sub-array kind, seed, and how many bits were wrong."""
        return {"rates": {k: vars(r) for k, r in self.plan.rates.items()}, "seed": self.plan.seed, "bits": dict(self.counts)}

    def __str__(self) -> str:
        c = self.counts
        return f"bit errors: {c['write']} written wrong, {c['read']} read wrong in {c['runs']} runs, {c['stuck']} cells stuck, {c['disturb']} turned round by reads"
