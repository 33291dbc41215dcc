"""Commands for breakpoints and watchpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sasimc.debug import tell
from sasimc.debug.prompt.commands import Prompt, command
from sasimc.debug.stops import Breakpoint, Watchpoint
from sasimc.isa.errors import SasError


def _condition(text: str) -> tuple[str, str]:
    place, _, condition = re.sub(r"\s+", " ", text).partition(" if ")
    return place.strip(), condition.strip()


def _break(prompt: Prompt, text: str, temporary: bool) -> Iterator[str]:
    place, condition = _condition(text)
    if place == "trap":
        yield "a trap always stops"
        return
    if not place and prompt.session.pc is not None:
        place = f"*{prompt.session.pc}"
    b = prompt.session.add_breakpoint(place, condition, temporary=temporary)
    yield f"{'temporary ' if temporary else ''}breakpoint {b.number}, {where(prompt, b)}"


def where(prompt: Prompt, b: Breakpoint) -> str:
    """The place of a breakpoint, as lists show it."""
    count = len(b.pcs)
    first = tell.code_line(prompt.session.program, min(b.pcs), "", 0).strip()
    return f"{b.text}{f' if {b.condition}' if b.condition else ''}: {first}" + (f" and {count - 1} more" if count > 1 else "")


@command("Stops", "break b", "[WHERE] [if CONDITION]")
def _break_(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop before an instruction. WHERE: LINE, FILE:LINE, *INDEX, an entry, an ONNX node (also a pattern), phase NAME, step N; default: here."""
    return _break(prompt, text, False)


@command("Stops", "tbreak tb", "[WHERE] [if CONDITION]")
def _tbreak(prompt: Prompt, text: str) -> Iterable[str]:
    """As break, once."""
    return _break(prompt, text, True)


def _watch(prompt: Prompt, text: str, when: str) -> Iterator[str]:
    place, condition = _condition(text)
    w = prompt.session.add_watchpoint(place, when, condition)
    count = len(w.pcs)
    yield f"watchpoint {w.number}, {when} of {w.text}: {count} instruction{'' if count == 1 else 's'} may touch it"


@command("Stops", "watch", "PLACE [if CONDITION]")
def _watch_change(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place changes: VIEW[0, 1, 2], MATRIX[4, 7], r3, acc[17], buf[100:104], host[0:4], cell[SUB, LINE], cell[SUB, LINE, COLUMN]."""
    return _watch(prompt, text, "change")


@command("Stops", "wwatch", "PLACE [if CONDITION]")
def _watch_write(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place is written, also with the value it has."""
    return _watch(prompt, text, "write")


@command("Stops", "rwatch", "PLACE [if CONDITION]")
def _watch_read(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place is read."""
    return _watch(prompt, text, "read")


@command("Stops", "awatch", "PLACE [if CONDITION]")
def _watch_access(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop when a place is read or written."""
    return _watch(prompt, text, "access")


def _points(prompt: Prompt, text: str) -> list[Breakpoint | Watchpoint]:
    words = text.split()
    if not all(w.isdecimal() for w in words):
        raise SasError(f"{text!r} is no number of a breakpoint or watchpoint", hint="info breakpoints lists them")
    return [prompt.session.point(int(w)) for w in words] if words else list(prompt.session.points.values())


@command("Stops", "delete d", "[NUMBER...]")
def _delete(prompt: Prompt, text: str) -> Iterable[str]:
    """Forget breakpoints and watchpoints; default: all."""
    for p in _points(prompt, text):
        prompt.session.delete(p.number)
    return []


@command("Stops", "enable", "[NUMBER...]")
def _enable(prompt: Prompt, text: str) -> Iterable[str]:
    """Let breakpoints and watchpoints stop again."""
    for p in _points(prompt, text):
        p.enabled = True
    return []


@command("Stops", "disable", "[NUMBER...]")
def _disable(prompt: Prompt, text: str) -> Iterable[str]:
    """Keep breakpoints and watchpoints, but let them not stop."""
    for p in _points(prompt, text):
        p.enabled = False
    return []


@command("Stops", "ignore", "NUMBER TIMES")
def _ignore(prompt: Prompt, text: str) -> Iterable[str]:
    """Pass a breakpoint or watchpoint so many times (going forward)."""
    words = text.split()
    if len(words) != 2 or not words[1].isdecimal():
        raise SasError("ignore takes a number and how often", hint="ignore 1 10")
    _points(prompt, words[0])[0].ignore = int(words[1])
    return []


@command("Stops", "condition", "NUMBER [CONDITION]")
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
