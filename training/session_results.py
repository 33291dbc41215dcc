"""What a session found out, in words and for its report: answers for single inputs, evaluations, writes and wear."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.arrays import ArrayFile
from sasimc.datasets.dataset import Dataset
from sasimc.datasets.inputs import read_input
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device
from sasimc.runtime.ports import inputs_of, outputs_of
from sasimc.training.evaluation import Errors, Progress, Run, evaluate, evaluate_values, run_here
from sasimc.training.image.recogniser import Recogniser
from sasimc.training.program_notes import untrained
from sasimc.training.recognition import Recognised, evaluate_unsaid
from sasimc.training.session_progress import Shower
from sasimc.training.trainer import Epoch

__all__ = ["answer", "answer_unsaid", "epoch_line", "measure", "measure_unsaid", "run_lines"]

_SHOWN_VALUES = 8


def answer(device: Device, paths: Sequence[Path], top: int, show: Shower) -> list[dict[str, Any]]:
    """Run every example of the files; says what came out and returns it for the report. A bad file raises SasError before the first example runs."""
    if "inputs" in device.program.meta and len(inputs_of(device.program)) > 1:
        return [row for path in paths for row in _named(device, path, show)]
    ports = outputs_of(device.program) if "outputs" in device.program.meta else ()
    several = len(ports) > 1 or any(len(p.dims) > 1 for p in ports) or device.output.shape[:2] != (1, 1)
    no_answers = untrained(device.program)[0]
    examples = [e for path in paths for e in read_input(path, device.input)]
    rows: list[dict[str, Any]] = []
    with show.bar() as watch:
        for number, (name, example) in enumerate(examples, 1):
            got = device.infer(example)
            watch(Progress("images", number, len(examples), simulated_s=device.simulated_s))
            row: dict[str, Any] = {"file": name, "class": None, "label": None, "logits": got.logits[0].tolist()}
            if no_answers:
                show.line(f"{name}: no answer, the program is untrained (its outputs stand in the report)")
            elif device.values:
                row |= _values(device, example, got.logits[0], f"{name}:", show)
            else:
                index = int(got.classes[0])
                row |= {"class": index, "label": _label(device.labels, index)}
                show.line(f"{name}:")
                if several:
                    _outputs(row, device.outputs(1), show)
                else:
                    _likeliest(device.labels, got.logits[0] * device.output.scale, top, show)
            rows.append(row)
    return rows


def _named(device: Device, path: Path, show: Shower) -> Iterator[dict[str, Any]]:
    """A network of several inputs: arrays by the inputs' names; all outputs are shown."""
    file, ports = ArrayFile(path), inputs_of(device.program)
    if missing := [p.name for p in ports if p.name not in file.names]:
        raise SasError(f"{path}: no array is called {missing[0]!r}", hint=f"the program takes {', '.join(p.name for p in ports)}")
    stored = {p.name: file[p.name].reshape(-1, *p.dims) if file[p.name].shape == p.dims else file[p.name] for p in ports}
    for i in range(min(map(len, stored.values()))):
        outputs = device.run({name: x[i : i + 1] for name, x in stored.items()})
        row = {"file": f"{path}[{i}]", "class": None, "label": None}
        show.line(f"{path}[{i}]:")
        _outputs(row, outputs, show)
        yield row


def _outputs(row: dict[str, Any], outputs: Mapping[str, Any], show: Shower) -> None:
    """Outputs of one sample, into the report and on the screen: short ones in numbers, of long ones the range."""
    row["outputs"] = {name: x[0].tolist() for name, x in outputs.items()}
    for name, x in outputs.items():
        few = x.size <= _SHOWN_VALUES
        shown = ", ".join(f"{v:.4g}" for v in x.ravel()) if few else f"{list(x.shape[1:])} from {x.min():.4g} to {x.max():.4g}"
        show.line(f"  {name}: {shown}")


