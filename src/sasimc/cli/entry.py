"""``sasrun FILE --entry NAME``: run any program, also a hand-written one, with registers and contents that the user gives."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli.common import require_suffix, require_writable
from sasimc.cli.outcome import Outcome, traced, write_outcome
from sasimc.cli.progress import progress
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError, near

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sasimc.isa.program import Program
    from sasimc.runtime.interpreter import Interpreter

__all__ = ["check_entries", "host_settings", "run_entries"]


@dataclass(frozen=True)
class _Place:
    """A register, or a view or matrix with the samples that are meant (``first`` None: all there are)."""

    text: str
    name: str
    register: int | None = None
    first: int | None = None
    last: int | None = None


def run_entries(
    path: Path,
    entries: Sequence[str],
    settings: Sequence[str],
    dumps: Sequence[str],
    bit_errors: Any,
    cross_check: int,
    outcome: Outcome,
) -> None:
    """Set, run, dump; print cycles, registers and cost.

    Raises:
        SasError: a name that the program does not have, contents that do not fit, options that exclude each other.
        Trap: the machine stopped an instruction.
    """
    from sasimc.isa.files import load_program, write_together
    from sasimc.runtime.crosscheck import cross_check as compare
    from sasimc.runtime.faults import Faults
    from sasimc.runtime.interpreter import ENGINES, Interpreter
    from sasimc.runtime.warmup import warm_up

    start = time.perf_counter()
    program = load_program(path)
    chosen = check_entries(program, entries)
    if cross_check and (outcome.trace or bit_errors.active):
        raise SasError(
            "--cross-check repeats a run on another engine, without --trace and --bit-error-rate", hint="leave them out"
        )
    wanted = {_place(program, name): Path(file) for name, file in _pairs(dumps, "--dump")}
    for file in wanted.values():
        require_suffix(file, ".npy")
    require_writable(*wanted.values(), *outcome.files)
    prepare = host_settings(program, settings)
    it = Interpreter(program, outcome.engine, outcome.threads)
    with progress("loading the kernels") as show:
        warm_up(it.datapath.codes(), show)
    prepare(it)
    it.reset_counters()
    other = None
    if cross_check:
        other = Interpreter(program, next(name for name in ENGINES if name != outcome.engine), outcome.threads)
    faults = Faults(bit_errors, it) if bit_errors.active else None
    say(f"{path} on {program.machine.name} ({program.machine.subarrays} sub-arrays), engine {outcome.engine}")
    with traced(it, outcome) as run, progress(f"running {', '.join(chosen)}"):
        for name in chosen:
            with faults.run() if faults else nullcontext():
                if other is None:
                    run(name)
                else:
                    compare(it, other, name)
    if other is not None:
        say(f"{len(chosen)} runs replayed on engine {other.engine}: identical in values, cycles and events")
    if faults:
        say(str(faults))
    made: dict[str, Any] = {
        "program": str(path), "engine": outcome.engine, "machine": program.machine.name, "entries": list(chosen), "images": 0,
        "cycles": it.cycles, "cycles_saved_by_zero_skip": it.cycles_saved, "simulated_s": it.cycles / program.machine.clock_hz,
        "events": dict(it.events), "phase_cycles": dict(it.phase_cycles), "registers": list(it.regs),
    }  # fmt: skip
    if faults:
        made["bit_errors"] = faults.summary()
    _print(it, made)
    contents = {file: _npy(_read(it, place)) for place, file in wanted.items()}
    if contents:
        write_together(contents)
        say(f"wrote {', '.join(map(str, contents))}")
    write_outcome(it, made, outcome, start)


def host_settings(program: Program, settings: Sequence[str]) -> Callable[[Interpreter], None]:
    """What ``--set`` options ask the host to do before a run.

    Raises:
        SasError: a name that the program does not have, contents that cannot be read.
    """
    values = {place: _value(text, place) for name, text in _pairs(settings, "--set") for place in [_place(program, name)]}
    return lambda it: _set(it, values)


def check_entries(program: Program, entries: Sequence[str]) -> tuple[str, ...]:
    """The entries to run: those named, else the only one. Raises SasError when there is no such entry, or a choice."""
    for name in entries:
        if name not in program.entries:
            known = tuple(program.entries)
            raise SasError(
                f"{program.source} has no entry {name!r}",
                hint=near(name, known) or f"its entries: {', '.join(known) or 'none'}",
            )
    return tuple(entries) or _only_entry(program)


def _only_entry(program: Program) -> tuple[str, ...]:
    names = tuple(program.entries)
    if len(names) != 1:
        hint = " or ".join(f"--entry {name}" for name in names) or "a line `.entry NAME` in the program"
        raise SasError(f"{program.source} has {len(names) or 'no'} entries: which one runs?", hint=hint)
    return names


def _pairs(texts: Sequence[str], option: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value):
            example = "--set r1=3 or --set VIEW=FILE.npy" if option == "--set" else "--dump VIEW=FILE.npy"
            raise SasError(f"{option} {text!r} is not NAME=VALUE", hint=example)
        yield name.strip(), value.strip()


def _place(program: Program, name: str) -> _Place:
    """What a name stands for: a register or a named one (``.param``), a view or a matrix; ``view[2]``, ``view[0:4]``: samples of a host view."""
    register = program.params.get(name) if not re.fullmatch(r"r\d+", name) else int(name[1:])
    if register is not None:
        count = program.machine.controller.registers
        if not 0 < register < count:
            raise SasError(f"{name} cannot be set or dumped", hint=f"registers are r1 to r{count - 1}; r0 is 0")
        return _Place(name, name, register)
    found = re.fullmatch(r"(.+?)(?:\[(\d+)(?::(\d+))?\])?", name)
    assert found is not None
    base, first, last = found.groups()
    if base not in program.views and base not in program.matrices:
        known = (*program.params, *program.views, *program.matrices)
        raise SasError(
            f"the program has no register, view or matrix {base!r}", hint=near(base, known) or f"it has: {', '.join(known)}"
        )
    batched = base in program.views and program.views[base].space == "host" and program.views[base].batch
    if first is None:
        return _Place(name, base)
    if not batched:
        raise SasError(f"{base} holds one sample: {name} has no meaning", hint=f"write {base}")
    start, end = int(first), int(last) if last else int(first) + 1
    if end <= start:
        raise SasError(f"{name} holds no sample", hint=f"{base}[{start}:{start + 1}] is sample {start}")
    return _Place(name, base, None, start, end)


def _value(text: str, place: _Place) -> npt.NDArray[np.integer] | int:
    """A number for a register; numbers or an ``.npy`` file for a view or a matrix."""
    import numpy as np

    if place.register is not None:
        if not re.fullmatch(r"[+-]?(\d+|0x[0-9a-fA-F]+)", text) or not -(1 << 31) <= int(text, 0) < 1 << 31:
            raise SasError(f"--set {place.text}={text}: a register holds a whole number of 32 bits", hint=f"--set {place.text}=3")
        return int(text, 0)
    if re.fullmatch(r"[-+\d, ]+", text):
        try:
            return np.array([int(part) for part in text.split(",")], np.int64)
        except ValueError:
            raise SasError(f"--set {place.text}={text}: numbers are separated by commas") from None
    try:
        array = np.load(text, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        reason = getattr(exc, "strerror", None) or "this is no .npy file"
        raise SasError(
            f"cannot read {text}: {reason}", hint=f"--set {place.text}=FILE.npy (numpy.save writes it), or numbers"
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iub":
        raise SasError(f"{text} holds no whole numbers", hint="convert the array, for instance with .astype(numpy.int8)")
    return array


def _set(it: Interpreter, values: Mapping[_Place, npt.NDArray[np.integer] | int]) -> None:
    for place, value in values.items():
        if place.register is not None:
            it.regs[place.register] = int(value)
    for place, value in values.items():
        if isinstance(value, int):
            continue
        if place.name in it.program.matrices:
            it.write_matrix(place.name, value)
            continue
        size = 1
        for n in it.program.views[place.name].shape:
            size *= n
        first = place.first or 0
        count = place.last - first if place.last is not None else max(1, value.size // size)
        samples = len(_samples(it, place)) if place.last is None else count
        if value.size != count * size or (count > 1 and not it.program.views[place.name].batch):
            raise SasError(
                f"{place.text} takes {samples} x {size} elements, the array has {value.size}", hint=_shape_hint(it, place)
            )
        for n, part in enumerate(value.reshape(count, size)):
            it.write_view(place.name, part, first + n)


def _shape_hint(it: Interpreter, place: _Place) -> str:
    return f"a sample of {place.name} is {list(it.program.views[place.name].shape)} [height, width, channels]"


def _samples(it: Interpreter, place: _Place) -> range:
    """The samples of a view that are meant: those named, else as many as the program's register ``batch`` says, else the first."""
    if place.first is not None and place.last is not None:
        return range(place.first, place.last)
    batched = it.program.views[place.name].space == "host" and it.program.views[place.name].batch
    count = it.regs[it.program.params["batch"]] if batched and "batch" in it.program.params else 1
    return range(max(1, count))


