"""The Python interface: compile a model, run it on a simulated device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from sasimc.backend.bound import bound_cycles
from sasimc.backend.compile import Compiled, compile_graph
from sasimc.backend.explain import explain, explain_training
from sasimc.choosing import choose_layers, map_within
from sasimc.datasets.dataset import Dataset
from sasimc.frontend.load import load_model
from sasimc.frontend.onnx_import import import_graph
from sasimc.frontend.weights_out import model_digest
from sasimc.ir.graph import TrainGraph
from sasimc.isa.binary.container import encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.options import check_options, options_of
from sasimc.isa.program import Program
from sasimc.options import CompileOptions
from sasimc.passes.backward import Backward
from sasimc.passes.manager import Watch, run_passes
from sasimc.passes.mark_trainable import pattern_of
from sasimc.passes.options import BackwardOptions
from sasimc.passes.pipeline import forward_passes
from sasimc.quantise.ranges import with_ranges

__all__ = ["CHOICE", "CompileOptions", "compile", "compile_model", "compile_report"]

CHOICE = "train_choice"
"""Entry of a program's meta data: what was chosen within a budget, as JSON (:meth:`~sasimc.budget.Choice.as_dict`)."""


def compile_model(
    model: str | Path | ModelProto, options: CompileOptions | None = None, *, progress: Callable[..., None] = lambda *_: None,
    sink: Callable[[str], None] | None = None, watch: Watch | None = None, data: Dataset | None = None,
) -> Compiled:  # fmt: skip
    """Compile an ONNX file; entries ``infer`` and, when the model has trainable layers, ``train_step``. ``watch`` sees the graph after every pass; ``data``: labelled images that
    choose layers within a budget, where the options name none."""
    opt = options or CompileOptions()
    check_options(opt)
    machine = opt.machine if isinstance(opt.machine, Machine) else load_machine(opt.machine)
    progress("import")
    trainable = "" if opt.inference_only else opt.trainable  # an empty pattern: nothing is trained, nothing need be transposable
    ranged = with_ranges(model if isinstance(model, ModelProto) else load_model(model), opt.calibrate)
    proto = ranged.model
    imported, choice = import_graph(proto), None
    if opt.train_budget:
        choice = choose_layers(imported, machine, opt, data, progress)
        trainable = pattern_of(name for name in choice.layers if name in choice.chosen)
    elif opt.importance_data is not None:
        raise SasError("--importance-data goes with --train-budget", hint="--train-budget cycles=10M")
    passes = (*forward_passes(trainable), Backward.of(opt))
    result = run_passes(imported, passes, print_ir_after=opt.print_ir_after, sink=sink, watch=watch)
    graph, train = (result.forward, result) if isinstance(result, TrainGraph) else (result, None)
    mapped = map_within(graph, machine, train, choice.limits) if choice else None
    compiled = compile_graph(graph, machine, train, batch=opt.batch, mapped=mapped, progress=progress)
    verified = "no"
    if opt.verify:
        from sasimc.verify.check import verify_compiled

        progress("verify")
        verified = str(verify_compiled(proto, compiled, graph, progress))
    origin = {"sha256": model_digest(proto), "trainable": trainable}
    meta = {**compiled.program.meta, "loss": opt.loss, "verified": verified, "model": json.dumps(origin)}
    if choice:
        meta[CHOICE] = json.dumps(choice.as_dict())
    if ranged.tensors:
        meta["note.calibrated"] = str(ranged)
    return replace(compiled, program=replace(compiled.program, meta=meta))


def compile(model: str | Path | ModelProto, **options: Any) -> Program:
    """Compile an ONNX file to a :class:`Program`, checked unless ``verify=False``; keyword arguments are the fields of :class:`CompileOptions`."""
    return compile_model(model, CompileOptions(**{"verify": True, **options})).program


def compile_report(compiled: Compiled, wall_s: float) -> dict[str, Any]:
    """The stable keys of ``sasc compile --json`` (page "Run and compile JSON")."""
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
        if CHOICE in p.meta:
            report[CHOICE] = json.loads(p.meta[CHOICE])
        report |= {o.name: p.meta.get(o.name, str(o.default)) for o in options_of(BackwardOptions)}
    return report
