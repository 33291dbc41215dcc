"""Commands that show what is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from sasimc.debug import look, tell
from sasimc.debug.prompt.commands import Prompt, command
from sasimc.isa.errors import SasError


@command("Looking", "where bt backtrace")
def _stack(prompt: Prompt, text: str) -> Iterable[str]:
    """Where the machine is: instruction, node, loops with their passes, phase, entry, run; what the instruction costs."""
    found = look.frames(prompt.session)
    return tell.stack_lines(prompt.session, found) if found else ["the program has ended"]


@command("Looking", "list l", "[INDEX]")
def _list(prompt: Prompt, text: str) -> Iterator[str]:
    """Instructions around here, or around an index; again: further on."""
    s = prompt.session
    code = s.program.code
    here = len(code) - 1 if s.pc is None else s.pc
    first = s.number(text) - 5 if text else here - 5 if prompt._listed is None else prompt._listed
    first = max(0, min(first, len(code) - 1))
    for pc in range(first, min(first + 11, len(code))):
        yield tell.code_line(s.program, pc, "=>" if pc == s.pc else "  ")
    prompt._listed = min(first + 11, len(code))


@command("Looking", "print p", "[/x|/b] EXPRESSION")
def _print(prompt: Prompt, text: str) -> Iterator[str]:
    """The value of an expression: `p r3`, `p max(acc)`, `p/x VIEW[0]`, `p cycles`, `p buf[0:16]`."""
    base, rest = "", text
    if found := re.match(r"/([xbd])\s+(.*)", text, re.DOTALL):
        base, rest = found[1].replace("d", ""), found[2]
    if not rest:
        raise SasError("print needs an expression", hint="print r3")
    yield tell.value_text(prompt.session.value(rest), base)


@command("Looking", "display", "[EXPRESSION]")
def _display(prompt: Prompt, text: str) -> Iterable[str]:
    """Show an expression after every stop; without one: show all of these now."""
    if text:
        prompt.session.value(text)
        prompt.displays.append(text)
    return [line for number, t in enumerate(prompt.displays, 1) for line in (f"{number}: {x}" for x in prompt._shown(t))]


@command("Looking", "undisplay", "[NUMBER]")
def _undisplay(prompt: Prompt, text: str) -> Iterable[str]:
    """Show an expression no longer; default: none of them."""
    if not text:
        prompt.displays.clear()
    elif text.isdecimal() and 1 <= int(text) <= len(prompt.displays):
        del prompt.displays[int(text) - 1]
    else:
        raise SasError(f"there is no display {text}")
    return []


@command("Looking", "tensor t", "NAME [ROW]")
def _tensor(prompt: Prompt, text: str) -> Iterator[str]:
    """A view, an ONNX tensor or a node's result, gathered over its stripes since the run began: stored integers, then real values. ROW: that row only."""
    name, row = _with_row(text)
    s = prompt.session
    found = look.stripes(s, name) if s.program.views.get(name) is None or s.program.views[name].space == "buf" else None
    t = found.tensor if found is not None and found.rows else look.tensor(s, name)
    missing = int((~t.present).sum())
    kind = f"{t.values.dtype} {'x'.join(map(str, t.values.shape))}"
    state = f", {missing} of {len(t.present)} rows not written yet" if missing else ""
    if found is not None and not found.rows:
        state = ", not written in this run yet: the bytes as they are"
    yield f"{t.name}: {kind}{state}"
    values, real = t.values, t.real
    if row is not None:
        if not 0 <= row < len(values):
            raise SasError(f"{t.name} has no row {row}", hint=f"0 to {len(values) - 1}")
        values, real = values[row], None if real is None else real[row]
    yield tell.value_text(values)
    if t.scale is not None and real is not None:
        yield f"real values of {t.scale.tensor}: {t.scale.scale:.6g} * (stored - {t.scale.zero})"
        with np.printoptions(precision=4, suppress=True):
            yield tell.value_text(real)


def _with_row(text: str) -> tuple[str, int | None]:
    words = text.split()
    if not words:
        raise SasError("which view, tensor or node?", hint="info views lists the views")
    row = int(words[1]) if len(words) == 2 and words[1].isdecimal() else None
    return words[0].strip('"'), row


@command("Looking", "stripes", "NAME")
def _stripes(prompt: Prompt, text: str) -> Iterator[str]:
    """When each row of a view was written in this run, by which instruction, and whether it still stands in the buffer."""
    name, _ = _with_row(text)
    found = look.stripes(prompt.session, name)
    view = prompt.session.program.views[found.tensor.name]
    yield f"{view.name}: {view.height} rows, {view.rows_held} held at a time"
    run: list[tuple[int, int, int]] = []
    for row, instant, pc in [*found.rows, (-1, -1, -1)]:
        if run and (instant, pc) != run[-1][1:]:
            rows = [r for r, _, _ in run]
            held = sum(r in found.held for r in rows)
            still = "held" if held == len(rows) else f"{held} of them held" if held else "overwritten"
            yield f"  time {run[0][1]:7}: rows {rows[0]}..{rows[-1]} by {run[0][2]}, {still}"
            run = []
        run.append((row, instant, pc))
    if not found.rows:
        yield "  not written in this run"


@command("Looking", "array", "[/b] SUB-ARRAY [FIRST[:LAST]]")
def _array(prompt: Prompt, text: str) -> Iterator[str]:
    """A sub-array: owners of its word lines, then the weights of the word lines FIRST..LAST; /b: their bit cells."""
    bits = text.startswith("/b")
    words = text.removeprefix("/b").split()
    if not words or not words[0].isdecimal():
        raise SasError("which sub-array?", hint="array 17, array 17 0:8, array/b 17 3")
    sub = look.subarray(prompt.session, int(words[0]))
    first, _, last = (words[1] if len(words) > 1 else "").partition(":")
    if not (first or "0").isdecimal() or not (last or "0").isdecimal():
        raise SasError(f"{words[1]!r} are no word lines", hint="array 17 0:8")
    begin = int(first) if first else 0
    end = int(last) if last else begin + 1 if first else max((o.tile.row + o.tile.rows for o in sub.owners), default=0)
    yield from tell.array_lines(sub, range(begin, min(end, len(sub.weights))), bits)
