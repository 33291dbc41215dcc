"""Kernels against plain Python: every engine, negative operands, extremes, odd sizes, strided views and row rings."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sasimc.runtime import kernels as K
from sasimc.runtime.warmup import cold, warm_up

ENGINES = list(K.ENGINES)


def rne(value: int, shift: int) -> int:
    """Python's own half-even rounding of an exact fraction."""
    return value if shift <= 0 else round(Fraction(value, 1 << shift))


def offset(view: K.View, y: int, x: int, c: int) -> int:
    return view[0] + (y % view[3]) * view[1] + x * view[2] + c


def put(flat: np.ndarray, view: K.View, rows: np.ndarray, first: int = 0) -> None:
    for y in range(rows.shape[0]):
        for x in range(rows.shape[1]):
            at = offset(view, first + y, x, 0)
            flat[at : at + rows.shape[2]] = rows[y, x]


def take(flat: np.ndarray, view: K.View, r0: int, r1: int) -> np.ndarray:
    return np.array([[flat[offset(view, y, x, 0) :][: view[5]] for x in range(view[4])] for y in range(r0, r1)])


def read(data: np.ndarray, signed: bool) -> np.ndarray:
    return (data.view(np.int8) if signed else data).astype(np.int64)


def operands(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Bytes: random, or only extremes of both interpretations."""
    if kind == "random":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), shape)


def window_taps(geom: K.Geom, oy: int, ox: int) -> list[tuple[int, int, int, int, bool]]:
    kh, kw, sh, sw, dh, dw, pt, pl, h, w, _, _ = geom
    out = []
    for ky in range(kh):
        for kx in range(kw):
            y, x = oy * sh - pt + ky * dh, ox * sw - pl + kx * dw
            out.append((ky, kx, y, x, 0 <= y < h and 0 <= x < w))
    return out


GEOMETRIES = [  # kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo
    K.make_geom(1, 1, 1, 1, 1, 1, 0, 0, 4, 5, 4, 5),
    K.make_geom(3, 3, 1, 1, 1, 1, 1, 1, 5, 7, 5, 7),
    K.make_geom(3, 3, 2, 2, 1, 1, 0, 0, 8, 6, 4, 3),  # the right and lower padding of "same" with stride 2
    K.make_geom(5, 3, 2, 1, 1, 2, 2, 2, 7, 6, 4, 6),
    K.make_geom(2, 4, 3, 2, 2, 1, 1, 3, 9, 5, 3, 4),
    K.make_geom(3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# ------------------------------------------------------------------------------------------------------------------- dense


@pytest.mark.parametrize("kind", ["random", "extreme"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 31, 15), (9, 32, 16), (2, 33, 17), (17, 64, 33), (1, 200, 40), (8, 65, 1), (0, 5, 3)]
)
def test_dense_engines_equal_the_matrix_product(rng, shape, signed, kind):
    p, k, n = shape
    x, w = operands(rng, (p, k), kind), operands(rng, (k, n), kind).view(np.int8)
    expected = read(x, signed) @ w.astype(np.int64)
    given_x = x.view(np.int8) if signed else x
    assert np.array_equal(K.dense_bitserial(given_x, K.pack_weights(w), n, signed), expected)
    assert np.array_equal(K.dense_fused(given_x, K.prepare_fused(w), n, signed), expected)


def test_transposed_product_takes_the_packed_transpose(rng):
    w = operands(rng, (37, 21), "random").view(np.int8)
    e = operands(rng, (6, 21), "extreme").view(np.int8)
    expected = e.astype(np.int64) @ w.T.astype(np.int64)
    assert np.array_equal(K.dense_bitserial(e, K.pack_weights(w.T), 37, True), expected)
    assert np.array_equal(K.dense_fused(e, K.prepare_fused(w.T), 37, True), expected)


def test_dense_extremes_do_not_saturate():
    k = 4000
    w = np.full((k, 2), -128, np.int8)
    for signed, value in ((False, 255), (True, -128)):
        x = np.full((2, k), value & 255, np.uint8)
        assert (K.dense_bitserial(x, K.pack_weights(w), 2, signed) == -128 * value * k).all()
        assert (K.dense_fused(x, K.prepare_fused(w), 2, signed) == -128 * value * k).all()


@pytest.mark.parametrize("engine", ["bitserial", "fused"])
def test_dense_accumulates_through_a_ringed_view(rng, engine):
    cols, chans, n, c0, k = 5, 24, 19, 3, 40
    view = K.make_view(11, cols, chans, 3, row_stride=cols * 30 + 4, pixel_stride=30)
    acc = rng.integers(-1000, 1000, 2000).astype(np.int32)
    before = acc.copy()
    x, w = operands(rng, (3 * cols, k), "random"), operands(rng, (k, n), "random").view(np.int8)
    expected = acc.astype(np.int64)
    product = x.astype(np.int64) @ w.astype(np.int64)
    for p in range(3 * cols):
        at = offset(view, 2 + p // cols, p % cols, c0)
        expected[at : at + n] += product[p]
    packed = K.pack_weights(w) if engine == "bitserial" else K.prepare_fused(w)
    run = K.dense_bitserial_acc if engine == "bitserial" else K.dense_fused_acc
    assert run(x, packed, False, acc, view, 2, c0, n) == 0
    assert np.array_equal(acc, expected)
    other = before.copy()
    assert K.accumulate(other, view, product.astype(np.int32), 2, c0) == 0
    assert np.array_equal(other, expected)


@pytest.mark.parametrize("start,weight", [(2**31 - 100, 1), (-(2**31) + 100, -1)])
def test_accumulators_that_wrap_are_reported(start, weight):
    w = np.full((1, 3), weight, np.int8)
    x = np.full((1, 1), 100, np.uint8)
    view = K.make_view(0, 1, 3, 1)
    for value, wraps in ((x, weight == 1), (x + 1, True)):  # -2^31 itself fits, 2^31 does not
        for run, packed in ((K.dense_bitserial_acc, K.pack_weights(w)), (K.dense_fused_acc, K.prepare_fused(w))):
            acc = np.full(3, start, np.int32)
            assert bool(run(value.astype(np.uint8), packed, False, acc, view, 0, 0, 3)) == wraps
        acc = np.full(3, start, np.int32)
        assert bool(K.accumulate(acc, view, np.array([[0, weight * int(value[0, 0]), 0]], np.int32), 0, 0)) == wraps


@pytest.mark.parametrize("signed", [False, True])
def test_row_activations_add_up_to_the_product(rng, signed):
    k, n = 12, 9
    x, w = operands(rng, (k,), "extreme"), operands(rng, (k, n), "random")
    x[0], w[0, 0], w[0, 1] = 255, 128, 127
    acc, ones = np.zeros(n, np.int32), 0
    for row in range(k):
        ones += K.tile_step(int(x[row]), 8, signed, w[row], acc)
    assert np.array_equal(acc, read(x, signed) @ w.view(np.int8).astype(np.int64))
    assert ones == int(np.bitwise_count(x).sum())


def test_row_activation_sign_extension_of_figure_4():
    """-3 x -5 with 4-bit inputs: the sign cycle subtracts, the sign column weighs -128."""
    acc = np.zeros(1, np.int32)
    assert K.tile_step(-3 & 15, 4, True, np.array([-5 & 255], np.uint8), acc) == 3
    assert acc[0] == 15
    assert K.tile_step(-3, 4, True, np.array([-5 & 255], np.uint8), acc) == 3  # a negative Python integer reads the same
    assert acc[0] == 30


def test_column_activations_give_the_transposed_product(rng):
    rows, n = 10, 5
    w, e = operands(rng, (rows, n), "extreme"), operands(rng, (n,), "random")
    e[0] = 128
    acc, ones = np.zeros(rows, np.int32), 0
    for column in range(n):
        planes = np.array([(w[:, column] >> bit) & 1 for bit in range(8)], np.uint8)
        ones += K.column_step(int(e[column]), 8, True, planes, acc)
    assert np.array_equal(acc, w.view(np.int8).astype(np.int64) @ read(e, True))
    assert ones == 8 * int(np.bitwise_count(e).sum())


# -------------------------------------------------------------------------------------------------------------- depth-wise


def depthwise_oracle(x: np.ndarray, w: np.ndarray, geom: K.Geom, pad: int, rows: range | None = None) -> np.ndarray:
    times = w.shape[2] // x.shape[2]
    spread, w64 = np.repeat(x, times, axis=2), w.astype(np.int64)
    out = np.zeros((geom[10], geom[11], w.shape[2]), np.int64)
    for oy in range(geom[10]):
        for ox in range(geom[11]):
            for ky, kx, y, ix, inside in window_taps(geom, oy, ox):
                if rows is None or y in rows:
                    out[oy, ox] += (spread[y, ix] if inside else pad) * w64[ky, kx]
    return out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("signed,pad", [(False, 0), (False, 255), (True, 0), (True, -128)])
@pytest.mark.parametrize("geom", GEOMETRIES)
@pytest.mark.parametrize("chans,times", [(16, 1), (5, 1), (3, 2)])
def test_depthwise_scatter(rng, engine, signed, pad, geom, chans, times):
    kh, kw, _, _, dh, _, pt, _, h, width, ho, wo = geom
    data = operands(rng, (h, width, chans), "extreme" if pad else "random")
    w = operands(rng, (kh, kw, chans * times), "extreme").view(np.int8)
    xv = K.make_view(3, width, chans, h, row_stride=width * (chans + 2) + 1, pixel_stride=chans + 2)
    av = K.make_view(5, wo, chans * times, ho, pixel_stride=chans * times + 3)
    buf, acc = np.full(4000, 77, np.uint8), np.zeros(4000, np.int32)
    put(buf, xv, data)
    last = max(h, (ho - 1) * geom[2] - pt + (kh - 1) * dh + 1)
    for first in range(-pt, last, 2):  # in portions of two rows
        assert K.dw_scatter(engine, buf, xv, signed, w, geom, pad, first, min(first + 2, last), acc, av) == 0
    assert np.array_equal(take(acc, av, 0, ho), depthwise_oracle(read(data, signed), w, geom, pad))
    assert acc.sum(dtype=np.int64) == take(acc, av, 0, ho).sum()  # nothing was written outside the view


@pytest.mark.parametrize("engine", ENGINES)
def test_depthwise_rings_hold_only_what_is_needed(rng, engine):
    geom = K.make_geom(3, 3, 1, 1, 1, 1, 1, 1, 9, 4, 9, 4)
    chans = 16
    data, w = operands(rng, (9, 4, chans), "random"), operands(rng, (3, 3, chans), "random").view(np.int8)
    xv, av = K.make_view(0, 4, chans, 1), K.make_view(0, 4, chans, 3)  # one input row, three rows of sums
    buf, acc = np.zeros(4 * chans, np.uint8), np.zeros(3 * 4 * chans, np.int32)
    expected, out = depthwise_oracle(data.astype(np.int64), w, geom, 0), []
    for y in range(9):
        put(buf, xv, data[y : y + 1], y)
        K.dw_scatter(engine, buf, xv, False, w, geom, 0, y, y + 1, acc, av)
        for done in ([y - 1] if y else []) + ([8] if y == 8 else []):
            out.append(take(acc, av, done, done + 1)[0])
            put(acc, av, np.zeros((1, 4, chans), np.int32), done)
    assert np.array_equal(np.array(out), expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("geom", GEOMETRIES)
@pytest.mark.parametrize("chans,times", [(16, 1), (5, 1), (3, 2)])
def test_depthwise_transposed(rng, engine, geom, chans, times):
    kh, kw, *_, h, width, ho, wo = geom
    error = operands(rng, (ho, wo, chans * times), "extreme")
    w = operands(rng, (kh, kw, chans * times), "extreme").view(np.int8)
    ev, av = K.make_view(2, wo, chans * times, ho, pixel_stride=chans * times + 1), K.make_view(1, width, chans, h)
    buf, acc = np.zeros(3000, np.uint8), np.zeros(3000, np.int32)
    put(buf, ev, error)
    expected = np.zeros((h, width, chans), np.int64)
    for oy in range(ho):
        for ox in range(wo):
            for ky, kx, y, x, inside in window_taps(geom, oy, ox):
                if inside:
                    products = read(error, True)[oy, ox] * w[ky, kx].astype(np.int64)
                    expected[y, x] += products.reshape(chans, times).sum(axis=1)
    for first in range(ho):
        assert K.dw_scatter_t(engine, buf, ev, w, geom, first, first + 1, acc, av) == 0
    assert np.array_equal(take(acc, av, 0, h), expected)


def test_depthwise_reports_wrapping():
    geom = K.make_geom(1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1)
    view, w = K.make_view(0, 1, 1, 1), np.full((1, 1, 1), -128, np.int8)
    for engine in ENGINES:
        for start, wraps in ((-(2**31) + 128 * 255, False), (-(2**31) + 128 * 255 - 1, True)):
            acc = np.full(1, start, np.int32)
            assert bool(K.dw_scatter(engine, np.full(1, 255, np.uint8), view, False, w, geom, 0, 0, 1, acc, view)) == wraps


def test_depthwise_row_activation(rng):
    taps, out = operands(rng, (9,), "extreme"), np.full(9, 99, np.int32)
    assert K.dw_row_step(0b10110001, 8, True, taps, out) == 4
    assert np.array_equal(out, (0b10110001 - 256) * read(taps, True))


# ----------------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize("geom", GEOMETRIES)
@pytest.mark.parametrize("dense_pixels", [True, False])
def test_gather_and_scatter_patches(rng, geom, dense_pixels):
    kh, kw, *_, h, width, ho, wo = geom
    chans, pad = 3, 9
    data = operands(rng, (h, width, chans), "random")
    ring = h if h < 4 else h + 2
    xv = K.make_view(7, width, chans, ring, pixel_stride=0 if dense_pixels else 5)
    buf = np.zeros(4000, np.uint8)
    put(buf, xv, data)
    patches = K.gather_patches(buf, xv, geom, pad, 0, ho)
    expected = np.full((ho * wo, kh * kw, chans), pad)
    acc, av = np.zeros(3000, np.int32), K.make_view(4, width, chans, h, pixel_stride=4)
    products = rng.integers(-50, 50, (ho * wo, kh * kw * chans)).astype(np.int32)
    transposed = np.zeros((h, width, chans), np.int64)
    for oy in range(ho):
        for ox in range(wo):
            for ky, kx, y, x, inside in window_taps(geom, oy, ox):
                if inside:
                    expected[oy * wo + ox, ky * kw + kx] = data[y, x]
                    at = (ky * kw + kx) * chans
                    transposed[y, x] += products[oy * wo + ox, at : at + chans]
    assert np.array_equal(patches, expected.reshape(ho * wo, -1))
    assert np.array_equal(K.gather_patches(buf, xv, geom, pad, 1, ho), expected.reshape(ho * wo, -1)[wo:])
    for oy in range(ho):
        assert K.scatter_patches(acc, av, products[oy * wo : (oy + 1) * wo], geom, oy, oy + 1) == 0
    assert np.array_equal(take(acc, av, 0, h), transposed)


def test_gather_crosses_the_end_of_a_ring(rng):
    geom = K.make_geom(3, 3, 1, 1, 1, 1, 1, 1, 8, 5, 8, 5)
    point = K.make_geom(1, 1, 1, 1, 1, 1, 0, 0, 8, 5, 8, 5)
    data, xv = operands(rng, (8, 5, 4), "random"), K.make_view(0, 5, 4, 4)
    buf = np.zeros(80, np.uint8)
    put(buf, xv, data[3:7], 3)  # rows 3..7 live in a ring of four
    padded = np.pad(data, ((1, 1), (1, 1), (0, 0)))
    expected = [padded[y : y + 3, x : x + 3].reshape(-1) for y in (4, 5) for x in range(5)]
    assert np.array_equal(K.gather_patches(buf, xv, geom, 0, 4, 6), expected)
    assert np.array_equal(K.gather_patches(buf, xv, point, 0, 3, 6), data[3:6].reshape(15, 4))


@pytest.mark.parametrize("chans,stride", [(1, 0), (7, 0), (24, 0), (8, 11)])
def test_popcount_sum(rng, chans, stride):
    data = operands(rng, (6, 9, chans), "random")
    xv = K.make_view(1, 9, chans, 4, pixel_stride=stride)
    buf = np.zeros(2000, np.uint8)
    put(buf, xv, data[2:6], 2)
    my, mx = np.array([3, 0, 2]), np.array([1, 2, 3, 3, 3, 3, 0, 2, 1])
    expected = (np.bitwise_count(data[2:5]).sum(axis=2, dtype=np.int64) * my[:, None] * mx).sum()
    assert K.popcount_sum(buf, xv, my, mx, 2, 5) == expected


# --------------------------------------------------------------------------------------------------------------- periphery


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("zero,lo,hi", [(0, 0, 255), (-5, -128, 127), (3, 3, 200)])
def test_requantise(rng, clear, zero, lo, hi):
    cols, chans = 5, 19
    av, dv = K.make_view(2, cols, chans, 3, pixel_stride=21), K.make_view(5, cols, chans, 2, pixel_stride=20)
    acc, buf = rng.integers(-(2**20), 2**20, 400).astype(np.int32), np.zeros(400, np.uint8)
    acc[::7] = rng.choice(np.array([0, 2**31 - 1 - 2**20, -(2**31) + 2**20, 1, -1]), acc[::7].shape)
    bias = rng.integers(-(2**20), 2**20, chans)
    mult = rng.integers(2**30, 2**31, chans)
    shift = rng.integers(31, 62, chans)
    mult[:6], shift[:6], bias[:6] = (1, -1, 2**30, 2**30, 0, 3), (1, 2, 31, 33, 62, 1), (0, 1, 0, 1, 5, 0)
    before = acc.copy()
    K.requant(acc, av, buf, dv, bias, mult, shift, zero, lo, hi, 4, 6, clear)
    for y in (4, 5):
        for x in range(cols):
            for c in range(chans):
                exact = rne((int(before[offset(av, y, x, c)]) + int(bias[c])) * int(mult[c]), int(shift[c])) + zero
                assert buf[offset(dv, y, x, c)] == min(max(exact, lo), hi) & 255
                before[offset(av, y, x, c)] *= not clear
    assert np.array_equal(acc, before)


@settings(deadline=None, max_examples=200)
@given(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(2**30, 2**31 - 1), st.integers(31, 62))
def test_requantise_rounds_half_to_even(value, mult, shift):
    acc, buf, view = np.array([value], np.int32), np.zeros(1, np.uint8), K.make_view(0, 1, 1, 1)
    K.requant(acc, view, buf, view, np.zeros(1, np.int64), np.array([mult]), np.array([shift]), 0, -128, 127, 0, 1)
    assert buf.view(np.int8)[0] == min(max(rne(value * mult, shift), -128), 127)
    assert acc[0] == 0


@pytest.mark.parametrize("asigned,bsigned", [(False, False), (True, False), (True, True)])
def test_residual_add(rng, asigned, bsigned):
    a, b = operands(rng, (2, 7, 17), "extreme"), operands(rng, (2, 7, 17), "random")
    av, bv, dv = K.make_view(0, 7, 17, 2), K.make_view(300, 7, 17, 3, pixel_stride=19), K.make_view(800, 7, 17, 2)
    buf = np.zeros(1200, np.uint8)
    put(buf, av, a, 2)
    put(buf, bv, b, 2)
    K.add_q(buf, av, asigned, bv, bsigned, dv, 3, 2**30, -7, 2**29 + 1, 31, 4, -100, 120, 2, 4)
    total = (read(a, asigned) - 3) * 2**30 + (read(b, bsigned) + 7) * (2**29 + 1)
    expected = [min(max(rne(int(v), 31) + 4, -100), 120) for v in total.ravel()]
    assert np.array_equal(take(buf, dv, 2, 4).view(np.int8).ravel(), expected)


@pytest.mark.parametrize("signed,pad", [(False, 0), (False, 200), (True, -128)])
@pytest.mark.parametrize("geom", GEOMETRIES)
def test_pools_and_their_transposes(rng, geom, signed, pad):
    kh, _, sh, _, dh, _, pt, _, h, width, ho, wo = geom
    chans = 5
    data, error = operands(rng, (h, width, chans), "extreme"), operands(rng, (ho, wo, chans), "extreme")
    xv, ev, av = K.make_view(1, width, chans, h), K.make_view(600, wo, chans, ho), K.make_view(3, wo, chans, ho)
    iv, dv = K.make_view(3, width, chans, h), K.make_view(1500, wo, chans, ho)
    buf = np.zeros(2500, np.uint8)
    put(buf, xv, data)
    put(buf, ev, error)
    x, e = read(data, signed), read(error, True)
    sums, spread = np.zeros((ho, wo, chans), np.int64), np.zeros((h, width, chans), np.int64)
    best, routed = np.zeros((ho, wo, chans), np.int64), np.zeros((h, width, chans), np.int64)
    for oy in range(ho):
        for ox in range(wo):
            taps = window_taps(geom, oy, ox)
            inside = [(y, ix) for _, _, y, ix, real in taps if real]
            sums[oy, ox] = sum(x[p] for p in inside) + pad * (len(taps) - len(inside))
            for p in inside:
                spread[p] += e[oy, ox]
            for c in range(chans):
                first = max(inside, key=lambda p: x[p][c])  # max keeps the first of equals
                best[oy, ox, c] = x[first][c]
                routed[first][c] += e[oy, ox, c]
    acc = np.zeros(1500, np.int32)
    last = max(h, (ho - 1) * sh - pt + (kh - 1) * dh + 1)
    for y in range(-pt, last):
        assert K.avgpool_sum(buf, xv, signed, acc, av, geom, pad, y, y + 1) == 0
    assert np.array_equal(take(acc, av, 0, ho), sums)
    K.maxpool(buf, xv, signed, dv, geom, 0, ho)
    assert np.array_equal(read(take(buf, dv, 0, ho), signed), best)
    for transpose, expected in ((K.avgpool_t, spread), (None, routed)):
        acc = np.zeros(1500, np.int32)
        for oy in range(ho):
            if transpose:
                assert transpose(buf, ev, acc, iv, geom, oy, oy + 1) == 0
            else:
                assert K.maxpool_t(buf, xv, signed, ev, acc, iv, geom, oy, oy + 1) == 0
        assert np.array_equal(take(acc, iv, 0, h), expected)


def linear_matrix(size: int) -> np.ndarray:
    """Four times the factor-2 half-pixel resize, as written in docs/numerics.md."""
    m = np.zeros((2 * size, size), np.int64)
    for i in range(size):
        m[2 * i, max(i - 1, 0)] += 1
        m[2 * i, i] += 3
        m[2 * i + 1, i] += 3
        m[2 * i + 1, min(i + 1, size - 1)] += 1
    return m


@pytest.mark.parametrize("h,w", [(1, 1), (3, 5), (4, 2)])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("signed", [False, True])
def test_resize_and_its_transpose(rng, h, w, mode, signed):
    ho, wo = (2 * h, 2 * w) if mode == "linear" else (2 * h + 1, 3 * w - 1)
    if mode == "linear":
        my, mx = linear_matrix(h), linear_matrix(w)
    else:
        my = np.eye(h, dtype=np.int64)[[o * h // ho for o in range(ho)]]
        mx = np.eye(w, dtype=np.int64)[[o * w // wo for o in range(wo)]]
    chans = 3
    data, error = operands(rng, (h, w, chans), "extreme"), operands(rng, (ho, wo, chans), "extreme")
    buf = np.zeros(1000, np.uint8)
    xv, ev = K.make_view(1, w, chans, h), K.make_view(300, wo, chans, ho)
    av, iv = K.make_view(2, wo, chans, ho), K.make_view(2, w, chans, h)
    put(buf, xv, data)
    put(buf, ev, error)
    up, down = np.zeros(600, np.int32), np.zeros(600, np.int32)
    for y in range(ho):
        if mode == "linear":
            assert K.upsample_linear(buf, xv, signed, up, av, h, w, y, y + 1) == 0
            assert K.upsample_linear_t(buf, ev, down, iv, h, w, y, y + 1) == 0
        else:
            assert K.upsample_nearest(buf, xv, signed, up, av, h, w, ho, wo, y, y + 1) == 0
            assert K.upsample_nearest_t(buf, ev, down, iv, h, w, ho, wo, y, y + 1) == 0
    assert np.array_equal(take(up, av, 0, ho), np.einsum("ay,bx,yxc->abc", my, mx, read(data, signed)))
    assert np.array_equal(take(down, iv, 0, h), np.einsum("ay,bx,abc->yxc", my, mx, read(error, True)))


# ---------------------------------------------------------------------------------------------------------------- training


def test_range_and_shift_to_eight_bits(rng):
    view, dv = K.make_view(3, 4, 5, 2, pixel_stride=6), K.make_view(1, 4, 5, 3)
    for limit in (1, 127, 128, 5000, 2**31 - 1):
        flat, buf = np.full(100, 2**31 - 1, np.int32), np.zeros(100, np.uint8)
        data = rng.integers(-limit, limit, (2, 4, 5), endpoint=True)
        data[1, 2, 3] = -limit
        put(flat, view, data, 4)
        bits = K.range_bits(flat, view, 4, 6)
        assert bits == limit.bit_length()
        for shift in (max(0, bits - 7), 1, 0, bits + 3):
            K.shift8(flat, view, buf, dv, shift, 4, 6)
            expected = [min(max(rne(int(v), shift), -127), 127) for v in data.ravel()]
            assert np.array_equal(take(buf, dv, 4, 6).view(np.int8).ravel(), expected)
    assert K.range_bits(np.full(20, -(2**31), np.int32), K.make_view(0, 4, 5, 1), 0, 1) == 32
    assert K.range_bits(np.zeros(20, np.int32), K.make_view(0, 4, 5, 1), 0, 1) == 0


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("sides", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("chans", [1, 8, 13])
def test_masks_and_error_scale(rng, signed, sides, chans):
    cols, lo, hi = 3, -128 if signed else 0, 100
    data, width = operands(rng, (3, cols, chans), "extreme"), -(-cols * chans // 8)
    data.ravel()[:2] = (100, 99)
    qv, mv = K.make_view(0, cols, chans, 2), (300, width + 1, 0, 2, cols, chans)
    buf = np.zeros(600, np.uint8)
    keep = ((read(data, signed) > lo) | (not sides[0])) & ((read(data, signed) < hi) | (not sides[1]))
    ev, dv = K.make_view(1, cols, chans, 3), K.make_view(5, cols, chans, 2, pixel_stride=chans + 1)
    for y in (1, 2):  # the mask of two rows in a ring of two
        put(buf, qv, data[y : y + 1], y)
    K.make_mask(buf, qv, signed, lo, hi, sides[0], sides[1], mv, 1, 3)
    packed = [np.packbits(keep[y].ravel(), bitorder="little") for y in (1, 2)]
    assert [bytes(buf[300 + (y % 2) * (width + 1) :][:width]) for y in (1, 2)] == [bytes(p) for p in packed]
    k = rng.integers(16385, 32769, chans)
    k[0] = -32768
    for dtype, limit in ((np.int32, 2**31 - 1), (np.int8, 127)):
        flat, out = np.zeros(200, dtype), np.full(300, 7, np.int32)
        errors = rng.integers(-limit, limit, (2, cols, chans), endpoint=True)
        put(flat, ev, errors, 1)
        for factors, mask in ((k, mv), (k[-1:], K.NO_MASK), (K.NO_SCALE, mv), (K.NO_SCALE, K.NO_MASK)):
            assert K.escale(flat, ev, out, dv, buf, mask, factors, 1, 3) == 0
            used = np.where(keep[1:] | (mask == K.NO_MASK), errors, 0)
            scaled = used if factors.size == 0 else used * factors
            expected = [rne(int(v), 15 if factors.size else 0) for v in scaled.ravel()]
            assert np.array_equal(take(out, dv, 1, 3).ravel(), expected)


def test_error_scale_reports_results_beyond_32_bits():
    view = K.make_view(0, 1, 2, 1)
    for factor, trap in ((32768, False), (32769, True), (-32768, False)):
        flat = np.array([2**31 - 1, 3], np.int32)
        assert bool(K.escale(flat, view, flat, view, np.zeros(1, np.uint8), K.NO_MASK, np.array([factor]), 0, 1)) == trap


@settings(deadline=None, max_examples=100)
@given(st.integers(-127, 127), st.integers(-127, 127), st.integers(-60, 60), st.integers(-60, 60))
def test_aligned_add(a, b, ea, eb):
    view, out = K.make_view(0, 1, 1, 1), np.zeros(1, np.int32)
    exponent = K.aligned_add(np.array([a], np.int8), view, ea, np.array([b], np.int8), view, eb, out, view, 0, 1)
    top = max(ea, eb)
    parts = [rne(v * 256, top - e) if top - e <= 30 else 0 for v, e in ((a, ea), (b, eb))]
    assert (exponent, out[0]) == (top - 8, sum(parts))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=9), st.integers(-3, 35))
def test_pseudo_stochastic_rounding(values, sh):
    def rounded(v: int) -> int:
        if sh <= 0:
            return min(max(v, -127), 127)
        q, r = divmod(abs(v), 1 << sh)
        h = sh >> 1
        big, small = r >> h, (r & ((1 << h) - 1)) * (2 if sh % 2 else 1)
        q = min(q + (big > small), 127)
        return q if v > 0 else -q

    g = np.array(values, np.int32)
    assert K.psr(g, sh).tolist() == [rounded(v) for v in values]
    bits = max(abs(v) for v in values).bit_length()
    assert K.g_bits(g) == bits
    delta = K.delta_of(g, bits - sh)
    assert (delta is None) if bits == 0 else np.array_equal(delta, K.psr(g, sh))


def test_update_clamps_and_counts_flipped_bits(rng):
    w, delta = operands(rng, (9, 11), "extreme").view(np.int8), operands(rng, (9, 11), "random").view(np.int8)
    new, flips = K.update(w, delta)
    assert np.array_equal(new, np.clip(w.astype(int) - delta, -127, 127))
    assert flips == sum(((int(a) ^ int(b)) & 255).bit_count() for a, b in zip(w.ravel(), new.ravel(), strict=True))
    assert K.flipped_bits(w, new) == flips


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-128, 127), min_size=2, max_size=40), st.integers(1, 4000), st.integers(0, 9000), st.data())
def test_integer_cross_entropy(q, m_e, eps, data):
    label = data.draw(st.integers(0, len(q) - 1))
    loss, errors = K.xent(np.array(q, np.int8), label, m_e, eps)
    top, p, t = max(q), [], []
    for v in q:
        d = (top - v) * m_e
        n, f = d >> 12, d & 4095
        p.append((32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)) >> n)
        t.append(d)
    total, other = sum(p), eps // len(q)
    expected = [(v * 32768 + (total >> 1)) // total - other for v in p]
    expected[label] += other - (32768 - (len(q) - 1) * other)
    expected[label] -= sum(expected)
    assert errors.tolist() == expected
    assert errors.sum() == 0
    m = total.bit_length() - 1
    assert loss == min(t[label], 65536) + (m << 12) + (((total << 12) >> m) - 4096) - 61440
    assert K.argmax(np.array(q, np.int8)) == q.index(top)


def test_log2_is_exact_at_powers_of_two():
    assert [K.log2q12(1 << i) for i in (0, 1, 15, 25)] == [0, 4096, 15 * 4096, 25 * 4096]
    assert K.log2q12(3) == 4096 + 2048


def test_warm_up_leaves_nothing_to_compile():
    seen = []
    warm_up(lambda name, number, count: seen.append((number, count)))
    assert seen == [(i, len(seen)) for i in range(len(seen))]
    compiled = warm_up()
    assert compiled == warm_up()
    assert not cold()
