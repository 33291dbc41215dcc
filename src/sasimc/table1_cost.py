"""What table I will cost, from a short probe of each configuration: time on this machine; seconds, joules and bits written on the device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sasimc.costs import joules_of, price_list
from sasimc.reference.cells import Cell, Runner
from sasimc.runtime.device import Device
from sasimc.training.evaluation import Progress

__all__ = ["Cost", "Probe", "costs", "probe"]

PROBED = 48
"""Images of a split that a probe takes: several batches of training, so that the first, in which kernels are loaded, need not count."""


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine; on the device seconds, joules and bits written to the arrays (0: nothing runs there)."""

    wall_s: float = 0.0
    device_s: float = 0.0
    joules: float = 0.0
    bits: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(a * factor for a in vars(self).values()))


@dataclass(frozen=True)
class Probe:
    """Of one configuration: what a cell costs once, and for each image trained on and classified."""

    once: Cost
    trained: Cost
    classified: Cost

    def cell(self, runner: Runner, cell: Cell) -> Cost:
        """What a whole cell will cost: its epochs with their validation, then the images that are measured."""
        recipe, counts = runner.recipe(cell.dataset), runner.dataset(cell.dataset).counts()
        n = {split: min(count, recipe.limit or count) for split, count in counts.items()}
        epochs = self.trained * n["train"] + self.classified * n["val"]
        return self.once + epochs * recipe.epochs + self.classified * n[runner.settings.split]


def probe(runner: Runner, cell: Cell) -> Probe:
    """Train a cell for one epoch on a few images and classify a few validation images; the test images are not read."""
    devices: list[Device] = []
    prices = price_list("sas")

    def made(*given: Any) -> Device:
        devices.append(runner.compile(*given))
        return devices[0]

    def now() -> Cost:
        wall = time.perf_counter()
        if not devices:
            return Cost(wall)
        it, energy = devices[0].interpreter, joules_of(devices[0].program, prices)
        bits = sum(n for event, n in it.events.items() if event.startswith("bits_written_"))
        return Cost(wall, devices[0].simulated_s, energy(it.events, it.cycles), bits)

    marks: list[tuple[bool, int, Cost]] = []
    with tempfile.TemporaryDirectory(prefix="sasimc-cost-") as folder:
        short = runner.varied(out=Path(folder), limit=PROBED, epochs=1, split="val", cross_check=0)
        own = Runner(short.settings, made, {cell.dataset: runner.whole(cell.dataset)})
        begun = now()
        own.run(cell, lambda p: marks.append((_trains(p), p.done, now())))
        ended = now()
    training = [(done, cost) for trains, done, cost in marks if trains]
    first, last = training[0], training[-1]
    rest = [(done, cost) for trains, done, cost in marks if not trains]
    before = first if last[0] > first[0] else (0, begun)
    trained = (last[1] - before[1]) * (1 / (last[0] - before[0]))
    images = rest[-1][0]
    classified = (next(c for d, c in rest if d == images) - last[1]) * (1 / images) if rest else Cost()
    whole = ended - begun
    once = Cost(max(0.0, (whole - trained * last[0] - classified * (images * 2)).wall_s))
    return Probe(once, trained, classified)


def _trains(p: Progress) -> bool:
    return p.what.startswith("epoch")


def costs(asked: Iterable[tuple[Runner, Cell]], tell: Callable[[str], None] = lambda text: None) -> list[Cost]:
    """The predicted cost of each cell by its runner: a probe of each configuration on the first data set that has it, by numbers of images."""
    probes: dict[int, Probe] = {}
    out = []
    for runner, cell in asked:
        if cell.config not in probes:
            tell(f"probing configuration {cell.config} on {PROBED} images of {cell.dataset}")
            probes[cell.config] = probe(runner, cell)
        out.append(probes[cell.config].cell(runner, cell))
    return out
