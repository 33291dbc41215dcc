"""Numbers with a unit, a source and a kind, and how they are printed: SI prefix, three significant digits.

Every figure of the evaluation is a :class:`Quantity`. Units are written as people write them: ``pJ/bit``, ``um^2``, ``MA/m``, ``uohm*m``;
factors joined by ``*`` and ``/``, a power after ``^``. A prefix belongs to its factor and is raised with it (1 um^2 = 1e-12 m^2).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic.dataclasses import dataclass

from sasimc.isa.errors import SasError

__all__ = ["YEAR", "End", "Kind", "Measured", "Quantity", "format_duration", "format_si", "parse_unit"]

End = Literal["low", "nominal", "high"]

Kind = Literal["paper", "derived", "fit", "assumption"]
"""Where a number comes from: printed in the paper, arithmetic on such numbers, fitted to data, or assumed where the paper is silent."""

YEAR = 365.25 * 86400.0
"""Seconds of a Julian year."""

PREFIXES = {
    "q": 1e-30, "r": 1e-27, "y": 1e-24, "z": 1e-21, "a": 1e-18, "f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3,
    "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
}  # fmt: skip

# name -> (value in the base unit, base unit, takes SI prefixes)
ATOMS: dict[str, tuple[float, str, bool]] = {
    "J": (1, "J", True), "s": (1, "s", True), "Hz": (1, "Hz", True), "ohm": (1, "ohm", True), "A": (1, "A", True), "V": (1, "V", True),
    "W": (1, "W", True), "T": (1, "T", True), "m": (1, "m", True), "F": (1, "F", True), "g": (1, "g", True), "K": (1, "K", False),
    "B": (1, "B", True), "OPS": (1, "OPS", True), "MAC": (1, "MAC", True), "bit": (1, "bit", False), "rad": (1, "rad", False),
    "cycle": (1, "cycle", False), "transistor": (1, "transistor", False), "access": (1, "access", False), "row": (1, "row", False),
    "write": (1, "write", False), "image": (1, "image", False), "F2": (1, "F2", False), "1": (1, "", False), "%": (0.01, "", False),
    "deg": (math.pi / 180, "rad", False), "min": (60, "s", False), "h": (3600, "s", False), "year": (YEAR, "s", False),
}  # fmt: skip
PLAIN = {name for name, (_, _, prefixed) in ATOMS.items() if not prefixed}


def _factor(text: str, unit: str) -> tuple[float, str, int]:
    name, caret, power = text.partition("^")
    try:
        exponent = int(power) if caret else 1
    except ValueError:
        raise SasError(f"the power in the unit {unit!r} is not a whole number") from None
    if name in ATOMS:
        value, base, _ = ATOMS[name]
        return value**exponent, base, exponent
    if name[:1] in PREFIXES and name[1:] in ATOMS and ATOMS[name[1:]][2]:
        value, base, _ = ATOMS[name[1:]]
        return (PREFIXES[name[0]] * value) ** exponent, base, exponent
    raise SasError(f"unknown unit {unit!r}", hint=f"units are built of {', '.join(ATOMS)}, with SI prefixes, *, / and ^")


@lru_cache(maxsize=1024)
def parse_unit(unit: str) -> tuple[float, tuple[tuple[str, int], ...]]:
    """(scale to base units, the base units and their powers, sorted).

    Raises:
        SasError: a unit that is not built of the known ones.
    """
    scale, powers = 1.0, dict[str, int]()
    sign = 1
    for i, part in enumerate(unit.replace("*", "\0*\0").replace("/", "\0/\0").split("\0")):
        if i % 2:
            sign = -1 if part == "/" else 1
            continue
        value, base, power = _factor(part.strip(), unit)
        scale *= value**sign
        if base:
            powers[base] = powers.get(base, 0) + sign * power
    return scale, tuple(sorted((b, p) for b, p in powers.items() if p))


def _leading(unit: str) -> tuple[str, int]:
    """The first factor without its prefix, and its power."""
    first = unit.replace("*", "/").split("/")[0]
    name, _, power = first.partition("^")
    return (name if name in ATOMS else name[1:]), int(power or 1)


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """``value`` in ``unit``, with the SI prefix that brings it between 1 and 1000 and ``digits`` significant digits.

    The prefix goes to the first factor of the unit (0.048 pJ/bit -> ``48.0 fJ/bit``); units that take none (years, cycles, per cent, plain
    numbers) are printed as they are, in powers of ten outside 1e-3 .. 1e6.
    """
    parse_unit(unit)
    name, power = _leading(unit)
    rest = unit[len(unit.replace("*", "/").split("/")[0]) :]
    if not math.isfinite(value):
        return f"{value:g} {unit}".removesuffix(" 1")
    if name in PLAIN or value == 0:
        plain = _digits(value, digits) if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.{digits - 1}e}"
        return f"{plain} {unit}".removesuffix(" 1")
    base = value * parse_unit(unit.removesuffix(rest) if rest else unit)[0] / parse_unit(f"{name}^{power}")[0]
    base = float(f"{base:.{digits - 1}e}")  # 999.96 is 1.00 of the next prefix
    least = 0.01 if power == 2 else 1  # 0.0131 um^2 reads better than 13100 nm^2
    fitting = [p for p, s in PREFIXES.items() if least * s**power <= abs(base) * (1 + 1e-9)]
    if not fitting or abs(base) >= 1000**power * PREFIXES["E"] ** power:
        return f"{base:.{digits - 1}e} {name}{f'^{power}' if power != 1 else ''}{rest}"
    prefix = fitting[-1]
    suffix = f"^{power}" if power != 1 else ""
    return f"{_digits(base / PREFIXES[prefix] ** power, digits)} {prefix}{name}{suffix}{rest}"


def format_duration(seconds: float) -> str:
    """Seconds as people say them: ``36.8 s``, ``3.4 days``, ``1,230 years``; below a minute with SI prefixes."""
    for unit, size in (("years", YEAR), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if size <= seconds < math.inf:
            rounded = float(f"{seconds / size:.3g}")
            return f"{f'{rounded:,.0f}' if rounded >= 1000 else _digits(rounded, 3)} {unit}"
    return format_si(seconds, "s")


def _digits(value: float, digits: int) -> str:
    """Fixed notation with ``digits`` significant digits (never fewer than the integer part has)."""
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:.{max(0, places)}f}"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Quantity:
    """One number: ``value`` in ``unit``, the ``source`` it is from (table, equation, publication, reason) and its ``kind``.

    ``low``, ``high``: the ends of what it may be, in the same unit; absent where nobody says that it may be anything else.
    """

    value: float
    unit: str
    source: str
    kind: Kind
    low: float | None = None
    high: float | None = None

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        try:
            parse_unit(unit)
        except SasError as exc:
            raise ValueError(exc.diagnostic.message) from None
        return unit

    @field_validator("source")
    @classmethod
    def _has_source(cls, source: str) -> str:
        if not source.strip():
            raise ValueError("a number needs a source")
        return source

    @model_validator(mode="after")
    def _ordered(self) -> Quantity:
        if not self.ends[0] <= self.value <= self.ends[1]:
            raise ValueError(f"{self.value:g} {self.unit} is not between low ({self.ends[0]:g}) and high ({self.ends[1]:g})")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high, each the value where it is not given."""
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high

    @property
    def ranged(self) -> bool:
        """Whether it may be anything but its value."""
        return self.ends != (self.value, self.value)

    def at(self, end: End) -> Quantity:
        """The number fixed at one end of its range."""
        low, high = self.ends
        return replace(self, value={"low": low, "nominal": self.value, "high": high}[end], low=None, high=None)

    @property
    def si(self) -> float:
        """The value in base units (J, s, m, A, ...)."""
        return self.value * parse_unit(self.unit)[0]

    def to(self, unit: str) -> float:
        """The value in another unit of the same dimension.

        Raises:
            SasError: the units measure different things.
        """
        scale, powers = parse_unit(unit)
        if powers != parse_unit(self.unit)[1]:
            raise SasError(f"{self.unit} cannot be given in {unit}")
        return self.si / scale

    def __str__(self) -> str:
        return format_si(self.value, self.unit)


class Measured(BaseModel):
    """A section of a description file: quantities, each of the dimension that ``UNITS`` gives it and not negative."""

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
