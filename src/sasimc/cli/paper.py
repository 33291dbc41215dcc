"""``sasc paper``: every checkable number of the paper beside ours; table I is in :mod:`sasimc.cli.table1`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sasimc.cli import options
from sasimc.cli.common import Group, require_package, require_writable, write_json
from sasimc.cli.options import AtLeast, Folder, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError

if TYPE_CHECKING:
    from sasimc.evaluation.paper.network import Network
    from sasimc.isa.machine import Machine

__all__ = ["compiled_network", "paper"]

_CLASSES = 102
"""Classifier of the network that figure 11a is computed for: Flowers-102, a data set of the paper's table I."""


def compiled_network(machine: Machine, say: Callable[[str], None] = lambda _: None) -> Network:
    """MobileNet-V2 1.0/224 with Rep-Net for training, compiled, and its backbone's weights. Random weights do: nothing is run."""
    from sasimc.api import CompileOptions, compile_model, compile_report
    from sasimc.evaluation.paper.network import network_of, placed_weights
    from sasimc.zoo.zoo import ZooOptions, build, parse_modules, write

    with tempfile.TemporaryDirectory() as folder:
        say("building MobileNet-V2 1.0/224 without modules")
        plain = write(
            build("mobilenetv2-repnet", ZooOptions(modules=parse_modules("none"), classes=1000)), Path(folder) / "plain.onnx"
        )
        say("compiling it")
        weights = placed_weights(compile_model(plain, CompileOptions(machine=machine, inference_only=True)).program)
        say("building MobileNet-V2 1.0/224 + Rep-Net")
        model = write(build("mobilenetv2-repnet", ZooOptions(classes=_CLASSES)), Path(folder) / "model.onnx")
        say("compiling it for training")
        compiled = compile_model(model, CompileOptions(machine=machine))
        say("estimating a training step")
        peak = int(compile_report(compiled, 0.0)["buffer_peak_bytes"])
        name = f"MobileNet-V2 1.0/224 + Rep-Net, {_CLASSES} classes"
        return network_of(compiled.program, name, peak, ("MobileNet-V2 1.0/224, 1000 classes", weights))


@click.command(cls=Group, name="paper", where={"Commands": {"table1": "sasimc.cli.table1:table1"}}, invoke_without_command=True)
@options.machine
@options.interpretation
@options.circuit
@option(
    "--writes",
    section="Junction",
    type=AtLeast(1),
    default=2000,
    help="Writes of each method that the junction's model simulates.",
)
@option("--quick", section="Junction", is_flag=True, help="No simulation and no compilation; the lines that need them say so.")
@options.json_file("the lines, at full precision,")
@option("--plot", section="Output", type=Folder(), help="Draw the figures into this folder (SVG).")
@click.pass_context
def paper(
    ctx: click.Context, machine: Path | None, interpretation: str | None, circuit: Path | None, writes: int, quick: bool,
    json_file: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Compare every number of the paper that can be checked with ours.

    Shows both, their ratio, how ours came about, and what it assumes.

    Tables II to IV, peak throughput, capacity, figures 8b, 10, 11a and 11b. What cannot be reproduced is in the table with the reason. Table I,
    the accuracies, is a command of its own.
    """
    if ctx.invoked_subcommand is not None:
        if given := [
            p.opts[0]
            for p in ctx.command.params
            if ctx.get_parameter_source(p.name or "") is not click.core.ParameterSource.DEFAULT
        ]:
            raise SasError(
                f"{given[0]} is no option of sasc paper {ctx.invoked_subcommand}",
                hint="leave it out, or put it behind the command",
            )
        return
    if plot is not None:
        if not plot.is_dir():
            raise SasError(f"{plot} is no folder", hint="--plot names a folder that exists")
        require_package("matplotlib", "--plot", "plots")
    require_writable(json_file)
    from sasimc.costs import price_list
    from sasimc.evaluation.paper.table import device_lines, our_row, paper_lines, paper_tables, peer_table
    from sasimc.isa.files import write_together
    from sasimc.isa.machine import load_machine

    model = price_list("sas", interpretation, circuit).model(load_machine(machine))
    with progress("the paper, line by line") as show:
        network = None if quick else compiled_network(model.machine, show)
        device = device_lines(model, 0 if quick else writes, lambda what, i, n: show(f"junction, {i + 1} of {n}: {what}"))
        lines = paper_lines(model, network, device)
        if plot is not None:
            from sasimc.evaluation.paper.plots import plot_paper

            show("drawing")
            pictures = plot_paper(model, network)
            write_together({plot / name: data for name, data in pictures.items()})
    tables, assumptions = paper_tables(lines)
    print_tables(*tables, peer_table(model))
    say("\nassumptions")
    for text in assumptions:
        say(f"  {text}")
    for text in model.warnings():
        say(f"warning: {text}")
    if json_file:
        from sasimc.evaluation.paper.line import peers

        table_3 = [our_row(model), *peers()]
        write_json(
            json_file,
            {
                "machine": model.machine.name,
                "interpretation": model.interpretation_name,
                "lines": [x.as_dict() for x in lines],
                "table_3": table_3,
            },
        )
