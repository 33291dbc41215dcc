"""Images drawn by formula: the pre-training shapes and the stand-in flowers.

``draw(kind, class_id, seed, size)`` is a pure function: the same arguments give the same bytes on every platform. For that it
uses an integer generator of its own (SplitMix64) and only the correctly rounded floating-point operations (+ - * / sqrt, floor,
min, max), one NumPy call each, never a library sine or exponential, whose last bit differs between machines; a petal's angle
enters as a complex power of the unit vector towards the pixel.

The two kinds share no class: ``pretrain`` shows simple shapes and textures, ``flowers`` whole flowers. Colour, background, size,
place, turn, tilt and light are random in both, so colour alone tells nothing about the class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError, near

__all__ = ["KINDS", "Stream", "class_names", "draw", "shuffled"]

F32 = npt.NDArray[np.floating[Any]]  # float32 throughout; NumPy's stubs widen a product with a Python float
Colour = tuple[float, float, float]

_MASK = (1 << 64) - 1
MAX_SIZE = 1024


class Stream:
    """SplitMix64 (Steele, Lea, Flood 2014): 64-bit integers from a key; floats take the upper 53 bits, so they are exact."""

    def __init__(self, *key: int) -> None:
        self._state = 0x9E3779B97F4A7C15
        for part in key:
            self._state = self.bits() ^ (part & _MASK)  # mixed first: neighbouring keys must not meet in one state

    def bits(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((self.bits() >> 11) / (1 << 53))

    def below(self, n: int) -> int:
        return self.bits() % n

    def direction(self) -> tuple[float, float]:
        """A unit vector by the rational parametrisation of the circle: no trigonometry, all directions reached."""
        t = self.uniform(-1.0, 1.0)
        c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        return (c, s) if self.below(2) else (-c, -s)

    def colour(self) -> Colour:
        """Hue, saturation and value drawn apart; HSV is piecewise linear, hence exact."""
        hue, sat, val = self.uniform(0, 6), self.uniform(0.25, 1.0), self.uniform(0.25, 1.0)

        def channel(shift: float) -> float:
            h = (hue + shift) % 6
            return val * (1 - sat * max(0.0, min(1.0, min(h, 4 - h))))

        return channel(5), channel(3), channel(1)

    def contrasting(self, other: Colour, distance: float = 0.55) -> Colour:
        """A colour ``distance`` (sum of channel differences) or more from ``other``; after some tries the complement."""
        for _ in range(8):
            c = self.colour()
            if sum(abs(a - b) for a, b in zip(c, other, strict=True)) >= distance:
                return c
        return (1 - other[0], 1 - other[1], 1 - other[2]) if max(abs(o - 0.5) for o in other) > 0.2 else (1.0, 1.0, 1.0)


def shuffled(n: int, *key: int) -> npt.NDArray[np.int64]:
    """A permutation of 0..n-1 that depends on ``key`` alone, on every platform and NumPy version (Fisher and Yates)."""
    order, rng = list(range(n)), Stream(0x5F, *key)
    for i in range(n - 1, 0, -1):
        j = rng.below(i + 1)
        order[i], order[j] = order[j], order[i]
    return np.asarray(order, np.int64)


def _wave(x: F32) -> F32:
    """A smooth periodic function with period 1 and range -1..1: parabolic arcs instead of a library sine."""
    t = x - np.floor(x)
    a = 2 * t - 1
    return -4 * a * (1 - np.abs(a))


def _edge(signed: F32, soft: float) -> F32:
    """Coverage 0..1 from a signed distance (positive inside), blurred over ``soft``."""
    return np.minimum(np.maximum(signed * (1 / soft) + 0.5, 0), 1)


class _Canvas:
    """RGB planes on the square -1..1, painted back to front."""

    def __init__(self, size: int, rng: Stream) -> None:
        axis = ((2 * np.arange(size) + 1 - size) / size).astype(np.float32)
        self.size = size
        self.rng = rng
        self.x: F32 = np.ascontiguousarray(np.broadcast_to(axis[None, :], (size, size)))
        self.y: F32 = np.ascontiguousarray(np.broadcast_to(axis[:, None], (size, size)))
        self.soft = 3.0 / size
        self.planes: list[F32] = [np.zeros((size, size), np.float32) for _ in range(3)]

    def paint(self, mask: F32, colour: Colour, shade: F32 | None = None) -> None:
        """Mix ``colour`` (times ``shade``) over what is there, ``mask`` is the coverage."""
        for k in range(3):
            target = colour[k] * shade if shade is not None else np.float32(colour[k])
            self.planes[k] += mask * (target - self.planes[k])

    def local(self, cx: float, cy: float, turn: tuple[float, float]) -> tuple[F32, F32]:
        """Coordinates about (cx, cy), turned."""
        dx, dy = self.x - cx, self.y - cy
        return turn[0] * dx + turn[1] * dy, turn[0] * dy - turn[1] * dx

    def background(self) -> Colour:
        """Two colours mixed by smooth waves; returns their mean."""
        a, b = self.rng.colour(), self.rng.colour()
        u, v = self.local(self.rng.uniform(), self.rng.uniform(), self.rng.direction())
        mix = 0.5 + 0.25 * _wave(self.rng.uniform(0.2, 0.9) * u + self.rng.uniform())
        mix = mix + 0.25 * _wave(self.rng.uniform(0.2, 1.6) * v + self.rng.uniform())
        self.paint(np.ones_like(self.x), a)
        self.paint(mix, b)
        return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2

    def finish(self) -> npt.NDArray[np.uint8]:
        """Light gradient, pixel noise, rounding."""
        lx, ly = self.rng.direction()
        depth = self.rng.uniform(0, 0.2)
        light = self.rng.uniform(0.85, 1.1) + depth * (lx * self.x + ly * self.y)
        grain = self.rng.uniform(0.0, 0.05)
        out = np.empty((self.size, self.size, 3), np.uint8)
        for k, plane in enumerate(self.planes):
            value = 255 * (plane * light + grain * _noise(self.size, self.rng.bits()))
            out[..., k] = np.minimum(np.maximum(np.floor(value + 0.5), 0), 255).astype(np.uint8)
        return out


def _noise(size: int, key: int) -> F32:
    """Hashed pixel noise -1..1 (32-bit finaliser of MurmurHash3 on the pixel number)."""
    h = np.arange(size * size, dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return ((h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - 1).reshape(size, size)


# --- pre-training shapes -------------------------------------------------------------------------------------------

_Shape = Callable[[Stream, F32, F32, float], F32]
"""(generator, u, v, half size) -> signed distance-like field, positive inside; u, v: turned coordinates about the centre."""


def _disc(_rng: Stream, u: F32, v: F32, r: float) -> F32:
    return r - np.sqrt(u * u + v * v)


def _ring(rng: Stream, u: F32, v: F32, r: float) -> F32:
    width = rng.uniform(0.12, 0.25) * r
    return width - np.abs(np.sqrt(u * u + v * v) - (r - width))


def _rectangle(rng: Stream, u: F32, v: F32, r: float) -> F32:
    return np.minimum(r * rng.uniform(0.6, 1.0) - np.abs(u), r * rng.uniform(0.6, 1.0) - np.abs(v))


def _triangle(rng: Stream, u: F32, v: F32, r: float) -> F32:
    slope = rng.uniform(0.8, 1.2)
    return np.minimum(v + 0.6 * r, 0.55 * (r - v - 2 * slope * np.abs(u)))


def _cross(rng: Stream, u: F32, v: F32, r: float) -> F32:
    arm = rng.uniform(0.2, 0.35) * r
    au, av = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(r - au, arm - av), np.minimum(arm - au, r - av))


def _bars(rng: Stream, u: F32, v: F32, r: float) -> F32:
    gap, width = rng.uniform(0.35, 0.6) * r, rng.uniform(0.12, 0.22) * r
    return np.minimum(width - np.abs(np.abs(u) - gap), r - np.abs(v))


def _crescent(rng: Stream, u: F32, v: F32, r: float) -> F32:
    shift = rng.uniform(0.4, 0.7) * r
    du = u - shift
    return np.minimum(r - np.sqrt(u * u + v * v), np.sqrt(du * du + v * v) - 0.85 * r)


def _grating(rng: Stream, u: F32, _v: F32, _r: float) -> F32:
    f = rng.uniform(1.5, 5.0)
    return (0.25 / f) * _wave(f * u + rng.uniform())


def _target(rng: Stream, u: F32, v: F32, _r: float) -> F32:
    f = rng.uniform(1.5, 4.5)
    return (0.25 / f) * _wave(f * np.sqrt(u * u + v * v) + rng.uniform())


def _checker(rng: Stream, u: F32, v: F32, _r: float) -> F32:
    f = rng.uniform(1.2, 3.5)
    return (0.5 / f) * _wave(f * u + rng.uniform()) * _wave(f * v + rng.uniform())


def _lattice(rng: Stream, u: F32, v: F32, _r: float) -> F32:
    f = rng.uniform(1.5, 3.0)
    a, b = f * u + rng.uniform(), f * v + rng.uniform()
    a, b = a - np.floor(a) - 0.5, b - np.floor(b) - 0.5
    return (rng.uniform(0.22, 0.34) - np.sqrt(a * a + b * b)) * (1 / f)


def _blobs(rng: Stream, u: F32, v: F32, r: float) -> F32:
    field = np.full_like(u, -1.0)
    for _ in range(5 + rng.below(4)):
        du, dv = u - rng.uniform(-0.9, 0.9), v - rng.uniform(-0.9, 0.9)
        k = rng.uniform(0.15, 0.35) * r
        field += (k * k * 1.6) / (du * du + dv * dv + k * k * 0.25)
    return 0.2 * field


_PRETRAIN: dict[str, _Shape] = {
    "disc": _disc,
    "ring": _ring,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "cross": _cross,
    "bars": _bars,
    "crescent": _crescent,
    "grating": _grating,
    "target": _target,
    "checker": _checker,
    "lattice": _lattice,
    "blobs": _blobs,
}


def _draw_pretrain(canvas: _Canvas, rng: Stream, shape: _Shape) -> None:
    ground = canvas.background()
    ink = rng.contrasting(ground)
    u, v = canvas.local(rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.direction())
    field = shape(rng, u, v, rng.uniform(0.4, 0.75))
    shade = 1.0 + rng.uniform(-0.25, 0.25) * u
    canvas.paint(_edge(field, canvas.soft), ink, shade)


# --- flowers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Flower:
    """What defines a class: petals a layer, a petal's outline, layers, marking, radius of the centre over the flower's."""

    petals: int
    outline: str
    layers: int = 1
    marking: str = "plain"
    centre: float = 0.18


# Every class has neighbours that differ in one property only, so that no single cue (count, outline, marking, centre) is enough.
_FLOWERS: dict[str, _Flower] = {
    "trillium": _Flower(3, "pointed", centre=0.14),
    "poppy": _Flower(4, "round", centre=0.28),
    "mallow": _Flower(5, "round", marking="veined", centre=0.14),
    "primrose": _Flower(5, "notched", centre=0.2),
    "bellflower": _Flower(5, "pointed", centre=0.14),
    "lily": _Flower(6, "pointed", marking="veined", centre=0.14),
    "anemone": _Flower(8, "round", marking="banded", centre=0.2),
    "dahlia": _Flower(8, "round", layers=2, centre=0.14),
    "daisy": _Flower(11, "strap", centre=0.32),
    "gerbera": _Flower(11, "strap", layers=2, centre=0.16),
}


def _power(c: F32, s: F32, n: int) -> tuple[F32, F32]:
    """Real and imaginary part of (c + i s) ** n: cosine and sine of n times the angle, by multiplications alone."""
    rc: F32 | None = None
    rs: F32 = s
    while n:
        if n & 1:
            if rc is None:
                rc, rs = c, s
            else:
                rc, rs = rc * c - rs * s, rc * s + rs * c
        c, s = c * c - s * s, 2 * c * s
        n >>= 1
    assert rc is not None
    return rc, rs


def _outline(kind: str, v: F32, w: F32) -> F32:
    """Edge radius 0..1 of a petal; ``v`` and ``w`` are |cos| and |sin| of half the petal phase (w = 0 on the petal's axis)."""
    if kind == "round":
        return 0.38 + 0.62 * np.sqrt(v)
    if kind == "pointed":
        return 0.3 + 0.7 * (1 - w) * (0.55 + 0.45 * v) + 0.18 * v * w
    if kind == "notched":
        return 0.36 + 0.64 * np.minimum(np.sqrt(v), 0.62 + 0.9 * w)
    v2 = v * v
    v8 = v2 * v2 * v2 * v2
    return 0.2 + 0.8 * np.minimum(2.4 * v8, 1)


def _draw_flower(canvas: _Canvas, rng: Stream, flower: _Flower) -> None:
    ground = canvas.background()
    radius = rng.uniform(0.5, 0.9)
    cx, cy = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
    for _ in range(1 + rng.below(3)):
        u, v = canvas.local(cx + rng.uniform(-0.7, 0.7), cy + rng.uniform(-0.7, 0.7), rng.direction())
        half, width = rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.22)
        leaf = width * (1 - u * u * (1 / (half * half))) - np.abs(v)
        canvas.paint(_edge(leaf, canvas.soft), rng.colour(), 0.75 + 0.4 * _edge(np.abs(v) - 0.012, canvas.soft))
    petal = rng.contrasting(ground)
    second, heart = rng.contrasting(petal), rng.contrasting(petal)
    # Tilt: the flower seen from aside, an ellipse.
    u, v = canvas.local(cx, cy, rng.direction())
    v = v * (1 / rng.uniform(0.7, 1.0))
    r = np.sqrt(u * u + v * v) + 1e-6
    inverse = 1 / r
    c, s = u * inverse, v * inverse
    cn, sn = _power(c, s, flower.petals)
    pc, ps = rng.direction()
    wobble_c, wobble_s = rng.direction()
    wobble = 1 + rng.uniform(0, 0.1) * (wobble_c * c + wobble_s * s)
    for layer in range(flower.layers):
        sign = 1 if layer == 0 else -1  # the inner layer stands in the gaps of the outer one
        phase = np.minimum(np.maximum(sign * (cn * pc + sn * ps), -1), 1)
        cosine, sine = np.sqrt(0.5 + 0.5 * phase), np.sqrt(0.5 - 0.5 * phase)
        reach = radius * (1.0 if layer == 0 else rng.uniform(0.58, 0.68))
        edge = _outline(flower.outline, cosine, sine) * wobble * reach
        mask = _edge(edge - r, canvas.soft)
        along = r * (1 / reach)
        shade = (0.72 if layer == 0 else 0.95) + 0.3 * np.minimum(along, 1) - 0.22 * sine * sine
        canvas.paint(mask, petal, shade)
        if flower.marking == "veined":
            vein = _edge((0.16 - 0.1 * along) * r - sine * r * (2.0 / flower.petals), canvas.soft)
            canvas.paint(vein * _edge(0.85 * edge - r, canvas.soft), second)
        elif flower.marking == "banded":
            canvas.paint(mask * _edge(0.1 * reach - np.abs(r - 0.5 * reach), canvas.soft), second)
    core = flower.centre * radius * rng.uniform(0.85, 1.15)
    canvas.paint(_edge(core - r, canvas.soft), heart, 1.05 - 0.35 * np.minimum(r * (1 / core), 1))


