"""The plain prompt: words and abbreviations as in gdb, from a terminal, a script or a pipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sasimc.debug import look, microscope, tell
from sasimc.debug.breakpoints import KINDS, nodes_of
from sasimc.debug.difference import FirstDifference, difference_lines
from sasimc.debug.session import Session
from sasimc.debug.stops import Breakpoint, Stop, Watchpoint
from sasimc.isa.errors import SasError, near

__all__ = ["COMMANDS", "Command", "Prompt", "command_table"]


@dataclass(frozen=True)
class Command:
    """A command: its names (the first is the full one), what follows it, what it does."""

    names: tuple[str, ...]
    arguments: str
    doc: str
    run: Callable[[Prompt, str], Iterable[str]]
    group: str


COMMANDS: dict[str, Command] = {}
"""By full name, in the order of `help`."""


def _command(group: str, names: str, arguments: str = "") -> Callable[[Callable[[Prompt, str], Iterable[str]]], None]:
    def register(function: Callable[[Prompt, str], Iterable[str]]) -> None:
        words = tuple(names.split())
        COMMANDS[words[0]] = Command(words, arguments, (function.__doc__ or "").strip(), function, group)

    return register


def command_table() -> str:
    """All commands as Markdown tables, for the manual."""
    lines: list[str] = []
    for group in dict.fromkeys(c.group for c in COMMANDS.values()):
        lines += ["", f"| {group} | |", "|---|---|"]
        for c in (c for c in COMMANDS.values() if c.group == group):
            names = ", ".join(f"`{n}`" for n in c.names)
            arguments = f" `{c.arguments}`" if c.arguments else ""
            lines.append(f"| {names}{arguments} | {c.doc} |".replace("[/x|/b]", "[/x\\|/b]"))
    return "\n".join(lines) + "\n"


class Prompt:
    """Executes lines of commands on a session. ``say`` prints a line; ``compare`` finds the first difference from what a word names; ``quit`` is True
    after `quit`."""

    def __init__(
        self, session: Session, say: Callable[[str], None], compare: Callable[[str], FirstDifference | None] | None = None
    ) -> None:
        self.session, self.say, self.compare = session, say, compare
        self.quit = False
        self.displays: list[str] = []
        self._repeat = ""
        self._listed: int | None = None
        self._inside: tuple[int, str, Iterator[Any]] = (-1, "", iter(()))

    def inside(self, kind: str, make: Callable[[Session], Iterator[Any]]) -> Iterator[Any]:
        """What goes through the instruction here: begun anew when the machine has moved."""
        now = self.session.history.time
        if self._inside[:2] != (now, kind):
            self._inside = now, kind, make(self.session)
        return self._inside[2]

    def execute(self, line: str) -> None:
        """One line. An empty line repeats the last step.

        Raises:
            SasError: a command or argument that means nothing; the session stands where it stood.
        """
        line = line.strip()
        if line.startswith("#"):
            return
        line = line or self._repeat
        if not line:
            return
        found = re.match(r"([^\s/]+)(/\S+)?\s*(.*)", line, re.DOTALL)
        if found is None:
            raise SasError(f"{line!r} is no command", hint="help lists the commands")
        command = self.command(found[1])
        self._repeat = line if command.group in ("Forwards", "Backwards") or command.names[0] == "list" else ""
        for text in command.run(self, f"{found[2] or ''} {found[3]}".strip()):
            self.say(text)

    def run(self, lines: Iterable[str]) -> None:
        """A script, each command shown before what it says: an error ends it.

        Raises:
            SasError: the error, with the number of the line.
        """
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            self.say(line.rstrip() if line.lstrip().startswith("#") else f"(sasdbg) {line.strip()}")
            try:
                self.execute(line)
            except SasError as exc:
                d = exc.diagnostic
                raise SasError(f"`{line.strip()}`: {d.message}", where=f"line {number} of the commands", hint=d.hint) from None
            if self.quit:
                return

    @staticmethod
    def command(word: str) -> Command:
        """The command of a name, an abbreviation, or the beginning of one name only."""
        for c in COMMANDS.values():
            if word in c.names:
                return c
        begun = [c for c in COMMANDS.values() if any(n.startswith(word) for n in c.names)]
        if len(begun) == 1:
            return begun[0]
        known = [n for c in COMMANDS.values() for n in c.names]
        what = f"{word!r} may be {', '.join(c.names[0] for c in begun)}" if begun else f"there is no command {word!r}"
        raise SasError(what, hint=near(word, known) or "help lists the commands")

    # ------------------------------------------------------------------------------------------------------------- stops

    def stopped(self, stop: Stop) -> Iterator[str]:
        """What is said after every stop."""
        self._listed = None
        yield from tell.stop_lines(self.session, stop)
        for number, text in enumerate(self.displays, 1):
            yield from (f"{number}: {line}" for line in self._shown(text))

    def _shown(self, text: str) -> Iterator[str]:
        try:
            yield f"{text} = {tell.value_text(self.session.value(text))}"
        except SasError as exc:
            yield f"{text}: {exc.diagnostic.message}"

    def count(self, text: str, default: int = 1) -> int:
        """A number that follows a command."""
        if not text:
            return default
        value = self.session.value(text)
        if np.size(value) != 1 or int(value) < 1:
            raise SasError(f"{text!r} is no number of times")
        return int(value)


def _around(prompt: Prompt, backwards: bool, text: str, do: Callable[[Session], Stop]) -> Iterator[str]:
    stop = None
    for _ in range(prompt.count(text)):
        stop = do(prompt.session)
        if stop.reason in ("end", "beginning", "trap", "interrupted"):
            break
    assert stop is not None
    yield from prompt.stopped(stop)


# ----------------------------------------------------------------------------------------------------------------- forwards


@_command("Forwards", "run r")
def _run(prompt: Prompt, text: str) -> Iterable[str]:
    """Begin again, and run to the first stop."""
    prompt.session.restart()
    return prompt.stopped(prompt.session.resume())


@_command("Forwards", "continue c", "[TIMES]")
def _continue(prompt: Prompt, text: str) -> Iterable[str]:
    """Run to the next stop; TIMES: to the so many-th."""
    return _around(prompt, False, text, lambda s: s.resume())


@_command("Forwards", "step s stepi si", "[TIMES]")
def _step(prompt: Prompt, text: str) -> Iterable[str]:
    """Execute one instruction, or so many."""
    return prompt.stopped(prompt.session.step(prompt.count(text)))


@_command("Forwards", "next n nexti ni", "[TIMES]")
def _next(prompt: Prompt, text: str) -> Iterable[str]:
    """Execute one instruction; a hardware loop is executed whole."""
    return _around(prompt, False, text, lambda s: s.over())


@_command("Forwards", "finish fin", "[TIMES]")
def _finish(prompt: Prompt, text: str) -> Iterable[str]:
    """Run until the innermost hardware loop is left; outside of loops: until the run has ended."""
    return _around(prompt, False, text, lambda s: s.out())


def _through(prompt: Prompt, whole: bool) -> Iterator[str]:
    moment = None
    for moment in prompt.inside("bits", microscope.bits):
        if isinstance(moment, microscope.Tree) or not whole or moment.bit == moment.bits - 1:
            break
    if moment is None:
        yield from prompt.stopped(prompt.session.step())
    else:
        yield from tell.moment_lines(moment)


@_command("Forwards", "bit")
def _bit(prompt: Prompt, text: str) -> Iterable[str]:
    """Watch one input bit of the array product here: sense amplifiers, shift-and-add, at the end of a wave the adder tree. The last one executes it."""
    return _through(prompt, False)


@_command("Forwards", "activation act")
def _activation(prompt: Prompt, text: str) -> Iterable[str]:
    """Watch one word-line activation of the array product here, all of its input bits."""
    return _through(prompt, True)


@_command("Forwards", "row")
def _row(prompt: Prompt, text: str) -> Iterator[str]:
    """Watch one row of the instruction here; the last one executes it."""
    found = next(prompt.inside("rows", microscope.rows), None)
    if found is None:
        yield from prompt.stopped(prompt.session.step())
        return
    yield f"row {found.row}"
    for name, first, values in found.parts:
        yield f"{name}, rows {first}..{first + len(values) - 1}:"
        yield tell.value_text(values)


@_command("Forwards", "goto", "TIME")
def _goto(prompt: Prompt, text: str) -> Iterable[str]:
    """Go to an instant, in either direction, without stopping on the way."""
    if not text:
        raise SasError("goto needs an instant", hint="goto 1200; every stop says its time")
    return prompt.stopped(prompt.session.goto(int(prompt.session.value(text))))


# ---------------------------------------------------------------------------------------------------------------- backwards


@_command("Backwards", "reverse-continue rc", "[TIMES]")
def _reverse_continue(prompt: Prompt, text: str) -> Iterable[str]:
    """Run back to the last stop; a watched write is then the next instruction."""
    return _around(prompt, True, text, lambda s: s.resume(backwards=True))


@_command("Backwards", "reverse-step rs reverse-stepi rsi", "[TIMES]")
def _reverse_step(prompt: Prompt, text: str) -> Iterable[str]:
    """Take one instruction back, or so many."""
    return prompt.stopped(prompt.session.step(prompt.count(text), backwards=True))


@_command("Backwards", "reverse-next rn reverse-nexti rni", "[TIMES]")
def _reverse_next(prompt: Prompt, text: str) -> Iterable[str]:
    """Take one instruction back; a hardware loop is taken back whole."""
    return _around(prompt, True, text, lambda s: s.over(backwards=True))


@_command("Backwards", "reverse-finish rfin", "[TIMES]")
def _reverse_finish(prompt: Prompt, text: str) -> Iterable[str]:
    """Run back to where the innermost hardware loop, or the run, began."""
    return _around(prompt, True, text, lambda s: s.out(backwards=True))


@_command("Backwards", "who", "PLACE")
def _who(prompt: Prompt, text: str) -> Iterable[str]:
    """Who wrote a place last: the instruction, when, and the values around it. `goto` its time to stand before it."""
    hit = prompt.session.last_write(text)
    if hit is None:
        return [f"{text} was not written since the beginning"]
    return tell.hit_lines(prompt.session.program, hit)


# -------------------------------------------------------------------------------------------------------------------- stops


def _condition(text: str) -> tuple[str, str]:
    where, _, condition = re.sub(r"\s+", " ", text).partition(" if ")
    return where.strip(), condition.strip()


def _break(prompt: Prompt, text: str, temporary: bool) -> Iterator[str]:
    where, condition = _condition(text)
    if where == "trap":
        yield "a trap always stops"
        return
    if not where and prompt.session.pc is not None:
        where = f"*{prompt.session.pc}"
    b = prompt.session.add_breakpoint(where, condition, temporary=temporary)
    yield f"{'temporary ' if temporary else ''}breakpoint {b.number}, {_where(prompt, b)}"


def _where(prompt: Prompt, b: Breakpoint) -> str:
    count = len(b.pcs)
    first = tell.code_line(prompt.session.program, min(b.pcs), "", 0).strip()
    return f"{b.text}{f' if {b.condition}' if b.condition else ''}: {first}" + (f" and {count - 1} more" if count > 1 else "")


@_command("Stops", "break b", "[WHERE] [if CONDITION]")
def _break_(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop before an instruction. WHERE: LINE, FILE:LINE, *INDEX, an entry, an ONNX node (also a pattern), phase NAME, step N; default: here."""
    return _break(prompt, text, False)


