"""One entry point on two engines from the same state; the first difference is named by layer, instruction and
element."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.isa.objects import View
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.state import Snapshot

__all__ = ["Difference", "cross_check"]


class Difference(SasError):
    """Two engines disagree: ``index`` is the instruction after which they first differ (-1: only counters differ),
    ``where`` the element."""

    def __init__(self, message: str, *, index: int, node: str, element: str) -> None:
        self.index, self.node, self.element = index, node, element
        super().__init__(message, hint="this is a defect of the simulator; please report it with the program and the input")


def _host(it: Interpreter, size: int) -> npt.NDArray[np.uint8]:
    it.state.grow_host(size)
    return it.state.host[:size]


def _first(name: str, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[str, tuple[int, ...], int, int] | None:
    if np.array_equal(a, b):
        return None
    at = tuple(int(i) for i in np.argwhere(a != b)[0])
    return name, at, int(a[at]), int(b[at])


def _difference(a: Interpreter, b: Interpreter, *, cells: bool, host: bool) -> tuple[str, tuple[int, ...], int, int] | None:
    """First place where two states differ: (memory, position, value in a, value in b)."""
    pairs = [("register", np.array(a.regs), np.array(b.regs)), ("buffer", a.state.buffer, b.state.buffer)]
    pairs.append(("accumulators", a.state.accumulators, b.state.accumulators))
    if cells:
        pairs += [("cells", a.state.cells, b.state.cells), ("written cells", a.state.written, b.state.written)]
        pairs.append(("row writes", a.state.wear, b.state.wear))
    if host:
        size = max(len(a.state.host), len(b.state.host))
        pairs.append(("host memory", _host(a, size), _host(b, size)))
    return next((found for pair in pairs if (found := _first(*pair))), None)


def _element(it: Interpreter, index: int, memory: str, at: tuple[int, ...]) -> str:
    """The position in words of the instruction's operands: matrix weight or view element when one of them contains
    it."""
    instr = it.program.code[index]
    names = [value for value in instr.operands if isinstance(value, str)]
    if memory == "register":
        return f"register r{at[0]}"
    if memory in ("cells", "written cells"):
        for name in names:
            for t in it.program.matrices[name].tiles if name in it.program.matrices else ():
                if t.subarray == at[0] and 0 <= at[1] - t.row < t.rows and 0 <= at[2] - t.col < t.cols:
                    return f"weight ({t.k + at[1] - t.row}, {t.n + at[2] - t.col}) of {name}, copy {t.copy} ({memory})"
        return f"sub-array {at[0]}, word line {at[1]}, weight column {at[2]} ({memory})"
    if memory == "row writes":
        return f"sub-array {at[0]}, word line {at[1]} ({memory})"
    space = {"buffer": "buf", "accumulators": "acc", "host memory": "host"}[memory]
    for name in names:
        view = it.program.views.get(name)
        if view is not None and view.space == space and (place := _inside(view, at[0])):
            return f"element {place} of {name} ({memory} address {at[0]})"
    return f"{memory} address {at[0]}"


def _inside(view: View, address: int) -> str:
    """(row held, pixel, channel) of a view at an address, or an empty string."""
    low, high = view.addr, view.end
    if view.batch:
        high += view.batch * ((address - low) // view.batch if address >= low else 0)
        address = low + (address - low) % view.batch if address >= low else address
    if not low <= address < high or view.dtype == "bit":
        return ""
    h, w, c = np.indices((view.rows_held, view.width, view.channels)).reshape(3, -1)
    place = view.addr + h * view.row + w * view.pix + c * view.chan
    hit = np.flatnonzero((place <= address) & (address < place + view.unit))
    return f"({h[hit[0]]}, {w[hit[0]]}, {c[hit[0]]})" if len(hit) else ""


def _raise(main: Interpreter, other: Interpreter, index: int, found: tuple[str, tuple[int, ...], int, int]) -> None:
    memory, at, a, b = found
    node = main.program.code[index].origin.node
    element = _element(main, index, memory, at)
    raise Difference(
        f"engines {main.engine} and {other.engine} differ after {main.instruction(index)}: {element} is {a} and {b}",
        index=index, node=node, element=element,
    )  # fmt: skip


def _lock_step(main: Interpreter, other: Interpreter, entry: str, before: Snapshot) -> None:
    """Replay both one instruction at a time and raise at the first difference."""
    main.restore(before)
    other.restore(before)
    for index, where in zip(main.steps(entry), other.steps(entry), strict=False):
        spec = main.program.code[index].spec
        if index != where:
            raise Difference(
                f"engines take different ways: {main.instruction(index)} and {other.instruction(where)}",
                index=index,
                node="",
                element="",
            )
        found = _difference(main, other, cells=spec.changes("cells"), host=spec.changes("host"))
        if found:
            _raise(main, other, index, found)
    if found := _difference(main, other, cells=True, host=True):
        _raise(main, other, main.datapath.index, found)


def cross_check(main: Interpreter, other: Interpreter, entry: str, *, lock_step: bool = False) -> None:
    """Run ``entry`` on ``main``, replay it on ``other`` from the same state, compare state, cycles and events.

    ``main`` ends where an ordinary run would have left it; the counters of ``other`` are those of the replay alone.
    When the ends differ (or with
    ``lock_step``), both are replayed instruction by instruction to find the first difference.

    Raises:
        Difference: the engines disagree.
    """
    if main.program.machine != other.program.machine or len(main.program.code) != len(other.program.code):
        raise SasError("a cross-check needs the same program on both engines")
    before = main.snapshot()
    cycles, events = main.cycles, main.events
    if lock_step:
        _lock_step(main, other, entry, before)
        return
    other.restore(before)
    other.reset_counters()
    main.run(entry)
    other.run(entry)
    if _difference(main, other, cells=True, host=True):
        _lock_step(main, other, entry, before)
    spent = {"cycles": main.cycles - cycles, **{e: n - events[e] for e, n in main.events.items()}}
    replayed = {"cycles": other.cycles, **other.events}
    for what, n in spent.items():
        if n != replayed[what]:
            message = f"engines {main.engine} and {other.engine} count {what} differently: {n} and {replayed[what]}"
            raise Difference(message, index=-1, node="", element=what)
