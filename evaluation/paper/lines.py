"""The paper, line by line: every number that can be checked beside ours. Each function gives the lines of one table or figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from sasimc.evaluation.area import FIGURE_10, area
from sasimc.evaluation.charges import PRINTED
from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.fields import with_number
from sasimc.evaluation.figure import shown
from sasimc.evaluation.paper.line import Line, claim, printed
from sasimc.evaluation.paper.network import Network
from sasimc.evaluation.paper.updates import TECHNOLOGIES, update_energies
from sasimc.evaluation.quantity import Quantity, format_si
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine

__all__ = [
    "NOT_HERE",
    "chip_lines",
    "figure_10_lines",
    "figure_11a_lines",
    "figure_11b_lines",
    "interpretation_lines",
    "network_lines",
    "system_lines",
    "table_2_lines",
    "table_3_lines",
    "table_4_lines",
]  # fmt: skip

_WORKED_WITH = "taken as data, to be worked with"


def _line(group: str, item: str, quantity: Quantity, ours: float, how: str, assumptions: tuple[str, ...] = ()) -> Line:
    return Line(group, item, quantity.value, ours, quantity.unit, how, quantity.source, assumptions)


def chip_lines(machine: Machine) -> Iterator[Line]:
    """Peak throughput and sizes of section VI-B."""
    p, group = printed(), "throughput and capacity"
    active, columns, clock = machine.group_size, machine.array.bit_columns, machine.clock_hz
    how = f"{active} sub-arrays x {columns} bit columns x {format_si(clock, 'Hz')}"
    yield _line(group, "peak, one-bit operations", p["chip.peak_1b"], active * columns * clock * 1e-9, how)
    macs = active * machine.weights_per_row / 8 * clock
    yield Line(group, "peak, 8-bit operations", None, 2e-9 * macs, "GOPS", f"2 x {active} x {machine.weights_per_row} weights / 8 input bits x "
               f"{format_si(clock, 'Hz')}", "", reason="the paper prints one-bit operations only")  # fmt: skip
    (bh, bw), (mh, mw) = machine.activation.banks, machine.activation.mats
    how = f"{bh} x {bw} banks, {mh} x {mw} MATs in each"
    yield _line(
        group,
        "sub-arrays active in a cycle",
        p["chip.active_subarrays"],
        active,
        how,
        ("which banks and MATs: activation rule 'row'",),
    )
    yield _line(
        group,
        "capacity",
        p["chip.capacity"],
        machine.capacity_bits / 8,
        f"{machine.subarrays} sub-arrays x {machine.array.rows} x {columns} bits",
    )
    yield _line(group, "macro size", p["chip.macro"], machine.array.rows * columns / 8, f"{machine.array.rows} x {columns} bits")
    how = "buffer of table IV: 64 x 112 x 112 x 4 bits"
    yield _line(group, "largest activation, held by the buffer", p["chip.largest_activation"], machine.buffer.bytes, how)


def network_lines(network: Network | None) -> Iterator[Line]:
    """What section VI-B and IV say of the network."""
    p, group = printed(), "network"
    if network is None:
        for item, name in (("parameters of MobileNet-V2", "network.parameters"), ("trainable share", "network.trainable_share")):
            q = p[name]
            yield Line(group, item, q.value, None, q.unit, "", q.source, reason="no network was compiled (--quick)")
        return
    if network.backbone:
        how = f"int8 weights of {network.backbone_name}, each once; without biases"
        yield _line(group, "parameters of MobileNet-V2", p["network.parameters"], network.backbone, how)
    share = 100 * network.trainable / network.weights
    how = f"{network.trainable} of {network.weights} weights of {network.name}"
    yield _line(group, "trainable share of the weights", p["network.trainable_share"], share, how,
                ("module sizes of Rep-Net: the paper says 1 pooling and 2 convolutions each, not how wide",))  # fmt: skip
    yield claim(group, "the arrays hold the network", network.subarrays <= network.subarrays_total,
                f"{network.subarrays} of {network.subarrays_total} sub-arrays used, copies included", "section VI-B")  # fmt: skip
    yield claim(group, "the buffer holds the activations", network.buffer_peak <= network.buffer_bytes,
                f"peak {network.buffer_peak} of {network.buffer_bytes} bytes; expanded tensors exist in stripes only", "section VI-B")  # fmt: skip


def table_2_lines(technology: Technology) -> Iterator[Line]:
    """Table II: what of it the device model works with, and what follows from it."""
    group, p = "table II", printed()
    _, stack = technology.stack(None)
    for name, q in (
        ("write_energy", technology.write_energy),
        ("resistance_low", technology.resistance_low),
        ("resistance_high", technology.resistance_high),
    ):
        if q is not None:
            yield Line(group, name.replace("_", " "), q.value, q.value, q.unit, _WORKED_WITH, q.source)
    for name, q in stack.quantities().items():
        if q.kind == "paper":
            yield Line(group, name.replace("_", " "), q.value, q.value, q.unit, _WORKED_WITH, q.source)
    low, high = technology.resistance_low, technology.resistance_high
    if low is not None and high is not None:
        tmr = 100 * (high.si - low.si) / low.si
        yield _line(group, "TMR", p["device.tmr"], tmr, f"({shown(high)} - {shown(low)}) / {shown(low)}")


def table_3_lines(model: CostModel) -> Iterator[Line]:
    """Our row of table III."""
    p, group = printed(), "table III, our row"
    machine, peak = model.machine, model.peak()
    yield _line(group, "frequency", p["chip.frequency"], machine.clock_hz * 1e-6, "clock of the machine description")
    q = model.technology.transistors_per_bit
    yield _line(
        group,
        "transistors a bit",
        p["chip.transistors_per_bit"],
        q.value,
        f"{shown(model.technology.bits_per_macro)} share 5 transistors",
    )
    yield _line(group, "performance", p["chip.peak_1b"], peak.operations * 1e-9, peak.how)
    interpretation = f"interpretation {model.interpretation_name!r} of table IV: {model.interpretation.title}"
    eight = 2 / (machine.array.weight_bits * model.circuit.reference.input_bits)
    assumed = tuple(
        dict.fromkeys(
            f"{c.component}: {c.source}" for c in model.charges if c.kind == "assumption" and peak.power.get(c.component)
        )
    )
    ends = model.ends[1].peak(), model.ends[0].peak()
    for bits, factor, said in (
        ("8-bit", eight, f"one-bit x 2 operations / {2 / eight:g} bit products of a multiply-accumulate; "),
        ("one-bit", 1.0, ""),
    ):
        q = p["chip.efficiency_1b"]
        reason = "the paper prints one-bit operations only; its number x the same factor" if factor != 1 else ""
        for what, components, others, how in (
            ("components of table IV", PRINTED, (interpretation,), format_si(peak.printed_power, "W")),
            ("everything counted", tuple(peak.power), (interpretation, *assumed), f"{format_si(sum(peak.power.values()), 'W')}, with cells, sensing, wires, "
             "accumulators, requantisation and leakage"),
        ):  # fmt: skip
            low, high = sorted(factor * e.tops_per_watt(components) for e in ends)
            yield Line(group, f"energy efficiency, {bits}, {what}", factor * q.value, factor * peak.tops_per_watt(components), q.unit,
                       f"{said}{format_si(peak.operations, 'OPS')} / {how}", q.source, others, reason, (low, high))  # fmt: skip


def interpretation_lines(model: CostModel) -> Iterator[Line]:
    """The efficiency that every documented interpretation of table IV gives."""
    p, group = printed(), "interpretations of table IV"
    for name in model.circuit.interpretations:
        other = model.with_interpretation(name)
        peak = other.peak()
        per_mac = peak.printed_power / (peak.operations / 64)
        how = f"{other.interpretation.title}; {format_si(per_mac, 'J')} for an 8-bit MAC"
        yield _line(group, f"efficiency under {name!r}", p["chip.efficiency_1b"], peak.tops_per_watt(), how)
    q, gops = p["chip.efficiency_1b"], p["chip.peak_1b"]
    implied = gops.si / q.to("OPS/W")
    tree = model.circuit.components.energy("adder_tree")
    cycle = implied / model.machine.clock_hz
    yield Line(group, "energy of a cycle that the headline leaves for the chip", cycle * 1e12, tree.to("pJ"), "pJ",
               f"paper: {gops} / {q} / {format_si(model.machine.clock_hz, 'Hz')}; ours: the adder tree alone, if its figure were for a cycle",
               "tables III and IV", reason="the two tables do not agree if every energy is for one cycle; hence the interpretations")  # fmt: skip


def table_4_lines(model: CostModel) -> Iterator[Line]:
    """Table IV: taken as data."""
    group = "table IV"
    for name, component in model.circuit.components.items().items():
        for what, q in (("area", component.area), ("energy", component.energy)):
            if q is not None:
                yield Line(group, f"{name.replace('_', ' ')}: {what}", q.value, q.value, q.unit, _WORKED_WITH, q.source)
    cell = model.technology.cell_area
    yield Line(group, "cell area in squares of 28 nm", None, cell.si / 28e-9**2, "F2", f"{shown(cell)} / (28 nm)^2", cell.source,
               reason="figure 11b is a chart; the text prints no number")  # fmt: skip


def figure_10_lines(model: CostModel, network: Network | None) -> Iterator[Line]:
    """Figure 10: shares of the area of table IV, with the paper's share of transposable sub-arrays (in whole activation groups), under both readings of the
    buffer's area; and what table IV leaves out."""
    group, machine, p = "figure 10", model.machine, printed()["network.trainable_share"]
    some = max(1, round(p.si * machine.groups)) * machine.group_size
    mixed = f"{some} of {machine.subarrays} sub-arrays transposable"
    transposed = (
        f"a transposable cell has {shown(model.circuit.transposable.extra_transistors_per_bit)} more, its area in proportion"
    )
    reason = "paper: table IV x the hierarchy of section VI-B; the chart's own numbers are not in the text"
    buffer = model.circuit.components.area("buffer")
    for reading, size in (("", buffer.at("nominal")), (", buffer read as 6,500,182 um^2", buffer.at("high"))):
        circuit = with_number(model.circuit, "components.buffer.area", size)
        plain, ours = (area(machine, circuit, model.technology, count) for count in (0, some))
        assumed = (transposed, f"table IV's buffer, printed as 6500,182, is read as {shown(size)}")
        for name, share in plain.shares().items():
            how = f"{' + '.join(FIGURE_10[name])}; {mixed}".replace("_", " ")
            yield Line(
                group,
                f"share of {name}{reading}",
                100 * share,
                100 * ours.shares()[name],
                "%",
                how,
                "figure 10, table IV",
                assumed,
                reason,
            )
        how = f"components of table IV; {mixed}"
        yield Line(
            group, f"area of table IV{reading}", plain.printed * 1e6, ours.printed * 1e6, "mm^2", how, "table IV", assumed, reason
        )
    whole = tuple(1e6 * area(machine, m.circuit, m.technology, some).total for m in (model.ends[0], model, model.ends[1]))
    how = f"with sense amplifiers, write drivers, accumulators, lanes and controller; {mixed}"
    yield Line(
        group,
        "area of the chip",
        None,
        whole[1],
        "mm^2",
        how,
        "",
        (transposed,),
        "table IV leaves these out",
        (whole[0], whole[2]),
    )
    if network is not None:
        compiled = area(machine, model.circuit, model.technology, network.transposable)
        how = f"{network.transposable} sub-arrays transposable: errors pass the frozen layers, too, and use their transposed weights"
        plain = area(machine, model.circuit, model.technology)
        yield Line(
            group,
            "area of table IV, as our compiler uses it",
            plain.printed * 1e6,
            compiled.printed * 1e6,
            "mm^2",
            how,
            "table IV",
            (transposed,),
            reason,
        )


