"""What every page of the house has: its policy, its style sheet, the colours of components and phases."""

from __future__ import annotations

from importlib import resources
from typing import Final

__all__ = ["COMPONENTS", "POLICY", "component_colour", "component_name", "house_style", "phase_colour"]

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the browser may load: nothing."""

COMPONENTS: Final = {
    "memory_array": "cells, sensing", "cell_write": "cells, writing", "column_decoder": "column decoders and drivers",
    "row_decoder": "row decoders and drivers", "shift_adder": "shift adders", "adder_tree": "adder tree", "buffer": "global buffer",
    "relu": "global ReLU", "periphery": "periphery", "accumulators": "accumulators", "control": "controller", "host": "host interface",
    "leakage": "leakage",
}  # fmt: skip
"""Components as readers know them, in the order in which they are stacked; each has its colour in ``house.css``."""


def component_name(name: str) -> str:
    """A component in words."""
    return COMPONENTS.get(name, name.replace("_", " "))


def component_colour(name: str) -> str:
    """A component's colour, the same on every page."""
    return f"var(--k-{name if name in COMPONENTS else 'other'})"


def phase_colour(name: str) -> str:
    """A phase's colour."""
    return f"var(--p-{name.split()[0]})"


def house_style() -> str:
    """The shared style sheet."""
    return resources.files("sasimc.evaluation.report").joinpath("house.css").read_text(encoding="utf-8")
