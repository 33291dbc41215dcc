"""Sessions in words: stops, stacks, tensors and sub-arrays as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from sasimc.debug.look import Frame, SubArray, flipped, instruction, operation
from sasimc.debug.microscope import Bit, Tree
from sasimc.debug.session import Session
from sasimc.debug.stops import Hit, Position, Stop
from sasimc.isa.program import Program
from sasimc.runtime.engines.bind import instruction_text

__all__ = [
    "array_lines",
    "code_line",
    "hit_lines",
    "moment_lines",
    "number",
    "position_line",
    "stack_lines",
    "stop_lines",
    "value_text",
]

_MANY: Final = 8
_WIDE: Final = 120


def number(value: float) -> str:
    """A number of a result: whole ones in full."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1 << 62 else f"{value:.6g}"


def value_text(value: Any, base: str = "") -> str:
    """A number or an array; ``base``: ``x`` or ``b`` for hexadecimal or binary digits."""
    if np.ndim(value) == 0:
        v = value.item() if isinstance(value, np.generic | np.ndarray) else value
        if isinstance(v, bool):
            return str(v).lower()
        return f"{v:#{base}}" if base and isinstance(v, int) else number(v)
    array = np.asarray(value)
    shown: Any = {"int_kind": lambda n: f"{n:#{base}}"} if base else None
    with np.printoptions(threshold=600, edgeitems=4, linewidth=_WIDE, formatter=shown):
        return str(array)


def code_line(program: Program, pc: int, mark: str = "  ", width: int = 58) -> str:
    """An instruction with index, source line and node."""
    instr = program.code[pc]
    text = _text(program, pc)
    note = "; ".join(filter(None, (f"line {instr.line}" if instr.line else "", instr.origin.node)))
    return f"{mark} {pc:5}: {text:{width}}  ; {note}" if note else f"{mark} {pc:5}: {text}"


def _text(program: Program, pc: int) -> str:
    return instruction_text(program.code[pc])


def position_line(p: Position) -> str:
    """Where time stands."""
    return f"time {p.time}, {p.title}, phase {p.phase}, {p.cycles} cycles"


def hit_lines(program: Program, hit: Hit) -> Iterator[str]:
    """What touched a place, and the values around it."""
    how = "written" if hit.write else "read"
    if hit.write and not len(hit.changed):
        how = "written (same value)"
    who = "by the host" if hit.pc < 0 else f"by {hit.pc} `{_text(program, hit.pc)}`"
    node = program.code[hit.pc].origin.node if hit.pc >= 0 else ""
    yield f"{hit.place.text} {how} {who}{f' of {node}' if node else ''} at time {hit.time}"
    if hit.before.ndim == 0:
        yield f"    before {hit.before}, after {hit.after}" if hit.write else f"    value {hit.after}"
    else:
        for at in hit.changed[:_MANY]:
            key = tuple(at.tolist())
            yield f"    {list(key)}: before {hit.before[key]}, after {hit.after[key]}"
        if len(hit.changed) > _MANY:
            yield f"    and {len(hit.changed) - _MANY} more"
    if hit.place.memory == "cells" and hit.write:
        bits = int(np.bitwise_count(flipped(hit)).sum())
        mask = f" (mask {int(flipped(hit)):#010b})" if hit.before.ndim == 0 else ""
        yield f"    {bits} bit cell{'' if bits == 1 else 's'} flipped{mask}"


def stop_lines(session: Session, stop: Stop) -> Iterator[str]:
    """Why the machine stands, where, and the next instruction."""
    for b in stop.breakpoints:
        yield f"breakpoint {b.number}, {b.text}"
    for hit in stop.hits:
        lines = hit_lines(session.program, hit)
        yield f"watchpoint {hit.watchpoint.number if hit.watchpoint else 0}: {next(lines)}"
        yield from lines
    if stop.trap is not None:
        yield f"trap, {stop.trap.kind}: {stop.trap.detail}"
    if stop.reason in ("end", "beginning", "interrupted"):
        yield {"end": "the end of the program", "beginning": "the beginning of history", "interrupted": "interrupted"}[
            stop.reason
        ]
    yield position_line(stop.position)
    if stop.position.pc is not None and stop.position.pc < len(session.program.code):
        yield code_line(session.program, stop.position.pc, "=>")


