"""Small LLVM building blocks for the kernels as numba intrinsics: population counts, copies of 16 bytes.

Generic LLVM vector code, which the code generator splits or joins to what the processor has. None of these functions checks a bound.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

__all__ = [
    "LANES",
    "copy16",
    "hold",
    "load_u64",
    "popcount",
]

LANES = 16
"""Lanes of one vector block: weight columns that are processed together."""

intrinsic: Any = _intrinsic  # the typing context is numba's argument, not the caller's: keep type checkers out
_I64 = ir.IntType(64)


def _data(context: Any, builder: Any, typ: Any, value: Any, element: ir.Type, offset: Any) -> Any:
    """Pointer to `element` at element number `offset` of the array `value` (offset counts the array's own elements)."""
    data = context.make_array(typ)(context, builder, value=value).data
    pointer = builder.gep(data, [offset])
    return builder.bitcast(pointer, element.as_pointer())


def _load(builder: Any, pointer: Any) -> Any:
    """A load that assumes no alignment beyond one byte."""
    value = builder.load(pointer)
    value.align = 1
    return value


@intrinsic
def popcount(typingctx: Any, value: Any) -> Any:
    """popcount(integer) -> number of one bits, in the type of the argument."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return (value(value), codegen) if isinstance(value, types.Integer) else None


@intrinsic
def load_u64(typingctx: Any, array: Any, offset: Any) -> Any:
    """load_u64(flat uint8 array, byte offset) -> the 8 bytes there as uint64, first byte lowest on little-endian machines."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, _data(context, builder, signature.args[0], args[0], _I64, args[1]))

    return types.uint64(array, types.intp), codegen


@intrinsic
def copy16(typingctx: Any, target: Any, to: Any, source: Any, first: Any) -> Any:
    """target[to .. +16] = source[first .. +16], flat uint8 arrays: one load and one store."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = ir.VectorType(ir.IntType(8), 16)
        value = _load(builder, _data(context, builder, signature.args[2], args[2], block, args[3]))
        builder.store(value, _data(context, builder, signature.args[0], args[0], block, args[1])).align = 1
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), codegen


@intrinsic
def hold(typingctx: Any, array: Any) -> Any:
    """Keep an array until here: numba frees one after its last use, and does not see the use of its address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.void(array), codegen
