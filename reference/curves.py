"""Learning curves of the finished cells: one CSV with every epoch, one plot a data set."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sasimc.isa.files import write_atomically
from sasimc.reference.cells import CONFIGURATIONS

__all__ = ["write_csv", "write_plots"]

Result = Mapping[str, Any]
_COLUMNS = ("loss", "train_top1", "val_top1", "writes_bits", "wall_s")
_COLOURS = {1: "#777777", 2: "#1f5fa8", 3: "#3f9a6a", 4: "#c23b22"}


def write_csv(results: Sequence[Result], path: Path) -> None:
    """A line an epoch: data set, configuration, seed, epoch (from 1), loss (nats), accuracies (%), bits written, wall time (s)."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["dataset", "config", "seed", "epoch", *_COLUMNS])
    for r in results:
        for e in r["epochs"]:
            rows.writerow([r["dataset"], r["config"], r["seed"], e["epoch"] + 1, *(e[c] for c in _COLUMNS)])
    write_atomically(path, out.getvalue().encode())


def write_plots(results: Sequence[Result], folder: Path) -> list[Path]:
    """``curves-DATASET.png`` each: validation accuracy by epoch, mean over seeds, and the range between them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    made = []
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
        for config, name in CONFIGURATIONS.items():
            runs = [[e["val_top1"] for e in r["epochs"]] for r in results if (r["dataset"], r["config"]) == (dataset, config)]
            columns = [[v for v in column if v is not None] for column in zip(*runs, strict=False)]
            if not columns or not all(columns):
                continue
            x = range(1, len(columns) + 1)
            axes.plot(x, [statistics.fmean(c) for c in columns], color=_COLOURS[config], label=f"{config}: {name}", lw=1.6)
            axes.fill_between(x, list(map(min, columns)), list(map(max, columns)), color=_COLOURS[config], alpha=0.15, lw=0)
        axes.set(title=Path(dataset).name, xlabel="epoch", ylabel="top-1 on validation images, %")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, loc="lower right")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        plt.close(figure)
        path = folder / f"curves-{Path(dataset).name}.png"
        write_atomically(path, picture.getvalue())
        made.append(path)
    return made
