"""Writing LLVM vector code: loads, splats, loops and checked addition, for the kernels of `products` and `taps`.

The functions take an llvmlite builder and write instructions where it stands. Nothing here depends on numba's types, so that the
kernels can be compiled for another processor, too. Loads and stores assume no alignment beyond one byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

__all__ = [
    "I1",
    "I8",
    "I16",
    "I32",
    "I64",
    "add_checked",
    "at",
    "constant",
    "integer",
    "load",
    "loop",
    "pointer",
    "shuffle",
    "splat",
    "store",
    "vector",
    "when",
    "wrapped_any",
]

I1, I8, I16, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def integer(value: int) -> ir.Constant:
    """A 64-bit constant."""
    return ir.Constant(I64, value)


def constant(value: int, kind: ir.VectorType) -> ir.Constant:
    """A vector of equal elements."""
    return ir.Constant(kind, [value] * kind.count)


def pointer(builder: Any, address: Any) -> Any:
    """An address (64-bit integer) as a pointer to bytes."""
    return builder.inttoptr(address, I8.as_pointer())


def at(builder: Any, base: Any, offset: Any, kind: ir.Type) -> Any:
    """Pointer to a `kind`, so many bytes (number or 64-bit value) behind a pointer to bytes."""
    offset = integer(offset) if isinstance(offset, int) else offset
    return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())


def load(builder: Any, base: Any, offset: Any, kind: ir.Type) -> Any:
    value = builder.load(at(builder, base, offset, kind))
    value.align = 1
    return value


def shuffle(builder: Any, a: Any, b: Any, mask: list[int]) -> Any:
    """Elements of two vectors, of b numbered behind those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(mask)), mask))


def store(builder: Any, value: Any, base: Any, offset: Any) -> None:
    builder.store(value, at(builder, base, offset, value.type)).align = 1


def splat(builder: Any, scalar: Any, kind: ir.VectorType) -> Any:
    """A vector of one scalar."""
    none = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(none, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def loop(builder: Any, count: Any, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """for k in range(count): state = body(k, state), with the state in registers; returns the last state."""
    before = builder.block
    head = builder.append_basic_block("loop")
    inside = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(integer(0), before)
    state = []
    for value in initial:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        state.append(phi)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    following = body(index, state)
    index.add_incoming(builder.add(index, integer(1)), builder.block)
    for phi, value in zip(state, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return state


def when(builder: Any, condition: Any, value: Any, then: Callable[[], Any]) -> Any:
    """then() if the condition holds, else the value."""
    before = builder.block
    inside, after = builder.append_basic_block("then"), builder.append_basic_block("after")
    builder.cbranch(condition, inside, after)
    builder.position_at_end(inside)
    other = then()
    last = builder.block
    builder.branch(after)
    builder.position_at_end(after)
    chosen = builder.phi(value.type)
    chosen.add_incoming(value, before)
    chosen.add_incoming(other, last)
    return chosen


def add_checked(builder: Any, more: Any, base: Any, offset: Any, wrapped: Any) -> Any:
    """Add a vector of int32 into memory; returns `wrapped`, negative also in lanes whose sum left 32 bits."""
    old = load(builder, base, offset, more.type)
    total = builder.add(old, more)
    store(builder, total, base, offset)
    return builder.or_(wrapped, builder.and_(builder.xor(old, total), builder.xor(more, total)))


def wrapped_any(builder: Any, wrapped: Any) -> Any:
    """-1 if a lane is negative, else 0 (int32)."""
    lanes = wrapped.type.count
    negative = builder.icmp_signed("<", wrapped, constant(0, wrapped.type))
    bits = builder.bitcast(negative, ir.IntType(lanes))
    return builder.sext(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)), I32)
