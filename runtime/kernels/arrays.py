"""Array products of the engines `bitserial` (AND, shift and add on packed bit planes) and `fused` (integer products): same sums, same counts.

A product has up to three kinds of stages: its weights as the inner loops take them, made from the cells whenever these have changed; the cycles
that zero bits save, where the machine skips them; the product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from sasimc.runtime.kernel import (
    ONES,
    SKIPPED,
    acc,
    buf,
    bytes_at,
    cells,
    count,
    geometry,
    kernel,
    part,
    tiles,
    vector,
    view,
    words_at,
)
from sasimc.runtime.kernels.cells import driven_cycles, gather_block
from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.dense import (
    accumulate,
    add_row,
    bitserial_range,
    fill_fused,
    fill_planes,
    fused_range,
    fused_shape,
    planes_shape,
)
from sasimc.runtime.kernels.depthwise import dw_band, dw_t_band
from sasimc.runtime.kernels.forms import FORM
from sasimc.runtime.kernels.patches import gather_pixels, ones, scatter_patches
from sasimc.runtime.kernels.rows import write_block
from sasimc.runtime.kernels.simd import LANES, popcount
from sasimc.runtime.kernels.sync import pointer

__all__: list[str] = []

_INPUT_BITS = 8
_PIXELS = FORM.pixels  # rows of a tile of the integer kernel
_NS = {"bitserial": 0.045, "fused": 0.01}
_TAP_NS = {"bitserial": 0.45, "fused": 0.2}
_SHAPE = {"bitserial": planes_shape, "fused": fused_shape}
_BYTES = {"bitserial": 4, "fused": 1}
_GRAIN = {"bitserial": 1, "fused": _PIXELS}


# --------------------------------------------------------------------------------------------------------- what streams


@inner
def _windows(x, g, same, data, first, last):  # type: ignore[no-untyped-def]
    """Windows of output pixels first..last, uint8 [P, K]; read where they stand if they are pixels side by side."""
    k, wo = g[0] * g[1] * x.channels, g[11]
    size, y0, y1 = (last - first) * k, first // wo, (last - 1) // wo
    if same and x.pixel == x.channels and x.row == wo * k and y0 % x.ring + y1 - y0 < x.ring:
        start = x.base + (y0 % x.ring) * x.row + (first - y0 * wo) * k
        return data[start : start + size].reshape(last - first, k)
    flat = np.empty(size + 15, np.uint8)
    gather_pixels(data, view(x), g, x.pad & 255, np.int64(0), first, last, flat)
    return flat[:size].reshape(last - first, k)


@inner
def _plane(y0, y1, x0, x1, v):  # type: ignore[no-untyped-def]
    """The geometry that reads single elements of rows y0..y1, columns x0..x1 of a view."""
    one = np.int64(1)
    return (one, one, one, one, one, one, -y0, -x0, v.height, v.width, y1 - y0, x1 - x0)


@inner
def _row_ones(data, v, r0, r1):  # type: ignore[no-untyped-def]
    """One bits of rows r0..r1 of a view."""
    total = np.int64(0)
    for y in range(r0, r1):
        row = v.base + (y % v.ring) * v.row
        if v.pixel == v.channels:
            total += ones(data, row, v.width * v.channels)
        else:
            for x in range(v.width):
                total += ones(data, row + x * v.pixel, v.channels)
    return total


@inner
def _streamed(x, g, r0, r1):  # type: ignore[no-untyped-def]
    """Rows y0..y1 and columns x0..x1 a depth-wise product streams for input rows r0..r1: with a pad value the border, too."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, w, ho, wo = g
    if x.pad == 0:
        return r0, r1, np.int64(0), w
    bottom, right = (ho - 1) * sh - pt + (kh - 1) * dh + 1, (wo - 1) * sw - pl + (kw - 1) * dw + 1
    return (-pt if r0 == 0 else r0), (max(bottom, h) if r1 == h else r1), -pl, max(right, w)


@inner
def _skip(op, m, streamed):  # type: ignore[no-untyped-def]
    """Count what word lines save that are active only for the one bits of their input byte; ``streamed`` uint8 [P, K] begins with a wave."""
    mat = op.mat
    waves = (streamed.shape[0] + mat.copies - 1) // mat.copies
    place, unit = vector(mat.place, mat.count), vector(mat.unit, mat.places)
    driven = driven_cycles(streamed, tiles(mat), place, unit, mat.units, mat.copies, mat.mats, mat.banks)
    count(op, m, SKIPPED, waves * mat.wave - driven)


