"""From what is asked for to a debugging session: for the prompt, the adapter, and every other face of the debugger."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli.progress import progress
from sasimc.isa.errors import SasError, near

if TYPE_CHECKING:
    from sasimc.debug.difference import FirstDifference
    from sasimc.debug.session import Session
    from sasimc.isa.program import Program

__all__ = ["LAUNCH", "Launch", "compare", "launch_of", "open_session"]


@dataclass(frozen=True)
class Launch:
    """What is debugged: images (``inputs``), a training (``train``, from step ``at_step`` on) or entry points of a program (None: the embedded
    network); ``settings``: what the host sets before. ``history``: bytes that checkpoints may take. The rest as of `sasrun`; ``recipe_changes``: fields."""

    program: Path | Program | None = None
    inputs: tuple[Path, ...] = ()
    train: str | None = None
    at_step: int = 1
    entries: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    engine: str = "bitserial"
    threads: int | None = None
    history: int = 256 << 20
    data: Path | None = None
    recipe: str | None = None
    recipe_changes: Mapping[str, Any] = field(default_factory=dict)
    image: Path | None = None
    task: str | None = None
    technology: str = "sas"


LAUNCH: Mapping[str, tuple[str, type]] = {
    "program": ("program", Path), "input": ("inputs", Path), "train": ("train", str), "atStep": ("at_step", int), "entry": ("entries", str),
    "set": ("settings", str), "engine": ("engine", str), "threads": ("threads", int), "history": ("history", int), "data": ("data", Path),
    "recipe": ("recipe", str), "image": ("image", Path), "task": ("task", str), "technology": ("technology", str),
}  # fmt: skip
"""Arguments of an editor's `launch` request -> field of :class:`Launch` and type."""


def launch_of(arguments: Mapping[str, Any], default: Launch) -> Launch:
    """From the arguments of an editor's `launch` request: names of :class:`Launch` in camel case, lists where it has several; ``history`` in megabytes.

    Raises:
        SasError: a value of another kind.
    """
    values: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in LAUNCH:
            continue
        name, kind = LAUNCH[key]
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int if kind is int else str) for item in items) or not items:
            raise SasError(f"launch: {key!r} is {value!r}", hint="a path or name, a number, or a list of these")
        made = tuple(kind(item) for item in items)
        values[name] = made if name in ("inputs", "entries", "settings") else made[0]
    if "history" in values:
        values["history"] *= 1_000_000
    return replace(default, **values)


def open_session(o: Launch) -> Session:
    """Load everything and stand before the first instruction, or that of the training step that was asked for.

    Raises:
        SasError: what cannot be loaded or does not fit together.
    """
    from sasimc.costs import joules_of, price_list
    from sasimc.debug.session import Session

    if sum((bool(o.inputs), bool(o.train), bool(o.entries or o.settings))) > 1:
        raise SasError("--input, --train and --entry exclude each other", hint="one of them")
    prices = price_list(o.technology)
    machine, runs = _of_entries(o) if not (o.inputs or o.train) else _of_session(o)
    session = Session(machine, runs, history=o.history, price=joules_of(machine.program, prices))
    if o.at_step > 1:
        with progress(f"running to training step {o.at_step}"):
            b = session.add_breakpoint(f"step {o.at_step}", temporary=True)
            stop = session.resume()
        if not stop.breakpoints:
            session.points.pop(b.number, None)
            raise SasError(f"there is no training step {o.at_step}", hint=f"the training has {len(session.history.starts)} steps")
    return session


