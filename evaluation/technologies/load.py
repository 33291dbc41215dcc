"""A technology from any of its file formats."""

from __future__ import annotations

from pathlib import Path

from sasimc.evaluation.nvsim.cells import load_cell
from sasimc.evaluation.technologies.technology import Technology, read_technology

__all__ = ["load_technology"]


def load_technology(source: str | Path = "sas") -> Technology:
    """Read and validate a technology: a shipped name (``sas``, ``sot``, ``stt``, ``sram``), a TOML file, or an NVSim ``.cell`` file (what it does not
    say is assumed: `sasc machine import` lists it).

    Raises:
        SasError: unknown name, unreadable file, syntax, unknown, missing or impossible fields (all of them are listed).
    """
    return load_cell(Path(source)) if Path(source).suffix.lower() == ".cell" else read_technology(source)
