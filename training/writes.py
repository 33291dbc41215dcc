"""Writes to the arrays, by what stands in the word lines: trained weights, scratch rows of gradients, and what the host wrote."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from sasimc.profiling.profile import profile_rows
from sasimc.runtime.device import Device
from sasimc.runtime.state import RowWrites

__all__ = ["program_writes", "writes"]


def program_writes(device: Device) -> dict[str, RowWrites]:
    """What the program wrote since the counters were reset: to ``weights``, and to ``scratch`` rows."""
    total = {"weights": RowWrites(), "scratch": RowWrites()}
    for row in profile_rows(device.interpreter):
        if not row.matrix:
            continue
        counts = [
            sum(row.events.get(f"{what}_{kind}", 0) for kind in ("compute", "transposable"))
            for what in ("rows_written", "bits_written", "bits_flipped")
        ]
        total["scratch" if device.program.matrices[row.matrix].kind == "scratch" else "weights"] += RowWrites(*counts)
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
    by_program = program_writes(device)
    out: dict[str, Any] = {name: {**asdict(written), **_wear(device, name == "scratch")} for name, written in by_program.items()}
    return {**out, "host": asdict(device.programmed)}
