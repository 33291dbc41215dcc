"""No slow path: every instruction, on plain and on oddly strided operands, and every compile option, as native loop plans on several threads,
equal to the interpreter in every memory, register and counter."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import mobilenet_like
from test_plans import assert_same, interpreted
from test_runtime import ALL, program, view
from whole_path import compile_onnx, machine_with

from sasimc.ir.kinds import ERROR_RANGES, RANGES, ROUNDINGS, UPDATES
from sasimc.isa.objects import Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Program
from sasimc.isa.spec import TABLE, RowRange
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernel import NATIVE

H, W, C = 3, 4, 5
SHAPES = {
    "x": ("buf", "u8", (H, W, C)), "y": ("buf", "i8", (H, W, C)), "d": ("buf", "i8", (H, W, C)), "e": ("buf", "i8", (H, W, C)),
    "s": ("buf", "i32", (H, W, C)), "v": ("buf", "i32", (H, W, C)), "a": ("acc", "i32", (H, W, C)), "t": ("acc", "i32", (H, W, C)),
    "up": ("acc", "i32", (2 * H, 2 * W, C)), "big": ("buf", "i8", (2 * H, 2 * W, C)), "g9": ("acc", "i32", (9 * C, 1, C)),
    "gd": ("acc", "i32", (C, 1, 9)), "r": ("buf", "i8", (9 * C, 1, C)), "delta": ("buf", "i8", (9 * C, 1, C)),
    "h": ("buf", "i16", (H, W, C)), "k": ("buf", "i8", (1, C, C)), "q": ("buf", "i8", (1, 1, C)), "p": ("buf", "i32", (1, 1, C)),
}  # fmt: skip
BITS = {"bits": ("buf", "bit", (H, W, C))}
MATRICES = (
    Matrix("w", "dense", "transposable", 9 * C, C, "w", True, (Tile(40, 3, 1, 0, 0, 9 * C, C),)),
    Matrix("one", "dense", "transposable", C, C, "one", False, (Tile(41, 0, 0, 0, 0, C, C),)),
    Matrix("dw", "depthwise", "compute", C, 9, "dw", False, (Tile(2, 0, 0, 0, 0, C, 9), Tile(3, 5, 2, 0, 0, C, 9, 1))),
    Matrix("sc", "scratch", "compute", 64, 16, "", False, (Tile(8, 0, 0, 0, 0, 64, 16), Tile(9, 0, 0, 64, 0, 64, 16))),
)
GEOMS = (
    Geometry("g", (3, 3), pad=(1, 1)),
    Geometry("point"),
    Geometry("twice", mode="linear2"),
    Geometry("near", mode="nearest"),
)
TABLES = (
    Table("req", "requant", {"zero": 1, "lo": -100, "hi": 100}, {"bias": (1, 2, -3, 4, 5), "mult": (1 << 30,) * 5, "shift": (31, 33, 36, 40, 35)}),
    Table("add", "addq", {"ma": 1 << 29, "mb": 1 << 28, "shift": 30, "za": 1, "zb": 2, "zy": 3, "lo": -100, "hi": 100}),
    Table("k", "scale", {}, {"k": (20000, -5, 16384, 3, 32767)}),
    Table("m", "mask", {"lo": 5, "hi": 200, "use_lo": 1, "use_hi": 1}),
    Table("curve", "lut", {}, {"values": tuple(range(-128, 128))}),
    Table("shares", "softmax", {"mult": 1 << 30, "shift": 46, "zero": -128, "lo": -128, "hi": 127}, {"exp": tuple((1 << 24) >> i for i in range(256))}),
    Table("norm", "norm", {"eps": 9, "up": 1, "zero": 2, "lo": -128, "hi": 127}, {"bias": (0, 99, -5, 1, 7), "mult": (1 << 30,) * 5, "shift": (30,) * 5}),
    Table("loss", "loss", {"mult": 900, "t_other": 655, "t_label": 30148}),
)  # fmt: skip
SOME = RowRange(0, 1, 2)
CASES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "hld": (("hld", "x", "x.host", 4, ALL),), "hst": (("hst", "x.host", "x", 4, SOME),), "cpy": (("cpy", "d", "y", 0, ALL), ("cpy", "s", "s", 1, RowRange(0, 0, 2))),
    "fill": (("fill", "s", -70000, SOME), ("fill", "x", 200, SOME)), "ldw": (("ldw", 6, "word", 4),), "stw": (("stw", "word", 4, 4),),
    "vmm": (("vmm", "a", "x", "w", "g", ALL), ("vmm", "t", "y", "one", "point", SOME)),
    "vmmt": (("vmmt", "a", "e", "w", "g", ALL), ("vmmt", "t", "e", "one", "point", SOME), ("vmmt", "a", "e", "w", "g", RowRange(0, 2, 1))),
    "dwm": (("dwm", "a", "x", "dw", "g", ALL), ("dwm", "t", "y", "dw", "g", SOME)), "dwmt": (("dwmt", "a", "e", "dw", "g", SOME),),
    "gradp": (("gradp", "g9", "y", "e", "sc", "g", "e", ALL), ("gradp", "g9", "x", "e", "sc", "g", "e", SOME), ("gradp", "g9", "y", "e", "sc", "g", "a", SOME)),
    "gradd": (("gradd", "gd", "x", "e", "sc", "g", ALL), ("gradd", "gd", "y", "e", "sc", "g", SOME)),
    "rdr": (("rdr", "r", "w", ALL),), "wrr": (("wrr", "w", "delta", RowRange(0, 7, 9)), ("vmm", "a", "x", "w", "g", ALL)),
    "wupd": (("vmm", "a", "x", "w", "g", ALL), ("wupd", "w", "delta", 0, ALL)), "wupc": (("wupc", "w", "delta", 0, ALL), ("rdr", "r", "w", SOME)),
    "bias": (("bias", "a", "req", ALL),), "badd": (("badd", "a", "p", 3, ALL), ("badd", "a", "p", 0, SOME)), "bupd": (("bupd", "v", "s", ALL),), "req": (("req", "d", "a", "req", SOME),), "drain": (("drain", "s", "a", SOME),),
    "clip": (("clip", "d", "y", -9, 30, ALL),), "addq": (("addq", "d", "x", "y", "add", ALL),), "adda": (("adda", "s", "y", "e", 4, 5, ALL),),
    "pavg": (("pavg", "a", "x", "g", ALL),), "pavgt": (("pavgt", "a", "e", "g", SOME),), "pmax": (("pmax", "d", "y", "g", ALL),),
    "pmaxt": (("pmaxt", "a", "e", "y", "g", ALL),), "ups": (("ups", "up", "x", "twice", ALL), ("ups", "up", "y", "near", ALL)),
    "upst": (("upst", "a", "big", "twice", ALL), ("upst", "a", "big", "near", SOME)),
    "mask": (("mask", "bits", "x", "m", ALL),), "emask": (("emask", "s", "s", "bits", ALL), ("emask", "v", "e", "bits", SOME)),
    "escale": (("escale", "s", "s", "k", ALL), ("escale", "v", "e", "k", SOME)), "range": (("range", 6, "s", ALL),),
    "rangec": (("rangec", 6, "s", 4, ALL),),
    "cut16": (("cut16", "h", "s", SOME),), "shr8": (("shr8", "d", "s", 4, ALL), ("shr8", "d", "h", 4, SOME)), "shr8c": (("shr8c", "d", "s", 4, ALL),), "psr": (("psr", "d", "s", 4, ALL), ("psr", "v", "v", 4, SOME)),
    "usr": (("usr", "d", "s", 4, 5, 6, 7, 2, ALL), ("usr", "v", "v", 4, 0, 0, 9, 0, SOME)),
    "mom": (("mom", "v", "s", 3, ALL),), "carry": (("carry", "d", "y", "v", ALL),), "argmax": (("argmax", 6, "q"), ("argmax", 6, "p")),
    "lut": (("lut", "d", "y", "curve", ALL), ("lut", "d", "x", "curve", SOME)), "prod": (("prod", "a", "y", "e", ALL), ("prod", "t", "x", "y", SOME)),
    "vmma": (("vmma", "a", "x", "k", "sc", ALL), ("vmma", "t", "y", "k", "sc", SOME)), "smax": (("smax", "d", "x", "shares", ALL), ("smax", "d", "y", "shares", SOME)),
    "lnorm": (("lnorm", "d", "x", "norm", ALL), ("lnorm", "d", "y", "norm", SOME)),
    "xent": (("xent", "p", "q", "loss", 4, 6),), "sqerr": (("sqerr", "p", "q", "q", 6), ("sqerr", "v", "y", "y", 6)),
}  # fmt: skip


def test_every_instruction_has_a_case() -> None:
    assert set(CASES) == {spec.mnemonic for spec in TABLE.values() if spec.group != "control"}
    for mnemonic, code in CASES.items():
        assert any(line[0] == mnemonic for line in code)


def views(odd: bool) -> tuple[View, ...]:
    """All views side by side; ``odd``: channels are not neighbours, so that kernels of arrays and periphery work on dense copies."""
    out, ends = [], {"buf": 0, "acc": 0}
    for name, (space, dtype, shape) in SHAPES.items():
        strides = View.dense_strides(space, dtype, shape)
        if odd:
            strides = strides[2], strides[2] * shape[0], strides[2] * shape[0] * shape[1]
        v = View(name, space, dtype, shape, ends[space], *strides, 0, 0, 3 if name == "x" else 0)
        ends[space] = -(-v.end // 64) * 64
        out.append(v)
    out.append(view("bits", *BITS["bits"], addr=ends["buf"]))
    out.append(view("x.host", "host", "u8", (H, W, C), addr=64, batch=128, pad=3))
    out.append(view("word", "host", "i32", (1, 1, 1), addr=2048, batch=4))
    return tuple(out)


def loop(code: tuple[tuple[Any, ...], ...], odd: bool) -> Program:
    rng = np.random.default_rng(1)
    tensors = {m.tensor: rng.integers(-127, 128, (m.k, m.n)).astype(np.int8) for m in MATRICES if m.tensor}
    body = (("li", 5, 1), ("loopi", 3), ("ovl",), *code, ("sync",), ("addi", 4, 4, 1), ("endl",))
    return program(*body, views=views(odd), matrices=MATRICES, geoms=GEOMS, tables=TABLES, tensors=tensors)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("mnemonic", CASES)
def test_instructions_in_loops(mnemonic: str, odd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sasimc.runtime.interpreter._MAX_THREADS", 3)
    monkeypatch.setattr("sasimc.runtime.engines.datapath._SHARE_NS", 1)  # everything is shared out
    p = loop(CASES[mnemonic], odd)
    ends = []
    for engine, threads in (*itertools.product(NATIVE, (3,)), ("fused", 1)):
        it = Interpreter(p, engine, threads)
        it = interpreted(it) if threads == 1 else it
        rng = np.random.default_rng(2)
        for v in p.views.values():
            low, high = v.limits
            limit = 127 * 256 if v.name == "v" else 1 << 20
            it.write_view(v.name, rng.integers(max(low, -limit), min(high, limit) + 1, v.shape))
        it.run("main")
        assert threads == 1 or not it.slow_loops
        ends.append(it)
    for it in ends[:-1]:
        assert_same(it, ends[-1])


def test_operands_that_share_cells_and_weights_that_change_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch rows on top of a matrix, an alias of a trainable one: weights are prepared anew inside the plan, where the cells have changed."""
    monkeypatch.setattr("sasimc.runtime.interpreter._MAX_THREADS", 2)
    w, *others = MATRICES
    alias = replace(w, name="alias", tensor="", trainable=False)
    scratch = replace(others[-1], tiles=(Tile(40, 0, 0, 0, 0, 64, 16), Tile(9, 0, 0, 64, 0, 64, 16)))
    code = (
        ("loopi", 3), ("vmm", "a", "x", "alias", "g", ALL), ("wupd", "w", "delta", 0, ALL), ("vmmt", "t", "e", "alias", "g", ALL),
        ("gradp", "g9", "y", "e", "sc", "g", "e", ALL), ("vmm", "a", "y", "w", "g", ALL), ("endl",),
    )  # fmt: skip
    tensors = {m.tensor: np.ones((m.k, m.n), np.int8) for m in MATRICES if m.tensor}
    p = program(
        *code, views=views(False), matrices=(w, alias, *others[:-1], scratch), geoms=GEOMS, tables=TABLES, tensors=tensors
    )
    done = []
    for it in (
        Interpreter(p, "fused", 2),
        Interpreter(p, "bitserial", 2),
        interpreted(Interpreter(p, "fused", 1)),
        Interpreter(p, "step"),
    ):
        rng = np.random.default_rng(3)
        for v in p.views.values():
            it.write_view(v.name, rng.integers(max(v.limits[0], -100), min(v.limits[1], 100) + 1, v.shape))
        it.run("main")
        assert not it.slow_loops or it is done[-1]
        done.append(it)
    for it in done[1:]:
        assert_same(done[0], it)


