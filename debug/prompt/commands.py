"""The prompt itself, and how a command is declared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sasimc.debug import tell
from sasimc.debug.difference import FirstDifference
from sasimc.debug.session import Session
from sasimc.debug.stops import Stop
from sasimc.isa.errors import SasError, near

__all__ = ["COMMANDS", "Command", "Prompt", "command", "command_table"]


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


def command(group: str, names: str, arguments: str = "") -> Callable[[Callable[[Prompt, str], Iterable[str]]], None]:
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
        value = self.session.number(text)
        if value < 1:
            raise SasError(f"{text!r} is no number of times")
        return value
