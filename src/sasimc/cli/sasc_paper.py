"""``sasc paper``: every checkable number of the paper beside ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sasimc.cli.common import console, require_writable, write_json
from sasimc.cli.sasc_diff import print_tables
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_together

if TYPE_CHECKING:
    from sasimc.evaluation.paper.network import Network
    from sasimc.isa.machine import Machine

__all__ = ["compiled_network", "paper", "register"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

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


def paper(
    machine: Annotated[Path | None, typer.Option(help="Machine description (TOML); default: the paper's")] = None,
    interpretation: Annotated[str | None, typer.Option(help="Interpretation of the circuit figures; default: the file's")] = None,
    circuit: Annotated[Path | None, typer.Option(help="Circuit figures (TOML); default: table IV of the paper")] = None,
    writes: Annotated[int, typer.Option(help="Writes of each method that the device model simulates")] = 2000,
    quick: Annotated[
        bool, typer.Option("--quick", help="No device simulation and no compilation; the lines that need them say so")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Write the lines as JSON, at full precision")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw the figures into this folder (SVG)")] = None,
) -> None:
    """Every number of the paper that can be checked: the paper's, ours, their ratio, how ours came about, and what it assumes.

    Tables II to IV, peak throughput, capacity, figure 8b, figure 10, figures 11a and 11b. What cannot be reproduced is in the table with the reason.
    """
    from sasimc.costs import price_list
    from sasimc.evaluation.paper.table import device_lines, our_row, paper_lines, paper_tables, peer_table
    from sasimc.isa.machine import load_machine

    if writes < 1:
        raise SasError(f"--writes {writes}: at least 1 is needed", hint="--quick simulates nothing")
    require_writable(json)
    if plots is not None and not plots.is_dir():
        raise SasError(f"{plots} is no folder")
    model = price_list("sas", interpretation, circuit).model(load_machine(machine))
    with console.status("the paper, line by line") as status:

        def say(what: str) -> None:
            status.update(what)
            if not console.is_terminal:
                console.print(what, **_PLAIN)

        network = None if quick else compiled_network(model.machine, say)
        device = device_lines(model, 0 if quick else writes, lambda what, i, n: say(f"device model, {i + 1} of {n}: {what}"))
        lines = paper_lines(model, network, device)
        if plots is not None:
            from sasimc.evaluation.paper.plots import plot_paper

            say("drawing")
            pictures = plot_paper(model, network)
            write_together({plots / name: data for name, data in pictures.items()})
    tables, assumptions = paper_tables(lines)
    print_tables([*tables, peer_table(model)])
    console.print("\nassumptions", **_PLAIN)
    for text in assumptions:
        console.print(f"  {text}", **_PLAIN)
    for text in model.warnings():
        console.print(f"warning: {text}", **_PLAIN)
    if json:
        from sasimc.evaluation.paper.line import peers

        table_3 = [our_row(model), *peers()]
        write_json(
            json,
            {
                "machine": model.machine.name,
                "interpretation": model.interpretation_name,
                "lines": [x.as_dict() for x in lines],
                "table_3": table_3,
            },
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("paper")(paper)
