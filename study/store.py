"""Results of trials: a file each, named after everything the trial depends on. A folder may be shared, and a study that was killed goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically

__all__ = ["Store", "Trial"]


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Trial:
    """A trial: ``spec`` is all that it depends on (JSON): point, seed, base, training, digests of files, version of the tools.
    ``content`` gives what a worker may lack, the data set."""

    spec: Mapping[str, Any]
    content: Callable[[], Any] | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """The name of its file."""
        return hashlib.sha256(_canonical(self.spec).encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """For messages."""
        point = ", ".join(f"{name} {value}" for name, value in self.spec.get("point", {}).items())
        return f"{point or 'the base'}, seed {self.spec.get('seed', 0)}"


class Store:
    """``FOLDER/trials/KEY.json``: the spec and ``outcome``: ``metrics`` by name, or ``infeasible`` with the reason."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "trials"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SasError(f"cannot write to {folder}: {exc.strerror}") from None

    def path(self, trial: Trial) -> Path:
        """The file of a trial."""
        return self.folder / f"{trial.key}.json"

    def load(self, trial: Trial) -> dict[str, Any] | None:
        """The outcome, None if it is not there, or damaged."""
        try:
            data = json.loads(self.path(trial).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(data, dict) and _canonical(data.get("spec")) == _canonical(trial.spec)
        return data["outcome"] if same and isinstance(data.get("outcome"), dict) else None

    def save(self, trial: Trial, outcome: Mapping[str, Any]) -> None:
        """Keep an outcome."""
        text = json.dumps({"spec": trial.spec, "outcome": outcome}, indent=1, sort_keys=True, ensure_ascii=False)
        write_atomically(self.path(trial), text.encode())

    def all(self) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
        """(spec, outcome) of every trial, in the order of their names."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                yield data["spec"], data["outcome"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
