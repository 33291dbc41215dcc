"""The program against the graph: what the device computes, bit for bit, for inferences and for one training step; and against its estimate: cycles, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from sasimc.backend.builder import CapacityError
from sasimc.backend.compile import Compiled, compile_graph
from sasimc.backend.mapping import cut_layers
from sasimc.ir import interp_train
from sasimc.ir.graph import OUTPUTS, Graph
from sasimc.isa.analysis.estimate import Estimate
from sasimc.isa.errors import SasError
from sasimc.passes.eliminate_dead import EliminateDead
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.ports import inputs_of, outputs_of
from sasimc.runtime.warmup import Progress, warm_up
from sasimc.verify.difference import FAULT, Difference, first_difference

__all__ = ["against_graph"]

Ints = npt.NDArray[np.int64]
HEAD_EXPONENT, MODULE_EXPONENT = 8, 7
"""Apart, and far larger steps than those of a training: with momentum or 16-bit weights, small ones change no stored weight, and nothing would be compared."""


def against_graph(compiled: Compiled, env: Mapping[str, Ints], targets: Ints, progress: Progress) -> None:
    """Compare logits, and with a training graph losses and all weights after one step on as many samples as there are
    ``targets`` (class numbers [B], or stored values of the output [B, H, W, C]).

    ``env``: all values of the compiled graph [B, H, W, C].

    Raises:
        Difference: the first layer that differs.
    """
    graph = compiled.graph
    device = Device(compiled.program, "fused", 1)
    warm_up(device.interpreter.datapath.codes(), progress)
    progress("verify")
    for value, got in _infer(device, graph, env, compiled.batch, lambda it: _priced(it, compiled.infer, "inference")).items():
        if (hit := first_difference(got, env[value].reshape(got.shape))) is not None:
            raise _first_layer(compiled, env) or Difference("the program", "the graph", value, "output", *hit)
    if compiled.train is not None:
        _train(compiled, device, env, targets)


def _priced(it: Interpreter, estimate: Estimate, what: str) -> None:
    """Whether a run took the cycles and events that follow from the program alone (where zero bits are skipped: at most the cycles).

    Raises:
        SasError: it did not.
    """
    skips = it.program.machine.bit_serial.zero_skip == "cycles"
    counted = {"cycles": it.cycles} | {
        event: n for event, n in it.events.items() if not event.startswith(("sense_ones", "bits_flipped"))
    }
    for name, n in counted.items():
        known = estimate.cycles if name == "cycles" else estimate.events.get(name, 0)
        if n != known and not (skips and name == "cycles" and 0 < n < known):
            raise SasError(f"the {what} counts {n:,} {name.replace('_', ' ')}, its program has {known:,}", where=what, hint=FAULT)


def _set(device: Device, **params: int) -> None:
    for name, value in params.items():
        device.interpreter.regs[device.program.params[name]] = value


def _feed(device: Device, graph: Graph, env: Mapping[str, Ints], sample: int, slot: int) -> None:
    for port, value in zip(inputs_of(device.program), graph.inputs, strict=True):
        device.interpreter.write_view(port.view, env[value][sample], slot)


def _infer(
    device: Device, graph: Graph, env: Mapping[str, Ints], batch: int, told: Callable[[Interpreter], object] = lambda it: None
) -> dict[str, Ints]:
    """Outputs [B, elements] of the graph's stored inputs, and what an arg max among them reads. ``told``: called when one sample has been run."""
    it, ports = device.interpreter, outputs_of(device.program)
    views = {value: port.view for value, port in zip(graph.outputs, ports, strict=True)}
    made = graph.producer(graph.outputs[0])
    if made is not None and made.kind == "argmax":
        views[made.inputs[0]] = device.io["logits"]
    out: dict[str, list[Ints]] = {value: [] for value in views}
    count = len(env[graph.inputs[0]])
    for first in (0, *range(1, count, batch)):  # one alone, then as many as there may be
        part = range(first, min(first + batch, count) if first else 1)
        for slot, sample in enumerate(part):
            _feed(device, graph, env, sample, slot)
        _set(device, batch=len(part))
        it.run("infer")
        if not first:
            told(it)
        for value, view in views.items():
            out[value] += [np.asarray(it.read_view(view, slot)).reshape(-1).astype(np.int64) for slot in range(len(part))]
    return {value: np.stack(rows) for value, rows in out.items()}


