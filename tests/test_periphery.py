"""Every kernel of the periphery, run as instructions, against plain Python: negative operands, extremes, odd sizes, strided views, rings."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from golden_numbers import from_16, to_16
from golden_numbers import rne as rne_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runtime import ALL, program, trap_of

from sasimc.isa.analysis.check import check_program
from sasimc.isa.objects import Geometry, Table, View
from sasimc.isa.spec import RowRange
from sasimc.runtime.interpreter import Interpreter

EXTREMES = {"u8": [0, 1, 127, 128, 255], "i8": [-128, -127, -1, 0, 1, 126, 127]}


def rne(value: int, shift: int) -> int:
    """Python's own half-even rounding of an exact fraction."""
    return value if shift <= 0 else round(Fraction(value, 1 << shift))


class Bench:
    """Views with gaps between pixels and rows, one after another in their memory, and instructions that run on them as a loop of two passes."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self.ends = {"buf": 4, "acc": 3}

    def view(
        self, name: str, space: str, dtype: str, shape: tuple[int, int, int], *, gap: int = 2, ring: int = 0, pad: int = 0
    ) -> None:
        _, w, c = shape
        if dtype == "bit":
            row, pix, chan = -(-w * c // 8) + 1, 0, 0
        else:
            chan = View.dense_strides(space, dtype, shape)[2]
            pix, row = (c + gap) * chan, ((c + gap) * w + gap) * chan
        v = View(name, space, dtype, shape, self.ends[space], row, pix, chan, ring, 0, pad)
        self.views.append(v)
        self.ends[space] = (v.end + 7) // 4 * 4

    def run(
        self, fill: dict[str, Any], *code: tuple[Any, ...], geom: Geometry | None = None, tables: tuple[Table, ...] = ()
    ) -> Interpreter:
        it = Interpreter(program(*code, views=tuple(self.views), geoms=(geom,) if geom else (), tables=tables), "fused", 2)
        for name, values in fill.items():
            it.write_view(name, values)
        it.run("main")
        return it


def extreme(rng: np.random.Generator, dtype: str, shape: tuple[int, int, int]) -> np.ndarray:
    return rng.choice(np.array(EXTREMES[dtype]), shape)


@pytest.mark.parametrize("far", [False, True], ids=["near", "biases near 32 bits"])
@pytest.mark.parametrize("chans", [1, 5, 19, 64])
@pytest.mark.parametrize(("dtype", "zero", "lo", "hi"), [("u8", 0, 0, 255), ("i8", -5, -128, 127), ("u8", 3, 3, 200)])
def test_requantise(chans: int, dtype: str, zero: int, lo: int, hi: int, far: bool) -> None:
    rng = np.random.default_rng(chans)
    b, shape = Bench(), (4, 5, chans)
    b.view("a", "acc", "i32", shape)
    b.view("d", "buf", dtype, shape)
    acc = rng.integers(-(2**20), 2**20, shape)
    acc.reshape(-1)[::7] = rng.choice(np.array([0, 2**31 - 1 - 2**20, -(2**31) + 2**20, 1, -1]), acc.reshape(-1)[::7].shape)
    bias, mult, shift = rng.integers(-(2**20), 2**20, chans), rng.integers(2**30, 2**31, chans), rng.integers(31, 62, chans)
    if far:  # sum + bias needs 33 bits, its product with the factor 63
        bias, shift = rng.choice(np.array([2**31 - 1, -(2**31), 2**31 - 2**20]), chans), rng.integers(36, 56, chans)
        mult, acc = (
            rng.integers(2**30, 2**31 - 2**26, chans),
            rng.choice(np.array([2**30, -(2**30), 2**20, 2**31 - 1 - 2**27]), shape),
        )
    elif chans > 5:
        mult[:6], shift[:6], bias[:6] = (1, -1, 2**30, 2**30, 0, 3), (1, 2, 31, 33, 62, 1), (0, 1, 0, 1, 5, 0)
    constants = {role: tuple(int(v) for v in values) for role, values in (("bias", bias), ("mult", mult), ("shift", shift))}
    t = Table("t", "requant", {"zero": zero, "lo": lo, "hi": hi}, constants)
    it = b.run({"a": acc}, ("req", "d", "a", "t", RowRange(0, 1, 3)), tables=(t,))
    for y, x, c in np.ndindex(shape):
        exact = rne((int(acc[y, x, c]) + int(bias[c])) * int(mult[c]), int(shift[c])) + zero
        assert it.read_view("d")[y, x, c] == (min(max(exact, lo), hi) if y else 0)
    assert np.array_equal(it.read_view("a"), acc * (np.arange(4) < 1)[:, None, None])


def test_bias_clip_fill_and_drain() -> None:
    rng, b, shape = np.random.default_rng(1), Bench(), (3, 4, 5)
    b.view("a", "acc", "i32", shape)
    for name, dtype in (("w", "i32"), ("x", "i8"), ("y", "i8"), ("z", "i32")):
        b.view(name, "buf", dtype, shape)
    acc, x = rng.integers(-(2**30), 2**30, shape), extreme(rng, "i8", shape)
    t = Table("t", "requant", {"zero": 0, "lo": 0, "hi": 9}, {"bias": (1, -2, 3, 2**30, -5), "mult": (1,) * 5, "shift": (1,) * 5})
    code = (
        ("bias", "a", "t", RowRange(0, 1, 2)),
        ("drain", "w", "a", ALL),
        ("clip", "y", "x", -3, 100, ALL),
        ("fill", "z", -70000, ALL),
    )
    it = b.run({"a": acc, "x": x}, *code, tables=(t,))
    assert np.array_equal(it.read_view("w"), acc + np.array([1, -2, 3, 2**30, -5]) * (np.arange(3) > 0)[:, None, None])
    assert not it.read_view("a").any()
    assert np.array_equal(it.read_view("y"), np.clip(x, -3, 100))
    assert (it.read_view("z") == -70000).all()


@pytest.mark.parametrize("types", [("u8", "u8"), ("i8", "u8"), ("i8", "i8")])
def test_residual_add(types: tuple[str, str]) -> None:
    rng, b, shape = np.random.default_rng(2), Bench(), (2, 7, 17)
    for name, dtype in zip("abd", (*types, "i8"), strict=True):
        b.view(name, "buf", dtype, shape)
    a, c = (extreme(rng, dtype, shape) for dtype in types)
    ints = {"za": 3, "ma": 2**30, "zb": -7, "mb": 2**29 + 1, "shift": 31, "zy": 4, "lo": -100, "hi": 120}
    it = b.run({"a": a, "b": c}, ("addq", "d", "a", "b", "t", ALL), tables=(Table("t", "addq", ints),))
    total = (a - 3) * 2**30 + (c + 7) * (2**29 + 1)
    assert it.read_view("d").reshape(-1).tolist() == [min(max(rne(int(v), 31) + 4, -100), 120) for v in total.reshape(-1)]


@pytest.mark.parametrize("types", [("u8", "i8"), ("i8", "u8"), ("i8", "i8")])
@pytest.mark.parametrize("own", [False, True], ids=["one table", "a table a channel"])
def test_look_up(types: tuple[str, str], own: bool) -> None:
    """Entry 0 is that of the lowest value of the source's type."""
    rng, b, shape = np.random.default_rng(4), Bench(), (3, 5, 19)
    for name, dtype in zip("sd", types, strict=True):
        b.view(name, "buf", dtype, shape)
    source, low = extreme(rng, types[0], shape), -128 if types[0] == "i8" else 0
    table = rng.integers(-128, 128, (19 if own else 1, 256)) + (128 if types[1] == "u8" else 0)
    t = Table("t", "lut", {}, {"values": tuple(int(v) for v in table.reshape(-1))})
    it = b.run({"s": source}, ("lut", "d", "s", "t", RowRange(0, 1, 2)), tables=(t,))
    for y, x, c in np.ndindex(shape):
        assert it.read_view("d")[y, x, c] == (table[c if own else 0, source[y, x, c] - low] if y else 0)


