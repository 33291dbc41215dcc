"""``sasrun``: classify images, train and evaluate a compiled program on the simulated device."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sasimc.cli import options
from sasimc.cli.common import command, console, require_suffix, require_writable, run_app, write_json
from sasimc.cli.options import AtLeast, Choice, File, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import say

__all__ = ["app", "main"]


@command("sasrun")
@argument("program", "Program (.s or .bin); default: the embedded small network, compiled now.", type=File(), required=False)
@option("--input", "inputs", section="What to do", type=File(), multiple=True, help="Image to classify (may be repeated).")
@option("--train", section="What to do", metavar="DATASET", help="Data set to train on: a name (`sasc data list`) or a path.")
@option("--eval", "evaluate", section="What to do", metavar="DATASET", help="Data set to evaluate on.")
@option("--save", section="What to do", type=File(), help="Write the program with its trained weights (.s or .bin).")
@options.data_folder
@option("--split", section="Data", type=Choice("sasimc.datasets.dataset:SPLITS"), default="test", help="Split that --eval uses.")
@option("--limit", section="Data", type=AtLeast(1), help="Use at most this many images of a split.")
@option("--top", section="Data", type=AtLeast(1), default=5, help="Classes shown for --input.")
@option(
    "--recipe", section="Training", type=Choice("sasimc.training.recipe:shipped_recipes", "FILE"), show_default="default",
    help="Recipe of the training. The options below override it.",
)  # fmt: skip
@option("--epochs", section="Training", type=AtLeast(1), show_default="the recipe's", help="Epochs of training.")
@option(
    "--batch", section="Training", type=AtLeast(1), show_default="the recipe's", help="Batch size; maximum: the compiled batch."
)
@options.seed("Seed of image order and augmentation.", "Training", None, show_default="the recipe's")
@option(
    "--patience", section="Training", type=AtLeast(0), show_default="the recipe's",
    help="Stop after this many epochs without a better validation accuracy; 0: never.",
)  # fmt: skip
@option(
    "--head-exponent", section="Training", metavar="FIRST[:LAST[:cosine]]", show_default="the recipe's",
    help="Update magnitude of the classifier, as an exponent of two.",
)  # fmt: skip
@option(
    "--module-exponent", section="Training", metavar="FIRST[:LAST[:cosine]]", show_default="the recipe's",
    help="Update magnitude of the modules, as an exponent of two.",
)  # fmt: skip
@option(
    "--augment/--no-augment",
    section="Training",
    default=None,
    show_default="the recipe's",
    help="Random crops and flips in training.",
)
@option(
    "--freeze",
    section="Training",
    metavar="PATTERNS",
    default="",
    help="Trainable layers that are not trained: patterns, comma-separated.",
)
@option("--image", section="Device", type=File(), help="Device image (.sas): weights, wear and tasks are kept in it.")
@option(
    "--task",
    section="Device",
    metavar="NAME",
    show_default="the data set's name",
    help="Task of the device image to learn or use.",
)
@option("--resume", section="Device", is_flag=True, help="Resume interrupted training.")
@option(
    "--bit-error-rate", section="Device", metavar="RATES", multiple=True,
    help="Bit errors of the arrays: a rate (of write and read), or write=P,read=P,stuck=P,kind=compute|transposable (may be repeated).",
)  # fmt: skip
@option("--fault-seed", section="Device", type=AtLeast(0), default=0, help="Seed of the bit errors.")
@options.engine("bitserial")
@options.threads
@option(
    "--cross-check",
    section="Execution",
    type=AtLeast(0),
    default=0,
    help="Replay every Nth image or step on another engine; 0: none.",
)
@options.technology("sas")
@options.interpretation
@options.json_file("the summary")
@option("--trace", section="Output", type=File(), help="Write a timeline for Perfetto; compressed when the name ends in .gz.")
@option("--trace-limit", section="Output", type=int, default=500_000, help="Maximum number of events; later ones are dropped.")
@option(
    "--trace-lanes", section="Output", type=Choice("sasimc.profiling.lanes:LANE_KINDS"), default="auto",
    help="What of the arrays has a lane. auto: sub-arrays, unless there are too many.",
)  # fmt: skip
def app(
    program: Path | None, inputs: tuple[Path, ...], train: str | None, evaluate: str | None, save: Path | None, data: Path | None, split: str,
    limit: int | None, top: int, recipe: str | None, epochs: int | None, batch: int | None, seed: int | None, patience: int | None,
    head_exponent: str | None, module_exponent: str | None, augment: bool | None, freeze: str, image: Path | None, task: str | None,
    resume: bool, bit_error_rate: tuple[str, ...], fault_seed: int, engine: str, threads: int | None, cross_check: int, technology: str,
    interpretation: str | None, json_file: Path | None, trace: Path | None, trace_limit: int, trace_lanes: str,
) -> None:  # fmt: skip
    """Run a compiled program: classify (--input), train (--train), evaluate (--eval). Without a task it trains on `flowers`.

    `sasc data list` lists the data sets, `sasc image show` the tasks of a device image.
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
    what_to_do = SessionOptions(
        program=runnable, what=what, inputs=inputs, train=train, evaluate=evaluate, data=data, engine=engine,
        threads=threads, recipe=recipe, changes=changes, freeze=freeze, image=image, task=task, resume=resume, split=split,
        cross_check=cross_check, top=top,
    )  # fmt: skip
    require_suffix(save, ".s", ".bin")
    require_writable(save, json_file, trace, image)
    bit_errors = parse_bit_errors(bit_error_rate, fault_seed)
    prices = price_list(technology, interpretation)
    with closing(Session(what_to_do, console())) as session:
        session.device.inject(bit_errors, fresh=session.image is None)
        if bit_errors.active:
            say(f"bit errors, rates: {bit_errors}; seed {fault_seed}")
        with _traced(session.device, trace, trace_limit, trace_lanes, prices):
            made: dict[str, Any] = session.run()
        if faults := session.device.faults:
            made["bit_errors"] = faults.summary()
            say(str(faults))
        rows = profile_rows(session.device.interpreter)
        cost = cost_of(session.device.interpreter, made, prices, rows)
        for line in cost_lines(cost):
            say(line)
        if save:
            session.save(save)
            say(f"wrote {save}")
    made["wall_s"] = time.perf_counter() - start
    made["host"] = platform.machine()
    if json_file:
        write_json(
            json_file,
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
        say(f"wrote {path}: {tracer.events} events{cut}")


def _embedded() -> Any:
    """The embedded model, compiled for the default machine."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.zoo.zoo import default_model_path

    with progress("compiling the embedded model"):
        return compile_model(default_model_path(), CompileOptions()).program


def main() -> None:
    """Entry point of the ``sasrun`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
