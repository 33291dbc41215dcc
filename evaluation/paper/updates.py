"""Figure 11a: energy of the weight updates of one training epoch, for each memory technology."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sasimc.evaluation.fields import at_end
from sasimc.evaluation.figure import shown
from sasimc.evaluation.paper.line import printed
from sasimc.evaluation.paper.network import Network
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.technologies.technology import Technology
from sasimc.isa.machine import Machine

__all__ = ["TECHNOLOGIES", "UpdateEnergy", "update_energies"]

TECHNOLOGIES = ("sram", "stt", "sot", "sas")
"""In the order of the paper's figure."""


@dataclass(frozen=True)
class UpdateEnergy:
    """Energy (J) of one epoch: of the cells written, and of the cells' leakage while the epoch lasts."""

    technology: Technology
    write: float
    leakage: float
    how_write: str
    how_leakage: str
    write_range: tuple[float, float]
    total_range: tuple[float, float]

    @property
    def total(self) -> float:
        """Both, J."""
        return self.write + self.leakage


def update_energies(network: Network, machine: Machine) -> Iterator[UpdateEnergy]:
    """Every technology's energy; time and number of updates are the same for all."""
    images = printed()["epoch.images"].value
    steps = math.ceil(images / network.batch)
    seconds = steps * network.step_cycles / machine.clock_hz
    bits = steps * network.written_bits
    for name in TECHNOLOGIES:
        t = load_technology(name)
        ends = at_end(t, "low"), at_end(t, "high")
        writes = tuple(bits * e.write_energy.si for e in ends)
        leaks = tuple(machine.capacity_bits * e.leakage.si * seconds for e in ends)
        yield UpdateEnergy(
            t,
            bits * t.write_energy.si,
            machine.capacity_bits * t.leakage.si * seconds,
            f"{steps} steps x {network.written_bits} bits x {shown(t.write_energy)}",
            f"with {machine.capacity_bits} bits x {shown(t.leakage)} x {format_si(seconds, 's')}",
            (writes[0], writes[1]),
            (writes[0] + leaks[0], writes[1] + leaks[1]),
        )
