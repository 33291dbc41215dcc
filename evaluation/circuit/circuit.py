"""Circuit figures: a TOML file with area and energy of the components, the interpretations under which its energies can be taken, and the assumptions
where the paper is silent (:mod:`~sasimc.evaluation.circuit.unprinted`). Shipped: ``table4``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sasimc.evaluation.circuit.unprinted import AddOn, Digital, Periphery, Plausible, Unprinted
from sasimc.evaluation.quantity import Measured, Quantity
from sasimc.isa.described import Source, parse_toml, read_source, validate
from sasimc.isa.errors import SasError, near

__all__ = ["SUBARRAY_COMPONENTS", "Circuit", "Component", "Interpretation", "Reference", "load_circuit"]

SUBARRAY_COMPONENTS = ("column_decoder", "row_decoder", "shift_adder")
"""Components with an energy that stand in every sub-array."""

AreaScale = Literal["cells", "columns", "rows", "units", "bits", "none"]
EnergyScale = Literal["columns", "sqrt_bits", "none"]
Positive = Annotated[int, Field(gt=0)]
Ratio = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Reference(Measured):
    """The machine that the figures were printed for, and the efficiency printed beside them."""

    rows: Positive
    bit_columns: Positive
    weight_bits: Positive
    input_bits: Positive
    active_subarrays: Positive
    adder_units: Positive
    buffer_bits: Positive
    lanes: Positive
    printed_tops_per_watt: float


class Range(Measured):
    """Smallest and largest ratio to the reference for which the scaling rules are meant."""

    rows: Ratio
    bit_columns: Ratio
    adder_units: Ratio
    buffer_bits: Ratio


class Component(Measured):
    """One line of the table: area and energy of one instance, and how they scale."""

    UNITS: ClassVar[dict[str, str]] = {"area": "m^2", "energy": "J"}
    per: Literal["subarray", "chip"]
    area: Quantity | None = None
    energy: Quantity | None = None
    area_scale: AreaScale = "none"
    energy_scale: EnergyScale = "none"


class BufferComponent(Component):
    """The buffer's energy is for a bit and access."""

    UNITS: ClassVar[dict[str, str]] = {"area": "m^2", "energy": "J/bit"}


class Components(Measured):
    """The lines of table IV."""

    memory_array: Component
    column_decoder: Component
    row_decoder: Component
    shift_adder: Component
    adder_tree: Component
    buffer: BufferComponent
    relu: Component

    def items(self) -> dict[str, Component]:
        """Components by name, in the order of the table."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def energy(self, name: str) -> Quantity:
        """The energy printed for a component (every one but the memory array has it)."""
        found: Quantity | None = getattr(self, name).energy
        assert found is not None
        return found

    def area(self, name: str) -> Quantity:
        """The area printed for a component."""
        found: Quantity | None = getattr(self, name).area
        assert found is not None
        return found

    @model_validator(mode="after")
    def _energies(self) -> Components:
        for name in (*SUBARRAY_COMPONENTS, "adder_tree", "buffer", "relu"):
            if getattr(self, name).energy is None:
                raise ValueError(f"{name} has no energy")
        if without := [name for name, c in self.items().items() if c.area is None]:
            raise ValueError(f"{', '.join(without)}: no area")
        return self


class Accounting(Measured):
    """What one printed energy is for: how long, and of how many instances."""

    interval: Literal["cycle", "row", "scan", "pass"]
    instances: Literal["one", "all"] = "one"

    def cycles(self, reference: Reference) -> int:
        """Cycles of the interval: 1, the input bits, the rows, or rows times input bits."""
        bits, rows = reference.input_bits, reference.rows
        return {"cycle": 1, "row": bits, "scan": rows, "pass": bits * rows}[self.interval]

    def covers(self, reference: Reference) -> int:
        """Cycles times instances that one printed energy pays for."""
        return self.cycles(reference) * (reference.active_subarrays if self.instances == "all" else 1)


class Interpretation(Measured):
    """One way to take the energies of the table."""

    title: str
    subarray: Accounting
    adder_tree: Accounting
    relu_elements: Positive


class Transposable(Measured):
    """What a transposable sub-array has more than a compute one."""

    UNITS: ClassVar[dict[str, str]] = {"extra_transistors_per_bit": "transistor/bit", "decoders": "1"}
    extra_transistors_per_bit: Quantity
    decoders: Quantity


class Circuit(Measured):
    """A validated circuit file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
    description: str = ""
    default_interpretation: str
    reference: Reference
    range: Range
    components: Components
    interpretations: Annotated[dict[str, Interpretation], Field(min_length=1)]
    transposable: Transposable
    unprinted: Unprinted
    digital: Digital
    periphery: Periphery
    plausible: Annotated[dict[str, Plausible], Field(default_factory=dict)]
    add_ons: Annotated[dict[str, AddOn], Field(default_factory=dict, max_length=64)]

    @model_validator(mode="after")
    def _has_default(self) -> Circuit:
        if self.default_interpretation not in self.interpretations:
            raise ValueError(f"default_interpretation {self.default_interpretation!r} is none of the interpretations")
        return self

    def interpretation(self, name: str | None = None) -> Interpretation:
        """A interpretation by name (None: the default).

        Raises:
            SasError: no such interpretation.
        """
        if name is None:
            return self.interpretations[self.default_interpretation]
        if name not in self.interpretations:
            known = tuple(self.interpretations)
            raise SasError(
                f"there is no interpretation {name!r}", hint=near(name, known) or f"interpretations: {', '.join(known)}"
            )
        return self.interpretations[name]


def load_circuit(path: str | Path | None = None) -> Circuit:
    """Read and validate a circuit file (None: the shipped ``table4.toml``).

    Raises:
        SasError: unreadable file, TOML syntax, unknown, missing or impossible fields (all of them are listed).
    """
    if path is None:
        source = Source(
            "table4.toml", resources.files("sasimc.evaluation.circuit").joinpath("table4.toml").read_text(encoding="utf-8")
        )
    else:
        source = read_source(path, "circuit file")
    return validate(Circuit, parse_toml(source), [source], "circuit file", "the shipped table4.toml has every field")
