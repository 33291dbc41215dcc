"""Pictures of ranges: what a total owes to each assumption, and curves over one of them. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sasimc.evaluation.quantity import format_si
from sasimc.isa.errors import SasError

if TYPE_CHECKING:
    from sasimc.evaluation.cost import Cost
    from sasimc.evaluation.ranges import Curve

__all__ = ["draw_curve", "draw_tornado", "picture"]

_BARS = 12


def picture(width: float, draw: Callable[[Any], None], panels: int = 1, *, height: float = 3.2, suffix: str = ".svg") -> bytes:
    """A picture of ``panels`` axes beside each other, in inches; the same bytes for the same contents.

    Raises:
        SasError: matplotlib is not installed; another format than .svg and .png.
    """
    if suffix.lower() not in (".svg", ".png"):
        raise SasError(
            f"no picture can be written as {suffix or 'a file without suffix'!r}", hint="a name that ends in .svg or .png"
        )
    try:
        import matplotlib
    except ImportError:
        raise SasError("plots need matplotlib", hint="pip install 'sas-imc[plots]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "sas-imc", "svg.fonttype": "none", "font.family": "sans-serif"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained", squeeze=False)
    draw(axes[0])
    file = io.BytesIO()
    metadata = {"Date": None} if suffix.lower() == ".svg" else {"Software": None}
    figure.savefig(file, format=suffix[1:].lower(), metadata=metadata, dpi=150)
    plt.close(figure)
    return file.getvalue()


def draw_tornado(cost: Cost, suffix: str = ".svg") -> bytes:
    """The assumptions that move the run's energy most, each from its low to its high end."""
    from sasimc.evaluation.ranges import tornado

    swings = tornado(cost.model, lambda m: m.energy(cost.totals, cost.run.cycles))[:_BARS]

    def draw(axes: Any) -> None:
        ax = axes[0]
        names = [s.name for s in swings]
        ax.barh(names, [s.high - s.low for s in swings], left=[s.low for s in swings], color="#3a7ca5")
        for i, s in enumerate(swings):
            ax.text(max(s.low, s.high), i, f"  {s.at[0]} to {s.at[1]}", va="center", fontsize=7)
        ax.axvline(cost.energy, color="#c0392b", linestyle="--", label=f"nominal: {format_si(cost.energy, 'J')}")
        ax.margins(x=0.25)
        ax.invert_yaxis()
        ax.set_xlabel("energy, J")
        ax.set_title(f"{cost.run.name}: energy, one assumption at a time", fontsize=10)
        ax.legend(loc="lower right", fontsize=8)

    return picture(9.0, draw, height=1.2 + 0.32 * max(1, len(swings)), suffix=suffix)


def draw_curve(found: Curve, suffix: str = ".svg") -> bytes:
    """Energy with its range, and 8-bit efficiency, over the values of one number."""

    def draw(axes: Any) -> None:
        for ax, name in zip(axes, ("energy", "tops_per_watt_8b"), strict=True):
            points = found.figures.get(name, ())
            if not points or not all(f.value > 0 for f in points):
                ax.set_axis_off()
                continue
            ax.plot(found.x, [f.value for f in points], color="#2e8b57", marker="o", markersize=3)
            bounds = [(f.value if f.low is None else f.low, f.value if f.high is None else f.high) for f in points]
            ax.fill_between(
                found.x,
                [b[0] for b in bounds],
                [b[1] for b in bounds],
                color="#2e8b57",
                alpha=0.15,
                label="range of the other assumptions",
            )
            ax.set_xlabel(f"{found.name}, {found.unit}")
            ax.set_ylabel(f"{name.replace('_', ' ')}, {points[0].unit}")
            ax.set_yscale("log")
            if found.x[0] > 0 and found.x[-1] > 3 * found.x[0]:
                ax.set_xscale("log")
            ax.legend(fontsize=8)

    return picture(10.0, draw, 2, height=3.6, suffix=suffix)
