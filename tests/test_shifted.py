"""Several output pixels of one kernel side by side: the same sums from fewer word lines, on every engine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Builder
from whole_path import Case, check, machine_with

from sasimc.backend import shifted as S
from sasimc.backend.mapping import LayerMatrix
from sasimc.isa.lint import lint

ENGINES = ("fused", "bitserial", "step")


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 13),
    st.integers(2, 9), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99),
)  # fmt: skip
def test_shifted_kernels_are_a_convolution(
    kh: int, kw: int, stride: int, dilation: int, pad: int, width: int, side: int, cin: int, n: int, seed: int
) -> None:
    """Wide windows x shifted kernels = plain windows x kernels, for any stride, dilation, padding, and width of the row."""
    rng = np.random.default_rng(seed)
    window = S.RowWindow(kh, kw, stride, dilation, pad, width)
    kernel = rng.integers(-127, 128, (kh * kw * cin, n)).astype(np.int8)
    columns = (width - 1) * stride + (kw - 1) * dilation + 1
    row = np.zeros((kh, columns + 99 * stride, cin), np.int64)  # as padded: column 0 is ``pad`` columns left of the plane
    row[:, :columns] = rng.integers(-99, 100, (kh, columns, cin))

    def window_at(x: int, size: int, step: int) -> np.ndarray:
        return row[:, x * stride : x * stride + (size - 1) * step + 1 : step].reshape(-1)

    expected = np.stack([window_at(x, kw, dilation) @ kernel for x in range(width)])
    got = np.full((width, n), 1 << 40)
    for s, first, groups in S.splits(window, min(side, width)):
        values, (size, step) = S.shifted(kernel, window, s), S.wide(window, s)
        for x in range(first, first + s * groups, s):
            got[x : x + s] = (window_at(x, size, step) @ values).reshape(s, n)
    np.testing.assert_array_equal(got, expected)


def test_choices_drive_fewer_word_lines() -> None:
    """By cost: 5 x 5 windows of 12 features gain much, 1 x 1 windows and full word lines nothing, whatever fits the word line."""
    five = S.RowWindow(5, 5, 1, 1, 2, 28)
    found = S.choices(five, 12, 64)
    assert found[-1] == 1
    assert S.lines(five, 12, found[0], 64) < 0.42 * S.lines(five, 12, 1, 64)
    assert S.choices(S.RowWindow(1, 1, 1, 1, 0, 28), 12, 64) == (1,)
    assert S.choices(S.RowWindow(3, 3, 1, 1, 1, 28), 64, 64) == (1,)
    assert S.choices(S.RowWindow(3, 3, 3, 1, 1, 28), 8, 64) == (1,), "windows that share no input"
    assert S.choices(S.RowWindow(3, 3, 1, 1, 1, 1), 8, 64) == (1,), "one pixel"


def net(width: int, kernel: int, stride: int, features: int, groups: int, seed: int) -> onnx.ModelProto:
    """Two convolutions, the second one grouped and maybe padded by a zero point other than 0, and a head."""
    b = Builder(seed)
    x = b.input((3, 9, width), low=-1.0) if seed % 2 else b.input((3, 9, width), low=0.0, dtype="uint8")
    x = b.conv(x, features * groups, kernel, stride=stride, act=None if seed % 2 else "relu6")
    x = b.conv(x, features * groups, 3, groups=groups, act="relu")
    return b.model(b.gemm(b.global_pool(x), 5))


def sides(case: Case) -> dict[str, list[int]]:
    return {layer: [part.side for part, _ in parts] for layer, parts in case.compiled.placement.layers.items()}


@pytest.mark.parametrize(
    ("width", "kernel", "stride", "features", "groups"),
    [(16, 5, 1, 6, 1), (17, 3, 2, 5, 2), (13, 5, 2, 12, 2), (11, 3, 1, 7, 1), (29, 5, 3, 4, 1)],
)
def test_engines_and_golden_model(width: int, kernel: int, stride: int, features: int, groups: int) -> None:
    """Odd widths, strides and groups against the golden model on all engines; and a machine whose word lines take one pixel only."""
    for seed in (0, 1):
        model = net(width, kernel, stride, features, groups, seed)
        case = check(model, engines=ENGINES, train=False, batch=2)
        plain = check(model, train=False, batch=2, machine=machine_with(array__bit_columns=8))
        assert max(max(s) for s in sides(case).values()) > 1, "nothing is shifted"
        assert {s for parts in sides(plain).values() for s in parts} == {1}
        np.testing.assert_array_equal(case.logits, plain.logits)
        assert lint(case.compiled.program) == []
        assert case.compiled.placement.weights == plain.compiled.placement.weights, "copies are no weights"


def test_fewer_cycles_and_activations() -> None:
    """Against the same layer with as many features as a word line holds in all: the work of one pixel serves several."""
    machine = machine_with(array__banks=(1, 2), activation__banks=(1, 1), activation__mats=(1, 1))
    narrow = check(net(16, 5, 1, 8, 1, 0), train=False, machine=machine)
    full = check(
        net(16, 5, 1, 64, 1, 0),
        train=False,
        machine=machine_with(array__banks=(4, 8), activation__banks=(1, 1), activation__mats=(1, 1)),
    )
    assert max(max(s) for s in sides(narrow).values()) > 1
    assert {s for parts in sides(full).values() for s in parts} == {1}
    assert narrow.events["row_activations"] < 0.5 * full.events["row_activations"]


def test_training_keeps_kernels_as_they_are() -> None:
    """Trainable layers and those that errors pass have one pixel a word line; frozen ones in front of them may have several."""
    b = Builder(3)
    x = b.conv(b.input((3, 8, 16), low=0.0, dtype="uint8"), 6, 5, act="relu", name="frozen")
    x = b.conv(x, 6, 3, act="relu", trainable=True, name="first")
    x = b.conv(x, 6, 3, act="relu", name="between")
    x = b.gemm(b.global_pool(x, pow2=True), 4, trainable=True, name="head")
    case = check(b.model(x), engines=("fused", "step"), batch=2)
    found = sides(case)
    assert max(found["frozen"]) > 1
    assert found["first"] == found["between"] == found["head"] == [1]


def test_a_full_machine_shifts_less() -> None:
    """The capacity decides: zeros between shifted kernels take cells that other layers need."""
    model = net(16, 5, 1, 6, 2, 0)
    small = machine_with(
        array__banks=(1, 1),
        activation__banks=(1, 1),
        array__mats=(1, 1),
        activation__mats=(1, 1),
        array__rows=256,
        array__bit_columns=128,
    )
    roomy, tight = check(model, train=False), check(model, train=False, machine=small)
    assert sum(map(sum, sides(tight).values())) < sum(map(sum, sides(roomy).values()))
    np.testing.assert_array_equal(tight.logits, roomy.logits)


def test_parts() -> None:
    """Shapes used for prices are those of the matrices."""
    values = np.ones((5 * 5 * 3, 6), np.int8)
    part = LayerMatrix("a", "a", "dense", "compute", False, 0, 3, 0, 6, values, 7 * 11, S.RowWindow(5, 5, 2, 1, 2, 11))
    for side in (1, 2, 4, 11):
        made = part.beside(side)
        assert [(*p.values.shape, p.pixels) for p in made] == part.shapes(side)
        assert sum(p.pixels * p.side for p in made) == part.pixels
