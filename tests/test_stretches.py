"""Straight code and the loops in it as one plan, against the same program one instruction at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plans import ENGINES, assert_same, interpreted
from test_runtime import ALL, program, view

from sasimc.isa.errors import Trap
from sasimc.isa.objects import Geometry, Matrix, Tile
from sasimc.isa.program import Program
from sasimc.runtime.engines.datapath import Datapath
from sasimc.runtime.interpreter import Interpreter

_X, _A = view("x", "buf", "u8", (4, 1, 2)), view("a", "acc", "i32", (4, 1, 2))
_D, _DELTA = view("d", "buf", "i32", (4, 1, 2), addr=64), view("delta", "buf", "i8", (2, 1, 2), addr=128)
_WORDS, _H = view("l", "host", "i32", (1, 1, 1), batch=4), view("h", "host", "u8", (4, 1, 2), addr=400, batch=8)
_W = Matrix("w", "dense", "compute", 2, 2, "w", True, (Tile(3, 0, 0, 0, 0, 2, 2),))
PRODUCT, UPDATE, LOAD = ("vmm", "a", "x", "w", "g", ALL), ("wupc", "w", "delta", 0, ALL), ("hld", "x", "h", 4, ALL)
DRAIN, NEXT, END = ("drain", "d", "a", ALL), ("addi", 4, 4, 1), ("endl",)


def made(*code: tuple[Any, ...]) -> Program:
    tensors = {"w": np.array([[90, -3], [5, 100]], np.int8)}
    return program(*code, views=(_X, _A, _D, _DELTA, _WORDS, _H), matrices=(_W,), geoms=(Geometry("g"),), tensors=tensors)


def ended(p: Program, engine: str, threads: int, limit: int | None, fill: dict[str, Any]) -> tuple[Interpreter, list[str]]:
    it, ends = Interpreter(p, engine, threads), []
    if threads == 1:
        interpreted(it)
    for sample in range(3):
        it.write_view("h", [5 + sample, 1, 2, 3, 4, 250, 6, 7], sample)
    for name, values in {"delta": [3, -100, 0, 0], **fill}.items():
        it.write_view(name, values)
    for _ in range(2):
        try:
            it.run("main", limit)
            ends.append("")
        except Trap as exc:
            ends.append(f"{exc} {it.counters.selected}")
    return it, ends


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("code", "whole", "fill"),
    [
        # phases and regions that begin before a loop and end behind it; numbers in registers that a loop moves
        ((("li", 1, 3), ("phase", "error"), ("ovl",), ("li", 4, 0), ("loop", 1), LOAD, PRODUCT, DRAIN, ("range", 6, "d", ALL), NEXT, END, ("sync",),
          ("addi", 4, 4, -2), LOAD, ("phase", "gradient"), PRODUCT, DRAIN), True, {}),
        # weights that the code has changed are prepared again
        ((PRODUCT, UPDATE, PRODUCT, ("loopi", 2), PRODUCT, UPDATE, END, PRODUCT, DRAIN), False, {}),
        # a number of passes that stands in host memory
        ((("ldw", 6, "l", 0), PRODUCT, DRAIN, ("loop", 6), PRODUCT, DRAIN, END, ("li", 7, 0), ("loop", 7), NEXT, END, PRODUCT), False, {"l": [2]}),
        # an instruction in two phases
        ((("loopi", 2), PRODUCT, END, ("phase", "update"), PRODUCT, DRAIN, ("phase", "forward"), PRODUCT, DRAIN), True, {}),
        # sums that overflow: in straight code, in a loop's second pass
        ((PRODUCT, DRAIN, ("phase", "error"), PRODUCT, PRODUCT), True, {"x": [255] * 8, "a": [2**31 - 26_000] * 8}),
        ((NEXT, ("phase", "error"), ("ovl",), ("loopi", 3), PRODUCT, END, ("sync",)), True, {"x": [255] * 8, "a": [2**31 - 40_000] * 8}),
        # a sample outside of host memory, behind code that is all right
        ((("li", 4, -1), PRODUCT, DRAIN, LOAD, PRODUCT), False, {}),
    ],
)  # fmt: skip
def test_ends_as_interpreted(
    code: tuple[tuple[Any, ...], ...], whole: bool, fill: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``whole``: all of the program up to its end is one stretch."""
    monkeypatch.setattr("sasimc.runtime.interpreter._MAX_THREADS", 2)
    monkeypatch.setattr(Datapath, "wake_ns", 0)
    monkeypatch.setattr(Datapath, "share_ns", 0)
    p = made(*code)
    for limit in (None, 7):
        (it, ends), (other, expected) = (ended(p, engine, threads, limit, fill) for threads in (2, 1))
        assert ends == expected
        assert_same(it, other)
        stretches = [s for known in it._stretches.values() for s in known if s.length]
        assert any(s.end > len(code) for s in it._stretches[0]) == whole
        assert stretches
