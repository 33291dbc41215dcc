"""``sasrun``: classify images, train and evaluate a compiled program on the simulated device."""

from __future__ import annotations

import importlib
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sasimc.cli.common import console, require_writable, run_app, write_json
from sasimc.cli.sasrun_data import app as data_app
from sasimc.isa.errors import SasError

__all__ = ["COMMANDS", "app", "data_app", "dispatch", "main"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

COMMANDS: Final[Mapping[str, str]] = {
    "data": "sasimc.cli.sasrun_data",
    "table1": "sasimc.cli.sasrun_table1",
    "tasks": "sasimc.cli.sasrun_tasks",
}
"""Sub-command -> module whose ``app`` it is, imported when it is used; everything else is ``sasrun [PROGRAM]``."""


@app.command()
def run(
    program: Annotated[
        Path | None, typer.Argument(help="Program (.s or .bin); default: the embedded small network, compiled now")
    ] = None,
    input: Annotated[list[Path] | None, typer.Option("--input", help="Image to classify (may be given more than once)")] = None,
    train: Annotated[str | None, typer.Option(help="Data set to train on: a name (see `sasrun data`) or a path")] = None,
    evaluate: Annotated[str | None, typer.Option("--eval", help="Data set to evaluate on (its test split)")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of data sets; default: SASIMC_DATA")] = None,
    engine: Annotated[str, typer.Option(help="bitserial, fused or step")] = "bitserial",
    threads: Annotated[int | None, typer.Option(help="Worker threads; default: all cores")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe of the training: a TOML file or a shipped one's name; the options below override it"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training (10)")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, up to what the program was compiled for (as many)")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of image order and augmentation (0)")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many epochs without a better validation accuracy (0: never)")
    ] = None,
    head_exponent: Annotated[
        str | None, typer.Option(help="Update magnitude of the classifier, FIRST:LAST[:cosine] (4:0)")
    ] = None,
    module_exponent: Annotated[
        str | None, typer.Option(help="Update magnitude of the modules, FIRST:LAST[:cosine] (2:-2)")
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Random crops and flips in training (as the recipe says)")
    ] = None,
    freeze: Annotated[str, typer.Option(help="Trainable layers that stay as they are: patterns, comma-separated")] = "",
    device: Annotated[
        Path | None, typer.Option(help="Device image (.sas): weights, wear and tasks are kept in it (docs/tasks.md)")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task of the device image to learn or use; default: the data set's name")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished training in the device image")] = False,
    split: Annotated[str, typer.Option(help="Split that --eval uses")] = "test",
    limit: Annotated[int | None, typer.Option(help="Use at most this many images of a split")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the program with its trained weights (.s or .bin)")] = None,
    cross_check: Annotated[
        int, typer.Option(help="Replay every Nth image or step on another engine and stop at the first difference")
    ] = 0,
    bit_error_rate: Annotated[
        list[str] | None,
        typer.Option(
            help="Bit errors of the arrays: a rate (write and read errors), or write=P,read=P,stuck=P,kind=compute|transposable; may be "
            "given more than once (docs/device.md)"
        ),
    ] = None,
    fault_seed: Annotated[int, typer.Option(help="Seed of the bit errors")] = 0,
    report: Annotated[Path | None, typer.Option(help="Write the summary as JSON (docs/reports.md)")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write a timeline for Perfetto (JSON; compressed when it ends in .gz; docs/report.md)")
    ] = None,
    trace_limit: Annotated[
        int, typer.Option(help="Events that a timeline holds at most; what comes after is not in it")
    ] = 500_000,
    trace_lanes: Annotated[
        str, typer.Option(help="What of the arrays has a lane: subarray, bank, group; auto: sub-arrays unless there are too many")
    ] = "auto",
    top: Annotated[int, typer.Option(help="Classes shown for --input")] = 5,
    technology: Annotated[
        str, typer.Option(help="Memory technology of the energies: sas, sot, stt, sram, or a .toml file")
    ] = "sas",
    interpretation: Annotated[str | None, typer.Option(help="Interpretation of the circuit figures (docs/energy.md)")] = None,
) -> None:
    """Run a compiled program: classify (--input), train (--train), evaluate (--eval). Without a task it trains on `flowers`.

    `sasrun data` lists the data sets, says where each is looked for, and fetches them. `sasrun tasks` lists the tasks of a device image.
    """
    from sasimc.costs import cost_of, price_list
    from sasimc.datasets.images import Augment
    from sasimc.evaluation.text import cost_lines
    from sasimc.profiling.profile import profile, profile_rows
    from sasimc.runtime.faults import parse_bit_errors
    from sasimc.training.recipe import Schedule
    from sasimc.training.session import Session, SessionOptions

    start = time.perf_counter()
    what = ""
    runnable: Any = program
    if program is None:
        runnable, what = _embedded(), "the embedded MobileNet-V2 + Rep-Net"
    given = {"epochs": epochs, "batch": batch, "seed": seed, "patience": patience, "limit": limit}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, text in (("head_exponent", head_exponent), ("module_exponent", module_exponent)):
        if text is not None:
            changes[name] = Schedule.parse(text, f"--{name.replace('_', '-')}")
    if augment is not None:
        changes["augment"] = Augment(crop="random" if augment else "middle", flip=augment)
    options = SessionOptions(
        program=runnable, what=what, inputs=tuple(input or ()), train=train, evaluate=evaluate, data=data, engine=engine,
        threads=threads, recipe=recipe, changes=changes, freeze=freeze, image=device, task=task, resume=resume, split=split,
        cross_check=cross_check, top=top,
    )  # fmt: skip
    if save is not None and save.suffix not in (".s", ".bin"):
        raise SasError(f"cannot tell the program's format from {save.name!r}", hint="end the name in .s or .bin")
    require_writable(save, report, trace, device)
    bit_errors = parse_bit_errors(bit_error_rate or (), fault_seed)
    prices = price_list(technology, interpretation)
    with closing(Session(options, console)) as session:
        session.device.inject(bit_errors, fresh=session.image is None)
        if bit_errors.active:
            console.print(f"bit errors, rates: {bit_errors}; seed {fault_seed}", **_PLAIN)
        with _traced(session.device, trace, trace_limit, trace_lanes, prices):
            made: dict[str, Any] = session.run()
        if faults := session.device.faults:
            made["bit_errors"] = faults.summary()
            console.print(str(faults), **_PLAIN)
        rows = profile_rows(session.device.interpreter)
        cost = cost_of(session.device.interpreter, made, prices, rows)
        for line in cost_lines(cost):
            console.print(line, **_PLAIN)
        if save:
            session.save(save)
            console.print(f"wrote {save}", **_PLAIN)
    made["wall_s"] = time.perf_counter() - start
    made["host"] = platform.machine()
    if report:
        write_json(
            report,
            {
                **made,
                "technology": technology,
                "interpretation": prices.interpretation,
                "cost": cost.summary(),
                **profile(session.device.interpreter, rows),
            },
        )


@contextmanager
def _traced(device: Any, path: Path | None, limit: int, lanes: str, prices: Any) -> Iterator[None]:
    """Record what the device does and write it, also when the run ends with an error."""
    if path is None:
        yield
        return
    from sasimc.costs import joules_of
    from sasimc.profiling.trace import Tracer

    tracer = Tracer(device.interpreter, limit, joules_of(device.program, prices), lanes)
    device.run_with(tracer.run)
    try:
        yield
    finally:
        tracer.write(path, {"technology": prices.technology.name, "interpretation of the circuit figures": prices.interpretation})
        cut = f"; the limit of {limit} was reached after {tracer.end:.0f} cycles, the rest is not in it" if tracer.full else ""
        console.print(f"wrote {path}: {tracer.events} events{cut}", **_PLAIN)


def _embedded() -> Any:
    """The embedded model, compiled for the default machine."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.zoo.zoo import default_model_path

    with console.status("compiling the embedded model"):
        return compile_model(default_model_path(), CompileOptions()).program


def dispatch(args: Sequence[str]) -> tuple[typer.Typer, list[str], str]:
    """The application that a command line (without the program's name) is for, its arguments, and its name in usage messages."""
    module = COMMANDS.get(args[0], "") if args else ""
    if not module:
        return app, list(args), "sasrun"
    return importlib.import_module(module).app, list(args[1:]), f"sasrun {args[0]}"


def main() -> None:
    """Entry point of the ``sasrun`` command: ``sasrun data ...`` (see ``COMMANDS``) or ``sasrun [PROGRAM] ...``."""
    run_app(*dispatch(sys.argv[1:]))


if __name__ == "__main__":
    main()