def figure_11a_lines(network: Network | None, machine: Machine) -> Iterator[Line]:
    """Figure 11a: energy of the weight updates of one training epoch."""
    group, p = "figure 11a", printed()
    if network is None:
        q = p["device.stt_over_sas"]
        yield Line(group, "STT / SAS", q.value, None, "1", "", q.source, reason="no network was compiled (--quick)")
        return
    found = {e.technology.name: e for e in update_energies(network, machine)}
    sas, chart = found["sas"], "a chart, normalised; the text prints one ratio"
    assumed = (
        f"{shown(p['epoch.images'])} an epoch ({p['epoch.images'].source})",
        f"batch {network.batch}; every trainable weight, and every copy of it, is written once a step",
        *(f"{e.technology.name}: {q.source}" for e in found.values() for q in (e.technology.write_energy, e.technology.leakage) if q.kind == "assumption"),
    )  # fmt: skip
    for name in TECHNOLOGIES:
        e = found[name]
        for what, value, how, ends in (
            ("writing", e.write, e.how_write, e.write_range),
            ("writing and leakage", e.total, e.how_leakage, e.total_range),
        ):
            yield Line(group, f"{name.upper()}: {what}", None, value, "J", how, "figure 11a", assumed, chart, ends)
    circular = "ours is given: the write energy of stt.toml is 3.36 x that of SAS; the device model's own ratio stands under `device model`"
    yield Line(group, "STT / SAS", p["device.stt_over_sas"].value, found["stt"].total / sas.total, "1", "ratio of the two lines above",
               p["device.stt_over_sas"].source, assumed, circular)  # fmt: skip
    least = min(found, key=lambda n: found[n].write)
    yield claim(
        group, "writing alone takes the least energy in SRAM", least == "sram", "the lines above", "section VI-B", assumed
    )
    for name in ("sot", "sas"):
        holds = found[name].total < found["sram"].total / 2
        how = f"{format_si(found[name].total, 'J')} and {format_si(found['sram'].total, 'J')}; 'much': less than half"
        yield claim(group, f"with leakage {name.upper()} takes much less than SRAM", holds, how, "section VI-B", assumed)


