"""What all parts of the backward pass work with: host memory, exponents, room in the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sasimc.backend.builder import Builder, CapacityError
from sasimc.backend.mapping import Placement
from sasimc.ir.graph import Op, TrainGraph

__all__ = ["Arena", "Shape", "Work"]

Shape = tuple[int, int, int]


class Arena:
    """Stack of addresses in the buffer for one loop nest."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit, self.what, self.top = limit, what, 0

    def take(self, size: int) -> int:
        """Address of ``size`` fresh bytes."""
        addr = self.top
        self.top += -(-size // 4) * 4
        if self.top > self.limit:
            raise CapacityError(
                f"the smallest stripe of the backward pass needs {self.top} bytes of the {self.limit}-byte buffer", where=self.what,
                hint="--machine FILE with a larger buffer.bytes",
            )  # fmt: skip
        return addr


@dataclass
class Work:
    """``batch``: register with the number of samples, ``sample``: register that numbers them; ``saves``, ``masks``: host views made by the
    forward pass; ``batch_size``: largest batch; ``mu``: registers of the update magnitude by kind. ``learned``: host views of learned biases by layer. ``errors``: host views of
    mantissas, ``exponents``: registers, by tensor. ``kept``: host views that hold something from one step to the next (low bytes, velocities, ranges of errors); ``peak``: bytes of the buffer
    that are needed; ``step``: register with the number of the step, where random numbers round."""

    b: Builder
    train: TrainGraph
    placement: Placement
    batch: int
    sample: int
    batch_size: int
    saves: Mapping[str, str]
    masks: Mapping[str, str]
    mu: Mapping[str, int]
    loss_error: str
    learned: Mapping[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    exponents: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    peak: int = 0
    step: int = 0
    _tensors: dict[str, str] = field(default_factory=dict)

    def _type(self, value: str) -> Shape:
        return self.train.values[value].shape

    def _tensor(self, base: str, dtype: str, shape: Shape, batch: int) -> str:
        """A tensor in host memory, the same one in every entry."""
        if base not in self._tensors:
            self._tensors[base] = self.b.host(base, dtype, shape, batch)
        return self._tensors[base]

    def _keep(self, base: str, dtype: str, shape: Shape = (1, 1, 1)) -> str:
        """Likewise, with something in it from one step to the next."""
        if base not in self._tensors:
            self.kept.append(self._tensor(base, dtype, shape, 1))
        return self._tensors[base]

    def _forward(self, op: Op) -> Op:
        return self.train.forward.op(op.str_attr("forward"))

    def _fit_rows(self, height: int, bytes_per_row: int) -> int:
        """Rows of a stripe so that everything fits the buffer (at least 1)."""
        rows = max(1, min(height, (self.b.machine.buffer.bytes - 64) // max(1, bytes_per_row)))
        return -(-height // -(-height // rows))
