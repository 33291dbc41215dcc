"""Power cuts at chosen places, for the tests of what survives them (tests/test_resume.py, benchmarks/kills.py)."""

from __future__ import annotations

import os
import random
from pathlib import Path

from sasimc.isa.spec import MatField
from sasimc.runtime.device import Device
from sasimc.training.image.journal import Medium

__all__ = ["FaultyMedium", "Fuse", "PowerCut", "cut_between_rows"]

_CHUNK = 512


class PowerCut(BaseException):
    """The process ends here, as if killed: nothing after it is carried out."""


class Fuse:
    """Blows at the ``life``-th operation (0: never). ``burnt`` counts them; ``rng`` draws what is left half-done."""

    def __init__(self, life: int = 0, seed: int = 0) -> None:
        self.life, self.burnt, self.rng = life, 0, random.Random(seed)

    def burn(self) -> None:
        """One operation. Raises PowerCut when the fuse blows."""
        self.burnt += 1
        if self.burnt == self.life:
            raise PowerCut


class FaultyMedium(Medium):
    """A file whose writes reach the disk in pieces, each of which may be the last.

    What was written since the last sync is not safe: at the cut, parts of it may be missing (zeros) though later parts are there.
    """

    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    def _write(self, fd: int, data: bytes) -> None:
        start = os.lseek(fd, 0, os.SEEK_CUR)
        at = 0
        while at < len(data):
            size = 1 + self._fuse.rng.randrange(_CHUNK)
            try:
                self._fuse.burn()
            except PowerCut:
                self._tear(fd, start, data[: at + self._fuse.rng.randrange(size)])
                raise
            super()._write(fd, data[at : at + size])
            at += size

    def _tear(self, fd: int, start: int, reached: bytes) -> None:
        os.pwrite(fd, reached, start)
        if reached and self._fuse.rng.random() < 0.5:
            hole = self._fuse.rng.randrange(len(reached))
            os.pwrite(fd, bytes(min(_CHUNK, len(reached) - hole)), start + hole)

    def _sync(self, fd: int) -> None:
        self._fuse.burn()  # before: not safe yet, but all there
        super()._sync(fd)
        self._fuse.burn()

    def _rename(self, source: Path, target: Path) -> None:
        self._fuse.burn()
        super()._rename(source, target)
        self._fuse.burn()


def cut_between_rows(device: Device, fuse: Fuse) -> None:
    """From now on the device writes its weights row by row, each an operation of the fuse (a block of scratch rows is one)."""
    it = device.interpreter
    it.plan = lambda start, passes, regs=None: None  # type: ignore[method-assign]
    it.stretch = lambda: False  # type: ignore[method-assign]
    execute = it.datapath.execute

    def rows(number: int, r0: int, r1: int) -> None:
        fields = [f for f in it.code[number].spec.of_kind(MatField) if f.write]
        step = 1 if fields and not fields[0].scratch else max(1, r1 - r0)
        for r in range(r0, max(r1, r0 + 1), step):
            if fields:
                fuse.burn()
            execute(number, r, min(r1, r + step))

    it.datapath.execute = rows  # type: ignore[method-assign]
