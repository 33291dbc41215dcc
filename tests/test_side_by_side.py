"""Passes of a loop side by side, on threads with memories of their own, against the same loop interpreted; and loops of which that would be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plans import ENGINES, assert_same, interpreted, plans
from test_runtime import ALL, program, view

from sasimc.isa.errors import Trap
from sasimc.isa.objects import Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Program
from sasimc.runtime.engines.datapath import Datapath
from sasimc.runtime.interpreter import Interpreter

K, N, SIDE = 4, 3, 6
_H = view("h", "host", "u8", (1, SIDE, K), batch=SIDE * K)
_O = view("o", "host", "i32", (1, SIDE, N), addr=4096, batch=4 * SIDE * N)
_E = view("eh", "host", "i8", (1, SIDE, N), addr=8192, batch=SIDE * N)
_X, _D = view("x", "buf", "u8", (1, SIDE, K)), view("d", "buf", "i32", (1, SIDE, N), addr=64)
_Y, _B = view("e", "buf", "i8", (1, SIDE, N), addr=256), view("b", "buf", "u8", (1, SIDE, K), addr=512)
_A, _G = view("a", "acc", "i32", (1, SIDE, N)), view("g", "acc", "i32", (K, 1, N), addr=64)
_W = Matrix("w", "dense", "compute", K, N, "w", False, (Tile(3, 0, 0, 0, 0, K, N),))
_SCRATCH = Matrix("sc", "scratch", "compute", 32, 64, "", False, (Tile(9, 0, 0, 0, 0, 32, 64),))
WEIGHTS = np.random.default_rng(0).integers(-90, 90, (K, N)).astype(np.int8)

NEXT = ("addi", 4, 4, 1)
LOAD, STORE = ("hld", "x", "h", 4, ALL), ("hst", "o", "d", 4, ALL)
PRODUCT, DRAIN = ("vmm", "a", "x", "w", "g1", ALL), ("drain", "d", "a", ALL)
ERROR, GRADIENT = ("hld", "e", "eh", 4, ALL), ("gradp", "g", "x", "e", "sc", "g1", "e", ALL)


def looped(*body: tuple[Any, ...], passes: int = 7, more: tuple[View, ...] = ()) -> Program:
    views, tables = (
        (_H, _O, _E, _X, _D, _Y, _B, _A, _G, *more),
        (Table("t", "loss", {"mult": 900, "t_other": 1000, "t_label": 30768}),),
    )
    matrices, geoms = (_W, _SCRATCH), (Geometry("g1"),)
    code = (("li", 5, 2), ("loopi", passes), *body, ("endl",))
    return program(*code, views=views, matrices=matrices, geoms=geoms, tables=tables, tensors={"w": WEIGHTS})


def ended(p: Program, engine: str, threads: int, fill: dict[str, Any]) -> tuple[Interpreter, str]:
    it = Interpreter(p, engine, threads)
    if threads == 1:
        interpreted(it)
    rng = np.random.default_rng(1)
    for name in ("h", "eh"):
        low, high = p.views[name].limits
        for sample in range(9):
            it.write_view(name, rng.integers(low, high + 1, p.views[name].shape), sample)
    for name, values in fill.items():
        it.write_view(name, values)
    try:
        it.run("main")
    except Trap as exc:
        return it, f"{exc.kind} {exc.index}"
    return it, ""


def alike(p: Program, engine: str, apart: bool, monkeypatch: pytest.MonkeyPatch, **fill: Any) -> Interpreter:
    """Any number of threads ends as the interpreter does; whether passes ran side by side."""
    monkeypatch.setattr("sasimc.runtime.interpreter._MAX_THREADS", 4)
    monkeypatch.setattr(Datapath, "wake_ns", 0)
    monkeypatch.setattr(Datapath, "share_ns", 0)
    other, why = ended(p, engine, 1, fill)
    for threads in (2, 3, 4):
        it, trap = ended(p, engine, threads, fill)
        assert trap == why
        assert_same(it, other)
        assert [any(plan._sides.values()) for plan in plans(it)] == [apart]
    return other


@pytest.mark.parametrize("engine", ENGINES)
def test_samples_that_have_nothing_to_do_with_each_other(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of a pass, the largest range of all, a register that every pass sets anew and one that it moves."""
    body = (LOAD, PRODUCT, DRAIN, ("range", 6, "d", ALL), ("li", 7, 3), ("range", 7, "d", ALL), STORE, NEXT, ("addi", 8, 8, -3))
    it = alike(looped(*body), engine, True, monkeypatch)
    for sample in range(7):
        images = it.read_view("h", sample).astype(np.int64)
        assert np.array_equal(it.read_view("o", sample), images @ WEIGHTS)
    assert (it.regs[4], it.regs[8]) == (7, -21)
    assert it.regs[6] == max(int(np.abs(it.read_view("o", s)).max()).bit_length() for s in range(7))


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_samples_are_added_in_turn(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scratch rows are written again by every pass, and each counts the bits that it flips."""
    it = alike(looped(LOAD, ERROR, GRADIENT, PRODUCT, DRAIN, STORE, NEXT), engine, True, monkeypatch, g=np.full((K, 1, N), 7))
    images = [it.read_view("h", s).astype(np.int64).reshape(-1, K) for s in range(7)]
    errors = [it.read_view("eh", s).astype(np.int64).reshape(-1, N) for s in range(7)]
    expected = 7 + sum(x.T @ e for x, e in zip(images, errors, strict=True))
    assert np.array_equal(it.read_view("g").reshape(K, N), expected)
    twice = looped(LOAD, ERROR, GRADIENT, PRODUCT, DRAIN, ("hld", "x", "h", 8, ALL), GRADIENT, STORE, NEXT)
    alike(twice, engine, True, monkeypatch)


def test_a_sum_that_overflows_in_one_pass_traps_as_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several that fail the first one counts, with all that was there before; sums that are not zero as the loop begins as well."""
    body = (LOAD, ERROR, GRADIENT, PRODUCT, DRAIN, NEXT)
    top = 2**31 - 1
    for first in (top, top - 60_000):
        alike(looped(*body), "fused", True, monkeypatch, g=np.full((K, 1, N), first))
    alike(looped(*body), "fused", True, monkeypatch, a=np.full((1, SIDE, N), 100))
    traps = {ended(looped(*body), "fused", 2, {"g": np.full((K, 1, N), v)})[1] for v in (top, 0)}
    assert traps == {"accumulator overflow 4", ""}


@pytest.mark.parametrize(
    "body",
    [
        (LOAD, PRODUCT, DRAIN, STORE),  # one sample again and again: the last one to write it counts
        (LOAD, ("add", 6, 6, 5), NEXT),  # a register that adds up in a way nobody knows
        (("cpy", "b", "x", 0, ALL), LOAD, NEXT),  # what the pass before has loaded
        (LOAD, ("range", 6, "d", ALL), PRODUCT, DRAIN, STORE, NEXT),  # the range of the pass before
        (LOAD, PRODUCT, DRAIN, ("range", 6, "d", ALL), ("addi", 7, 6, 0), STORE, NEXT),  # a largest value on its way
        (LOAD, PRODUCT, DRAIN, STORE, ("hld", "d", "o", 8, ALL), NEXT),  # another sample's result
    ],
)  # fmt: skip
def test_loops_whose_passes_depend_on_each_other(body: tuple[tuple[Any, ...], ...], monkeypatch: pytest.MonkeyPatch) -> None:
    alike(looped(*body), "fused", False, monkeypatch)
