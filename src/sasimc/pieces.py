"""Evaluation shared out: workers run pieces of a split, the device here has their counts afterwards, as if it had run them itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sasimc.cluster.pool import Pool, Serial
from sasimc.cluster.task import Failure, Lacking, kept, threads
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.loader import Loader
from sasimc.datasets.sent import digest, heading, keys, received, stored
from sasimc.isa.errors import SasError
from sasimc.isa.files import packed_program, unpacked_program
from sasimc.runtime.device import Device
from sasimc.training.evaluation import Answers, run_here

__all__ = ["Piece", "Shared", "run_piece"]

_MOST: Final = 256
"""Images of a piece."""
_EACH: Final = 8
"""Pieces that each worker has, where there are enough images."""
_LIMIT_S: Final = 3600.0


@dataclass(frozen=True)
class Piece:
    """Batches that follow each other: places ``first`` to ``last`` of the order in which a split is run; ``common`` is what all pieces share."""

    dataset: Dataset
    split: str
    order: npt.NDArray[np.int64]
    first: int
    last: int
    common: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"images-{self.first}-{self.last}"

    @property
    def name(self) -> str:
        """For messages."""
        return f"images {self.first + 1} to {self.last} of {self.dataset.name}"

    @property
    def spec(self) -> Mapping[str, Any]:
        """Made when the piece is sent, because its digest takes the files."""
        return self._spec

    @cached_property
    def _spec(self) -> Mapping[str, Any]:
        head = heading(self.dataset, {self.split: self.order[self.first : self.last]})
        return {
            **self.common,
            "head": head,
            "digest": digest(stored(self.dataset, head)),
            "seen": self.common["seen"] + self.first,
        }

    def content(self) -> Any:
        """The images, for a worker that has not got the data set."""
        return stored(self.dataset, self.spec["head"])


class Shared:
    """Runs a loader's images on the workers of a pool (``run`` is a :data:`sasimc.training.evaluation.Run`); ``threads`` of each (None: as many as it has)."""

    def __init__(self, pool: Pool | Serial, threads: int | None, cross_check: int) -> None:
        self._pool, self._threads, self._cross_check = pool, threads, cross_check

    def run(self, device: Device, loader: Loader) -> Iterator[Answers]:
        """Answers in the order of the images; the counters of ``device`` have what was run so far.

        Raises:
            SasError: a piece that no worker could run.
        """
        files = packed_program(device.program.with_trained(device.state()))
        pieces = self._pieces(device, loader, files)
        done: dict[int, Any] = {}
        due = 0
        for piece, outcome in self._pool.run(pieces, files, _LIMIT_S):
            if isinstance(outcome, Failure):
                raise SasError(f"{piece.name}: {outcome.reason}")
            done[piece.first] = piece, outcome
            while due in done:
                piece, outcome = done.pop(due)
                due = piece.last
                for key, message in outcome["damaged"].items():
                    loader.dataset.damaged.note(key, SasError(message))
                device.interpreter.counters.merge(outcome["counts"])
                device.images += len(outcome["classes"])
                device.replayed += outcome["replayed"]
                positions = piece.order[piece.first : piece.last][outcome["positions"]]
                yield Answers(*(np.asarray(outcome[name]) for name in ("classes", "found", "errors")), positions=positions)

    def _pieces(self, device: Device, loader: Loader, files: Mapping[str, bytes]) -> list[Piece]:
        batch, workers = loader.batch, max(1, self._pool.workers)
        size = batch * max(1, min(len(loader) // (_EACH * workers), _MOST // batch))
        order = loader.order(0)
        common = {
            "program": hashlib.sha256(files["program"] + files["weights"]).hexdigest(), "engine": device.engine, "threads": self._threads,
            "cross_check": self._cross_check, "source": loader.dataset.source, "seen": device.seen,
            "values": device.output.size if device.values else None,
        }  # fmt: skip
        starts = range(0, len(order), size)
        return [Piece(loader.dataset, loader.split, order, i, min(i + size, len(order)), common) for i in starts]


def run_piece(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """On a worker: run the images of a piece; what was answered, counted, and could not be read.

    Raises:
        Lacking: the worker has not got these images, and they were not sent.
    """
    head = spec["head"]
    contents = spec["content"] if "content" in spec else _own(spec)
    if digest(contents) != spec["digest"]:
        raise Lacking(f"data set {head['name']}", f"has another data set {head['name']}")
    n = spec["threads"] or threads()
    name = f"device:{spec['program']} {spec['engine']} {n} {spec['cross_check']}"
    device: Device = kept(name, lambda: Device(unpacked_program(files), spec["engine"], n))
    device.interpreter.reset_counters()
    device.cross_check(spec["cross_check"])
    device.seen, device.replayed = spec["seen"], 0
    data = received(head, contents)
    loader = Loader(data, next(iter(head["items"])), device.preprocess, device.batch_size, shuffle=False)
    answers = list(run_here(device, loader))
    if device.interpreter.state.wear.any():
        raise SasError(
            "the program writes to the arrays: what an image gives depends on those before, and they cannot be shared out"
        )
    join = {name: [x for a in answers for x in getattr(a, name).tolist()] for name in ("classes", "found", "errors", "positions")}
    names = keys(head)
    damaged = {names[int(number)]: message for number, message in data.damaged.files.items()}
    return {**join, "counts": device.interpreter.counters.plain(), "replayed": device.replayed, "damaged": damaged}


def _own(spec: Mapping[str, Any]) -> Any:
    """The images of a piece out of the worker's own data set: where the file system is shared at the same path, else under the same name."""
    head, source = spec["head"], spec["source"]
    if head["drawn"][0]:
        return []
    place = source if Path(source).exists() else head["name"]
    try:
        return stored(kept(f"data:{place}", lambda: open_dataset(place, values=spec["values"])), head)
    except SasError as exc:
        raise Lacking(f"data set {head['name']}", f"has no data set {head['name']} ({exc.diagnostic.message})") from None
