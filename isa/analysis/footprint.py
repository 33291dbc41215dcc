"""Which rows of its operands one execution of an instruction touches, derived from its declaration.

Every window instruction relates an input side (the larger plane, the one with padding) and an output side. The view called ``e`` is the output
side where there is one, otherwise the one that collects results; the remaining views are on the input side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

from sasimc.isa.objects import Geometry, View
from sasimc.isa.spec import GeomField, Instruction, MatField, ViewField

__all__ = ["Touch", "covered_rows", "footprint", "window_rows"]


@dataclass(frozen=True)
class Touch:
    """Rows ``first <= y < last`` of a view, and how: ``r``, ``w``, ``a`` (accumulate), ``d`` (drain) or ``rw``."""

    view: View
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


def footprint(spec: type[Instruction], o: SimpleNamespace, r0: int, r1: int) -> Iterator[Touch]:
    """Rows touched by rows r0..r1-1 (already clipped) of the resolved instruction; views without a row range are touched whole."""
    fields = [f for f in spec.fields if isinstance(f, ViewField)]
    rows = spec.rows_field()
    geom = next((getattr(o, f.name) for f in spec.fields if isinstance(f, GeomField)), None)
    if rows is None:
        for f in fields:
            v = getattr(o, f.name)
            yield Touch(v, f.access, 0, v.height)
        return
    if r0 >= r1:
        return
    shift = getattr(o, "shift", 0)
    if geom is None:
        for f in fields:
            first = r0 + shift if f.name == "dst" else r0
            yield Touch(getattr(o, f.name), f.access, first, first + r1 - r0)
        return
    gradient = any(isinstance(f, MatField) and f.kinds == ("scratch",) for f in spec.fields)
    outer = next((f for f in fields if f.name == "e"), None) or next(f for f in fields if f.access != "r")
    for f in fields:
        v = getattr(o, f.name)
        if f.name == rows.of:
            yield Touch(v, f.access, r0, r1)
        elif gradient and f.access == "a":
            yield Touch(v, f.access, 0, v.height)
        elif f is outer:  # rows count on the input side
            yield Touch(v, f.access, *covered_rows(geom, v.height, r0, r1))
        else:
            yield Touch(v, f.access, *window_rows(geom, v.height, getattr(o, outer.name).height, r0, r1))