def _read(it: Interpreter, place: _Place) -> npt.NDArray[Any]:
    import numpy as np

    if place.register is not None:
        return np.array(it.regs[place.register], np.int32)
    if place.name in it.program.matrices:
        return it.read_matrix(place.name)
    parts = [it.read_view(place.name, n) for n in _samples(it, place)]
    return parts[0] if len(parts) == 1 and place.first is None else np.stack(parts)


def _npy(array: npt.NDArray[Any]) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _print(it: Interpreter, made: Mapping[str, Any]) -> None:
    """Cycles, what is not zero of phases, events and registers."""
    from sasimc.evaluation.table import Table

    clock = it.machine.clock_hz
    say(f"{it.cycles} cycles = {it.cycles / clock * 1e6:.3g} us at {clock / 1e6:g} MHz")
    phases = ", ".join(f"{name} {n}" for name, n in made["phase_cycles"].items() if n)
    if phases:
        say(f"cycles by phase: {phases}")
    named = {register: name for name, register in it.program.params.items()}
    registers = ", ".join(f"r{i}{f' ({named[i]})' if i in named else ''} = {value}" for i, value in enumerate(it.regs) if value)
    say(f"registers: {registers or 'all 0'}")
    print_tables(Table("events", ("event", "count"), [(name, str(n)) for name, n in made["events"].items() if n]))
