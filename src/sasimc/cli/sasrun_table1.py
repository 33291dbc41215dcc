"""``sasrun table1``: the four configurations of the paper's table I on any data sets."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sasimc.cli.common import console, require_writable, run_app, write_json
from sasimc.isa.errors import SasError

__all__ = ["app", "compiler"]

_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
_PLAIN_EVERY_S = 20.0

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _numbers(text: str, option: str, low: int, high: int) -> tuple[int, ...]:
    """``1,2,4`` as numbers from ``low`` to ``high``."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or not all(low <= n <= high for n in numbers):
        raise SasError(f"{option} {text!r}: numbers from {low} to {high}, separated by commas")
    return numbers


def compiler(engine: str, threads: int | None) -> Any:
    """What turns an ONNX file and a recipe into a device."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.runtime.device import Device
    from sasimc.training.recipe import Recipe

    def compiled(model: Path, recipe: Recipe) -> Device:
        options = CompileOptions(batch=recipe.batch, **asdict(recipe.compile))
        return Device(compile_model(model, options).program, engine, threads)

    return compiled


class _Shown:
    """Progress of a cell: one changing line on a terminal, a plain line now and then in a log."""

    def __init__(self, head: str) -> None:
        self.head, self._said = head, time.perf_counter()

    def __call__(self, p: Any) -> None:
        now = time.perf_counter()
        if not console.is_terminal and now - self._said < _PLAIN_EVERY_S:
            return
        loss = f", loss {p.loss:.3f}" if p.loss is not None else ""
        top1 = f", top-1 {p.top1:.1f} %" if p.top1 is not None else ""
        text = f"{self.head}: {p.what}, {p.done}/{p.total} images{loss}{top1}"
        if console.is_terminal:
            console.file.write(f"\r{text}\x1b[K")
            console.file.flush()
        else:
            console.print(text, **_PLAIN)
        self._said = now


@app.command()
def table1(
    datasets: Annotated[str, typer.Option(help="Data sets, separated by commas: names (see `sasrun data`) or paths")],
    out: Annotated[
        Path, typer.Option(help="Folder for models, finished cells, curves and the table; a killed run goes on from it")
    ],
    configs: Annotated[
        str, typer.Option(help="1 classifier only FP32, 2 backbone + Rep-Net FP32, 3 backbone INT8, 4 both INT8")
    ] = "1,2,3,4",
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1: initialisation, order, augmentation", min=1, max=1000)] = 3,
    size: Annotated[int, typer.Option(help="Side of the input, pixels", min=32, max=2048)] = 224,
    width: Annotated[float, typer.Option(help="Width of the backbone")] = 1.0,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of the backbone as for `sasc zoo`, or random; default: `weights` in the data folder, else torchvision"
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of data sets; default: SASIMC_DATA")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe (name or file) for all; default: the shipped one of each data set")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Use at most this many images of a split", min=1)] = None,
    hold_back: Annotated[
        float | None,
        typer.Option(help="Share of train and val together that is held back, instead of the recipe's", min=0, max=0.5),
    ] = None,
    split: Annotated[str, typer.Option(help="Accuracy on test images, or val: tuning, the test images are never read")] = "test",
    engine: Annotated[str, typer.Option(help="Engine of configuration 4")] = "fused",
    cross_check: Annotated[int, typer.Option(help="Replay every Nth image or step on another engine (0: none)", min=0)] = 500,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch and of the simulator", min=1)] = 2,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON")] = None,
) -> None:
    """The paper's table I: four configurations with the same images, order, augmentation, split, steps and epochs.

    1 to 3 run in PyTorch (pip install 'sas-imc[reference]'), 4 is the compiled program on the simulated device. Finished cells are
    kept in --out and never run twice. The test images are read once, after the last epoch.
    """
    from sasimc.reference import require

    chosen = _numbers(configs, "--configs", 1, 4)
    require()
    from sasimc.reference.cells import CONFIGURATIONS, Cell, Runner, Settings, use_threads
    from sasimc.reference.curves import write_csv, write_plots
    from sasimc.reference.table1 import summary, text

    require_writable(json)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SasError(f"cannot make the folder {out}: {exc.strerror or exc}") from None
    use_threads(threads)
    settings = Settings(
        out=out, size=size, width=width, weights=_weights(weights, data), data=data, recipe=recipe, epochs=epochs, limit=limit,
        hold_back=hold_back, split=split, cross_check=cross_check,
    )  # fmt: skip
    runner = Runner(settings, compiler(engine, threads))
    cells = [Cell(d, c, s) for s in range(seeds) for d in datasets.split(",") for c in chosen]
    for name in dict.fromkeys(c.dataset for c in cells):
        console.print(runner.dataset(name).note, **_PLAIN)
    results = []
    for number, cell in enumerate(cells, 1):
        head = f"[{number}/{len(cells)}] {cell.dataset}, seed {cell.seed}, {cell.config}: {CONFIGURATIONS[cell.config]}"
        done = runner.finished(cell)
        what = "kept from before"
        if done is None:
            done = runner.run(cell, _Shown(head))
            what = f"{done['wall_s']:.0f} s"
        if console.is_terminal:
            console.file.write("\r\x1b[K")
        console.print(f"{head}: {done['top1']:.2f} % ({what})", **_PLAIN)
        results.append(done)
    write_csv(results, out / "curves.csv")
    plots = write_plots(results, out)
    made = text(results)
    (out / "table1.md").write_text(made, encoding="utf-8")
    sys.stdout.write("\n" + made)
    console.print(f"wrote {', '.join(str(p) for p in (out / 'table1.md', out / 'curves.csv', *plots))}", **_PLAIN)
    if json:
        write_json(json, {**summary(results), "cells": results})


def _weights(chosen: str | None, data: Path | None) -> str | None:
    """What was chosen (None for ``random``), else ``weights`` in the data folder, else torchvision's."""
    from sasimc.datasets.dataset import data_folder

    if chosen is not None:
        return None if chosen == "random" else chosen
    base = data_folder(data)
    return str(base / "weights") if base is not None and (base / "weights").is_dir() else "torchvision"


if __name__ == "__main__":
    run_app(app, prog="sasrun table1")