def system_lines(model: CostModel, network: Network | None) -> Iterator[Line]:
    """What a whole training step costs: which of the paper's numbers can be seen in it."""
    group = "a training step as a whole"
    if network is None:
        yield Line(group, "energy", None, None, "J", "", "", reason="no network was compiled (--quick)")
        return
    events, cycles = network.step_events, network.step_cycles
    models = tuple(replace(m, transposable=network.transposable) for m in (model.ends[0], model, model.ends[1]))
    energies, hosts = (
        [f(m) for m in models] for f in (lambda m: m.energy(events, cycles), lambda m: m.energy_off_chip(events, cycles))
    )
    writes = [math.fsum(events.get(c.event, 0) * c.joules for c in m.charges if c.component == "cell_write") for m in models]
    assumed = (f"batch {network.batch}; half of the input bits are 1", *(t for t in model.notes() if t.startswith("assumed: ")))
    silent = "the paper prints no energy of a step"
    yield Line(
        group,
        "energy",
        None,
        energies[1],
        "J",
        f"events and cycles of {network.name}",
        "",
        assumed,
        silent,
        (energies[0], energies[2]),
    )
    shares = [100 * h / e for h, e in zip(hosts, energies, strict=True)]
    yield Line(group, "share of host interface and memory", None, shares[1], "%", "activations and 32-bit errors that do not fit the buffer", "", assumed,
               silent, (min(shares), max(shares)))  # fmt: skip
    shares = [100 * w / e for w, e in zip(writes, energies, strict=True)]
    yield Line(
        group,
        "share of writing cells",
        None,
        shares[1],
        "%",
        "writes of weights and scratch rows",
        "figure 11a",
        assumed,
        silent,
        (min(shares), max(shares)),
    )
    q = printed()["device.stt_over_sas"]
    ratios = [1 + (q.value - 1) * w / e for w, e in zip(writes, energies, strict=True)]
    yield Line(group, "STT / SAS, everything counted", q.value, ratios[1], "1", f"1 + ({shown(q)} - 1) x share of writing cells", q.source, assumed,
               "the paper's ratio is of the writes alone; at system level it is invisible", (min(ratios), max(ratios)))  # fmt: skip