@pytest.mark.parametrize(
    ("values", "what"), [(range(256), "outside i8"), (range(-100, 100), "200 values"), (range(0, 120), "120 values")], ids=str
)
def test_tables_that_do_not_fit_are_refused(values: range, what: str) -> None:
    """By the engine, and by the checks of programs, which the assembler and the linter make."""
    b = Bench()
    b.view("s", "buf", "u8", (1, 2, 3))
    b.view("d", "buf", "i8", (1, 2, 3))
    t = Table("t", "lut", {}, {"values": tuple(values)})
    p = program(("lut", "d", "s", "t", ALL), views=tuple(b.views), tables=(t,))
    trap = trap_of(p)
    assert (trap.kind, what in str(trap)) == ("bad table", True)
    assert any(what in d.message for d in check_program(p))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("types", [("u8", "u8"), ("i8", "u8"), ("i8", "i8")])
@pytest.mark.parametrize("other", [(4, 6, 9), (1, 1, 9), (4, 6, 1), (4, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("sums", [(4, 6, 9), (1, 1, 9), (4, 6, 1), (1, 1, 1)])
def test_product(types: tuple[str, str], other: tuple[int, ...], sums: tuple[int, ...], threads: int) -> None:
    """numpy's broadcasting forward, its sum over the same axes back."""
    rng, b, shape, pads = np.random.default_rng(5), Bench(), (4, 6, 9), (3, -7 if types[1] == "i8" else 200)
    b.view("a", "buf", types[0], shape, pad=pads[0])
    b.view("b", "buf", types[1], (other[0], other[1], other[2]), pad=pads[1])
    b.view("s", "acc", "i32", (sums[0], sums[1], sums[2]))
    a, c, before = (
        extreme(rng, types[0], shape),
        extreme(rng, types[1], (other[0], other[1], other[2])),
        rng.integers(-9, 9, sums),
    )
    it = Interpreter(program(("prod", "s", "a", "b", RowRange(0, 1, 9)), views=tuple(b.views)), "fused", threads)
    for name, values in (("a", a), ("b", c), ("s", before)):
        it.write_view(name, values)
    it.run("main")
    whole = (a.astype(np.int64) - pads[0]) * (c.astype(np.int64) - pads[1])
    whole[0] = 0  # only rows 1 to 3 were asked for
    axes = tuple(i for i in range(3) if sums[i] == 1)
    assert np.array_equal(it.read_view("s"), before + whole.sum(axis=axes, keepdims=True))


def test_product_traps_when_a_sum_leaves_32_bits() -> None:
    b = Bench()
    b.view("a", "buf", "u8", (1, 4, 3))
    b.view("s", "acc", "i32", (1, 1, 3))
    p = program(("prod", "s", "a", "a", ALL), views=tuple(b.views))
    fill = {"a": np.full((1, 4, 3), 255), "s": np.full((1, 1, 3), 2**31 - 4 * 255 * 255)}
    assert trap_of(p, fill=fill).kind == "accumulator overflow"


GEOMETRIES = [  # kernel, stride, dilation, padding, input plane, output plane
    (Geometry("g", (1, 1)), (4, 5), (4, 5)),
    (Geometry("g", (3, 3), pad=(1, 1)), (5, 7), (5, 7)),
    (Geometry("g", (3, 3), (2, 2)), (8, 6), (4, 3)),
    (Geometry("g", (5, 3), (2, 1), (2, 2), (1, 2)), (7, 6), (4, 6)),
    (Geometry("g", (2, 4), (3, 2), (1, 3), (2, 1)), (9, 5), (3, 4)),
]


@pytest.mark.parametrize(("dtype", "pad"), [("u8", 0), ("u8", 200), ("i8", -128)])
@pytest.mark.parametrize(("geom", "inner", "outer"), GEOMETRIES)
def test_pools_and_their_transposes(geom: Geometry, inner: tuple[int, int], outer: tuple[int, int], dtype: str, pad: int) -> None:
    rng, b, c = np.random.default_rng(3), Bench(), 5
    b.view("x", "buf", dtype, (*inner, c), pad=pad)
    b.view("e", "buf", "i8", (*outer, c))
    b.view("d", "buf", dtype, (*outer, c))
    for name, plane in (("sums", outer), ("spread", inner), ("routed", inner)):
        b.view(name, "acc", "i32", (*plane, c))
    x, e = extreme(rng, dtype, (*inner, c)), extreme(rng, "i8", (*outer, c))
    code = (
        ("pavg", "sums", "x", "g", ALL),
        ("pavgt", "spread", "e", "g", ALL),
        ("pmax", "d", "x", "g", ALL),
        ("pmaxt", "routed", "e", "x", "g", ALL),
    )
    it = b.run({"x": x, "e": e}, *code, geom=geom)
    sums, best = np.zeros((*outer, c), int), np.zeros((*outer, c), int)
    spread, routed = np.zeros((*inner, c), int), np.zeros((*inner, c), int)
    for oy, ox in np.ndindex(*outer):
        taps = [(oy * geom.stride[0] - geom.pad[0] + ky * geom.dilation[0], ox * geom.stride[1] - geom.pad[1] + kx * geom.dilation[1])
                for ky in range(geom.kernel[0]) for kx in range(geom.kernel[1])]  # fmt: skip
        inside = [p for p in taps if 0 <= p[0] < inner[0] and 0 <= p[1] < inner[1]]
        sums[oy, ox] = sum(x[p] for p in inside) + pad * (len(taps) - len(inside))
        for p in inside:
            spread[p] += e[oy, ox]
        for ch in range(c):
            first = max(inside, key=lambda p: x[p][ch])
            best[oy, ox, ch] = x[first][ch]
            routed[first][ch] += e[oy, ox, ch]
    for name, expected in (("sums", sums), ("d", best), ("spread", spread), ("routed", routed)):
        assert np.array_equal(it.read_view(name), expected), name


def linear_matrix(size: int) -> np.ndarray:
    """Four times the factor-2 half-pixel resize, as written in docs/reference/numerics.md."""
    m = np.zeros((2 * size, size), np.int64)
    for i in range(size):
        m[2 * i, max(i - 1, 0)] += 1
        m[2 * i, i] += 3
        m[2 * i + 1, i] += 3
        m[2 * i + 1, min(i + 1, size - 1)] += 1
    return m


@pytest.mark.parametrize(("h", "w"), [(1, 1), (3, 5), (4, 2)])
@pytest.mark.parametrize("mode", ["linear2", "nearest"])
@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_resize_and_its_transpose(h: int, w: int, mode: str, dtype: str) -> None:
    ho, wo = (2 * h, 2 * w) if mode == "linear2" else (2 * h + 1, 3 * w - 1)
    my, mx = (linear_matrix(h), linear_matrix(w)) if mode == "linear2" else (
        np.eye(h, dtype=np.int64)[[o * h // ho for o in range(ho)]], np.eye(w, dtype=np.int64)[[o * w // wo for o in range(wo)]]
    )  # fmt: skip
    rng, b, c = np.random.default_rng(4), Bench(), 3
    b.view("x", "buf", dtype, (h, w, c))
    b.view("e", "buf", "i8", (ho, wo, c))
    b.view("up", "acc", "i32", (ho, wo, c))
    b.view("down", "acc", "i32", (h, w, c))
    x, e = extreme(rng, dtype, (h, w, c)), extreme(rng, "i8", (ho, wo, c))
    it = b.run({"x": x, "e": e}, ("ups", "up", "x", "g", ALL), ("upst", "down", "e", "g", ALL), geom=Geometry("g", mode=mode))
    assert np.array_equal(it.read_view("up"), np.einsum("ay,bx,yxc->abc", my, mx, x))
    assert np.array_equal(it.read_view("down"), np.einsum("ay,bx,abc->yxc", my, mx, e))


def test_range_and_shift_to_eight_bits() -> None:
    rng, shape = np.random.default_rng(5), (2, 4, 5)
    for limit in (1, 127, 128, 5000, 2**31 - 1):
        data = rng.integers(-limit, limit, shape, endpoint=True)
        data[1, 2, 3] = -limit
        for shift in (max(0, limit.bit_length() - 7), 1, 0, limit.bit_length() + 3, -4):
            b = Bench()
            b.view("s", "buf", "i32", shape)
            b.view("d", "buf", "i8", shape)
            it = b.run({"s": data}, ("range", 5, "s", ALL), ("li", 6, shift), ("shr8", "d", "s", 6, ALL))
            assert it.regs[5] == limit.bit_length()
            assert it.read_view("d").reshape(-1).tolist() == [min(max(rne(int(v), shift), -127), 127) for v in data.reshape(-1)]
    b = Bench()
    b.view("s", "buf", "i32", shape)
    assert b.run({"s": np.full(shape, -(2**31))}, ("range", 5, "s", ALL)).regs[5] == 32
    assert b.run({}, ("range", 5, "s", ALL)).regs[5] == 0


def test_sixteen_bits_on_the_way_to_eight_change_nothing() -> None:
    """Sums near every tie, the extremes and zeros, beside larger ones than themselves: cut to 16 bits they are IEEE's binary16 (that of numpy), one of the two
    nearest, and shifted to 8 bits they are what they would have been."""
    rng, c, low = np.random.default_rng(7), 133, -(2**31)
    steps = np.array([(2 * i + 1) << s for s in range(24) for i in (0, 1, 31, 62, 63)])
    near = np.concatenate([sign * (steps + d) for sign in (1, -1) for d in (-1, 0, 1)])
    for width, data in (
        (32, np.array([low, low + 1, 2**31 - 1, 0, -1, 1])), (0, np.zeros(c, np.int64)), (31, near), (30, near), (28, rng.integers(-(2**28), 2**28, 4 * c)),
        (21, rng.integers(-3000, 3000, 4 * c)), *((w, rng.integers(1 - 2**w, 2**w, 4 * c)) for w in (1, 7, 8, 11, 12, 13, 19, 31)),
    ):  # fmt: skip
        shift, shape = max(0, width - 7), (4, -(-data.size // (4 * c)), c)
        sums = np.resize(data, shape)
        b = Bench()
        for name, dtype in (("s", "i32"), ("h", "i16"), ("d", "i8")):
            b.view(name, "buf", dtype, shape, gap=int(width % 2))
        it = b.run({"s": sums}, ("cut16", "h", "s", ALL), ("li", 6, shift), ("shr8", "d", "h", 6, ALL))
        found, real = it.read_view("h"), np.abs(sums) * 2.0**-24
        nearest = real.astype(np.float16)
        below = np.where(nearest > real, np.nextafter(nearest, np.float16(0)), nearest)
        odd = below.view(np.int16) | (below != real)
        assert np.array_equal(found, np.sign(sums) * odd)
        assert np.array_equal(found, to_16(sums))
        assert np.array_equal(rne_of(from_16(found), shift), rne_of(sums, shift))
        assert it.read_view("d").reshape(-1).tolist() == [min(max(rne(int(v), shift), -127), 127) for v in sums.reshape(-1)]


@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("sides", [(1, 1), (1, 0), (0, 1)])
@pytest.mark.parametrize("c", [1, 8, 13])
def test_masks_and_error_scale(dtype: str, sides: tuple[int, int], c: int) -> None:
    rng, shape = np.random.default_rng(c), (3, 3, c)
    lo, hi = -128 if dtype == "i8" else 0, 100
    q = extreme(rng, dtype, shape)
    q.reshape(-1)[:2] = (100, 99)
    keep = ((q > lo) | (not sides[0])) & ((q < hi) | (not sides[1]))
    k = rng.integers(16385, 32769, c)
    k[0] = -32768
    bounds = Table("m", "mask", {"lo": lo, "hi": hi, "use_lo": sides[0], "use_hi": sides[1]})
    each, one = Table("k", "scale", {}, {"k": tuple(k.tolist())}), Table("o", "scale", {}, {"k": (int(k[-1]),)})
    for errors, limit in (("i32", 2**31 - 1), ("i8", 127)):
        b = Bench()
        for name, of in (("q", dtype), ("bits", "bit"), ("e", errors), ("masked", "i32"), ("scaled", "i32"), ("all", "i32")):
            b.view(name, "buf", of, shape)
        e = rng.integers(-limit, limit, shape, endpoint=True)
        code = (
            ("mask", "bits", "q", "m", ALL),
            ("emask", "masked", "e", "bits", ALL),
            ("escale", "scaled", "e", "k", ALL),
            ("escale", "all", "e", "o", ALL),
        )
        it = b.run({"q": q, "e": e}, *code, tables=(bounds, each, one))
        assert np.array_equal(it.read_view("bits"), keep)
        assert np.array_equal(it.read_view("masked"), np.where(keep, e, 0))
        assert it.read_view("scaled").reshape(-1).tolist() == [rne(int(v), 15) for v in (e * k).reshape(-1)]
        assert it.read_view("all").reshape(-1).tolist() == [rne(int(v), 15) for v in (e * k[-1]).reshape(-1)]


def test_error_scale_traps_beyond_32_bits() -> None:
    for factor, trap in ((32768, False), (32769, True), (-32768, False)):
        b = Bench()
        b.view("v", "buf", "i32", (1, 1, 2))
        p = program(("escale", "v", "v", "k", ALL), views=tuple(b.views), tables=(Table("k", "scale", {}, {"k": (factor,)}),))
        if trap:
            assert trap_of(p, fill={"v": [2**31 - 1, 3]}).kind == "escale overflow"
        else:
            b.run({"v": [2**31 - 1, 3]}, ("escale", "v", "v", "k", ALL), tables=(Table("k", "scale", {}, {"k": (factor,)}),))


@settings(deadline=None, max_examples=30)
@given(st.integers(-60, 60), st.integers(-60, 60))
def test_aligned_add(ea: int, eb: int) -> None:
    rng, b, shape = np.random.default_rng(6), Bench(), (3, 5, 17)
    for name, dtype in (("a", "i8"), ("b", "i8"), ("d", "i32")):
        b.view(name, "buf", dtype, shape)
    x, y = rng.integers(-127, 128, shape), rng.integers(-127, 128, shape)
    it = b.run({"a": x, "b": y}, ("li", 1, ea), ("li", 2, eb), ("adda", "d", "a", "b", 1, 2, ALL))
    top = max(ea, eb)
    parts = [[rne(int(v) * 256, top - e) if top - e <= 30 else 0 for v in values.reshape(-1)] for values, e in ((x, ea), (y, eb))]
    assert it.read_view("d").reshape(-1).tolist() == [sum(pair) for pair in zip(*parts, strict=True)]


@pytest.mark.parametrize(("dtype", "limit"), [("i8", 127), ("i32", 127 * 256)])
@pytest.mark.parametrize("shift", [-3, 0, 1, 2, 7, 15, 16, 30, 31, 35, 63, 200])
def test_pseudo_stochastic_rounding(dtype: str, limit: int, shift: int) -> None:
    rng, b, shape = np.random.default_rng(7), Bench(), (3, 4, 9)
    b.view("g", "buf", "i32", shape)
    b.view("d", "buf", dtype, shape)
    g = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 31, shape)
    it = b.run({"g": g}, ("li", 1, shift), ("psr", "d", "g", 1, ALL))

    def rounded(v: int) -> int:
        if shift <= 0:
            return min(max(v, -limit), limit)
        q, r = divmod(abs(v), 1 << shift)
        h = shift >> 1
        q = min(q + ((r >> h) > (r & ((1 << h) - 1)) * (2 if shift % 2 else 1)), limit)
        return q if v > 0 else -q

    assert it.read_view("d").reshape(-1).tolist() == [rounded(int(v)) for v in g.reshape(-1)]


def test_velocity_and_carry() -> None:
    rng, b, shape = np.random.default_rng(8), Bench(), (3, 1, 50)
    for name, dtype in (("v", "i32"), ("s", "i32"), ("low", "i8"), ("d", "i8")):
        b.view(name, "buf", dtype, shape)
    top = 127 * 256
    v, s, low = (
        rng.integers(-top, top, shape, endpoint=True),
        rng.integers(-top, top, shape, endpoint=True),
        extreme(rng, "i8", shape),
    )
    it = b.run({"v": v, "s": s, "low": low}, ("mom", "v", "s", 3, ALL), ("carry", "d", "low", "s", ALL))
    assert it.read_view("v").reshape(-1).tolist() == [
        min(max(int(a) - rne(int(a), 3) + int(c), -top), top) for a, c in zip(v.flat, s.flat, strict=True)
    ]
    total = low - s
    up = (total + 128) >> 8
    assert np.array_equal(it.read_view("d"), -up)
    assert np.array_equal(it.read_view("low"), total - 256 * up)
