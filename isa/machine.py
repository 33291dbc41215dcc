"""The machine: a frozen, validated description read from TOML (default ``sas28.toml``, the paper's accelerator).

Sub-arrays are numbered so that those that may work in one cycle under the ``row`` activation rule are neighbours:
``index = group * group_size + place``; a group is one block of active banks and one block of active MATs
(design note on ``ForceBank`` / ``ForceMat``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from importlib import resources
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from sasimc.isa.described import Source, parse_toml, place_of, read_source, validate
from sasimc.isa.errors import SasError, near
from sasimc.isa.machine_sections import (
    About,
    AccumulatorSection,
    ActivationSection,
    AdderTreeSection,
    ArraySection,
    BitSerialSection,
    BufferSection,
    ControllerSection,
    GradientSection,
    HostSection,
    PeripherySection,
    Section,
    TransposedSection,
    WriteSection,
)

__all__ = ["PAPER", "Machine", "activation_cycles", "activation_schedule", "activation_steps", "load_machine", "shipped_machines"]

PAPER: Final = "sas28"
"""The paper's machine: what a program is compiled for when nothing else is said."""

MAX_SUBARRAYS = 1 << 18
MAX_CAPACITY_BITS = 1 << 35  # 4 GiB of cells


class Machine(Section):
    """A validated machine description. All sizes in the units their names say; clock in hertz."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", json_schema_extra={"wanted": "a name of 1 to 64 letters, digits, _ . -"}),
        About("goes into programs and reports"),
    ]
    clock_hz: Annotated[float, Field(gt=0, le=1e12), About("clock; turns cycles into seconds", "Hz", paper="table III")]
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

    def only(self, *sections: str) -> Machine:
        """The paper's machine with these sections of this one: what they alone decide is the same for all machines that share them."""
        return load_machine().model_copy(update={name: getattr(self, name) for name in sections})

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


def shipped_machines() -> tuple[str, ...]:
    """Names of the machines that come with the package."""
    files = resources.files("sasimc.isa").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_machine(source: str | Path | None = None) -> Machine:
    """Read and validate a machine: a shipped name, a TOML file, or None for the paper's machine.

    A file with ``extends = NAME or FILE`` (relative to itself) gives only what differs; its name is the file's unless it gives one.

    Raises:
        SasError: unknown name, unreadable file, TOML syntax, a circle of ``extends``, unknown, missing or out-of-range fields (all are listed).
    """
    chain = _chain(PAPER if source is None else source)
    data: dict[str, Any] = {}
    for _, found in reversed(chain):
        data = _merged(data, found)
    return validate(Machine, data, [s for s, _ in chain], "machine description", f'extends = "{PAPER}" gives what is left out')


def _chain(source: str | Path) -> list[tuple[Source, dict[str, Any]]]:
    """The description, and those it extends, the most basic last."""
    chain: list[tuple[Source, dict[str, Any]]] = []
    passed: list[Path] = []
    name, folder, span = str(source), Path(), None
    while True:
        if name in shipped_machines():
            text = Source(f"{name}.toml", resources.files("sasimc.isa").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
        else:
            path = folder / name
            if not path.suffix and not path.exists():
                known = shipped_machines()
                hint = near(name, known) or f"shipped: {', '.join(known)}; or give a .toml file"
                raise SasError(f"no machine is called {name!r}", span=span, hint=hint)
            if path.resolve() in passed:
                circle = " -> ".join(map(str, [*passed[passed.index(path.resolve()) :], path.resolve()]))
                raise SasError(f"extends leads back to where it began: {circle}", span=span)
            passed.append(path.resolve())
            text, folder = read_source(path, "machine description"), path.parent
        data = parse_toml(text)
        base = data.pop("extends", None)
        chain.append((text, data))
        if base is None:
            return chain
        if not isinstance(base, str):
            raise SasError("extends: not the name of a machine or of a file", where=text.name, hint=f'extends = "{PAPER}"')
        data.setdefault("name", Path(text.name).stem)
        name, span = base, place_of(("extends",), [text])


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` gives, section by section."""
    inner = {k: _merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **inner}


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
            done = 0
            for load in sorted(set(members.values())):
                yield from repeat(tuple(s for s, n in members.items() if n >= load), load - done)
                done = load
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
