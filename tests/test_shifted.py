"""Several output pixels of one kernel side by side: the same sums from fewer word lines, on every engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Builder
from whole_path import Case, check, machine_with

from sasimc.backend import pixel_packing as S
from sasimc.backend.mapping import LayerMatrix
from sasimc.isa.analysis.lint import lint

ENGINES = ("fused", "bitserial", "step")


@st.composite
def windows(draw: st.DrawFn) -> S.RowWindow:
    """Any kernel, stride, dilation and padding over any row; with and without zero padding that need not be read."""
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    pad, inputs = draw(st.integers(0, 5)), draw(st.integers(1, 19))
    reach = (kernel - 1) * dilation + 1
    width = draw(st.integers(1, max(1, (inputs + 2 * pad - reach) // stride + 1)))
    return S.RowWindow(draw(st.integers(1, 3)), kernel, stride, dilation, pad, width, draw(st.sampled_from([0, inputs])))


@settings(max_examples=150, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 9), st.sampled_from([8, 16, 64]), st.integers(0, 99))
def test_runs_are_the_convolution(window: S.RowWindow, cin: int, n: int, columns: int, seed: int) -> None:
    """Wide windows x shifted kernels = plain windows x kernels, pixel by pixel, for every way to cut the row."""
    rng, w = np.random.default_rng(seed), window
    kernel = rng.integers(-127, 128, (w.height * w.kernel * cin, n)).astype(np.int8)
    inputs = w.inputs or 19
    margin = 200  # what is read outside the plane
    row = np.full((w.height, inputs + 2 * margin, cin), 0 if w.inputs else 5, np.int64)
    row[:, margin : margin + inputs] = rng.integers(-99, 100, (w.height, inputs, cin))

    def patch(start: int, size: int, step: int) -> npt.NDArray[np.int64]:
        return row[:, margin + start : margin + start + (size - 1) * step + 1 : step].reshape(-1)

    expected = np.stack([patch(x * w.stride - w.pad, w.kernel, w.dilation) @ kernel for x in range(w.width)])
    ways = S.choices(w, n, columns)
    assert ways[-1] == (S.Run(1, 0, w.width),)
    for runs in ways:
        got = np.full((w.width, n), 1 << 40)
        for run in runs:
            values, step = S.shifted(kernel, w, run), w.union(run.side)[1]
            assert values.shape == (w.height * run.kernel(w) * cin, run.side * n)
            for g in range(run.groups):
                x = run.first + g * run.side
                got[x : x + run.side] = (patch(run.start(w) + g * run.side * w.stride, run.kernel(w), step) @ values).reshape(
                    -1, n
                )
        np.testing.assert_array_equal(got, expected)
        assert S.lines(w, n, runs, columns) <= S.lines(w, n, ways[-1], columns)


def test_choices_drive_fewer_word_lines() -> None:
    """5 x 5 windows of 12 features gain much; 1 x 1 windows, full word lines and windows that share no input nothing."""

    def gain(window: S.RowWindow, n: int) -> float:
        best, *_, plain = *S.choices(window, n, 64), (S.Run(1, 0, window.width),)
        return S.lines(window, n, best, 64) / S.lines(window, n, plain, 64)

    assert gain(S.RowWindow(5, 5, 1, 1, 2, 28), 12) < 0.4
    assert gain(S.RowWindow(5, 5, 1, 1, 2, 28, 28), 12) < gain(S.RowWindow(5, 5, 1, 1, 2, 28), 12), "zero padding is not read"
    assert gain(S.RowWindow(1, 1, 1, 1, 0, 28), 12) == 1
    assert gain(S.RowWindow(3, 3, 1, 1, 1, 28), 64) == 1
    assert gain(S.RowWindow(3, 3, 1, 1, 1, 28, 28), 64) == (3 * 28 - 2) / (3 * 28)
    assert gain(S.RowWindow(3, 3, 3, 1, 0, 28), 8) == 1


def test_the_shortest_path_is_the_shortest() -> None:
    """Against all ways to cut a row of seven pixels into groups."""
    window, n = S.RowWindow(5, 5, 1, 1, 2, 7, 7), 24

    def best(x: int) -> int:
        sides = range(1, window.width - x + 1)
        return min((S.lines(window, n, (window.group(x, s),), 64) + best(x + s) for s in sides), default=0)

    assert S.lines(window, n, S.choices(window, n, 64)[0], 64) == best(0)


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
    """Shapes used for prices are those of the matrices, which cover every output pixel once."""
    values = np.ones((5 * 5 * 3, 6), np.int8)
    window = S.RowWindow(5, 5, 2, 1, 2, 11, 22)
    part = LayerMatrix("a", "a", "dense", "compute", False, 0, 3, 0, 6, values, 7 * 11, window)
    for runs in (*S.choices(window, 6, 64), ()):
        made = part.beside(runs)
        assert [(*p.values.shape, p.pixels) for p in made] == part.shapes(runs)
        assert sum(p.pixels * p.side for p in made) == part.pixels
        assert len({p.name for p in made}) == len(made)
