"""What the paper's lines need to know of a compiled network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sasimc.isa.analysis.estimate import estimate
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program

__all__ = ["Network", "network_of", "placed_weights"]


@dataclass(frozen=True)
class Network:
    """A training program in numbers. ``weights``, ``trainable``: int8 weights, each once; ``written_bits``: bits of all copies of the trainable ones;
    ``step_cycles``, ``step_events``: of one training step of ``batch`` images; half of the input bits
    are taken to be 1. ``backbone``: weights of the network without modules (0: not known).
    """

    name: str
    weights: int
    trainable: int
    written_bits: int
    batch: int
    step_cycles: int
    step_events: Mapping[str, int]
    subarrays: int
    subarrays_total: int
    transposable: int
    buffer_peak: int
    buffer_bytes: int
    backbone: int = 0
    backbone_name: str = ""


def placed_weights(program: Program, *, trainable: bool = False) -> int:
    """Weights of a program, each once (a tensor that stands in two matrices is counted once)."""
    sizes = {m.tensor: m.k * m.n for m in program.matrices.values() if m.kind != "scratch" and (m.trainable or not trainable)}
    return sum(sizes.values())


def network_of(program: Program, name: str, buffer_peak: int, backbone: tuple[str, int] = ("", 0)) -> Network:
    """The numbers of a training program (name, buffer peak and backbone are the compiler's to say).

    Raises:
        SasError: nothing in it is trained.
    """
    if "train_step" not in program.entries:
        raise SasError("the program has no train_step", where=program.source, hint="compile a model with trainable layers")
    machine, batch = program.machine, int(program.meta.get("batch", "1"))
    matrices = [m for m in program.matrices.values() if m.kind != "scratch"]
    kinds = {t.subarray: m.array for m in program.matrices.values() for t in m.tiles}
    step = estimate(program, "train_step", {"batch": batch})
    groups = {machine.group_of(s) for s, kind in kinds.items() if kind == "transposable"}
    return Network(
        name=name,
        weights=placed_weights(program),
        trainable=placed_weights(program, trainable=True),
        written_bits=8 * sum(t.rows * t.cols for m in matrices if m.trainable for t in m.tiles),
        batch=batch,
        step_cycles=step.cycles,
        step_events={**step.events, "sense_ones": step.bit_products // 2},
        subarrays=len(kinds),
        subarrays_total=machine.subarrays,
        transposable=len(groups) * machine.group_size,
        buffer_peak=buffer_peak,
        buffer_bytes=machine.buffer.bytes,
        backbone=backbone[1],
        backbone_name=backbone[0],
    )
