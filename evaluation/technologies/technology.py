"""A memory technology: a TOML file of numbers, each with unit, source and kind (:class:`~sasimc.evaluation.quantity.Quantity`).

Shipped: ``sas`` (the paper's), ``sot``, ``stt``, ``sram``. Another technology is another file; a program needs no recompilation for it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sasimc.evaluation.device.stack import Stack
from sasimc.evaluation.quantity import Measured, Quantity, format_si
from sasimc.isa.choices import TECHNOLOGIES
from sasimc.isa.described import Source, parse_toml, read_source, validate
from sasimc.isa.errors import SasError, near

__all__ = ["Technology", "read_technology"]


class Technology(Measured):
    """What the cost model needs to know of a memory cell. Energies and latencies are of the cell, without the array's periphery.

    ``write_energy`` is for one bit that is written, whether it flips or not; ``read_energy`` for one bit that is sensed (nothing is spent where
    the input bit is 0); ``write_latency`` for all bits of a row together; ``leakage`` for a bit that is powered; ``cell_area`` is a bit's share
    of the array. Resistances are absent where the cell has none (SRAM), ``retention`` where it is volatile. ``stacks``: free layers the device
    model can simulate (:mod:`sasimc.evaluation.device`); ``stacks_of``: a shipped technology whose stacks these are, written in another way.
    """

    UNITS: ClassVar[dict[str, str]] = {
        "write_energy": "J/bit", "write_latency": "s", "read_energy": "J/bit", "read_latency": "s", "resistance_low": "ohm",
        "resistance_high": "ohm", "cell_area": "m^2/bit", "leakage": "W/bit", "endurance": "cycle", "retention": "year",
        "bits_per_macro": "bit", "transistors_per_bit": "transistor/bit",
    }  # fmt: skip

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
    kind: Literal["SAS", "SOT", "STT", "SRAM", "PCRAM", "RRAM", "DRAM"]
    description: Annotated[str, Field(max_length=400)] = ""
    non_volatile: bool
    write_energy: Quantity
    write_latency: Quantity
    read_energy: Quantity
    read_latency: Quantity
    cell_area: Quantity
    leakage: Quantity
    endurance: Quantity
    bits_per_macro: Quantity
    transistors_per_bit: Quantity
    resistance_low: Quantity | None = None
    resistance_high: Quantity | None = None
    retention: Quantity | None = None
    default_stack: str = ""
    stacks_of: Annotated[str, Field(max_length=64)] = ""
    stacks: Annotated[dict[str, Stack], Field(default_factory=dict, max_length=16)]

    @model_validator(mode="after")
    def _consistent(self) -> Technology:
        low, high = self.resistance_low, self.resistance_high
        if (low is None) != (high is None):
            raise ValueError("resistance_low and resistance_high belong together")
        if low and high and not 0 < low.si < high.si:
            raise ValueError(f"resistance_low ({low}) is not below resistance_high ({high})")
        if self.kind not in ("SRAM", "DRAM") and low is None:
            raise ValueError(f"a cell of kind {self.kind} needs resistance_low and resistance_high")
        if self.non_volatile and self.retention is None:
            raise ValueError("a non-volatile cell needs retention")
        if self.stacks_of and (self.stacks or self.stacks_of not in TECHNOLOGIES or self.stacks_of == self.name):
            raise ValueError(f"stacks_of names another shipped technology ({', '.join(TECHNOLOGIES)}) and replaces stacks")
        if self.stacks and self.default_stack not in self.stacks:
            raise ValueError(f"default_stack is {self.default_stack!r}, the stacks are {', '.join(self.stacks)}")
        return self

    @property
    def resistances(self) -> tuple[float, float]:
        """Of the two states, ohm, the low one first.

        Raises:
            SasError: the technology has none.
        """
        if self.resistance_low is None or self.resistance_high is None:
            raise SasError(f"technology {self.name} has no resistances", hint="resistance_low and resistance_high")
        return self.resistance_low.si, self.resistance_high.si

    def stack(self, name: str | None = None) -> tuple[str, Stack]:
        """(name, stack) of a free layer; ``None``: the default one.

        Raises:
            SasError: the technology has no such stack, or the layer is not stable along its easy axis.
        """
        if self.stacks_of:
            return read_technology(self.stacks_of).stack(name)
        if not self.stacks:
            raise SasError(f"technology {self.name} describes no free layer", hint="a section [stacks.NAME], as in sas.toml")
        chosen = name or self.default_stack
        if chosen not in self.stacks:
            raise SasError(
                f"technology {self.name} has no stack {chosen!r}", hint=near(chosen, tuple(self.stacks)) or ", ".join(self.stacks)
            )
        stack = self.stacks[chosen]
        if stack.easy_field <= 0:
            raise SasError(
                f"the free layer {chosen} is not stable along {stack.type}: its anisotropy field is {format_si(stack.easy_field, 'T')}",
                where=self.name,
            )
        return chosen, stack


def _read(source: str | Path) -> Source:
    name = str(source)
    if name in TECHNOLOGIES:
        file = resources.files("sasimc.evaluation.technologies").joinpath(f"{name}.toml")
        return Source(f"{name}.toml", file.read_text(encoding="utf-8"))
    path = Path(source)
    if not path.suffix and not path.exists():
        raise SasError(
            f"no technology is called {name!r}",
            hint=near(name, TECHNOLOGIES) or f"shipped: {', '.join(TECHNOLOGIES)}; or give a .toml file",
        )
    return read_source(path, "technology file")


def read_technology(source: str | Path) -> Technology:
    """Read and validate a technology: a shipped name or a TOML file.

    Raises:
        SasError: unknown name, unreadable file, TOML syntax, unknown, missing or impossible fields (all of them are listed).
    """
    text = _read(source)
    return validate(Technology, parse_toml(text), [text], "technology", "a shipped file, for instance sas.toml, has every field")
