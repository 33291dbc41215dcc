"""A free layer on its heavy-metal line: the parameters of a description file and what follows from them.

Axes: x along the heavy-metal line (and the long axis of the ellipse), y across it, z out of the plane. A stack of type ``x`` is
magnetised along x, one of type ``z`` along z (table II). The spin Hall effect of a current along x polarises along y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from sasimc.evaluation.device.constants import BOLTZMANN, CHARGE, GAMMA, HBAR, MU0
from sasimc.evaluation.device.motion import Model
from sasimc.evaluation.quantity import Measured, Quantity
from sasimc.isa.errors import SasError

__all__ = ["HeavyMetal", "Limits", "Pulse", "ReadCircuit", "Stack", "Variation", "WriteCircuit"]


class HeavyMetal(Measured):
    """The line under the junctions: ``junctions`` of them, one every ``pitch``."""

    UNITS: ClassVar[dict[str, str]] = {"resistivity": "ohm*m", "thickness": "m", "width": "m", "pitch": "m", "junctions": "bit"}

    resistivity: Quantity
    thickness: Quantity
    width: Quantity
    pitch: Quantity
    junctions: Quantity

    @property
    def section(self) -> float:
        """Cross-section, m^2."""
        return self.thickness.si * self.width.si

    def ladder(self, junctions: int) -> list[float]:
        """Resistances, ohm, from the driven end to the first junction, between junctions, and from the last one to the far end."""
        one = self.resistance(1)
        return [one / 2, *[one] * (junctions - 1), one / 2]

    def resistance(self, junctions: int) -> float:
        """Resistance of the line under so many junctions, ohm."""
        return self.resistivity.si * junctions * self.pitch.si / self.section


class Pulse(Measured):
    """One way of writing: SOT current for ``sot_time``, released in ``release_time`` while the bit lines begin, which drive for ``stt_time`` from the
    beginning of the release, with a voltage (``stt_voltage``) or with a current (``stt_current``), and fall to nothing in ``fall_time``; ``assist_field``: a constant field that breaks the
    symmetry where nothing else does (SOT alone)."""

    UNITS: ClassVar[dict[str, str]] = {
        "sot_current": "A", "sot_time": "s", "release_time": "s", "stt_voltage": "V", "stt_current": "A", "stt_time": "s", "fall_time": "s",
        "assist_field": "T",
    }  # fmt: skip

    sot_current: Quantity | None = None
    sot_time: Quantity | None = None
    release_time: Quantity | None = None
    stt_voltage: Quantity | None = None
    stt_current: Quantity | None = None
    stt_time: Quantity | None = None
    fall_time: Quantity | None = None
    assist_field: Quantity | None = None

    @model_validator(mode="after")
    def _one_drive(self) -> Pulse:
        if self.stt_voltage is not None and self.stt_current is not None:
            raise ValueError("stt_voltage and stt_current exclude each other: a bit line drives one of them")
        return self


class WriteCircuit(Measured):
    """What drives a write. ``line_ground``: in the STT phase the junctions' currents return through the far end of the line alone (``one``), or
    through the driven end as well, by way of its transistor (``both``). ``energy_account``: heat of line, junctions and transistors (``joule``), or every
    charge times ``supply`` (``supply``)."""

    UNITS: ClassVar[dict[str, str]] = {"driver_resistance": "ohm", "access_resistance": "ohm", "supply": "V"}

    line_ground: Literal["one", "both"]
    energy_account: Literal["joule", "supply"]
    driver_resistance: Quantity
    access_resistance: Quantity
    supply: Quantity


class Limits(Measured):
    """What must not be exceeded: ``breakdown``, voltage across the barrier for the pulses of writing; ``line_density``, current density in the heavy
    metal; ``row_current`` and ``chip_current``, the largest current of a row, and of all rows written at once."""

    UNITS: ClassVar[dict[str, str]] = {"breakdown": "V", "line_density": "A/m^2", "row_current": "A", "chip_current": "A"}

    breakdown: Quantity
    line_density: Quantity
    row_current: Quantity
    chip_current: Quantity


class ReadCircuit(Measured):
    """How a bit is sensed: at ``voltage`` for ``time``, its current against a reference. ``towards``: the state that the read current favours.
    ``sense_noise``: input-referred noise of one read, one standard deviation."""

    UNITS: ClassVar[dict[str, str]] = {"voltage": "V", "time": "s", "access_resistance": "ohm", "sense_noise": "A"}

    towards: Literal["parallel", "antiparallel"]
    voltage: Quantity
    time: Quantity
    access_resistance: Quantity
    sense_noise: Quantity


class Variation(Measured):
    """How much cells, transistors and amplifiers of one device differ, one standard deviation, fixed when the device is made. ``anisotropy``: of the
    interfacial or volume anisotropy; ``resistance_area``: of the barrier; ``threshold``: of a transistor whose gate stands ``overdrive`` above it;
    ``sense_offset`` of an amplifier, ``reference`` of a sub-array's reference current."""

    UNITS: ClassVar[dict[str, str]] = {
        "anisotropy": "%", "thickness": "%", "resistance_area": "%", "diameter": "%", "tmr": "%", "threshold": "V", "overdrive": "V",
        "sense_offset": "A", "reference": "%",
    }  # fmt: skip

    anisotropy: Quantity
    thickness: Quantity
    resistance_area: Quantity
    diameter: Quantity
    tmr: Quantity
    threshold: Quantity
    overdrive: Quantity
    sense_offset: Quantity
    reference: Quantity


