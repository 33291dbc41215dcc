"""The device's pictures: trajectories, loop, read currents, error rates (matplotlib, the `plots` extra)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sasimc.evaluation.device.figures import DeviceReport, Sweep
from sasimc.evaluation.device.write import error_bound
from sasimc.isa.errors import SasError

__all__ = ["plot_device"]

_TITLES = {"sas": "SAS", "stt": "STT alone", "sot": "SOT alone"}


def plot_device(report: DeviceReport, sweeps: Sequence[Sweep], suffix: str) -> bytes:
    """One picture as a file's bytes; ``suffix`` (``.png``, ``.svg``, ``.pdf``) says which format.

    Raises:
        SasError: matplotlib is not installed, or it does not know the format.
    """
    try:
        import matplotlib
    except ImportError:
        raise SasError("plots need matplotlib", hint="pip install 'sas-imc[plots]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = 2 + bool(sweeps)
    figure, axes = plt.subplots(rows, 3, figsize=(13, 3.6 * rows), layout="constrained", squeeze=False)
    _trajectories(axes[0], report)
    _loop(axes[1, 0], report)
    _currents(axes[1, 1], report)
    _settled(axes[1, 2], report)
    if sweeps:
        _sweeps(axes[2], sweeps)
    figure.suptitle(f"{report.technology}, stack {report.stack_name}: {report.stack.description}")
    file = io.BytesIO()
    try:
        figure.savefig(file, format=suffix.lstrip(".").lower(), dpi=110)
    except ValueError:
        raise SasError(
            f"plots are not written as {suffix or 'a file without suffix'}", hint="end the name in .png, .svg or .pdf"
        ) from None
    finally:
        plt.close(figure)
    return file.getvalue()


def _trajectories(axes: Any, report: DeviceReport) -> None:
    axis = report.stack.type
    for ax, (method, o) in zip(axes, report.outcomes.items(), strict=False):
        for path in o.motion.path:
            ax.plot(o.motion.times * 1e9, path[:, 0, report.stack.easy], lw=0.8)
        ax.axvspan(0, o.write.sot_time * 1e9, color="tab:orange", alpha=0.15, label="SOT")
        if o.write.stt_time:
            ax.axvspan(o.write.sot_time * 1e9, o.write.latency * 1e9, color="tab:blue", alpha=0.1, label="STT")
        ax.set(title=f"{_TITLES[method]}: {len(o.motion.path)} writes", xlabel="time, ns", ylabel=f"m_{axis}", ylim=(-1.05, 1.05))
        ax.legend(loc="lower right", fontsize=8)


def _loop(ax: Any, report: DeviceReport) -> None:
    loop = report.loop
    ax.plot(loop.field * 1e3, loop.up, label="field rising")
    ax.plot(loop.field * 1e3, loop.down, "--", label="field falling")
    ax.set(title="resistance loop (figure 8b)", xlabel="field along the easy axis, mT", ylabel="resistance, ohm")
    ax.legend(fontsize=8)


def _currents(ax: Any, report: DeviceReport) -> None:
    margin = report.margin
    bins = np.linspace(min(margin.high.min(), margin.low.min()), max(margin.low.max(), margin.high.max()), 120) * 1e6
    ax.hist(margin.low * 1e6, bins, alpha=0.6, label="low resistance")
    ax.hist(margin.high * 1e6, bins, alpha=0.6, label="high resistance")
    ax.axvline(margin.reference * 1e6, color="k", lw=1, label="reference")
    ax.set(title=f"read: error rate {margin.error_rate:.2g}", xlabel="read current, uA", ylabel="bits")
    ax.legend(fontsize=8)


def _settled(ax: Any, report: DeviceReport) -> None:
    for method, o in report.outcomes.items():
        decided = np.sort(o.decided)
        if len(decided):
            ax.plot(decided * 1e9, np.arange(1, len(decided) + 1) / int((o.old != o.side).sum()), label=_TITLES[method])
    ax.set(title="decided by then", xlabel="time, ns", ylabel="share of the bits that change")
    ax.legend(fontsize=8)


def _sweeps(axes: Any, sweeps: Sequence[Sweep]) -> None:
    for ax, method in zip(axes, _TITLES, strict=True):
        for sweep in (s for s in sweeps if s.method == method):
            # no error seen: a triangle at the rate that this does not exclude
            rates = [o.error_rate if o.errors else error_bound(0, o.bits) for o in sweep.outcomes]
            scale = 1e6 if sweep.unit == "A" else 1e9
            unit = "uA" if sweep.unit == "A" else "ns"
            at = np.array(sweep.values) * scale
            label = f"{sweep.field.replace('_', ' ')}, {at[0]:.3g}..{at[-1]:.3g} {unit}"
            seen = [rate if o.errors else None for rate, o in zip(rates, sweep.outcomes, strict=True)]
            (line,) = ax.plot(range(len(at)), seen, "o-", lw=1, ms=4, label=label)
            none = [i for i, o in enumerate(sweep.outcomes) if not o.errors]
            ax.plot(none, [rates[i] for i in none], "v", ms=4, color=line.get_color())
        ax.set(
            title=f"{_TITLES[method]}: error rate",
            yscale="log",
            ylim=(1e-4, 1.2),
            xlabel="value / own value",
            ylabel="write error rate",
        )
        ax.set_xticks(range(6), ["0.25", "0.5", "0.75", "1", "1.25", "1.5"])
        ax.legend(fontsize=7)
