"""The instructions of attention - vmma, smax, lnorm - against the golden formulas and the real functions: values, costs, bad operands."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from golden_attention import exponentials, layer_norm, norm_constants, ratio, softmax
from test_engines import Maker, random_bytes, rows_of, run_all, small_machine
from test_periphery import Bench, extreme
from test_runtime import ALL

from sasimc.isa.analysis.check import check_program, check_table
from sasimc.isa.objects import Table

TYPES = {"u8": (0, 255), "i8": (-128, 127)}


@pytest.mark.parametrize(
    ("seed", "a", "b"),
    [(i, a, b) for i, (a, b) in enumerate(itertools.product([("u8", 0), ("u8", 77), ("i8", -9), ("i8", 0)], repeat=2))],
)
def test_product_of_two_activations(seed: int, a: tuple[str, int], b: tuple[str, int]) -> None:
    """More rows and columns than the scratch rows hold, every pair of types, zero points and none: numpy's product, on all engines."""
    m = Maker(seed + 300, small_machine("free" if seed % 2 else "row"))
    h, w, k, n = (int(v) for v in m.rng.integers((1, 1, 8, 6), (6, 6, 13, 11)))
    m.view("a", "buf", a[0], (h, w, k), pad=a[1])
    m.view("b", "buf", b[0], (1, k, n), pad=b[1])
    m.view("acc", "acc", "i32", (h, w, n))
    scratch = m.scratch("s", 3)
    for rows in rows_of(h):
        m.emit("vmma", "acc", "a", "b", "s", rows)
    x, y = random_bytes(m.rng, a[0], (h, w, k)), random_bytes(m.rng, b[0], (1, k, n))
    y[0, 0] = TYPES[b[0]][1]
    done = run_all(m.program(), {"a": x, "b": y})
    expected = (x.astype(np.int64) - a[1]) @ (y[0].astype(np.int64) - b[1])
    assert np.array_equal(done["fused"].read_view("acc"), expected)
    events, times = done["fused"].events, len(rows_of(h))
    columns = n + (b[1] != (128 if b[0] == "u8" else 0))  # the column of the zero point
    assert events["bits_written_compute"] == times * k * columns * 8
    assert events["rows_written_compute"] == times * k * -(-columns // scratch.tiles[0].cols)
    assert events["add_ops"] == h * w * n * (columns - n)
    assert events["shift_adds"] == h * w * k * columns * (8 + (a[1] != 0))


def test_product_refuses_matrices_that_do_not_fit() -> None:
    m = Maker(1, small_machine())
    m.view("a", "buf", "u8", (2, 2, 5))
    m.view("b", "buf", "i8", (1, 4, 3))
    m.view("acc", "acc", "i32", (2, 2, 2))
    m.scratch("s", 1)
    m.emit("vmma", "acc", "a", "b", "s", ALL)
    texts = [d.message for d in check_program(m.program())]
    assert any("rows of 5 elements meet (1, 5, N)" in t for t in texts)
    assert any("acc is (2, 2, 2); the product is (2, 2, 3)" in t for t in texts)


def _softmax_table(scale: float, step: float, zero: int, dtype: str) -> Table:
    mult, shift = ratio(1 / (2**24 * step))
    lo, hi = TYPES[dtype]
    return Table(
        "t", "softmax", {"mult": mult, "shift": shift, "zero": zero, "lo": lo, "hi": hi}, {"exp": tuple(exponentials(scale))}
    )


@pytest.mark.parametrize(
    ("src", "dst", "scale", "n"), [("u8", "u8", 0.05, 197), ("i8", "i8", 0.3, 7), ("i8", "u8", 0.001, 513), ("u8", "i8", 4.0, 3)]
)
def test_softmax(src: str, dst: str, scale: float, n: int) -> None:
    """Bit for bit the golden model's; within one step of the real function of what is stored."""
    b, rng = Bench(), np.random.default_rng(n)
    zero = 0 if dst == "u8" else -128
    for name, dtype in (("x", src), ("y", dst)):
        b.view(name, "buf", dtype, (2, 3, n))
    x = np.concatenate([random_bytes(rng, src, (1, 3, n)), extreme(rng, src, (1, 3, n)).astype(np.int64)])
    x[0, 0] = 5  # all equal
    table = _softmax_table(scale, 1 / 256, zero, dst)
    y = b.run({"x": x}, ("smax", "y", "x", "t", ALL), tables=(table,)).read_view("y").astype(np.int64)
    ints, t = table.ints, exponentials(scale)
    for got, q in zip(y.reshape(-1, n), x.reshape(-1, n).tolist(), strict=True):
        assert got.tolist() == softmax(q, t, ints["mult"], ints["shift"], zero, ints["lo"], ints["hi"])
    real = np.exp(scale * (x - x.max(axis=2, keepdims=True)).astype(float))
    real /= real.sum(axis=2, keepdims=True)
    assert np.abs(y - np.clip(real * 256 + zero, *TYPES[dst])).max() < 0.6


@pytest.mark.parametrize(
    ("src", "dst", "scale", "n", "eps"),
    [("u8", "i8", 0.03, 192, 1e-6), ("i8", "u8", 1e-3, 16, 1e-5), ("u8", "u8", 2.0, 1024, 1e-12), ("i8", "i8", 1e-5, 3, 0.1)],
)
def test_layer_norm(src: str, dst: str, scale: float, n: int, eps: float) -> None:
    b, rng = Bench(), np.random.default_rng(n)
    for name, dtype in (("x", src), ("y", dst)):
        b.view(name, "buf", dtype, (2, 3, n))
    x = np.concatenate([random_bytes(rng, src, (1, 3, n)), extreme(rng, src, (1, 3, n)).astype(np.int64)]).astype(np.int64)
    x[0, 0], x[0, 1, 1:] = 7, x[0, 1, 0]  # no spread, hardly any
    x[0, 1, 0] += 1 if x[0, 1, 0] < TYPES[src][1] else -1
    gamma, beta, step, zero = rng.normal(1, 0.5, n), rng.normal(0, 1, n), 0.03, 10
    gamma[0], gamma[-1] = 0.0, -1.5
    e, pairs, offsets = norm_constants(eps, scale, step, gamma, beta)
    up = max(0, e.bit_length() - 31)
    lo, hi = TYPES[dst]
    table = Table("t", "norm", {"eps": e >> up, "up": up, "zero": zero, "lo": lo, "hi": hi},
                  {"bias": tuple(offsets), "mult": tuple(m for m, _ in pairs), "shift": tuple(s for _, s in pairs)})  # fmt: skip
    y = b.run({"x": x}, ("lnorm", "y", "x", "t", ALL), tables=(table,)).read_view("y").astype(np.int64)
    for got, q in zip(y.reshape(-1, n), x.reshape(-1, n).tolist(), strict=True):
        assert got.tolist() == layer_norm(q, e, pairs, offsets, zero, lo, hi)
    real = scale * x
    norm = (real - real.mean(axis=2, keepdims=True)) / np.sqrt(real.var(axis=2, keepdims=True) + eps)
    assert np.abs(y - np.clip((norm * gamma + beta) / step + zero, lo, hi)).max() < 0.6


def test_bad_tables() -> None:
    m = Maker(2, small_machine())
    p = m.program()
    good = _softmax_table(0.1, 1 / 256, 0, "u8")
    assert not list(check_table(p, good))
    other = Table("t", "softmax", good.ints, {"exp": (1, *good.arrays["exp"][1:])})  # type: ignore[misc]
    assert "exp begins with 1" in next(iter(check_table(p, other)))
    norm = Table("n", "norm", {"eps": -1, "up": 0, "zero": 0, "lo": 0, "hi": 255}, {"bias": (0,), "mult": (1,), "shift": (1,)})
    assert "must not be negative" in next(iter(check_table(p, norm)))