KINDS: tuple[str, ...] = ("pretrain", "flowers")


def class_names(kind: str) -> tuple[str, ...]:
    """Names of the classes of ``kind``, in class order. Raises SasError for an unknown kind."""
    if kind == "pretrain":
        return tuple(_PRETRAIN)
    if kind == "flowers":
        return tuple(_FLOWERS)
    raise SasError(f"no kind of drawn images named {kind!r}", hint=near(kind, KINDS) or f"known: {', '.join(KINDS)}")


def draw(kind: str, class_id: int, seed: int, size: int) -> npt.NDArray[np.uint8]:
    """One image, uint8 [size, size, 3] RGB, a pure function of its arguments.

    ``seed`` numbers the images of a class; the same seed at another size shows the same scene. Raises SasError for an unknown
    kind or class, and for a size outside 8..1024.
    """
    names = class_names(kind)
    if not 0 <= class_id < len(names):
        raise SasError(f"class {class_id} of the drawn {kind} images does not exist", hint=f"classes are 0..{len(names) - 1}")
    if not 8 <= size <= MAX_SIZE:
        raise SasError(f"cannot draw images of {size} x {size} pixels", hint=f"the size is 8..{MAX_SIZE}")
    rng = Stream(KINDS.index(kind) + 1, class_id, seed)
    canvas = _Canvas(size, rng)
    if kind == "pretrain":
        _draw_pretrain(canvas, rng, _PRETRAIN[names[class_id]])
    else:
        _draw_flower(canvas, rng, _FLOWERS[names[class_id]])
    return canvas.finish()
