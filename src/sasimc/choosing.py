"""``--train-budget``: candidates compiled, their importance measured, the choice made (:mod:`sasimc.budget`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from sasimc.backend.builder import CapacityError
from sasimc.backend.compile import Compiled, Mapped, compile_graph, map_graph
from sasimc.budget import FIGURES, Choice, Figures, choose, parse_budget
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.importance import by_gradients, by_place
from sasimc.ir.graph import Graph, TrainGraph
from sasimc.isa.analysis.estimate import Estimate
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.options import CompileOptions
from sasimc.passes.backward import Backward
from sasimc.passes.manager import run_passes
from sasimc.passes.mark_trainable import pattern_of
from sasimc.passes.pipeline import marking_passes, unmarked_passes

__all__ = ["Candidates", "choose_layers", "figures_of", "map_within"]

TRANSPOSABLE = "transposable"


@dataclass(frozen=True, eq=False)
class Candidates:
    """What there is to choose from: ``whole`` trains all ``layers``; ``heads``: those of them nearest the output."""

    unmarked: Graph
    whole: TrainGraph
    machine: Machine
    options: CompileOptions
    limits: Mapping[str, int]

    @staticmethod
    def of(imported: Graph, machine: Machine, options: CompileOptions, limits: Mapping[str, int]) -> Candidates:
        """Of a float-level graph, by ``options.trainable`` or what the file marks.

        Raises:
            SasError: nothing is trainable.
        """
        unmarked = run_passes(imported, unmarked_passes())
        return Candidates(unmarked, _derived(unmarked, options, options.trainable), machine, options, limits)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return tuple(op.name for op in self.whole.forward.ops if op.flag("trainable"))

    @cached_property
    def heads(self) -> frozenset[str]:
        return frozenset(op.name for op in self.whole.forward.ops if op.flag("head"))

    def measure(self, chosen: frozenset[str]) -> Figures:
        """Compile the program that trains some of the layers."""
        train = _derived(self.unmarked, self.options, pattern_of(name for name in self.layers if name in chosen))
        graph, machine, limit = train.forward, self.machine, self.limits.get(TRANSPOSABLE, self.machine.subarrays)
        mapped = map_within(graph, machine, train, self.limits)
        if chosen == self.heads and mapped.placement.transposable_subarrays > limit:  # the least that can be reached
            groups = range(limit // machine.group_size + 1, mapped.placement.transposable_subarrays // machine.group_size)
            mapped = next((m for n in groups if (m := _squeezed(graph, machine, train, n))), mapped)
        if self.limits.keys() == {TRANSPOSABLE}:
            return Figures({TRANSPOSABLE: mapped.placement.transposable_subarrays}, _needed(mapped, machine))
        taken = figures_of(compile_graph(graph, machine, train, batch=self.options.batch, mapped=mapped))
        return Figures(taken, {**taken, **_needed(mapped, machine)})


def _derived(unmarked: Graph, options: CompileOptions, trainable: str | None) -> TrainGraph:
    made = run_passes(unmarked, (*marking_passes(trainable), Backward.of(options)))
    if not isinstance(made, TrainGraph):
        raise SasError(
            "--train-budget: no layer is trainable",
            hint="mark layers with --trainable PATTERN, or in the file's metadata (sasimc.trainable)",
        )
    return made


def choose_layers(
    imported: Graph, machine: Machine, options: CompileOptions, data: Dataset | None = None, progress: Callable[..., None] = lambda *_: None
) -> Choice:  # fmt: skip
    """The layers to train within ``options.train_budget``. ``imported``: the float-level graph; ``data``: labelled images, where the options name none.

    Raises:
        SasError: a budget that is none or cannot be kept, nothing that is trainable, images that do not fit.
    """
    limits = parse_budget(options.train_budget)
    if options.inference_only:
        raise SasError("--train-budget with --inference-only", hint="leave one of them out")
    if options.importance_data is not None:
        data = open_dataset(options.importance_data, size=max(8, imported.type(imported.inputs[0]).shape[0]))
    found = Candidates.of(imported, machine, options, limits)
    progress("importance of layers")
    importance, criterion = (
        by_gradients(found.whole, options, data, progress) if data is not None else by_place(found.whole.forward)
    )
    return choose(
        found.layers,
        found.heads,
        importance,
        criterion,
        limits,
        found.measure,
        lambda done: progress("layers within the budget", done),
    )


def map_within(graph: Graph, machine: Machine, train: TrainGraph | None, limits: Mapping[str, int]) -> Mapped:
    """Place the weights in as many transposable sub-arrays as are allowed; in as many as they would take if so few do not do."""
    mapped, allowed = map_graph(graph, machine, train), limits.get(TRANSPOSABLE, machine.subarrays)
    within = mapped.placement.transposable_subarrays <= allowed
    return mapped if within else _squeezed(graph, machine, train, allowed // machine.group_size) or mapped


def _squeezed(graph: Graph, machine: Machine, train: TrainGraph | None, groups: int) -> Mapped | None:
    """The weights placed so that no more activation groups than these are transposable; None: there is no room."""
    section = machine.transposed.model_copy(update={"subarrays": groups * machine.group_size})
    try:
        return map_graph(graph, machine.model_copy(update={"transposed": section}), train)
    except CapacityError:
        return None


def _needed(mapped: Mapped, machine: Machine) -> dict[str, float]:
    """Transposable sub-arrays that the weights would fill without gaps or copies."""
    transposed = set(mapped.train.transposed()) if mapped.train else set[str]()
    parts = [part for parts in mapped.placement.layers.values() for part, _ in parts]
    weights = sum(p.values.size for p in parts if p.trainable or (p.layer in transposed and p.kind == "dense"))
    return {TRANSPOSABLE: weights / (machine.array.rows * machine.weights_per_row)}


def figures_of(compiled: Compiled) -> dict[str, int]:
    """What a budget limits (:data:`~sasimc.budget.FIGURES`), of a program with a training step."""
    step = compiled.train_step or Estimate()
    events = step.events
    written = sum(events.get(f"bits_written_{kind}", 0) for kind in ("compute", "transposable"))
    if compiled.train is not None and compiled.train.options["update"] != "direct":  # rows that do not change are left out
        written += compiled.program.machine.array.weight_bits * events.get("update_ops", 0)
    found = (
        compiled.placement.transposable_subarrays,
        step.cycles,
        written,
        sum(events.get(f"host_bits_{way}", 0) for way in ("in", "out")),
    )
    return dict(zip(FIGURES, found, strict=True))
