"""Figures of the reference machine on another one."""

from __future__ import annotations

import math

from sasimc.evaluation.circuit.circuit import Reference
from sasimc.evaluation.figure import shown
from sasimc.evaluation.quantity import Quantity
from sasimc.isa.machine import Machine

__all__ = ["ratio", "scaled"]


def ratio(machine: Machine, reference: Reference, what: str) -> float:
    """How much larger this machine is than the reference."""
    return {
        "none": 1.0,
        "rows": machine.array.rows / reference.rows,
        "columns": machine.array.bit_columns / reference.bit_columns,
        "cells": machine.array.rows * machine.array.bit_columns / (reference.rows * reference.bit_columns),
        "units": machine.adder_tree.units / reference.adder_units,
        "bits": 8 * machine.buffer.bytes / reference.buffer_bits,
        "sqrt_bits": math.sqrt(8 * machine.buffer.bytes / reference.buffer_bits),
    }[what]


def scaled(quantity: Quantity, machine: Machine, reference: Reference, rule: str) -> tuple[float, str]:
    """A figure of the reference on this machine (base units), and the formula."""
    factor = ratio(machine, reference, rule)
    return quantity.si * factor, shown(quantity) + (f" x {factor:.4g} ({rule})" if factor != 1 else "")
