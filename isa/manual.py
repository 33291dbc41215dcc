"""The ISA manual, generated from the declarations: ``python -m sasimc.isa.manual`` writes ``docs/reference/isa.md``, ``--check`` says whether it is current."""

from __future__ import annotations

import argparse
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from sasimc.isa import instructions
from sasimc.isa.binary import container
from sasimc.isa.extend import load_instructions
from sasimc.isa.files import write_atomically
from sasimc.isa.objects import Geometry, Matrix, Table, Tile, View
from sasimc.isa.spec import (
    EVENTS,
    OPCODE_BITS,
    PHASES,
    TABLE,
    WORD_BITS,
    Choice,
    Field,
    GeomField,
    Imm,
    Instruction,
    MatField,
    Reg,
    RowsField,
    TableField,
    ViewField,
)
from sasimc.isa.text.directives import DIRECTIVES

__all__ = ["SPACES", "describe_operand", "instruction_page", "manual"]

GROUPS = {
    "control": instructions.control,
    "movement": instructions.movement,
    "array": instructions.array,
    "periphery": instructions.periphery,
}
ACCESS = {"r": "read", "w": "written", "rw": "read and written", "a": "added to", "d": "read and cleared"}
SPACES = {"buf": "buffer", "host": "host memory", "acc": "accumulators"}


def describe_operand(f: Field) -> tuple[str, str]:
    """What may stand in an operand, and what it means."""
    doc = str(getattr(f, "doc", ""))
    if isinstance(f, Reg):
        return "register" + (", written" if f.write else ""), doc
    if isinstance(f, ViewField):
        return f"view on {SPACES[f.space]}, {' or '.join(f.dtypes)}; {ACCESS[f.access]}", doc
    if isinstance(f, MatField):
        return f"matrix, {' or '.join(f.kinds)}" + ("; written" if f.write else ""), doc
    if isinstance(f, GeomField):
        return f"geometry, mode {' or '.join(f.modes)}", doc
    if isinstance(f, TableField):
        return f"table of kind {f.table}", doc
    if isinstance(f, Imm):
        return f"integer, {f.bits} bits, signed", doc
    if isinstance(f, Choice):
        return f"one of {', '.join(f.words)}", doc
    if isinstance(f, RowsField):
        return f"rows, clipped to the height of {f.of}", doc
    raise AssertionError(f"field kind {f.kind} is not documented")


def _name(f: Field) -> str:
    return f.name.rstrip("_")


def _layout(spec: type[Instruction]) -> Iterator[str]:
    """The word as a table: bits, field, contents."""
    yield "| bits | field | contents |"
    yield "|---|---|---|"
    yield f"| {OPCODE_BITS - 1}..0 | opcode | `{spec.opcode:#04x}` |"
    shift = OPCODE_BITS
    for f in spec.fields:
        kind, doc = describe_operand(f)
        yield f"| {shift + f.bits - 1}..{shift} | `{_name(f)}` | {kind}{f': {doc}' if doc else ''} |"
        shift += f.bits
    if shift < WORD_BITS:
        yield f"| {WORD_BITS - 1}..{shift} | | zero |"


def _source(function: object) -> str:
    """The body of a declaration's method, as it is executed."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()  # pyright: ignore[reportArgumentType]
    start = next(i for i, line in enumerate(lines) if line.rstrip().endswith(":") and not line.startswith("@"))
    body = [line.replace("  # fmt: skip", "") for line in lines[start + 1 :]]
    return textwrap.dedent("\n".join(body)).strip()


def instruction_page(spec: type[Instruction]) -> Iterator[str]:
    """The lines of an instruction's section, Markdown."""
    operands = ", ".join(_name(f) for f in spec.fields)
    yield f"### `{spec.mnemonic}`{f' {operands}' if operands else ''}"
    yield ""
    yield inspect.cleandoc(spec.__doc__ or "")
    yield ""
    yield from _layout(spec)
    yield ""
    if spec.legal is not Instruction.legal:
        yield from _shown("Legal unless:", spec.legal)
    if spec.operand is not Instruction.operand:
        yield from _shown("Rows and columns of what it writes into scratch rows (`operand`):", spec.operand)
    unit = getattr(spec, "unit", "")
    yield from _shown(f"Cycles and events{f' (unit: {unit})' if unit else ''}:", spec.cost)


def _shown(title: str, function: object) -> tuple[str, ...]:
    return title, "", "```python", _source(function), "```", ""


