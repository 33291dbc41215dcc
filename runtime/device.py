"""A device: one program on one engine, with images in and predictions out, one training step at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.datasets.preprocess import Preprocess, quantise_values
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.isa.program import Program, Tensor
from sasimc.runtime.activations import Activation, Recorder, join
from sasimc.runtime.crosscheck import cross_check
from sasimc.runtime.faults import FaultPlan, Faults
from sasimc.runtime.interface import Interface
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.levelling import ScratchLevelling
from sasimc.runtime.ports import inputs_of, outputs_of, port_named
from sasimc.runtime.state import RowWrites

__all__ = ["LOSS_TO_NATS", "Device", "Inference", "StepResult"]

LOSS_TO_NATS = math.log(2.0) / 4096.0


@dataclass(frozen=True)
class Inference:
    """``logits`` [B, C] as stored integers, ``classes`` [B]: the arg max the device computed."""

    logits: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepResult:
    """Mean loss before the update (nats; for values the mean squared error), the same as the device puts it out (whole 4096ths of a bit; for values the sum of
    squared steps of the output), predictions [B] of the forward pass, how many were right."""

    loss: float
    words: int
    classes: npt.NDArray[np.int64]
    correct: int


class Device:
    """Runs a compiled program.

    Args:
        program: a :class:`Program`, or the path of a ``.s`` or ``.bin`` file.
        engine: ``bitserial``, ``fused`` or ``step``; all give the same values, cycles and events.
        threads: worker threads of the engine (default: all cores).

    ``programmed``: what the host wrote to the arrays (:meth:`program_state`); ``seen``: images classified and steps done, ``replayed``: how many of
    them ran on another engine as well (:meth:`cross_check`); ``images``: images that were classified or learned from; ``faults``: the bit errors
    of its arrays (:meth:`inject`; None: none); ``levelling``: of its scratch rows (:meth:`level`; None: none).
    """

    def __init__(self, program: Program | str | Path, engine: str = "bitserial", threads: int | None = None) -> None:
        if not isinstance(program, Program | str | Path):
            hint = (
                "compile_model(...).program"
                if hasattr(program, "program")
                else "sasimc.compile(...), or the path of a .s or .bin file"
            )
            raise SasError(f"a device runs a Program, not a {type(program).__name__}", hint=hint)
        self.program = program if isinstance(program, Program) else load_program(Path(program))
        about = Interface.of(self.program)
        self.io, self.batch_size, self.classes, self.labels = about.io, about.batch_size, about.classes, about.labels
        self.input, self.output, self.values = about.input, about.output, about.values
        self.interpreter = Interpreter(self.program, engine, threads)
        self.engine = engine
        self.programmed = RowWrites()
        self.replayed = self.seen = self.images = 0
        self._every = 0
        self._other: Interpreter | None = None
        self.faults: Faults | None = None
        self.levelling: ScratchLevelling | None = None
        self._execute: Callable[[str], None] = self.interpreter.run

    def __repr__(self) -> str:
        return f"Device({self.program!r}, engine={self.engine!r}, {self.interpreter.cycles} cycles)"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[H, W, C]."""
        return self.input.shape

    @property
    def preprocess(self) -> Preprocess | None:
        """What the host does to pictures; None: the network takes none."""
        return self.input.preprocess

    @property
    def trainable(self) -> bool:
        """True when the program has a ``train_step``."""
        return "train_step" in self.program.entries

    @property
    def step_entry(self) -> str:
        """The entry that the next training step runs: ``train_step``, or ``train_first`` while no ranges of errors are known that a step could go by."""
        ranges = self.program.meta.get("error_ranges")
        return "train_first" if ranges and not self.interpreter.read_view(ranges).any() else "train_step"

    def seed(self, number: int) -> None:
        """Let the random numbers of unbiased rounding begin at step ``number`` x 2^16; a program that rounds otherwise has none."""
        if view := self.program.meta.get("rounding_step"):
            self.interpreter.write_view(view, np.full((1, 1, 1), number << 16 & 0x7FFFFFFF, np.int32))

    @property
    def simulated_s(self) -> float:
        """Device time so far, seconds: cycles / clock."""
        return self.interpreter.cycles / self.program.machine.clock_hz

    def cross_check(self, every: int, engine: str | None = None) -> None:
        """From now on replay every Nth image of ``infer`` and every Nth training step on another engine (0: none).

        ``replayed`` counts the replays. ``infer`` and ``train_step`` raise :class:`Difference` at the first difference.
        """
        if every < 0:
            raise SasError(f"cross-check of every {every}th image", hint="a number from 1, or 0 for none")
        self._every = every
        if every:
            other = engine or ("bitserial" if self.engine == "fused" else "fused")
            self._other = Interpreter(self.program, other, self.interpreter.threads)

    def inject(self, plan: FaultPlan, *, fresh: bool = True) -> None:
        """From now on the arrays have bit errors; what is loaded is written anew with them (not ``fresh``: it stands there already). A plan
        without rates changes nothing."""
        self.faults = Faults(plan, self.interpreter, fresh=fresh) if plan.active else None

    def level(self, what: str, turns: int = 0) -> None:
        """``scratch``: from now on training steps turn the scratch rows of gradients, which were turned ``turns`` times before; ``none``: they do not."""
        self.levelling = ScratchLevelling(self.program, self.interpreter.state, turns) if what == "scratch" else None

    def run_with(self, run: Callable[[str], None]) -> None:
        """From now on execute entry points with ``run``, for instance of a tracer (replays of :meth:`cross_check` are not run with it)."""
        self._execute = run

    def _run(self, entry: str, units: int) -> None:
        first, self.seen = self.seen, self.seen + units
        with self.faults.run() if self.faults else nullcontext():
            if self._other is not None and self._every and -(-first // self._every) * self._every < self.seen:
                cross_check(self.interpreter, self._other, entry)
                self.replayed += 1
            else:
                self._execute(entry)

    def _prepare(self, images: npt.ArrayLike) -> npt.NDArray[np.int8 | np.uint8]:
        x = self.input.integers(np.asarray(images))
        if not 1 <= len(x) <= self.batch_size:
            raise SasError(f"{len(x)} images, the program was compiled for 1 to {self.batch_size}", hint="sasc compile --batch N")
        return x

    def feed(self, images: npt.ArrayLike) -> int:
        """Put 1 to ``batch_size`` images where entry ``infer`` finds them, as the host does before it runs; returns how many."""
        if (more := json.loads(self.program.meta.get("inputs", "[]"))[1:]) != []:
            raise SasError(
                f"the program has {1 + len(more)} inputs", hint="device.run({name: array, ...}); sasrun --input FILE.npz"
            )
        x = self._prepare(images)
        for b in range(len(x)):
            self.interpreter.write_view(self.io["input"], x[b], b)
        self._set("batch", len(x))
        return len(x)

    def feed_step(
        self, images: npt.ArrayLike, labels: npt.ArrayLike | None, *, head_exponent: int, module_exponent: int
    ) -> npt.NDArray[np.integer]:
        """Put a batch where entry ``train_step`` finds it; returns the labels [B], or the targets as the output would store them. Arguments as of
        :meth:`train_step`."""
        if not self.trainable:
            raise SasError(
                "the program has no train_step", where=self.program.source, hint="compile a model with trainable layers"
            )
        wanted = self.targets(images, labels) if self.values else self._classes(labels)
        n = self.feed(images)
        if len(wanted) != n:
            raise SasError(
                f"{n} {'inputs' if self.values else 'images'} and {len(wanted)} {'targets' if self.values else 'labels'}"
            )
        for b in range(n):
            if self.values:
                self.interpreter.write_view(self.io["targets"], wanted[b], b)
            else:
                self.interpreter.write_view(self.io["labels"], np.asarray(wanted[b], np.int32).reshape(1, 1, 1), b)
        self._set("head_exponent", head_exponent)
        self._set("module_exponent", module_exponent)
        return wanted

    def _classes(self, labels: npt.ArrayLike | None) -> npt.NDArray[np.integer]:
        """[B]: numbers of classes that there are."""
        y = np.asarray(labels).reshape(-1)
        if y.dtype.kind not in "iu":
            raise SasError(f"labels are {y.dtype}; numbers of classes (integers) are needed")
        if y.size and (y.min() < 0 or y.max() >= self.classes):
            raise SasError(f"labels reach {int(y.min())}..{int(y.max())}, the classifier has classes 0..{self.classes - 1}")
        return y

    def _collect(self, n: int) -> Inference:
        it = self.interpreter
        vector = self.output.shape[:2] == (1, 1)  # else the device computes no arg max
        logits = np.stack([it.read_view(self.io["logits"], b).reshape(-1).astype(np.int64) for b in range(n)])
        classes = np.asarray(
            [int(it.read_view(self.io["prediction"], b).reshape(-1)[0]) if vector else 0 for b in range(n)], dtype=np.int64
        )
        return Inference(logits, classes)

    def run(self, feeds: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the network by their ONNX names, as onnxruntime gives them: real values [n, ...] (a softmax at the end is the host's), or
        numbers of elements. No preprocessing.

        Args:
            feeds: an array for each input by its ONNX name, or for the only one: 1 to ``batch_size`` samples in ONNX axes, real or of the input's
                stored type.

        Raises:
            SasError: a missing or unknown name, another shape, unequal numbers of samples.
        """
        ports = inputs_of(self.program)
        given = feeds if isinstance(feeds, Mapping) else {ports[0].name: feeds}
        stored = {port.view: port.stored(x) for port, x in ((port_named(ports, name), x) for name, x in given.items())}
        if missing := [p.name for p in ports if p.view not in stored]:
            raise SasError(f"no array for input {missing[0]!r}", hint=f"the program takes {', '.join(p.name for p in ports)}")
        counts = {len(x) for x in stored.values()}
        if len(counts) != 1 or not 1 <= max(counts) <= self.batch_size:
            raise SasError(
                f"{sorted(counts)} samples; 1 to {self.batch_size} are taken, of all inputs the same",
                hint="sasc compile --batch N",
            )
        n, it = counts.pop(), self.interpreter
        for view, x in stored.items():
            shape = self.program.views[view].shape
            for b in range(n):
                it.write_view(view, x[b].reshape(shape), b)
        self.images += n
        self._set("batch", n)
        self._run("infer", n)
        return self.outputs(n)

    def outputs(self, n: int) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the first ``n`` samples of the last run, as :meth:`run` gives them."""
        it = self.interpreter
        return {
            p.name: p.real(np.stack([np.asarray(it.read_view(p.view, b)).reshape(-1) for b in range(n)]))
            for p in outputs_of(self.program)
        }

    def infer(self, images: npt.ArrayLike) -> Inference:
        """Classify 1 to ``batch_size`` images.

        Args:
            images: one or several: bytes of pictures [..., H, W, 3] of any size (resized and cropped as the model asks, grey where it is), or
                arrays of the input's shape, channels first or last: real values, or the input's own integers.
        """
        n = self.feed(images)
        self.images += n
        self._run("infer", n)
        return self._collect(n)

    def activations(self, images: npt.ArrayLike, nodes: Iterable[str] | None = None) -> dict[str, Activation]:
        """Every layer's result for 1 to ``batch_size`` images, with the weights as they are now: by ONNX node, in the order of the program.

        The images run on a copy of the device, instruction by instruction: cycles, events and wear of the device do not change (nor do read
        errors of :meth:`inject` occur).

        Args:
            images: as for :meth:`infer`.
            nodes: ONNX names of nodes or of quantised tensors; None: all. An activation function that is computed together with its
                convolution has the same result.

        Raises:
            SasError: wrong images, or a name the program does not know.
        """
        recorder, parts = Recorder(self.program, nodes), list[dict[str, Activation]]()
        x = self._prepare(images)
        copy = Interpreter(self.program, self.engine, self.interpreter.threads)
        copy.restore(self.interpreter.snapshot())
        copy.regs[self.program.params["batch"]] = 1
        for sample in x:
            copy.write_view(self.io["input"], sample)
            parts.append(recorder.run(copy))
        return join(parts)

    def train_step(
        self,
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None,
        *,
        head_exponent: int = 3,
        module_exponent: int = 2,
    ) -> StepResult:
        """Forward, loss, backward and update on one batch. ``mu``: the largest gradient moves its weight by about 2^mu steps.

        Args:
            images: as for :meth:`infer`.
            labels: numbers of classes [B]; where the program predicts values, the real targets [B, ...], or None: the inputs themselves.
        """
        y = self.feed_step(images, labels, head_exponent=head_exponent, module_exponent=module_exponent)
        n = len(y)
        self.images += n
        with self.levelling.turned() if self.levelling else nullcontext():
            self._run(self.step_entry, 1)
        words = [int(self.interpreter.read_view(self.io["loss"], b).reshape(-1)[0]) for b in range(n)]
        loss, classes = float(np.mean(words)), self._collect(n).classes
        if self.values:
            return StepResult(loss * self.output.scale**2 / self.output.size, sum(words) // n, classes, 0)
        return StepResult(loss * LOSS_TO_NATS, sum(words) // n, classes, int((classes == y).sum()))

    def targets(self, images: npt.ArrayLike, targets: npt.ArrayLike | None = None) -> npt.NDArray[np.int8 | np.uint8]:
        """What the output is to be, as it stores it, [B, H, W, C]: real ``targets``, or None: the inputs themselves.

        Raises:
            SasError: another number of values, or inputs that are no targets.
        """
        if targets is not None:
            return self.output.integers(targets)
        x = self._prepare(images)
        if self.input.shape != self.output.shape:
            raise SasError(
                f"the inputs {list(self.input.shape)} cannot be the targets, the output is {list(self.output.shape)}",
                hint="data with targets: x and y [n, outputs]",
            )
        real = (x.astype(np.float32) - self.input.zero) * np.float32(self.input.scale)
        return quantise_values(real, self.output.scale, self.output.zero, self.output.dtype)

    def _set(self, param: str, value: int) -> None:
        self.interpreter.regs[self.program.params[param]] = int(value)

    def state(self) -> dict[str, Tensor]:
        """Weights of all trainable matrices, [K, N] int8 each, by name (a tensor that stands in two matrices once); learned biases, int32 [1, 1, N], by
        view."""
        first: dict[str, str] = {}
        for name, m in self.program.matrices.items():
            if m.trainable and m.kind != "scratch":
                first.setdefault(m.tensor, name)
        return {name: self.interpreter.read_matrix(name) for name in first.values()} | self.biases()

    def biases(self) -> dict[str, npt.NDArray[np.int32]]:
        """Learned biases, int32 [1, 1, N], by view."""
        return {bias.view: self.interpreter.read_view(bias.view) for bias in self.program.learned_biases.values()}

    def program_state(self, state: Mapping[str, Tensor]) -> RowWrites:
        """Write trainable weights as the host does on a running device: word lines that change, counted in their wear and in ``programmed``; learned
        biases into its own memory."""
        weights = self._weights(state)
        written = sum((self.interpreter.program_matrix(name, values) for name, values in weights.items()), RowWrites())
        self.programmed += written
        return written

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put trainable weights and learned biases back (not counted as device writes)."""
        for name, values in self._weights(state).items():
            self.interpreter.write_matrix(name, values)

    def _weights(self, state: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.int8]]:
        """What of a state stands in matrices, once all of it was checked; its biases are put where they belong."""
        biases = {bias.view for bias in self.program.learned_biases.values()} & state.keys()
        weights = {name: self._checked(name, values) for name, values in state.items() if name not in biases}
        for name in biases:
            self.interpreter.write_view(name, state[name])
        return weights

    def _checked(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        matrix = self.program.matrices.get(name)
        if matrix is None or not matrix.trainable:
            raise SasError(f"the program has no trainable matrix {name!r}")
        if values.shape != (matrix.k, matrix.n) or values.dtype != np.int8:
            raise SasError(f"{name}: weights are {values.dtype} {values.shape}, the matrix is int8 ({matrix.k}, {matrix.n})")
        return values
