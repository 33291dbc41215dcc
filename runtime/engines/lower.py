"""From bound instructions to operations of a tape (layout and handlers: `engines.tape_kernels`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.instructions.array import INPUT_BITS, streamed_positions
from sasimc.isa.objects import Geometry
from sasimc.runtime.engines import tape_kernels as T
from sasimc.runtime.engines.operands import BoundMatrix, BoundView, scratch_block

__all__ = ["Lowered", "NotLowered", "lower"]

_ONE = Geometry("<one element>")
_NONE = (0, 0, 0, 1, 0, 0)
_SHARE_NS = 1500
"""Work below which a share is not worth handing over."""

Row = npt.NDArray[np.int64]


class NotLowered(Exception):
    """An instruction or loop has to be interpreted."""


@dataclass
class Lowered:
    """Operations of one instruction. ``costs``: nanoseconds a row, by operation (rough; decides the number of shares), 0 where rows meet;
    ``units``: what a row can be cut into. ``host``: the host view it touches. ``weights``: gives
    the prepared weights, None if cells were never written. ``scratch``: the matrix it writes. ``keep``: memory the operations point to."""

    ops: list[Row]
    costs: list[float] = field(default_factory=lambda: [0.0])
    units: list[float] = field(default_factory=lambda: [1.0])
    host: BoundView | None = None
    weights: Callable[[], npt.NDArray[Any] | None] | None = None
    scratch: BoundMatrix | None = None
    keep: list[npt.NDArray[Any]] = field(default_factory=list)

    def shares(self, number: int, r0: int, r1: int, threads: int) -> int:
        """Into how many shares operation ``number`` on rows r0..r1 is cut."""
        rows = r1 - r0
        most = min(threads, int(self.costs[number] * rows / _SHARE_NS), int(rows * self.units[number]))
        return max(1, most) if threads > 1 else 1


def _op(
    kind: int, a: Sequence[int] = _NONE, b: Sequence[int] = _NONE, c: Sequence[int] = _NONE, geom: Sequence[int] = (),
    s: Sequence[int] = (), *, bitserial: int = 0,
) -> Row:  # fmt: skip
    row = np.zeros(T.WIDTH, np.int64)
    row[0], row[1] = kind, bitserial
    row[T.A : T.A + 6], row[T.B : T.B + 6], row[T.C : T.C + 6] = a, b, c
    row[T.G : T.G + len(geom)] = geom
    row[T.S : T.S + len(s)] = s
    return row


def _address(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data


# ------------------------------------------------------------------------------------------------- may rows be shared out


def _layout(view: BoundView) -> tuple[Any, ...]:
    return view.space, view.offset, view.strides, view.np_dtype, view.ring, view.shape


def _apart(rows: int, written: BoundView, *read: BoundView) -> bool:
    """True if ``rows`` rows of ``written`` lie apart from each other and from the other rows of what is read."""
    _, width, channels = written.phys_shape
    row, pixel, _ = written.strides
    extent = (width - 1) * pixel + channels * written.np_dtype.itemsize
    if (
        min(row, pixel) < 0
        or (written.rows_held > 1 and row < extent)
        or (width > 1 and pixel < channels * written.np_dtype.itemsize)
    ):
        return False
    if rows > written.rows_held:
        return False
    scale = 4 if written.space == "acc" else 1
    return all(
        v.space != written.space
        or _layout(v) == _layout(written)
        or v.high * scale <= written.low * scale
        or v.low * scale >= written.high * scale
        for v in read
    )


def _elements(view: BoundView) -> int:
    return view.width * view.channels


# ----------------------------------------------------------------------------------------------------------------- kinds


def _weights(engine: Any, mat: BoundMatrix, get: Callable[[], npt.NDArray[Any]]) -> Callable[[], npt.NDArray[Any] | None]:
    return lambda: get() if engine.loaded(mat) else None


def _dense(engine: Any, o: Any, rows: int) -> Lowered:
    window, mat = engine.window(o.geom, o.x, o.acc), o.mat
    weights = _weights(engine, mat, lambda: engine.prepared(mat, False))
    blocks, groups = engine.prepared_shape(mat.k, mat.n)
    s = (int(o.x.signed), o.x.pad_byte, 0, blocks, groups, mat.n, INPUT_BITS * mat.n, 0)
    op = _op(T.DENSE, o.acc.kv, o.x.kv, geom=window.geom, s=s, bitserial=engine.bitserial)
    cost = o.acc.width * (mat.k * mat.n * engine.product_ns + (mat.k + mat.n) * 0.2) if _apart(rows, o.acc) else 0.0
    return Lowered([op], [cost], [o.acc.width / 8], weights=weights)


def _dense_t(engine: Any, o: Any, rows: int) -> Lowered:
    window, one, mat = engine.window(o.geom, o.acc, o.e), engine.window(_ONE, o.e, o.e), o.mat
    weights = _weights(engine, mat, lambda: engine.prepared(mat, True))
    blocks, groups = engine.prepared_shape(mat.n, mat.k)
    cost = o.e.width * (mat.k * mat.n * engine.product_ns + (mat.k + mat.n) * 0.2)
    s = [1, 0, 0, blocks, groups, mat.k, INPUT_BITS * mat.k, 0]
    if window.identity:
        op = _op(T.DENSE, o.acc.kv, o.e.kv, geom=one.geom, s=s, bitserial=engine.bitserial)
        return Lowered([op], [cost if _apart(rows, o.acc) else 0.0], [o.e.width / 8], weights=weights)
    products = np.empty(rows * o.e.width * mat.k, np.int32)
    s[7] = _address(products)
    first = _op(T.DENSE, _NONE, o.e.kv, geom=one.geom, s=s, bitserial=engine.bitserial)
    second = _op(T.SCATTER, o.acc.kv, geom=window.geom, s=s)
    return Lowered([first, second], [cost, 0.0], [o.e.width / 8, 1.0], weights=weights, keep=[products])


def _depthwise(engine: Any, o: Any, rows: int) -> Lowered:
    window, mat, geom, x = engine.window(o.geom, o.x, o.acc), o.mat, o.geom, o.x
    weights = _weights(engine, mat, lambda: engine.taps(mat, geom))
    top, end, left, right = streamed_positions(x, geom, o.acc, 0, x.height)
    s = (int(x.signed), x.pad_byte, 0, o.acc.channels, top, end, right - left, INPUT_BITS * mat.n)
    op = _op(T.DEPTHWISE, o.acc.kv, x.kv, geom=window.geom, s=s, bitserial=engine.bitserial)
    reach = (rows - 1 + end - x.height - top + (geom.kernel[0] - 1) * geom.dilation[0]) // geom.stride[0] + 1
    cost = _elements(x) * (1.0 + geom.taps * engine.tap_ns / (geom.stride[0] * geom.stride[1]))
    return Lowered([op], [cost if _apart(min(reach, o.acc.height), o.acc) else 0.0], [reach / rows], weights=weights)


def _depthwise_t(engine: Any, o: Any, rows: int) -> Lowered:
    window, mat, geom = engine.window(o.geom, o.acc, o.e), o.mat, o.geom
    weights = _weights(engine, mat, lambda: engine.taps(mat, geom))
    s = (1, 0, 0, o.e.channels, 0, 0, 0, INPUT_BITS * mat.n)
    op = _op(T.DEPTHWISE_T, o.acc.kv, o.e.kv, geom=window.geom, s=s, bitserial=engine.bitserial)
    cost = _elements(o.e) * (1.0 + geom.taps * engine.tap_ns) if _apart(o.acc.height, o.acc) else 0.0
    return Lowered([op], [cost], [float(geom.stride[0])], weights=weights)


def _gradient(engine: Any, o: Any, rows: int) -> Lowered:
    window, pixels, k, n = engine.window(o.geom, o.a, o.e), rows * o.e.width, o.acc.height, o.e.channels
    streamed, held = np.empty(pixels * k, np.uint8), engine.prepare(np.zeros((pixels, n), np.int8))
    stays, totals = o.stationary == "a", np.empty(n, np.int32)
    tiles = scratch_block(o.scratch, *((pixels, k) if stays else (pixels, n)))
    s = (
        _address(streamed), _address(held), held.shape[0], held.shape[1], int(stays), INPUT_BITS * (k if stays else n),
        int(o.a.signed), k, n, _address(tiles), len(tiles), o.a.pad, o.a.pad_byte, _address(totals),
    )  # fmt: skip
    kinds = (T.GRADIENT_OPERANDS, T.GRADIENT)
    ops = [_op(kind, o.acc.kv, o.a.kv, o.e.kv, window.geom, s, bitserial=engine.bitserial) for kind in kinds]
    cost = o.e.width * k * n * engine.product_ns if _apart(k, o.acc) else 0.0
    return Lowered(ops, [0.0, cost], [1.0, k / 8], scratch=o.scratch, keep=[streamed, held, tiles, totals])


def _periphery(
    kind: int, out: str, read: Sequence[str], ns: float, s: Callable[[Any], Sequence[int]], *, pixels: bool = False
) -> Callable[..., Lowered]:
    """An operation on rows, or on ``pixels`` one by one: written view A, views read B and C, nanoseconds an element."""

    def make(engine: Any, o: Any, rows: int) -> Lowered:
        written, views = getattr(o, out, None), [getattr(o, name) for name in read]
        op = _op(kind, _NONE if written is None else written.kv, *(v.kv for v in views), s=s(o))
        apart = (written is None or _apart(rows, written, *views)) and all(rows <= v.rows_held for v in views)
        return Lowered([op], [_elements(views[0]) * ns if apart else 0.0], [float(views[0].width) if pixels else 1.0])

    return make


def _requant(o: Any) -> tuple[int, ...]:
    a, i = o.table.repeated, o.table.ints
    return (*(_address(a[role]) for role in ("bias", "mult", "shift", "half")), i["zero"], i["lo"], i["hi"], a["bias"].size)


def _add(o: Any) -> tuple[int, ...]:
    i = o.table.ints
    names = ("za", "ma", "zb", "mb", "shift", "zy", "lo", "hi")
    return (int(o.a.signed), int(o.b.signed), *(i[name] for name in names))


def _bounds(o: Any) -> tuple[int, ...]:
    i = o.table.ints
    return int(o.src.signed), i["lo"], i["hi"], int(bool(i["use_lo"])), int(bool(i["use_hi"]))


def _scale(engine: Any, o: Any, rows: int) -> Lowered:
    k = o.table.arrays["k"]
    factor = k if k.size == o.src.channels else np.full(o.src.channels, k[0])
    op = _op(T.ERROR_SCALE, o.dst.kv, o.src.kv, s=(int(o.src.dtype == "i8"), _address(factor), factor.size))
    return Lowered([op], [_elements(o.src) * 0.6 if _apart(rows, o.dst, o.src) else 0.0], keep=[factor])


def _pool(kind: int, large: str, small: str) -> Callable[..., Lowered]:
    """Pools and their transposes; ``large`` the plane the windows lie in, ``small`` that of their results."""

    def make(engine: Any, o: Any, rows: int) -> Lowered:
        inner, outer = getattr(o, large), getattr(o, small)
        written, read = getattr(o, "acc", None) or o.dst, getattr(o, "e", None) or o.x
        x = getattr(o, "x", read)
        geom = engine.window(o.geom, inner, outer).geom
        op = _op(kind, written.kv, read.kv, x.kv, geom, (int(x.signed), x.pad))
        forward = kind in (T.POOL_SUM, T.POOL_MAX) and _apart(rows, written, read)
        return Lowered([op], [_elements(written) * (1 + 0.5 * o.geom.taps) if forward else 0.0])

    return make


def _resample(kind: int) -> Callable[..., Lowered]:
    def make(engine: Any, o: Any, rows: int) -> Lowered:
        forward = kind == T.UPSAMPLE
        read = o.x if forward else o.e
        small, large = (o.x, o.acc) if forward else (o.acc, o.e)
        s = (int(read.signed), int(o.geom.mode == "linear2"), small.height, small.width, large.height, large.width)
        op = _op(kind, o.acc.kv, read.kv, s=s)
        return Lowered([op], [_elements(o.acc) * 2.0 if forward and _apart(rows, o.acc) else 0.0])

    return make


def _bytes_view(view: BoundView, pixels: int) -> tuple[int, ...]:
    """A view in bytes; with ``pixels`` 1 a row of it is one run."""
    _, width, channels = view.phys_shape
    row, pixel, channel = view.strides
    item = view.np_dtype.itemsize
    if channels > 1 and channel != item:
        raise NotLowered("channels are not neighbours")
    return view.offset, row, pixel, view.ring or view.height, pixels, width * channels * item // pixels


def _copy(direction: int) -> Callable[..., Lowered]:
    def make(engine: Any, o: Any, rows: int) -> Lowered:
        host = {T.FROM_HOST: o.src, T.TO_HOST: o.dst}.get(direction)
        if host is None and (o.shift or o.src.height > o.dst.height or (o.src.low < o.dst.high and o.dst.low < o.src.high)):
            raise NotLowered("a copy to other rows, or to where it reads")
        width, run = o.src.phys_shape[1], o.src.phys_shape[2] * o.src.np_dtype.itemsize
        together = width == 1 or all(v.strides[1] == run for v in (o.dst, o.src))
        to, of = (_bytes_view(v, 1 if together else width) for v in (o.dst, o.src))
        index = 0 if host is None else o.index
        s = (index, 0 if host is None else host.batch, direction)
        cost = o.src.row_bits / 8 * 0.1 if _apart(rows, o.dst) else 0.0
        return Lowered([_op(T.COPY, to, of, s=s)], [cost], host=host)

    return make


def _word(direction: int) -> Callable[..., Lowered]:
    def make(engine: Any, o: Any, rows: int) -> Lowered:
        view, register = (o.src, o.rd) if direction == T.FROM_HOST else (o.dst, o.rs)
        return Lowered([_op(T.WORD, s=(o.index, view.batch, direction, view.offset, register))], host=view)

    return make


def _argmax(engine: Any, o: Any, rows: int) -> Lowered:
    return Lowered([_op(T.ARGMAX, b=o.src.kv, s=(int(o.src.signed), o.rd))])


def _loss(engine: Any, o: Any, rows: int) -> Lowered:
    i = o.table.ints
    s = (int(o.src.signed), o.label, o.rloss, i["mult"], i["t_other"], i["t_label"])
    return Lowered([_op(T.LOSS, o.dst.kv, o.src.kv, s=s)])


_LOWERINGS: dict[str, Callable[..., Lowered]] = {
    "vmm": _dense,
    "vmmt": _dense_t,
    "dwm": _depthwise,
    "dwmt": _depthwise_t,
    "gradp": _gradient,
    "req": _periphery(T.REQUANTISE, "dst", ("acc",), 0.7, _requant, pixels=True),
    "drain": _periphery(T.DRAIN, "dst", ("acc",), 0.4, lambda o: ()),
    "addq": _periphery(T.ADD_QUANTISED, "dst", ("a", "b"), 0.9, _add),
    "adda": _periphery(T.ADD_ALIGNED, "dst", ("a", "b"), 1.0, lambda o: (o.ra, o.rb)),
    "mask": _periphery(T.MASK, "dst", ("src",), 0.3, _bounds),
    "emask": _periphery(T.ERROR_MASK, "dst", ("src", "bits_"), 0.4, lambda o: (int(o.src.dtype == "i8"),)),
    "escale": _scale,
    "range": _periphery(T.RANGE, "dst", ("src",), 0.15, lambda o: (o.rd,)),
    "shr8": _periphery(T.SHIFT8, "dst", ("src",), 0.5, lambda o: (o.rs,)),
    "shr8c": _periphery(T.SHIFT8_CARRIED, "dst", ("src",), 0.5, lambda o: (o.rs,)),
    "pavg": _pool(T.POOL_SUM, "x", "acc"),
    "pavgt": _pool(T.POOL_SUM_T, "acc", "e"),
    "pmax": _pool(T.POOL_MAX, "x", "dst"),
    "pmaxt": _pool(T.POOL_MAX_T, "x", "e"),
    "ups": _resample(T.UPSAMPLE),
    "upst": _resample(T.UPSAMPLE_T),
    "hld": _copy(T.FROM_HOST),
    "hst": _copy(T.TO_HOST),
    "cpy": _copy(T.INSIDE),
    "ldw": _word(T.FROM_HOST),
    "stw": _word(T.TO_HOST),
    "argmax": _argmax,
    "xent": _loss,
}


def lower(engine: Any, mnemonic: str, o: Any, scalar: Sequence[int] | None, rows: int) -> Lowered:
    """The operations of one instruction with operands ``o`` on at most ``rows`` rows; ``scalar``: a register instruction's numbers.

    Raises:
        NotLowered: there is no lowering for it.
    """
    if scalar is not None:
        return Lowered([_op(T.SCALAR, s=scalar)])
    make = _LOWERINGS.get(mnemonic)
    if make is None or any(isinstance(v, BoundView) and v.twin is not None for v in vars(o).values()):
        raise NotLowered(mnemonic)
    return make(engine, o, rows)
