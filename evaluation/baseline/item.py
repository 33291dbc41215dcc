"""One figure of another tool beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.quantity import format_si
from sasimc.evaluation.ranges import assigned
from sasimc.evaluation.table import Table

__all__ = ["Item", "baseline_table", "filled"]


@dataclass(frozen=True)
class Item:
    """``ours`` and ``theirs`` in ``unit``. ``setting``: the number of our files that theirs would fill and its value (empty: none)."""

    component: str
    what: str
    ours: float
    theirs: float
    unit: str
    how: str
    setting: tuple[str, str] = ("", "")

    @property
    def ratio(self) -> float | None:
        """Theirs / ours."""
        return self.theirs / self.ours if self.ours else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, at full precision."""
        return {**self.__dict__, "setting": list(self.setting), "ratio": self.ratio}


def filled(model: CostModel, items: Iterable[Item]) -> CostModel:
    """The model with every number that the other tool gives."""
    for item in items:
        if item.setting[0]:
            model = assigned(model, *item.setting)
    return model


def baseline_table(model: CostModel, items: Iterable[Item], title: str, energy: Callable[[CostModel], float]) -> Table:
    """Component, ours, theirs, ratio, and the run's energy with theirs in place of ours."""
    rows: list[tuple[str, ...]] = []
    for item in items:
        ratio = "" if item.ratio is None else f"{item.ratio:.3g}"
        total = format_si(energy(filled(model, [item])), "J") if item.setting[0] else ""
        shown = (format_si(value, item.unit) for value in (item.ours, item.theirs))
        rows.append((item.component.replace("_", " "), item.what, *shown, ratio, total, item.how))
    return Table(title, ("component", "what", "ours", "theirs", "ratio", "run with theirs", "how"), rows, (0, 1, 6))
