"""The machine: a frozen, validated description read from TOML (default ``sas28.toml``, the paper's accelerator).

Sub-arrays are numbered so that those that may work in one cycle under the ``row`` activation rule are neighbours:
``index = group * group_size + place``; a group is one block of active banks and one block of active MATs
(design note on ``ForceBank`` / ``ForceMat``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sasimc.isa.errors import SasError

__all__ = ["Machine", "activation_cycles", "activation_schedule", "activation_steps", "load_machine"]

MAX_SUBARRAYS = 1 << 18
MAX_CAPACITY_BITS = 1 << 35  # 4 GiB of cells

Positive = Annotated[int, Field(gt=0, le=1 << 40)]
Pair = tuple[Annotated[int, Field(gt=0, le=4096)], Annotated[int, Field(gt=0, le=4096)]]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ArraySection(_Section):
    """Hierarchy and sub-array geometry."""

    banks: Pair
    mats: Pair
    rows: Annotated[int, Field(ge=4, le=4096)]
    bit_columns: Annotated[int, Field(ge=8, le=8192)]
    weight_bits: Literal[8]


class ActivationSection(_Section):
    """Which sub-arrays may be active in one cycle."""

    rule: Literal["row", "free"]
    banks: Pair
    mats: Pair


class BitSerialSection(_Section):
    """Treatment of zero input bits."""

    zero_skip: Literal["energy", "cycles"]


class TransposedSection(_Section):
    """Transposable sub-arrays (paper section IV-D, figure 5)."""

    bit_columns_per_cycle: Annotated[int, Field(gt=0, le=8192)]
    subarrays: Positive | Literal["auto"]


class GradientSection(_Section):
    """Gradient product a e^T."""

    scratch_subarrays: Positive


class BufferSection(_Section):
    """Global activation buffer."""

    bytes: Positive
    bytes_per_cycle: Positive


class AccumulatorSection(_Section):
    """Local buffers that collect 32-bit partial sums."""

    entries: Positive
    bits: Literal[32]


class AdderTreeSection(_Section):
    """Adder tree, and which sub-arrays' partial sums it can add to each other."""

    units: Positive
    reach: Literal["bank", "group", "machine"] = "machine"


class PeripherySection(_Section):
    """Element-wise units."""

    lanes: Positive


class WriteSection(_Section):
    """SAS write and row read, cycles a row."""

    cycles_per_row: Positive
    read_cycles_per_row: Positive


class HostSection(_Section):
    """I/O interface and host memory."""

    bytes_per_cycle: Positive
    memory_bytes: Positive


class ControllerSection(_Section):
    """Registers, loops, issue and overlap of units."""

    registers: Annotated[int, Field(ge=8, le=64)]
    loop_depth: Annotated[int, Field(ge=4, le=16)]
    issue_cycles: Annotated[int, Field(ge=0, le=64)]
    overlap: bool


