"""What a study measures: a point becomes a model, a machine, a program and perhaps a training; its metrics follow."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import onnx

from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.isa.options import check_options
from sasimc.options import CompileOptions
from sasimc.parameters import CONFIGURATION, errors_of, machine_of, part, recipe_of, zoo_of

__all__ = ["METRICS", "TRAINED", "measure", "model_of", "options_at"]

METRICS: Final[Mapping[str, str]] = {
    "cycles.infer": "cycles of one inference",
    "cycles.train_step": "cycles of one training step of the compiled batch",
    "latency.infer": "seconds of one inference",
    "latency.train_step": "seconds of one training step",
    "energy.infer": "joules of one inference, half of the sensed cells taken as 1",
    "energy.train_step": "joules of one training step, likewise",
    "energy_on_chip.infer": "joules of one inference without the host interface",
    "energy_on_chip.train_step": "joules of one training step without the host interface",
    "host_bits.infer": "bits between host and device, one inference",
    "host_bits.train_step": "bits between host and device, one training step",
    "area": "square metres of the machine",
    "subarrays": "sub-arrays that hold something",
    "subarrays.transposable": "of these, transposable ones",
    "utilisation": "share of their cells that hold weights",
    "buffer_peak": "bytes of the global buffer in use at most",
    "accuracy": "top-1 in percent after the training",
    "latency.training": "seconds of the training on the device",
    "bits_written": "bits written to the arrays by the training",
    "worst_row": "writes of the most written word line",
}
"""Name -> what it is."""

TRAINED: Final = ("accuracy", "latency.training", "bits_written", "worst_row")
"""Those of a training."""
_SENSED: Final = 0.5
"""Share of bit products whose cell is sensed, an assumption where nothing ran."""


@lru_cache(maxsize=8)
def _model(kind: str, digest: str, zoo: Any, content: bytes | None) -> onnx.ModelProto:
    if content is not None:
        return onnx.load_model_from_string(content)
    from sasimc.zoo.zoo import build, default_model_path

    return onnx.load_model(default_model_path()) if kind == "embedded" else build(kind, zoo)


@lru_cache(maxsize=8)
def _graphs(kind: str, digest: str, zoo: Any, content: bytes | None, options: Any) -> Any:
    """The graph after the passes: no machine has a part in it, so that points that differ in the machine share it."""
    from sasimc.frontend.onnx_import import import_graph
    from sasimc.ir.graph import TrainGraph
    from sasimc.passes.backward import Backward
    from sasimc.passes.manager import run_passes
    from sasimc.passes.pipeline import forward_passes

    trainable = "" if options.inference_only else options.trainable
    result = run_passes(import_graph(_model(kind, digest, zoo, content)), (*forward_passes(trainable), Backward.of(options)))
    return (result.forward, result) if isinstance(result, TrainGraph) else (result, None)


@lru_cache(maxsize=8)
def _mapped(kind: str, digest: str, zoo: Any, content: bytes | None, options: Any, arrays: Machine) -> Any:
    """The graphs with their weights placed: points that differ in neither arrays nor model share it."""
    from sasimc.backend.compile import map_graph

    forward, train = _graphs(kind, digest, zoo, content, options)
    return map_graph(forward, arrays, train)


def options_at(spec: Mapping[str, Any]) -> CompileOptions:
    """The options of a trial's compile, its machine included.

    Raises:
        SasError: a machine whose fields do not go together.
    """
    point, training = {**spec["base"], **spec["point"]}, spec.get("training")
    recipe = recipe_of(point, spec["seed"], training) if training or part(point, "recipe") else None
    options = CompileOptions(
        **{**(recipe.compile_options() if recipe else {}), **part(point, "compile"), "machine": machine_of(point)}
    )
    check_options(options)
    if options.train_budget or options.importance_data:
        raise SasError(
            "a study chooses no layers within a budget", hint="compile.trainable = PATTERN, one value for each set of layers"
        )
    return options


def _compiled(spec: Mapping[str, Any], content: bytes | None) -> Any:
    from sasimc.backend.compile import compile_graph
    from sasimc.backend.mapping import arrays_of

    options = options_at(spec)
    machine, others = options.machine, replace(options, machine=None)
    assert isinstance(machine, Machine)
    zoo = zoo_of({**spec["base"], **spec["point"]}, spec.get("training"))
    mapped = _mapped(spec["model"], spec.get("model_sha256", ""), zoo, content, others, arrays_of(machine))
    return compile_graph(mapped.graph, machine, mapped.train, batch=options.batch, mapped=mapped)


def measure(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The outcome of a trial: ``metrics`` by name, all that can be had, or ``infeasible`` with its reason.

    Args:
        spec: ``model`` (``embedded``, a zoo model, or a name in ``files``), ``base`` and ``point`` (parameter -> value), ``seed``, ``training`` or None.
        files: contents by name.

    Raises:
        SasError: what another point or worker would not mend: a data set that is not there.
    """
    point = {**spec["base"], **spec["point"]}
    content = files.get(spec["model"])
    training = spec.get("training")
    if CONFIGURATION in point:
        return {"metrics": _cell(point, spec)}
    model_of(spec, files)  # weights that are not there are no property of the point
    try:
        with _no_collection():
            compiled = _compiled(spec, content)
            metrics = _priced(compiled, point)
    except SasError as exc:
        return {"infeasible": exc.diagnostic.message}
    if training:
        metrics |= _trained(compiled, point, spec)
    return {"metrics": metrics}


