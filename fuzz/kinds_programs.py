"""What reads programs: assembly, the binary form, its kept form beside a text. What assembles also runs, on guarded memories.

Mutated descriptors and operands (addresses, strides, shapes, loop counts, tiles, tables) come through the binary form with right checksums: only
the checks of operands stand between them and the kernels.
"""

from __future__ import annotations

import contextlib
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import guarded
from harness import Kind
from mutate import INTEGERS, mutated, mutated_object, mutated_text, odd

from sasimc.isa import cache as kept
from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.analysis.lint import lint
from sasimc.isa.binary import container
from sasimc.isa.binary.container import decode_program, encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.isa.machine import load_machine
from sasimc.isa.program import Program
from sasimc.isa.text.assembler import assemble, assemble_source
from sasimc.isa.text.printer import format_program
from sasimc.runtime.asmtest import failures
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernel import every
from sasimc.runtime.warmup import warm_up

__all__ = ["KINDS", "texts"]

_ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = 2000
CYCLES = 100_000_000
"""Of the machine, for an entry: a program may ask for hours of work, and that is no find."""


def texts() -> list[bytes]:
    texts = [p.read_bytes() for p in sorted((_ROOT / "tests" / "asm").glob("*.s"))]
    return [*texts, (_ROOT / "examples" / "two_layer.s").read_bytes()]


@cache
def _compiled() -> tuple[Program, ...]:
    import models

    from sasimc.api import CompileOptions, compile_model

    options = CompileOptions(batch=2, machine=_ROOT / "examples" / "tiny_machine.toml")
    made = [compile_model(m, options).program for m in (models.mlp(), models.random_graph(28), models.plain_cnn(size=6))]
    return tuple(replace(p, inline=frozenset(p.tensors), weights_file="", digest="") for p in made)


def _programs() -> list[bytes]:
    return [encode_program(p) for p in (*(assemble(t.decode()) for t in texts()), *_compiled())]


def _run(program: Program) -> None:
    """All that commands do with a program: check, estimate, print, encode, run a little of each entry."""
    lint(program)
    again = decode_program(encode_program(program))
    if again.code and [i.operands for i in again.code] != [i.operands for i in program.code]:
        raise AssertionError("the binary form gives another program")
    it = Interpreter(program, "fused", 1)
    issued = min(INSTRUCTIONS, CYCLES // _longest(program))
    for name in list(program.entries)[:4]:
        for register in program.params.values():
            it.regs[register] = 2
        with contextlib.suppress(SasError):
            estimate(program, name, dict.fromkeys(program.params, 2), 50 * INSTRUCTIONS)
        with contextlib.suppress(SasError):
            it.run(name, issued)
        _ = it.cycles, it.events


def _longest(program: Program) -> int:
    """Cycles of the longest instruction: one over all rows."""
    longest = 1
    for instruction in program.code:
        if instruction.spec.group != "control":
            operands, rows = program.resolve(instruction), instruction.spec.rows_field()
            height = getattr(operands, rows.of).height if rows else 0
            longest = max(longest, instruction.spec.cost(program.machine, operands, 0, height).cycles)
    return longest


def _assembled(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    made = assemble_source(text)
    assemble(format_program(made.program))
    for test in made.tests[:2]:
        failures(made, test)
    _run(made.program)


def _file(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        _run(load_program(folder / name))

    return read


_BINARY = _file("case.bin")


def _odd_leaf(names: Sequence[str]) -> Callable[[Any, random.Random], Any]:
    """Values of operands: other names of the program as well, and small numbers more often than large ones."""

    def leaf(value: Any, rng: random.Random) -> Any:
        if isinstance(value, str):
            return rng.choice(
                (*names, *names, value, "u8", "i8", "i16", "i32", "bit", "buf", "acc", "host", "window", "linear2", "nearest")
            )
        if type(value) is int and rng.randrange(2):
            return rng.choice(
                (value + rng.randint(-8, 8), value * rng.randint(0, 4), value // 2, rng.randrange(65), rng.choice(INTEGERS))
            )
        return odd(value, rng)

    return leaf


def _change_program(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to three changed leaves of descriptors, operands, entries or tensors, under right checksums."""
    try:
        program = decode_program(data)
    except Exception:
        program = decode_program(rng.choice(others))
    pools = [
        n
        for n in ("views", "views", "geometries", "matrices", "tables", "code", "code", "entries", "params", "machine")
        if getattr(program, n)
    ]
    names = [*program.views, *program.matrices, *program.geometries, *program.tables]
    for _ in range(rng.randint(1, 3)):
        pool = rng.choice(pools)
        if pool == "code":
            code = list(program.code)
            at = rng.randrange(len(code))
            how = rng.randrange(8)
            if how == 0:
                del code[at]
            elif how == 1:
                code.insert(rng.randrange(len(code)), code[at])
            elif how == 2:
                code[at] = replace(code[at], spec=rng.choice(code).spec)
            else:
                code[at] = replace(code[at], operands=mutated_object(code[at].operands, rng, _odd_leaf(names)))
            program = replace(program, code=tuple(code))
        elif pool == "machine":
            changed = mutated_object(program.machine.model_dump(mode="json"), rng)
            try:
                program = replace(program, machine=type(program.machine).model_validate(changed))
            except ValueError:
                continue
        else:
            changed = mutated_object(getattr(program, pool), rng, _odd_leaf(names))
            if pool not in ("entries", "params"):
                changed = {name: replace(descriptor, name=name) for name, descriptor in changed.items()}
            program = replace(program, **{pool: changed})
    try:
        return encode_program(program)
    except Exception:  # values that have no place in the form
        return _change_program(data, others, rng)


def _change_section(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One section's bytes mutated, under a right checksum."""
    try:
        sections = container._sections(data, "case")
    except SasError:
        return mutated(data, others, rng)
    tag = rng.choice(list(sections))
    sections[tag] = mutated(sections[tag], [sections[tag]], rng)
    table = b"".join(struct.pack("<4sII", t.encode(), len(s), zlib.crc32(s)) for t, s in sections.items())
    return data[: len(container.MAGIC) + 4] + table + b"".join(sections.values())


def _kept_text() -> bytes:
    text = format_program(_compiled()[1])
    return text.encode() + b";" * max(0, kept.SHORTEST - len(text))


def _kept(data: bytes, folder: Path) -> None:
    """The bytes behind the head of the kept form, under the right key and checksum."""
    text, path = _kept_text(), folder / "case.s"
    path.write_bytes(text)
    size = min(len(data), struct.unpack("<I", data[:4].ljust(4, b"\0"))[0])
    body = data[4:]
    head = kept._HEAD.pack(kept._MAGIC, kept._key(text), zlib.crc32(body, size), size)
    kept.cache_of(path).write_bytes(head + body)
    load_program(path)


def _kept_samples() -> list[bytes]:
    text = _kept_text()
    whole = kept.pack(text, assemble(text.decode()))
    assert whole is not None
    size = kept._HEAD.unpack_from(whole)[3]
    return [struct.pack("<I", size) + whole[kept._HEAD.size :]]


def _ready() -> None:
    load_machine()
    warm_up(every("fused"))
    guarded.guard_state()


KINDS = {
    "assembly": Kind(texts, _assembled, mutated_text, _ready),
    "binary": Kind(_programs, _BINARY, _change_section, _ready),
    "operands": Kind(_programs, _BINARY, _change_program, _ready),
    "kept form": Kind(_kept_samples, _kept),
}
