"""What joins a run and its price: the runtime counts, the evaluation prices, neither knows the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.evaluation.circuit.circuit import Circuit, load_circuit
from sasimc.evaluation.cost import Cost, CostModel
from sasimc.evaluation.run import Row, Run, load_run
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.isa.machine import Machine
from sasimc.isa.program import Program
from sasimc.profiling.profile import ProfileRow, profile, profile_rows, wear
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter
from sasimc.training.writes import writes

if TYPE_CHECKING:
    from sasimc.evaluation.device.variation import DeviceMap

__all__ = ["PriceList", "cost", "cost_of", "cost_of_report", "device_map", "joules_of", "price_list", "report"]


@dataclass(frozen=True)
class PriceList:
    """A memory technology, circuit figures, and the name of an interpretation of them."""

    technology: Technology
    circuit: Circuit
    interpretation: str

    def model(self, machine: Machine, transposable: int = 0) -> CostModel:
        """The cost model of a machine with so many transposable sub-arrays."""
        return CostModel(machine, self.technology, self.circuit, self.interpretation, transposable)


def price_list(technology: str | Path, interpretation: str | None = None, circuit: Path | None = None) -> PriceList:
    """Read the files.

    Raises:
        SasError: one that cannot be read or is invalid, no such interpretation.
    """
    figures = load_circuit(circuit)
    name = figures.default_interpretation if interpretation is None else interpretation
    figures.interpretation(name)
    return PriceList(load_technology(technology), figures, name)


def device_map(technology: str | Path, machine: Machine, device: int, stack: str | None = None) -> DeviceMap:
    """The cells of one device of a technology, a number for each: what goes wrong in each of them, for `runtime.faults.FaultPlan`.

    Raises:
        SasError: the technology describes no free layer.
    """
    from sasimc.evaluation.device.variation import DeviceMap

    found = load_technology(technology)
    _, layer = found.stack(stack)
    array = machine.array
    return DeviceMap(layer, found.resistances, array.rows, array.bit_columns, seed=device)


def _priced(run: Run, prices: PriceList) -> Cost:
    return prices.model(run.machine, run.transposable).cost(run)


def _standing(program: Program) -> dict[str, Any]:
    """What of a run's layout decides its cost: the kind of every sub-array in use."""
    kinds = {t.subarray: m.array for m in program.matrices.values() for t in m.tiles}
    return {"layout": {"subarrays": [{"index": s, "array": kind} for s, kind in kinds.items()]}}


def cost_of(it: Interpreter, made: Mapping[str, Any], prices: PriceList, rows: list[ProfileRow]) -> Cost:
    """The cost of what an interpreter did since its counters were reset; ``made``: the run's report so far, ``rows``: its profile."""
    report = {**made, **_standing(it.program), "wear": wear(it)}
    return _priced(Run(it.machine, tuple(Row(**row.as_dict()) for row in rows), it.cycles, int(made["images"]), report), prices)


def joules_of(program: Program, prices: PriceList) -> Callable[[Mapping[str, int], float], float]:
    """Energy of some events and cycles of a program, leakage included, for a timeline."""
    run = Run(program.machine, (), 0, 0, _standing(program))
    return prices.model(program.machine, run.transposable).energy


def cost_of_report(
    path: Path, technology: str | None = None, interpretation: str | None = None, circuit: Path | None = None
) -> Cost:
    """The cost of a run report; technology and interpretation are the run's own where they are not given.

    Raises:
        SasError: a file that cannot be read or is invalid, no such interpretation.
    """
    run = load_run(path)
    memory = technology or str(run.report.get("technology", "sas"))
    taken = interpretation or (run.report.get("interpretation") if circuit is None else None)
    return _priced(run, price_list(memory, taken, circuit))


def cost(
    device: Device, technology: str | Path = "sas", *, interpretation: str | None = None, circuit: Path | None = None
) -> Cost:
    """What a device has spent since its counters were reset: ``.energy`` (J), ``.figures``, ``.by_node()``, ``.by_component()``, ``.as_dict()``.

    Args:
        technology: ``sas``, ``sot``, ``stt``, ``sram``, a TOML or an NVSim ``.cell`` file.
        interpretation: of the circuit figures (None: their default); ``circuit``: a file with circuit figures (None: table IV of the paper).

    Raises:
        SasError: the device has done nothing yet; a file that cannot be read or is invalid; no such technology or interpretation.
    """
    it = device.interpreter
    if not it.cycles:
        raise SasError("the device has done nothing yet: there is nothing to price", hint="device.infer(images) first")
    rows = profile_rows(it)
    made = {
        "program": device.program.meta.get("name") or device.program.source,
        "engine": device.engine,
        "images": device.images,
        "cycles": it.cycles,
        "phase_cycles": dict(it.phase_cycles),
        "writes": writes(device),
        **profile(it, rows),
    }
    run = Run(it.machine, tuple(Row(**row.as_dict()) for row in rows), it.cycles, device.images, made)
    return _priced(run, price_list(technology, interpretation, circuit))


def report(
    device: Device,
    path: str | Path,
    technology: str | Path = "sas",
    *,
    interpretation: str | None = None,
    circuit: Path | None = None,
) -> Cost:
    """Write the page of ``sasc report`` (HTML) on what a device has done since its counters were reset; returns the cost.

    Raises:
        SasError: as :func:`cost`; the file cannot be written.
    """
    from sasimc.evaluation.report.content import tables
    from sasimc.evaluation.report.page import page

    spent = cost(device, technology, interpretation=interpretation, circuit=circuit)
    write_atomically(Path(path), page(spent, tables(spent)).encode())
    return spent