def model_of(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> onnx.ModelProto:
    """The network of a trial."""
    point = {**spec["base"], **spec["point"]}
    return _model(spec["model"], spec.get("model_sha256", ""), zoo_of(point, spec.get("training")), files.get(spec["model"]))


@contextmanager
def _no_collection() -> Iterator[None]:
    """A compile makes a million objects and hardly a circle among them: looking for circles takes a quarter of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _priced(compiled: Any, point: Mapping[str, Any]) -> dict[str, float | None]:
    from sasimc.costs import price_list
    from sasimc.evaluation.area import area

    program, place = compiled.program, compiled.placement
    machine = program.machine
    prices = price_list(point.get("technology", "sas"), point.get("interpretation"))
    transposable = len({t.subarray for m in program.matrices.values() if m.array == "transposable" for t in m.tiles})
    model = prices.model(machine, transposable)
    out: dict[str, float | None] = {
        "area": area(machine, prices.circuit, prices.technology, transposable).total,
        "subarrays": place.used,
        "subarrays.transposable": transposable,
        "utilisation": place.weights / max(1, place.used * machine.array.rows * machine.weights_per_row),
        "buffer_peak": compiled.buffer_peak_bytes,
    }
    for entry, e in (("infer", compiled.infer), ("train_step", compiled.train_step)):
        if e is None:
            continue
        events = {**e.events, "sense_ones": round(_SENSED * e.bit_products)}
        out |= {
            f"cycles.{entry}": e.cycles,
            f"latency.{entry}": e.cycles / machine.clock_hz,
            f"energy.{entry}": model.energy(events, e.cycles),
            f"energy_on_chip.{entry}": model.energy({k: n for k, n in events.items() if not k.startswith("host_")}, e.cycles),
            f"host_bits.{entry}": e.events.get("host_bits_in", 0) + e.events.get("host_bits_out", 0),
        }
    return out


def _trained(compiled: Any, point: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, float]:
    from sasimc.cluster.task import threads
    from sasimc.runtime.device import Device
    from sasimc.sent_data import data_here
    from sasimc.training.evaluation import evaluate
    from sasimc.training.trainer import train

    training = spec["training"]
    device = Device(compiled.program, "fused", threads() or 1)
    dataset = data_here(spec, training["data"], device.input_shape[0])
    if (errors := errors_of(point, spec["seed"])).active:
        device.inject(errors)
    written = 0
    if training["epochs"]:
        written = sum(e.writes_bits for e in train(device, dataset, recipe_of(point, spec["seed"], training)).epochs)
    taken = device.simulated_s
    top1, _ = evaluate(device, dataset, training["split"], limit=training.get("limit"))
    worst = int(device.interpreter.state.wear.max())
    return {"accuracy": top1, "latency.training": taken, "bits_written": written, "worst_row": worst}


def _cell(point: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of table I: only its last configuration runs on the device."""
    from sasimc.api import compile_model
    from sasimc.reference import require
    from sasimc.reference.cells import Cell, Runner, Settings, use_threads
    from sasimc.runtime.device import Device
    from sasimc.sent_data import data_here
    from sasimc.training.recipe import ZooSection
    from sasimc.zoo.weights import backbone_weights

    require()
    use_threads(1)
    training = spec["training"]
    zoo, recipe = zoo_of(point, training), recipe_of(point, spec["seed"], training)
    section = {name: getattr(zoo, name) for name in ZooSection.model_fields}
    recipe = recipe.model_copy(update={"zoo": ZooSection(**section)})

    def compiled(model: Path, chosen: Any) -> Device:
        options = CompileOptions(**{"machine": machine_of(point), **chosen.compile_options(), **part(point, "compile")})
        return Device(compile_model(model, options).program, "fused", 1)

    with tempfile.TemporaryDirectory(prefix="sasimc-study-") as folder:
        settings = Settings(
            out=Path(folder), size=zoo.resolution, width=zoo.width, weights=backbone_weights(zoo.weights), recipe=recipe, split=training["split"],
        )  # fmt: skip
        data = {training["data"]: data_here(spec, training["data"], zoo.resolution)}
        made = Runner(settings, compiled, data).run(Cell(training["data"], int(point[CONFIGURATION]), spec["seed"]))
    return {"accuracy": made["top1"], "latency.training": made["simulated_s"], "bits_written": made["bits_written"]}
