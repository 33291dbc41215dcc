"""Kernels against plain Python: every engine, negative operands, extremes, odd sizes, strided views and row rings."""

from __future__ import annotations

import numpy as np
import pytest

from sasimc.isa.spec import TABLE
from sasimc.runtime.kernel import KERNELS, NATIVE, stages
from sasimc.runtime.kernels.dense import (
    View,
    accumulate,
    dense_bitserial,
    dense_bitserial_acc,
    dense_fused,
    dense_fused_acc,
    make_view,
    pack_weights,
    prepare_fused,
)
from sasimc.runtime.kernels.depthwise import ENGINES as CODES
from sasimc.runtime.kernels.depthwise import Geom, dw_scatter, dw_t_band, make_geom
from sasimc.runtime.kernels.patches import gather_patches, ones, scatter_patches

ENGINES = ["bitserial", "fused"]


def offset(view: View, y: int, x: int, c: int) -> int:
    return view[0] + (y % view[3]) * view[1] + x * view[2] + c


def put(flat: np.ndarray, view: View, rows: np.ndarray, first: int = 0) -> None:
    for y in range(rows.shape[0]):
        for x in range(rows.shape[1]):
            at = offset(view, first + y, x, 0)
            flat[at : at + rows.shape[2]] = rows[y, x]


def take(flat: np.ndarray, view: View, r0: int, r1: int) -> np.ndarray:
    return np.array([[flat[offset(view, y, x, 0) :][: view[5]] for x in range(view[4])] for y in range(r0, r1)])


def read(data: np.ndarray, signed: bool) -> np.ndarray:
    return (data.view(np.int8) if signed else data).astype(np.int64)


