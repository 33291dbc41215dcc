"""What reads a user's words while a program stands still: scripts of the debugger, texts under an editor's hands."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness import Kind
from kinds_programs import texts
from mutate import INTEGERS, mutated_text

from sasimc.debug.prompt import COMMANDS, Prompt
from sasimc.debug.runs import entries
from sasimc.debug.session import Session
from sasimc.isa.errors import SasError
from sasimc.isa.text.assembler import assemble

__all__ = ["KINDS"]

_OBJECTS = ("x", "y[0]", "z[0, 0, 0]", "a", "w", "in", "out", "g", "r1", "r2", "acc", "buf[0:8]", "cell[3, 2]", "host[0:4]", "cycles", "energy", "pc",
            "main", "conv", "@3", "1", "-1", "r2 == 1", "max(a)", "sum(x) / 0", "x[1:3, ::2, -1]", "if r1", "phase update", "2 ** 70", "~r1", "abs(y - z)",
            "not x", "w[0:2, 0:3]", "bitserial", "/x", "/b", "2:4", "step 2", "", "((((", "[", "'", "\\", "0x", "é")  # fmt: skip


def _scripts() -> list[bytes]:
    good = (
        "break conv if r2 == 1\nc\ndisplay r3\nwhere\nlist\nprint/x x[0, 0, 0]\np max(a)\ntensor y\nstripes z\narray 3\narray/b 3 2:4\nbit\nrow\n",
        "tbreak phase update\nc\ninfo run\ninfo last\ninfo history\nrs 3\nrn\nrfin\nrc\ngoto 12\ns\nn 2\nwho x[0, 0, 0]\nset x[0, 0, 0] = 7\nrun\n",
        "watch z[0, 0, 0]\nrwatch r3\nawatch buf[0:4]\nwwatch cell[3, 2]\nc\nc\ndisable 3\nenable 3\nignore 1 1\ncondition 1 r3 == 2\nc\nactivation\n",
        "until 20\nfinish\nset r2 = 3\nset buf[0] = 1\nundisplay 1\nhelp break\ninfo nodes\ninfo registers\nagainst bitserial\nquit\n",
    )
    return [text.encode() for text in good]


@cache
def _program() -> Any:
    from debug_rings import RINGS

    return assemble(RINGS)


def _debugged(data: bytes, folder: Path) -> None:
    """A script: an error ends a line, not the session, as at the prompt."""
    session = Session(_program(), entries("main"), engine="fused", threads=1)
    said: list[str] = []
    prompt = Prompt(session, said.append)
    for line in data.decode("utf-8", "replace").splitlines()[:30]:
        with contextlib.suppress(SasError):
            prompt.run([line])
        if prompt.quit:
            break
    session.position.__repr__()


def _change_script(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.randrange(3) == 0:
        return mutated_text(data, others, rng)
    lines = data.decode("utf-8", "replace").split("\n")[:40]
    words = [n for c in COMMANDS.values() for n in c.names if n not in ("source", "against")]
    for _ in range(rng.randint(1, 6)):
        line = " ".join((rng.choice(words), *rng.choices((*_OBJECTS, str(rng.choice(INTEGERS))), k=rng.randrange(4))))
        at = rng.randrange(len(lines) + 1)
        lines[at : at + rng.randrange(2)] = [line]
    return "\n".join(lines).encode("utf-8", "replace")


def _edited(data: bytes, folder: Path) -> None:
    """A text is opened, asked about everywhere, changed while its facts are old, asked again."""
    from lsprotocol import types

    from sasimc.lsp import complete, edits, hover, navigate, paint
    from sasimc.lsp.document import Document
    from sasimc.lsp.facts import Facts, gather

    text, rng = data.decode("utf-8", "replace"), random.Random(zlib.crc32(data))
    document, facts, uri = Document(rng.choice(("utf-8", "utf-16", "utf-32"))), Facts(), "file:///p.s"
    for version in range(3):
        document.update(text)
        if version == 1:
            facts = gather(text, folder / "p.s")
        lines = document.lines
        where = [
            types.Position(n := rng.randrange(len(lines) + 1), rng.randrange(len(lines[n] if n < len(lines) else "") + 3))
            for _ in range(12)
        ]
        for position in where:
            hover.hover(document, facts, position)
            complete.complete(document, position)
            complete.signature(document, position)
            navigate.definition(document, uri, position)
            navigate.references(document, uri, position)
            navigate.highlights(document, position)
            navigate.renameable(document, position)
            with contextlib.suppress(ValueError):
                navigate.rename(document, uri, position, rng.choice(("a", "r3", "", "a b", "é", '"', "\n", "all")))
        navigate.symbols(document)
        navigate.folding(document)
        paint.tokens(document, 1, len(lines))
        first = rng.randrange(len(lines) + 2)
        paint.tokens(document, first, first + rng.randrange(40))
        paint.hints(document, facts, 1, len(lines) + 1)
        edits.formatting(document)
        found = [
            (
                types.Diagnostic(
                    document.range(d.span.line, d.span.column, d.span.width) if d.span else document.range(1, 1, 1), d.message
                ),
                d,
            )
            for d in facts.diagnostics
        ]
        list(edits.fixes(document, uri, found))
        text = mutated_text(text.encode("utf-8", "replace"), [data], rng).decode("utf-8", "replace")


KINDS = {"debugger": Kind(_scripts, _debugged, _change_script), "editor": Kind(texts, _edited, mutated_text)}
