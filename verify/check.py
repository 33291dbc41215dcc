"""Every compilation is checked before anything is written: (a) import, (b) passes, (c) program, (d) linter (docs/explanation/verification.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from sasimc.backend.compile import Compiled
from sasimc.frontend.onnx_import import import_float
from sasimc.ir.graph import Graph, type_range
from sasimc.isa.analysis.lint import lint
from sasimc.isa.errors import DiagnosticsError
from sasimc.passes.canonicalise import PLACED
from sasimc.passes.manager import run_passes
from sasimc.passes.pipeline import import_passes
from sasimc.verify.graphs import against_import
from sasimc.verify.onnx_side import Moved, against_onnx, whole_network
from sasimc.verify.program import against_graph

__all__ = ["Verified", "samples", "targets", "verify_compiled"]

ELEMENTS = 12_000_000
"""Elements of all tensors of all samples: what the check may spend on reference arithmetic."""
SAMPLES = 4


@dataclass(frozen=True)
class Verified:
    """What was compared: samples, tensors of the ONNX file, and whether a training step was; and where float tensors got a scale, how far that
    moved the outputs."""

    samples: int
    tensors: int
    trained: bool
    moved: Moved | None = None

    def __str__(self) -> str:
        step = ", one training step" if self.trained else ""
        return f"{self.samples} samples, {self.tensors} tensors{step}" + (f"; {self.moved}" if self.moved else "")


def samples(graph: Graph, count: int, seed: int = 0, value: str = "") -> npt.NDArray[np.int64]:
    """Stored samples of an input (the first) [count, H, W, C]: blocks of the two extremes beside noise, a smooth walk, all lowest, all highest, noise after that."""
    t = graph.type(value or graph.inputs[0])
    lo, hi = type_range(t.dtype)
    rng = np.random.default_rng(seed)
    h, w, c = t.shape
    noise = rng.integers(lo, hi + 1, (count, h, w, c))
    blocks = np.where(rng.random((-(-h // 4), -(-w // 4), c)) < 0.5, lo, hi).repeat(4, 0).repeat(4, 1)[:h, :w]
    where = rng.random((h, w, 1)) < 0.5 if h * w == 1 else (np.arange(w) < w // 2)[None, :, None]
    noise[0] = np.where(where, blocks, noise[0])
    if count > 1:
        walk = np.cumsum(rng.normal(0, (hi - lo) / 16, (h, w, c)), axis=1 if w > 1 else 2) + rng.uniform(lo, hi, (h, 1, 1))
        noise[1] = np.clip(np.rint(walk), lo, hi)
    if count > 2:
        noise[2] = lo
    if count > 3:
        noise[3] = hi
    return noise.astype(np.int64)


def targets(compiled: Compiled, steps: int) -> npt.NDArray[np.int64]:
    """What a training step is to learn: the first and the last class, or values all over the output's range."""
    io, views = json.loads(compiled.program.meta["io"]), compiled.program.views
    output = views[io["logits"]]
    if "targets" not in io:
        return np.arange(steps) * (output.channels - 1) % output.channels
    lo, hi = type_range(output.dtype)
    return np.random.default_rng(1).integers(lo, hi + 1, (steps, *output.shape))


def verify_compiled(
    model: ModelProto, compiled: Compiled, final: Graph, progress: Callable[..., object] = lambda *_: None
) -> Verified:
    """Check a compilation; ``final``: the graph after the passes.

    Raises:
        Difference: something the compiler made differs from what it was made of.
        DiagnosticsError: the linter finds errors in the program.
        SasError: onnxruntime refuses the model.
    """
    found = import_float(model)
    assert found.graph is not None
    imported = run_passes(found.graph, import_passes())
    size = sum(t.size for t in imported.values.values())
    count = min(SAMPLES, max(1, ELEMENTS // size))
    count = max(found.batch, count // found.batch * found.batch)
    x = {v: samples(imported, count, i, v) for i, v in enumerate(imported.inputs)}
    with ThreadPoolExecutor(1) as beside:
        findings = beside.submit(lint, compiled.program)
        runs = against_import(imported, final, x)
        tensors = against_onnx(model, found, imported, runs.fed, runs.imported)
        against_graph(compiled, runs.final, targets(compiled, min(count, compiled.batch, 2 if count > 1 else 1)), progress)
        if errors := [d for d in findings.result() if d.severity == "error"]:
            raise DiagnosticsError(errors)
    moved = whole_network(model, found, imported, runs.fed) if PLACED in imported.notes else None
    return Verified(count, tensors, compiled.train is not None, moved)
