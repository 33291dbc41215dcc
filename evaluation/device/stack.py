"""A free layer on its heavy-metal line: the parameters of a description file and what follows from them.

Axes: x along the heavy-metal line (and the long axis of the ellipse), y across it, z out of the plane. A stack of type ``x`` is
magnetised along x, one of type ``z`` along z (table II). The spin Hall effect of a current along x polarises along y.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sasimc.evaluation.device.constants import BOLTZMANN, CHARGE, GAMMA, HBAR, MU0
from sasimc.evaluation.device.motion import Model
from sasimc.evaluation.quantity import Measured, Quantity

__all__ = ["HeavyMetal", "Pulse", "ReadCircuit", "Stack"]


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

    def resistance(self, junctions: int) -> float:
        """Resistance of the line under so many junctions, ohm."""
        return self.resistivity.si * junctions * self.pitch.si / self.section


class Pulse(Measured):
    """One way of writing: SOT current for ``sot_time``, released in ``release_time`` while the STT current begins, which lasts ``stt_time``
    from the beginning of the release; ``assist_field``: a constant field that breaks the symmetry where nothing else does (SOT alone)."""

    UNITS: ClassVar[dict[str, str]] = {
        "sot_current": "A", "sot_time": "s", "release_time": "s", "stt_current": "A", "stt_time": "s", "assist_field": "T",
    }  # fmt: skip

    sot_current: Quantity | None = None
    sot_time: Quantity | None = None
    release_time: Quantity | None = None
    stt_current: Quantity | None = None
    stt_time: Quantity | None = None
    assist_field: Quantity | None = None


class ReadCircuit(Measured):
    """How a bit is sensed, and how much junctions differ (one standard deviation)."""

    UNITS: ClassVar[dict[str, str]] = {
        "voltage": "V", "time": "s", "access_resistance": "ohm", "resistance_spread": "%", "tmr_spread": "%", "sense_offset": "A",
    }  # fmt: skip

    voltage: Quantity
    time: Quantity
    access_resistance: Quantity
    resistance_spread: Quantity
    tmr_spread: Quantity
    sense_offset: Quantity


class Stack(Measured):
    """The layers of one bit. ``anisotropy_constant`` is a uniaxial volume anisotropy along ``anisotropy_axis``; ``interfacial_anisotropy``
    (per area) favours z; the shape is an ellipse ``length`` x ``width`` of ``thickness``. ``sas``, ``stt``, ``sot``: pulses that write it.
    """

    UNITS: ClassVar[dict[str, str]] = {
        "damping": "1", "spin_hall_angle": "1", "saturation_magnetisation": "A/m", "length": "m", "width": "m", "thickness": "m",
        "anisotropy_constant": "J/m^3", "interfacial_anisotropy": "J/m^2", "field_like_ratio": "1", "stt_efficiency": "1",
        "temperature": "K", "attempt_time": "s",
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
    stt_efficiency: Quantity
    temperature: Quantity
    attempt_time: Quantity
    heavy_metal: HeavyMetal
    read: ReadCircuit
    sas: Pulse
    stt: Pulse
    sot: Pulse

    @model_validator(mode="after")
    def _possible(self) -> Stack:
        for name in ("damping", "saturation_magnetisation", "length", "width", "thickness", "stt_efficiency", "spin_hall_angle"):
            if getattr(self, name).value <= 0:
                raise ValueError(f"{name} must be more than 0")
        if self.length.si < self.width.si:
            raise ValueError("length is the long axis: it is smaller than width")
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
    def retention(self) -> float:
        """Mean time to a thermal reversal, seconds: attempt time x exp(Delta) (Neel, Arrhenius)."""
        return self.attempt_time.si * math.exp(min(700.0, self.thermal_stability))

    # ----------------------------------------------------------------------------------------------------------- dynamics

    @property
    def noise(self) -> float:
        """2 alpha k T / (gamma Ms V), T^2 s: the strength of the thermal field."""
        return 2 * self.damping.si * BOLTZMANN * self.temperature.si / (GAMMA * self.saturation_magnetisation.si * self.volume)

    def model(
        self, resistances: tuple[float, float] = (1.0, 1.0), external: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> Model:
        """The equation of motion at the stack's temperature. ``resistances``: parallel and antiparallel, ohm."""
        return Model(
            self.damping.si, self.stiffness, self.easy, self.noise, self.field_like_ratio.si, external,
            (1 / resistances[0], 1 / resistances[1]),
        )  # fmt: skip

    def _torque(self, density: float, efficiency: float) -> float:
        return HBAR * efficiency * density / (2 * CHARGE * self.saturation_magnetisation.si * self.thickness.si)

    def sot_torque(self, current: float) -> float:
        """Damping-like torque, tesla, of a current in the heavy-metal line, A: hbar theta J / (2 e Ms t)."""
        return self._torque(current / self.heavy_metal.section, self.spin_hall_angle.si)

    def stt_torque(self, current: float) -> float:
        """Damping-like torque, tesla, of a current through the junction, A: hbar eta J / (2 e Ms t)."""
        return self._torque(current / self.area, self.stt_efficiency.si)

    def sot_current(self, torque: float) -> float:
        """The line current that gives a torque (inverse of :meth:`sot_torque`)."""
        return torque / self.sot_torque(1.0)

    def stt_current(self, torque: float) -> float:
        """The junction current that gives a torque (inverse of :meth:`stt_torque`)."""
        return torque / self.stt_torque(1.0)