class Machine(_Section):
    """A validated machine description. All sizes in the units their names say; clock in hertz."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    clock_hz: Annotated[float, Field(gt=0, le=1e12)]
    array: ArraySection
    activation: ActivationSection
    bit_serial: BitSerialSection
    transposed: TransposedSection
    gradient: GradientSection
    buffer: BufferSection
    accumulator: AccumulatorSection
    adder_tree: AdderTreeSection
    periphery: PeripherySection
    write: WriteSection
    host: HostSection
    controller: ControllerSection

    @model_validator(mode="after")
    def _consistent(self) -> Machine:
        for what, total, active in (
            ("banks", self.array.banks, self.activation.banks),
            ("mats", self.array.mats, self.activation.mats),
        ):
            for axis in (0, 1):
                if total[axis] % active[axis]:
                    raise ValueError(
                        f"activation.{what}[{axis}] = {active[axis]} does not divide array.{what}[{axis}] = {total[axis]}"
                    )
        if self.array.bit_columns % self.array.weight_bits:
            raise ValueError("array.bit_columns is not a multiple of array.weight_bits")
        if self.subarrays > MAX_SUBARRAYS or self.capacity_bits > MAX_CAPACITY_BITS:
            raise ValueError(
                f"array.banks and array.mats give {self.subarrays} sub-arrays with {self.capacity_bits} bits; at most {MAX_SUBARRAYS} sub-arrays "
                f"and {MAX_CAPACITY_BITS} bits can be simulated"
            )
        return self

    @property
    def subarrays(self) -> int:
        """Number of sub-arrays of the machine."""
        b, m = self.array.banks, self.array.mats
        return b[0] * b[1] * m[0] * m[1]

    @property
    def group_size(self) -> int:
        """Sub-arrays active in one cycle (paper: 16 x 2)."""
        b, m = self.activation.banks, self.activation.mats
        return b[0] * b[1] * m[0] * m[1]

    @property
    def groups(self) -> int:
        """Number of activation groups under the ``row`` rule."""
        return self.subarrays // self.group_size

    @property
    def weights_per_row(self) -> int:
        """int8 weights in one word line."""
        return self.array.bit_columns // self.array.weight_bits

    @property
    def capacity_bits(self) -> int:
        """Bits the arrays hold."""
        return self.subarrays * self.array.rows * self.array.bit_columns

    def group_of(self, subarray: int) -> int:
        """Activation group of a sub-array."""
        return subarray // self.group_size

    def bank_of(self, subarray: int) -> int:
        """Bank number of a sub-array (for the ``free`` rule), unique over the machine."""
        group, place = divmod(subarray, self.group_size)
        mats_active = self.activation.mats[0] * self.activation.mats[1]
        banks_active = self.activation.banks[0] * self.activation.banks[1]
        mat_blocks = (self.array.mats[0] * self.array.mats[1]) // mats_active
        return (group // mat_blocks) * banks_active + place // mats_active

    def reach_of(self, subarray: int) -> int:
        """Partial sums of sub-arrays with equal numbers can be added to each other (``adder_tree.reach``)."""
        reach = self.adder_tree.reach
        return {"bank": self.bank_of, "group": self.group_of, "machine": lambda _: 0}[reach](subarray)

    @property
    def reach_size(self) -> int:
        """Sub-arrays of one activation group whose partial sums can be added to each other; 0: those of all groups can."""
        mats = self.activation.mats[0] * self.activation.mats[1]
        return {"bank": mats, "group": self.group_size, "machine": 0}[self.adder_tree.reach]

    @cached_property
    def key(self) -> str:
        """Canonical JSON of the description; equal machines have equal keys."""
        return self.model_dump_json()

    def __hash__(self) -> int:
        return hash(self.key)


def load_machine(path: str | Path | None = None) -> Machine:
    """Read and validate a machine file; ``None`` gives the paper's machine.

    Raises:
        SasError: unreadable file, TOML syntax, unknown or out-of-range field (all of them are listed).
    """
    try:
        if path is None:
            text, name = resources.files("sasimc.isa").joinpath("sas28.toml").read_text(encoding="utf-8"), "sas28.toml"
        else:
            text, name = Path(path).read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as exc:
        raise SasError(f"cannot read the machine description: {exc}", where=str(path)) from None
    try:
        return Machine.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise SasError(f"not valid TOML: {exc}", where=name) from None
    except ValidationError as exc:
        lines = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'machine'}: {e['msg']} (got {e['input']!r:.60})" for e in exc.errors()
        )
        raise SasError(f"invalid machine description: {lines}", where=name, hint="compare with the shipped sas28.toml") from None


def activation_schedule(machine: Machine, loads: Mapping[int, int]) -> Iterator[tuple[int, ...]]:
    """Sub-arrays active in each step until every sub-array ``s`` has been active ``loads[s]`` times.

    ``row``: group after group, all loaded sub-arrays of the group in lock-step. ``free``: in each step the banks with the most
    remaining work, and in each the sub-arrays with the most (longest remaining first).
    """
    left = {s: n for s, n in loads.items() if n > 0}
    if machine.activation.rule == "row":
        groups: dict[int, dict[int, int]] = {}
        for s, n in sorted(left.items()):
            groups.setdefault(machine.group_of(s), {})[s] = n
        for members in groups.values():
            for step in range(max(members.values())):
                yield tuple(s for s, n in members.items() if n > step)
        return
    max_banks = machine.activation.banks[0] * machine.activation.banks[1]
    max_mats = machine.activation.mats[0] * machine.activation.mats[1]
    while left:
        by_bank: dict[int, list[tuple[int, int]]] = {}
        for s, n in left.items():
            by_bank.setdefault(machine.bank_of(s), []).append((-n, s))
        chosen = [(sum(n for n, _ in best), [s for _, s in best]) for best in (sorted(v)[:max_mats] for v in by_bank.values())]
        active = [s for _, subs in sorted(chosen)[:max_banks] for s in subs]
        yield tuple(sorted(active))
        for s in active:
            left[s] -= 1
            if not left[s]:
                del left[s]


def activation_steps(machine: Machine, loads: Mapping[int, int]) -> int:
    """Number of steps of :func:`activation_schedule`."""
    return _steps(machine, tuple(sorted(loads.items())))


@lru_cache(maxsize=65536)
def _steps(machine: Machine, loads: tuple[tuple[int, int], ...]) -> int:
    if machine.activation.rule == "row":
        tallest: dict[int, int] = {}
        for s, n in loads:
            g = machine.group_of(s)
            tallest[g] = max(tallest.get(g, 0), n)
        return sum(tallest.values())
    return sum(1 for _ in activation_schedule(machine, dict(loads)))


def activation_cycles(machine: Machine, loads: Mapping[int, int]) -> int:
    """Cycles until every sub-array ``s`` has been active ``loads[s]`` cycles, when it may go on without waiting for the others.

    ``row``: group after group, each as long as its busiest sub-array. ``free``: as long as the busiest sub-array, or the busiest bank
    shared by the MATs that may be active in it, or all banks shared by those that may be active (the shortest preemptive schedule).
    """
    if machine.activation.rule == "row":
        tallest: dict[int, int] = {}
        for s, n in loads.items():
            tallest[machine.group_of(s)] = max(tallest.get(machine.group_of(s), 0), n)
        return sum(tallest.values())
    rule, banks = machine.activation, dict[int, list[int]]()
    for s, n in loads.items():
        banks.setdefault(machine.bank_of(s), []).append(n)
    times = [max(max(v), -(-sum(v) // (rule.mats[0] * rule.mats[1]))) for v in banks.values()]
    return max(max(times, default=0), -(-sum(times) // (rule.banks[0] * rule.banks[1])))
