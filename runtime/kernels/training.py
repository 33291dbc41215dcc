"""The digital periphery in training: ranges, shifts, masks, error scaling, rounding, loss. Formulas of docs/reference/numerics.md, sections "Loss",
"Backward", "Gradient and update"; integers only."""

from __future__ import annotations

import numpy as np

from sasimc.runtime.kernel import SATURATED, buf, buf8, buf16, buf32, count, kernel, raise_reg, reg, set_reg, vector
from sasimc.runtime.kernels.arithmetic import at, binary_digits, digits32, rne, runs, value8
from sasimc.runtime.kernels.compiling import inner
from sasimc.runtime.kernels.masks import GROUP, keep_bytes, keep_words, pack_bits
from sasimc.runtime.kernels.rounding import STEP, shift_run
from sasimc.runtime.kernels.simd import LANES, hold

__all__ = ["STEP_LIMIT"]

DIGITS = 11
"""Digits that a number of 16 bits keeps; its exponent stands above them, the highest of which is understood."""
BIAS_LIMIT = 1 << 30
"""Largest magnitude of a learned bias."""
STEP_LIMIT = 127 << 8
"""Largest 16-bit step of an accumulated weight, in 256ths."""


@inner
def _largest(src, data, first, last):  # type: ignore[no-untyped-def]
    """Binary digits of the largest magnitude in some rows."""
    columns, n = runs(src, src)
    low, high = np.int32(0), np.int32(0)
    for y in range(first, last):
        for x in range(columns):
            of = at(src, y, x)
            values = data[of : of + n]
            for c in range(n):
                low = min(low, values[c])
                high = max(high, values[c])
    return binary_digits(max(-np.int64(low), np.int64(high)))


@kernel("range_bits", ns=0.15)
def range_bits(op, m, first, last):  # type: ignore[no-untyped-def]
    raise_reg(m, op.rd, _largest(op.src, buf32(m), first, last))
    return 0


@kernel("range_beyond", ns=0.15)
def range_beyond(op, m, first, last):  # type: ignore[no-untyped-def]
    data, most = buf32(m), min(max(reg(m, op.rs), np.int64(0)), np.int64(32)) + 7
    digits = _largest(op.src, data, first, last)
    raise_reg(m, op.rd, digits)
    if digits > most:
        beyond = np.int64(0)
        for y in range(first, last):
            for x in range(op.src.width):
                of = at(op.src, y, x)
                for c in range(op.src.channels):
                    beyond += (abs(np.int64(data[of + c])) >> most) > 0
        count(op, m, SATURATED, beyond)
    return 0


@kernel("cut16", ns=0.8)
def cut16(op, m, first, last):  # type: ignore[no-untyped-def]
    words, out = buf32(m), buf16(m)
    count, n = runs(op.src, op.dst)
    for y in range(first, last):
        for x in range(count):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            source, target = words[of : of + n], out[to : to + n]
            for c in range(n):
                value = np.int64(source[c])
                size = abs(value)
                cut = max(digits32(source[c]) - DIGITS, np.int64(0))
                kept = size >> cut
                code = (cut << (DIGITS - 1)) + (kept | np.int64((kept << cut) != size))
                target[c] = np.int16(-code if value < 0 else code)
    return 0


@inner
def _restored(source, target):  # type: ignore[no-untyped-def]
    """What numbers of 16 bits stand for."""
    for c in range(source.shape[0]):
        value = np.int32(source[c])
        size = abs(value)
        cut = max((size >> np.int32(DIGITS - 1)) - np.int32(1), np.int32(0))
        size = (size - (cut << np.int32(DIGITS - 1))) << cut
        target[c] = -size if value < 0 else size


@kernel("shift8", ns=0.5)
def shift8(op, m, first, last):  # type: ignore[no-untyped-def]
    words, halves, out, shift = buf32(m), buf16(m), buf(m), reg(m, op.rs)
    count, n = runs(op.src, op.dst)
    line = np.empty(n if op.src.item == 2 else 0, np.int32)
    for y in range(first, last):
        for x in range(count):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            target = out[to : to + n]
            if op.src.item == 2:
                _restored(halves[of : of + n], line)
                source = line
            else:
                source = words[of : of + n]
            steps = n // STEP if 0 < shift < 32 else np.int64(0)
            shift_run(source.ctypes.data, target.ctypes.data, shift, steps)
            for c in range(steps * STEP, n):
                target[c] = np.uint8(min(max(rne(np.int64(source[c]), shift), -127), 127))
    hold(line)
    return 0


