"""What the right side shows, as text: tensors, a sub-array, the stack, counters. Each pane is a function of the session and the width."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from rich.color import Color
from rich.style import Style
from rich.text import Text

from sasimc.debug import look, tell
from sasimc.debug.session import Session
from sasimc.isa.errors import SasError
from sasimc.isa.spec import MatField, ViewField

__all__ = ["PANES", "array_of", "arrays", "counters", "tensors", "where"]

_OWNERS = ("#4c9f70", "#5b8dd9", "#c98a3b", "#a678c8", "#c76b6b", "#4aa3a3", "#8a8f3a", "#b56a9c")
"""Colours of matrices in a sub-array, in the order in which they stand there."""


def _values(values: npt.NDArray[np.int64], width: int) -> Iterator[str]:
    """A few pixels of a tensor's rows: channels across, pixels down."""
    flat = values.reshape(-1, values.shape[-1])
    widest = max((len(str(v)) for v in (int(flat.min()), int(flat.max()))), default=1) + 1
    shown = max(1, (width - 1) // widest)
    for pixel in flat[:6]:
        cells = "".join(f"{v:{widest}}" for v in pixel[:shown].tolist())
        yield cells + ("…" if len(pixel) > shown else "")
    if len(flat) > 6:
        yield f"  and {len(flat) - 6} more pixels"


def tensors(session: Session, width: int, more: list[str]) -> Text:
    """The views of the next instruction in the rows it works on, and what `display` asked for."""
    out = Text()
    for text in more:
        try:
            out.append(f"{text} = {tell.value_text(session.value(text))}\n", "bold")
        except SasError as exc:
            out.append(f"{text}: {exc.diagnostic.message}\n", "red")
    pc = session.pc
    if pc is None or pc >= len(session.program.code):
        return out.append("the program has ended")
    instr = session.program.code[pc]
    rows = instr.spec.rows_field()
    r0, r1 = look.instruction(session, pc).rows
    for f, name in zip(instr.spec.fields, instr.operands, strict=True):
        if not isinstance(f, ViewField):
            continue
        t = look.tensor(session, name)
        part, what = t.values, ""
        if rows is not None and f.name == rows.of and r1 > r0 >= 0:
            part, what = t.values[r0:r1], f", rows {r0}..{r1 - 1}"
        how = {"r": "read", "w": "written", "d": "drained", "a": "added to"}.get(f.access, "changed")
        out.append(f"{f.name.rstrip('_')} ", "bold").append(name, "bold cyan").append(f"  {how}\n")
        shape = "x".join(map(str, t.values.shape))
        out.append(f"  {shape} {t.values.dtype}{what}, {int(part.min())}..{int(part.max())}\n", "dim")
        if t.scale is not None:
            out.append(f"  real = {t.scale.scale:.4g} (v - {t.scale.zero}), {t.scale.tensor}\n", "dim")
        for line in _values(part.astype(np.int64), width - 2):
            out.append(f"  {line}\n")
    for f, name in zip(instr.spec.fields, instr.operands, strict=True):
        if isinstance(f, MatField):
            m = session.program.matrices[name]
            out.append(f"{f.name} ", "bold").append(name, "bold cyan").append(f"  {m.k}x{m.n} {m.kind}, pane 2\n")
    return out if out else Text("registers only")


def array_of(session: Session) -> int:
    """The sub-array that the next instruction is about, else the first that holds a matrix."""
    pc, program = session.pc, session.program
    if pc is not None and pc < len(program.code):
        instr = program.code[pc]
        for f, name in zip(instr.spec.fields, instr.operands, strict=True):
            if isinstance(f, MatField) and program.matrices[name].tiles:
                return program.matrices[name].tiles[0].subarray
    return min((t.subarray for m in program.matrices.values() for t in m.tiles), default=0)


def arrays(session: Session, width: int, index: int, bits: bool, before: npt.NDArray[np.int8] | None) -> Text:
    """A sub-array as a grid: two word lines a row of characters, a weight a column, coloured by matrix, bright where the weight is large; white where
    it changed since the last stop. ``bits``: a bit cell a column instead."""
    sub = look.subarray(session, index)
    out = Text()
    out.append(f"sub-array {sub.index}", "bold").append(f", bank {sub.bank}, {sub.kind}\n")
    for i, o in enumerate(sub.owners[: len(_OWNERS)]):
        t = o.tile
        out.append("■ ", _OWNERS[i]).append(f"{o.matrix}[{t.k}:{t.k + t.rows}, {t.n}:{t.n + t.cols}]\n")
    if not sub.owners:
        out.append("no matrix stands in it\n", "dim")
    rows, columns = sub.weights.shape
    owner = np.full((rows, columns), -1, np.int16)
    for i, o in enumerate(sub.owners):
        t = o.tile
        owner[t.row : t.row + t.rows, t.col : t.col + t.cols] = i % len(_OWNERS)
    light = np.abs(sub.weights.astype(np.int16)) / 128
    changed = np.zeros_like(owner, np.bool_) if before is None else sub.weights != before
    written = sub.written
    if bits:
        light, owner, changed, written = sub.bits.astype(float), *(np.repeat(a, 8, axis=1) for a in (owner, changed, written))
    used = max(int(np.flatnonzero(owner.max(axis=0) >= 0)[-1]) + 1 if (owner >= 0).any() else 0, 8)
    high = max(int(np.flatnonzero(owner.max(axis=1) >= 0)[-1]) + 1 if (owner >= 0).any() else 0, 8)

    def colour(y: int, x: int) -> Color:
        if y >= rows or owner[y, x] < 0 or not written[y, x]:
            return Color.from_rgb(38, 40, 44)
        if changed[y, x]:
            return Color.from_rgb(255, 255, 255)
        full = Color.parse(_OWNERS[owner[y, x]]).get_truecolor()
        part = 0.2 + 0.8 * float(light[y, x])
        return Color.from_rgb(*(int(v * part) for v in full))

    for y in range(0, high, 2):
        out.append(f"{y:3} ", "dim")
        for x in range(used):
            out.append("▀", Style(color=colour(y, x), bgcolor=colour(y + 1, x)))
        out.append("\n")
    wear = sub.wear[:high]
    out.append(f"writes of a word line: {int(wear.min())}..{int(wear.max())}\n", "dim")
    out.append("[ ] other sub-array   x weights/bits", "dim")
    return out


def where(session: Session, width: int) -> Text:
    """The stack, and what the next instruction costs."""
    out = Text()
    stack = look.frames(session)
    if not stack:
        return out.append("the program has ended")
    for frame in stack:
        out.append(f"{frame.kind:12}", "bold").append(f"{frame.text}\n")
    if session.pc is not None and session.pc < len(session.program.code):
        i = look.instruction(session, session.pc)
        out.append(f"\n{look.operation(session, session.pc)}\n", "dim")
        energy = f", {i.energy:.4g} J" if i.energy is not None else ""
        rows = f", rows {i.rows[0]}..{i.rows[1] - 1}" if i.rows[1] > i.rows[0] >= 0 else ""
        out.append(f"costs {i.cycles} cycle{'' if i.cycles == 1 else 's'}{energy}{rows}\n")
    return out


def counters(session: Session, width: int) -> Text:
    """Registers, cycles, events, energy."""
    out, it = Text(), session.it
    names = {register: name for name, register in session.program.params.items()}
    out.append("registers\n", "bold")
    shown = [(n, v) for n, v in enumerate(it.regs) if v or n in names]
    for n, v in shown:
        out.append(f"  r{n:<3}{v:>12}  {names.get(n, '')}\n")
    if not shown:
        out.append("  all are 0\n", "dim")
    out.append("cycles\n", "bold")
    for phase, n in it.phase_cycles.items():
        if n:
            out.append(f"  {phase:12}{n:>14,}\n")
    out.append(f"  {'in all':12}{it.cycles:>14,}\n")
    if session.price is not None:
        out.append(f"  {'energy':12}{session.energy:>12.4g} J\n")
    out.append("events\n", "bold")
    for event, n in it.events.items():
        if n:
            out.append(f"  {event:28.28}{n:>12,}\n"[: width + 1] if width < 44 else f"  {event:28}{n:>14,}\n")
    return out


PANES = ("tensors", "array", "where", "counts")
"""Names of the panes, by number from 1."""
