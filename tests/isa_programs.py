"""Small programs for the tests of the ISA: a hand-written one and a hypothesis strategy for random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import sasimc.isa.instructions  # noqa: F401
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.objects import DTYPE_BYTES, DTYPES, EXP_ONE, LUT_ENTRIES, Geometry, Matrix, Table, Tile, View
from sasimc.isa.program import Instr, Origin, Program
from sasimc.isa.spec import TABLE, RowRange

__all__ = ["SMALL", "names", "programs", "small_machine"]

SMALL = """.sas 1
.machine "sas28"
.meta input "x"
.param batch r1
.desc
.view x buf i8 4x4x2
.view y buf i8 4x4x3 addr=64
.view a acc i32 4x4x3
.view in host i8 4x4x2 batch=32
.geom g kernel=1x1
.mat w dense compute 2x3 tensor="w" frozen
.tile sub=0 size=2x3
.table t requant zero=0 lo=-128 hi=127 bias=[0, 0, 0] mult=[0x40000000, 0x40000000, 0x40000000] shift=[31, 31, 31]
.data
.tensor "w" i8 2x3 [1, 2, 3, -4, -5, -6]
.code
.entry infer
.loc "conv0" "emit"
    hld x, in, r1, all      ; one sample
    loopi 2
      vmm a, x, w, g, r5+2:8
      req y, a, t, r5+2:8
      addi r5, r5, 2
    endl
    halt
