"""Table I beside the paper's: means, deviations and differences over the finished cells, and what is not comparable."""

from __future__ import annotations

import itertools
import math
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from sasimc.reference.cells import CONFIGURATIONS
from sasimc.training.keeping import standard_error

__all__ = ["by_image", "error_of_mean", "not_comparable", "paper", "summary", "text"]

Result = Mapping[str, Any]


@cache
def paper() -> Mapping[str, Any]:
    """The paper's table I and its conditions (``paper_table1.toml``)."""
    return tomllib.loads(resources.files("sasimc.reference").joinpath("paper_table1.toml").read_text(encoding="utf-8"))


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Figures of the table, JSON-ready.

    ``rows``: a row a data set and configuration: mean and standard deviation (n - 1) over seeds, the binomial standard error of the test
    images, sums of wall time, simulated time and bits. ``differences``: configuration 4 less 2, 4 less 1 and 2 less 1, seed by
    seed, mean and standard error, over seeds (the images are the same) and over images (paired, each as the mean of its seeds), and for all data
    sets together.
    """
    rows = [_row(group) for group in _groups(results).values()]
    return {"rows": rows, "differences": [d for pair in ((4, 2), (4, 1), (2, 1), (3, 2)) for d in _differences(results, *pair)]}


def _groups(results: Sequence[Result]) -> dict[tuple[str, int], list[Result]]:
    groups: dict[tuple[str, int], list[Result]] = {}
    for r in results:
        groups.setdefault((r["dataset"], r["config"]), []).append(r)
    return groups


def _row(group: Sequence[Result]) -> dict[str, Any]:
    first, accuracies = group[0], [r["top1"] for r in group]
    known = paper()["datasets"].get(first["dataset"])
    images = first["counts"][first["split"]]
    mean = statistics.fmean(accuracies)
    return {
        "dataset": first["dataset"],
        "config": first["config"],
        "seeds": len(group),
        "top1_mean": mean,
        "top1_std": statistics.stdev(accuracies) if len(group) > 1 else None,
        "images_measured": images,
        "images_standard_error": standard_error(mean, images),
        "paper_top1": known["top1"][first["config"] - 1] if known else None,
        "wall_s": _total(group, "wall_s"),
        "simulated_s": _total(group, "simulated_s"),
        "bits_written": _total(group, "bits_written"),
        "bits_flipped": _total(group, "bits_flipped"),
        "cross_checked": _total(group, "cross_checked"),
    }


def _total(group: Sequence[Result], key: str) -> float | None:
    values = [r[key] for r in group if r[key] is not None]
    return statistics.fmean(values) if values else None


def _differences(results: Sequence[Result], ours: int, other: int) -> list[dict[str, Any]]:
    """Of two configurations, on the seeds that both have."""
    cells = {(r["dataset"], r["config"], r["seed"]): r for r in results}
    rows: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        pairs = [(r, cells[dataset, other, s]) for (d, c, s), r in cells.items()
                 if d == dataset and c == ours and (dataset, other, s) in cells]  # fmt: skip
        if pairs:
            points = [a["top1"] - b["top1"] for a, b in pairs]
            rows.append({"dataset": dataset, "config": ours, "less": other, "seeds": len(pairs), "points": statistics.fmean(points),
                         "standard_error": error_of_mean(points), "images_standard_error": error_of_mean(by_image(pairs))})  # fmt: skip
    if len(rows) > 1:
        errors = {k: _together([r[k] for r in rows]) for k in ("standard_error", "images_standard_error")}
        rows.append({"dataset": f"mean of {len(rows)}", "config": ours, "less": other, "seeds": min(r["seeds"] for r in rows),
                     "points": statistics.fmean(r["points"] for r in rows), **errors})  # fmt: skip
    return rows


def by_image(pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """Difference of an image, in points, as the mean over seeds; images that could not be read are left out."""
    columns = zip(*(zip(a["right"], b["right"], strict=True) for a, b in pairs), strict=True)
    return [
        100 * statistics.fmean(int(x) - int(y) for x, y in column) for column in columns if "-" not in itertools.chain(*column)
    ]


def error_of_mean(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None: of a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _together(errors: Sequence[float | None]) -> float | None:
    """Standard error of the mean of independent figures."""
    known = [e for e in errors if e is not None]
    return math.hypot(*known) / len(errors) if len(known) == len(errors) else None


def not_comparable(results: Sequence[Result]) -> list[str]:
    """Plain sentences: in what our numbers and the paper's differ beside the method."""
    said, p = [], paper()
    sizes = sorted({r["size"] for r in results})
    if sizes != [p["resolution"]]:
        said.append(f"Our input is {' and '.join(f'{s} px' for s in sizes)}, the paper's {p['resolution']} px.")
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        r = next(r for r in results if r["dataset"] == dataset)
        counts, known = r["counts"], p["datasets"].get(dataset)
        if r["side_px"] < r["size"]:
            said.append(f"{dataset}: the images have a short side of {r['side_px']} px and are enlarged.")
        if known is None:
            said.append(f"{dataset}: not in the paper.")
        elif (counts["train"] + counts["val"], counts["test"]) != (known["train"], known["test"]):
            said.append(
                f"{dataset}: a subset or another split, {counts['train']} + {counts['val']} training and held-back images and "
                f"{counts['test']} test images; the full set has {known['train']} and {known['test']}."
            )
        elif counts["val"]:
            said.append(f"{dataset}: {counts['val']} of the {known['train']} training images are held back.")
    epochs = sorted({len(r["epochs"]) for r in results})
    if epochs != [p["epochs"]]:
        said.append(f"Our runs have {', '.join(map(str, epochs))} epochs, the paper's {p['epochs']}.")
    said.append(f"The paper: {p['selection']}; ours never read the test images before the last epoch is over.")
    if any(r["split"] != "test" for r in results):
        said.append("These accuracies are on validation images: tuning, not results.")
    return said


def text(results: Sequence[Result]) -> str:
    """The table as Markdown, the differences, and what is not comparable."""
    made = summary(results)
    lines = ["| data set | configuration | seeds | top-1, % | paper, % | wall, s | device, s | bits written |", "|" + "---|" * 8]
    for r in made["rows"]:
        spread = "" if r["top1_std"] is None else f" ± {r['top1_std']:.2f}"
        lines.append(
            f"| {r['dataset']} | {r['config']}: {CONFIGURATIONS[r['config']]} | {r['seeds']} | {r['top1_mean']:.2f}{spread} | "
            f"{_or(r['paper_top1'], 'g')} | {r['wall_s']:.3g} | {_or(r['simulated_s'], '.3g')} | {_or(r['bits_written'], '.3g')} |"
        )
    lines += ["", "± is the standard deviation over seeds; times and bits are of one run (mean).", "",
              "| data set | difference | points | standard error over seeds | over images |", "|---|---|---|---|---|"]  # fmt: skip
    for d in made["differences"]:
        lines.append(
            f"| {d['dataset']} | {d['config']} less {d['less']} | {d['points']:+.2f} | "
            f"{_or(d['standard_error'], '.2f')} | {_or(d['images_standard_error'], '.2f')} |"
        )
    images = {r["dataset"]: r for r in made["rows"]}.values()
    lines += ["", "Standard error by the number of images measured (the same for all configurations, which share them): "
              + ", ".join(f"{r['dataset']} {r['images_standard_error']:.1f} ({r['images_measured']} images)" for r in images) + ".",
              "", "Not comparable with the paper:", "", *(f"- {sentence}" for sentence in not_comparable(results))]  # fmt: skip
    return "\n".join(lines) + "\n"


def _or(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
