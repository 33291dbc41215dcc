"""A memory technology: a TOML file of numbers, each with unit, source and kind (:class:`~sasimc.evaluation.quantity.Quantity`).

Shipped: ``sas`` (the paper's), ``sot``, ``stt``, ``sram``. Another technology is another file; a program needs no recompilation for it.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sasimc.evaluation.quantity import Quantity, parse_unit
from sasimc.isa.errors import SasError, near

__all__ = ["SHIPPED", "Technology", "load_technology"]

SHIPPED = ("sas", "sot", "stt", "sram")
"""Names :func:`load_technology` knows without a file."""


class Measured(BaseModel):
    """A section of a technology file: quantities, each of the dimension that ``UNITS`` gives it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    UNITS: ClassVar[dict[str, str]] = {}

    @model_validator(mode="after")
    def _dimensions(self) -> Measured:
        for name, unit in self.UNITS.items():
            quantity = getattr(self, name)
            if quantity is None:
                continue
            if parse_unit(quantity.unit)[1] != parse_unit(unit)[1]:
                raise ValueError(f"{name} is given in {quantity.unit}, not in a unit of {unit}")
            if quantity.value < 0:
                raise ValueError(f"{name} is negative ({quantity})")
        return self

    def quantities(self) -> dict[str, Quantity]:
        """Every quantity of this section, by field name."""
        return {name: q for name in type(self).model_fields if isinstance(q := getattr(self, name), Quantity)}

    def assumptions(self) -> dict[str, Quantity]:
        """The quantities that the paper does not fix."""
        return {name: q for name, q in self.quantities().items() if q.kind == "assumption"}


class Technology(Measured):
    """What the cost model needs to know of a memory cell. Energies and latencies are of the cell, without the array's periphery.

    ``write_energy`` is for one bit that is written, whether it flips or not; ``read_energy`` for one bit that is sensed (nothing is spent where
    the input bit is 0); ``write_latency`` for all bits of a row together; ``leakage`` for a bit that is powered; ``cell_area`` is a bit's share
    of the array. Resistances are absent where the cell has none (SRAM), ``retention`` where it is volatile.
    """

    UNITS: ClassVar[dict[str, str]] = {
        "write_energy": "J/bit", "write_latency": "s", "read_energy": "J/bit", "read_latency": "s", "resistance_low": "ohm",
        "resistance_high": "ohm", "cell_area": "m^2/bit", "leakage": "W/bit", "endurance": "cycle", "retention": "year",
        "bits_per_macro": "bit", "transistors_per_bit": "transistor/bit",
    }  # fmt: skip

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
    kind: Literal["SAS", "SOT", "STT", "SRAM", "PCRAM", "RRAM", "DRAM", "NAND"]
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

    @model_validator(mode="after")
    def _consistent(self) -> Technology:
        low, high = self.resistance_low, self.resistance_high
        if (low is None) != (high is None):
            raise ValueError("resistance_low and resistance_high belong together")
        if low and high and not 0 < low.si < high.si:
            raise ValueError(f"resistance_low ({low}) is not below resistance_high ({high})")
        if self.kind not in ("SRAM", "DRAM", "NAND") and low is None:
            raise ValueError(f"a cell of kind {self.kind} needs resistance_low and resistance_high")
        if self.non_volatile and self.retention is None:
            raise ValueError("a non-volatile cell needs retention")
        return self


def _read(source: str | Path) -> tuple[str, str]:
    name = str(source)
    if name in SHIPPED:
        file = resources.files("sasimc.evaluation.technologies").joinpath(f"{name}.toml")
        return file.read_text(encoding="utf-8"), f"{name}.toml"
    path = Path(source)
    if not path.suffix and not path.exists():
        raise SasError(
            f"no technology is called {name!r}",
            hint=near(name, SHIPPED) or f"shipped: {', '.join(SHIPPED)}; or give a .toml file",
        )
    try:
        return path.read_text(encoding="utf-8"), name
    except (OSError, UnicodeDecodeError) as exc:
        raise SasError(f"cannot read the technology file: {getattr(exc, 'strerror', None) or exc}", where=name) from None


def _finding(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def load_technology(source: str | Path = "sas") -> Technology:
    """Read and validate a technology: a shipped name (``sas``, ``sot``, ``stt``, ``sram``) or a TOML file.

    Raises:
        SasError: unknown name, unreadable file, TOML syntax, unknown, missing or impossible fields (all of them are listed).
    """
    text, name = _read(source)
    try:
        return Technology.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise SasError(f"not valid TOML: {exc}", where=name) from None
    except ValidationError as exc:
        findings = "; ".join(_finding(e) for e in exc.errors())
        raise SasError(
            f"invalid technology: {findings}", where=name, hint="compare with a shipped file, for instance sas.toml"
        ) from None
