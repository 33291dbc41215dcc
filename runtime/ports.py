"""The tensors a program takes and gives, by their ONNX names and in their ONNX axes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.preprocess import quantise_values
from sasimc.isa.errors import SasError, near
from sasimc.isa.program import Program

__all__ = ["Port", "inputs_of", "outputs_of", "port_named"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Port:
    """``name``: of the ONNX tensor; ``view``: where the host finds its stored values; ``axes``: for each ONNX axis without the batch its factors
    (size, stride in stored elements); real = scale * (stored - zero); ``end``: what the host makes of the real values (``softmax``,
    ``logsoftmax`` over the axis ``over``) or, for ``index``, that they are numbers of elements."""

    name: str
    view: str
    axes: tuple[tuple[tuple[int, int], ...], ...]
    dtype: str
    scale: float
    zero: int
    end: str = ""
    over: int = -1

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes of the ONNX axes without the batch."""
        return tuple(math.prod(size for size, _ in axis) for axis in self.axes)

    def _strided(self, flat: Array) -> Array:
        """The stored elements [size] in the order of the ONNX tensor, one axis a factor; the same memory."""
        factors = [f for axis in self.axes for f in axis]
        step = flat.itemsize
        return np.lib.stride_tricks.as_strided(flat, [n for n, _ in factors], [s * step for _, s in factors])

    def stored(self, x: npt.ArrayLike) -> Array:
        """Samples [n, *dims] (or one without n), real or of the stored type, as stored elements [n, size].

        Raises:
            SasError: another shape.
        """
        a = np.asarray(x)
        if a.shape == self.dims:
            a = a[None]
        if a.shape[1:] != self.dims or a.dtype.kind not in "fiub":
            raise SasError(
                f"input {self.name!r} is {a.dtype} {list(a.shape)}", hint=f"numbers [n, {', '.join(map(str, self.dims))}]"
            )
        q = a if a.dtype.name == self.dtype else quantise_values(a, self.scale, self.zero, self.dtype)
        out = np.empty((len(q), math.prod(self.dims)), q.dtype)
        for flat, sample in zip(out, q, strict=True):
            view = self._strided(flat)
            view[...] = sample.reshape(view.shape)
        return out

    def real(self, stored: Array) -> Array:
        """Stored elements [n, size] as the ONNX tensor [n, *dims]: real values, or numbers of elements."""
        rows = [self._strided(np.ascontiguousarray(row)).reshape(self.dims) for row in stored]
        x = np.stack(rows).astype(np.int64)
        if self.end == "index":
            return x
        real = np.float32(self.scale) * (x - self.zero).astype(np.float32)
        if not self.end:
            return real
        shifted = real - real.max(self.over + 1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(self.over + 1, keepdims=True))
        return logs if self.end == "logsoftmax" else np.exp(logs)


def _ports(program: Program, key: str) -> tuple[Port, ...]:
    try:
        rows: list[Mapping[str, Any]] = json.loads(program.meta[key])
        return tuple(
            Port(
                str(r["name"]), str(r["view"]), tuple(tuple((int(n), int(s)) for n, s in axis) for axis in r["axes"]),
                {"u8": "uint8", "i8": "int8", "i32": "int32"}[r["dtype"]], float(r["scale"]), int(r["zero"]), str(r.get("end", "")), int(r.get("over", -1)),
            )
            for r in rows
        )  # fmt: skip
    except (KeyError, ValueError, TypeError, AttributeError):
        raise SasError(f"the program does not say its {key}", where=program.source, hint="compile the model again") from None


def inputs_of(program: Program) -> tuple[Port, ...]:
    """All inputs in the file's order. Raises SasError when the program does not say them."""
    return _ports(program, "inputs")


def outputs_of(program: Program) -> tuple[Port, ...]:
    """All outputs in the file's order. Raises SasError when the program does not say them."""
    return _ports(program, "outputs")


def port_named(ports: tuple[Port, ...], name: str) -> Port:
    """The port of that name. Raises SasError."""
    found = next((p for p in ports if p.name == name), None)
    if found is None:
        names = [p.name for p in ports]
        raise SasError(f"the program has no input {name!r}", hint=near(name, names) or f"inputs: {', '.join(names)}")
    return found
