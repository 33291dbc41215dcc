"""The Python interface: compile a model, run it on a simulated device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sasimc.backend.bound import bound_cycles
from sasimc.backend.compile import Compiled, compile_graph
from sasimc.backend.explain import explain, explain_training
from sasimc.frontend.onnx_import import import_model
from sasimc.ir.graph import Graph
from sasimc.isa.binary.container import encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.program import Program
from sasimc.passes.backward import POLICIES, derive_backward

__all__ = ["CompileOptions", "compile", "compile_model", "compile_report"]


@dataclass(frozen=True)
class CompileOptions:
    """``machine``: a description file or None for the paper's; ``batch``: largest batch; ``backprop``: ``exact`` or ``truncated``; ``trainable``:
    pattern over node and initialiser names, None: what the file's metadata say; ``eps``: label smoothing.

    ``backprop_through``: patterns of frozen layers that errors pass besides the indispensable ones, in place of ``backprop``; ``update``:
    ``direct``, ``accumulate`` or ``momentum`` (default); ``round_errors``: ``nearest``, ``stochastic`` or ``carried`` (default); ``gradient_power``: gradients are divided
    by this power (0, 1, 2) of their channel's weight scale; ``gradient_range``: ``batch`` or ``peak`` (docs/numerics.md)."""

    machine: str | Path | Machine | None = None
    batch: int = 8
    backprop: str = "exact"
    trainable: str | None = None
    eps: float = 0.1
    backprop_through: tuple[str, ...] = ()
    update: str = "momentum"
    round_errors: str = "carried"
    gradient_power: int = 0
    gradient_range: str = "batch"
    inference_only: bool = False
    print_ir_after: str = ""


def compile_model(
    model: str | Path, options: CompileOptions | None = None, *, progress: Callable[[str], None] = lambda _: None,
    sink: Callable[[str], None] | None = None,
) -> Compiled:  # fmt: skip
    """Compile an ONNX file; entries ``infer`` and, when the model has trainable layers, ``train_step``."""
    opt = options or CompileOptions()
    if opt.backprop not in POLICIES:
        raise SasError(f"--backprop {opt.backprop!r} is unknown", hint=" or ".join(POLICIES))
    if not 0 <= opt.eps < 1:
        raise SasError(f"label smoothing {opt.eps} is not in [0, 1)")
    machine = opt.machine if isinstance(opt.machine, Machine) else load_machine(opt.machine)
    progress("import")
    trainable = "" if opt.inference_only else opt.trainable  # an empty pattern: nothing is trained, nothing need be transposable
    graph = import_model(model, trainable, print_ir_after=opt.print_ir_after, sink=sink)
    train = None
    if _has_trainable(graph):
        progress("backward")
        train = derive_backward(
            graph, opt.backprop, opt.eps, through=opt.backprop_through, update=opt.update, rounding=opt.round_errors,
            gradient_power=opt.gradient_power, gradient_range=opt.gradient_range,
        )  # fmt: skip
    return compile_graph(graph, machine, train, batch=opt.batch, progress=progress)


def _has_trainable(graph: Graph) -> bool:
    return any(op.kind == "conv" and op.flag("trainable") for op in graph.ops)


def compile(model: str | Path, **options: Any) -> Program:
    """Compile an ONNX file to a :class:`Program`; keyword arguments are the fields of :class:`CompileOptions`."""
    return compile_model(model, CompileOptions(**options)).program


def compile_report(compiled: Compiled, wall_s: float) -> dict[str, Any]:
    """The stable keys of ``sasc compile --report`` (docs/reports.md)."""
    p, place = compiled.program, compiled.placement
    report: dict[str, Any] = {
        "machine": p.machine.name,
        "clock_hz": p.machine.clock_hz,
        "batch": compiled.batch,
        "instructions": len(p.code),
        "encoded_bytes": len(encode_program(p)),
        "subarrays_used": place.used,
        "subarrays_compute": place.compute_subarrays,
        "subarrays_transposable": place.transposable_subarrays,
        "subarrays_scratch": len(place.scratch.tiles) if place.scratch else 0,
        "subarrays_total": p.machine.subarrays,
        "weights": place.weights,
        "buffer_bytes": p.machine.buffer.bytes,
        "buffer_peak_bytes": compiled.buffer_peak_bytes,
        "cycles": {"infer": compiled.infer.cycles},
        "bound_cycles": bound_cycles(compiled.graph, p.machine),
        "mapping": {"cycles": place.cost, "limit": place.limit, "gap": place.cost / place.limit - 1 if place.limit > 0 else None},
        "phases": {"infer": compiled.infer.phases},
        "layers": [{**asdict(row), "ratio": row.ratio if row.bound else None} for row in explain(compiled)],
        "wall_s": wall_s,
    }
    if compiled.train_step is not None:
        report["cycles"]["train_step"] = compiled.train_step.cycles
        report["phases"]["train_step"] = compiled.train_step.phases
        report["training"] = [asdict(row) for row in explain_training(compiled)]
        report["backprop"] = p.meta["backprop"]
        report["update"] = p.meta["update"]
    return report
