"""Instructions from outside: a Python file that declares them, or an installed package with an entry point of group ``sasimc.isa``.

What such a file declares is a full member of the instruction set: assembler, encoder, linter, engines, cost, trace and manual know it.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import sasimc.isa.instructions  # noqa: F401  (what is declared outside comes after)
from sasimc.isa import spec
from sasimc.isa.errors import SasError
from sasimc.isa.spec import TABLE, Instruction

__all__ = ["GROUP", "declared", "find", "load_instructions", "lookup"]

GROUP = "sasimc.isa"
"""Entry points of packages that declare instructions: each names a module."""

_loaded: dict[Path, tuple[type[Instruction], ...]] = {}


def load_instructions(path: str | Path) -> tuple[type[Instruction], ...]:
    """Load a Python file and return what it declares. A file is loaded once.

    Raises:
        SasError: no such file, an error in it, a mnemonic or opcode that is taken, nothing declared.
    """
    file = Path(path).resolve()
    if file in _loaded:
        return _loaded[file]
    if not file.is_file():
        raise SasError(f"there is no file {path}", hint="--isa names a Python file that declares instructions")
    before = set(TABLE)
    name = f"sasimc_isa_{file.stem}"
    made = importlib.util.spec_from_file_location(name, file)
    if made is None or made.loader is None:
        raise SasError(f"{path} is no Python file", hint="--isa names a file that ends in .py")
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module
    try:
        made.loader.exec_module(module)
    except Exception as exc:
        spec.forget(set(TABLE) - before)
        raise SasError(f"{_place(exc, file)}: {exc}", hint="declarations: docs, Add an instruction") from None
    new = tuple(cls for mnemonic, cls in TABLE.items() if mnemonic not in before)
    if not new:
        raise SasError(f"{path} declares no instruction", hint="declare a class with opcode, mnemonic, group, kernel and cost")
    _loaded[file] = new
    return new


def _place(exc: Exception, file: Path) -> str:
    """File and line of an error in a loaded file."""
    if isinstance(exc, SyntaxError):
        return f"{exc.filename}:{exc.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if Path(frame.filename) == file]
    return f"{file}:{lines[-1]}" if lines else str(file)


def declared() -> frozenset[Path]:
    """The files loaded."""
    return frozenset(_loaded)


@cache
def _installed() -> None:
    """Load what installed packages declare."""
    for point in entry_points(group=GROUP):
        before = set(TABLE)
        try:
            point.load()
        except Exception as exc:
            spec.forget(set(TABLE) - before)
            raise SasError(f"instructions of {point.value}: {exc}", hint=f"entry point {point.name!r} of group {GROUP}") from None


def find(mnemonic: str) -> type[Instruction] | None:
    """The declaration with this mnemonic; installed packages are asked for one that is not known."""
    if mnemonic not in TABLE:
        _installed()
    return TABLE.get(mnemonic)


def lookup(opcode: int) -> type[Instruction] | None:
    """The declaration with this opcode; installed packages are asked for one that is not known."""
    if spec.lookup(opcode) is None:
        _installed()
    return spec.lookup(opcode)
