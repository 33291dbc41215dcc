"""The figures of a run: energy, time, efficiency, wear, area, each with its formula and range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from sasimc.evaluation.figure import Figure, shown
from sasimc.evaluation.quantity import format_si, parse_unit
from sasimc.evaluation.run import Row, Run

if TYPE_CHECKING:
    from sasimc.evaluation.cost import CostModel

__all__ = ["figures", "one_bit_operations"]

_SUM = "sum over events of count x charge, plus power that is always spent x time"


def one_bit_operations(row: Row, weight_bits: int) -> int:
    """Bit products (input bit AND stored bit) of a row: a shift-add takes a weight's bits, in a transposed product a single one."""
    return row.events.get("shift_adds", 0) * (1 if "column_activations" in row.events else weight_bits)


def _ranged(name: str, unit: str, how: str, values: tuple[float, ...], kind: str = "assumption") -> Figure:
    """``values``: with all numbers at their low ends, as they are, and at their high ends."""
    low, high = min(values), max(values)
    return Figure(name, values[1], unit, how, kind=kind, low=low, high=high)  # type: ignore[arg-type]


def figures(model: CostModel, run: Run, totals: Mapping[str, int]) -> Iterator[Figure]:
    """The figures of a whole run; ``totals``: its events."""
    machine, seconds, images = model.machine, run.seconds, run.images
    bits = sum(one_bit_operations(r, machine.array.weight_bits) for r in run.rows)
    per_mac = machine.array.weight_bits * model.circuit.reference.input_bits
    models = (model.ends[0], model, model.ends[1])
    energies = tuple(m.energy(totals, run.cycles) for m in models)
    hosts = tuple(m.energy_off_chip(totals, run.cycles) for m in models)
    energy, joules, time = energies[1], format_si(energies[1], "J"), format_si(seconds, "s")

    def each(f: Callable[[float], float]) -> tuple[float, ...]:
        return tuple(f(e) for e in energies)

    yield _ranged("energy", "J", _SUM, energies)
    how = f"{joules} without {format_si(hosts[1], 'J')} of host interface and memory"
    yield _ranged("energy_on_chip", "J", how, tuple(e - h for e, h in zip(energies, hosts, strict=True)))
    yield Figure("latency", seconds, "s", f"{run.cycles} cycles / {format_si(machine.clock_hz, 'Hz')}")
    if seconds and energy:
        eight = 2 * bits / per_mac
        yield _ranged("power", "W", f"{joules} / {time}", each(lambda e: e / seconds))
        yield _ranged("energy_delay", "J*s", f"{joules} x {time}", each(lambda e: e * seconds))
        yield Figure("gops_8b", eight / seconds * 1e-9, "GOPS", f"2 operations x {bits} / {per_mac} bit products a MAC / {time}")
        yield Figure("gops_1b", bits / seconds * 1e-9, "GOPS", f"{bits} one-bit products / {time}")
        yield _ranged("tops_per_watt_8b", "TOPS/W", f"2 x {bits} / {per_mac} / {joules}", each(lambda e: eight / e * 1e-12))
        yield _ranged("tops_per_watt_1b", "TOPS/W", f"{bits} one-bit products / {joules}", each(lambda e: bits / e * 1e-12))
        peak = machine.group_size * machine.array.bit_columns
        yield Figure("utilisation", bits / (peak * run.cycles), "1", f"{bits} of {peak} one-bit products x {run.cycles} cycles")
    if images:
        yield _ranged("energy_per_image", "J/image", f"{joules} / {images} images", each(lambda e: e / images))
        yield Figure("latency_per_image", seconds / images, "s/image", f"{time} / {images} images")
    yield from _host_writes(model, run)
    yield from _wear(model, run, totals)
    how = "sum over the components and their instances"
    yield _ranged("area", "m^2", how, tuple(m.area.total for m in models))


def _host_writes(model: CostModel, run: Run) -> Iterator[Figure]:
    """Energy of the weights that the host put into the cells during the run; no instruction did, so it is in no other sum."""
    bits = run.report.get("writes", {}).get("host", {}).get("bits_written", 0)
    if bits:
        energy = model.technology.write_energy
        how = f"{bits} bits x {shown(energy)}; not part of the energy above, which is the program's"
        yield Figure("host_writes", bits * energy.si, "J", how, energy.source, energy.kind)


def _wear(model: CostModel, run: Run, totals: Mapping[str, int]) -> Iterator[Figure]:
    """Writes by row, and how long the worst row lasts when the machine does nothing but what this run did."""
    wear, endurance = run.report.get("wear"), model.technology.endurance
    if not wear or not wear["total"]:
        return
    rows = totals.get("rows_written_compute", 0) + totals.get("rows_written_transposable", 0)
    share = min(1.0, rows / wear["total"])
    row = f"row {wear['worst_row'][1]} of sub-array {wear['worst_row'][0]}"
    yield Figure("wear_worst", wear["worst"], "write/row", row)
    yield Figure("wear_mean", wear["mean"], "write/row", f"{wear['total']} row writes / {wear['rows']} rows written")
    if rows and run.seconds:
        rate = wear["worst"] * share / run.seconds
        how = f"{shown(endurance)} / ({wear['worst']} writes x {share:.4g} of this run / {format_si(run.seconds, 's')})"
        years = endurance.si / rate / parse_unit("year")[0]
        yield Figure("years_to_endurance", years, "year", how, endurance.source, endurance.kind)
