"""``sasrun``: classify images, train and evaluate a compiled program on the simulated device; run any program."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sasimc.cli import options
from sasimc.cli.common import command, console, require_suffix, require_writable, run_app
from sasimc.cli.options import AtLeast, Choice, File, option
from sasimc.cli.outcome import Outcome, traced, write_outcome
from sasimc.cli.progress import progress
from sasimc.cli.tables import say
from sasimc.cli.workers import check_workers, pool_of, say_who
from sasimc.isa.errors import SasError

__all__ = ["app", "embedded", "main"]


@command("sasrun")
@options.program
@options.inputs("What to do")
@option("--train", section="What to do", metavar="DATASET", help="Data set to train on: a name (`sasc data list`) or a path.")
@option(
    "--add",
    section="What to do",
    metavar="DATASET",
    help="Data set with further classes for --task, which is learned; logits of its classes stay.",
)
@option(
    "--retrain",
    section="What to do",
    is_flag=True,
    help="With --add: train the classes that the task has, too; their logits change.",
)
@option("--eval", "evaluate", section="What to do", metavar="DATASET", help="Data set to evaluate on.")
@option(
    "--weights", section="What to do", metavar="[torchvision|random|FOLDER|FILE.npz]",
    help="Instead of a program: build a network for --train on the backbone of these weights and compile it, as the recipe says; --size is its input's.",
)  # fmt: skip
@option("--save", section="What to do", type=File(), help="Write the program with its trained weights (.s or .bin).")
@option(
    "--entry", "entries", section="Any program", metavar="NAME", multiple=True,
    help="Run this entry point, also of a program without the compiler's interface (may be repeated: one after the other).",
)  # fmt: skip
@option(
    "--set", "settings", section="Any program", metavar="NAME=VALUE", multiple=True,
    help="Before the run: r1=3, or a named register; VIEW=FILE.npy, VIEW=1,2,3 or VIEW[0:4]=FILE.npy (samples); MATRIX=FILE.npy.",
)  # fmt: skip
@option(
    "--dump", "dumps", section="Any program", metavar="NAME=FILE.npy", multiple=True,
    help="After the run: write a register, a view, samples of a view or a matrix.",
)  # fmt: skip
@options.data_folder
@option("--split", section="Data", type=Choice("sasimc.isa.choices:SPLITS"), default="test", help="Split that --eval uses.")
@option(
    "--match", section="Data", type=Choice("sasimc.isa.choices:MATCHES"), default="name",
    help="How classes of data and program belong together.",
)  # fmt: skip
@option(
    "--strict", section="Data", is_flag=True, help="Read all files first; a damaged one ends the run instead of being skipped."
)
@option(
    "--preprocess", section="Preprocessing", type=Choice("sasimc.isa.choices:PRESETS", "JSON"), show_default="the model's, else guessed",
    help="What is done to images. The options below override it.",
)  # fmt: skip
@option("--mean", section="Preprocessing", metavar="NUMBER[,G,B]", help="Mean that is subtracted, of pixels in 0..1.")
@option("--std", section="Preprocessing", metavar="NUMBER[,G,B]", help="Standard deviation that is divided by.")
@option("--size", section="Preprocessing", metavar="PIXELS[xWIDTH]", help="Size that is cut out; the network's input has it.")
@option("--resize", section="Preprocessing", type=AtLeast(1), help="Short side of the image before that.")
@option(
    "--crop", section="Preprocessing", type=Choice("sasimc.isa.choices:CROPS"),
    help="Cut out the middle, or scale the whole image (none).",
)  # fmt: skip
@option(
    "--interpolation",
    section="Preprocessing",
    type=Choice("sasimc.isa.choices:INTERPOLATIONS"),
    help="Filter of the scaling.",
)
@option("--limit", section="Data", type=AtLeast(1), help="Use at most this many images of a split.")
@option("--top", section="Data", type=AtLeast(1), default=5, help="Classes shown for --input.")
@option(
    "--recipe", section="Training", type=Choice("sasimc.isa.choices:shipped_recipes", "FILE"), show_default="default",
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
    help="Task of the device image to learn or use; auto: for --eval and --input the one that an image belongs to.",
)
@option(
    "--level", section="Device", type=Choice("sasimc.isa.choices:LEVELS"), default="none",
    help="Level the wear of these rows in training: every step writes others of the scratch rows.",
)  # fmt: skip
@option("--resume", section="Device", is_flag=True, help="Resume interrupted training.")
@option(
    "--bit-error-rate", section="Device", metavar="RATES", multiple=True,
    help="Bit errors of the arrays: a rate (of write and read), or write=P,read=P,stuck=P,kind=compute|transposable (may be repeated).",
)  # fmt: skip
@option(
    "--variation", section="Device", type=AtLeast(0), metavar="DEVICE",
    help="Run on this one of the devices whose cells differ as the technology's stack says: a number, each another device.",
)  # fmt: skip
@option(
    "--scrub",
    section="Device",
    type=AtLeast(0),
    default=0,
    help="With --variation: put back every so many runs what reads turned round.",
)
@option("--fault-seed", section="Device", type=AtLeast(0), default=0, help="Seed of the bit errors.")
@option(
    "--power", section="Device", type=Choice("sasimc.isa.choices:SUPPLIES", "FILE.toml"), show_default="always on",
    help="Run on harvested power: the device is cut off when its storage is empty, and goes on when it is filled.",
)  # fmt: skip
@options.engine("bitserial")
@options.threads
@options.cluster
@options.workers("0")
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
    "--trace-lanes", section="Output", type=Choice("sasimc.isa.choices:LANE_KINDS"), default="auto",
    help="What of the arrays has a lane. auto: sub-arrays, unless there are too many.",
)  # fmt: skip
@options.isa
@options.version
@options.completion
@click.pass_context
def app(
    ctx: click.Context, program: Path | None, entries: tuple[str, ...], settings: tuple[str, ...], dumps: tuple[str, ...],
    bit_error_rate: tuple[str, ...], variation: int | None, scrub: int, fault_seed: int, engine: str, threads: int | None, cross_check: int, technology: str,
    interpretation: str | None, json_file: Path | None, trace: Path | None, trace_limit: int, trace_lanes: str, **session: Any,
) -> None:  # fmt: skip
    """Run a compiled program: classify (--input), train (--train), evaluate (--eval). Without a task it trains on `flowers`.

    `sasc data list` lists the data sets, `sasc image show` the tasks of a device image. --entry runs any program, also a hand-written one.
    """
    from sasimc.costs import price_list
    from sasimc.runtime.faults import parse_bit_errors

    bit_errors = parse_bit_errors(bit_error_rate, fault_seed)
    if variation is not None:
        bit_errors = _varied(bit_errors, variation, scrub, technology, program)
    prices = price_list(technology, interpretation)
    outcome = Outcome(engine, threads, technology, prices, json_file, trace, trace_limit, trace_lanes)
    if not (entries or settings or dumps):
        _session(program, bit_errors, cross_check, outcome, **session)
        return
    from sasimc.cli.entry import run_entries

    if program is None:
        raise SasError("--entry, --set and --dump need a program", hint="sasrun FILE.s --entry NAME")
    for param in ctx.command.params:
        if param.name in session and ctx.get_parameter_source(param.name) is not click.core.ParameterSource.DEFAULT:
            raise SasError(f"{param.opts[0]} has no meaning for a single entry point", hint="leave out --entry, --set and --dump")
    run_entries(program, entries, settings, dumps, bit_errors, cross_check, outcome)


def _session(
    program: Path | None, bit_errors: Any, cross_check: int, outcome: Outcome, inputs: tuple[Path, ...], train: str | None, add: str | None, retrain: bool,
    weights: str | None, evaluate: str | None, save: Path | None, data: Path | None, split: str, limit: int | None, top: int, recipe: str | None,
    epochs: int | None, batch: int | None, seed: int | None, patience: int | None, head_exponent: str | None, module_exponent: str | None,
    augment: bool | None, freeze: str, image: Path | None, task: str | None, resume: bool, match: str, strict: bool, preprocess: str | None,
    cluster: str | None, workers: int | None, power: str | None, level: str, **fields: Any,
) -> None:  # fmt: skip
    """Classify, train, evaluate."""
    from sasimc.datasets.images import Augment
    from sasimc.datasets.preprocess import preprocess_fields
    from sasimc.training.image.image import AUTO
    from sasimc.training.recipe import Schedule
    from sasimc.training.session import Session, SessionOptions
    from sasimc.training.session_options import check_options, make_recipe

    start = time.perf_counter()
    for given, name in ((outcome.trace, "--trace"), (bit_errors.active, "--bit-error-rate or --variation")):
        if check_workers(cluster, workers) and given:
            raise SasError(f"{name}: it follows one device from image to image", hint="leave out --cluster and --workers")
    if task == AUTO and (cluster or workers):
        raise SasError("--task auto runs several tasks on one device", hint="leave out --cluster and --workers")
    given = {"epochs": epochs, "batch": batch, "seed": seed, "patience": patience, "limit": limit}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, text in (("head_exponent", head_exponent), ("module_exponent", module_exponent)):
        if text is not None:
            changes[name] = Schedule.parse(text, f"--{name.replace('_', '-')}")
    if augment is not None:
        changes["augment"] = Augment(crop="random" if augment else "middle", flip=augment)
    preprocess_changes = preprocess_fields(**fields)
    runnable: Any = program
    side = preprocess_changes.pop("size", 224) if weights is not None else 0
    if weights is not None:
        if program is not None or train is None:
            raise SasError(
                "--weights builds a network for the data set of --train, in place of a program",
                hint="sasrun --train FOLDER --weights FOLDER",
            )
        if not isinstance(side, int):
            raise SasError(f"--size {fields['size']}: the network's input is square", hint="--size 224")
    what_to_do = SessionOptions(
        program=runnable, inputs=inputs, train=train, add=add, retrain=retrain, evaluate=evaluate, data=data, engine=outcome.engine,
        threads=outcome.threads, recipe=recipe, changes=changes, freeze=freeze, image=image, task=task, resume=resume, split=split,
        cross_check=cross_check, top=top, preprocess=preprocess, preprocess_changes=preprocess_changes, match=match, strict=strict, level=level,
        outputs={k: v for k, v in (("save", save), ("json", outcome.json_file), ("trace", outcome.trace)) if v},
    )  # fmt: skip
    check_options(what_to_do)
    supply = _supply(power)
    if supply and (outcome.trace or cross_check or cluster or workers):
        raise SasError(
            "--power runs one device, in pieces: --trace and --cross-check need whole runs, --cluster and --workers more devices",
            hint="leave one of them out",
        )
    require_suffix(save, ".s", ".bin")
    require_writable(save, image, *outcome.files)
    if weights is not None:
        assert train is not None
        from sasimc.building import program_for
        from sasimc.training.program_notes import MODULE_WEIGHTS

        with progress(f"building and compiling a network for {train}"):
            runnable = program_for(train, data, None if weights == "random" else weights, side, make_recipe(recipe, changes))
        begun = " from shipped first weights" if MODULE_WEIGHTS in runnable.meta else ""
        what = f"MobileNet-V2 of {weights} + Rep-Net{begun}, {side} x {side} pixels"
        words = {"train": train, "weights": weights, "size": side, "recipe": recipe, "batch": batch, "seed": seed}
        made_by = tuple(word for name, value in words.items() if value is not None for word in (f"--{name}", str(value)))
        what_to_do = replace(what_to_do, program=runnable, what=what, made_by=made_by)
    elif program is None:
        what_to_do = replace(what_to_do, program=embedded(recipe), what="the embedded MobileNet-V2 + Rep-Net")
    with (
        _runner(cluster, workers, outcome.threads, cross_check) as run_images,
        closing(Session(what_to_do, console(), progress, run_images)) as session,
    ):
        device, files = session.device, session.outputs
        require_writable(*files.values())
        outcome = replace(outcome, json_file=files.get("json"), trace=files.get("trace"))
        device.inject(bit_errors, fresh=session.image is None)
        if bit_errors.active:
            say(f"bit errors, rates: {bit_errors}; seed {bit_errors.seed}")
        powered: Any = None
        try:
            with traced(device.interpreter, outcome) as run:
                device.run_with(run)
                if supply:
                    from sasimc.costs import joules_of
                    from sasimc.intermittent import Intermittent

                    powered = Intermittent(device, supply, joules_of(device.program, outcome.prices))
                    device.run_with(powered.run)
                session.run()
        finally:  # a run that was broken off is reported as far as it went
            if faults := device.faults:
                session.report["bit_errors"] = faults.summary()
                say(str(faults))
            session.report["power"] = powered.summary() if powered else None
            for line in powered.lines() if powered else ():
                say(line)
            write_outcome(device.interpreter, session.report, outcome, start)


@contextmanager
def _runner(cluster: str | None, workers: int | None, threads: int | None, cross_check: int) -> Iterator[Any]:
    """What runs the images of an evaluation: this process, or workers."""
    from sasimc.training.evaluation import run_here

    if cluster is None and not workers:
        yield run_here
        return
    from sasimc.pieces import Shared, run_piece

    with pool_of(run_piece, cluster, workers) as pool:
        say_who(pool)
        yield Shared(pool, threads, cross_check).run


def _varied(plan: Any, device: int, scrub: int, technology: str, program: Path | None) -> Any:
    """The plan with the cells of one device."""
    from sasimc.costs import device_map
    from sasimc.isa.files import load_program
    from sasimc.isa.machine import load_machine

    machine = load_program(program).machine if program is not None else load_machine(None)
    with progress("simulating how cells differ"):
        cells = device_map(technology, machine, device)
    return replace(plan, cells=cells, scrub=scrub)


def _supply(power: str | None) -> Any:
    """The supply of ``--power``; None: always on."""
    if power is None:
        return None
    from sasimc.evaluation.supply.supply import load_supply

    return load_supply(power)


def embedded(recipe: str | None) -> Any:
    """The embedded model, compiled for the default machine as the recipe asks for."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.training.recipe import Recipe, load_recipe
    from sasimc.zoo.zoo import default_model_path

    with progress("compiling the embedded model"):
        return compile_model(
            default_model_path(), CompileOptions(**(load_recipe(recipe) if recipe else Recipe()).compile_options())
        ).program


def main() -> None:
    """Entry point of the ``sasrun`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