def operands(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Bytes: random, or only extremes of both interpretations."""
    if kind == "random":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), shape)


def window_taps(geom: Geom, oy: int, ox: int) -> list[tuple[int, int, int, int, bool]]:
    kh, kw, sh, sw, dh, dw, pt, pl, h, w, _, _ = geom
    out = []
    for ky in range(kh):
        for kx in range(kw):
            y, x = oy * sh - pt + ky * dh, ox * sw - pl + kx * dw
            out.append((ky, kx, y, x, 0 <= y < h and 0 <= x < w))
    return out


GEOMETRIES = [  # kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo
    make_geom(1, 1, 1, 1, 1, 1, 0, 0, 4, 5, 4, 5),
    make_geom(3, 3, 1, 1, 1, 1, 1, 1, 5, 7, 5, 7),
    make_geom(3, 3, 2, 2, 1, 1, 0, 0, 8, 6, 4, 3),  # the right and lower padding of "same" with stride 2
    make_geom(5, 3, 2, 1, 1, 2, 2, 2, 7, 6, 4, 6),
    make_geom(2, 4, 3, 2, 2, 1, 1, 3, 9, 5, 3, 4),
    make_geom(3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
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
    assert np.array_equal(dense_bitserial(given_x, pack_weights(w), n, signed), expected)
    assert np.array_equal(dense_fused(given_x, prepare_fused(w), n, signed), expected)


def test_transposed_product_takes_the_packed_transpose(rng):
    w = operands(rng, (37, 21), "random").view(np.int8)
    e = operands(rng, (6, 21), "extreme").view(np.int8)
    expected = e.astype(np.int64) @ w.T.astype(np.int64)
    assert np.array_equal(dense_bitserial(e, pack_weights(w.T), 37, True), expected)
    assert np.array_equal(dense_fused(e, prepare_fused(w.T), 37, True), expected)


def test_dense_extremes_do_not_saturate():
    k = 4000
    w = np.full((k, 2), -128, np.int8)
    for signed, value in ((False, 255), (True, -128)):
        x = np.full((2, k), value & 255, np.uint8)
        assert (dense_bitserial(x, pack_weights(w), 2, signed) == -128 * value * k).all()
        assert (dense_fused(x, prepare_fused(w), 2, signed) == -128 * value * k).all()


@pytest.mark.parametrize("engine", ["bitserial", "fused"])
def test_dense_accumulates_through_a_ringed_view(rng, engine):
    cols, chans, n, c0, k = 5, 24, 19, 3, 40
    view = make_view(11, cols, chans, 3, row_stride=cols * 30 + 4, pixel_stride=30)
    acc = rng.integers(-1000, 1000, 2000).astype(np.int32)
    before = acc.copy()
    x, w = operands(rng, (3 * cols, k), "random"), operands(rng, (k, n), "random").view(np.int8)
    expected = acc.astype(np.int64)
    product = x.astype(np.int64) @ w.astype(np.int64)
    for p in range(3 * cols):
        at = offset(view, 2 + p // cols, p % cols, c0)
        expected[at : at + n] += product[p]
    packed = pack_weights(w) if engine == "bitserial" else prepare_fused(w)
    run = dense_bitserial_acc if engine == "bitserial" else dense_fused_acc
    assert run(x, packed, False, acc, view, 2, c0, n) == 0
    assert np.array_equal(acc, expected)
    other = before.copy()
    assert accumulate(other, view, product.astype(np.int32), 2, c0) == 0
    assert np.array_equal(other, expected)


@pytest.mark.parametrize("start,weight", [(2**31 - 100, 1), (-(2**31) + 100, -1)])
def test_accumulators_that_wrap_are_reported(start, weight):
    w = np.full((1, 3), weight, np.int8)
    x = np.full((1, 1), 100, np.uint8)
    view = make_view(0, 1, 3, 1)
    for value, wraps in ((x, weight == 1), (x + 1, True)):  # -2^31 itself fits, 2^31 does not
        for run, packed in ((dense_bitserial_acc, pack_weights(w)), (dense_fused_acc, prepare_fused(w))):
            acc = np.full(3, start, np.int32)
            assert bool(run(value.astype(np.uint8), packed, False, acc, view, 0, 0, 3)) == wraps
        acc = np.full(3, start, np.int32)
        assert bool(accumulate(acc, view, np.array([[0, weight * int(value[0, 0]), 0]], np.int32), 0, 0)) == wraps


# -------------------------------------------------------------------------------------------------------------- depth-wise


def depthwise_oracle(x: np.ndarray, w: np.ndarray, geom: Geom, pad: int, rows: range | None = None) -> np.ndarray:
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
    xv = make_view(3, width, chans, h, row_stride=width * (chans + 2) + 1, pixel_stride=chans + 2)
    av = make_view(5, wo, chans * times, ho, pixel_stride=chans * times + 3)
    buf, acc = np.full(4000, 77, np.uint8), np.zeros(4000, np.int32)
    put(buf, xv, data)
    last = max(h, (ho - 1) * geom[2] - pt + (kh - 1) * dh + 1)
    for first in range(-pt, last, 2):  # in portions of two rows
        assert dw_scatter(engine, buf, xv, signed, w, geom, pad, first, min(first + 2, last), acc, av) == 0
    assert np.array_equal(take(acc, av, 0, ho), depthwise_oracle(read(data, signed), w, geom, pad))
    assert acc.sum(dtype=np.int64) == take(acc, av, 0, ho).sum()  # nothing was written outside the view


@pytest.mark.parametrize("engine", ENGINES)
def test_depthwise_rings_hold_only_what_is_needed(rng, engine):
    geom = make_geom(3, 3, 1, 1, 1, 1, 1, 1, 9, 4, 9, 4)
    chans = 16
    data, w = operands(rng, (9, 4, chans), "random"), operands(rng, (3, 3, chans), "random").view(np.int8)
    xv, av = make_view(0, 4, chans, 1), make_view(0, 4, chans, 3)  # one input row, three rows of sums
    buf, acc = np.zeros(4 * chans, np.uint8), np.zeros(3 * 4 * chans, np.int32)
    expected, out = depthwise_oracle(data.astype(np.int64), w, geom, 0), []
    for y in range(9):
        put(buf, xv, data[y : y + 1], y)
        dw_scatter(engine, buf, xv, False, w, geom, 0, y, y + 1, acc, av)
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
    ev, av = make_view(2, wo, chans * times, ho, pixel_stride=chans * times + 1), make_view(1, width, chans, h)
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
        assert not dw_t_band(CODES[engine], buf, ev, w, geom, first, first + 1, acc, av, 0, h)
    assert np.array_equal(take(acc, av, 0, h), expected)


def test_depthwise_reports_wrapping():
    geom = make_geom(1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1)
    view, w = make_view(0, 1, 1, 1), np.full((1, 1, 1), -128, np.int8)
    for engine in ENGINES:
        for start, wraps in ((-(2**31) + 128 * 255, False), (-(2**31) + 128 * 255 - 1, True)):
            acc = np.full(1, start, np.int32)
            assert bool(dw_scatter(engine, np.full(1, 255, np.uint8), view, False, w, geom, 0, 0, 1, acc, view)) == wraps


# ----------------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize("geom", GEOMETRIES)
@pytest.mark.parametrize("dense_pixels", [True, False])
def test_gather_and_scatter_patches(rng, geom, dense_pixels):
    kh, kw, *_, h, width, ho, wo = geom
    chans, pad = 3, 9
    data = operands(rng, (h, width, chans), "random")
    ring = h if h < 4 else h + 2
    xv = make_view(7, width, chans, ring, pixel_stride=0 if dense_pixels else 5)
    buf = np.zeros(4000, np.uint8)
    put(buf, xv, data)
    patches = gather_patches(buf, xv, geom, pad, 0, ho)
    expected = np.full((ho * wo, kh * kw, chans), pad)
    acc, av = np.zeros(3000, np.int32), make_view(4, width, chans, h, pixel_stride=4)
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
    assert np.array_equal(gather_patches(buf, xv, geom, pad, 1, ho), expected.reshape(ho * wo, -1)[wo:])
    for oy in range(ho):
        assert scatter_patches(acc, av, products[oy * wo : (oy + 1) * wo], geom, oy, oy + 1) == 0
    assert np.array_equal(take(acc, av, 0, h), transposed)


def test_gather_crosses_the_end_of_a_ring(rng):
    geom = make_geom(3, 3, 1, 1, 1, 1, 1, 1, 8, 5, 8, 5)
    point = make_geom(1, 1, 1, 1, 1, 1, 0, 0, 8, 5, 8, 5)
    data, xv = operands(rng, (8, 5, 4), "random"), make_view(0, 5, 4, 4)
    buf = np.zeros(80, np.uint8)
    put(buf, xv, data[3:7], 3)  # rows 3..7 live in a ring of four
    padded = np.pad(data, ((1, 1), (1, 1), (0, 0)))
    expected = [padded[y : y + 3, x : x + 3].reshape(-1) for y in (4, 5) for x in range(5)]
    assert np.array_equal(gather_patches(buf, xv, geom, 0, 4, 6), expected)
    assert np.array_equal(gather_patches(buf, xv, point, 0, 3, 6), data[3:6].reshape(15, 4))


def test_one_bits(rng):
    data = operands(rng, (500,), "random")
    for first, count in ((0, 500), (3, 1), (9, 64), (1, 0), (250, 250)):
        assert ones(data, first, count) == np.bitwise_count(data[first : first + count]).sum()


def test_every_instruction_has_its_kernel_on_every_engine():
    """The table is complete: warm-up, capability and this test go through it."""
    for spec in TABLE.values():
        if spec.group != "control":
            for engine in NATIVE:
                assert stages(spec.kernel, engine), (spec.mnemonic, engine)
    declared = {spec.kernel for spec in TABLE.values()}
    assert {name for name, _ in KERNELS} == declared - {""}
