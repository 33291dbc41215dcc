"""`info`: the lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sasimc.debug import look, tell
from sasimc.debug.breakpoints import nodes_of
from sasimc.debug.prompt.commands import Prompt, command
from sasimc.debug.prompt.stops import where
from sasimc.debug.stops import Breakpoint
from sasimc.isa.errors import SasError, near


@command("Looking", "info i", "LIST")
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
            yield f"{p.number}: breakpoint {where(prompt, p)}; {p.hits} hits{state}"
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
