"""What a study may vary and measure: a point becomes a model, a machine, a program and perhaps a training; its metrics follow."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, Final

import onnx

from sasimc.isa.errors import SasError, near
from sasimc.isa.machine import Machine, load_machine, shipped_machines
from sasimc.isa.options import Option, options_of
from sasimc.isa.text.printer import flat_fields

__all__ = ["METRICS", "check_point", "measure"]

METRICS: Final[Mapping[str, str]] = {
    "cycles.infer": "cycles of one inference",
    "cycles.train_step": "cycles of one training step of the compiled batch",
    "latency.infer": "seconds of one inference",
    "latency.train_step": "seconds of one training step",
    "energy.infer": "joules of one inference, half of the sensed cells taken as 1",
    "energy.train_step": "joules of one training step, likewise",
    "host_bits.infer": "bits between host and device, one inference",
    "host_bits.train_step": "bits between host and device, one training step",
    "area": "square metres of the machine",
    "subarrays": "sub-arrays that hold something",
    "subarrays.transposable": "of these, transposable ones",
    "utilisation": "share of their cells that hold weights",
    "buffer_peak": "bytes of the global buffer in use at most",
    "accuracy": "top-1 in percent after the training",
    "bits_written": "bits written to the arrays by the training",
    "worst_row": "writes of the most written word line",
}
"""Name -> what it is."""

_TRAINED: Final = ("accuracy", "bits_written", "worst_row")
_SENSED: Final = 0.5
"""Share of bit products whose cell is sensed, an assumption where nothing ran."""


@cache
def _fields() -> Mapping[str, Option | None]:
    """Every parameter, and the option that checks its values (None: they are checked where they are used)."""
    from sasimc.options import CompileOptions
    from sasimc.training.recipe import Recipe
    from sasimc.zoo.zoo import ZooOptions

    others = ["machine", "technology", "interpretation", "bit_errors"]
    for name, value in flat_fields(load_machine().model_dump(mode="json")):
        others += [f"machine.{name}[{i}]" for i in range(len(value))] if isinstance(value, list) else [f"machine.{name}"]
    others += [f"zoo.{name}" for name in ZooOptions.__dataclass_fields__] + [f"recipe.{name}" for name in Recipe.model_fields]
    return {**dict.fromkeys(others), **{f"compile.{o.name}": o for o in options_of(CompileOptions)}}


def check_point(point: Mapping[str, Any]) -> None:
    """Raise SasError for a parameter that does not exist, or a value that can never be right."""
    known = _fields()
    for name, value in point.items():
        if name not in known:
            raise SasError(
                f"there is no parameter {name!r}",
                hint=near(name, tuple(known))
                or "machine.SECTION.FIELD, compile.OPTION, zoo.OPTION, recipe.FIELD, technology, interpretation, bit_errors",
            )
        if (option := known[name]) is not None:
            option.check(value)
    if "machine" in point and point["machine"] not in shipped_machines():
        load_machine(point["machine"])


def _part(point: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}."): value for name, value in point.items() if name.startswith(f"{prefix}.")}


def _nested(flat: Mapping[str, Any], into: dict[str, Any]) -> dict[str, Any]:
    for path, value in flat.items():
        *sections, last = path.split(".")
        place = into
        for section in sections:
            place = place.setdefault(section, {})
        if found := re.fullmatch(r"(.+)\[(\d+)\]", last):
            place[found[1]][int(found[2])] = value
        else:
            place[last] = value
    return into


def _machine(point: Mapping[str, Any]) -> Machine:
    from sasimc.isa.described import validate

    changes = _part(point, "machine")
    machine = load_machine(point.get("machine"))
    if not changes:
        return machine
    data = _nested(changes, machine.model_dump(mode="json"))
    return validate(Machine, {**data, "name": f"{machine.name}-varied"}, [], "machine description")


@lru_cache(maxsize=8)
def _model(kind: str, digest: str, zoo: str, content: bytes | None) -> onnx.ModelProto:
    if content is not None:
        return onnx.load_model_from_string(content)
    from sasimc.zoo.zoo import ZooOptions, build, default_model_path, parse_modules

    if kind == "embedded":
        return onnx.load_model(default_model_path())
    given = json.loads(zoo)
    if isinstance(given.get("modules"), str):
        given["modules"] = parse_modules(given["modules"])
    return build(kind, ZooOptions(**given))


@lru_cache(maxsize=8)
def _graphs(kind: str, digest: str, zoo: str, content: bytes | None, options: Any) -> Any:
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
def _mapped(kind: str, digest: str, zoo: str, content: bytes | None, options: Any, arrays: Machine) -> Any:
    """The graphs with their weights placed: points that differ in neither arrays nor model share it."""
    from sasimc.backend.compile import map_graph

    forward, train = _graphs(kind, digest, zoo, content, options)
    return map_graph(forward, arrays, train)


def _compiled(spec: Mapping[str, Any], point: Mapping[str, Any], content: bytes | None, recipe: Any) -> Any:
    from sasimc.backend.compile import compile_graph
    from sasimc.backend.mapping import arrays_of
    from sasimc.isa.options import check_options
    from sasimc.options import CompileOptions

    options = CompileOptions(**{**(recipe.compile_options() if recipe else {}), **_part(point, "compile")})
    check_options(options)
    zoo = json.dumps(_part(point, "zoo"), sort_keys=True)
    machine = _machine(point)
    mapped = _mapped(spec["model"], spec.get("model_sha256", ""), zoo, content, options, arrays_of(machine))
    return compile_graph(mapped.graph, machine, mapped.train, batch=options.batch, mapped=mapped)


def measure(spec: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """The outcome of a trial: ``metrics`` by name, or ``infeasible`` with its reason.

    Args:
        spec: ``model`` (``embedded``, a zoo model, or a name in ``files``), ``base`` and ``point`` (parameter -> value), ``seed``, ``metrics``, ``training`` or None.
        files: contents by name.

    Raises:
        SasError: what another point or worker would not mend: a data set that is not there.
    """
    point = {**spec["base"], **spec["point"]}
    content = files.get(spec["model"])
    training = spec.get("training")
    recipe = _recipe(point, spec["seed"], training) if training or _part(point, "recipe") else None
    try:
        with _no_collection():
            compiled = _compiled(spec, point, content, recipe)
            metrics = _priced(compiled, point)
    except SasError as exc:
        return {"infeasible": exc.diagnostic.message}
    if training and any(m in _TRAINED for m in spec["metrics"]):
        metrics |= _trained(compiled, point, spec, recipe)
    return {"metrics": {name: metrics.get(name) for name in spec["metrics"]}}


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


def _recipe(point: Mapping[str, Any], seed: int, training: Mapping[str, Any] | None) -> Any:
    from sasimc.isa.described import validate
    from sasimc.training.recipe import Recipe, load_recipe

    base = load_recipe((training or {}).get("recipe", "default"))
    data = _nested(_part(point, "recipe"), base.model_dump(mode="json"))
    data |= {"seed": seed, **({"epochs": max(1, training["epochs"]), "limit": training.get("limit")} if training else {})}
    return validate(Recipe, data, [], "recipe")


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
            f"host_bits.{entry}": e.events.get("host_bits_in", 0) + e.events.get("host_bits_out", 0),
        }
    return out


def _trained(compiled: Any, point: Mapping[str, Any], spec: Mapping[str, Any], recipe: Any) -> dict[str, float]:
    from sasimc.cluster.task import Lacking, threads
    from sasimc.datasets.dataset import open_dataset
    from sasimc.runtime.device import Device
    from sasimc.runtime.faults import parse_bit_errors
    from sasimc.training.trainer import evaluate, train

    training = spec["training"]
    device = Device(compiled.program, "fused", threads() or 1)
    try:
        dataset = open_dataset(training["data"], size=device.input_shape[0])
    except SasError as exc:
        raise Lacking(f"data set {training['data']}", f"has no data set: {exc.diagnostic.message}") from None
    if errors := point.get("bit_errors"):
        device.inject(parse_bit_errors([str(errors)], spec["seed"]))
    if training["epochs"]:
        done = train(device, dataset, recipe)
        written = sum(e.writes_bits for e in done.epochs)
    else:
        written = 0
    top1, _ = evaluate(device, dataset, training["split"], limit=training.get("limit"))
    return {"accuracy": top1, "bits_written": written, "worst_row": int(device.interpreter.state.wear.max())}