def figure_11b_lines() -> Iterator[Line]:
    """Figure 11b: write latency and cell area."""
    group = "figure 11b"
    found: dict[str, Technology] = {name: load_technology(name) for name in TECHNOLOGIES}
    chart = "a chart; the text prints no number"
    for name, t in found.items():
        for what, q in (("write latency", t.write_latency), ("cell area", t.cell_area)):
            assumed = (f"{name}: {q.source}",) if q.kind == "assumption" else ()
            yield Line(
                group,
                f"{name.upper()}: {what}",
                None,
                q.value,
                q.unit,
                q.source,
                "figure 11b",
                assumed,
                chart,
                q.ends if q.ranged else None,
            )
    area_of = {n: t.cell_area.si for n, t in found.items()}
    latency = {n: t.write_latency.si for n, t in found.items()}
    sizes = ", ".join(f"{n.upper()} {t.cell_area}" for n, t in found.items())
    times = ", ".join(f"{n.upper()} {t.write_latency}" for n, t in found.items())
    assumed = tuple(
        f"{n}: {q.source}" for n, t in found.items() for q in (t.cell_area, t.write_latency) if q.kind == "assumption"
    )
    where = "section VI-B"
    yield claim(group, "SRAM writes fastest", min(latency, key=lambda n: latency[n]) == "sram", times, where, assumed)
    yield claim(group, "SRAM has the largest cell", max(area_of, key=lambda n: area_of[n]) == "sram", sizes, where, assumed)
    yield claim(group, "STT has the smallest cell", min(area_of, key=lambda n: area_of[n]) == "stt", sizes, where, assumed)
    near = area_of["sas"] - area_of["stt"] < area_of["sot"] - area_of["sas"]
    yield claim(
        group, "SAS is close to STT and much smaller than SOT", near, f"{sizes}; SAS is nearer to STT than to SOT", where, assumed
    )


NOT_HERE = (
    Line("not in this table", "table I", None, None, "1", "", "section VI-A", reason="accuracies; `sasc paper table1` runs the configurations"),
    Line("not in this table", "figure 8a", None, None, "1", "", "section VI-B", reason="a micrograph of the fabricated device"),
    Line("not in this table", "256 x 256 sub-array", None, None, "1", "", "section VI-B",
         reason="circuit-level simulation in a process kit that cannot be had; the system of the paper, and ours, has 64 x 512"),
)  # fmt: skip
