"""Drawings of a report as inline SVG: bars in table cells, curves over time or epochs, stacked columns.

Shapes are stretched to the width of the page (``preserveAspectRatio="none"``); every text is HTML beside them, so that it keeps its size on a
phone. Colours are CSS variables of ``house.css``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sasimc.evaluation.report.tables import si, tick

__all__ = ["Series", "bar", "columns", "curves", "legend", "ticks"]


def ticks(top: float, at_most: int = 5) -> list[float]:
    """Round values from 0 to at least ``top``: steps of 1, 2 or 5 times a power of ten."""
    if not top > 0:
        return [0.0, 1.0]
    raw = top / at_most
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(f for f in (1, 2, 5, 10) if f * step >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(top / step * (1 - 1e-9)) + 1)]


def bar(parts: Sequence[tuple[float, str, str]], whole: float, label: str) -> str:
    """A bar of coloured parts, (value, colour, name), of which ``whole`` would fill the cell."""
    at, shapes = 0.0, list[str]()
    for value, colour, name in parts:
        wide = 1000 * value / whole if whole else 0.0
        if wide >= 0.5:
            title = f"<title>{escape(name)}</title>" if name else ""
            shapes.append(f'<rect x="{at:.1f}" y="0" width="{wide:.1f}" height="10" fill="{colour}">{title}</rect>')
        at += wide
    return f'<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg>'


def legend(items: Sequence[tuple[str, str]]) -> str:
    """Colours and what they stand for."""
    return '<ul class="legend">' + "".join(f'<li><i style="background:{c}"></i>{escape(n)}</li>' for n, c in items) + "</ul>"


@dataclass(frozen=True)
class Series:
    """A curve: points (x, y), None where there is no value; ``dash``: an SVG dash pattern; ``marks``: a dot at every point."""

    name: str
    colour: str
    points: Sequence[tuple[float, float | None]]
    dash: str = ""
    area: bool = False
    step: bool = False
    marks: bool = False


def _path(series: Series, x0: float, x1: float, top: float) -> str:
    """SVG path data in a box of 1000 x 1000, y upwards."""
    out: list[str] = []
    pen = False
    last = 0.0
    for x, y in series.points:
        if y is None:
            pen = False
            continue
        px = 1000 * (x - x0) / ((x1 - x0) or 1)
        py = 1000 * (1 - y / top)
        if pen and series.step:
            out.append(f"H{px:.1f}")
        out.append(
            f"{'L' if pen and not series.step else 'V' if pen else 'M'}{py:.1f}"
            if pen and series.step
            else f"{'L' if pen else 'M'}{px:.1f} {py:.1f}"
        )
        pen, last = True, px
    if series.area and out:
        first = 1000 * (series.points[0][0] - x0) / ((x1 - x0) or 1)
        out.append(f"L{last:.1f} 1000L{first:.1f} 1000Z")
    return "".join(out)


def _axes(xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]]) -> tuple[str, str]:
    """Grid lines and labels; positions in parts of the box, from the left and from below."""
    grid = "".join(f'<line x1="0" x2="1000" y1="{1000 * (1 - y):.1f}" y2="{1000 * (1 - y):.1f}"/>' for y, _ in ys)
    labels = "".join(f'<span class="y" style="bottom:{100 * y:.2f}%">{escape(text)}</span>' for y, text in ys)
    labels += "".join(
        f'<span class="x{" first" if x < 0.02 else " last" if x > 0.98 else ""}" style="left:{100 * x:.2f}%">{escape(text)}</span>'
        for x, text in xs
    )
    return f'<g class="grid">{grid}</g>', labels


def curves(
    series: Sequence[Series], x_axis: tuple[float, float, str], y_unit: str, *, title: str, x_labels: Sequence[tuple[float, str]] | None = None,
    top: float | None = None, line: tuple[float, str] | None = None, bands: Sequence[tuple[float, float, str, str]] = (), chart: str = "",
) -> str:  # fmt: skip
    """Curves over ``x_axis`` = (from, to, unit). ``line``: a horizontal limit and its name; ``bands``: (from, to, colour, name) behind the
    curves; ``chart``: a name for the script to show values by."""
    x0, x1, unit = x_axis
    highest = max((y for s in series for _, y in s.points if y is not None), default=1.0)
    if line:  # room for the name of the limit above it
        ceiling = max(1.12 * line[0], 1.04 * highest)
        marks = [m for m in ticks(ceiling, 4) if m <= ceiling]
    else:
        marks = ticks(highest if top is None else top, 4)
        ceiling = marks[-1] or 1.0
    ys = [(m / ceiling, tick(m, y_unit)) for m in marks]
    if x_labels is None:
        inner = [x for x in ticks(x1 - x0, 5) if x <= (x1 - x0) * 1.001]
        x_labels = [((x / (x1 - x0) if x1 > x0 else 0.0), tick(x0 + x, unit)) for x in inner]
    grid, labels = _axes(x_labels, ys)
    shapes = [grid]
    for a, b, colour, name in bands:
        left, wide = 1000 * (a - x0) / ((x1 - x0) or 1), 1000 * (b - a) / ((x1 - x0) or 1)
        shapes.append(
            f'<rect class="band" x="{left:.1f}" y="0" width="{wide:.1f}" height="1000" fill="{colour}"><title>{escape(name)}</title></rect>'
        )
    if line:
        y = 1000 * (1 - line[0] / ceiling)
        shapes.append(f'<line class="limit" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>')
        labels += f'<span class="limit" style="bottom:{100 * line[0] / ceiling:.2f}%">{escape(line[1])}</span>'
    for s in series:
        path = _path(s, x0, x1, ceiling)
        if s.area:
            shapes.append(f'<path class="area" d="{path}" fill="{s.colour}"/>')
        else:
            dash = f' stroke-dasharray="{s.dash}"' if s.dash else ""
            shapes.append(f'<path class="curve" d="{path}" stroke="{s.colour}"{dash}/>')
        if s.marks:
            for x, y in s.points:
                if y is not None:
                    left, low = 100 * (x - x0) / ((x1 - x0) or 1), 100 * y / ceiling
                    labels += f'<i class="dot" style="left:{left:.2f}%;bottom:{low:.2f}%;background:{s.colour}" title="{escape(s.name)}: {escape(si(y, y_unit))}"></i>'
    name = f' data-chart="{escape(chart)}"' if chart else ""
    return (
        f'<div class="plot"{name}><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
        f'{labels}<span class="cursor" hidden></span></div>'
    )


def columns(names: Sequence[str], parts: Sequence[Sequence[tuple[float, str, str]]], unit: str, *, title: str) -> str:
    """Stacked columns: for every name its parts (value, colour, name)."""
    totals = [math.fsum(v for v, _, _ in p) for p in parts]
    marks = ticks(max(totals, default=1.0), 4)
    ceiling = marks[-1] or 1.0
    slot = 1000 / max(1, len(names))
    wide = min(slot * 0.7, 120.0)
    every = max(1, math.ceil(len(names) / 12))
    xs = [((i + 0.5) / len(names), n) for i, n in enumerate(names) if i % every == 0]
    grid, labels = _axes([(min(max(x, 0.021), 0.979), n) for x, n in xs], [(m / ceiling, tick(m, unit)) for m in marks])
    shapes = [grid]
    for i, stack in enumerate(parts):
        low = 0.0
        for value, colour, name in stack:
            high = 1000 * value / ceiling
            if high > 0.3:
                shapes.append(
                    f'<rect x="{(i + 0.5) * slot - wide / 2:.1f}" y="{1000 - low - high:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{colour}">'
                    f"<title>{escape(names[i])}, {escape(name)}: {escape(si(value, unit))}</title></rect>"
                )
            low += high
    return f'<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>{labels}</div>'