def answer_unsaid(device: Recogniser, paths: Sequence[Path], top: int, show: Shower) -> list[dict[str, Any]]:
    """Run every example of the files through the task that the device takes it for; says what came out and returns it for the report."""
    examples = [e for path in paths for e in read_input(path, device.input)]
    chosen = [int(device.recognise(example)[0]) for _, example in examples]
    rows: dict[int, dict[str, Any]] = {}
    with show.bar() as watch:
        for task in device.handiest(set(chosen)):
            for i in (i for i, other in enumerate(chosen) if other == task):
                got, classes = device.classify(task, examples[i][1]), device.candidates[task].classes
                index, logits = int(got.classes[0]), got.logits[0, : len(classes)]
                label = _label(classes, index)
                rows[i] = {
                    "file": examples[i][0],
                    "task": device.tasks[task],
                    "class": index,
                    "label": label,
                    "logits": logits.tolist(),
                }
                watch(Progress("images", len(rows), len(examples), simulated_s=device.simulated_s))
    for i, (name, _) in enumerate(examples):
        show.line(f"{name}: task {rows[i]['task']}")
        _likeliest(device.candidates[chosen[i]].classes, np.asarray(rows[i]["logits"]) * device.output.scale, top, show)
    return [rows[i] for i in range(len(examples))]


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else f"class {index}"


def _likeliest(labels: Sequence[str], x: Any, top: int, show: Shower) -> None:
    p = np.exp(x - x.max())
    p /= p.sum()
    for i in np.argsort(-x, kind="stable")[: max(1, top)]:
        show.line(f"  {100 * p[i]:5.1f} %  {_label(labels, int(i))}")


def _values(device: Device, example: Any, stored: Any, head: str, show: Shower) -> dict[str, Any]:
    """Real outputs; of a network that gives its input back, how far it is off."""
    real = device.output.real(stored)
    row: dict[str, Any] = {"values": real.tolist()}
    if device.input.shape == device.output.shape:
        steps = stored - device.targets(example).reshape(-1)
        row["error"] = float(np.square(steps).mean()) * device.output.scale**2
        head += f" mean squared error {row['error']:.4g};"
    more = f", ... ({real.size} in all)" if real.size > _SHOWN_VALUES else ""
    show.line(f"{head} {', '.join(f'{v:.4g}' for v in real[:_SHOWN_VALUES])}{more}")
    return row


def epoch_line(e: Epoch, epochs: int) -> str:
    """An epoch, in words."""
    if math.isnan(e.train_top1):
        val = "" if e.val_loss is None else f", val {e.val_loss:.4g}"
        result = f"mean squared error {e.loss:.4g}{val}"
    else:
        val = "" if math.isnan(e.val_top1) else f", val {e.val_top1:.1f} %"
        result = f"loss {e.loss:.3f}, train {e.train_top1:.1f} %{val}"
    return f"epoch {e.epoch + 1}/{epochs}: {result}, {e.writes_bits} bits written, {e.wall_s:.1f} s"


def measure(device: Device, dataset: Dataset, split: str, limit: int | None, show: Shower, run: Run = run_here) -> dict[str, Any]:
    """Evaluate a split; says how it went and returns it for the report."""
    whole = min(len(dataset.items(split)), limit or 1 << 60)
    with show.bar() as watch:
        if device.values:
            errors = evaluate_values(device, dataset, split, watch, limit, run=run)
            count, found = len(errors.each), _errors(errors, dataset)
            words = f"mean squared error {errors.mean:.4g} of {count} examples (standard error {errors.standard_error:.2g})"
            if not math.isnan(errors.auc):
                words += f"; AUC of the error {errors.auc:.4f}"
        else:
            answers = Counter[tuple[int, int]]()
            top1, count = evaluate(device, dataset, split, watch, limit, answers=answers, run=run)
            error = math.sqrt(max(top1 * (100 - top1), 0) / max(1, count))
            confusion = [[*pair, n] for pair, n in sorted(answers.items())]
            found = {"top1": top1, "top1_error": error, "classes": list(dataset.classes), "confusion": confusion}
            words = f"top-1 {top1:.2f} % of {count} images (standard error {error:.2f})"
    skipped = f"; {whole - count} damaged, skipped" if count < whole else ""
    show.line(f"{dataset.name} {split}: {words}{skipped}")
    return {**found, "split": split, "evaluated": count}


