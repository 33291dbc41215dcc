"""Closed forms of the macrospin: what the simulation is checked against, and what needs no simulation.

B_k is the anisotropy field between the easy axis and the lowest way over (``Stack.easy_field``), B_h how much stiffer the hardest axis is
(``Stack.hard_field``; 0 for a round perpendicular layer). Torques are in tesla, as in `sasimc.evaluation.device.llg`.
"""

from __future__ import annotations

import math

from sasimc.evaluation.device.constants import BOLTZMANN, GAMMA
from sasimc.evaluation.device.stack import Stack

__all__ = [
    "critical_sot_torque",
    "critical_stt_torque",
    "equilibrium_spread",
    "precession_frequency",
    "relaxation_time",
    "sweep_coercivity",
]


def _transverse(stack: Stack, field: float) -> tuple[float, float]:
    """The restoring fields of the two transverse directions, tesla, with ``field`` along the easy axis."""
    return stack.easy_field + field, stack.easy_field + stack.hard_field + field


def precession_frequency(stack: Stack, field: float = 0.0) -> float:
    """Small-angle precession about the easy axis, Hz (Kittel, with damping)::

    omega = gamma / (1 + alpha^2) sqrt(B1 B2 - alpha^2 (B1 - B2)^2 / 4)
    """
    b1, b2 = _transverse(stack, field)
    a = stack.damping.si
    return GAMMA / (1 + a * a) * math.sqrt(b1 * b2 - (a * (b1 - b2) / 2) ** 2) / (2 * math.pi)


def relaxation_time(stack: Stack, field: float = 0.0) -> float:
    """Time in which a small precession falls to 1/e, seconds: (1 + alpha^2) / (gamma alpha (B1 + B2) / 2)."""
    b1, b2 = _transverse(stack, field)
    a = stack.damping.si
    return (1 + a * a) / (GAMMA * a * (b1 + b2) / 2)


def critical_stt_torque(stack: Stack) -> float:
    """The spin-transfer torque at which the antiparallel state loses its stability: alpha (B_k + B_h / 2).

    (J. Z. Sun, Phys. Rev. B 62, 570, 2000; for a perpendicular layer alpha B_k.)
    """
    return stack.damping.si * (stack.easy_field + stack.hard_field / 2)


def critical_sot_torque(stack: Stack) -> float:
    """The slowly growing spin-orbit torque that takes m from the easy axis to +-y, for small damping.

    With p = y the state tilts in the plane of the easy and the third axis by psi, sin 2 psi = 2 b / (B_k + B_h), and small deviations obey
    lambda^2 = -gamma^2 (B_k + B_h) cos 2 psi (B_k cos^2 psi - B_h sin^2 psi). It gives way at (B_k + B_h) / 2 or at sqrt(B_k B_h), whichever
    factor vanishes first: B_k / 2 for a perpendicular layer (Lee et al., Appl. Phys. Lett. 102, 112410, 2013), sqrt(B_k B_h) for an in-plane one.
    """
    k, h = stack.easy_field, stack.hard_field
    return math.sqrt(k * h) if h >= k else (k + h) / 2


def equilibrium_spread(stack: Stack) -> tuple[float, float]:
    """Mean squares of the two transverse components in thermal equilibrium (equipartition, small angles): k T / (Ms V B_i)."""
    energy = BOLTZMANN * stack.temperature.si / (stack.saturation_magnetisation.si * stack.volume)
    b1, b2 = _transverse(stack, 0.0)
    return energy / b1, energy / b2


def sweep_coercivity(stack: Stack, seconds: float) -> float:
    """Field along the easy axis that reverses m within ``seconds``, tesla: B_k (1 - sqrt(ln(t / (t0 ln 2)) / Delta)) (Sharrock)."""
    waited = math.log(max(1.0, seconds / (stack.attempt_time.si * math.log(2))))
    return stack.easy_field * max(0.0, 1 - math.sqrt(waited / stack.thermal_stability))
