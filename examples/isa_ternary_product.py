"""An array product of one's own: weights count by their sign only (+1, 0, -1), so a stored weight is one addition, one subtraction, or nothing.

Every input element drives its word line once, and the sense amplifiers give sign and zero of each weight; the inputs are added as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sasimc.isa.machine import Machine, activation_steps
from sasimc.isa.spec import Cost, GeomField, Instruction, MatField, RowsField, ViewField
from sasimc.runtime.kernel import acc, buf, cells, geometry, kernel, tiles, view
from sasimc.runtime.kernels.cells import gather_block
from sasimc.runtime.kernels.dense import accumulate
from sasimc.runtime.kernels.patches import gather_pixels


class TernaryProduct(Instruction):
    """acc[y, x, n] += sum over k of patch(y, x)[k] sign(W[k, n]); the patch as for ``vmm``. One cycle a word line."""

    opcode = 0x81
    mnemonic = "vmmsgn"
    group = "array"
    kernel = "ternary_product"
    acc = ViewField("output sums", "acc", "i32", "a")
    x = ViewField("input", "buf", "u8 i8", "r")
    mat = MatField("weights", "dense", sums="k")
    geom = GeomField("x", "acc")
    rows = RowsField("acc", "output rows")

    @staticmethod
    def cost(machine: Machine, o: Any, r0: int, r1: int) -> Cost:
        pixels = (r1 - r0) * o.acc.width
        waves = -(-pixels // o.mat.copies)
        return Cost(
            machine.controller.issue_cycles + waves * activation_steps(machine, o.mat.loads),
            instructions=1, row_activations=pixels * o.mat.activations, adder_tree_ops=pixels * o.mat.partial_sums,
            accumulator_reads=pixels * o.mat.n, accumulator_writes=pixels * o.mat.n, buffer_bits_read=pixels * o.mat.k * 8,
        )  # fmt: skip

    @staticmethod
    def legal(machine: Machine, o: Any) -> Iterator[str]:
        if o.geom.taps * o.x.channels != o.mat.k or o.acc.channels != o.mat.n:
            yield f"{o.mat.name} is {o.mat.k} x {o.mat.n}; a window gives {o.geom.taps} x {o.x.channels}, the sums {o.acc.channels}"


@kernel("ternary_product", ns=2.0)
def ternary_product(op, m, first, last):  # type: ignore[no-untyped-def]
    k, n, width, wrapped = op.mat.k, op.mat.n, op.acc.width, False
    weights = np.zeros((k, n), np.uint8)
    gather_block(cells(m), tiles(op.mat), 0, 0, k, weights)
    patches, sums = np.empty(width * k + 15, np.uint8), np.zeros((width, n), np.int32)
    for y in range(first, last):
        gather_pixels(buf(m), view(op.x), geometry(op.geom), op.x.pad & 255, y, np.int64(0), width, patches)
        for x in range(width):
            for c in range(n):
                total = np.int32(0)
                for i in range(k):
                    byte, weight = patches[x * k + i], np.int8(weights[i, c])
                    value = np.int32(np.int8(byte)) if op.x.signed else np.int32(byte)
                    total += value if weight > 0 else (-value if weight < 0 else np.int32(0))
                sums[x, c] = total
        wrapped |= accumulate(acc(m), view(op.acc), sums, y, 0)
    return 1 if wrapped else 0
