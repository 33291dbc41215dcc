"""The machine's state: cells of the sub-arrays, global buffer, accumulators, registers, host memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine

__all__ = ["RowWrites", "Snapshot", "State"]

Bytes = npt.NDArray[np.uint8]

_HOST_STEP = 1 << 16


@dataclass(frozen=True)
class RowWrites:
    """Writes to the arrays: row writes, bits written, bits of them that changed."""

    rows: int = 0
    bits_written: int = 0
    bits_flipped: int = 0

    def __add__(self, other: RowWrites) -> RowWrites:
        return RowWrites(self.rows + other.rows, self.bits_written + other.bits_written, self.bits_flipped + other.bits_flipped)


@dataclass(frozen=True)
class Snapshot:
    """A copy of everything an instruction can change."""

    cells: Bytes
    written: npt.NDArray[np.bool_]
    wear: npt.NDArray[np.int64]
    buffer: Bytes
    acc: npt.NDArray[np.int32]
    regs: tuple[int, ...]
    host: Bytes


class State:
    """All memories of one machine.

    ``cells`` uint8 [sub-arrays, rows, weights a row] and ``written`` (same shape: was the weight ever written or
    loaded); ``wear`` int64 [sub-arrays, rows]: row writes since the arrays were made; ``buf`` flat uint8, the
    first ``machine.buffer.bytes`` of it are the global buffer, ``staging`` bytes behind it hold dense copies of oddly
    strided operands;
    ``acc`` flat int32, likewise; ``regs`` the scalar registers; ``host`` flat uint8, grown on demand up to
    ``machine.host.memory_bytes``.

    Raises:
        SasError: the described machine does not fit into memory.
    """

    def __init__(self, machine: Machine, staging: int = 0, acc_staging: int = 0) -> None:
        self.machine = machine
        shape = (machine.subarrays, machine.array.rows, machine.weights_per_row)
        self.buffer_bytes, self.acc_entries = machine.buffer.bytes, machine.accumulator.entries
        self.staging = -(-self.buffer_bytes // 64) * 64
        try:
            self.cells = np.zeros(shape, np.uint8)
            self.written = np.zeros(shape, np.bool_)
            self.wear = np.zeros(shape[:2], np.int64)
            self.buf = np.zeros(self.staging + -(-staging // 64) * 64, np.uint8)
            self.acc = np.zeros(self.acc_entries + acc_staging, np.int32)
        except (MemoryError, ValueError):
            raise SasError(
                f"machine {machine.name!r} does not fit into memory: {machine.subarrays} sub-arrays, "
                f"{self.buffer_bytes} buffer bytes",
                hint="lower array, buffer or accumulator sizes in the machine description",
            ) from None
        self.buf8 = self.buf.view(np.int8)
        self.buf32 = self.buf.view(np.int32)
        self.regs = [0] * machine.controller.registers
        self.host = np.zeros(0, np.uint8)
        self.host_views: dict[Any, npt.NDArray[Any]] = {}  # what engines keep of views into ``host``

    @property
    def buffer(self) -> Bytes:
        """The global buffer (without the staging area)."""
        return self.buf[: self.buffer_bytes]

    @property
    def accumulators(self) -> npt.NDArray[np.int32]:
        """The accumulators (without the staging area)."""
        return self.acc[: self.acc_entries]

    def grow_host(self, end: int) -> None:
        """Make host memory at least ``end`` bytes long.

        Raises:
            SasError: more than the machine or this computer has.
        """
        have, limit = len(self.host), self.machine.host.memory_bytes
        if end <= have:
            return
        if end > limit:
            raise SasError(
                f"host memory of {limit} bytes is too small: {end} needed",
                hint="raise host.memory_bytes or lower the batch",
            )
        size = min(limit, max(-(-end // _HOST_STEP) * _HOST_STEP, 2 * have))
        try:
            grown = np.zeros(size, np.uint8)
        except MemoryError:
            raise SasError(f"no memory for {size} bytes of simulated host memory", hint="lower the batch") from None
        grown[:have] = self.host
        self.host = grown
        self.host_views.clear()

    def snapshot(self) -> Snapshot:
        """A copy of the state."""
        return Snapshot(
            self.cells.copy(),
            self.written.copy(),
            self.wear.copy(),
            self.buffer.copy(),
            self.accumulators.copy(),
            tuple(self.regs),
            self.host.copy(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Set the state to a copy made by a machine of the same description.

        Raises:
            SasError: the sizes differ.
        """
        if (
            snapshot.cells.shape != self.cells.shape
            or snapshot.buffer.size != self.buffer_bytes
            or len(snapshot.regs) != len(self.regs)
        ):
            raise SasError("the snapshot is of another machine")
        self.cells[...] = snapshot.cells
        self.written[...] = snapshot.written
        self.wear[...] = snapshot.wear
        self.buffer[:] = snapshot.buffer
        self.accumulators[:] = snapshot.acc
        self.regs[:] = snapshot.regs
        self.grow_host(snapshot.host.size)
        self.host[: snapshot.host.size] = snapshot.host
        self.host[snapshot.host.size :] = 0