def _skips(o: Any, skipping: bool) -> bool:
    return skipping


def _copies(o: Any) -> int:
    return o.mat.copies


@kernel("forward_product", "bitserial", ns=0.5, grain=_copies, when=_skips)
@kernel("forward_product", "fused", ns=0.5, grain=_copies, when=_skips)
def skip_windows(op, m, first, last):  # type: ignore[no-untyped-def]
    _skip(op, m, _windows(op.x, geometry(op.geom), op.geom.same, buf(m), first, last))
    return 0


@inner
def _skip_elements(op, m, v, y0, y1, x0, x1, share, shares):  # type: ignore[no-untyped-def]
    p0, p1 = part(0, (y1 - y0) * (x1 - x0), op.mat.copies, share, shares)
    if p0 < p1:
        _skip(op, m, _windows(v, _plane(y0, y1, x0, x1, v), np.int64(0), buf(m), p0, p1))
    return 0


@kernel("depthwise_product", "bitserial", ns=0.5, when=_skips)
@kernel("depthwise_product", "fused", ns=0.5, when=_skips)
def skip_elements(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    y0, y1, x0, x1 = _streamed(op.x, geometry(op.geom), r0, r1)
    return _skip_elements(op, m, op.x, y0, y1, x0, x1, share, shares)


@kernel("depthwise_transposed", "bitserial", ns=0.5, when=_skips)
@kernel("depthwise_transposed", "fused", ns=0.5, when=_skips)
def skip_errors(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _skip_elements(op, m, op.e, r0, r1, np.int64(0), op.e.width, share, shares)


# ------------------------------------------------------------------------------------------------------------- weights


@inner
def _stored(op, m):  # type: ignore[no-untyped-def]
    """The matrix [K, N] as it stands in the cells of copy 0."""
    out = np.empty((op.mat.k, op.mat.n), np.uint8)
    gather_block(cells(m), tiles(op.mat), 0, 0, op.mat.k, out)
    return out.view(np.int8)


@inner
def _planes(address, blocks, groups):  # type: ignore[no-untyped-def]
    return carray(pointer(address), (blocks, groups, 8, LANES), np.uint32)


@inner
def _pairs(address, blocks, groups):  # type: ignore[no-untyped-def]
    return carray(pointer(address), (blocks, groups, LANES, 4), np.int8)


@inner
def _pack(w, address, blocks, groups):  # type: ignore[no-untyped-def]
    planes = _planes(address, blocks, groups)
    planes[:] = 0
    fill_planes(w, planes)


@inner
def _fuse(w, address, blocks, groups):  # type: ignore[no-untyped-def]
    pairs = _pairs(address, blocks, groups)
    pairs[:] = 0
    fill_fused(w, pairs)


def _prepared(engine: str, transposed: bool) -> dict[str, Any]:
    def shape(o: Any) -> tuple[int, int, int]:
        k, n = (o.mat.n, o.mat.k) if transposed else (o.mat.k, o.mat.n)
        made = _SHAPE[engine](k, n)
        return math.prod(made) * _BYTES[engine], made[0], made[1]

    return {"split": "whole", "weights": lambda o: transposed, "shape": shape}


@kernel("forward_product", "bitserial", **_prepared("bitserial", False))
def pack(op, m, first, last):  # type: ignore[no-untyped-def]
    _pack(_stored(op, m), op.mat.weights, op.mat.blocks, op.mat.groups)
    return 0


@kernel("forward_product", "fused", **_prepared("fused", False))
def fuse(op, m, first, last):  # type: ignore[no-untyped-def]
    _fuse(_stored(op, m), op.mat.weights, op.mat.blocks, op.mat.groups)
    return 0


@kernel("transposed_product", "bitserial", **_prepared("bitserial", True))
def pack_transposed(op, m, first, last):  # type: ignore[no-untyped-def]
    _pack(np.ascontiguousarray(_stored(op, m).T), op.mat.weights, op.mat.blocks, op.mat.groups)
    return 0


@kernel("transposed_product", "fused", **_prepared("fused", True))
def fuse_transposed(op, m, first, last):  # type: ignore[no-untyped-def]
    _fuse(np.ascontiguousarray(_stored(op, m).T), op.mat.weights, op.mat.blocks, op.mat.groups)
    return 0


def _taps() -> dict[str, Any]:
    return {"split": "whole", "weights": lambda o: o.geom.kernel, "shape": lambda o: (o.mat.k * o.mat.n, 0, 0)}


@kernel("depthwise_product", "bitserial", **_taps())
@kernel("depthwise_product", "fused", **_taps())
@kernel("depthwise_transposed", "bitserial", **_taps())
@kernel("depthwise_transposed", "fused", **_taps())
def spread_taps(op, m, first, last):  # type: ignore[no-untyped-def]
    """Rows [C, multiplier * taps] (multiplier slowest) as [taps, C * multiplier]."""
    w, taps = _stored(op, m), op.geom.kh * op.geom.kw
    times = op.mat.n // taps
    out = bytes_at(op.mat.weights, op.mat.k * op.mat.n)
    for c in range(op.mat.k):
        for j in range(times):
            for t in range(taps):
                out[(t * op.mat.k + c) * times + j] = np.uint8(w[c, j * taps + t])
    return 0


# ------------------------------------------------------------------------------------------------------ dense products


def _forward(engine: str) -> dict[str, Any]:
    def ns(o: Any) -> float:
        return o.acc.width * (o.mat.k * o.mat.n * _NS[engine] + (o.mat.k + o.mat.n) * 0.2)

    return {"ns": ns, "grain": _GRAIN[engine]}


@inner
def _inputs(op, m, first, last):  # type: ignore[no-untyped-def]
    x = _windows(op.x, geometry(op.geom), op.geom.same, buf(m), first, last)
    count(op, m, ONES, ones(x.reshape(-1), 0, x.size) * _INPUT_BITS * op.mat.n)
    return x


@kernel("forward_product", "bitserial", **_forward("bitserial"))
def forward_bitserial(op, m, first, last):  # type: ignore[no-untyped-def]
    x, w = _inputs(op, m, first, last), op.mat
    planes = _planes(w.weights, w.blocks, w.groups)
    return bitserial_range(x, planes, op.x.signed != 0, acc(m), view(op.acc), np.int64(0), 0, w.n, first)


@kernel("forward_product", "fused", **_forward("fused"))
def forward_fused(op, m, first, last):  # type: ignore[no-untyped-def]
    x, w = _inputs(op, m, first, last), op.mat
    return fused_range(
        x, _pairs(w.weights, w.blocks, w.groups), op.x.signed != 0, acc(m), view(op.acc), np.int64(0), 0, w.n, first
    )


def _pointwise(o: Any) -> bool:
    """Whether every window of the input side is one position: then products are added where they belong at once."""
    g = o.geom
    return g.taps == 1 and g.stride == (1, 1) and g.pad == (0, 0) and o.acc.shape[:2] == o.e.shape[:2]


def _transposed(engine: str) -> dict[str, Any]:
    def ns(o: Any) -> float:
        return o.e.width * (o.mat.k * o.mat.n * _NS[engine] + (o.mat.k + o.mat.n) * 0.2)

    def work(o: Any) -> int:
        return 0 if _pointwise(o) else 4 * min(o.rows.count, o.e.height) * o.e.width * o.mat.k

    return {"ns": ns, "grain": _GRAIN[engine], "work": work}


@inner
def _errors(op, m, first, last):  # type: ignore[no-untyped-def]
    e, zero = op.e, np.int64(0)
    x = _windows(e, _plane(zero, e.height, zero, e.width, e), np.int64(1), buf(m), first, last)
    count(op, m, ONES, ones(x.reshape(-1), 0, x.size) * _INPUT_BITS * op.mat.k)
    return x


@inner
def _sums(op, m, first, last):  # type: ignore[no-untyped-def]
    """Where the products of error pixels go, and as which view: the accumulators, or a ring of rows to scatter from."""
    if op.geom.same:
        return acc(m), view(op.acc)
    k, width, rows = op.mat.k, op.e.width, op.most
    out = words_at(m.work, rows * width * k)
    for p in range(first, last):
        to = (p // width % rows * width + p % width) * k
        out[to : to + k] = 0
    return out, (np.int64(0), width * k, k, rows, width, k)


@kernel("transposed_product", "bitserial", **_transposed("bitserial"))
def transposed_bitserial(op, m, first, last):  # type: ignore[no-untyped-def]
    x, w = _errors(op, m, first, last), op.mat
    out, where = _sums(op, m, first, last)
    return bitserial_range(x, _planes(w.weights, w.blocks, w.groups), True, out, where, np.int64(0), 0, w.k, first)


@kernel("transposed_product", "fused", **_transposed("fused"))
def transposed_fused(op, m, first, last):  # type: ignore[no-untyped-def]
    x, w = _errors(op, m, first, last), op.mat
    out, where = _sums(op, m, first, last)
    return fused_range(x, _pairs(w.weights, w.blocks, w.groups), True, out, where, np.int64(0), 0, w.k, first)


def _scattered(o: Any, skipping: bool) -> bool:
    return not _pointwise(o)


@kernel("transposed_product", "bitserial", "whole", when=_scattered)
@kernel("transposed_product", "fused", "whole", when=_scattered)
def scatter(op, m, first, last):  # type: ignore[no-untyped-def]
    """Products of the stage before go to the input positions of their windows."""
    k, width, rows, sums, g = op.mat.k, op.e.width, op.most, acc(m), geometry(op.geom)
    products = words_at(m.work, rows * width * k).reshape(rows, width, k)
    wrapped = False
    for y in range(first, last):
        wrapped |= scatter_patches(sums, view(op.acc), products[y % rows], g, y, y + 1)
    return 1 if wrapped else 0


# -------------------------------------------------------------------------------------------------- depth-wise products


def _depthwise(engine: str, outer: str) -> dict[str, Any]:
    def ns(o: Any) -> float:
        v, (sh, sw) = getattr(o, outer), o.geom.stride if outer == "x" else (1, 1)
        return v.width * v.channels * (1.0 + o.geom.taps * _TAP_NS[engine] / (sh * sw))

    return {"ns": ns}


@inner
def _depthwise_product(op, m, r0, r1, share, shares, engine):  # type: ignore[no-untyped-def]
    x, g, data, pad = op.x, geometry(op.geom), buf(m), op.x.pad & 255
    kh, kw, sh, dh, pt, ho = g[0], g[1], g[2], g[4], g[6], g[10]
    y0, y1, x0, x1 = _streamed(x, g, r0, r1)
    a, b = part(r0, r1, 1, share, shares)
    driven = _row_ones(data, x, a, b)
    if share == 0 and pad:
        border = ((y1 - y0) * (x1 - x0) - (r1 - r0) * x.width) * x.channels
        driven += border * np.int64(popcount(np.uint32(pad)))
    count(op, m, ONES, driven * _INPUT_BITS * op.mat.n)
    o0, o1 = max(0, (y0 + pt - (kh - 1) * dh + sh - 1) // sh), min(ho, (y1 - 1 + pt) // sh + 1)
    if o1 <= o0:
        return 0
    a, b = part(o0, o1, 1, share, shares)
    taps = carray(pointer(op.mat.weights), (kh, kw, op.acc.channels), np.int8)
    return dw_band(engine, data, view(x), x.signed, taps, g, pad, y0, y1, acc(m), view(op.acc), a, b)


@kernel("depthwise_product", "bitserial", **_depthwise("bitserial", "x"))
def depthwise_bitserial(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _depthwise_product(op, m, r0, r1, share, shares, 1)


@kernel("depthwise_product", "fused", **_depthwise("fused", "x"))
def depthwise_fused(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _depthwise_product(op, m, r0, r1, share, shares, 0)


@inner
def _depthwise_transposed(op, m, r0, r1, share, shares, engine):  # type: ignore[no-untyped-def]
    e, g, data = op.e, geometry(op.geom), buf(m)
    kh, kw, sh, dh, pt, h = g[0], g[1], g[2], g[4], g[6], g[8]
    a, b = part(r0, r1, 1, share, shares)
    count(op, m, ONES, _row_ones(data, e, a, b) * _INPUT_BITS * op.mat.n)
    i0, i1 = max(0, r0 * sh - pt), min(h, (r1 - 1) * sh - pt + (kh - 1) * dh + 1)
    if i1 <= i0:
        return 0
    a, b = part(i0, i1, 1, share, shares)
    taps = carray(pointer(op.mat.weights), (kh, kw, e.channels), np.int8)
    return dw_t_band(engine, data, view(e), taps, g, r0, r1, acc(m), view(op.acc), a, b)


@kernel("depthwise_transposed", "bitserial", **_depthwise("bitserial", "e"))
def depthwise_transposed_bitserial(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _depthwise_transposed(op, m, r0, r1, share, shares, 1)


@kernel("depthwise_transposed", "fused", **_depthwise("fused", "e"))
def depthwise_transposed_fused(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _depthwise_transposed(op, m, r0, r1, share, shares, 0)


# ----------------------------------------------------------------------------------------------------------- gradients


@inner
def _hold(op, m, values):  # type: ignore[no-untyped-def]
    """Write bytes [K, N] into the scratch rows, pass by pass (`sasimc.isa.instructions.array.scratch_tiles`)."""
    slots = tiles(op.scratch)
    k, n = values.shape
    rows, cols = slots[0, 5], slots[0, 6]
    out = np.zeros((((k + rows - 1) // rows) * ((n + cols - 1) // cols), 8), np.int64)
    i = 0
    for k0 in range(0, k, rows):
        for n0 in range(0, n, cols):
            slot = slots[i % slots.shape[0]]
            out[i, 0], out[i, 1], out[i, 2] = slot[0], slot[1], slot[2]
            out[i, 3], out[i, 4], out[i, 5], out[i, 6] = k0, n0, min(rows, k - k0), min(cols, n - n0)
            i += 1
    write_block(op, m, out, np.int64(0), np.int64(0), values)


@inner
def _nine_bit_ones(values, signed, pad):  # type: ignore[no-untyped-def]
    """One bits of value - pad as 9-bit two's complement, over all bytes."""
    total = np.int64(0)
    for i in range(values.shape[0]):
        value = np.int64(values[i])
        value = (value - 256 if signed and value > 127 else value) - pad
        total += np.int64(popcount(np.uint32(value & 511)))
    return total


@inner
def _places(op, m, r0, r1):  # type: ignore[no-untyped-def]
    """(pixels, address of the streamed operand [K, P], of the sums of the errors int32 [N], of the prepared errors)."""
    pixels, size = (r1 - r0) * op.e.width, np.int64(64)
    totals = m.work + (op.acc.height * pixels + size - 1) // size * size
    return pixels, m.work, totals, totals + (4 * op.e.channels + size - 1) // size * size


@inner
def _operands(op, m, r0, r1):  # type: ignore[no-untyped-def]
    """Put one operand into the scratch rows, transpose the patches, add up the errors; returns these [P, N] and where they are prepared."""
    data, k, n = buf(m), op.acc.height, op.e.channels
    pixels, to, totals, held = _places(op, m, r0, r1)
    first, last, zero = r0 * op.e.width, r1 * op.e.width, np.int64(0)
    patches = _windows(op.a, geometry(op.geom), op.geom.same, data, first, last)
    errors = _windows(op.e, _plane(zero, op.e.height, zero, op.e.width, op.e), np.int64(1), data, first, last)
    kept = op.stationary == 0
    _hold(op, m, patches if kept else errors)
    streaming = (errors if kept else patches).reshape(-1)
    if op.a.pad:
        driven = _nine_bit_ones(streaming, op.a.signed, op.a.pad)
        sums = words_at(totals, n)
        sums[:] = 0
        for p in range(pixels):
            for c in range(n):
                sums[c] += np.int32(np.int8(errors[p, c]))
    else:
        driven = ones(streaming, 0, streaming.shape[0])
    count(op, m, ONES, driven * _INPUT_BITS * (k if kept else n))
    streamed = bytes_at(to, k * pixels).reshape(k, pixels)
    for first in range(0, k, 64):  # a block of columns at a time stays in the cache
        for p in range(pixels):
            for j in range(first, min(k, first + 64)):
                streamed[j, p] = patches[p, j]
    return errors.view(np.int8), held


@inner
def _planes_of(pixels, n):  # type: ignore[no-untyped-def]
    return (n + LANES - 1) // LANES, (pixels + 31) // 32


@inner
def _pairs_of(pixels, n):  # type: ignore[no-untyped-def]
    return (n + 2 * LANES - 1) // (2 * LANES) * 2, (pixels + 3) // 4 + 1


def _gradient(engine: str) -> dict[str, Any]:
    def ns(o: Any) -> float:
        return o.e.width * o.acc.height * o.e.channels * _NS[engine]

    return {"ns": ns}


def _gradient_work(engine: str) -> dict[str, Any]:
    def work(o: Any) -> int:
        pixels = min(o.rows.count, o.e.height) * o.e.width
        held = math.prod(_SHAPE[engine](pixels, o.e.channels)) * _BYTES[engine]
        return o.acc.height * pixels + 4 * o.e.channels + held + 256

    return {"split": "whole", "work": work}


@kernel("gradient_product", "bitserial", **_gradient_work("bitserial"))
def gradient_operands_bitserial(op, m, r0, r1):  # type: ignore[no-untyped-def]
    errors, held = _operands(op, m, r0, r1)
    blocks, groups = _planes_of(errors.shape[0], errors.shape[1])
    _pack(errors, held, blocks, groups)
    return 0


@kernel("gradient_product", "fused", **_gradient_work("fused"))
def gradient_operands_fused(op, m, r0, r1):  # type: ignore[no-untyped-def]
    errors, held = _operands(op, m, r0, r1)
    blocks, groups = _pairs_of(errors.shape[0], errors.shape[1])
    _fuse(errors, held, blocks, groups)
    return 0


@inner
def _less_pad(op, m, out, totals, k0):  # type: ignore[no-untyped-def]
    """Add sum (x - pad) e = sum x e - pad sum e to the accumulators, rows from k0 on."""
    n, pad = op.e.channels, op.a.pad
    sums, values = words_at(totals, n), out.reshape(out.shape[0] // n, n)
    for i in range(values.shape[0]):
        for c in range(n):
            values[i, c] -= np.int32(pad * sums[c])
    return accumulate(acc(m), view(op.acc), values, k0, 0)


@kernel("gradient_product", "bitserial", **_gradient("bitserial"))
def gradient_bitserial(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    k0, k1 = part(0, op.acc.height, _PIXELS, share, shares)
    if k0 >= k1:
        return 0
    (pixels, to, totals, held), n, zero = _places(op, m, r0, r1), op.e.channels, np.int64(0)
    blocks, groups = _planes_of(pixels, n)
    planes, signed = _planes(held, blocks, groups), op.a.signed != 0
    streamed = bytes_at(to + k0 * pixels, (k1 - k0) * pixels).reshape(k1 - k0, pixels)
    if op.a.pad == 0:
        return bitserial_range(streamed, planes, signed, acc(m), view(op.acc), zero, 0, n, k0)
    out = np.zeros((k1 - k0) * n, np.int32)
    bitserial_range(streamed, planes, signed, out, (zero, n, n, k1 - k0, np.int64(1), n), zero, 0, n, zero)
    return _less_pad(op, m, out, totals, k0)


@kernel("gradient_product", "fused", **_gradient("fused"))
def gradient_fused(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    k0, k1 = part(0, op.acc.height, _PIXELS, share, shares)
    if k0 >= k1:
        return 0
    (pixels, to, totals, held), n, zero = _places(op, m, r0, r1), op.e.channels, np.int64(0)
    blocks, groups = _pairs_of(pixels, n)
    pairs, signed = _pairs(held, blocks, groups), op.a.signed != 0
    streamed = bytes_at(to + k0 * pixels, (k1 - k0) * pixels).reshape(k1 - k0, pixels)
    if op.a.pad == 0:
        return fused_range(streamed, pairs, signed, acc(m), view(op.acc), zero, 0, n, k0)
    out = np.zeros((k1 - k0) * n, np.int32)
    fused_range(streamed, pairs, signed, out, (zero, n, n, k1 - k0, np.int64(1), n), zero, 0, n, zero)
    return _less_pad(op, m, out, totals, k0)


# ------------------------------------------------------------------------------------------ products of two activations


@inner
def _kept_zero(b):  # type: ignore[no-untyped-def]
    """Zero point of the bytes that stand in scratch rows (`isa.instructions.array.kept_zero`)."""
    return b.pad - (np.int64(0) if b.signed else np.int64(128))


@inner
def _kept(op, m):  # type: ignore[no-untyped-def]
    """Write the second matrix into the scratch rows; returns it, int8 [K, N], or N + 1 with the column of its zero point."""
    b, data, zero = op.b, buf(m), _kept_zero(op.b)
    n, flip = b.channels, np.uint8(0 if b.signed else 128)
    values = np.empty((b.width, n + (zero != 0)), np.uint8)
    for i in range(b.width):
        of, line = b.base + i * b.pixel, values[i]
        for c in range(n):
            line[c] = data[of + c] ^ flip
        for c in range(n, line.shape[0]):
            line[c] = np.uint8(zero & 255)
    _hold(op, m, values)
    sums = words_at(m.work, values.shape[1])
    sums[:] = 0
    for i in range(b.width):
        for c in range(values.shape[1]):
            sums[c] += np.int32(np.int8(values[i, c]))
    return values.view(np.int8)


@inner
def _behind_sums(op, m):  # type: ignore[no-untyped-def]
    """(columns in the scratch rows, address of the prepared matrix behind the sums of its columns)."""
    columns, size = op.b.channels + (_kept_zero(op.b) != 0), np.int64(64)
    return columns, m.work + (4 * columns + size - 1) // size * size


@inner
def _streamed_pixels(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    """First pixel of a share and its pixels, uint8 [P, K]; counts what they drive."""
    a, zero = op.a, np.int64(0)
    p0, p1 = part(r0 * a.width, r1 * a.width, _PIXELS, share, shares)
    if p0 >= p1:
        return p0, np.empty((zero, a.channels), np.uint8)
    pixels = _windows(a, _plane(zero, a.height, zero, a.width, a), np.int64(1), buf(m), p0, p1)
    flat = pixels.reshape(-1)
    driven = _nine_bit_ones(flat, a.signed, a.pad) if a.pad else ones(flat, 0, flat.shape[0])
    count(op, m, ONES, driven * _INPUT_BITS * _behind_sums(op, m)[0])
    return p0, pixels


@inner
def _less_zeros(op, m, out, p0):  # type: ignore[no-untyped-def]
    """Take the zero points off sums [P, columns] of stored values and add them to the accumulators, pixels from p0 on."""
    columns, n, pad, v = out.shape[1], op.b.channels, np.int32(op.a.pad), op.acc
    of_columns, line, wrapped = words_at(m.work, columns), np.empty(n, np.int32), np.int32(0)
    for i in range(out.shape[0]):
        zero = out[i, n] - pad * of_columns[n] if columns > n else np.int32(0)
        for c in range(n):
            line[c] = np.int32(out[i, c] - pad * of_columns[c] - zero)
        to = v.base + (((p0 + i) // v.width) % v.ring) * v.row + (p0 + i) % v.width * v.pixel
        wrapped |= add_row(acc(m), to, line, n)
    return 1 if wrapped < 0 else 0


def _activations(engine: str) -> dict[str, Any]:
    return {"ns": lambda o: o.a.width * o.a.channels * o.b.channels * _NS[engine]}


def _activations_work(engine: str) -> dict[str, Any]:
    def work(o: Any) -> int:
        k, n = o.b.width, o.b.channels + 1
        return 4 * n + math.prod(_SHAPE[engine](k, n)) * _BYTES[engine] + 128

    return {"split": "whole", "work": work}


@kernel("activation_product", "bitserial", **_activations_work("bitserial"))
def activations_kept_bitserial(op, m, r0, r1):  # type: ignore[no-untyped-def]
    values, (columns, held) = _kept(op, m), _behind_sums(op, m)
    blocks, groups = _planes_of(op.b.width, columns)
    _pack(values, held, blocks, groups)
    return 0


@kernel("activation_product", "fused", **_activations_work("fused"))
def activations_kept_fused(op, m, r0, r1):  # type: ignore[no-untyped-def]
    values, (columns, held) = _kept(op, m), _behind_sums(op, m)
    blocks, groups = _pairs_of(op.b.width, columns)
    _fuse(values, held, blocks, groups)
    return 0


@kernel("activation_product", "bitserial", **_activations("bitserial"))
def activations_bitserial(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    p0, pixels = _streamed_pixels(op, m, r0, r1, share, shares)
    (columns, held), zero = _behind_sums(op, m), np.int64(0)
    if not pixels.shape[0]:
        return 0
    blocks, groups = _planes_of(op.b.width, columns)
    out, whole = np.zeros(pixels.shape[0] * columns, np.int32), (zero, columns, columns, pixels.shape[0], np.int64(1), columns)
    bitserial_range(pixels, _planes(held, blocks, groups), op.a.signed != 0, out, whole, zero, 0, columns, zero)
    return _less_zeros(op, m, out.reshape(pixels.shape[0], columns), p0)


@kernel("activation_product", "fused", **_activations("fused"))
def activations_fused(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    p0, pixels = _streamed_pixels(op, m, r0, r1, share, shares)
    (columns, held), zero = _behind_sums(op, m), np.int64(0)
    if not pixels.shape[0]:
        return 0
    blocks, groups = _pairs_of(op.b.width, columns)
    out, whole = np.zeros(pixels.shape[0] * columns, np.int32), (zero, columns, columns, pixels.shape[0], np.int64(1), columns)
    fused_range(pixels, _pairs(held, blocks, groups), op.a.signed != 0, out, whole, zero, 0, columns, zero)
    return _less_zeros(op, m, out.reshape(pixels.shape[0], columns), p0)


def _patch_work(o: Any) -> int:
    return 2 * min(o.rows.count, o.e.height) * o.e.width * o.geom.taps * o.a.channels


@inner
def _patch_values(op, m, pixels):  # type: ignore[no-untyped-def]
    """Patches minus the pad value, int16 [P, taps, C]."""
    return carray(pointer(m.work), (pixels, op.geom.kh * op.geom.kw, op.a.channels), np.int16)


@kernel("gradient_depthwise", "bitserial", "whole", work=_patch_work)
@kernel("gradient_depthwise", "fused", "whole", work=_patch_work)
def gradient_depthwise_operands(op, m, r0, r1):  # type: ignore[no-untyped-def]
    """One row of the scratch matrix a channel and pixel; values of nine bits take two columns: low byte, high byte."""
    data, a, pixels, taps = buf(m), op.a, (r1 - r0) * op.e.width, op.geom.kh * op.geom.kw
    wide = a.pad != 0 or a.signed == 0
    patches = _windows(a, geometry(op.geom), op.geom.same, data, r0 * op.e.width, r1 * op.e.width)
    values = _patch_values(op, m, pixels)
    width = 2 * taps if wide else taps
    held = np.empty((a.channels * pixels, width), np.uint8)
    for p in range(pixels):
        for t in range(taps):
            for c in range(a.channels):
                byte = np.int16(patches[p, t * a.channels + c])
                value = np.int16((byte - 256 if a.signed and byte > 127 else byte) - a.pad)
                values[p, t, c] = value
                if wide:
                    held[c * pixels + p, 2 * t], held[c * pixels + p, 2 * t + 1] = (
                        np.uint8(value & 255),
                        np.uint8((value >> 8) & 255),
                    )
                else:
                    held[c * pixels + p, t] = np.uint8(value & 255)
    _hold(op, m, held)
    count(op, m, ONES, _row_ones(data, op.e, r0, r1) * _INPUT_BITS * width)
    return 0


def _gradient_depthwise(engine: str) -> dict[str, Any]:
    return {"ns": lambda o: o.e.width * o.e.channels * o.geom.taps * 2 * _TAP_NS[engine]}


@inner
def _spread_sums(op, m, r0, r1, share, shares, bitwise):  # type: ignore[no-untyped-def]
    """acc[c, 0, t] += sum over pixels of value e: multiplied, or one error bit a cycle, the sign cycle subtracted."""
    c0, c1 = part(0, op.a.channels, 1, share, shares)
    data, e, pixels = buf(m), op.e, (r1 - r0) * op.e.width
    values = _patch_values(op, m, pixels)
    sums = np.zeros((c1 - c0, values.shape[1]), np.int32)
    for p in range(pixels):
        of = e.base + ((r0 + p // e.width) % e.ring) * e.row + p % e.width * e.pixel
        for t in range(values.shape[1]):
            for c in range(c0, c1):
                value, error = np.int32(values[p, t, c]), data[of + c]
                if bitwise:
                    for cycle in range(8):
                        driven = (value & -np.int32((error >> np.uint8(cycle)) & np.uint8(1))) << np.int32(cycle)
                        sums[c - c0, t] += -driven if cycle == 7 else driven
                else:
                    sums[c - c0, t] += value * np.int32(np.int8(error))
    return accumulate(acc(m), view(op.acc), sums, c0, 0)


@kernel("gradient_depthwise", "bitserial", **_gradient_depthwise("bitserial"))
def gradient_depthwise_bitserial(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _spread_sums(op, m, r0, r1, share, shares, True)


@kernel("gradient_depthwise", "fused", **_gradient_depthwise("fused"))
def gradient_depthwise_fused(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    return _spread_sums(op, m, r0, r1, share, shares, False)
