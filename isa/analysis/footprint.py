"""Which rows of its operands one execution of an instruction touches, derived from its declaration.

Every window instruction relates an inner plane (the larger one, with padding) and an outer plane; its geometry field names both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sasimc.isa.objects import Geometry
from sasimc.isa.spec import GeomField, Instruction, ViewField

__all__ = ["Touch", "covered_rows", "footprint", "window_rows"]


class Touch(NamedTuple):
    """Rows ``first <= y < last`` of a view (a `View`, or what stands for one), and how: ``r``, ``w``, ``a`` (accumulate), ``d`` (drain) or ``rw``."""

    view: Any
    access: str
    first: int
    last: int


def window_rows(g: Geometry, inner: int, outer: int, r0: int, r1: int) -> tuple[int, int]:
    """Input rows under output rows r0..r1-1, clipped; ``inner`` and ``outer`` are the heights."""
    if r0 >= r1:
        return 0, 0
    if g.mode == "linear2":
        return max(0, (r0 - 1) // 2), min(inner, r1 // 2 + 1)
    if g.mode == "nearest":
        return r0 * inner // outer, (r1 - 1) * inner // outer + 1
    return max(0, min(inner, g.input_rows(r0)[0])), max(0, min(inner, g.input_rows(r1 - 1)[1]))


def covered_rows(g: Geometry, outer: int, r0: int, r1: int) -> tuple[int, int]:
    """Output rows whose window meets input rows r0..r1-1."""
    if r0 >= r1:
        return 0, 0
    reach = (g.kernel[0] - 1) * g.dilation[0]
    return max(0, min(outer, -(-(r0 + g.pad[0] - reach) // g.stride[0]))), max(
        0, min(outer, (r1 - 1 + g.pad[0]) // g.stride[0] + 1)
    )


def footprint(spec: type[Instruction], o: Any, r0: int, r1: int) -> Iterator[Touch]:
    """Rows touched by rows r0..r1-1 (already clipped) of the resolved instruction; views without a row range are touched whole."""
    rows = spec.rows_field()
    geometry = next(spec.of_kind(GeomField), None)
    if rows is not None and r0 >= r1:
        return
    for f in spec.of_kind(ViewField):
        v = getattr(o, f.name)
        first, last = r0, r1
        if rows is None or f.whole or (f.broadcast and v.height == 1):
            first, last = 0, v.height
        elif geometry is not None and f.name != rows.of:
            geom, outer = getattr(o, geometry.name), getattr(o, geometry.outer)
            if f.name == geometry.outer:  # rows count on the input side
                first, last = covered_rows(geom, v.height, r0, r1)
            else:
                first, last = window_rows(geom, v.height, outer.height, r0, r1)
        elif f.shift:
            first, last = r0 + getattr(o, f.shift), r1 + getattr(o, f.shift)
        yield Touch(v, f.access, first, last)
