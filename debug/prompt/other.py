"""Comparing, writing, scripts, help."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sasimc.debug.breakpoints import KINDS
from sasimc.debug.difference import difference_lines
from sasimc.debug.prompt.commands import COMMANDS, Prompt, command
from sasimc.isa.errors import SasError


@command("Looking", "against", "WHAT")
def _against(prompt: Prompt, text: str) -> Iterable[str]:
    """Stop where the run first differs from WHAT: onnxruntime, an engine, another program of the same network, a machine, a recorded run."""
    if not text:
        raise SasError("against what?", hint="against bitserial, against onnxruntime, against FILE")
    if prompt.compare is None:
        raise SasError("there is nothing to compare with here")
    return difference_lines(prompt.session, text, prompt.compare(text))


@command("Other", "set", "PLACE = EXPRESSION")
def _set(prompt: Prompt, text: str) -> Iterable[str]:
    """Change a register, an element, a weight, here and now. It becomes a part of history; what came after is forgotten."""
    place, equals, value = re.sub(r"^var\s+", "", text).partition("=")
    if not equals or not place.strip() or value.startswith("="):
        raise SasError("set takes a place and a value", hint="set VIEW[0, 1, 2] = 5")
    prompt.session.set(place.strip(), prompt.session.value(value))
    return []


@command("Other", "source", "FILE")
def _source(prompt: Prompt, text: str) -> Iterable[str]:
    """Execute the commands in a file."""
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SasError(f"cannot read {text}: {getattr(exc, 'strerror', None) or 'this is no text'}") from None
    prompt.run(lines)
    return []


@command("Other", "echo", "TEXT")
def _echo(prompt: Prompt, text: str) -> Iterable[str]:
    """Print a text."""
    return [text]


@command("Other", "help h", "[COMMAND]")
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


@command("Other", "quit q exit")
def _quit(prompt: Prompt, text: str) -> Iterable[str]:
    """Leave."""
    prompt.quit = True
    return []