def _train(compiled: Compiled, device: Device, env: Mapping[str, Ints], targets: Ints) -> None:
    train, it, n = compiled.train, device.interpreter, len(targets)
    assert train is not None
    memory: dict[str, Ints] = {}
    expected = interp_train.train_step(train, {v: a[:n] for v, a in env.items()}, targets, HEAD_EXPONENT, MODULE_EXPONENT, memory)
    for b in range(n):
        _feed(device, compiled.graph, env, b, b)
        role = device.io["targets" if "targets" in device.io else "labels"]
        it.write_view(role, targets[b].reshape(compiled.program.views[role].shape), b)
    _set(device, batch=n, head_exponent=HEAD_EXPONENT, module_exponent=MODULE_EXPONENT)
    it.run(device.step_entry)
    graph = compiled.graph
    losses = np.array([int(it.read_view(device.io["loss"], b).reshape(-1)[0]) for b in range(n)])
    if (hit := first_difference(losses, expected.losses)) is not None:
        raise Difference("the loss of a training step of the program", "that of the graph", graph.outputs[0], "loss", *hit)
    constants = dict(graph.constants)
    for layer, weights in expected.weights.items():
        constants[graph.op(layer).consts["weight"]] = weights.astype(np.int8)
    backward = {op.str_attr("forward") for op in train.ops if op.kind == "conv_t"}
    parts = cut_layers(graph.with_changes(constants=constants), compiled.program.machine, backward)
    for layer in expected.weights:
        for part, matrix in zip(parts[layer], (m for _, m in compiled.placement.layers[layer]), strict=True):
            got = it.read_matrix(matrix.name).astype(np.int64)
            if (hit := first_difference(got, part.values.astype(np.int64))) is not None:
                op = graph.op(layer)
                raise Difference(
                    "the weights after a training step of the program", "those of the graph", op.origin or layer, "update", *hit
                )
    for layer, bias in compiled.program.learned_biases.items():
        hit = first_difference(it.read_view(bias.view).reshape(-1).astype(np.int64), memory[f"{layer}.learned"])
        if hit is not None:
            what = "the biases after a training step of the program", "those of the graph"
            raise Difference(*what, graph.op(layer).origin or layer, "update", *hit)


def _first_layer(compiled: Compiled, env: Mapping[str, Ints]) -> Difference | None:
    """The first operation up to which a program of its own goes wrong (found by halving); None if every part is right by itself."""
    graph = compiled.graph
    ops = [op for op in graph.ops if op.kind not in ("argmax", "reshape")]

    def differs(k: int) -> Difference | None:
        op = ops[k]
        notes = {k: v for k, v in graph.notes.items() if k != OUTPUTS}
        part = EliminateDead().run(graph.with_changes(outputs=(op.output,), notes=notes))
        try:
            made = compile_graph(part, compiled.program.machine, batch=compiled.batch)
        except CapacityError:
            return None
        got = _infer(Device(made.program, "fused", 1), made.graph, env, made.batch)[op.output]
        hit = first_difference(got, env[op.output].reshape(got.shape))
        return Difference("the program", "the graph", op.origin or op.name, op.kind, *hit) if hit is not None else None

    low, high, found = 0, len(ops) - 1, None
    while low <= high:
        middle = (low + high) // 2
        here = differs(middle)
        if here is not None:
            found, high = here, middle - 1
        else:
            low = middle + 1
    return found