def stack_lines(session: Session, stack: list[Frame]) -> Iterator[str]:
    """``where``."""
    for number_, frame in enumerate(stack):
        yield f"#{number_}  {frame.kind:11}  {frame.text}"
    if stack and stack[0].kind == "instruction":
        pc = stack[0].pc
        i = instruction(session, pc)
        rows = f", rows {i.rows[0]}..{i.rows[1] - 1}" if i.rows[1] > i.rows[0] else ""
        energy = f", {i.energy:.4g} J" if i.energy is not None else ""
        yield f"    {operation(session, pc)}"
        yield f"    costs {i.cycles} cycles{energy}{rows}"


def array_lines(sub: SubArray, rows: range, bits: bool) -> Iterator[str]:
    """A sub-array: who owns which word lines, then the grid: weights, or bit cells (``#`` one, ``.`` zero, a blank where never written)."""
    yield f"sub-array {sub.index}, bank {sub.bank}, {sub.kind}: {len(sub.weights)} word lines of {sub.weights.shape[1]} weights"
    for o in sub.owners:
        t = o.tile
        what = "trainable" if o.trainable else "frozen"
        yield (
            f"  {o.matrix}[{t.k}:{t.k + t.rows}, {t.n}:{t.n + t.cols}] in word lines {t.row}..{t.row + t.rows - 1}, weight columns {t.col}.."
            f"{t.col + t.cols - 1}, copy {t.copy}, {what}"
        )
    if not sub.owners:
        yield "  no matrix stands in it"
    for row in rows:
        known, cells = sub.written[row], ""
        if bits:
            for column in np.flatnonzero(known.cumsum()[::-1].cumsum()[::-1])[: len(known)]:
                if not known[column:].any():
                    break
                eight = sub.bits[row, 8 * column : 8 * column + 8]
                cells += "".join("#" if b else "." for b in eight) + " " if known[column] else " " * 9
        else:
            last = int(np.flatnonzero(known)[-1]) + 1 if known.any() else 0
            cells = " ".join(f"{w:4}" if k else "   -" for w, k in zip(sub.weights[row, :last], known[:last], strict=True))
        yield f"  {row:3} ({sub.wear[row]} writes) {cells.rstrip()}"


def moment_lines(moment: Bit | Tree) -> Iterator[str]:
    """A cycle of an array product: per word line input, sense amplifiers and shift-and-add; or what the adder tree joins."""
    if isinstance(moment, Tree):
        yield f"adder tree, wave of pixel {moment.pixel}:"
        for pixel, n, partial in moment.parts[:_MANY]:
            yield f"  pixel {pixel}, outputs {n}..{n + len(partial) - 1}: + {_short(partial)}"
        if len(moment.parts) > _MANY:
            yield f"  and {len(moment.parts) - _MANY} more tiles"
        yield f"  sums of pixel {moment.pixel}: {_short(moment.sums[moment.pixel])}"
        return
    m = moment
    yield f"pixel {m.pixel} of {m.pixels}, activation {m.activation + 1} of {m.activations}, input bit {m.bit} of {m.bits}: {len(m.lines)} word lines"
    for line in m.lines[:_MANY]:
        yield f"  sub-array {line.subarray}, word line {line.row}: pixel {line.pixel}, k {line.k}, input {line.value & 0x1FF:#b}, bit {line.bit}"
        sensed = " ".join("".join("#" if b else "." for b in weight) for weight in line.sensed[:_MANY])
        yield f"    sensed   {sensed}{' ...' if len(line.sensed) > _MANY else ''}"
        yield f"    shifted  {_short(line.added)}"
        yield f"    partial  {_short(line.partial)}"
    if len(m.lines) > _MANY:
        yield f"  and {len(m.lines) - _MANY} more word lines"


def _short(values: Any) -> str:
    shown = " ".join(str(int(v)) for v in values[:_MANY])
    return shown + (f" ... ({len(values)})" if len(values) > _MANY else "")
