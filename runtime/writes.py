"""Writes to the arrays, by what stands in the word lines: trained weights, scratch rows of gradients, and what the host wrote."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from sasimc.isa.program import Program
from sasimc.runtime.device import Device
from sasimc.runtime.profile import profile_rows
from sasimc.runtime.state import RowWrites

__all__ = ["program_writes", "writes"]


def _is_scratch(program: Program, matrix: str) -> bool:
    return program.matrices[matrix].kind == "scratch"


def program_writes(device: Device, scratch: bool) -> RowWrites:
    """What the program wrote since the counters were reset: to scratch rows, or to weights."""
    total = RowWrites()
    for row in profile_rows(device.interpreter):
        if row.matrix and _is_scratch(device.program, row.matrix) == scratch:
            kinds = [
                tuple(row.events.get(f"{what}_{kind}", 0) for what in ("rows_written", "bits_written", "bits_flipped"))
                for kind in ("compute", "transposable")
            ]
            total += RowWrites(*(a + b for a, b in zip(*kinds, strict=True)))
    return total


def _wear(device: Device, scratch: bool) -> dict[str, Any]:
    """The most written word line ([sub-array, word line]) of trained weights or of scratch, and the mean over all of them."""
    it = device.interpreter
    chosen = np.zeros(it.state.wear.shape, np.bool_)
    for m in device.program.matrices.values():
        if m.kind == "scratch" if scratch else m.trainable:
            for t in m.tiles:
                chosen[t.subarray, t.row : t.row + t.rows] = True
    counts = np.where(chosen, it.state.wear, -1)
    at = int(counts.argmax())
    mean = float(it.state.wear[chosen].mean()) if chosen.any() else 0.0
    return {"worst": max(0, int(counts.flat[at])), "worst_row": [at // counts.shape[1], at % counts.shape[1]], "mean": mean}


def writes(device: Device) -> dict[str, Any]:
    """For a report: ``rows``, ``bits_written`` and ``bits_flipped`` of this run for ``weights``, ``scratch`` and by the ``host``; with ``worst``,
    ``worst_row`` and ``mean`` writes of a word line since the arrays were made."""
    out: dict[str, Any] = {
        name: {**asdict(program_writes(device, scratch)), **_wear(device, scratch)}
        for name, scratch in (("weights", False), ("scratch", True))
    }
    return {**out, "host": asdict(device.programmed)}