class Stack(Measured):
    """The layers of one bit. ``anisotropy_constant`` is a uniaxial volume anisotropy along ``anisotropy_axis``; ``interfacial_anisotropy``
    (per area) favours z; the shape is an ellipse ``length`` x ``width`` of ``thickness``. ``sas``, ``stt``, ``sot``: pulses that write it.
    """

    UNITS: ClassVar[dict[str, str]] = {
        "damping": "1", "spin_hall_angle": "1", "saturation_magnetisation": "A/m", "length": "m", "width": "m", "thickness": "m",
        "anisotropy_constant": "J/m^3", "interfacial_anisotropy": "J/m^2", "field_like_ratio": "1", "polarisation": "1",
        "temperature": "K", "attempt_time": "s", "curie_temperature": "K", "anisotropy_exponent": "1", "tmr_half_voltage": "V",
        "polarisation_loss": "1",
    }  # fmt: skip

    type: Literal["x", "z"]
    description: Annotated[str, Field(max_length=400)] = ""
    damping: Quantity
    spin_hall_angle: Quantity
    saturation_magnetisation: Quantity
    length: Quantity
    width: Quantity
    thickness: Quantity
    anisotropy_constant: Quantity | None = None
    anisotropy_axis: Literal["x", "z"] = "z"
    interfacial_anisotropy: Quantity | None = None
    field_like_ratio: Quantity
    polarisation: Quantity
    temperature: Quantity
    attempt_time: Quantity
    curie_temperature: Quantity
    anisotropy_exponent: Quantity
    polarisation_loss: Quantity
    tmr_half_voltage: Quantity
    heavy_metal: HeavyMetal
    write: WriteCircuit
    limits: Limits
    read: ReadCircuit
    variation: Variation
    sas: Pulse
    stt: Pulse
    sot: Pulse

    @model_validator(mode="after")
    def _possible(self) -> Stack:
        for name in ("damping", "saturation_magnetisation", "length", "width", "thickness", "polarisation", "spin_hall_angle"):
            if getattr(self, name).value <= 0:
                raise ValueError(f"{name} must be more than 0")
        if self.length.si < self.width.si:
            raise ValueError("length is the long axis: it is smaller than width")
        if self.polarisation.si >= 1:
            raise ValueError("polarisation must be less than 1")
        if self.curie_temperature.si <= self.temperature.si:
            raise ValueError("curie_temperature must lie above temperature")
        return self

    # ------------------------------------------------------------------------------------------------------------ statics

    @property
    def area(self) -> float:
        """Area of the ellipse, m^2."""
        return math.pi / 4 * self.length.si * self.width.si

    @property
    def volume(self) -> float:
        """Volume of the free layer, m^3."""
        return self.area * self.thickness.si

    @cached_property
    def stiffness(self) -> tuple[float, float, float]:
        """Diagonal of C in B = C m, tesla: 2 K / Ms along an axis of anisotropy, -mu0 Ms N from the shape."""
        from sasimc.evaluation.device.demag import demagnetising_factors  # loads scipy, which a cost model has no use for

        ms = self.saturation_magnetisation.si
        out = [-MU0 * ms * n for n in demagnetising_factors(self.length.si, self.width.si, self.thickness.si)]
        if self.anisotropy_constant:
            out["xyz".index(self.anisotropy_axis)] += 2 * self.anisotropy_constant.si / ms
        if self.interfacial_anisotropy:
            out[2] += 2 * self.interfacial_anisotropy.si / (ms * self.thickness.si)
        return out[0], out[1], out[2]

    @property
    def easy(self) -> int:
        """Index of the easy axis: 0 (x) or 2 (z)."""
        return "xyz".index(self.type)

    @property
    def easy_field(self) -> float:
        """Anisotropy field B_k between the easy axis and the lowest way over, tesla (at most 0: not stable)."""
        c = self.stiffness
        return c[self.easy] - max(c[i] for i in range(3) if i != self.easy)

    @property
    def hard_field(self) -> float:
        """B_h: how much stiffer the hardest axis is than the lowest way over, tesla (0: the two are alike)."""
        c = self.stiffness
        others = [c[i] for i in range(3) if i != self.easy]
        return max(others) - min(others)

    @property
    def barrier(self) -> float:
        """Energy barrier between the two states, J: Ms B_k V / 2."""
        return self.saturation_magnetisation.si * self.easy_field * self.volume / 2

    @property
    def thermal_stability(self) -> float:
        """Delta: the barrier in units of k T."""
        return self.barrier / (BOLTZMANN * self.temperature.si)

    @property
    def axial(self) -> bool:
        """Whether the layer is symmetric about its easy axis."""
        return self.hard_field <= 1e-6 * self.easy_field

    # ----------------------------------------------------------------------------------------------------------- dynamics

    @property
    def noise(self) -> float:
        """2 alpha k T / (gamma Ms V), T^2 s: the strength of the thermal field."""
        return 2 * self.damping.si * BOLTZMANN * self.temperature.si / (GAMMA * self.saturation_magnetisation.si * self.volume)

    def model(self, external: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Model:
        """The equation of motion at the stack's temperature."""
        return Model(self.damping.si, self.stiffness, self.easy, self.noise, self.field_like_ratio.si, external)

    def at(self, temperature: float) -> Stack:
        """The stack at another temperature, K: Ms after Bloch, 1 - (T / Tc)^3/2; anisotropies as a power of Ms (Callen and Callen, J. Phys. Chem. Solids
        27, 1271, 1966); the polarisation after Shang et al. (Phys. Rev. B 58, R2917, 1998), 1 - c T^3/2. The values of the file hold at its own.

        Raises:
            SasError: at or above the Curie temperature.
        """
        now, tc = self.temperature.si, self.curie_temperature.si
        if not 0 < temperature < tc:
            raise SasError(f"{temperature:g} K does not lie between 0 and the Curie temperature, {tc:g} K")
        magnet = (1 - (temperature / tc) ** 1.5) / (1 - (now / tc) ** 1.5)
        stiff = magnet**self.anisotropy_exponent.si
        loss = self.polarisation_loss.si
        polarised = (1 - loss * temperature**1.5) / (1 - loss * now**1.5)
        factors = {
            "saturation_magnetisation": magnet, "interfacial_anisotropy": stiff, "anisotropy_constant": stiff, "polarisation": polarised,
            "temperature": temperature / now,
        }  # fmt: skip
        return self.scaled(factors)

    def scaled(self, factors: Mapping[str, float]) -> Stack:
        """A copy with quantities, by name, multiplied; absent ones stay absent. Names of a section's quantities have a dot: ``read.voltage``."""
        changed: dict[str, Any] = {}
        for name, factor in factors.items():
            section, dot, inner = name.partition(".")
            if dot:
                whole = changed.get(section, getattr(self, section))
                q = getattr(whole, inner)
                changed[section] = (
                    whole.model_copy(update={inner: replace(q, value=q.value * factor)}) if q is not None else whole
                )
            elif (q := getattr(self, name)) is not None:
                changed[name] = replace(q, value=q.value * factor)
        copy = self.model_copy(update=changed)
        vars(copy).pop("stiffness", None)  # derived from what changed
        return copy

    def efficiency(self, along: float = 1.0) -> float:
        """Spin-transfer efficiency at cos = ``along`` between the layers: P / (1 + P^2 cos) (Slonczewski, Phys. Rev. B 71, 024411, 2005)."""
        p = self.polarisation.si
        return p / (1 + p * p * along)

    def _torque(self, density: float, efficiency: float) -> float:
        return HBAR * efficiency * density / (2 * CHARGE * self.saturation_magnetisation.si * self.thickness.si)

    def sot_torque(self, current: float) -> float:
        """Damping-like torque, tesla, of a current in the heavy-metal line, A: hbar theta J / (2 e Ms t)."""
        return self._torque(current / self.heavy_metal.section, self.spin_hall_angle.si)

    def stt_torque(self, current: float, along: float = 1.0) -> float:
        """Damping-like torque, tesla, of a current through the junction, A, at cos = ``along``: hbar eta J / (2 e Ms t)."""
        return self._torque(current / self.area, self.efficiency(along))

    def sot_current(self, torque: float) -> float:
        """The line current that gives a torque (inverse of :meth:`sot_torque`)."""
        return torque / self.sot_torque(1.0)

    def stt_current(self, torque: float, along: float = 1.0) -> float:
        """The junction current that gives a torque (inverse of :meth:`stt_torque`)."""
        return torque / self.stt_torque(1.0, along)