def compare(session: Session, other: str, model: Path | None) -> FirstDifference | None:
    """The first difference of a session's run from another: ``onnxruntime`` (on ``model``), an engine, a program (.s, .bin), a machine that ``model`` is
    compiled for (a name or .toml), or a record of a run. The session then stands where it is.

    Raises:
        SasError: nothing of that name, or what cannot be compared.
    """
    from sasimc.debug import difference
    from sasimc.isa.files import load_program
    from sasimc.isa.machine import shipped_machines
    from sasimc.runtime.interpreter import ENGINES

    if other in ENGINES:
        return difference.against_engine(session, other)
    machine = other in shipped_machines() or other.endswith(".toml")
    if other == "onnxruntime" or machine:
        if model is None:
            raise SasError(f"--against {other} needs the network", hint="--model model.onnx")
        if not machine:
            return difference.against_model(session, model)
        from sasimc.api import compile_model
        from sasimc.options import CompileOptions

        with progress(f"compiling for {other}"):
            program = compile_model(
                model, CompileOptions(machine=other, inference_only="train_step" not in session.program.entries)
            ).program
        return difference.against_program(session, program, other)
    path = Path(other)
    if not path.exists():
        words = ("onnxruntime", *ENGINES, *shipped_machines())
        raise SasError(
            f"there is nothing to compare with: {other!r}",
            hint=near(other, words) or f"{', '.join(words)}, a program, or a record",
        )
    if path.suffix in (".s", ".bin"):
        return difference.against_program(session, load_program(path), path.name)
    return difference.against_record(session, path)


def _program(o: Launch) -> Any:
    from sasimc.cli.sasrun import embedded

    return embedded(o.recipe) if o.program is None else o.program


def _of_entries(o: Launch) -> tuple[Any, Any]:
    from sasimc.cli.entry import check_entries, host_settings
    from sasimc.debug.runs import entries
    from sasimc.isa.files import load_program
    from sasimc.runtime.interpreter import Interpreter
    from sasimc.runtime.warmup import warm_up
    from sasimc.training.recipe import load_recipe
    from sasimc.training.session_options import check_made_with

    program = _program(o)
    if isinstance(program, Path):
        program = load_program(program)
    if o.recipe:
        check_made_with(load_recipe(o.recipe), o.recipe, program)
    if not o.entries and "io" in program.meta and len(program.entries) > 1:
        raise SasError("what is to be run?", hint="--input IMAGE, --train DATASET or --entry NAME")
    if o.image is not None:
        raise SasError("--image needs --input or --train", hint="an entry point runs on the program's own weights")
    names, prepare = check_entries(program, o.entries), host_settings(program, o.settings)
    it = Interpreter(program, o.engine, o.threads)
    with progress("loading the kernels") as show:
        warm_up(it.datapath.codes(), show)
    return it, entries(*names, prepare=prepare)


def _of_session(o: Launch) -> tuple[Any, Any]:
    """Images or a training, with everything `sasrun` does before them. A device image is used as a copy: nothing is written to it."""
    from rich.console import Console

    from sasimc.datasets.inputs import read_input
    from sasimc.debug.runs import images, training
    from sasimc.training.session import Session as Sasrun
    from sasimc.training.session import SessionOptions

    if o.at_step > 1 and not o.train:
        raise SasError("--at-step holds for a training", hint="--train DATASET --at-step 3")
    with tempfile.TemporaryDirectory(prefix="sasdbg-") as folder:
        image = None if o.image is None else Path(folder) / o.image.name
        if o.image is not None and image is not None:
            try:
                shutil.copyfile(o.image, image)
            except OSError as exc:
                raise SasError(f"cannot read {o.image}: {exc.strerror}") from None
        options = SessionOptions(
            program=_program(o), what="" if o.program else "the embedded MobileNet-V2 + Rep-Net", inputs=o.inputs, train=o.train, data=o.data,
            engine=o.engine, threads=o.threads, recipe=o.recipe, changes=o.recipe_changes, image=image, task=o.task,
        )  # fmt: skip
        run = Sasrun(options, Console(stderr=True, width=160))
        device = run.device
        try:
            if o.train:
                assert run.data is not None
                assert run.data.training is not None
                return device, training(device, run.data.training, run.recipe)
            examples = [e for path in o.inputs for e in read_input(path, device.input)]
            return device, images(device, examples)
        finally:
            run.close()