INTRODUCTION = """# The SAS instruction set

This manual is generated from the declarations in `isa/instructions/` by `python -m sasimc.isa.manual`; a test fails when it is stale.
[Writing programs](../tutorials/assembly.md) teaches the language by example, [Arithmetic](numerics.md) states the formulas.

## Machine model

A host starts the controller at an entry point; `halt` gives control back. The controller issues one instruction after the other; an
instruction is a sequence of row activations, bit steps or buffer accesses that it steps through by itself. It has scalar registers (32 bits,
two's complement, `r0` reads 0), a stack of hardware loops, and a descriptor memory with views, geometries, matrices and tables. Memories: the
global buffer (bytes), the accumulators (32-bit words that collect sums), host memory (bytes), and the cells of the sub-arrays. All sizes
are fields of the machine description (`isa/sas28.toml`).

Most instructions work on a row range `rN+offset:count`: rows `r = regs[N] + offset` to `r + count - 1`, clipped to the height of the operand
that the instruction's table names. `all` is `r0:65535`. A range that misses the operand makes the instruction a no-operation that costs its
issue. Sums are only ever added to accumulators; the instructions that drain them clear them.

Traps stop the machine: an access out of range, rows never written, sub-arrays beyond the activation limit, a sum or scaled error that leaves
32 bits, a label that is no class, loops nested too deep. A trap names the instruction, its source line and its ONNX node.
"""


def _descriptors() -> Iterator[str]:
    yield "## Descriptors"
    yield ""
    for cls in (View, Geometry, Matrix, Tile, Table):
        yield f"**{cls.__name__}.** " + " ".join(inspect.cleandoc(cls.__doc__ or "").split())
        yield ""


def _directives() -> Iterator[str]:
    yield "## Directives"
    yield ""
    yield "The grammar is `isa/text/grammar.lark`. `;` and `#` begin comments. Directives may be in any order until a section begins; then each must be in its own."
    yield ""
    yield "| directive | section | meaning |"
    yield "|---|---|---|"
    for d in DIRECTIVES.values():
        usage = d.usage.replace("|", "\\|")
        yield f"| `{usage}` | {f'`{d.section}`' if d.section else ''} | {d.doc} |"
    yield ""
    yield "Tables have these entries:"
    yield ""
    yield "| kind | integers | arrays |"
    yield "|---|---|---|"
    for kind, (ints, roles) in Table.KINDS.items():
        yield f"| `{kind}` | {', '.join(ints)} | {', '.join(roles)} |"
    yield ""


def manual() -> str:
    """The whole manual as Markdown."""
    lines = [INTRODUCTION]
    lines += _descriptors()
    lines += _directives()
    lines += ["## Encoding", ""]
    lines.append(
        f"An instruction is a word of {WORD_BITS} bits, stored little-endian: the opcode in the lowest {OPCODE_BITS} bits, then the operands"
    )
    lines.append(
        "in their order, upwards. Views, matrices, geometries and tables are indices into the descriptor memory (order of declaration)."
    )
    lines.append("A row range has 6 bits of register, 16 bits of signed offset and 16 bits of count. Unused bits are zero.")
    lines += ["", inspect.cleandoc(container.__doc__ or ""), ""]
    lines += ["## Opcodes", "", "| opcode | instruction | group | operands |", "|---|---|---|---|"]
    for spec in sorted(TABLE.values(), key=lambda s: s.opcode):
        lines.append(
            f"| `{spec.opcode:#04x}` | [`{spec.mnemonic}`](#{spec.mnemonic}) | {spec.group} | {', '.join(_name(f) for f in spec.fields)} |"
        )
    lines.append("")
    for group, module in GROUPS.items():
        lines += [f"## {group.capitalize()}", "", " ".join(inspect.cleandoc(module.__doc__ or "").split()), ""]
        for spec in TABLE.values():
            if spec.group == group:
                lines.append(f'<a id="{spec.mnemonic}"></a>')
                lines.append("")
                lines += instruction_page(spec)
    lines += [
        "## Events",
        "",
        "Every instruction counts these by its declaration; `sense_ones` and the flipped bits depend on data.",
        "",
    ]
    lines += ["| event | meaning |", "|---|---|", *(f"| `{k}` | {v} |" for k, v in EVENTS.items()), ""]
    lines += [f"Cycles and events are booked under the phase that `phase` set: {', '.join(PHASES)}.", ""]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Write or check the manual; 0 when it is current or was written, 1 when stale."""
    parser = argparse.ArgumentParser(prog="python -m sasimc.isa.manual", description=__doc__)
    parser.add_argument("--isa", action="append", default=[], metavar="FILE", help="Python file that declares more instructions")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the file is stale")
    parser.add_argument(
        "path", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "reference" / "isa.md"
    )
    options = parser.parse_args(args)
    for path in options.isa:
        load_instructions(path)
    text = manual()
    if options.check:
        current = options.path.exists() and options.path.read_text(encoding="utf-8") == text
        print(f"{options.path}: {'current' if current else 'stale; run python -m sasimc.isa.manual'}")
        return 0 if current else 1
    write_atomically(options.path, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
