"""Pictures of the paper's figures beside ours (matplotlib, the ``plots`` extra)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sasimc.evaluation.area import area
from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.paper.line import printed
from sasimc.evaluation.paper.network import Network
from sasimc.evaluation.paper.updates import TECHNOLOGIES, update_energies
from sasimc.evaluation.pictures import picture
from sasimc.evaluation.technologies.load import load_technology

__all__ = ["plot_paper"]

_COLOURS = {"sram": "#7f7f7f", "stt": "#d9822b", "sot": "#3a7ca5", "sas": "#2e8b57"}


def _interpretations(model: CostModel) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        ax, names = axes[0], list(model.circuit.interpretations)
        values = [model.with_interpretation(n).peak().tops_per_watt() for n in names]
        bars = ax.barh(names, values, color=["#2e8b57" if n == model.interpretation_name else "#9fb8c8" for n in names])
        ax.bar_label(bars, [f" {v:.3g}" for v in values])
        ax.axvline(printed()["chip.efficiency_1b"].value, color="#c0392b", linestyle="--", label="table III: 131 TOPS/W")
        ax.set_xscale("log")
        ax.set_xlim(right=max(values) * 4)
        ax.invert_yaxis()
        ax.set_xlabel("peak efficiency, one-bit TOPS/W")
        ax.set_title("interpretations of table IV")
        ax.legend(loc="upper right", fontsize=8)

    return draw


def _areas(model: CostModel, counts: tuple[int, ...]) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        for ax, count in zip(axes, counts, strict=True):
            found = area(model.machine, model.circuit, model.technology, count)
            shares = {name: 100 * s for name, s in found.shares().items()}
            bars = ax.barh(list(shares), list(shares.values()), color="#3a7ca5")
            ax.bar_label(bars, [f" {v:.3g} %" for v in shares.values()])
            ax.set_xlim(0, 85)
            ax.invert_yaxis()
            ax.set_xlabel("share of the area, %")
            kind = "compute sub-arrays only" if not count else f"{count} sub-arrays transposable"
            ax.set_title(f"figure 10, {kind}: {found.total * 1e6:.3g} mm²", fontsize=10)

    return draw


def _updates(model: CostModel, network: Network) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        found = {e.technology.name: e for e in update_energies(network, model.machine)}
        unit = found["sas"].total
        for ax, leak in zip(axes, (False, True), strict=True):
            values = [(found[n].total if leak else found[n].write) / unit for n in TECHNOLOGIES]
            bars = ax.bar([n.upper() for n in TECHNOLOGIES], values, color=[_COLOURS[n] for n in TECHNOLOGIES])
            ax.bar_label(bars, [f"{v:.3g}" for v in values])
            ax.set_yscale("log")
            ax.margins(y=0.15)
            ax.set_ylabel("energy, SAS = 1")
            ax.set_title(f"figure 11a, writing{' and leakage' if leak else ' alone'}", fontsize=10)

    return draw


def _cells(axes: Any) -> None:
    found = {n: load_technology(n) for n in TECHNOLOGIES}
    for ax, what, values in (
        (axes[0], "write latency, ns", [t.write_latency.to("ns") for t in found.values()]),
        (axes[1], "cell area, um²/bit", [t.cell_area.to("um^2/bit") for t in found.values()]),
    ):
        bars = ax.bar([n.upper() for n in found], values, color=[_COLOURS[n] for n in found])
        ax.bar_label(bars, [f"{v:.3g}" for v in values])
        ax.set_ylabel(what)
        ax.margins(y=0.15)
        ax.set_title("figure 11b (most of it assumed)", fontsize=10)


def plot_paper(model: CostModel, network: Network | None) -> dict[str, bytes]:
    """SVG pictures by file name. Without a network figure 11a is left out.

    Raises:
        SasError: matplotlib is not installed.
    """
    counts = (0,) if network is None else (0, network.transposable)
    out = {
        "paper-interpretations.svg": picture(7.0, _interpretations(model)),
        "paper-figure-10.svg": picture(5.0 * len(counts), _areas(model, counts), len(counts)),
        "paper-figure-11b.svg": picture(9.0, _cells, 2),
    }
    if network is not None:
        out["paper-figure-11a.svg"] = picture(9.0, _updates(model, network), 2)
    return out
