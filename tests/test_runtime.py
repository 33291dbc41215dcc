"""State, control, movement, periphery, traps, counters and cross-checks of the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sasimc.isa import instructions  # noqa: F401
from sasimc.isa.errors import SasError, Trap
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.objects import Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Instr, Origin, Program
from sasimc.isa.spec import EVENTS, TABLE, RowRange
from sasimc.runtime.crosscheck import Difference, cross_check
from sasimc.runtime.engines import step
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernel import ONES

ALL = RowRange(0, 0, 1000)


def view(name: str, space: str, dtype: str, shape: tuple[int, int, int], addr: int = 0, **more: int) -> View:
    row, pix, chan = View.dense_strides(space, dtype, shape)
    return View(name, space, dtype, shape, addr, **{"row": row, "pix": pix, "chan": chan, **more})


def program(
    *code: tuple[Any, ...], views: tuple[View, ...] = (), geoms: tuple[Geometry, ...] = (), matrices: tuple[Matrix, ...] = (),
    tables: tuple[Table, ...] = (), tensors: dict[str, np.ndarray] | None = None, machine: Machine | None = None,
    halt: bool = True,
) -> Program:  # fmt: skip
    lines = [*code, ("halt",)] if halt else list(code)
    return Program(
        machine or load_machine(),
        tuple(Instr(TABLE[c[0]], tuple(c[1:]), Origin("/net/conv1", "test"), i + 1) for i, c in enumerate(lines)),
        {v.name: v for v in views}, {g.name: g for g in geoms}, {m.name: m for m in matrices}, {t.name: t for t in tables},
        {"main": 0}, tensors=tensors or {}, source="test.s",
    )  # fmt: skip


def run(p: Program, fill: dict[str, Any] | None = None, engine: str = "fused", **kwargs: Any) -> Interpreter:
    it = Interpreter(p, engine)
    for name, values in (fill or {}).items():
        it.write_view(name, values)
    it.run("main", **kwargs)
    return it


def small(**sections: dict[str, Any]) -> Machine:
    data = load_machine().model_dump()
    for name, fields in sections.items():
        data[name] |= fields
    return Machine.model_validate(data)


def rne(v: np.ndarray, s: Any) -> np.ndarray:
    """v / 2^s, ties to even, by exact rationals."""
    s = np.asarray(s)
    low, scale = v >> s, np.int64(1) << s
    rest = 2 * (v - low * scale)
    return low + ((rest > scale) | ((rest == scale) & (low % 2 == 1)))


# ------------------------------------------------------------------------------------------------------------ control


def test_registers_and_arithmetic() -> None:
    it = run(
        program(
            ("li", 1, 7),
            ("li", 2, -3),
            ("add", 3, 1, 2),
            ("sub", 4, 2, 1),
            ("max", 5, 1, 2),
            ("min", 6, 1, 2),
            ("addi", 7, 1, 2**31 - 1),
        )
    )
    assert it.regs[1:8] == [7, -3, 4, -10, 7, -3, -(2**31) + 6]


def test_register_zero_stays_zero() -> None:
    assert run(program(("li", 0, 5), ("addi", 1, 0, 4))).regs[:2] == [0, 4]


def test_nested_loops_and_skipped_body() -> None:
    p = program(
        ("loopi", 3), ("li", 2, 4), ("loop", 2), ("addi", 1, 1, 1), ("endl",), ("loopi", 0), ("addi", 1, 1, 100), ("endl",),
        ("endl",), ("loop", 0), ("addi", 1, 1, 1000), ("endl",),
    )  # fmt: skip
    it = run(p)
    assert it.regs[1] == 12
    assert it.instruction_cycles[3] == (12, 12)
    assert 6 not in it.instruction_cycles


def test_phases_keep_their_own_counts() -> None:
    it = run(program(("sync",), ("phase", "error"), ("sync",), ("sync",), ("phase", "update")))
    assert it.phase_cycles == {"forward": 2, "error": 3, "gradient": 0, "update": 1}
    assert sum(it.phase_cycles.values()) == it.cycles
    assert set(it.events) == set(EVENTS)
    it.reset_counters()
    assert it.cycles == 0
    assert not any(it.events.values())


# ----------------------------------------------------------------------------------------------------------- movement


def test_rows_are_clipped_and_empty_ranges_only_issue() -> None:
    v = view("v", "buf", "u8", (5, 2, 3))
    it = run(program(("fill", "v", 9, RowRange(0, -2, 4)), ("li", 1, 9), ("fill", "v", 1, RowRange(1, 0, 4)), views=(v,)))
    assert (it.read_view("v")[:2] == 9).all()
    assert not it.read_view("v")[2:].any()
    assert it.instruction_cycles[2] == (1, it.machine.controller.issue_cycles)
    assert it.events["buffer_bits_written"] == 2 * 6 * 8
    assert it.events["instructions"] == 4


def test_host_samples_ring_and_transposed_copy() -> None:
    host = view("h", "host", "i8", (4, 3, 2), addr=8, batch=100)
    ring = view("r", "buf", "i8", (4, 3, 2), addr=64, ring=2)
    src, dst = view("s", "buf", "i8", (1, 3, 2), addr=200), view("d", "buf", "i8", (1, 2, 3), addr=232)
    transposed = replace(src, name="t", shape=(1, 2, 3), pix=1, chan=2)
    out = view("o", "host", "i8", (4, 3, 2), addr=1000, batch=32)
    p = program(
        ("li", 1, 3), ("hld", "r", "h", 1, RowRange(0, 0, 4)), ("hst", "o", "r", 1, ALL), ("cpy", "d", "t", 0, ALL),
        views=(host, ring, src, dst, transposed, out),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    data, s = rng.integers(-128, 128, (4, 3, 2)), rng.integers(-128, 128, (1, 3, 2))
    it = Interpreter(p)
    it.write_view("h", data, 3)
    it.write_view("s", s)
    it.run("main")
    assert np.array_equal(it.read_view("r", stale=True), data[[2, 3, 2, 3]])
    assert np.array_equal(it.read_view("o", 3), data[[2, 3, 2, 3]])
    assert not it.read_view("o", 2).any()
    assert np.array_equal(it.read_view("d")[0], s[0].T)
    assert it.events["host_bits_in"] == it.events["host_bits_out"] == 4 * 6 * 8


def test_words_and_bits() -> None:
    w = view("w", "host", "i32", (1, 1, 1), addr=16, batch=4)
    mask, q = view("m", "buf", "bit", (3, 3, 5)), view("q", "buf", "u8", (3, 3, 5), addr=100)
    hm = view("hm", "host", "bit", (3, 3, 5), addr=400)
    t = Table("t", "mask", {"lo": 3, "hi": 200, "use_lo": 1, "use_hi": 1})
    p = program(
        ("ldw", 2, "w", 1), ("li", 1, 5), ("stw", "w", 2, 1), ("mask", "m", "q", "t", ALL), ("hst", "hm", "m", 0, ALL),
        views=(w, mask, q, hm), tables=(t,),
    )  # fmt: skip
    data = np.random.default_rng(2).integers(0, 256, (3, 3, 5))
    it = Interpreter(p)
    it.write_view("w", [[[-77]]])
    it.write_view("q", data)
    it.run("main")
    assert it.read_view("w", 5)[0, 0, 0] == -77
    assert np.array_equal(it.read_view("m"), (data > 3) & (data < 200))
    assert np.array_equal(it.read_view("hm"), it.read_view("m"))


# ---------------------------------------------------------------------------------------------------------- periphery


def test_requantise_bias_drain_clip() -> None:
    rng = np.random.default_rng(3)
    acc, dst, wide = (
        view("a", "acc", "i32", (3, 4, 5), addr=10),
        view("d", "buf", "i8", (3, 4, 5)),
        view("w", "buf", "i32", (3, 4, 5), addr=64),
    )
    low = view("c", "buf", "i8", (3, 4, 5), addr=1000)
    mult, shift, bias = rng.integers(1 << 30, 1 << 31, 5), rng.integers(38, 46, 5), rng.integers(-900, 900, 5)
    t = Table(
        "t",
        "requant",
        {"zero": 3, "lo": -100, "hi": 90},
        {"bias": tuple(bias.tolist()), "mult": tuple(mult.tolist()), "shift": tuple(shift.tolist())},
    )
    sums = rng.integers(-40_000, 40_000, (3, 4, 5))
    views, tables = (acc, dst, wide, low), (t,)
    it = run(program(("req", "d", "a", "t", ALL), ("clip", "c", "d", -20, 30, ALL), views=views, tables=tables), {"a": sums})
    expected = np.clip(rne((sums + bias) * mult, shift) + 3, -100, 90)
    assert np.array_equal(it.read_view("d"), expected)
    assert np.array_equal(it.read_view("c"), np.clip(expected, -20, 30))
    assert not it.read_view("a").any()
    it = run(program(("bias", "a", "t", ALL), ("drain", "w", "a", ALL), views=views, tables=tables), {"a": sums})
    assert np.array_equal(it.read_view("w"), sums + bias)
    assert not it.read_view("a").any()


def test_additions() -> None:
    rng = np.random.default_rng(4)
    a, b = view("a", "buf", "u8", (2, 3, 4)), view("b", "buf", "i8", (2, 3, 4), addr=32)
    d, w = view("d", "buf", "u8", (2, 3, 4), addr=64), view("w", "buf", "i32", (2, 3, 4), addr=128)
    e = view("e", "buf", "i8", (2, 3, 4))
    ints = {"ma": 1 << 29, "mb": -(1 << 30) + 5, "shift": 30, "za": 4, "zb": -6, "zy": 7, "lo": 2, "hi": 250}
    x, y = rng.integers(0, 256, (2, 3, 4)), rng.integers(-128, 128, (2, 3, 4))
    it = run(
        program(("addq", "d", "a", "b", "t", ALL), views=(a, b, d), tables=(Table("t", "addq", ints),)),
        {"a": x, "b": y},
    )
    expected = np.clip(rne((x - 4) * ints["ma"] + (y + 6) * ints["mb"], 30) + 7, 2, 250)
    assert np.array_equal(it.read_view("d"), expected)
    for ea, eb in ((3, 5), (5, 3), (0, 0), (60, -5)):
        it = run(
            program(("li", 1, ea), ("li", 2, eb), ("adda", "w", "e", "b", 1, 2, ALL), views=(e, b, w)),
            {"e": y[::-1], "b": y},
        )
        top = max(ea, eb)
        parts = [rne(v.astype(np.int64) << 8, top - s) if top - s <= 30 else 0 * v for v, s in ((y[::-1], ea), (y, eb))]
        assert np.array_equal(it.read_view("w"), parts[0] + parts[1])


def windows(geom: Geometry, h: int, w: int, ho: int, wo: int) -> Callable[[], Any]:
    def each() -> Any:
        for oy in range(ho):
            for ox in range(wo):
                for ky in range(geom.kernel[0]):
                    for kx in range(geom.kernel[1]):
                        y, x = oy * geom.stride[0] - geom.pad[0] + ky, ox * geom.stride[1] - geom.pad[1] + kx
                        yield oy, ox, y, x, 0 <= y < h and 0 <= x < w

    return each


def test_pools_and_their_backward() -> None:
    rng = np.random.default_rng(5)
    geom = Geometry("g", (3, 2), (2, 2), (1, 1))
    h, w, c, ho, wo = 7, 6, 3, 4, 3
    x, e = rng.integers(-5, 6, (h, w, c)), rng.integers(-128, 128, (ho, wo, c))
    views = (
        view("x", "buf", "i8", (h, w, c), pad=-4), view("d", "buf", "i8", (ho, wo, c), addr=200),
        view("e", "buf", "i8", (ho, wo, c), addr=400),
        view("o", "acc", "i32", (ho, wo, c)), view("i", "acc", "i32", (h, w, c), addr=500),
        view("j", "acc", "i32", (h, w, c), addr=1000),
    )  # fmt: skip
    p = program(
        ("pavg", "o", "x", "g", RowRange(0, 0, 3)), ("pavg", "o", "x", "g", RowRange(0, 3, 3)), ("pavgt", "i", "e", "g", ALL),
        ("pmax", "d", "x", "g", ALL), ("pmaxt", "j", "e", "x", "g", ALL), views=views, geoms=(geom,),
    )  # fmt: skip
    it = run(p, {"x": x, "e": e})
    total, back = np.zeros((ho, wo, c), int), np.zeros((h, w, c), int)
    best, first = np.full((ho, wo, c), -999), np.zeros((ho, wo, c, 2), int)
    for oy, ox, y, xx, inside in windows(geom, h, w, ho, wo)():
        total[oy, ox] += x[y, xx] if inside else -4
        if inside:
            back[y, xx] += e[oy, ox]
            better = x[y, xx] > best[oy, ox]
            best[oy, ox][better] = x[y, xx][better]
            first[oy, ox][better] = (y, xx)
    routed = np.zeros((h, w, c), int)
    for oy, ox, ch in np.ndindex(ho, wo, c):
        routed[(*first[oy, ox, ch], ch)] += e[oy, ox, ch]
    for name, expected in (("o", total), ("i", back), ("d", best), ("j", routed)):
        assert np.array_equal(it.read_view(name), expected), name


@pytest.mark.parametrize("mode", ["linear2", "nearest"])
def test_resampling_is_a_matrix_and_its_transpose(mode: str) -> None:
    rng = np.random.default_rng(6)
    (h, w), (ho, wo) = (3, 4), (6, 8) if mode == "linear2" else (7, 5)

    def axis(n: int, out: int) -> np.ndarray:
        m = np.zeros((out, n), int)
        for i in range(out):
            if mode == "nearest":
                m[i, i * n // out] = 1
            else:
                m[i, i // 2] += 3
                m[i, min(n - 1, max(0, i // 2 + (1 if i % 2 else -1)))] += 1
        return m

    ys, xs = axis(h, ho), axis(w, wo)
    views = (
        view("x", "buf", "u8", (h, w, 2)), view("e", "buf", "i8", (ho, wo, 2), addr=100),
        view("o", "acc", "i32", (ho, wo, 2)), view("i", "acc", "i32", (h, w, 2), addr=500),
    )  # fmt: skip
    x, e = rng.integers(0, 256, (h, w, 2)), rng.integers(-128, 128, (ho, wo, 2))
    p = program(("ups", "o", "x", "g", ALL), ("upst", "i", "e", "g", ALL), views=views, geoms=(Geometry("g", mode=mode),))
    it = run(p, {"x": x, "e": e})
    assert np.array_equal(it.read_view("o"), np.einsum("ay,bx,yxc->abc", ys, xs, x))
    assert np.array_equal(it.read_view("i"), np.einsum("ay,bx,abc->yxc", ys, xs, e))


def test_errors_masks_ranges_shifts_rounding() -> None:
    rng = np.random.default_rng(7)
    v, m = view("v", "buf", "i32", (2, 3, 4)), view("m", "buf", "bit", (2, 3, 4), addr=100)
    w, d = view("w", "buf", "i32", (2, 3, 4), addr=128), view("d", "buf", "i8", (2, 3, 4), addr=300)
    r, e8 = view("r", "buf", "i8", (2, 3, 4), addr=330), view("e8", "buf", "i8", (2, 3, 4), addr=360)
    u = view("u", "buf", "i32", (2, 3, 4), addr=400)
    k = tuple(int(n) for n in rng.integers(16_000, 32_769, 4))
    values, bits, small_ = (
        rng.integers(-90_000, 90_000, (2, 3, 4)),
        rng.integers(0, 2, (2, 3, 4)),
        rng.integers(-128, 128, (2, 3, 4)),
    )
    p = program(
        ("emask", "w", "v", "m", ALL), ("range", 1, "w", ALL), ("addi", 2, 1, -7), ("shr8", "d", "w", 2, ALL),
        ("escale", "w", "w", "k", ALL), ("addi", 3, 1, -5), ("psr", "r", "v", 3, ALL), ("escale", "u", "e8", "k", ALL),
        views=(v, m, w, d, r, e8, u), tables=(Table("k", "scale", {}, {"k": k}),),
    )  # fmt: skip
    it = run(p, {"v": values, "m": bits, "e8": small_})
    masked = values * bits
    b = int(np.abs(masked).max()).bit_length()
    assert it.regs[1] == b
    assert np.array_equal(it.read_view("d"), np.clip(rne(masked, b - 7), -127, 127))
    assert np.array_equal(it.read_view("w"), rne(masked * np.array(k), 15))
    assert np.array_equal(it.read_view("u"), rne(small_ * np.array(k), 15))
    sh = b - 5
    size, h = np.abs(values), sh >> 1
    rest = size & ((1 << sh) - 1)
    up = (rest >> h) > ((rest & ((1 << h) - 1)) << (sh & 1))
    assert np.array_equal(it.read_view("r"), np.sign(values) * np.minimum((size >> sh) + up, 127))


@pytest.mark.parametrize("classes", [1, 2, 17, 200])
def test_cross_entropy_and_argmax(classes: int) -> None:
    rng = np.random.default_rng(classes)
    q, d = view("q", "buf", "i8", (1, 1, classes)), view("d", "buf", "i32", (1, 1, classes), addr=256)
    other = 3276 // classes
    t = Table("t", "loss", {"mult": 700, "t_other": other, "t_label": 32768 - (classes - 1) * other})
    logits = rng.integers(-100, 100, classes)
    label = classes // 2
    it = run(
        program(("li", 1, label), ("xent", "d", "q", "t", 1, 2), ("argmax", 3, "q"), views=(q, d), tables=(t,)),
        {"q": logits},
    )
    size = [(int(logits.max()) - int(v)) * 700 for v in logits]
    p = [(32768 - ((t % 4096 * (2751 - ((703 * (t % 4096)) >> 12))) >> 9)) >> (t // 4096) if t < 65536 else 0 for t in size]
    errors = [(v * 32768 + sum(p) // 2) // sum(p) - (t.ints["t_label"] if i == label else other) for i, v in enumerate(p)]
    errors[label] -= sum(errors)
    digits = sum(p).bit_length() - 1
    assert it.regs[2] == min(size[label], 65536) + digits * 4096 + (sum(p) * 4096 >> digits) - 4096 - 61440
    assert it.read_view("d").reshape(-1).tolist() == errors
    assert it.read_view("d").sum() == 0
    assert it.regs[3] == int(np.argmax(logits))


# ------------------------------------------------------------------------------------------------------- array memory


def stored(
    k: int = 6, n: int = 5, *, trainable: bool = True, tensor: str = "w", array: str = "transposable", name: str = "w"
) -> Matrix:
    tiles = [Tile(40 + c, 2, 3, 0, 0, k, n - 2, c) for c in (0, 1)] + [Tile(44 + c, 0, 0, 0, n - 2, k, 2, c) for c in (0, 1)]
    return Matrix(name, "dense", array, k, n, tensor, trainable, tuple(tiles))


def test_row_read_write_update_and_flips() -> None:
    rng = np.random.default_rng(8)
    w = rng.integers(-127, 128, (6, 5)).astype(np.int8)
    s, d, r = (
        view("s", "buf", "i8", (6, 1, 5)),
        view("d", "buf", "i8", (6, 1, 2), addr=64),
        view("r", "buf", "i8", (6, 1, 5), addr=128),
    )
    p = program(
        ("wrr", "w", "s", RowRange(0, 1, 2)), ("wupd", "w", "d", 2, ALL), ("rdr", "r", "w", ALL),
        views=(s, d, r), matrices=(stored(),), tensors={"w": w},
    )  # fmt: skip
    new, delta = rng.integers(-128, 128, (6, 1, 5)), rng.integers(-128, 128, (6, 1, 2))
    it = run(p, {"s": new, "d": delta})
    mid = w.copy()
    mid[1:3] = new[1:3, 0]
    end = mid.astype(int)
    end[:, 2:4] = np.clip(end[:, 2:4] - delta[:, 0], -127, 127)
    assert np.array_equal(it.read_matrix("w"), end)
    assert np.array_equal(it.read_view("r")[:, 0], end)
    flips = sum(
        int(np.bitwise_count(a.view(np.uint8) ^ b.view(np.uint8)).sum()) for a, b in ((w, mid), (mid, end.astype(np.int8)))
    )
    assert it.events["bits_flipped_transposable"] == 2 * flips  # two copies
    assert it.events["bits_flipped_compute"] == 0
    assert it.events["bits_written_transposable"] == 2 * 8 * (2 * 5 + 6 * 2)


@pytest.mark.parametrize("engine", ["bitserial", "fused", "step"])
def test_writes_reach_the_next_product(engine: str) -> None:
    """Prepared weights are rebuilt after an update, also those of another matrix that shares the cells."""
    w = np.ones((6, 5), np.int8)
    alias = replace(stored(name="alias", tensor=""), tiles=tuple(replace(t) for t in stored().tiles))
    views = (
        view("x", "buf", "u8", (1, 1, 6)),
        view("d", "buf", "i8", (6, 1, 5), addr=64),
        view("a", "acc", "i32", (1, 1, 5)),
        view("b", "acc", "i32", (1, 1, 5), addr=8),
    )
    p = program(
        ("vmm", "a", "x", "w", "g", ALL), ("vmm", "b", "x", "alias", "g", ALL), ("wupd", "w", "d", 0, ALL),
        ("vmm", "a", "x", "w", "g", ALL), ("vmm", "b", "x", "alias", "g", ALL),
        views=views, matrices=(stored(), alias), tensors={"w": w}, geoms=(Geometry("g"),),
    )  # fmt: skip
    it = run(p, {"x": np.arange(6), "d": np.full((6, 1, 5), 3)}, engine)
    assert (it.read_view("a") == 15 - 30).all()
    assert (it.read_view("b") == 15 - 30).all()


# -------------------------------------------------------------------------------------------------------------- traps

_V = (view("x", "buf", "u8", (2, 2, 6)), view("a", "acc", "i32", (2, 2, 5)), view("d", "buf", "i8", (6, 1, 5), addr=64))
_G = (Geometry("g"),)


def trap_of(p: Program, engine: str = "fused", fill: dict[str, Any] | None = None, **kwargs: Any) -> Trap:
    with pytest.raises(Trap) as caught:
        run(p, fill, engine, **kwargs)
    return caught.value


@pytest.mark.parametrize("engine", ["bitserial", "fused", "step"])
def test_trap_uninitialised_rows(engine: str) -> None:
    p = program(("vmm", "a", "x", "w", "g", ALL), views=_V, geoms=_G, matrices=(stored(tensor=""),))
    t = trap_of(p, engine)
    assert (t.kind, t.index, t.line, t.node) == ("uninitialised rows", 0, 1, "/net/conv1")
    assert "sub-array 40" in str(t)
    assert "vmm a, x, w, g" in str(t)
    assert "test.s:1" in str(t)
    p = program(
        ("wrr", "w", "d", RowRange(0, 0, 3)),
        ("wupd", "w", "d", 0, RowRange(0, 2, 2)),
        views=_V,
        geoms=_G,
        matrices=(stored(tensor=""),),
    )
    assert trap_of(p, engine).index == 1
    p = program(("wrr", "w", "d", ALL), ("vmm", "a", "x", "w", "g", ALL), views=_V, geoms=_G, matrices=(stored(tensor=""),))
    run(p, None, engine)


@pytest.mark.parametrize("engine", ["bitserial", "fused", "step"])
@pytest.mark.parametrize("mnemonic", ["vmm", "vmmt", "gradp", "dwm", "pavg"])
def test_trap_accumulator_overflow(mnemonic: str, engine: str) -> None:
    x, e = view("x", "buf", "u8", (1, 1, 2)), view("e", "buf", "i8", (1, 1, 2), addr=16)
    acc, g = view("a", "acc", "i32", (1, 1, 2)), view("g", "acc", "i32", (2, 1, 2), addr=8)
    w = Matrix("w", "dense", "transposable", 2, 2, "w", True, (Tile(3, 0, 0, 0, 0, 2, 2),))
    k = Matrix("k", "depthwise", "compute", 2, 1, "k", False, (Tile(5, 0, 0, 0, 0, 2, 1),))
    s = Matrix("s", "scratch", "compute", 4, 4, "", False, (Tile(9, 0, 0, 0, 0, 4, 4),))
    code = {
        "vmm": ("vmm", "a", "x", "w", "g", ALL), "vmmt": ("vmmt", "a", "e", "w", "g", ALL),
        "gradp": ("gradp", "g", "x", "e", "s", "g", "e", ALL),
        "dwm": ("dwm", "a", "x", "k", "g", ALL), "pavg": ("pavg", "a", "x", "g", ALL),
    }[mnemonic]  # fmt: skip
    tensors = {"w": np.ones((2, 2), np.int8), "k": np.ones((2, 1), np.int8)}
    p = program(code, views=(x, e, acc, g), matrices=(w, k, s), tensors=tensors, geoms=_G)
    top = 2**31 - 1
    fill = {"x": [1, 0], "e": [1, 0], "a": [top, top], "g": [top, top, top, top]}
    assert trap_of(p, engine, fill).kind == "accumulator overflow"
    run(p, {**fill, "a": [-top, -top], "g": [-top] * 4}, engine)


def test_trap_bias_and_escale_overflow() -> None:
    t = Table("t", "requant", {"zero": 0, "lo": 0, "hi": 9}, {"bias": (1,), "mult": (1,), "shift": (1,)})
    a = view("a", "acc", "i32", (1, 1, 1))
    assert (
        trap_of(program(("bias", "a", "t", ALL), views=(a,), tables=(t,)), fill={"a": [2**31 - 1]}).kind == "accumulator overflow"
    )
    v, k = view("v", "buf", "i32", (1, 1, 1)), Table("k", "scale", {}, {"k": (1 << 17,)})
    assert (
        trap_of(program(("escale", "v", "v", "k", ALL), views=(v,), tables=(k,)), fill={"v": [1 << 30]}).kind == "escale overflow"
    )


def test_trap_out_of_range() -> None:
    beyond = view("v", "buf", "u8", (2, 2, 2), addr=load_machine().buffer.bytes - 7)
    assert trap_of(program(("fill", "v", 1, ALL), views=(beyond,))).kind == "out of range"
    h, b = view("h", "host", "u8", (1, 1, 8), batch=8), view("b", "buf", "u8", (1, 1, 8))
    for index in (-1, 2**31 - 1):
        t = trap_of(program(("li", 1, index), ("hld", "b", "h", 1, ALL), views=(h, b)))
        assert (t.kind, t.index) == ("out of range", 1)
    s, d = view("s", "buf", "u8", (4, 1, 1)), view("d", "buf", "u8", (2, 1, 1), addr=9)
    assert trap_of(program(("cpy", "d", "s", 0, ALL), views=(s, d))).kind == "out of range"
    run(program(("cpy", "d", "s", -2, RowRange(0, 2, 2)), views=(s, d)))
    tile = Matrix("w", "dense", "compute", 2, 2, "", False, (Tile(5000, 0, 0, 0, 0, 2, 2),))
    with pytest.raises(SasError, match="sub-array 5000"):
        Interpreter(program(matrices=(tile,)))


def test_trap_label_loops_and_end_of_code() -> None:
    q, d = view("q", "buf", "i8", (1, 1, 3)), view("d", "buf", "i32", (1, 1, 3), addr=16)
    t = Table("t", "loss", {"mult": 1, "t_other": 0, "t_label": 32768})
    assert trap_of(program(("li", 1, 3), ("xent", "d", "q", "t", 1, 2), views=(q, d), tables=(t,))).kind == "label out of range"
    depth = load_machine().controller.loop_depth
    nested = [("loopi", 2)] * (depth + 1) + [("endl",)] * (depth + 1)
    assert trap_of(program(*nested)).index == depth
    run(program(*nested[1:-1]))
    assert trap_of(program(("loopi", 2), halt=False)).kind == "loop depth"
    assert trap_of(program(("endl",))).kind == "loop depth"
    assert trap_of(program(("sync",), halt=False)).kind == "end of code"
    assert trap_of(program(("loopi", 1 << 30), ("sync",), ("endl",)), max_instructions=1000).kind == "instruction limit"


def test_illegal_operands_are_refused_before_running() -> None:
    frozen = program(
        ("wrr", "w", "d", ALL), views=_V, matrices=(stored(trainable=False),), tensors={"w": np.zeros((6, 5), np.int8)}
    )
    assert "frozen" in str(trap_of(frozen))
    wrong = program(
        ("vmm", "a", "d", "w", "g", ALL),
        views=_V,
        geoms=_G,
        matrices=(stored(),),
        tensors={"w": np.zeros((6, 5), np.int8)},
    )
    assert trap_of(wrong).kind == "illegal operands"
    assert "no view" in str(trap_of(program(("fill", "nothing", 1, ALL))))
    odd = Matrix("w", "dense", "compute", 2, 2, "", False, (Tile(1, 0, 0, 0, 0, 2, 1),))
    with pytest.raises(SasError, match="stands in no tile"):
        Interpreter(program(matrices=(odd,)))
    uneven = Matrix(
        "w",
        "dense",
        "compute",
        2,
        1,
        "",
        False,
        (Tile(1, 0, 0, 0, 0, 2, 1), Tile(2, 0, 0, 0, 0, 1, 1, 1), Tile(3, 0, 0, 1, 0, 1, 1, 1)),
    )
    with pytest.raises(SasError, match="other tiles than copy 0"):
        Interpreter(program(matrices=(uneven,)))


def test_api_errors() -> None:
    p = program(views=_V)
    with pytest.raises(SasError, match="did you mean 'fused'"):
        Interpreter(p, "fussed")
    it = Interpreter(p)
    with pytest.raises(SasError, match="entry point"):
        it.run("mian")
    with pytest.raises(SasError, match="no view"):
        it.read_view("y")
    with pytest.raises(SasError, match=r"\(2, 2, 6\)"):
        it.write_view("x", np.zeros(3, int))
    with pytest.raises(SasError, match="values"):
        it.write_view("x", np.full((2, 2, 6), 256))
    with pytest.raises(SasError, match="integers"):
        it.write_view("x", np.zeros((2, 2, 6)))
    hosted = Interpreter(program(views=(view("h", "host", "u8", (1, 1, 8), batch=8),)))
    with pytest.raises(SasError, match="too small"):
        hosted.read_view("h", 1 << 40)


# ------------------------------------------------------------------------------------------------------- cross-checks


def two_layers() -> tuple[Program, np.ndarray]:
    rng = np.random.default_rng(9)
    mid = view("mid", "buf", "u8", (2, 2, 5), addr=128)
    second = Matrix("v", "dense", "compute", 5, 4, "v", False, (Tile(60, 0, 0, 0, 0, 5, 4),))
    t = Table("t", "requant", {"zero": 0, "lo": 0, "hi": 255}, {"bias": (0,) * 5, "mult": (1 << 30,) * 5, "shift": (36,) * 5})
    out = view("out", "acc", "i32", (2, 2, 4), addr=100)
    p = program(
        ("vmm", "a", "x", "w", "g", ALL), ("req", "mid", "a", "t", ALL), ("vmm", "out", "mid", "v", "g", ALL),
        views=(*_V, mid, out), geoms=_G, matrices=(stored(), second), tables=(t,),
        tensors={"w": rng.integers(-127, 128, (6, 5)).astype(np.int8), "v": rng.integers(-127, 128, (5, 4)).astype(np.int8)},
    )  # fmt: skip
    return p, rng.integers(0, 256, (2, 2, 6))


def test_cross_check_agrees_and_keeps_the_main_run() -> None:
    p, x = two_layers()
    main, other = Interpreter(p, "bitserial"), Interpreter(p, "step")
    main.write_view("x", x)
    cross_check(main, other, "main")
    alone = run(p, {"x": x}, "bitserial")
    assert np.array_equal(main.read_view("out"), alone.read_view("out"))
    assert main.cycles == alone.cycles
    cross_check(main, other, "main", lock_step=True)


def spoiled(it: Interpreter, number: int, spoil: Callable[[], None]) -> Interpreter:
    """An interpreter that does something wrong after an instruction."""
    right = it.datapath.execute

    def execute(index: int, r0: int, r1: int) -> None:
        right(index, r0, r1)
        if index == number:
            spoil()

    it.datapath.execute = execute  # type: ignore[method-assign]
    it._together = False  # what runs as one plan does not come by there
    return it


def test_cross_check_names_the_first_difference() -> None:
    p, x = two_layers()
    main, other = Interpreter(p, "bitserial"), Interpreter(p, "fused")
    main.write_view("x", x)
    out = p.views["out"]

    def spoil() -> None:
        other.state.acc[out.addr + out.row + 2] += 1  # row 1, pixel 0, channel 2

    with pytest.raises(Difference) as caught:
        cross_check(main, spoiled(other, 2, spoil), "main")
    assert (caught.value.index, caught.value.node) == (2, "/net/conv1")
    assert "element (1, 0, 2) of out" in caught.value.element
    assert "vmm out, mid, v, g" in str(caught.value)


def test_cross_check_looks_at_cells_whatever_writes_them() -> None:
    """Every instruction that writes cells, whichever it is: the first difference is named there, not at the end."""
    writers = [spec for spec in TABLE.values() if spec.changes("cells")]
    assert {"wrr", "wupd", "wupc", "gradp", "gradd"} <= {spec.mnemonic for spec in writers}
    views = (view("d", "buf", "i8", (6, 1, 5)),)
    p = program(("wupc", "w", "d", 0, ALL), ("sync",), views=views, matrices=(stored(),), tensors={"w": np.ones((6, 5), np.int8)})
    main, other = Interpreter(p, "bitserial"), Interpreter(p, "fused")
    tile = p.matrices["w"].tiles[0]

    def spoil() -> None:
        other.state.cells[tile.subarray, tile.row, tile.col] ^= 1

    with pytest.raises(Difference, match="weight") as caught:
        cross_check(main, spoiled(other, 0, spoil), "main")
    assert caught.value.index == 0


def test_cross_check_compares_counters() -> None:
    p, x = two_layers()
    main, other = Interpreter(p, "bitserial"), Interpreter(p, "fused")
    main.write_view("x", x)

    def spoil() -> None:
        other.datapath.counts[0, ONES] += 1

    with pytest.raises(Difference, match="sense_ones"):
        cross_check(main, spoiled(other, 0, spoil), "main")


def test_snapshot_restores_everything() -> None:
    p, x = two_layers()
    it = Interpreter(p)
    it.write_view("x", x)
    before = it.snapshot()
    it.run("main")
    it.write_matrix("w", np.zeros((6, 5), np.int8))
    changed = it.read_view("out").copy()
    it.restore(before)
    assert it.read_matrix("w").any()
    assert not it.read_view("out").any()
    it.run("main")
    assert np.array_equal(it.read_view("out"), changed)


def test_trap_activation_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference engine checks every step: a schedule that drives two groups at once is stopped."""
    p, _ = two_layers()
    monkeypatch.setattr(step, "activation_schedule", lambda machine, loads: iter([(3, 40)]))
    assert trap_of(p, "step").kind == "activation limit"


def test_single_steps_equal_a_run() -> None:
    p, x = two_layers()
    it = Interpreter(p)
    it.write_view("x", x)
    assert list(it.steps("main")) == [0, 1, 2, 3]
    whole = run(p, {"x": x}, "bitserial")
    assert np.array_equal(it.read_view("out"), whole.read_view("out"))
    assert (it.cycles, it.events) == (whole.cycles, whole.events)


def test_other_machines_run() -> None:
    """4 x 4 banks, 32 x 256 sub-arrays, a small buffer."""
    machine = small(
        array={"banks": (4, 4), "rows": 32, "bit_columns": 256},
        activation={"banks": (1, 4), "rule": "free"},
        buffer={"bytes": 4096},
    )
    p, x = two_layers()
    it = run(replace(p, machine=machine), {"x": x}, "step")
    assert np.array_equal(it.read_view("out"), run(p, {"x": x}).read_view("out"))
