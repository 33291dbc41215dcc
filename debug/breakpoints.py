"""From what a user writes to the instructions that are meant."""

from __future__ import annotations

import fnmatch
import re
from pathlib import PurePath
from typing import Final

from sasimc.isa.errors import SasError, near
from sasimc.isa.program import Program
from sasimc.isa.spec import PHASES, Choice

__all__ = ["KINDS", "locate", "nodes_of"]

KINDS: Final = "LINE, FILE:LINE, *INDEX, an entry, an ONNX node, phase NAME, step N"


def nodes_of(program: Program) -> dict[str, list[int]]:
    """ONNX nodes in the order of the program, and their instructions."""
    out: dict[str, list[int]] = {}
    for pc, instr in enumerate(program.code):
        for node in filter(None, instr.origin.node.split(",")):
            out.setdefault(node, []).append(pc)
    return out


def locate(program: Program, text: str) -> tuple[frozenset[int], int | None]:
    """Instructions that a text stands for (:data:`KINDS`), and the training step it holds for.

    A node means the first of its instructions in every stretch of them: each entry that computes it, each pass of a loop around it.

    Raises:
        SasError: nothing is there.
    """
    text = text.strip()
    if not text:
        raise SasError("where is the breakpoint?", hint=KINDS)
    if found := re.fullmatch(r"\*\s*(\d+)", text):
        return _index(program, int(found[1])), None
    if found := re.fullmatch(r"(?:(.+):)?(\d+)", text):
        if found[1] is None or PurePath(found[1]).name == PurePath(program.source).name:
            return _line(program, int(found[2])), None
        if found[1] and text not in nodes_of(program):
            raise SasError(f"there is no file {found[1]!r} here", hint=f"the program is {program.source}")
    if found := re.fullmatch(r"phase\s+(\S+)", text):
        return _phase(program, found[1]), None
    if found := re.fullmatch(r"step\s+(\d+)", text):
        if "train_step" not in program.entries or int(found[1]) < 1:
            raise SasError(f"there is no training step {found[1]}", hint="steps count from 1, in a session with --train")
        return frozenset(at for name, at in program.entries.items() if name in ("train_step", "train_first")), int(found[1])
    name = re.sub(r"^(entry|node)\s+", "", text)
    if name in program.entries and not text.startswith("node "):
        return frozenset({program.entries[name]}), None
    nodes = nodes_of(program)
    wanted = {name} & nodes.keys() or set(fnmatch.filter(nodes, name))
    if not wanted:
        known = (*program.entries, *nodes)
        raise SasError(f"there is no entry or node {name!r}", hint=near(name, known) or KINDS)
    return _node(program, wanted), None


def _index(program: Program, index: int) -> frozenset[int]:
    if index >= len(program.code):
        raise SasError(f"there is no instruction {index}", hint=f"the program has 0..{len(program.code) - 1}")
    return frozenset({index})


def _line(program: Program, line: int) -> frozenset[int]:
    """The instruction on a line, or on the next line that has one."""
    lines = sorted({instr.line for instr in program.code if instr.line})
    if not lines:
        raise SasError("this program has no source lines", hint="*INDEX or a node; `sasc disasm` writes a text program")
    at = next((n for n in lines if n >= line), None)
    if at is None:
        raise SasError(f"there is no instruction on line {line} or after it", hint=f"the last one is on line {lines[-1]}")
    return frozenset(pc for pc, instr in enumerate(program.code) if instr.line == at)


def _phase(program: Program, name: str) -> frozenset[int]:
    if name not in PHASES:
        raise SasError(f"there is no phase {name!r}", hint=near(name, PHASES) or ", ".join(PHASES))
    found = frozenset(
        pc for pc, instr in enumerate(program.code) if instr.spec.flow == "phase"
        and any(instr.operands[n] == name for n, f in enumerate(instr.spec.fields) if isinstance(f, Choice))
    )  # fmt: skip
    if not found:
        raise SasError(f"the program never sets phase {name}")
    return found


def _node(program: Program, wanted: set[str]) -> frozenset[int]:
    out, inside = set[int](), False
    for pc, instr in enumerate(program.code):
        if instr.spec.flow == "halt":
            inside = False
        elif instr.origin.node:
            here = not wanted.isdisjoint(instr.origin.node.split(","))
            if here and not inside:
                out.add(pc)
            inside = here
    return frozenset(out)
