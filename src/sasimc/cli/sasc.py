"""``sasc``: build, check and compile models; assemble, disassemble and lint programs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli import sasc_asm, sasc_device, sasc_diff, sasc_machine, sasc_paper, sasc_report
from sasimc.cli.common import console, require_writable, run_app, write_json

__all__ = ["app", "main"]

_HELP = "Build, check and compile models; assemble, disassemble and lint programs."

app = typer.Typer(no_args_is_help=True, add_completion=False, help=_HELP, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def zoo(
    name: Annotated[str, typer.Argument(help="Model to build: mobilenetv2-repnet")],
    output: Annotated[Path, typer.Option("-o", "--output", help="ONNX file to write")],
    weights: Annotated[
        str | None, typer.Option(help="Folder of INT8 weights, an .npz of folded floats, or 'torchvision'; default: random")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="Outputs of a new, trainable classifier; default: the classifier of the weights, frozen")
    ] = None,
    width: Annotated[float, typer.Option(help="Width multiplier")] = 1.0,
    resolution: Annotated[int, typer.Option(help="Input size in pixels")] = 224,
    modules: Annotated[
        str, typer.Option(help="Rep-Net modules: default, none, or attach[:hidden[:kernel[:groups]]],...")
    ] = "default",
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of images for activation ranges; default: images drawn by formula")
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="Images used from that folder")] = 32,
    padding: Annotated[str | None, typer.Option(help="tf or symmetric; default: as the weights were trained")] = None,
    headroom: Annotated[
        float | None, typer.Option(help="Factor by which ranges of trainable activations may grow in training")
    ] = None,
    rep_gain: Annotated[float | None, typer.Option(help="Initial size of a module's output beside the block's")] = None,
    module_scales: Annotated[
        str | None, typer.Option(help="Weight scales of the modules: one power of two a tensor, or one an output channel")
    ] = None,
    head_init: Annotated[str, typer.Option(help="Classifier start: random or zero")] = "random",
    seed: Annotated[int, typer.Option(help="Seed of initial weights")] = 0,
) -> None:
    """Build MobileNet-V2 + Rep-Net as a quantised ONNX file that onnxruntime runs as well."""
    from sasimc.zoo.zoo import ZooOptions, build, parse_modules, write

    require_writable(output)
    tuned: dict[str, Any] = {"headroom": headroom, "rep_gain": rep_gain, "module_scales": module_scales}
    options = ZooOptions(
        weights=weights, width=width, resolution=resolution, classes=classes, modules=parse_modules(modules), padding=padding, seed=seed,
        calibrate=calibrate, calibration_images=calibration_images, head_init=head_init,
        **{k: v for k, v in tuned.items() if v is not None},
    )  # fmt: skip
    with console.status(f"building {name}"):
        model = build(name, options)
        path = write(model, output)
    trainable = next((p.value for p in model.metadata_props if p.key == "sasimc.trainable"), "[]")
    console.print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB), trainable layers: {trainable}")


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="ONNX file")],
    machine: Annotated[Path | None, typer.Option(help="Machine description; default: the paper's")] = None,
    trainable: Annotated[str | None, typer.Option(help="Pattern over node and initialiser names")] = None,
    batch: Annotated[int, typer.Option(help="Largest batch of a training step")] = 8,
    backprop: Annotated[str, typer.Option(help="exact or truncated")] = "exact",
) -> None:
    """List what maps where, and everything that does not and why, before compiling."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.frontend.check import check_model
    from sasimc.frontend.load import load_model

    report = check_model(load_model(model), trainable)
    console.print(str(report), markup=False, highlight=False)
    if not report.ok:
        raise typer.Exit(2)
    given: dict[str, Any] = {"machine": machine, "batch": batch, "backprop": backprop, "trainable": trainable}
    compiled = compile_model(model, CompileOptions(**given))
    rows = [("layer", "kind", "array", "weights", "tiles", "copies", "sub-arrays", "groups")]
    m = compiled.program.machine
    twins = compiled.placement.twins
    for parts in compiled.placement.layers.values():
        standing = [(part, matrix) for part, m in parts for matrix in (m, twins.get(part.name)) if matrix is not None]
        for part, matrix in standing:
            subs = {t.subarray for t in matrix.tiles}
            groups = sorted({m.group_of(s) for s in subs})
            kind = part.kind + (" trainable" if part.trainable else "")
            size, tiles = f"{matrix.k}x{matrix.n}", str(len(matrix.tiles) // matrix.copies)
            rows.append((matrix.name, kind, matrix.array, size, tiles, str(matrix.copies), str(len(subs)), _ranges(groups)))
    for line in _aligned(rows):
        print(line)
    place = compiled.placement
    console.print(
        f"{place.used} of {m.subarrays} sub-arrays ({place.transposable_subarrays} transposable), buffer peak "
        f"{compiled.buffer_peak_bytes} of {m.buffer.bytes} bytes",
        highlight=False,
    )
    hosted = sorted(v for v, home in compiled.plan.home.items() if home == "host")
    console.print(f"kept in host memory: {', '.join(hosted)}", markup=False, highlight=False)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _ranges(numbers: list[int]) -> str:
    out: list[str] = []
    for n in numbers:
        if out and int(out[-1].split("-")[-1]) == n - 1:
            out[-1] = f"{out[-1].split('-')[0]}-{n}"
        else:
            out.append(str(n))
    return ",".join(out)


@app.command("compile")
def compile_command(
    model: Annotated[Path | None, typer.Argument(help="ONNX file; default: the embedded small MobileNet-V2 + Rep-Net")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Program to write: .s (text) or .bin")] = Path("prog.s"),
    machine: Annotated[Path | None, typer.Option(help="Machine description (TOML); default: the paper's")] = None,
    batch: Annotated[int, typer.Option(help="Largest batch of a training step")] = 8,
    backprop: Annotated[
        str, typer.Option(help="exact: errors pass every layer; truncated: they stop at frozen multiply layers where they can")
    ] = "exact",
    trainable: Annotated[
        str | None, typer.Option(help="Pattern over node and initialiser names; default: what the file's metadata say")
    ] = None,
    eps: Annotated[float, typer.Option(help="Label smoothing")] = 0.1,
    backprop_through: Annotated[
        list[str] | None,
        typer.Option(
            help="Glob or regular expression over node names (may be repeated): of the frozen multiply layers, errors pass "
            "these and those that no trainable layer can do without; takes the place of --backprop"
        ),
    ] = None,
    update: Annotated[
        str | None,
        typer.Option(
            help="direct: 8-bit weights; accumulate: 16 bits, the low byte outside the arrays; momentum (default): and momentum 7/8"
        ),
    ] = None,
    round_errors: Annotated[
        str | None,
        typer.Option(
            help="Rounding of errors to 8 bits: nearest; carried (default): and those of the loss keep their sum; stochastic: by their low bits"
        ),
    ] = None,
    gradient_power: Annotated[
        int | None, typer.Option(help="Divide gradients by this power (0, 1, 2) of their output channel's weight scale")
    ] = None,
    gradient_range: Annotated[
        str | None, typer.Option(help="mu counts from the largest gradient of this batch (batch) or of the batches so far (peak)")
    ] = None,
    inference_only: Annotated[
        bool, typer.Option("--inference-only", help="No train_step entry, no transposable sub-arrays")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the summary as JSON (docs/reports.md)")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print a row for every layer: tiles, copies, cycles, bound, what binds")
    ] = False,
    print_ir_after: Annotated[str, typer.Option(help="Print the graph after this pass (or 'all')")] = "",
) -> None:
    """Compile an ONNX file to SAS assembly (and its weights file beside it)."""
    start = time.perf_counter()
    from sasimc.api import CompileOptions, compile_model, compile_report
    from sasimc.isa.errors import SasError
    from sasimc.isa.files import save_program
    from sasimc.zoo.zoo import default_model_path

    if output.suffix not in (".s", ".bin"):
        raise SasError(f"cannot tell the program's format from {output.name!r}", hint="end the name in .s or .bin")
    require_writable(output, report)
    path = model if model is not None else default_model_path()
    scheme: dict[str, Any] = {
        "backprop": backprop,
        "update": update,
        "round_errors": round_errors,
        "gradient_power": gradient_power,
        "gradient_range": gradient_range,
    }
    options = CompileOptions(
        machine=machine, batch=batch, trainable=trainable, eps=eps, backprop_through=tuple(backprop_through or ()),
        inference_only=inference_only, print_ir_after=print_ir_after, **{k: v for k, v in scheme.items() if v is not None},
    )  # fmt: skip
    with console.status("compiling") as status:
        compiled = compile_model(
            path, options, progress=lambda what: status.update(f"compiling: {what}"), sink=lambda text: print(text)
        )
        status.update("writing")
        compiled = replace(compiled, program=save_program(compiled.program, output))
    made = compile_report(compiled, time.perf_counter() - start)
    if report:
        write_json(report, made)
    if explain:
        _explain(made["layers"])
        _explain_training(made.get("training", []))
    clock = compiled.program.machine.clock_hz
    console.print(f"{output}: {made['instructions']} instructions, {made['encoded_bytes']} bytes encoded", highlight=False)
    console.print(
        f"sub-arrays {made['subarrays_used']} of {made['subarrays_total']} ({made['subarrays_transposable']} transposable, "
        f"{made['subarrays_scratch']} scratch), buffer peak {made['buffer_peak_bytes']} of {made['buffer_bytes']} bytes",
        highlight=False,
    )
    for entry, cycles in made["cycles"].items():
        console.print(f"{entry}: {cycles} cycles = {1e3 * cycles / clock:.3g} ms at {clock / 1e6:g} MHz", highlight=False)
    ratio = made["cycles"]["infer"] / made["bound_cycles"] if made["bound_cycles"] else float("nan")
    console.print(f"bound of infer: {made['bound_cycles']} cycles (x {ratio:.2f})", highlight=False)
    mapping = made["mapping"]
    gap = (
        ""
        if mapping["gap"] is None
        else f"; no choice of cuts and copies takes less than {mapping['limit']:.0f} (gap {mapping['gap']:.2%})"
    )
    console.print(f"mapping: products of {mapping['cycles']:.0f} cycles a sample{gap}", highlight=False)
    console.print(f"compiled in {made['wall_s']:.2f} s", highlight=False)


def _explain(layers: list[dict[str, Any]]) -> None:
    """Print the table of ``--explain``."""
    from rich.table import Table

    table = Table(box=None)
    for column in ("layer", "kind", "tiles", "copies", "side by side", "sub-arrays", "cycles", "bound", "ratio", "binds"):
        table.add_column(column, justify="left" if column in ("layer", "kind", "binds") else "right", overflow="fold")
    for row in layers:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else ""
        numbers = (
            str(row["tiles"]),
            str(row["copies"]),
            str(row["side"]),
            str(row["subarrays"]),
            f"{row['cycles']:.0f}",
            f"{row['bound']:.0f}",
            ratio,
        )
        table.add_row(row["layer"], row["kind"], *numbers, row["binds"])
    console.print(table)


def _explain_training(phases: list[dict[str, Any]]) -> None:
    """Print a training step's phases: cycles, how busy each unit is, and the machine fields that would change it."""
    from rich.table import Table

    if not phases:
        return
    units = [u for u in phases[0]["units"] if any(row["units"].get(u) for row in phases)]
    table = Table(box=None, title="train_step: cycles, and busy cycles of each unit", title_justify="left")
    for column in ("phase", "cycles", *units, "binds", "machine fields"):
        table.add_column(column, justify="left" if column in ("phase", "binds", "machine fields") else "right", overflow="fold")
    for row in phases:
        numbers = (str(row["units"].get(u, 0)) for u in units)
        table.add_row(row["phase"], str(row["cycles"]), *numbers, row["binds"], ", ".join(row["fields"]))
    console.print(table)


sasc_asm.register(app)
sasc_device.register(app)
sasc_diff.register(app)
sasc_paper.register(app)
sasc_machine.register(app)
sasc_report.register(app)


def main() -> None:
    """Entry point of the ``sasc`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
