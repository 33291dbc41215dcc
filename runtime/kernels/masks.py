"""Clip masks: a byte an element into a bit an element, and elements of which a bit is kept."""

from __future__ import annotations

from typing import Any

from numba import types

from sasimc.runtime.kernels.simd import LANES, intrinsic
from sasimc.runtime.kernels.vector import I1, I8, I16, I32, I64, constant, integer, load, loop, pointer, splat, store, vector

__all__ = ["GROUP", "keep_bytes", "keep_words", "pack_bits"]

GROUP = 64
"""Bytes that are packed together."""


@intrinsic
def pack_bits(typingctx: Any, source: Any, target: Any, groups: Any, least: Any, span: Any) -> Any:
    """Bit j of byte i at ``target``: whether byte 8 i + j at ``source``, less the least one and modulo 256, is at most ``span``; groups of 64 bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from_, to, kind = pointer(builder, args[0]), pointer(builder, args[1]), vector(I8, GROUP)
        least, span = (splat(builder, builder.trunc(a, I8), kind) for a in args[3:])

        def body(group: Any, state: list[Any]) -> list[Any]:
            values = load(builder, from_, builder.shl(group, integer(6)), kind)
            ones = builder.icmp_unsigned("<=", builder.sub(values, least), span)
            store(builder, builder.bitcast(ones, I64), to, builder.shl(group, integer(3)))
            return state

        loop(builder, args[2], [], body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


def _keep(item: int) -> Any:
    @intrinsic
    def keep(typingctx: Any, source: Any, bits: Any, target: Any, groups: Any) -> Any:
        """Groups of 16 elements at ``source``, zero where their bit is, as 32-bit words to ``target``."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from_, mask, to = (pointer(builder, a) for a in args[:3])
            words = vector(I32, LANES)

            def body(group: Any, state: list[Any]) -> list[Any]:
                kept = builder.bitcast(load(builder, mask, builder.shl(group, integer(1)), I16), vector(I1, LANES))
                at = builder.mul(group, integer(LANES * item))
                values = load(builder, from_, at, words if item == 4 else vector(I8, LANES))
                wide = values if item == 4 else builder.sext(values, words)
                store(builder, builder.select(kept, wide, constant(0, words)), to, builder.shl(group, integer(6)))
                return state

            loop(builder, args[3], [], body)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    return keep


keep_words, keep_bytes = _keep(4), _keep(1)
