"""The digital periphery in inference: bias, requantise, additions, pools, resampling. Formulas of docs/reference/numerics.md; integers only."""

from __future__ import annotations

import numpy as np

from sasimc.runtime.kernel import acc, buf, buf32, geometry, kernel, part, set_reg, vector
from sasimc.runtime.kernels.arithmetic import at, rne, runs, value8
from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.rounding import LEAST_SHIFT, STEP, requantise_constants, requantise_run
from sasimc.runtime.kernels.simd import hold

__all__: list[str] = []


@inner
def _add_to_each(sums, v, bias, first, last):  # type: ignore[no-untyped-def]
    """Add a number for each channel to the sums of rows; 1 where one leaves 32 bits."""
    n, outside = v.channels, np.int64(0)
    for y in range(first, last):
        for x in range(v.width):
            to = at(v, y, x)
            target = sums[to : to + n]
            for c in range(n):
                total = np.int64(target[c]) + bias[c]
                outside |= total ^ np.int64(np.int32(total))
                target[c] = np.int32(total)
    return 1 if outside else 0


@kernel("add_bias", ns=0.5)
def add_bias(op, m, first, last):  # type: ignore[no-untyped-def]
    return _add_to_each(acc(m), op.acc, vector(op.table.bias, op.acc.channels), first, last)


@kernel("add_learned_bias", ns=0.6)
def add_learned_bias(op, m, first, last):  # type: ignore[no-untyped-def]
    n, of = op.acc.channels, op.src.base
    words, bias = buf32(m)[of : of + n], np.empty(n, np.int64)
    for c in range(n):
        bias[c] = rne(np.int64(words[c]), op.down)
    return _add_to_each(acc(m), op.acc, bias, first, last)