@_command("Stops", "tbreak tb", "[WHERE] [if CONDITION]")
def _tbreak(prompt: Prompt, text: str) -> Iterable[str]:
    """As break, once."""
    return _break(prompt, text, True)


def _watch(prompt: Prompt, text: str, when: str) -> Iterator[str]:
    place, condition = _condition(text)
    w = prompt.session.add_watchpoint(place, when, condition)
    count = len(w.pcs)
    yield f"watchpoint {w.number}, {when} of {w.text}: {count} instruction{'' if count == 1 else 's'} may touch it"


@_command("Stops", "watch", "PLACE [if CONDITION]")
def _watch_change(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place changes: VIEW[0, 1, 2], MATRIX[4, 7], r3, acc[17], buf[100:104], host[0:4], cell[SUB, LINE], cell[SUB, LINE, COLUMN]."""
    return _watch(prompt, text, "change")


@_command("Stops", "wwatch", "PLACE [if CONDITION]")
def _watch_write(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place is written, also with the value it has."""
    return _watch(prompt, text, "write")


@_command("Stops", "rwatch", "PLACE [if CONDITION]")
def _watch_read(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place is read."""
    return _watch(prompt, text, "read")


@_command("Stops", "awatch", "PLACE [if CONDITION]")
def _watch_access(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place is read or written."""
    return _watch(prompt, text, "access")


def _points(prompt: Prompt, text: str) -> list[Breakpoint | Watchpoint]:
    words = text.split()
    if not all(w.isdecimal() for w in words):
        raise SasError(f"{text!r} is no number of a breakpoint or watchpoint", hint="info breakpoints lists them")
    return [prompt.session.point(int(w)) for w in words] if words else list(prompt.session.points.values())


@_command("Stops", "delete d", "[NUMBER...]")
def _delete(prompt: Prompt, text: str) -> Iterable[str]:
    """Forget breakpoints and watchpoints; default: all."""
    for p in _points(prompt, text):
        prompt.session.delete(p.number)
    return []


@_command("Stops", "enable", "[NUMBER...]")
def _enable(prompt: Prompt, text: str) -> Iterable[str]:
    """Let breakpoints and watchpoints stop again."""
    for p in _points(prompt, text):
        p.enabled = True
    return []


@_command("Stops", "disable", "[NUMBER...]")
def _disable(prompt: Prompt, text: str) -> Iterable[str]:
    """Keep breakpoints and watchpoints, but let them not stop."""
    for p in _points(prompt, text):
        p.enabled = False
    return []


@_command("Stops", "ignore", "NUMBER TIMES")
def _ignore(prompt: Prompt, text: str) -> Iterable[str]:
    """Pass a breakpoint or watchpoint so many times (going forward)."""
    words = text.split()
    if len(words) != 2 or not words[1].isdecimal():
        raise SasError("ignore takes a number and how often", hint="ignore 1 10")
    _points(prompt, words[0])[0].ignore = int(words[1])
    return []


@_command("Stops", "condition", "NUMBER [CONDITION]")
def _set_condition(prompt: Prompt, text: str) -> Iterable[str]:
    """Give a breakpoint or watchpoint another condition, or none."""
    from sasimc.debug.expressions import parse

    number, _, condition = text.partition(" ")
    parsed = parse(condition) if condition.strip() else None
    if parsed is not None:
        parsed.value(prompt.session.lookup)
    if not number:
        raise SasError("condition needs the number of a breakpoint", hint="condition 1 r3 == 7")
    _points(prompt, number)[0].condition = parsed
    return []


# ------------------------------------------------------------------------------------------------------------------ looking


@_command("Looking", "where bt backtrace")
def _stack(prompt: Prompt, text: str) -> Iterable[str]:
    """Where the machine is: instruction, node, loops with their passes, phase, entry, run; what the instruction costs."""
    found = look.frames(prompt.session)
    return tell.stack_lines(prompt.session, found) if found else ["the program has ended"]


@_command("Looking", "list l", "[INDEX]")
def _list(prompt: Prompt, text: str) -> Iterator[str]:
    """Instructions around here, or around an index; again: further on."""
    s = prompt.session
    code = s.program.code
    here = len(code) - 1 if s.pc is None else s.pc
    first = int(s.value(text)) - 5 if text else here - 5 if prompt._listed is None else prompt._listed
    first = max(0, min(first, len(code) - 1))
    for pc in range(first, min(first + 11, len(code))):
        yield tell.code_line(s.program, pc, "=>" if pc == s.pc else "  ")
    prompt._listed = min(first + 11, len(code))


@_command("Looking", "print p", "[/x|/b] EXPRESSION")
def _print(prompt: Prompt, text: str) -> Iterator[str]:
    """The value of an expression: `p r3`, `p max(acc)`, `p/x VIEW[0]`, `p cycles`, `p buf[0:16]`."""
    base, rest = "", text
    if found := re.match(r"/([xbd])\s+(.*)", text, re.DOTALL):
        base, rest = found[1].replace("d", ""), found[2]
    if not rest:
        raise SasError("print needs an expression", hint="print r3")
    yield tell.value_text(prompt.session.value(rest), base)


@_command("Looking", "display", "[EXPRESSION]")
def _display(prompt: Prompt, text: str) -> Iterable[str]:
    """Show an expression after every stop; without one: show all of these now."""
    if text:
        prompt.session.value(text)
        prompt.displays.append(text)
    return [line for number, t in enumerate(prompt.displays, 1) for line in (f"{number}: {x}" for x in prompt._shown(t))]


@_command("Looking", "undisplay", "[NUMBER]")
def _undisplay(prompt: Prompt, text: str) -> Iterable[str]:
    """Show an expression no longer; default: none of them."""
    if not text:
        prompt.displays.clear()
    elif text.isdecimal() and 1 <= int(text) <= len(prompt.displays):
        del prompt.displays[int(text) - 1]
    else:
        raise SasError(f"there is no display {text}")
    return []


@_command("Looking", "tensor t", "NAME [ROW]")
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


@_command("Looking", "stripes", "NAME")
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


@_command("Looking", "array", "[/b] SUB-ARRAY [FIRST[:LAST]]")
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


@_command("Looking", "info i", "LIST")
def _info(prompt: Prompt, text: str) -> Iterable[str]:
    """A list: breakpoints, registers, run (cycles, events, energy so far), last (what the last instruction cost), entries, nodes, views, matrices, history."""
    topics = {k: v for k, v in _TOPICS.items() if k.startswith(text.strip())} if text else {}
    if len(topics) != 1 and text not in _TOPICS:
        raise SasError(f"info about {text or 'what'}?", hint=near(text, tuple(_TOPICS)) or ", ".join(_TOPICS))
    return (_TOPICS[text] if text in _TOPICS else next(iter(topics.values())))(prompt)


def _info_points(prompt: Prompt) -> Iterator[str]:
    for p in prompt.session.points.values():
        state = (
            ("" if p.enabled else ", disabled")
            + (", once" if p.temporary else "")
            + (f", {p.ignore} to pass" if p.ignore else "")
        )
        if isinstance(p, Breakpoint):
            yield f"{p.number}: breakpoint {_where(prompt, p)}; {p.hits} hits{state}"
        else:
            condition = f" if {p.condition}" if p.condition else ""
            yield f"{p.number}: watchpoint {p.when} of {p.text}{condition}; {p.hits} hits{state}"
    if not prompt.session.points:
        yield "no breakpoints and no watchpoints"


def _info_registers(prompt: Prompt) -> Iterator[str]:
    names = {register: name for name, register in prompt.session.program.params.items()}
    for number, value in enumerate(prompt.session.it.regs):
        if value or number in names:
            yield f"r{number:<3} {value}" + (f"  ({names[number]})" if number in names else "")


def _info_run(prompt: Prompt) -> Iterator[str]:
    s = prompt.session
    yield tell.position_line(s.position)
    yield "cycles by phase: " + (", ".join(f"{name} {n}" for name, n in s.it.phase_cycles.items() if n) or "none")
    for event, n in s.it.events.items():
        if n:
            yield f"  {event:28} {n}"
    if s.price is not None:
        yield f"energy so far: {s.energy:.4g} J"


def _info_last(prompt: Prompt) -> Iterator[str]:
    pc, cycles, events, energy = look.cost_of_last(prompt.session)
    yield tell.code_line(prompt.session.program, pc)
    yield f"cost {cycles} cycles" + (f", {energy:.4g} J" if energy is not None else "")
    yield from (f"  {event:28} {n}" for event, n in events.items())


def _info_views(prompt: Prompt) -> Iterator[str]:
    for v in prompt.session.program.views.values():
        ring = f", ring of {v.ring} rows" if v.ring else ""
        yield f"{v.name}: {v.space} {v.dtype} {'x'.join(map(str, v.shape))} at {v.addr}{ring}"


def _info_matrices(prompt: Prompt) -> Iterator[str]:
    for m in prompt.session.program.matrices.values():
        subs = sorted({t.subarray for t in m.tiles})
        where = f"sub-array{'s' if len(subs) > 1 else ''} {', '.join(map(str, subs[:6]))}{', ...' if len(subs) > 6 else ''}"
        yield f"{m.name}: {m.kind} {m.array} {m.k}x{m.n}, {'trainable' if m.trainable else 'frozen'}, {where}"


def _info_history(prompt: Prompt) -> Iterator[str]:
    h = prompt.session.history
    yield f"{len(h.checkpoints)} checkpoints, {h.checkpoints.bytes / 1e6:.1f} MB of at most {h.checkpoints.limit / 1e6:.1f} MB"
    yield f"known up to time {h.known}; runs began at {', '.join(map(str, h.starts[:12]))}{', ...' if len(h.starts) > 12 else ''}"


_TOPICS: dict[str, Callable[[Prompt], Iterable[str]]] = {
    "breakpoints": _info_points,
    "registers": _info_registers,
    "run": _info_run,
    "last": _info_last,
    "entries": lambda p: [f"{n}: instruction {at}" for n, at in p.session.program.entries.items()],
    "nodes": lambda p: [f"{n}: instruction {pcs[0]}" for n, pcs in nodes_of(p.session.program).items()],
    "views": _info_views,
    "matrices": _info_matrices,
    "history": _info_history,
}


# -------------------------------------------------------------------------------------------------------------------- other


@_command("Looking", "against", "WHAT")
def _against(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop where the run first differs from WHAT: onnxruntime, an engine, another program of the same network, a machine, a recorded run."""
    if not text:
        raise SasError("against what?", hint="against bitserial, against onnxruntime, against FILE")
    if prompt.compare is None:
        raise SasError("there is nothing to compare with here")
    return difference_lines(prompt.session, text, prompt.compare(text))


@_command("Other", "set", "PLACE = EXPRESSION")
def _set(prompt: Prompt, text: str) -> Iterable[str]:
    """Change a register, an element, a weight, here and now. It becomes a part of history; what came after is forgotten."""
    place, equals, value = re.sub(r"^var\s+", "", text).partition("=")
    if not equals or not place.strip() or value.startswith("="):
        raise SasError("set takes a place and a value", hint="set VIEW[0, 1, 2] = 5")
    prompt.session.set(place.strip(), prompt.session.value(value))
    return []


@_command("Other", "source", "FILE")
def _source(prompt: Prompt, text: str) -> Iterable[str]:
    """Execute the commands in a file."""
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SasError(f"cannot read {text}: {getattr(exc, 'strerror', None) or 'this is no text'}") from None
    prompt.run(lines)
    return []


@_command("Other", "echo", "TEXT")
def _echo(prompt: Prompt, text: str) -> Iterable[str]:
    """Print a text."""
    return [text]


@_command("Other", "help h", "[COMMAND]")
def _help(prompt: Prompt, text: str) -> Iterator[str]:
    """The commands, or one of them."""
    if text:
        c = prompt.command(text)
        yield f"{', '.join(c.names)} {c.arguments}".rstrip()
        yield f"    {c.doc}"
        if c.names[0] in ("break", "tbreak"):
            yield f"    WHERE is one of {KINDS}."
        return
    group = ""
    for c in COMMANDS.values():
        if c.group != group:
            group = c.group
            yield f"{group}:"
        yield f"  {', '.join(c.names[:2]):24} {c.doc.split('. ')[0].rstrip('.')}"


@_command("Other", "quit q exit")
def _quit(prompt: Prompt, text: str) -> Iterable[str]:
    """Leave."""
    prompt.quit = True
    return []
