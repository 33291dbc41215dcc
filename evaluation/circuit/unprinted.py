"""What the paper prints no figure for: parts that a chip needs, basic operations that the periphery is made of, and published figures to hold beside
table IV. Every quantity is an assumption with a low and a high end."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sasimc.evaluation.quantity import Measured, Quantity
from sasimc.isa.machine import Machine

__all__ = ["AddOn", "Composition", "Digital", "Periphery", "Plausible", "Unprinted"]


class BitLine(Measured):
    """Sense amplifier or write driver: one for a bit column; energy of a bit."""

    UNITS: ClassVar[dict[str, str]] = {"energy": "J/bit", "area": "m^2"}
    energy: Quantity
    area: Quantity


class Interconnect(Measured):
    """Wires of the chip. ``energy``: a bit over a distance. ``buffer_distance``: way of a bit between buffer and sub-array, in sides of the (square) chip;
    ``tree_distance``: way of a partial sum for one addition in the adder tree."""

    UNITS: ClassVar[dict[str, str]] = {"energy": "J/bit/m", "buffer_distance": "1", "tree_distance": "1"}
    energy: Quantity
    buffer_distance: Quantity
    tree_distance: Quantity


class Accumulators(Measured):
    """Local buffers of sums: access and area of a bit."""

    UNITS: ClassVar[dict[str, str]] = {"energy": "J/bit", "area": "m^2/bit"}
    energy: Quantity
    area: Quantity


class Lanes(Measured):
    """Requantise lanes: area of one (its energy is composed, see Periphery)."""

    UNITS: ClassVar[dict[str, str]] = {"area": "m^2"}
    area: Quantity


class Controller(Measured):
    """Fetch, decode and issue of an instruction; area with its registers and instruction store."""

    UNITS: ClassVar[dict[str, str]] = {"energy": "J", "area": "m^2"}
    energy: Quantity
    area: Quantity


class Leakage(Measured):
    """``logic``, ``buffer`` (accumulators, too): what leaks while powered. ``idle``: share that a sub-array's periphery keeps while its activation
    group does not work (1: no power gating)."""

    UNITS: ClassVar[dict[str, str]] = {"logic": "W/m^2", "buffer": "W/bit", "idle": "1"}
    logic: Quantity
    buffer: Quantity
    idle: Quantity


class Host(Measured):
    """Interface and host memory: a bit moved; power of the memory whatever moves."""

    UNITS: ClassVar[dict[str, str]] = {"energy": "J/bit", "standby": "W"}
    energy: Quantity
    standby: Quantity


class Unprinted(Measured):
    """The parts that table IV leaves out."""

    sense_amplifier: BitLine
    write_driver: BitLine
    interconnect: Interconnect
    accumulators: Accumulators
    requantise_lanes: Lanes
    controller: Controller
    leakage: Leakage
    host: Host


class Digital(Measured):
    """Energies of basic operations and their scaling to the node."""

    UNITS: ClassVar[dict[str, str]] = {"node_scale": "1", "add8": "J", "add32": "J", "mult8": "J", "mult32": "J"}
    node_scale: Quantity
    add8: Quantity
    add32: Quantity
    mult8: Quantity
    mult32: Quantity


Composition = dict[Literal["add8", "add32", "mult8", "mult32"], Annotated[float, Field(ge=0)]]


class Periphery(Measured):
    """Operations of the periphery (names of events), each composed of basic operations."""

    requantise_ops: Composition
    pool_ops: Composition
    add_ops: Composition
    product_ops: Composition
    lut_ops: Composition
    reciprocal_ops: Composition
    shift_ops: Composition
    scale_ops: Composition
    range_ops: Composition
    mask_ops: Composition
    round_ops: Composition
    loss_ops: Composition
    update_ops: Composition

    def items(self) -> dict[str, Composition]:
        """Compositions by event."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class AddOn(Measured):
    """A circuit of the user's in every sub-array, every bank, or once: ``energy`` of an operation, which is a word line with one input bit."""

    UNITS: ClassVar[dict[str, str]] = {"energy": "J", "area": "m^2", "leakage": "W", "latency": "s"}
    per: Literal["subarray", "bank", "chip"]
    energy: Quantity
    area: Quantity
    leakage: Quantity
    latency: Quantity

    def instances(self, machine: Machine, active: bool = False) -> int:
        """How many there are, or work at once."""
        banks = math.prod(machine.activation.banks if active else machine.array.banks)
        return {"subarray": machine.group_size if active else machine.subarrays, "bank": banks, "chip": 1}[self.per]


class Plausible(Measured):
    """A published or bottom-up figure for one operation of a component of table IV, or for the area of one of its units."""

    UNITS: ClassVar[dict[str, str]] = {}
    component: str
    what: Literal["energy", "area"]
    unit_of: str
    figure: Quantity
