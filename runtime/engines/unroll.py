"""Code followed ahead of its run: loops unrolled once, as far as control flow, rows and samples follow from the code or from registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sasimc.isa.spec import Reg, ViewField
from sasimc.isa.walk import EMPTY, Key, Walker
from sasimc.runtime.engines.operands import BoundView

__all__ = ["NotNative", "Traced", "Unrolled", "unroll"]

_LONGEST: Final = 100_000  # instructions of an unrolled body


class NotNative(Exception):
    """A loop has to be interpreted because of instruction ``index``."""

    def __init__(self, index: int, why: str) -> None:
        self.index, self.why = index, why
        super().__init__(why)


class Traced(Walker):
    """Follows code and remembers what a register holds: a number, the value as it began plus a constant, or what only data tell.

    ``samples``: by place in the list, host views and their samples as (register, constant): what the register held as it began plus the constant
    (register 0: the constant); ``needed``: the registers that decide what is done. ``whole``: it holds for what is in them only.
    """

    def __init__(self, run: Walker, entry: Sequence[int] | None) -> None:
        super().__init__(run.program, run.operands, list(entry) if entry is not None else None, run)
        self.keys: list[Key] = []
        self.samples: list[tuple[BoundView, int, int]] = []
        self.needed: set[int] = set()
        self.at, self.whole = 0, entry is not None
        # what a register holds: a number (None), the value as the code begins plus a constant, or what instruction -1 - n left there
        self.origin: list[tuple[int, int] | int | None] = [(r, 0) for r in range(len(self.regs))]
        self.origin[0] = None

    def first_row(self, register: int) -> int:
        return self.need(register, "which rows it works on")

    def need(self, register: int, what: str) -> int:
        """The number a register holds.

        Raises:
            NotNative: it depends on data, or on what the register held before the loop.
        """
        origin = self.origin[register]
        if isinstance(origin, int):
            writer = self.program.code[-1 - origin].spec.mnemonic
            raise NotNative(self.at, f"{what} depends on r{register}, which instruction {-1 - origin} ({writer}) sets from data")
        if origin is not None:
            if not self.whole:
                raise NotNative(self.at, f"{what} depends on what r{register} holds before the loop")
            self.needed.add(origin[0])
        return self.regs[register]

    def arithmetic(self, pc: int) -> None:
        spec, o = self.program.code[pc].spec, self.operands[pc]
        self.execute(pc)
        target = spec.target()
        assert target is not None
        register = getattr(o, target.name)
        if not register:
            return
        sources = [self.origin[getattr(o, f.name)] for f in spec.of_kind(Reg) if not f.write]
        entered = [s for s in sources if isinstance(s, tuple)]
        data = next((s for s in sources if isinstance(s, int)), None)
        if data is not None:
            self.origin[register] = data
        elif spec.moves and entered:
            self.origin[register] = entered[0][0], entered[0][1] + getattr(o, spec.moves)
        elif entered and self.whole:
            self.needed |= {r for r, _ in entered}
            self.origin[register] = None
        else:
            self.origin[register] = -1 - pc if entered else None

    def data(self, pc: int) -> None:
        """An instruction that is no control: which sample it touches, which registers it sets."""
        spec, o = self.program.code[pc].spec, self.operands[pc]
        for f in spec.of_kind(ViewField):
            if f.sample:
                register = getattr(o, f.sample)
                origin = self.origin[register]
                if isinstance(origin, tuple) and not self.whole:
                    self.samples.append((getattr(o, f.name), *origin))
                else:
                    self.samples.append((getattr(o, f.name), 0, self.need(register, "which sample it touches")))
        for f in spec.of_kind(Reg):
            if f.write and getattr(o, f.name):
                self.origin[getattr(o, f.name)] = -1 - pc


class Unrolled(Traced):
    """A loop's body as executions in order (``keys``).

    With ``entry``, the registers as the loop begins, all ``passes`` of it are one body, which holds for these values of the registers ``needed``;
    without, one pass that holds whatever they are. ``samples``: by place in the list, host views and their samples as (register, constant): what the
    register holds as the body begins plus the constant (register 0: the constant). ``moves``: by how much the body moves each register, where
    that is a constant. ``depth``: loops inside one another. ``whole``: whether it is all passes.
    """

    def __init__(self, run: Walker, start: int, entry: Sequence[int] | None, passes: int) -> None:
        super().__init__(run, entry)
        self.depth, self.at = 1, start
        self.start(start + 1)
        self.running = True
        if self.whole:
            self.stack.append([start + 1, passes, passes])
        self._follow(self.ends[start])
        final = enumerate(self.origin)
        self.moves = {r: o[1] for r, o in final if isinstance(o, tuple) and o[0] == r}
        self.moves[0] = 0

    def _follow(self, end: int) -> None:
        while True:
            pc = self.at = self.pc
            if len(self.keys) >= _LONGEST:
                raise NotNative(pc, f"its loop is longer than {_LONGEST} instructions")
            key = (pc, *self.rows(pc))
            self.keys.append(key)
            if pc == end and not self.whole and not self.stack:
                return
            spec, o = self.program.code[pc].spec, self.operands[pc]
            if spec.flow in ("phase", "halt"):
                raise NotNative(pc, f"a loop cannot contain {spec.mnemonic}")
            if spec.flow:
                for f in spec.of_kind(Reg):
                    self.need(getattr(o, f.name), "the number of passes")
                self.execute(pc)
                self.depth = max(self.depth, len(self.stack) + (0 if self.whole else 1))
                if pc == end and not self.stack:
                    return
            elif spec.group == "control":
                self.arithmetic(pc)
            else:
                self.pc = pc + 1
                if key[1:] != EMPTY:
                    self.data(pc)


def unroll(run: Walker, start: int, regs: Sequence[int], passes: int) -> Unrolled:
    """The loop of a run at instruction ``start``: one pass if that holds for all, else all passes from these registers on.

    Raises:
        NotNative: control flow, rows or samples depend on data.
    """
    try:
        body = Unrolled(run, start, None, passes)
        if all(register in body.moves for _, register, _ in body.samples):
            return body
    except NotNative:
        pass
    return Unrolled(run, start, regs, passes)
