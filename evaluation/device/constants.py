"""Physical constants (CODATA 2018), SI units."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["BOLTZMANN", "CHARGE", "GAMMA", "HBAR", "MU0"]

HBAR: Final = 1.054571817e-34
"""Reduced Planck constant, J s."""
CHARGE: Final = 1.602176634e-19
"""Elementary charge, C."""
BOLTZMANN: Final = 1.380649e-23
"""Boltzmann constant, J/K."""
MU0: Final = 4e-7 * math.pi
"""Vacuum permeability, T m/A."""
GAMMA: Final = 1.76085963e11
"""Gyromagnetic ratio of the electron, rad/(s T)."""