@kernel("requantise", ns=0.7)
def requantise(op, m, first, last):  # type: ignore[no-untyped-def]
    """Constants may be repeated: then as many neighbouring pixels are one run."""
    sums, out, t = acc(m), buf(m), op.table
    cols, chans, zero, lo, hi = op.acc.width, op.acc.channels, t.zero, t.lo, t.hi
    bias, mult, shift, half = vector(t.bias, t.count), vector(t.mult, t.count), vector(t.shift, t.count), vector(t.half, t.count)
    together = t.count // chans if op.acc.pixel == chans and op.dst.pixel == chans else np.int64(1)
    whole = True  # else one by one
    for c in range(t.count):
        whole &= shift[c] >= LEAST_SHIFT
    constants = np.empty(6 * t.count, np.int32)
    if whole:
        requantise_constants(t.bias, t.mult, t.shift, t.count // STEP, constants.ctypes.data)
    p, y, x = first, first // cols, first % cols
    while p < last:
        run = min(together, cols - x, last - p)
        n, of, to = run * chans, at(op.acc, y, x), at(op.dst, y, x)
        source, target = sums[of : of + n], out[to : to + n]
        steps = n // STEP if whole else np.int64(0)
        requantise_run(source.ctypes.data, target.ctypes.data, constants.ctypes.data, zero, lo, hi, steps)
        for c in range(steps * STEP, n):
            product = (np.int64(source[c]) + bias[c]) * mult[c]
            value = ((product + half[c] + ((product >> shift[c]) & np.int64(1))) >> shift[c]) + zero
            target[c] = np.uint8(min(max(value, lo), hi))
            source[c] = 0
        p += run
        x += run
        if x == cols:
            x, y = np.int64(0), y + 1
    hold(constants)
    return 0


@kernel("drain", ns=0.4)
def drain(op, m, first, last):  # type: ignore[no-untyped-def]
    sums, out = acc(m), buf32(m)
    count, n = runs(op.acc, op.dst)
    for y in range(first, last):
        for x in range(count):
            of, to = at(op.acc, y, x), at(op.dst, y, x)
            source, target = sums[of : of + n], out[to : to + n]
            for c in range(n):
                target[c] = source[c]
            source[:] = 0
    return 0


@kernel("clip", ns=0.3)
def clip(op, m, first, last):  # type: ignore[no-untyped-def]
    data, n, signed, lo, hi = buf(m), op.src.channels, op.src.signed, op.lo, op.hi
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            source, target = data[of : of + n], data[to : to + n]
            for c in range(n):
                target[c] = np.uint8(min(max(value8(source[c], signed), lo), hi))
    return 0


@kernel("add_quantised", ns=0.9)
def add_quantised(op, m, first, last):  # type: ignore[no-untyped-def]
    data, t, n = buf(m), op.table, op.dst.channels
    za, ma, zb, mb, shift, zy, lo, hi = t.za, t.ma, t.zb, t.mb, t.shift, t.zy, t.lo, t.hi
    half = (np.int64(1) << (shift - 1)) - 1
    flip_a, flip_b = (np.int64(128) if op.a.signed else np.int64(0)), (np.int64(128) if op.b.signed else np.int64(0))
    for y in range(first, last):
        for x in range(op.dst.width):
            of_a, of_b, to = at(op.a, y, x), at(op.b, y, x), at(op.dst, y, x)
            left, right, target = data[of_a : of_a + n], data[of_b : of_b + n], data[to : to + n]
            for c in range(n):
                a = (np.int64(left[c]) ^ flip_a) - flip_a - za
                b = (np.int64(right[c]) ^ flip_b) - flip_b - zb
                total = a * ma + b * mb
                value = ((total + half + ((total >> shift) & np.int64(1))) >> shift) + zy
                target[c] = np.uint8(min(max(value, lo), hi))
    return 0


@kernel("look_up", ns=0.6)
def look_up(op, m, first, last):  # type: ignore[no-untyped-def]
    data, n, flip = buf(m), op.src.channels, np.uint8(128 if op.src.signed else 0)
    values, own = vector(op.table.values, op.table.count), op.table.count > 256
    table = np.empty(256, np.uint8)
    for i in range(256):
        table[i] = np.uint8(values[i])
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            source, target = data[of : of + n], data[to : to + n]
            if own:
                for c in range(n):
                    target[c] = np.uint8(values[256 * c + np.int64(source[c] ^ flip)])
            else:
                for c in range(n):
                    target[c] = table[source[c] ^ flip]
    return 0


@kernel("product", ns=0.6)
def product(op, m, r0, r1, share, shares):  # type: ignore[no-untyped-def]
    """Shares are rows where every row has sums of its own, else channels."""
    data, sums, a, b, out = buf(m), acc(m), op.a, op.b, op.acc
    start, n = np.int64(0), a.channels
    if out.height == a.height:
        r0, r1 = part(r0, r1, 1, share, shares)
    elif out.channels == n:
        start, n = part(0, n, 1, share, shares)
        n -= start
    elif share:
        return 0
    flip_a, flip_b = np.int32(128 if a.signed else 0), np.int32(128 if b.signed else 0)
    less_a, less_b = flip_a + np.int32(a.pad), flip_b + np.int32(b.pad)
    factor, wrapped = np.empty(n, np.int32), np.int64(0)
    for y in range(r0, r1):
        for x in range(a.width):
            of = at(b, y if b.height > 1 else 0, x if b.width > 1 else 0)
            if b.channels == 1:
                factor[:] = (np.int32(data[of]) ^ flip_b) - less_b
            else:
                other = data[of + start : of + start + n]
                for c in range(n):
                    factor[c] = (np.int32(other[c]) ^ flip_b) - less_b
            of, to = at(a, y, x) + start, at(out, y if out.height > 1 else 0, x if out.width > 1 else 0)
            source = data[of : of + n]
            if out.channels == 1:
                total = np.int64(sums[to])
                for c in range(n):
                    total += np.int64(((np.int32(source[c]) ^ flip_a) - less_a) * factor[c])
                narrow = np.int32(total)
                wrapped |= total ^ np.int64(narrow)
                sums[to] = narrow
            else:
                target, sign = sums[to + start : to + start + n], np.int32(0)
                for c in range(n):
                    more = ((np.int32(source[c]) ^ flip_a) - less_a) * factor[c]
                    old = target[c]
                    now = np.int32(old + more)
                    sign |= (old ^ now) & (more ^ now)
                    target[c] = now
                wrapped |= np.int64(sign < 0)
    return 1 if wrapped else 0


# ----------------------------------------------------------------------------------------------------- pools, resampling


@inner
def _add_scaled(sums, to, data, first, chans, flip, factor):  # type: ignore[no-untyped-def]
    """sums[to..] += factor * bytes (flip = 128: signed bytes, 0: unsigned); negative if one wrapped."""
    target, source = sums[to : to + chans], data[first : first + chans]
    wrapped = np.int32(0)
    flip32, factor32 = np.int32(flip), np.int32(factor)
    for c in range(chans):
        more = np.int32(((np.int32(source[c]) ^ flip32) - flip32) * factor32)
        old = target[c]
        total = np.int32(old + more)
        wrapped |= (old ^ total) & (more ^ total)
        target[c] = total
    return wrapped


@kernel("pool_sum", ns=0.6)
def pool_sum(op, m, first, last):  # type: ignore[no-untyped-def]
    """Window by window; positions outside the plane read the pad value."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geometry(op.geom)
    data, sums, chans, pad = buf(m), acc(m), op.x.channels, op.x.pad
    flip = np.int32(128) if op.x.signed else np.int32(0)
    wrapped = np.int64(0)
    total = np.empty(chans, np.int32)
    for oy in range(first, last):
        for ox in range(wo):
            total[:] = 0
            outside = 0
            for ky in range(kh):
                y = oy * sh - pt + ky * dh
                if y < 0 or y >= h:
                    outside += kw
                    continue
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix < 0 or ix >= width:
                        outside += 1
                        continue
                    of = at(op.x, y, ix)
                    source = data[of : of + chans]
                    for c in range(chans):
                        total[c] += (np.int32(source[c]) ^ flip) - flip
            to = at(op.acc, oy, ox)
            target = sums[to : to + chans]
            border = np.int64(outside * pad)
            for c in range(chans):
                value = np.int64(target[c]) + total[c] + border
                narrow = np.int32(value)
                wrapped |= value ^ np.int64(narrow)
                target[c] = narrow
    return 1 if wrapped else 0


@kernel("pool_sum_transposed")
def pool_sum_transposed(op, m, first, last):  # type: ignore[no-untyped-def]
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geometry(op.geom)
    data, sums, n = buf(m), acc(m), op.e.channels
    wrapped = np.int32(0)
    for oy in range(first, last):
        for ky in range(kh):
            y = oy * sh - pt + ky * dh
            if y < 0 or y >= h:
                continue
            for ox in range(wo):
                of = at(op.e, oy, ox)
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix >= 0 and ix < width:
                        wrapped |= _add_scaled(sums, at(op.acc, y, ix), data, of, n, 128, 1)
    return 1 if wrapped < 0 else 0


@kernel("pool_max", ns=0.6)
def pool_max(op, m, first, last):  # type: ignore[no-untyped-def]
    """Padding never wins: every window holds at least one real position."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geometry(op.geom)
    data, n = buf(m), op.x.channels
    flip = np.uint8(128 if op.x.signed else 0)
    best = np.empty(n, np.uint8)
    for oy in range(first, last):
        for ox in range(wo):
            best[:] = 0  # the least value: bytes are compared with their sign bit flipped
            for ky in range(kh):
                y = oy * sh - pt + ky * dh
                if y < 0 or y >= h:
                    continue
                for kx in range(kw):
                    ix = ox * sw - pl + kx * dw
                    if ix >= 0 and ix < width:
                        of = at(op.x, y, ix)
                        source = data[of : of + n]
                        for c in range(n):
                            best[c] = max(best[c], source[c] ^ flip)
            to = at(op.dst, oy, ox)
            target = data[to : to + n]
            for c in range(n):
                target[c] = best[c] ^ flip
    return 0


@kernel("pool_max_transposed")
def pool_max_transposed(op, m, first, last):  # type: ignore[no-untyped-def]
    """The first maximum of a window, row by row, takes the error."""
    kh, kw, sh, sw, dh, dw, pt, pl, h, width, _, wo = geometry(op.geom)
    data, sums = buf(m), acc(m)
    flip = 128 if op.x.signed else 0
    wrapped = np.int32(0)
    for oy in range(first, last):
        for ox in range(wo):
            error = at(op.e, oy, ox)
            for c in range(op.x.channels):
                best, where = -1, np.int64(0)
                for ky in range(kh):
                    y = oy * sh - pt + ky * dh
                    if y < 0 or y >= h:
                        continue
                    for kx in range(kw):
                        ix = ox * sw - pl + kx * dw
                        if ix < 0 or ix >= width:
                            continue
                        value = np.int64(data[at(op.x, y, ix) + c]) ^ flip
                        if value > best:
                            best, where = value, at(op.acc, y, ix) + c
                if best >= 0:
                    wrapped |= _add_scaled(sums, where, data, error + c, 1, 128, 1)
    return 1 if wrapped < 0 else 0


@inner
def _source(o, k, small, large, linear):  # type: ignore[no-untyped-def]
    """Input of output position ``o`` of a resampled axis and its weight; k: 0 the nearer, 1 the farther (factor 2, half-pixel, edges clamped)."""
    if not linear:
        return o * small // large, 1
    near = o >> 1
    if k == 0:
        return near, 3
    return min(max(near - 1 if o & 1 == 0 else near + 1, 0), small - 1), 1


@kernel("upsample", ns=2.0)
def upsample(op, m, first, last):  # type: ignore[no-untyped-def]
    data, sums, x = buf(m), acc(m), op.x
    linear, flip = op.geom.mode == 1, (128 if x.signed else 0)
    near = 2 if linear else 1
    wrapped = np.int32(0)
    for oy in range(first, last):
        for ox in range(op.acc.width):
            to = at(op.acc, oy, ox)
            for i in range(near):
                y, down = _source(oy, i, x.height, op.acc.height, linear)
                for j in range(near):
                    ix, right = _source(ox, j, x.width, op.acc.width, linear)
                    wrapped |= _add_scaled(sums, to, data, at(x, y, ix), x.channels, flip, down * right)
    return 1 if wrapped < 0 else 0


@kernel("upsample_transposed")
def upsample_transposed(op, m, first, last):  # type: ignore[no-untyped-def]
    data, sums, e = buf(m), acc(m), op.e
    linear = op.geom.mode == 1
    near = 2 if linear else 1
    wrapped = np.int32(0)
    for oy in range(first, last):
        for ox in range(e.width):
            of = at(e, oy, ox)
            for i in range(near):
                y, down = _source(oy, i, op.acc.height, e.height, linear)
                for j in range(near):
                    ix, right = _source(ox, j, op.acc.width, e.width, linear)
                    wrapped |= _add_scaled(sums, at(op.acc, y, ix), data, of, e.channels, 128, down * right)
    return 1 if wrapped < 0 else 0


@kernel("argmax")
def argmax(op, m, first, last):  # type: ignore[no-untyped-def]
    from_, data, words = op.src, buf(m), buf32(m)
    best, largest = 0, np.int64(-(1 << 31))
    for c in range(from_.channels):
        at_c = from_.base + c
        value = np.int64(words[at_c]) if from_.item == 4 else value8(data[at_c], from_.signed)
        if value > largest:
            best, largest = c, value
    set_reg(m, op.rd, best)
    return 0