@kernel("shift8_carried", ns=0.8)
def shift8_carried(op, m, first, last):  # type: ignore[no-untyped-def]
    words, out, up = buf32(m), buf(m), max(reg(m, op.rs), np.int64(0))
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            rest = np.int64(0)
            for c in range(op.src.channels):
                whole = np.int64(words[of + c]) + rest
                value = min(max(rne(whole, up), -127), 127)
                rest = whole - (value << up)
                out[to + c] = np.uint8(value)
    return 0


@kernel("make_mask", ns=0.1)
def make_mask(op, m, first, last):  # type: ignore[no-untyped-def]
    """Bit x * channels + c of a row, least significant first."""
    data, t = buf(m), op.table
    cols, n = runs(op.src, op.src)
    lowest, highest = np.int64(-128 if op.src.signed else 0), np.int64(127 if op.src.signed else 255)
    # bounds that an activation did not set lie outside every byte
    least = max(lowest, t.lo + 1) if t.use_lo else lowest
    most = min(highest, t.hi - 1) if t.use_hi else highest
    bits = cols * n
    groups = (bits + GROUP - 1) // GROUP if least <= most else np.int64(0)
    direct = bits // GROUP if cols == 1 and groups else np.int64(0)  # read where they stand; the rest from a copy
    given, packed = np.zeros((groups - direct) * GROUP, np.uint8), np.zeros((bits + GROUP - 1) // GROUP * GROUP // 8, np.uint8)
    for y in range(first, last):
        of = at(op.src, y, 0)
        pack_bits(data[of : of + bits].ctypes.data, packed.ctypes.data, direct, least, most - least)
        if groups > direct:
            for x in range(cols):
                of = at(op.src, y, x)
                source, line = data[of + direct * GROUP : of + n], given[x * n :]
                for c in range(source.shape[0]):
                    line[c] = source[c]
            pack_bits(given.ctypes.data, packed.ctypes.data + direct * (GROUP // 8), groups - direct, least, most - least)
        row, size = at(op.dst, y, 0), (bits + 7) >> 3
        if bits & 7:  # bits behind the last element are zero
            packed[size - 1] &= np.uint8((1 << (bits & 7)) - 1)
        data[row : row + size] = packed[:size]
    hold(given)
    hold(packed)
    return 0


@kernel("apply_mask", ns=0.2)
def apply_mask(op, m, first, last):  # type: ignore[no-untyped-def]
    words, errors, mask = buf32(m), buf8(m), buf(m)
    src, dst, narrow = op.src, op.dst, op.src.item == 1
    count, n = runs(src, dst)
    # where no element is read after another one was written in its place, and every run's bits begin with a byte
    apart = dst.low >= src.high or src.low >= dst.high
    same = not narrow and dst.address == src.address and dst.row == src.row and dst.pixel == src.pixel
    groups = n // LANES if (apart or same) and (count == 1 or n & 7 == 0) else np.int64(0)
    line, kept = np.empty(n, np.int32), np.empty((count * n + 7) >> 3, np.uint8)
    for y in range(first, last):
        row = at(op.bits_, y, 0)
        kept[:] = mask[row : row + kept.shape[0]]
        for x in range(count):
            of, to, bit = at(src, y, x), at(dst, y, x), x * n
            target, bits = words[to : to + n], kept.ctypes.data + (bit >> 3)
            if narrow:
                keep_bytes(errors[of : of + n].ctypes.data, bits, target.ctypes.data, groups)
            else:
                keep_words(words[of : of + n].ctypes.data, bits, target.ctypes.data, groups)
            done = groups * LANES
            for c in range(done, n):
                value = np.int32(errors[of + c]) if narrow else words[of + c]
                line[c] = value if (kept[(bit + c) >> 3] >> ((bit + c) & 7)) & 1 else np.int32(0)
            for c in range(done, n):
                target[c] = line[c]
    hold(kept)
    return 0


@inner
def _scaled(source, of, target, to, n, factor, line):  # type: ignore[no-untyped-def]
    values, out = source[of : of + n], target[to : to + n]
    for c in range(n):
        line[c] = values[c]
    outside = np.int64(0)
    for c in range(n):
        product = np.int64(line[c]) * factor[c]
        value = (product + 16383 + ((product >> 15) & 1)) >> 15  # rne(product, 15)
        narrow = np.int32(value)
        outside |= value ^ np.int64(narrow)
        out[c] = narrow
    return outside


@kernel("scale_error", ns=0.6)
def scale_error(op, m, first, last):  # type: ignore[no-untyped-def]
    words, errors, n = buf32(m), buf8(m), op.src.channels
    factor = vector(op.table.k, op.table.count)
    line, outside = np.empty(n, np.int32), np.int64(0)
    if op.table.count == 1:
        factor = np.full(n, factor[0])
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            if op.src.item == 1:
                outside |= _scaled(errors, of, words, to, n, factor, line)
            else:
                outside |= _scaled(words, of, words, to, n, factor, line)
    return 1 if outside else 0


@kernel("add_aligned", ns=1.0)
def add_aligned(op, m, first, last):  # type: ignore[no-untyped-def]
    errors, out, n = buf8(m), buf32(m), op.dst.channels
    top = max(reg(m, op.ra), reg(m, op.rb))
    down_a, down_b = top - reg(m, op.ra), top - reg(m, op.rb)
    for y in range(first, last):
        for x in range(op.dst.width):
            of_a, of_b, to = at(op.a, y, x), at(op.b, y, x), at(op.dst, y, x)
            a, b, target = errors[of_a : of_a + n], errors[of_b : of_b + n], out[to : to + n]
            for c in range(n):
                left = rne(np.int64(a[c]) * 256, down_a) if down_a <= 30 else np.int64(0)  # a shift of more than 30 gives 0
                right = rne(np.int64(b[c]) * 256, down_b) if down_b <= 30 else np.int64(0)
                target[c] = np.int32(left + right)
    return 0


@inner
def _rounded(source, target, shift, limit, line):  # type: ignore[no-untyped-def]
    low, half, odd = (np.int64(1) << shift) - 1, shift >> 1, shift & 1
    low_r = (np.int64(1) << half) - 1
    for c in range(source.shape[0]):
        value = np.int64(source[c])
        size = abs(value)
        rest = size & low
        size = min((size >> shift) + np.int64((rest >> half) > ((rest & low_r) << odd)), limit)
        line[c] = -size if value < 0 else size
    for c in range(source.shape[0]):
        target[c] = line[c]


@kernel("round_pseudo_stochastically", ns=0.8)
def round_pseudo_stochastically(op, m, first, last):  # type: ignore[no-untyped-def]
    """A shift of zero or less only limits; one beyond the 31 bits of a magnitude leaves nothing that its own half outweighs."""
    words, steps, n = buf32(m), buf8(m), op.src.channels
    shift = min(max(reg(m, op.rs), np.int64(0)), np.int64(62))
    limit = np.int64(127 if op.dst.item == 1 else STEP_LIMIT)
    line = np.empty(n, np.int32)  # source and target may be one memory
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            if op.dst.item == 1:
                _rounded(words[of : of + n], steps[to : to + n], shift, limit, line)
            else:
                _rounded(words[of : of + n], words[to : to + n], shift, limit, line)
    return 0


@inner
def _mixed(h):  # type: ignore[no-untyped-def]
    """A number of 32 bits for another one, all bits of which it depends on (the end of MurmurHash3)."""
    h = (h ^ (h >> 16)) * np.int64(0x85EBCA6B) & np.int64(0xFFFFFFFF)
    h = (h ^ (h >> 13)) * np.int64(0xC2B2AE35) & np.int64(0xFFFFFFFF)
    return h ^ (h >> 16)


@inner
def _drawn(source, target, shift, limit, pixel, first, line):  # type: ignore[no-untyped-def]
    low = (np.int64(1) << shift) - 1
    for c in range(source.shape[0]):
        value = np.int64(source[c])
        size = abs(value)
        drawn = _mixed(pixel + (first + c) * np.int64(0x9E3779B9) & np.int64(0xFFFFFFFF))
        size = min((size >> shift) + np.int64((((size & low) << 32) >> shift) > drawn), limit)
        line[c] = -size if value < 0 else size
    for c in range(source.shape[0]):
        target[c] = line[c]


@kernel("round_stochastically", ns=1.2)
def round_stochastically(op, m, first, last):  # type: ignore[no-untyped-def]
    words, steps, n = buf32(m), buf8(m), op.src.channels
    shift = min(max(reg(m, op.rs), np.int64(0)), np.int64(62))
    limit = np.int64(127 if op.dst.item == 1 else STEP_LIMIT)
    tensor = _mixed(_mixed(_mixed(reg(m, op.rk) & np.int64(0xFFFFFFFF)) ^ op.stream) ^ reg(m, op.rb))
    line = np.empty(n, np.int32)  # source and target may be one memory
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.dst, y, x)
            pixel = _mixed(tensor ^ ((y << 16) + x & np.int64(0xFFFFFFFF)))
            if op.dst.item == 1:
                _drawn(words[of : of + n], steps[to : to + n], shift, limit, pixel, op.first, line)
            else:
                _drawn(words[of : of + n], words[to : to + n], shift, limit, pixel, op.first, line)
    return 0


@kernel("velocity", ns=0.8)
def velocity(op, m, first, last):  # type: ignore[no-untyped-def]
    words, n, decay = buf32(m), op.src.channels, op.decay
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.v, y, x)
            source, target = words[of : of + n], words[to : to + n]
            for c in range(n):
                value = np.int64(target[c])
                value += np.int64(source[c]) - rne(value, decay)
                target[c] = np.int32(min(max(value, -STEP_LIMIT), STEP_LIMIT))
    return 0


@kernel("carry", ns=0.8)
def carry(op, m, first, last):  # type: ignore[no-untyped-def]
    words, small, n = buf32(m), buf8(m), op.src.channels
    for y in range(first, last):
        for x in range(op.src.width):
            of, low, to = at(op.src, y, x), at(op.low, y, x), at(op.dst, y, x)
            source, rest, delta = words[of : of + n], small[low : low + n], small[to : to + n]
            for c in range(n):
                total = np.int64(rest[c]) - np.int64(source[c])
                up = (total + 128) >> 8
                delta[c] = np.int8(-up)
                rest[c] = np.int8(total - (up << 8))
    return 0


@kernel("update_bias", ns=0.8)
def update_bias(op, m, first, last):  # type: ignore[no-untyped-def]
    words, n = buf32(m), op.src.channels
    for y in range(first, last):
        for x in range(op.src.width):
            of, to = at(op.src, y, x), at(op.b, y, x)
            source, target = words[of : of + n], words[to : to + n]
            for c in range(n):
                target[c] = np.int32(min(max(np.int64(target[c]) - np.int64(source[c]), -BIAS_LIMIT), BIAS_LIMIT))
    return 0


@kernel("cross_entropy")
def cross_entropy(op, m, first, last):  # type: ignore[no-untyped-def]
    """docs/reference/numerics.md, "Loss", with the targets of the table."""
    data, out, src, t, label = buf(m), buf32(m), op.src, op.table, reg(m, op.label)
    n = src.channels
    if label < 0 or label >= n:
        return 1
    q, p = np.empty(n, np.int64), np.empty(n, np.int64)
    top, total, rest = np.int64(-128), np.int64(0), np.int64(0)
    for c in range(n):
        q[c] = value8(data[src.base + c], src.signed)
        top = max(top, q[c])
    for c in range(n):
        z = (top - q[c]) * t.mult
        whole, f = z >> 12, z & 4095
        p[c] = (32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)) >> whole if whole <= 15 else 0
        total += p[c]
    for c in range(n):
        p[c] = (p[c] * 32768 + (total >> 1)) // total - (t.t_label if c == label else t.t_other)
        rest += p[c]
    p[label] -= rest
    for c in range(n):
        out[op.dst.base + c] = p[c]
    digits = binary_digits(total) - 1
    log2 = (digits << 12) + (((total << 12) >> digits) - 4096)
    set_reg(m, op.rloss, min((top - q[label]) * t.mult, 65536) + log2 - 61440)
    return 0


@kernel("squared_error")
def squared_error(op, m, first, last):  # type: ignore[no-untyped-def]
    data, out, src = buf(m), buf32(m), op.src
    total = np.int64(0)
    for y in range(src.height):
        for x in range(src.width):
            of, to, goal = at(src, y, x), at(op.dst, y, x), at(op.wanted, y, x)
            for c in range(src.channels):
                error = value8(data[of + c], src.signed) - value8(data[goal + c], src.signed)
                out[to + c] = error
                total += error * error
    set_reg(m, op.rloss, min(total, np.int64(2147483647)))
    return 0