"""

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.$]{0,12}", fullmatch=True)


def small_machine(**changes: Any) -> Machine:
    """The default machine with dotted fields changed (``array__rows=32``)."""
    data = load_machine().model_dump(mode="json")
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = data
        for section in sections:
            place = place[section]
        place[last] = value
    return Machine.model_validate(data)


@st.composite
def _views(draw: st.DrawFn, name: str) -> View:
    space = draw(st.sampled_from(["buf", "host", "acc"]))
    dtype = "i32" if space == "acc" else draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    dense = View.dense_strides(space, dtype, shape)
    step = DTYPE_BYTES[dtype] or 1
    strides = draw(st.one_of(st.just(dense), st.tuples(*[st.integers(0, 40).map(lambda v: v * step)] * 3)))
    low, high = {"u8": (0, 255), "bit": (0, 1)}.get(dtype, (-128, 127))
    return View(
        name, space, dtype, shape, draw(st.integers(0, 9000)) * step, *strides, draw(st.integers(0, 12)),
        draw(st.integers(0, 99)) * 4 if space == "host" else 0, draw(st.integers(low, high)),
    )  # fmt: skip


@st.composite
def _tables(draw: st.DrawFn, name: str, n: int) -> Table:
    kind = draw(st.sampled_from(sorted(Table.KINDS)))
    ints, roles = Table.KINDS[kind]
    values = {i: draw(st.integers(1, 100)) for i in ints}
    if "lo" in values:
        values["lo"], values["hi"] = draw(st.sampled_from([(0, 255), (-128, 127), (3, 40)]))
    if "shift" in values:
        values["shift"] = draw(st.integers(1, 62))
    if "up" in values:
        values["up"] = draw(st.integers(0, 31))
    limit = {
        "bias": (-(1 << 31), (1 << 31) - 1),
        "mult": (-(1 << 31), (1 << 31) - 1),
        "shift": (0, 62),
        "k": (-(1 << 15), 1 << 15),
    }
    if kind == "lut":
        return Table(name, kind, values, {"values": tuple(draw(st.sampled_from((range(256), range(127, -129, -1)))))})
    if kind == "softmax":
        return Table(name, kind, values, {"exp": (EXP_ONE, *[draw(st.integers(0, EXP_ONE))] * (LUT_ENTRIES - 1))})
    return Table(name, kind, values, {r: tuple(draw(st.lists(st.integers(*limit[r]), min_size=n, max_size=n))) for r in roles})


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A valid random program: descriptors of every kind, movement and control code, inline tensors, odd names and texts."""
    machine = draw(
        st.sampled_from(
            [load_machine(), small_machine(array__banks=(4, 4), activation__banks=(1, 4), array__rows=32, clock_hz=1e6)]
        )
    )
    unique = draw(st.lists(names, min_size=8, max_size=8, unique=True))
    views = {n: draw(_views(n)) for n in unique[:4]}
    pair = st.tuples(st.integers(1, 7), st.integers(1, 7))
    geometry = Geometry(
        unique[4], draw(pair), draw(pair), draw(st.tuples(st.integers(-3, 3), st.integers(-3, 3))), draw(pair),
        draw(st.sampled_from(["window", "linear2", "nearest"])),
    )  # fmt: skip
    k, n = draw(st.integers(2, 9)), draw(st.integers(1, 9))
    cut = draw(st.integers(1, k - 1))
    tiles = (Tile(0, 0, 0, 0, 0, cut, n), Tile(draw(st.integers(1, 60)), 3, 2, cut, 0, k - cut, n))
    tensor = draw(st.text(max_size=8))
    matrix = Matrix(
        unique[5], draw(st.sampled_from(["dense", "depthwise"])), "compute", k, n, "w" + tensor, draw(st.booleans()), tiles
    )
    scratch = Matrix(unique[6], "scratch", "compute", 8, 8, "", False, (Tile(61, 0, 0, 0, 0, 8, 8), Tile(62, 0, 0, 0, 0, 8, 8)))
    table = draw(_tables(unique[7], draw(st.integers(1, 12))))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    tensors = {
        "w" + tensor: rng.integers(-128, 128, (k, n)).astype(np.int8),
        "z": rng.integers(-(1 << 31), 1 << 31, 3).astype(np.int32),
    }
    origins = st.builds(Origin, st.text(max_size=6), st.text(max_size=3))
    reg = st.integers(0, 63)
    code: list[Instr] = []
    for _ in range(draw(st.integers(0, 6))):
        which = draw(st.sampled_from(["li", "addi", "add", "loopi", "fill", "phase"]))
        origin = draw(origins)
        buffers = [v.name for v in views.values() if v.space == "buf" and v.dtype in TABLE["fill"].fields[0].dtypes]
        if which == "fill":
            if not buffers:
                continue
            rows = RowRange(draw(reg), draw(st.integers(-(1 << 15), (1 << 15) - 1)), draw(st.integers(1, 65535)))
            code.append(Instr(TABLE["fill"], (draw(st.sampled_from(buffers)), draw(st.integers(0, 127)), rows), origin))
        elif which == "loopi":
            code += [Instr(TABLE["loopi"], (draw(st.integers(-5, 1 << 30)),), origin), Instr(TABLE["endl"], (), origin)]
        elif which == "phase":
            code.append(Instr(TABLE["phase"], (draw(st.sampled_from(["forward", "error", "gradient", "update"])),), origin))
        elif which == "add":
            code.append(Instr(TABLE["add"], (draw(reg), draw(reg), draw(reg)), origin))
        else:
            values = (draw(reg),) + ((draw(reg),) if which == "addi" else ()) + (draw(st.integers(-(1 << 31), (1 << 31) - 1)),)
            code.append(Instr(TABLE[which], values, origin))
    code.append(Instr(TABLE["halt"], ()))
    meta = draw(st.dictionaries(st.one_of(names, st.text(min_size=1, max_size=4)), st.text(max_size=9), max_size=3))
    return Program(
        machine, tuple(code), views, {geometry.name: geometry}, {matrix.name: matrix, scratch.name: scratch}, {table.name: table},
        {"main": 0, "again": len(code) - 1} if draw(st.booleans()) else {"main": 0}, {"batch": 1}, meta, tensors, inline=frozenset(tensors),
    )  # fmt: skip
