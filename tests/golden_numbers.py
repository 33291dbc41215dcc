"""Integer formulas of docs/reference/numerics.md, one function each, on int64 numpy arrays. Part of the golden model (see golden.py)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Draws",
    "Error",
    "LearnedBias",
    "Loss",
    "Memory",
    "Ranges",
    "accumulate",
    "accumulator",
    "bits",
    "channel_factors",
    "channel_scale",
    "cross_entropy",
    "from_16",
    "gradient_scale",
    "mask",
    "merge",
    "multiplier",
    "peak",
    "pool_factor",
    "pseudo_stochastic",
    "quantise",
    "remembered_range",
    "requantise",
    "rne",
    "round_half_even",
    "to_16",
    "update",
]

I64 = npt.NDArray[np.int64]


class Error(NamedTuple):
    """An error tensor: value = v 2^e; v is int8 (after ``quantise``) or int32. ``level``: of the tensor, or of what it was computed from, where it is
    ``wide``: the sums of a product, not quantised yet."""

    v: I64
    e: int
    level: int = 0
    wide: bool = True


def round_half_even(x: float) -> int:
    """The nearest integer, ties to the even one."""
    return int(np.rint(np.float64(x)))


def rne(v: I64, s: npt.ArrayLike) -> I64:
    """v / 2^s to the nearest integer, ties to even; s <= 0 leaves v. ``s`` broadcasts."""
    s = np.asarray(s, np.int64)
    up = np.maximum(s, 0)
    low = v >> up
    rest = v - (low << up)
    half = np.where(up > 0, np.int64(1) << np.maximum(up - 1, 0), 0)
    return low + np.where(up > 0, (rest > half) | ((rest == half) & (low & 1 == 1)), False)


def bits(v: int) -> int:
    """Number of binary digits of |v|."""
    return abs(int(v)).bit_length()


def accumulator(v: npt.NDArray) -> I64:
    """``v`` as int64, after checking that the machine's int32 accumulator holds it."""
    v = np.rint(v).astype(np.int64) if v.dtype.kind == "f" else v.astype(np.int64)
    if v.size and max(int(v.max()), -int(v.min()) - 1) >= 1 << 31:
        raise OverflowError("an int32 accumulator overflows")
    return v


def _log2_floor(f: float) -> int:
    return math.frexp(f)[1] - 1


def _log2_ceil(f: float) -> int:
    mantissa, exponent = math.frexp(f)
    return exponent - 1 if mantissa == 0.5 else exponent


def multiplier(f: float) -> tuple[int, int]:
    """M and S of a requantisation with real factor ``f`` ("Requantise"); the sign of ``f`` goes to M."""
    if f == 0:
        return 0, 62
    size = abs(f)
    s = 30 - _log2_floor(size)
    if s > 62:
        return 0, 62
    m = round_half_even(math.ldexp(size, s))
    if m == 1 << 31:
        m, s = 1 << 30, s - 1
    if s < 1:
        raise ValueError(f"factor {f} needs a left shift")
    return (-m if f < 0 else m), s


def requantise(acc: I64, bias: npt.ArrayLike, f: npt.ArrayLike, zero: int, lo: int, hi: int) -> I64:
    """clamp(rne((acc + bias) M, S) + zero, lo, hi), with ``bias`` and ``f`` per channel (the last axis) or scalar."""
    pairs = np.array([multiplier(float(v)) for v in np.atleast_1d(np.asarray(f, np.float64))], np.int64)
    return np.clip(rne((accumulator(acc) + np.asarray(bias, np.int64)) * pairs[:, 0], pairs[:, 1]) + zero, lo, hi)


def residual_factors(f_a: float, f_b: float) -> tuple[int, int, int]:
    """M_a, M_b and the common S of a residual add."""
    s = 30 - _log2_floor(max(f_a, f_b))
    if s < 1:
        raise ValueError("a residual add needs a left shift")
    return round_half_even(math.ldexp(f_a, s)), round_half_even(math.ldexp(f_b, s)), s


