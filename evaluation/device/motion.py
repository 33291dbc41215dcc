"""What the equation of motion takes: the free layer, the drive, the ensemble (no kernel is loaded for these)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Ensemble", "Model", "Phase", "Segment"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A free layer. ``stiffness``: diagonal of C in B = C m, tesla; ``easy``: 0 (x) or 2 (z), the axis of the fixed layer; ``noise``:
    2 alpha k T / (gamma Ms V), T^2 s; ``field_like``: ratio of field-like to damping-like spin-orbit torque; ``external``: field, tesla.
    """

    damping: float
    stiffness: tuple[float, float, float]
    easy: int
    noise: float = 0.0
    field_like: float = 0.0
    external: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Segment:
    """A stretch of the drive, ``time`` seconds: the two torques in tesla, changing linearly from begin to end."""

    time: float
    sot: tuple[float, float] = (0.0, 0.0)
    stt: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Phase:
    """A stretch of a macro's drive, ``time`` seconds: ``source``, current into the driven end of the line, A, and ``level`` of the bit lines, V or A, each
    changing linearly from begin to end; ``ground``: conductance of the driven end to ground, S; ``on``: whether access transistors conduct."""

    time: float
    source: tuple[float, float] = (0.0, 0.0)
    level: tuple[float, float] = (0.0, 0.0)
    ground: float = 0.0
    on: bool = True


@dataclass(frozen=True)
class Ensemble:
    """Many writes of one free layer. ``start`` [N, 3] unit vectors; ``target`` [N]: +1 or -1, the side of the easy axis wanted, which is
    also the sign of the spin-transfer torque; ``sot_sign`` [N] or a number: sign (or scale) of the spin-orbit torque.
    """

    start: Floats
    target: Floats | float
    sot_sign: Floats | float = 1.0
    seed: int = 0
