"""The whole table: the lines of every figure and table, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.paper.line import Line, peers, printed
from sasimc.evaluation.paper.lines import (
    NOT_HERE,
    chip_lines,
    figure_10_lines,
    figure_11a_lines,
    figure_11b_lines,
    interpretation_lines,
    network_lines,
    system_lines,
    table_2_lines,
    table_3_lines,
    table_4_lines,
)
from sasimc.evaluation.paper.network import Network
from sasimc.evaluation.paper.validation import validation_lines
from sasimc.evaluation.table import Table

__all__ = ["device_lines", "our_row", "paper_lines", "paper_tables", "peer_table"]


def device_lines(
    model: CostModel, writes: int, watch: Callable[[str, int, int], None] | None = None, threads: int = 1
) -> list[Line]:
    """What the device model says where the paper prints a number: write energy, figure 8b, energy of STT writing.

    ``writes`` bits are simulated by each method; 0: nothing is, and the lines say so.
    """
    group = "device model"
    if not writes:
        q = printed()["device.stt_over_sas"]
        return [Line(group, "STT / SAS: write energy", q.value, None, "1", "", q.source, reason="not simulated (--quick)")]
    from sasimc.evaluation.device.figures import device_report

    report = device_report(model.technology, writes=writes, threads=threads, watch=watch)
    assumed = tuple(f"stack {report.stack_name}: {name}: {q.source}" for name, q in report.assumptions.items())
    return [
        Line(
            group,
            f.name,
            f.paper.to(f.unit),
            f.value if math.isfinite(f.value) else None,
            f.unit,
            f.how,
            f.paper.source,
            assumed,
            "" if math.isfinite(f.value) else "too few writes for rare errors",
        )
        for f in report.figures
        if f.paper is not None
    ]


def paper_lines(model: CostModel, network: Network | None, device: Iterable[Line]) -> list[Line]:
    """Every line, in the order of the paper. ``device``: the lines of :func:`device_lines`."""
    return [
        *chip_lines(model.machine),
        *network_lines(network),
        *table_2_lines(model.technology),
        *device,
        *table_3_lines(model),
        *interpretation_lines(model),
        *table_4_lines(model),
        *figure_10_lines(model, network),
        *figure_11a_lines(network, model.machine),
        *system_lines(model, network),
        *figure_11b_lines(),
        *validation_lines(model),
        *NOT_HERE,
    ]


def paper_tables(lines: Iterable[Line]) -> tuple[list[Table], list[str]]:
    """The lines as tables, one a group, and the assumptions that they name by number."""
    numbers: dict[str, int] = {}
    groups: dict[str, list[tuple[str, ...]]] = {}
    for line in lines:
        rests = [numbers.setdefault(text, len(numbers) + 1) for text in line.assumptions]
        ratio = "" if line.ratio is None else f"{line.ratio:.4g}"
        how = "; ".join(part for part in (line.how, f"({line.reason})" if line.reason else "") if part)
        cells = (line.item, line.text(line.paper), line.text(line.ours), line.range_text, ratio, _ranges(sorted(rests)), how)
        groups.setdefault(line.group, []).append(cells)
    tables = [
        Table(name, ("", "paper", "ours", "range", "ratio", "assumes", "how"), rows, (0, 5, 6)) for name, rows in groups.items()
    ]
    return tables, [f"[{n}] {text}" for text, n in numbers.items()]


def _ranges(numbers: list[int]) -> str:
    out: list[list[int]] = []
    for n in numbers:
        if out and out[-1][-1] == n - 1:
            out[-1].append(n)
        else:
            out.append([n])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in out)


def our_row(model: CostModel) -> dict[str, str]:
    """Our row of table III, computed."""
    peak, machine, technology = model.peak(), model.machine, model.technology
    eight = 2 / (machine.array.weight_bits * model.circuit.reference.input_bits)
    return {
        "reference": "ours",
        "technology": f"{technology.kind}-MRAM" if technology.non_volatile else technology.kind,
        "node": "28nm",
        "capability": "Inference & Learning",
        "precision": f"{machine.array.weight_bits}-bit",
        "bit_cell": f"{technology.transistors_per_bit.value:g}T",
        "supply": "0.8V",
        "frequency": f"{machine.clock_hz * 1e-6:g}MHz",
        "macro": f"{machine.array.rows * machine.array.bit_columns / 8192:g}KB",
        "performance": f"{eight * peak.operations * 1e-9:.4g} (8b/8b), {peak.operations * 1e-9:.5g} (1b)",
        "efficiency": f"{eight * peak.tops_per_watt():.3g} (8b/8b), {peak.tops_per_watt():.4g} (1b)",
    }


def peer_table(model: CostModel) -> Table:
    """Table III: our row computed, the others quoted."""
    rows = [our_row(model), *peers()]
    columns = tuple(rows[0])
    units = {"performance": "GOPS", "efficiency": "TOPS/W"}
    title = f"table III: our row computed (interpretation {model.interpretation_name!r}), the others as printed in the paper"
    heads = tuple(units[c] if c in units else c.replace("_", " ") for c in columns)
    return Table(title, heads, [tuple(r[c] for c in columns) for r in rows], tuple(range(len(columns))))
