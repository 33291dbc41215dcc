"""``sasc explore``: a model or a program as one page to look inside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sasimc.cli import options
from sasimc.cli.common import command, require_writable
from sasimc.cli.compiling import compile_options
from sasimc.cli.options import File, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError
from sasimc.isa.options import options_of
from sasimc.options import CompileOptions

if TYPE_CHECKING:
    from sasimc.costs import PriceList
    from sasimc.evaluation.cost import Cost, CostModel
    from sasimc.explore.content import Subject
    from sasimc.isa.program import Program

__all__ = ["explore", "model_subject"]


@command("explore")
@argument("subject", "ONNX file, which is compiled now, or a program (.s or .bin).", type=File())
@option(
    "-o",
    "--output",
    section="Output",
    type=File(),
    show_default="the subject's name, ending in .html",
    help="HTML file to write.",
)
@option(
    "--run", section="Output", type=File(), help="Report of a run of the program (sasrun --json FILE), to show what it measured."
)
@options.technology(None)
@options.interpretation
@options.circuit
@options.machine
@compile_options
@options.recipe
@options.isa
def explore(
    subject: Path, output: Path | None, run: Path | None, technology: str | None, interpretation: str | None, circuit: Path | None,
    recipe: str | None, **given: Any,
) -> None:  # fmt: skip
    """Write one HTML page to look inside: graph, passes, assembly, sub-arrays, timeline.

    Choose anything, and what belongs to it lights up everywhere. Of an ONNX file it shows every step of the compilation. The page needs no network."""
    from sasimc.costs import cost_of_report, price_list
    from sasimc.explore.page import explore_page
    from sasimc.isa.files import write_atomically
    from sasimc.training.recipe import load_recipe
    from sasimc.training.session_options import check_network

    target = output or subject.with_suffix(".html")
    if target.resolve() in (subject.resolve(), run.resolve() if run else None):
        raise SasError(f"{target} would overwrite what it is made from", hint="give another name with -o")
    require_writable(target)
    tuned = load_recipe(recipe) if recipe else None
    if tuned:
        given = options.over(tuned.compile_options(), given)
    with progress(f"reading {subject}") as show:
        measured = cost_of_report(run, technology, interpretation, circuit) if run else None
        memory, taken = technology or "sas", interpretation
        if measured is not None:
            memory, taken = technology or str(measured.run.report.get("technology", "sas")), measured.model.interpretation_name
        prices = price_list(memory, taken, circuit)
        made = _subject(subject, given, measured, prices, show)
        if recipe and tuned:
            check_network(tuned, recipe, made.program.meta)
        show("laying out the page")
        data = explore_page(made).encode()
    write_atomically(target, data)
    say(f"wrote {target} ({len(data) / 1e6:.3g} MB)")


def _subject(path: Path, given: dict[str, Any], measured: Cost | None, prices: PriceList, show: Callable[[str], None]) -> Subject:
    """What to look at: an ONNX file is compiled, with every step watched; anything else has to be a program."""
    from sasimc.explore.content import Subject

    if not _is_program(path):
        from sasimc.frontend.load import load_model

        return model_subject(load_model(path), path.name, CompileOptions(**given), prices, show, measured)
    _refuse(CompileOptions)
    from sasimc.isa.files import load_program

    program = load_program(path)
    model = prices.model(program.machine, _transposable(program))
    return Subject(
        program, path.name, model, int(program.meta.get("batch", "1")), None, (), [], measured, _facts(program, model, measured)
    )


def model_subject(
    proto: Any, name: str, given: CompileOptions, prices: PriceList, show: Callable[[str], None] = lambda _: None,
    measured: Cost | None = None,
) -> Subject:  # fmt: skip
    """A model, compiled with every step watched."""
    from sasimc.api import compile_model
    from sasimc.explore.content import Subject
    from sasimc.frontend.outline import outline

    steps: list[Any] = []
    made = compile_model(proto, given, progress=lambda what: show(f"compiling: {what}"), watch=lambda *step: steps.append(step))
    model = prices.model(made.program.machine, _transposable(made.program))
    facts = _facts(made.program, model, measured)
    return Subject(made.program, name, model, made.batch, made, outline(proto), steps, measured, facts)


def _facts(program: Program, model: CostModel, measured: Cost | None) -> dict[str, str]:
    import sasimc

    machine = program.machine
    facts = {
        "machine": f"{machine.name}, {machine.subarrays} sub-arrays, {machine.clock_hz / 1e6:g} MHz",
        "technology": model.technology.name,
        "circuit figures": f"{model.circuit.name}, read {model.interpretation_name}",
        "sas-imc": sasimc.__version__,
    }
    if measured is not None:
        facts["run"] = f"{measured.run.images} images on {measured.run.report.get('dataset') or 'given inputs'}"
    return facts


def _is_program(path: Path) -> bool:
    """Whether a file is a program, binary or text.

    Raises:
        SasError: it cannot be read, or is neither a program nor an ONNX file.
    """
    from sasimc.isa.binary.container import MAGIC

    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as exc:
        raise SasError(f"cannot read {path}: {exc.strerror}", hint="an ONNX file or a program (.s, .bin)") from None
    if head.startswith(MAGIC[:6]) or re.search(rb"^[ \t]*\.sas[ \t]", head, re.MULTILINE):
        return True
    if path.suffix.lower() != ".onnx" and (path.suffix.lower() in (".s", ".bin", ".json", ".html") or b"\0" not in head):
        raise SasError(
            f"{path} is neither an ONNX file nor a program", hint="`sasc compile MODEL.onnx -o prog.s` makes a program of a model"
        )
    return False


def _refuse(declaring: type) -> None:
    """Compile options mean nothing for a program that is already compiled."""
    ctx = click.get_current_context()
    names = {o.name for o in options_of(declaring)} | {"machine", "recipe"}
    for param in ctx.command.params:
        if param.name in names and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            raise SasError(
                f"{param.opts[0]} has no meaning for a program, which is compiled already",
                hint="give the ONNX file, or leave it out",
            )


def _transposable(program: Program) -> int:
    """Transposable sub-arrays in use, in whole activation groups."""
    machine = program.machine
    groups = {machine.group_of(t.subarray) for m in program.matrices.values() if m.array == "transposable" for t in m.tiles}
    return len(groups) * machine.group_size
