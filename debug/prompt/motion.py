"""Commands that move the machine: forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sasimc.debug import microscope, tell
from sasimc.debug.prompt.commands import Prompt, command
from sasimc.debug.session import Session
from sasimc.debug.stops import Stop
from sasimc.isa.errors import SasError


def _around(prompt: Prompt, backwards: bool, text: str, do: Callable[[Session], Stop]) -> Iterator[str]:
    stop = None
    for _ in range(prompt.count(text)):
        stop = do(prompt.session)
        if stop.reason in ("end", "beginning", "trap", "interrupted"):
            break
    assert stop is not None
    yield from prompt.stopped(stop)


@command("Forwards", "run r")
def _run(prompt: Prompt, text: str) -> Iterable[str]:
    """Begin again, and run to the first stop."""
    prompt.session.restart()
    return prompt.stopped(prompt.session.resume())


@command("Forwards", "continue c", "[TIMES]")
def _continue(prompt: Prompt, text: str) -> Iterable[str]:
    """Run to the next stop; TIMES: to the so many-th."""
    return _around(prompt, False, text, lambda s: s.resume())


@command("Forwards", "step s stepi si", "[TIMES]")
def _step(prompt: Prompt, text: str) -> Iterable[str]:
    """Execute one instruction, or so many."""
    return prompt.stopped(prompt.session.step(prompt.count(text)))


@command("Forwards", "next n nexti ni", "[TIMES]")
def _next(prompt: Prompt, text: str) -> Iterable[str]:
    """Execute one instruction; a hardware loop is executed whole."""
    return _around(prompt, False, text, lambda s: s.over())


@command("Forwards", "finish fin", "[TIMES]")
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


@command("Forwards", "bit")
def _bit(prompt: Prompt, text: str) -> Iterable[str]:
    """Watch one input bit of the array product here: sense amplifiers, shift-and-add, at the end of a wave the adder tree. The last one executes it."""
    return _through(prompt, False)


@command("Forwards", "activation act")
def _activation(prompt: Prompt, text: str) -> Iterable[str]:
    """Watch one word-line activation of the array product here, all of its input bits."""
    return _through(prompt, True)


@command("Forwards", "row")
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


@command("Forwards", "goto", "TIME")
def _goto(prompt: Prompt, text: str) -> Iterable[str]:
    """Go to an instant, in either direction, without stopping on the way."""
    if not text:
        raise SasError("goto needs an instant", hint="goto 1200; every stop says its time")
    return prompt.stopped(prompt.session.goto(prompt.session.number(text)))


@command("Backwards", "reverse-continue rc", "[TIMES]")
def _reverse_continue(prompt: Prompt, text: str) -> Iterable[str]:
    """Run back to the last stop; a watched write is then the next instruction."""
    return _around(prompt, True, text, lambda s: s.resume(backwards=True))


@command("Backwards", "reverse-step rs reverse-stepi rsi", "[TIMES]")
def _reverse_step(prompt: Prompt, text: str) -> Iterable[str]:
    """Take one instruction back, or so many."""
    return prompt.stopped(prompt.session.step(prompt.count(text), backwards=True))


@command("Backwards", "reverse-next rn reverse-nexti rni", "[TIMES]")
def _reverse_next(prompt: Prompt, text: str) -> Iterable[str]:
    """Take one instruction back; a hardware loop is taken back whole."""
    return _around(prompt, True, text, lambda s: s.over(backwards=True))


@command("Backwards", "reverse-finish rfin", "[TIMES]")
def _reverse_finish(prompt: Prompt, text: str) -> Iterable[str]:
    """Run back to where the innermost hardware loop, or the run, began."""
    return _around(prompt, True, text, lambda s: s.out(backwards=True))


@command("Backwards", "who", "PLACE")
def _who(prompt: Prompt, text: str) -> Iterable[str]:
    """Who wrote a place last: the instruction, when, and the values around it. `goto` its time to stand before it."""
    hit = prompt.session.last_write(text)
    if hit is None:
        return [f"{text} was not written since the beginning"]
    return tell.hit_lines(prompt.session.program, hit)
