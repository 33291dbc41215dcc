"""The tensors between the layers. Buffers are reused, in stripes: every row is copied at the moment it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sasimc.isa.analysis.footprint import footprint
from sasimc.isa.analysis.standing import part_of
from sasimc.isa.errors import SasError, near
from sasimc.isa.objects import View
from sasimc.isa.program import Program
from sasimc.runtime.interpreter import Interpreter

__all__ = ["Activation", "Recorder", "StoredTensor", "join", "stored_tensors"]


@dataclass(frozen=True, repr=False)
class Activation:
    """A layer's result for a batch: ``values`` [B, H, W, C] as stored integers of the ONNX tensor ``tensor``; real = scale * (values - zero)."""

    tensor: str
    values: npt.NDArray[np.integer]
    scale: float
    zero: int

    @property
    def real(self) -> npt.NDArray[np.float32]:
        """The real values, float32 [B, H, W, C]."""
        return np.float32(self.scale) * (self.values.astype(np.int32) - self.zero).astype(np.float32)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.values.shape))
        return f"Activation({self.tensor!r}, {self.values.dtype} {shape}, scale {self.scale:g}, zero {self.zero})"


@dataclass(frozen=True)
class StoredTensor:
    """What the program says of a tensor; ``view`` is written by the instructions of ``node``; without one it is ``source`` in another shape."""

    name: str
    node: str
    shape: tuple[int, int, int]
    scale: float
    zero: int
    view: str
    source: str


def stored_tensors(program: Program) -> dict[str, StoredTensor]:
    """The ONNX tensors of a compiled program, by name.

    Raises:
        SasError: a program without this information, or with damaged information.
    """
    try:
        rows = json.loads(program.meta["tensors"])
        found = [
            StoredTensor(str(n), str(o), (h, w, c), float(s), int(z), str(v), str(f)) for n, o, (h, w, c), s, z, v, f in rows
        ]
    except KeyError:
        raise SasError(
            "the program does not say where its layers' results stand", where=program.source, hint="compile the model again"
        ) from None
    except (ValueError, TypeError) as exc:
        raise SasError(f"the program's meta data are damaged: {exc}", where=program.source) from None
    known = {t.name for t in found}
    if any(t.view not in program.views if t.view else t.source not in known for t in found):
        raise SasError("the program's meta data are damaged: tensors without a view", where=program.source)
    return {t.name: t for t in found}


class Recorder:
    """Records tensors of entry ``infer`` while it runs.

    Args:
        nodes: ONNX names of nodes or of (quantised) tensors; None: every node. A node whose result is only computed together with the
            next one's (a convolution and its activation function) has that result.

    Raises:
        SasError: a name the program does not know, or a program without this information.
    """

    def __init__(self, program: Program, nodes: Iterable[str] | None) -> None:
        self.program, self._all = program, stored_tensors(program)
        by_node = {node: t.name for t in self._all.values() for node in t.node.split(",")}
        self.wanted: dict[str, str] = {}
        for node in self._names(by_node) if nodes is None else nodes:
            tensor = by_node.get(node, node)
            if tensor not in self._all:
                known = [*by_node, *self._all]
                raise SasError(f"the program computes no node or tensor {node!r}", hint=near(node, known))
            self.wanted[node] = tensor
        self._rows: dict[str, npt.NDArray[np.integer]] = {}
        self._missing: dict[str, npt.NDArray[np.bool_]] = {}
        self._writes = self._writers()

    def _names(self, by_node: Mapping[str, str]) -> list[str]:
        """Every node, and every tensor whose node has a later one (parts of a concatenation)."""
        out: list[str] = []
        for t in self._all.values():
            out += [node for node in t.node.split(",") if by_node[node] == t.name] or [t.name]
        return out

    def _root(self, name: str) -> StoredTensor:
        tensor = self._all[name]
        return tensor if tensor.view else self._all[tensor.source]

    def _writers(self) -> dict[int, tuple[StoredTensor, View, tuple[int, int, int]]]:
        """Instructions that write a wanted tensor: the tensor, the view they write through, and where its first element stands in the tensor."""
        wanted: dict[str, list[StoredTensor]] = {}
        for tensor in {t.name: t for t in map(self._root, self.wanted.values())}.values():
            wanted.setdefault(tensor.node, []).append(tensor)
        out: dict[int, tuple[StoredTensor, View, tuple[int, int, int]]] = {}
        first = self.program.entries["infer"]
        for index in range(first, len(self.program.code)):
            instr = self.program.code[index]
            for tensor in wanted.get(instr.origin.node, ()):
                whole = self.program.views[tensor.view]
                for touch in footprint(instr.spec, self.program.resolve(instr), 0, 1):
                    at = part_of(touch.view, whole) if "w" in touch.access else None
                    if at is not None:
                        out[index] = tensor, touch.view, at
            if instr.spec.mnemonic == "halt":
                break
        return out

    def run(self, it: Interpreter) -> dict[str, Activation]:
        """Run ``infer`` for the one sample that stands in host memory; the tensors have a batch of 1.

        Raises:
            Trap: as any run.
            SasError: a part of a tensor was never written.
        """
        self._rows.clear()
        self._missing.clear()
        for index in it.steps("infer"):
            if index in self._writes:
                self._record(it, index)
        for tensor, missing in self._missing.items():
            if missing.any():
                raise SasError(f"tensor {tensor!r} was not computed whole", where=self.program.source)
        out: dict[str, Activation] = {}
        for node, name in self.wanted.items():
            tensor, root = self._all[name], self._root(name)
            out[node] = Activation(name, self._rows[root.name].reshape(1, *tensor.shape), tensor.scale, tensor.zero)
        return out

    def _record(self, it: Interpreter, index: int) -> None:
        tensor, view, (y, x, c) = self._writes[index]
        instr = self.program.code[index]
        _, r0, r1 = it.stepped
        for touch in footprint(instr.spec, self.program.resolve(instr), max(r0, 0), max(r1, 0)):
            if touch.view.name != view.name or "w" not in touch.access or touch.first >= touch.last:
                continue
            got = it.read_view(view.name, stale=True)
            if tensor.name not in self._rows:
                self._rows[tensor.name] = np.zeros(tensor.shape, got.dtype)
                self._missing[tensor.name] = np.ones(tensor.shape, np.bool_)
            where = (slice(y + touch.first, y + touch.last), slice(x, x + view.width), slice(c, c + view.channels))
            self._rows[tensor.name][where] = got[touch.first : touch.last]
            self._missing[tensor.name][where] = False


def join(parts: Sequence[Mapping[str, Activation]]) -> dict[str, Activation]:
    """One batch of single samples."""
    made: dict[str, Activation] = {}
    for node, a in parts[0].items():
        if a.tensor not in made:
            made[a.tensor] = Activation(a.tensor, np.concatenate([part[node].values for part in parts]), a.scale, a.zero)
    return {node: made[a.tensor] for node, a in parts[0].items()}