def test_a_loop_whose_rows_move_runs_natively_for_every_start() -> None:
    body = (("loopi", 3), ("drain", "s", "a", RowRange(4, 0, 1)), ("addi", 4, 4, 1), ("endl",))
    p = program(*body, views=views(False))
    a, b = Interpreter(p, "fused", 1), interpreted(Interpreter(p, "fused", 1))
    for first in (0, 1, 0, -1):
        for it in (a, b):
            it.write_view("a", np.arange(H * W * C).reshape(H, W, C))
            it.regs[4] = first
            it.run("main")
        assert_same(a, b)
    assert not a.slow_loops
    assert len(a._plans[0]) == 3


WORDS = {
    "update": UPDATES, "round_errors": ROUNDINGS, "gradient_power": (0, 2), "gradient_range": RANGES, "error_range": ERROR_RANGES,
    "skip": ("energy", "cycles"),
}  # fmt: skip
OPTIONS = [dict(zip(WORDS, values, strict=True)) for values in list(itertools.product(*WORDS.values()))[::23]]
"""A part of all combinations, in which every word occurs."""


def test_every_word_of_the_options_occurs() -> None:
    assert all({o[name] for o in OPTIONS} == set(words) for name, words in WORDS.items())


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_every_loop_of_a_compiled_program(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also trainable depth-wise layers: everything is trained."""
    monkeypatch.setattr("sasimc.runtime.interpreter._MAX_THREADS", 2)
    options = dict(options)
    machine = machine_with(bit_serial__zero_skip=options.pop("skip"))
    compiled = compile_onnx(mobilenet_like(), machine=machine, batch=2, trainable="*", **options)
    used = {instr.spec.mnemonic for instr in compiled.program.code}
    assert {"gradd", "gradp", "vmmt", "dwmt", "psr"} <= used
    done = []
    for engine, threads in (("fused", 2), ("bitserial", 2), ("fused", 1)):
        device = Device(compiled.program, engine, threads)
        it = interpreted(device.interpreter) if threads == 1 else device.interpreter
        images = np.random.default_rng(2).integers(0, 256, (2, *device.input_shape)).astype(np.uint8)
        device.infer(images)
        device.train_step(images, np.array([0, 1]))
        assert not it.slow_loops
        done.append(it)
    for it in done[:-1]:
        assert_same(it, done[-1])
