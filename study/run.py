"""A study from beginning to end: what is proposed and not yet known is measured, and kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sasimc.cluster.pool import Pool, Serial
from sasimc.cluster.task import Failure
from sasimc.cluster.tools import tools_digest
from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.study.description import Description
from sasimc.study.results import Row, front, rows_of
from sasimc.study.search import batches
from sasimc.study.store import Store, Trial

__all__ = ["Progress", "Study", "load_study"]


@dataclass
class Progress:
    """Where a run stands: trials known when it began, measured now, failed, infeasible; points on the front so far."""

    known: int = 0
    done: int = 0
    failed: int = 0
    infeasible: int = 0
    ahead: int = 0
    front: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Trials a second."""
        return self.done / max(1e-9, time.monotonic() - self.started)


class Study:
    """A description, a folder, and what is known: ``results`` are (point, outcome) in the order of proposal, ``failures`` (point, reason).
    ``content`` gives the data set of trainings for workers that have not got it (None: it is not sent)."""

    def __init__(self, description: Description, folder: Path, files: Mapping[str, bytes] | None = None) -> None:
        self.description, self.folder, self.files = description, folder, dict(files or {})
        self._model_sha256 = hashlib.sha256(self.files[description.model]).hexdigest() if description.model in self.files else ""
        self.store = Store(folder)
        self.content: Callable[[], Any] | None = None
        self.results: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self.failures: list[tuple[Mapping[str, Any], str]] = []

    def note(self) -> None:
        """Write down what the folder holds results of."""
        data = {"description": self.description.model_dump(mode="json", by_alias=True), "tools": tools_digest()}
        write_atomically(self.folder / "study.json", json.dumps(data, indent=1).encode())

    def trials(self, point: Mapping[str, Any]) -> list[Trial]:
        """The trials of a point: one a seed."""
        d = self.description
        spec = {
            "base": dict(sorted(d.base.items())), "point": dict(sorted(point.items())), "model": d.model,
            "training": d.training.model_dump() if d.training else None, "tools": tools_digest(),
        }  # fmt: skip
        if self._model_sha256:
            spec["model_sha256"] = self._model_sha256
        return [Trial({**spec, "seed": seed}, self.content) for seed in d.seeds]

    def plan(self) -> tuple[int, int]:
        """How many trials there are, and how many of them are known (of a search that proposes: of those of the first batch)."""
        d = self.description
        if d.search.method == "grid":
            found = [t for point in d.grid() for t in self.trials(point)]
            return len(found), sum(self.store.load(t) is not None for t in found)
        return d.search.trials * len(d.seeds), 0

    def run(self, pool: Pool | Serial, show: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Measure what is not known. May be broken off at any time: what is finished is kept."""
        d, progress = self.description, Progress()
        self.results, self.failures = [], []
        self.note()
        total = self.plan()[0]
        for points, tell in batches(d):
            trials = [(point, t) for point in points for t in self.trials(point)]
            outcomes: dict[str, dict[str, Any] | Failure] = {}
            todo: dict[str, Trial] = {}
            for _, t in trials:
                found = self.store.load(t)
                if found is not None:
                    outcomes[t.key] = found
                else:
                    todo[t.key] = t
            progress.known += len(outcomes)
            progress.ahead = total - progress.known - progress.done
            show(progress)
            for t, outcome in pool.run(list(todo.values()), self.files, d.time_limit_s):
                outcomes[t.key] = outcome
                progress.done += 1
                progress.ahead -= 1
                if isinstance(outcome, Failure):
                    progress.failed += 1
                else:
                    self.store.save(t, outcome)
                    progress.infeasible += "infeasible" in outcome
                show(progress)
            for point, t in trials:
                outcome = outcomes[t.key]
                if isinstance(outcome, Failure):
                    self.failures.append((point, outcome.reason))
                else:
                    self.results.append((point, outcome))
            rows = self.rows()
            progress.front = len(front(d, rows))
            show(progress)
            by_point = {json.dumps(dict(r.point), sort_keys=True): r for r in rows}
            tell([self._goals(by_point.get(json.dumps(dict(p), sort_keys=True))) for p in points])
        return progress

    def recall(self, tools: str | None = None) -> None:
        """Take as results every kept trial that belongs to the description (of the sources with that digest; None: of these)."""
        d = self.description
        training = d.training.model_dump() if d.training else None
        for spec, outcome in self.store.all():
            same = (
                spec.get("tools") == (tools or tools_digest())
                and spec.get("model") == d.model
                and spec.get("base") == d.base
                and spec.get("training") == training
                and spec.get("seed") in d.seeds
            )
            if same and d.complete(spec["point"]):
                self.results.append((spec["point"], outcome))
        order = {name: {str(v): i for i, v in enumerate(d.values(name))} for name in d.vary}
        self.results.sort(key=lambda r: [order[n].get(str(r[0].get(n)), -1) for n in d.vary])

    def _goals(self, row: Row | None) -> dict[str, float] | None:
        if row is None or row.infeasible or any(row.metrics.get(g) is None for g in self.description.goals):
            return None
        return {g: float(row.metrics[g] or 0.0) for g in self.description.goals}

    def rows(self) -> list[Row]:
        """A row a point."""
        return rows_of(self.description, self.results)


def load_study(folder: Path) -> Study:
    """What a folder of a study holds: every kept trial that belongs to its description.

    Raises:
        SasError: no study there.
    """
    try:
        data = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        description, tools = Description.model_validate(data["description"]), data["tools"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SasError(f"{folder} holds no study", hint="sasc study run study.toml -o FOLDER") from None
    study = Study(description, folder)
    study.recall(tools)
    return study
