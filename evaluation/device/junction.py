"""The junction as a resistor: conductance against angle and voltage, with its access transistor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sasimc.evaluation.device.stack import Stack

__all__ = ["junction_current", "resistance", "tmr_at"]

Floats = npt.NDArray[np.float64]


def resistance(along: npt.ArrayLike, resistances: tuple[float, float]) -> Floats:
    """Resistance, ohm, of a junction whose free layer has the component ``along`` on the fixed layer's axis: the conductance is linear in
    the cosine (Slonczewski, Phys. Rev. B 39, 6995, 1989)."""
    g_p, g_ap = 1 / np.asarray(resistances[0]), 1 / np.asarray(resistances[1])
    return np.asarray(1 / ((g_p + g_ap) / 2 + (g_p - g_ap) / 2 * np.asarray(along)))


def tmr_at(stack: Stack, resistances: tuple[float, float], volts: npt.ArrayLike) -> Floats:
    """TMR at a voltage across the junction: TMR / (1 + (V / V_half)^2)."""
    return np.asarray((resistances[1] / resistances[0] - 1) / (1 + (np.asarray(volts) / stack.tmr_half_voltage.si) ** 2))


def junction_current(
    stack: Stack, resistances: tuple[float, float], access: npt.ArrayLike, volts: npt.ArrayLike, along: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """(current, A, voltage across the junction, V) with ``volts`` over junction and access transistor in series. The TMR depends on the result; the
    iteration contracts by less than 1/4 a round."""
    low = np.asarray(resistances[0])
    across = np.asarray(volts) * low / (low + np.asarray(access))
    current = across / low
    for _ in range(12):
        ohms = resistance(along, (low, low * (1 + tmr_at(stack, resistances, across))))  # type: ignore[arg-type]
        current = np.asarray(volts) / (ohms + np.asarray(access))
        across = current * ohms
    return np.asarray(current), np.asarray(across)
