"""The three engines against integer numpy on random small programs: values, cycles, events."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from sasimc.isa import instructions  # noqa: F401
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.objects import Geometry, Matrix, Tile, View
from sasimc.isa.program import Instr, Program
from sasimc.isa.spec import TABLE, RowRange
from sasimc.runtime.engines.step import Activation, DeclarationError, StepDatapath
from sasimc.runtime.interpreter import Interpreter

ENGINES = ("step", "bitserial", "fused")


def small_machine(rule: str = "row", bit_columns_per_cycle: int = 1) -> Machine:
    data = load_machine().model_dump()
    data["array"] |= {"banks": (4, 4), "mats": (2, 2), "rows": 8, "bit_columns": 64}
    data["activation"] |= {"banks": (1, 4), "mats": (1, 2), "rule": rule}
    data["transposed"]["bit_columns_per_cycle"] = bit_columns_per_cycle
    return Machine.model_validate(data)


class Maker:
    """Builds a program with random contents piece by piece."""

    def __init__(self, seed: int, machine: Machine) -> None:
        self.rng = np.random.default_rng(seed)
        self.machine = machine
        self.views: dict[str, View] = {}
        self.geometries: dict[str, Geometry] = {}
        self.matrices: dict[str, Matrix] = {}
        self.tensors: dict[str, npt.NDArray[np.int8]] = {}
        self.code: list[Instr] = []
        self.at = {"buf": 0, "acc": 0, "host": 0}
        self.free: list[list[int]] = [[s, 0, 0] for s in range(machine.subarrays)]

    def view(
        self,
        name: str,
        space: str,
        dtype: str,
        shape: tuple[int, int, int],
        *,
        pad: int = 0,
        ring: int = 0,
        slack: bool = True,
    ) -> View:
        """A view with random extra strides, as channel slices of wider tensors have."""
        unit = 1 if space == "acc" else {"u8": 1, "i8": 1, "i32": 4, "bit": 0}[dtype]
        if dtype == "bit":
            row, pix, chan = View.dense_strides(space, dtype, shape)
        else:
            pix = unit * (shape[2] + (int(self.rng.integers(0, 4)) if slack else 0))
            row, chan = pix * shape[1] + unit * (int(self.rng.integers(0, 5)) if slack else 0), unit
        view = View(name, space, dtype, shape, self.at[space], row, pix, chan, ring, 0, pad)
        self.at[space] = -(-view.end // 16) * 16
        self.views[name] = view
        return view

    def matrix(
        self, name: str, kind: str, k: int, n: int, *, array: str = "compute", copies: int = 1, trainable: bool = False
    ) -> Matrix:
        """Ragged tiles; some share a sub-array, below one another."""
        rows_max, cols_max = self.machine.array.rows, self.machine.weights_per_row
        blocks: list[tuple[int, int, int, int]] = []
        k0 = 0
        while k0 < k:
            rows = min(k - k0, int(self.rng.integers(1, rows_max + 1)))
            n0 = 0
            while n0 < n:
                cols = min(n - n0, int(self.rng.integers(1, cols_max + 1)))
                blocks.append((k0, n0, rows, cols))
                n0 += cols
            k0 += rows
        tiles: list[Tile] = []
        for copy in range(copies):
            for k0, n0, rows, cols in blocks:
                sub, row = self.place(rows)
                tiles.append(Tile(sub, row, int(self.rng.integers(0, cols_max - cols + 1)), k0, n0, rows, cols, copy))
        matrix = Matrix(name, kind, array, k, n, name, trainable, tuple(tiles))
        self.matrices[name] = matrix
        self.tensors[name] = self.rng.integers(-127, 128, (k, n)).astype(np.int8)
        return matrix

    def place(self, rows: int) -> tuple[int, int]:
        choices = [f for f in self.free if f[1] + rows <= self.machine.array.rows]
        chosen = choices[int(self.rng.integers(0, min(6, len(choices))))]
        row, chosen[1] = chosen[1], chosen[1] + rows
        return chosen[0], row

    def scratch(self, name: str, slots: int) -> Matrix:
        rows, cols = self.machine.array.rows - 1, self.machine.weights_per_row - 1
        free = [f for f in self.free if f[1] == 0][:slots]
        tiles = []
        for i, f in enumerate(free):
            f[1] = self.machine.array.rows
            tiles.append(Tile(f[0], 1, 1, i * rows, 0, rows, cols, 0))
        self.matrices[name] = Matrix(name, "scratch", "compute", rows * len(tiles), cols, "", False, tuple(tiles))
        return self.matrices[name]

    def emit(self, mnemonic: str, *operands: object) -> None:
        self.code.append(Instr(TABLE[mnemonic], operands))

    def program(self) -> Program:
        self.emit("halt")
        return Program(
            self.machine,
            tuple(self.code),
            self.views,
            self.geometries,
            self.matrices,
            {},
            {"main": 0},
            tensors=self.tensors,
        )


def rows_of(height: int, parts: int = 2) -> list[RowRange]:
    """The rows 0..height in a few ranges, the last one longer than the view."""
    step = -(-height // parts)
    return [RowRange(0, y, step + (3 if y + step >= height else 0)) for y in range(0, height, step)]


def conv_sums(x: np.ndarray, w: np.ndarray, geom: Geometry, ho: int, wo: int, pad: int) -> np.ndarray:
    """x [H, W, C], w [kh, kw, C, N] -> int64 [ho, wo, N]."""
    out = np.zeros((ho, wo, w.shape[3]), np.int64)
    for oy, ox, ky, kx in itertools.product(range(ho), range(wo), range(geom.kernel[0]), range(geom.kernel[1])):
        y, x_ = (
            oy * geom.stride[0] - geom.pad[0] + ky * geom.dilation[0],
            ox * geom.stride[1] - geom.pad[1] + kx * geom.dilation[1],
        )
        inside = 0 <= y < x.shape[0] and 0 <= x_ < x.shape[1]
        value = x[y, x_].astype(np.int64) if inside else np.full(x.shape[2], pad)
        out[oy, ox] += value @ w[ky, kx].astype(np.int64)
    return out


def looped(program: Program) -> Program:
    """The program as the body of a loop of one pass, which engines may run as a tape."""
    once, end = Instr(TABLE["loopi"], (1,)), Instr(TABLE["endl"], ())
    return replace(program, code=(once, *program.code[:-1], end, program.code[-1]))


def filled(program: Program, engine: str, threads: int, fill: dict[str, np.ndarray]) -> Interpreter:
    """An interpreter that has run the program."""
    it = Interpreter(program, engine, threads)
    for name, values in fill.items():
        it.write_view(name, values)
    it.run("main")
    return it


def run_all(program: Program, fill: dict[str, np.ndarray]) -> dict[str, Interpreter]:
    """The program on every engine, plain and as a loop; states, cycles and events must agree."""
    done = {engine: filled(program, engine, 1, fill) for engine in ENGINES}
    first = done["step"]
    for other in (filled(looped(program), engine, 2, fill) for engine in ("bitserial", "fused")):
        assert np.array_equal(first.state.accumulators, other.state.accumulators)
        assert np.array_equal(first.state.buffer, other.state.buffer)
        assert np.array_equal(first.state.cells, other.state.cells)
        assert np.array_equal(first.state.wear, other.state.wear)
        assert other.cycles == first.cycles + 2 * program.machine.controller.issue_cycles
        assert other.events == {**first.events, "instructions": first.events["instructions"] + 2}
    for other in (done["bitserial"], done["fused"]):
        assert np.array_equal(first.state.accumulators, other.state.accumulators)
        assert np.array_equal(first.state.buffer, other.state.buffer)
        assert np.array_equal(first.state.cells, other.state.cells)
        assert np.array_equal(first.state.written, other.state.written)
        assert first.cycles == other.cycles
        assert first.events == other.events
    return done


def random_geometry(rng: np.random.Generator, h: int, w: int) -> tuple[Geometry, int, int]:
    while True:
        kernel = tuple(int(v) for v in rng.integers(1, 4, 2))
        stride = tuple(int(v) for v in rng.integers(1, 3, 2))
        dilation = tuple(int(v) for v in rng.integers(1, 3, 2))
        pad = tuple(int(rng.integers(0, k)) for k in kernel)
        bottom = tuple(int(rng.integers(0, k)) for k in kernel)
        size = [(n + pad[i] + bottom[i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1 for i, n in enumerate((h, w))]
        if min(size) >= 1:
            return Geometry("g", kernel, stride, pad, dilation), size[0], size[1]  # type: ignore[arg-type]


def random_bytes(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    low, high = (0, 256) if dtype == "u8" else (-128, 128)
    return rng.integers(low, high, shape).astype(np.uint8 if dtype == "u8" else np.int8)


CASES = list(itertools.product(range(3), ("u8", "i8"), ("row", "free")))


@pytest.mark.parametrize(("seed", "dtype", "rule"), CASES)
def test_forward_product(seed: int, dtype: str, rule: str) -> None:
    m = Maker(seed, small_machine(rule))
    rng = m.rng
    h, w, c, n = (int(v) for v in rng.integers(1, 7, 4))
    geom, ho, wo = random_geometry(rng, h, w)
    pad = int(rng.choice([0, 5 if dtype == "u8" else -3]))
    m.geometries["g"] = geom
    m.view("x", "buf", dtype, (h, w, c), pad=pad)
    m.view("acc", "acc", "i32", (ho, wo, n))
    m.matrix("w", "dense", geom.taps * c, n, copies=int(rng.integers(1, 4)))
    for rows in rows_of(ho):
        m.emit("vmm", "acc", "x", "w", "g", rows)
    x = random_bytes(rng, dtype, (h, w, c))
    done = run_all(m.program(), {"x": x})
    expected = conv_sums(x, m.tensors["w"].reshape(*geom.kernel, c, n), geom, ho, wo, pad)
    assert np.array_equal(done["fused"].read_view("acc"), expected)
    # sense operations: every streamed bit that is 1 meets the 8 bit columns of n weights
    windows = conv_sums(
        np.bitwise_count(x.view(np.uint8)),
        np.ones((*geom.kernel, c, 1), np.int8),
        geom,
        ho,
        wo,
        (pad & 255).bit_count(),
    )
    assert done["fused"].events["sense_ones"] == windows.sum() * 8 * n
    assert done["fused"].events["row_activations"] == ho * wo * sum(t.rows for t in m.matrices["w"].tiles if t.copy == 0)


@pytest.mark.parametrize(("seed", "per_cycle"), list(itertools.product(range(4), (1, 3, 8))))
def test_transposed_product(seed: int, per_cycle: int) -> None:
    m = Maker(seed, small_machine(bit_columns_per_cycle=per_cycle))
    rng = m.rng
    h, w, c, n = (int(v) for v in rng.integers(1, 7, 4))
    geom, ho, wo = random_geometry(rng, h, w)
    if seed == 0:
        geom, ho, wo = Geometry("g"), h, w
    m.geometries["g"] = geom
    m.view("e", "buf", "i8", (ho, wo, n))
    m.view("acc", "acc", "i32", (h, w, c))
    m.matrix("w", "dense", geom.taps * c, n, array="transposable", copies=int(rng.integers(1, 3)))
    for rows in rows_of(ho):
        m.emit("vmmt", "acc", "e", "w", "g", rows)
    e = random_bytes(rng, "i8", (ho, wo, n))
    done = run_all(m.program(), {"e": e})
    weights = m.tensors["w"].reshape(*geom.kernel, c, n).astype(np.int64)
    expected = np.zeros((h, w, c), np.int64)
    for oy, ox, ky, kx in itertools.product(range(ho), range(wo), range(geom.kernel[0]), range(geom.kernel[1])):
        y, x = (
            oy * geom.stride[0] - geom.pad[0] + ky * geom.dilation[0],
            ox * geom.stride[1] - geom.pad[1] + kx * geom.dilation[1],
        )
        if 0 <= y < h and 0 <= x < w:
            expected[y, x] += weights[ky, kx] @ e[oy, ox].astype(np.int64)
    assert np.array_equal(done["bitserial"].read_view("acc"), expected)
    assert done["fused"].events["sense_ones"] == int(np.bitwise_count(e.view(np.uint8)).sum()) * 8 * geom.taps * c


@pytest.mark.parametrize(("seed", "dtype", "rule"), CASES)
def test_depthwise_product(seed: int, dtype: str, rule: str) -> None:
    m = Maker(seed + 50, small_machine(rule))
    rng = m.rng
    h, w, c = (int(v) for v in rng.integers(1, 8, 3))
    times = int(rng.integers(1, 3))
    geom, ho, wo = random_geometry(rng, h, w)
    pad = int(rng.choice([0, 9 if dtype == "u8" else -7]))
    m.geometries["g"] = geom
    m.view("x", "buf", dtype, (h, w, c), pad=pad)
    m.view("acc", "acc", "i32", (ho, wo, c * times))
    m.matrix("w", "depthwise", c, geom.taps * times, copies=int(rng.integers(1, 4)))
    for rows in rows_of(h):
        m.emit("dwm", "acc", "x", "w", "g", rows)
    x = random_bytes(rng, dtype, (h, w, c))
    done = run_all(m.program(), {"x": x})
    rows = m.tensors["w"].reshape(c, times, *geom.kernel)
    dense = np.zeros((*geom.kernel, c, c * times), np.int8)
    for ci, j in itertools.product(range(c), range(times)):
        dense[:, :, ci, ci * times + j] = rows[ci, j]
    assert np.array_equal(done["fused"].read_view("acc"), conv_sums(x, dense, geom, ho, wo, pad))


@pytest.mark.parametrize("seed", range(5))
def test_depthwise_transposed(seed: int) -> None:
    m = Maker(seed + 80, small_machine())
    rng = m.rng
    h, w, c = (int(v) for v in rng.integers(1, 8, 3))
    geom, ho, wo = random_geometry(rng, h, w)
    m.geometries["g"] = geom
    m.view("e", "buf", "i8", (ho, wo, c))
    m.view("acc", "acc", "i32", (h, w, c))
    m.matrix("w", "depthwise", c, geom.taps, copies=2)
    for rows in rows_of(ho):
        m.emit("dwmt", "acc", "e", "w", "g", rows)
    e = random_bytes(rng, "i8", (ho, wo, c))
    done = run_all(m.program(), {"e": e})
    weights = m.tensors["w"].reshape(c, *geom.kernel).astype(np.int64)
    expected = np.zeros((h, w, c), np.int64)
    for oy, ox, ky, kx in itertools.product(range(ho), range(wo), range(geom.kernel[0]), range(geom.kernel[1])):
        y, x = (
            oy * geom.stride[0] - geom.pad[0] + ky * geom.dilation[0],
            ox * geom.stride[1] - geom.pad[1] + kx * geom.dilation[1],
        )
        if 0 <= y < h and 0 <= x < w:
            expected[y, x] += weights[:, ky, kx] * e[oy, ox]
    assert np.array_equal(done["fused"].read_view("acc"), expected)


def gradient(x: np.ndarray, e: np.ndarray, geom: Geometry, pad: int) -> np.ndarray:
    """int64 [kh, kw, C, N]: sum over error pixels of (patch - pad) e."""
    out = np.zeros((*geom.kernel, x.shape[2], e.shape[2]), np.int64)
    for oy, ox, ky, kx in itertools.product(range(e.shape[0]), range(e.shape[1]), range(geom.kernel[0]), range(geom.kernel[1])):
        y, x_ = (
            oy * geom.stride[0] - geom.pad[0] + ky * geom.dilation[0],
            ox * geom.stride[1] - geom.pad[1] + kx * geom.dilation[1],
        )
        if 0 <= y < x.shape[0] and 0 <= x_ < x.shape[1]:
            out[ky, kx] += np.outer(x[y, x_].astype(np.int64) - pad, e[oy, ox].astype(np.int64))
    return out


GRADIENTS = [("u8", 0, "e"), ("u8", 11, "e"), ("i8", 0, "e"), ("i8", -5, "e"), ("i8", 0, "a")]


@pytest.mark.parametrize(("seed", "case"), list(itertools.product(range(3), GRADIENTS)))
def test_gradient_product(seed: int, case: tuple[str, int, str]) -> None:
    dtype, pad, stationary = case
    m = Maker(seed + 120, small_machine())
    rng = m.rng
    h, w, c, n = (int(v) for v in rng.integers(1, 7, 4))
    n += 5  # more columns than a scratch row holds
    geom, ho, wo = random_geometry(rng, h, w)
    m.geometries["g"] = geom
    m.view("a", "buf", dtype, (h, w, c), pad=pad)
    m.view("e", "buf", "i8", (ho, wo, n))
    m.view("acc", "acc", "i32", (geom.taps * c, 1, n))
    scratch = m.scratch("s", 3)
    for rows in rows_of(ho):
        m.emit("gradp", "acc", "a", "e", "s", "g", stationary, rows)
    x, e = random_bytes(rng, dtype, (h, w, c)), random_bytes(rng, "i8", (ho, wo, n))
    done = run_all(m.program(), {"a": x, "e": e})
    assert np.array_equal(done["fused"].read_view("acc").reshape(*geom.kernel, c, n), gradient(x, e, geom, pad))
    used = sum(int(done["fused"].state.written[t.subarray].sum()) for t in scratch.tiles)
    assert used > 0
    assert done["fused"].events["bits_flipped_compute"] > 0


@pytest.mark.parametrize(("seed", "case"), list(itertools.product(range(3), [("u8", 0), ("u8", 11), ("i8", 0), ("i8", -5)])))
def test_gradient_depthwise(seed: int, case: tuple[str, int]) -> None:
    dtype, pad = case
    m = Maker(seed + 160, small_machine())
    rng = m.rng
    h, w, c = (int(v) for v in rng.integers(1, 7, 3))
    geom, ho, wo = random_geometry(rng, h, w)
    m.geometries["g"] = geom
    m.view("a", "buf", dtype, (h, w, c), pad=pad)
    m.view("e", "buf", "i8", (ho, wo, c))
    m.view("acc", "acc", "i32", (c, 1, geom.taps))
    m.scratch("s", 3)
    for rows in rows_of(ho):
        m.emit("gradd", "acc", "a", "e", "s", "g", rows)
    x, e = random_bytes(rng, dtype, (h, w, c)), random_bytes(rng, "i8", (ho, wo, c))
    done = run_all(m.program(), {"a": x, "e": e})
    full = gradient(x, e, geom, pad)
    expected = np.stack([full[:, :, i, i].reshape(-1) for i in range(c)])[:, None, :]
    assert np.array_equal(done["fused"].read_view("acc"), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_transposed_strides_are_staged(engine: str) -> None:
    """A view whose channels are not neighbours works in any instruction, and may be written through."""
    m = Maker(7, small_machine())
    m.geometries["g"] = Geometry("g")
    m.view("xt", "buf", "u8", (1, 6, 4), slack=False)
    m.views["x"] = replace(m.views["xt"], name="x", shape=(1, 4, 6), row=24, pix=1, chan=4)  # channels 4 apart
    m.view("acc", "acc", "i32", (1, 4, 3))
    m.matrix("w", "dense", 6, 3)
    m.emit("vmm", "acc", "x", "w", "g", RowRange(0, 0, 1))
    it = Interpreter(m.program(), engine)
    x = random_bytes(m.rng, "u8", (1, 6, 4))
    it.write_view("xt", x)
    it.run("main")
    assert np.array_equal(it.read_view("x")[0], x[0].T)
    assert np.array_equal(it.read_view("acc")[0], x[0].T.astype(np.int64) @ m.tensors["w"].astype(np.int64))


def test_ring_rows_and_stripes() -> None:
    """A convolution over a ring of three rows, filled as it goes, equals the one over the whole plane."""
    results = {}
    for ring in (0, 4):
        m = Maker(11, small_machine())
        geom = Geometry("g", (3, 3), (1, 1), (1, 1))
        m.geometries["g"] = geom
        m.view("src", "buf", "u8", (9, 5, 2), slack=False)
        m.view("x", "buf", "u8", (9, 5, 2), ring=ring, slack=False)
        m.view("acc", "acc", "i32", (9, 5, 3), slack=False)
        m.matrix("w", "dense", 18, 3)
        m.emit("cpy", "x", "src", 0, RowRange(0, 0, 2))
        m.emit("li", 2, 0)
        m.emit("loopi", 9)
        m.emit("cpy", "x", "src", 0, RowRange(2, 2, 1))
        m.emit("vmm", "acc", "x", "w", "g", RowRange(2, 0, 1))
        m.emit("addi", 2, 2, 1)
        m.emit("endl")
        x = random_bytes(np.random.default_rng(5), "u8", (9, 5, 2))
        done = run_all(m.program(), {"src": x})
        results[ring] = done["fused"].read_view("acc")
        assert np.array_equal(results[ring], conv_sums(x, m.tensors["w"].reshape(3, 3, 2, 3), geom, 9, 5, 0))
    assert np.array_equal(results[0], results[4])


def test_step_engine_reports_a_wrong_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference engine proves declared costs: one that is off by a cycle is found."""
    m = Maker(3, small_machine())
    m.geometries["g"] = Geometry("g")
    m.view("x", "buf", "u8", (2, 2, 3))
    m.view("acc", "acc", "i32", (2, 2, 2))
    m.matrix("w", "dense", 3, 2)
    m.emit("vmm", "acc", "x", "w", "g", RowRange(0, 0, 2))
    spec = TABLE["vmm"]
    original = spec.cost

    def wrong(machine: Machine, o: object, r0: int, r1: int) -> object:
        cost = original(machine, o, r0, r1)
        cost.cycles += 1
        return cost

    monkeypatch.setattr(spec, "cost", staticmethod(wrong))
    with pytest.raises(DeclarationError, match="cycles"):
        Interpreter(m.program(), "step").run("main")


@pytest.mark.parametrize("rule", ["row", "free"])
def test_activation_trace_obeys_the_rule(rule: str) -> None:
    machine = small_machine(rule)
    m = Maker(21, machine)
    m.geometries["g"] = Geometry("g")
    m.view("x", "buf", "u8", (1, 3, 40))
    m.view("acc", "acc", "i32", (1, 3, 12))
    m.matrix("w", "dense", 40, 12, copies=2)
    m.emit("vmm", "acc", "x", "w", "g", RowRange(0, 0, 1))
    it = Interpreter(m.program(), "step")
    seen: list[Activation] = []
    assert isinstance(it.datapath, StepDatapath)
    it.datapath.on_activation = seen.append
    it.run("main")
    assert len(seen) * 8 + 2 * machine.controller.issue_cycles == it.cycles
    for step in seen:
        subs = [s for s, _ in step.active]
        assert len(set(subs)) == len(subs)
        if rule == "row":
            assert len({machine.group_of(s) for s in subs}) == 1
        else:
            assert len({machine.bank_of(s) for s in subs}) <= 4