def to_16(v: I64) -> I64:
    """int32 sums as numbers of 16 bits, rounded to odd ("Sums that wait")."""
    size = np.abs(v)
    s = np.maximum(np.array([bits(n) for n in size.reshape(-1).tolist()], np.int64).reshape(v.shape) - 11, 0)
    return np.sign(v) * (1024 * s + (size // 2**s | (size % 2**s != 0)))


def from_16(h: I64) -> I64:
    """What numbers of 16 bits stand for."""
    size = np.abs(h.astype(np.int64))
    s = np.maximum(size // 1024 - 1, 0)
    return np.sign(h) * (size - 1024 * s) * 2**s


# -- errors -------------------------------------------------------------------------------------------------------------------


class Ranges:
    """``--error-range previous``: the gain of each place, as the steps before left it. ``beyond``: errors that saturated so far."""

    def __init__(self) -> None:
        self.gains: dict[object, int] = {}
        self.beyond = 0

    def width(self, place: object, error: Error) -> int:
        """Bits that the steps before let one expect at this place (in its first step: what it has); they learn what it has."""
        gain = peak(error.v) + error.e - error.level
        known = self.gains.get(place, gain)
        self.gains[place] = max(gain, known - 1)
        width = error.level + known - error.e
        self.beyond += int((np.abs(error.v) >> (max(0, width - 7) + 7) > 0).sum())
        return width


def quantise(
    error: Error, stochastic: bool = False, ranges: Ranges | None = None, place: object = None, draws: Draws | None = None
) -> Error:
    """The shift to int8, rounding to nearest, pseudo-stochastically or as ``draws`` has it; what is int8 already stays. Its bits are its own or, with ``ranges``, expected."""
    v, e, wide = error.v, error.e, error.wide
    if not wide:
        return error
    width = peak(v) if ranges is None else ranges.width(place, error)
    shift = max(0, width - 7)
    if draws is not None:
        m = draws.error(v, shift)
    else:
        m = pseudo_stochastic(v, shift, 127) if stochastic else np.clip(rne(v, shift), -127, 127)
    return Error(m, e + shift, peak(v) + e, False)


def quantise_carried(error: Error) -> Error:
    """The dynamic shift to int8 of the errors of a loss: class by class, each with what rounding left of the one before."""
    v, e = error.v, error.e
    shift = max(0, bits(int(np.abs(v).max(initial=0))) - 7)
    out = np.zeros_like(v)
    for row, target in zip(v.reshape(-1, v.shape[-1]), out.reshape(-1, v.shape[-1]), strict=True):
        rest = 0
        for c, value in enumerate(row.tolist()):
            m = int(np.clip(rne(np.array([value + rest], np.int64), shift), -127, 127)[0])
            target[c], rest = m, value + rest - (m << shift)
    return Error(out, e + shift, peak(v) + e, False)


def merge(
    contributions: list[Error],
    stochastic: bool = False,
    ranges: Ranges | None = None,
    place: object = None,
    draws: Draws | None = None,
) -> Error:
    """Fan-out: one contribution passes as it is, several are quantised and joined two at a time, in the order given; ``place``: of the tensor."""
    if len(contributions) == 1:
        return contributions[0]
    total = contributions[0]
    for i, contribution in enumerate(contributions[1:]):
        a = quantise(total, stochastic, ranges, (place, "sum", i) if i else (place, 0), draws)
        part = quantise(contribution, stochastic, ranges, (place, i + 1), draws)
        top = max(a.e, part.e)
        aligned = [rne(p.v << 8, top - p.e) if top - p.e <= 30 else np.zeros_like(p.v) for p in (a, part)]
        total = Error(aligned[0] + aligned[1], top - 8, max(a.level, part.level))
    return total


def mask(error: Error, q: I64, lo: int | None, hi: int | None) -> Error:
    """v = 0 where the output ``q`` stands at a bound that an activation set (None: no such bound)."""
    keep = np.ones(q.shape, bool)
    if lo is not None:
        keep &= q > lo
    if hi is not None:
        keep &= q < hi
    return error._replace(v=np.where(keep, error.v, 0))


def channel_factors(scales: npt.ArrayLike) -> tuple[I64, int]:
    """K_n (Q15) and g of a channel scale."""
    s = np.atleast_1d(np.asarray(scales, np.float64))
    if not s.max() > 0:
        return np.zeros(s.shape, np.int64), 0
    g = _log2_ceil(float(s.max()))
    return np.array([round_half_even(math.ldexp(float(v), 15 - g)) for v in s], np.int64), g


def channel_scale(error: Error, scales: npt.ArrayLike) -> Error:
    """v = rne(v K_n, 15), e += g, the channel being the last axis; v stays when all scales equal 2^g."""
    factors, g = channel_factors(scales)
    exact = bool((np.atleast_1d(np.asarray(scales, np.float64)) == math.ldexp(1.0, g)).all())
    return error._replace(v=error.v if exact else rne(error.v * factors, 15), e=error.e + g, level=error.level + g)


def pool_factor(n: int) -> tuple[int, int]:
    """K and g' of the constant 1/n of an average pool."""
    g = _log2_ceil(1.0 / n)
    return round_half_even(math.ldexp(1.0, -g) / n * 32768), g


# -- loss and update ----------------------------------------------------------------------------------------------------------


class Loss(NamedTuple):
    """``errors``: int [B, C]; ``words``: Q12 bits, or the sum of squares, of each sample; ``predicted``: the lowest arg max of each sample."""

    errors: I64
    words: list[int]
    predicted: list[int]


def cross_entropy(logits: I64, labels: npt.ArrayLike, scale: float, eps: float = 0.1) -> Loss:
    """The integer cross-entropy, base 2, of int logits [B, C] with real scale ``scale`` and label smoothing ``eps``."""
    classes = logits.shape[1]
    m_e = max(1, round_half_even(scale * math.log2(math.e) * 2**12))
    other = round(eps * 32768) // classes
    rows, losses, predicted = [], [], []
    for row, label in zip(logits.astype(np.int64), np.asarray(labels).tolist(), strict=True):
        t = (row.max() - row) * m_e
        n, f = t >> 12, t & 4095
        p2 = 32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)
        p = np.where(n > 15, 0, p2 >> np.minimum(n, 15))
        total = int(p.sum())
        target = np.full(classes, other, np.int64)
        target[label] = 32768 - (classes - 1) * other
        error = (p * 32768 + (total >> 1)) // total - target
        error[label] -= error.sum()
        m = bits(total) - 1
        log2 = (m << 12) + (((total << 12) >> m) - 4096)
        rows.append(error)
        losses.append(min(int(t[label]), 65536) + log2 - 61440)
        predicted.append(int(np.argmax(row)))
    return Loss(np.stack(rows), losses, predicted)


def squared_error(output: I64, targets: npt.ArrayLike) -> Loss:
    """Of int outputs [B, ...] and targets in the same steps."""
    errors = output.astype(np.int64) - np.asarray(targets).astype(np.int64)
    flat, rows = errors.reshape(len(errors), -1), output.reshape(len(output), -1)
    return Loss(errors, [min(int(v), 2**31 - 1) for v in (flat * flat).sum(axis=1)], np.argmax(rows, axis=1).tolist())


def update(g: I64, mu: int, width: int | None = None, drawn: I64 | None = None) -> I64:
    """The int8 weight step of an int32 gradient: saturated as it is, or pseudo-stochastically rounded to ``mu`` bits, the largest (or one of
    ``width`` bits) to about 2^mu."""
    return _step(g, (peak(g) if width is None else width) - mu, 127, drawn)


def _step(g: I64, shift: int, limit: int, drawn: I64 | None) -> I64:
    """Pseudo-stochastically, or by the numbers drawn."""
    return pseudo_stochastic(g, shift, limit) if drawn is None else unbiased(g, shift, limit, drawn)


class Memory(NamedTuple):
    """What an accumulated layer keeps between steps: ``low`` bytes (256ths of a weight step), ``velocity`` (256ths)."""

    low: I64
    velocity: I64


class LearnedBias(NamedTuple):
    """``words``: in 256ths of the step of a weight whose input is 2^``power``; ``velocity``: of its momentum (numerics.md, "Learned biases")."""

    power: int
    words: I64
    velocity: I64

    @staticmethod
    def zero(scale: float, outputs: int) -> LearnedBias:
        """Of a layer whose input has this scale, before the first step."""
        power = int(np.clip(round_half_even(-math.log2(scale)), 0, 7))
        return LearnedBias(power, np.zeros(outputs, np.int64), np.zeros(outputs, np.int64))

    @property
    def value(self) -> I64:
        """In steps of the layer's sums of products."""
        return rne(self.words, 8 - self.power)

    def updated(self, g: I64, shift: int, momentum: bool, drawn: I64 | None = None) -> LearnedBias:
        """One step; ``g``: sums of errors times 2^power."""
        step = _step(g, shift - 8 + 3 * momentum, 32512, drawn)
        velocity = self.velocity
        if momentum:
            step = velocity = np.clip(velocity - rne(velocity, 3) + step, -32512, 32512)
        return LearnedBias(self.power, np.clip(self.words - step, -(2**30), 2**30), velocity)


def peak(g: I64) -> int:
    """Bits of the largest magnitude."""
    return bits(int(np.abs(g).max(initial=0)))


def remembered_range(now: int, before: int, step: int) -> int:
    """The range of all batches so far (in real terms), which loses one bit at steps 0, 16, 32, ..."""
    return max(now, before - 1 if step % 16 == 0 else before)


def accumulate(g: I64, width: int, mu: int, memory: Memory, momentum: bool, drawn: I64 | None = None) -> tuple[I64, Memory]:
    """What is subtracted from the int8 weights, and the new memory (numerics.md, "Update schemes"); ``width``: bits compared with."""
    step = _step(g, width - mu - 8 + (3 if momentum else 0), 32512, drawn)
    velocity = memory.velocity
    if momentum:
        step = velocity = np.clip(velocity - rne(velocity, 3) + step, -32512, 32512)
    total = memory.low - step
    carry = np.floor_divide(total + 128, 256)
    return -carry, Memory(total - 256 * carry, velocity)


def gradient_scale(g: I64, scales: npt.ArrayLike, power: int) -> I64:
    """Gradients [..., N] divided by their channel's weight scale to ``power``, the finest channel keeping its own."""
    s = np.atleast_1d(np.asarray(scales, np.float64))
    if power == 0 or s.min() == s.max() or not s.min() > 0:
        return g
    factors = np.array([round_half_even(32768 * (float(s.min()) / float(v)) ** power) for v in s], np.int64)
    return rne(g * factors, 15)


class Draws:
    """Counted random numbers of 32 bits (numerics.md, "Unbiased rounding"). ``step``: steps done, ``tensors``: error tensors rounded in this one;
    ``order``: of a flattened tensor, whose elements ONNX counts (C, H, W), their numbers on the device (H, W, C)."""

    def __init__(self) -> None:
        self.step = self.tensors = 0
        self.order: I64 | None = None

    @staticmethod
    def mixed(h: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """The end of MurmurHash3."""
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
        return h ^ (h >> np.uint32(16))

    def of(self, stream: int, shape: tuple[int, ...]) -> I64:
        """For the elements (sample, row, pixel, channel) of a tensor."""
        sample, row, pixel, channel = (i.astype(np.uint32) for i in np.indices(shape))
        tensor = self.mixed(self.mixed(np.full(shape, self.step, np.uint32)) ^ np.uint32(stream))
        place = self.mixed(self.mixed(tensor ^ sample) ^ (row * np.uint32(65536) + pixel))
        return self.mixed(place + channel * np.uint32(0x9E3779B9)).astype(np.int64)

    def error(self, v: I64, shift: int) -> I64:
        """The next error tensor [B, H, W, C] or [B, C], rounded."""
        drawn = self.of(self.tensors, v.shape if v.ndim == 4 else (len(v), 1, 1, v.shape[-1])).reshape(v.shape)
        if self.order is not None:
            drawn = drawn[:, self.order]
        self.tensors += 1
        return unbiased(v, shift, 127, drawn)

    def weights(self, number: int, g: I64, depthwise: bool) -> I64:
        """Numbers for the weights [kh, kw, Cin/g, N] of the trainable layer with this number, counted from the last to the first."""
        k, n = g[..., 0].size, g.shape[-1]
        if depthwise:
            return self.of(16384 + 2 * number, (1, n, 1, k)).reshape(n, k).T.reshape(g.shape)
        drawn = self.of(16384 + 2 * number, (1, k, 1, n)).reshape(k, n)
        return (drawn if self.order is None else drawn[self.order]).reshape(g.shape)

    def bias(self, number: int, outputs: int) -> I64:
        """Likewise for its learned bias."""
        return self.of(16384 + 2 * number + 1, (1, 1, 1, outputs)).reshape(-1)


def unbiased(g: I64, shift: int, limit: int, drawn: I64) -> I64:
    """g / 2^shift, rounded away from zero where the fraction of 2^32 that is cut off is more than was drawn; at most ``limit``."""
    shift = max(0, min(shift, 62))
    whole, rest = np.divmod(np.abs(g), np.int64(1) << shift)
    fraction = (rest << 32) >> shift
    return np.sign(g) * np.minimum(whole + (fraction > drawn), limit)


def pseudo_stochastic(g: I64, shift: int, limit: int) -> I64:
    """g / 2^shift, rounded by its own low bits; at most ``limit``."""
    shift = min(shift, 62)
    if shift <= 0:
        return np.clip(g, -limit, limit)
    size = np.abs(g)
    q = size >> shift
    r = size - (q << shift)
    h = shift >> 1
    p, rest = r >> h, r & ((1 << h) - 1)
    if shift & 1:
        rest = rest * 2
    return np.sign(g) * np.minimum(q + (p > rest), limit)