def measure_unsaid(
    device: Recogniser, dataset: Dataset, numbers: npt.NDArray[np.int64], split: str, limit: int | None, show: Shower
) -> tuple[dict[str, Any], list[Recognised]]:  # fmt: skip
    """Evaluate a split whose images' task is not said; says how it went; for the report, and by task."""
    with show.bar() as watch:
        rows, confusion = evaluate_unsaid(device, dataset, numbers, split, watch, limit)
    for row in rows:
        show.line(
            f"task {row.task} {split}: {row.recognised:.2f} % of {row.images} images recognised; top-1 {row.top1:.2f} %, with the task said {row.known:.2f} %"
        )
    count = sum(r.images for r in rows)
    mean = {name: sum(r.images * getattr(r, name) for r in rows) / count for name in ("recognised", "top1", "known")}
    if len(rows) > 1:
        show.line(
            f"all tasks: {mean['recognised']:.2f} % recognised; top-1 {mean['top1']:.2f} %, with the task said {mean['known']:.2f} %"
        )
    each = device.recognition_cycles / device.recognised_images
    show.line(f"to find the task: {each:.0f} cycles an image, {sum(len(c.means) for c in device.candidates)} means")
    error = math.sqrt(max(mean["top1"] * (100 - mean["top1"]), 0) / count)
    found = {
        "top1": mean["top1"],
        "top1_error": error,
        "classes": list(device.labels),
        "confusion": [list(c) for c in confusion],
        "split": split,
    }
    unsaid = {"tasks": [asdict(r) for r in rows], "all": mean, "cycles_an_image": each}
    return {**found, "evaluated": count, "unsaid": unsaid}, rows


def _errors(errors: Errors, dataset: Dataset) -> dict[str, Any]:
    rows = zip(errors.keys, errors.classes.tolist(), errors.each.tolist(), strict=True)
    return {
        "error": errors.mean,
        "auc": None if math.isnan(errors.auc) else errors.auc,
        "scores": [{"example": key, "label": dataset.classes[label], "error": each} for key, label, each in rows],
    }


def run_lines(device: Device, report: Mapping[str, Any], damaged: int, worn: str) -> Iterator[str]:
    """The end of a run; ``worn``: whose wear it is (``of the device``, ``of this run``)."""
    it = device.interpreter
    yield f"{report['images']} images, {report['images_per_s']:.1f} images/s; device: {it.cycles} cycles = {device.simulated_s:.3g} s"
    if damaged:
        yield f"damaged files, skipped: {damaged}"
    yield from _write_lines(report, worn)
    if device.program.machine.bit_serial.zero_skip == "cycles":
        whole = it.cycles + it.cycles_saved
        yield f"zero input bits saved {it.cycles_saved} of {whole} cycles ({100 * it.cycles_saved / max(1, whole):.1f} %)"
    if "error_ranges" in device.program.meta and report.get("steps"):
        errors = it.phase_events["error"]
        share = errors["saturated"] / max(1, errors["range_ops"])
        yield f"errors beyond the exponent of the step before, saturated: {errors['saturated']} of {errors['range_ops']} ({1e6 * share:.3g} in a million)"
    if device.replayed:
        yield f"{device.replayed} runs replayed on another engine: identical in values, cycles and events"


def _write_lines(report: Mapping[str, Any], worn: str) -> Iterator[str]:
    """Writes of this run and wear, by what stands in the word lines."""
    written, steps = report["writes"], report.get("steps", 0)
    if not written["weights"]["rows"] + written["scratch"]["rows"] + written["host"]["rows"]:
        return

    def a_step(bits: int) -> str:
        return f" ({bits / steps:.3g} a step)" if steps else ""

    for kind, words in (("weights", "weights"), ("scratch", "scratch rows")):
        w = written[kind]
        yield (
            f"{words}: {w['rows']} row writes, {w['bits_written']} bits written, {w['bits_flipped']} flipped{a_step(w['bits_flipped'])}; "
            f"most written row {worn}: {w['worst']} times (sub-array {w['worst_row'][0]}, word line {w['worst_row'][1]}), mean {w['mean']:.3g}"
        )
    if written["host"]["rows"]:
        h = written["host"]
        yield f"by the host: {h['rows']} row writes, {h['bits_written']} bits written, {h['bits_flipped']} flipped"
