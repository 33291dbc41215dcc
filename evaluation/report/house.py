"""What every page of the house has: its policy, its style sheet, the colours of components and phases."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Final

__all__ = ["COMPONENTS", "POLICY", "component_colour", "component_name", "frame", "house_style", "phase_colour"]

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the browser may load: nothing."""

COMPONENTS: Final = {
    "memory_array": "cells, sensing", "sense_amplifier": "sense amplifiers", "cell_write": "cells, writing", "write_driver": "write drivers",
    "column_decoder": "column decoders and drivers", "row_decoder": "row decoders and drivers", "shift_adder": "shift adders",
    "adder_tree": "adder tree", "interconnect": "interconnect", "buffer": "global buffer", "relu": "global ReLU", "periphery": "periphery",
    "accumulators": "accumulators", "controller": "controller", "host": "host interface", "leakage": "leakage", "host_standby": "host memory, standby",
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


def _asset(name: str) -> str:
    return resources.files("sasimc.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def house_style() -> str:
    """The shared style sheet."""
    return _asset("house.css")


def frame(title: str, main: str, style: str = "") -> str:
    """A report page around its ``main`` part (HTML); ``style``: rules of this page alone."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{house_style()}{_asset("style.css")}{style}</style></head>
<body><main>{main}</main>
<script>{_asset("page.js")}</script></body></html>
"""
