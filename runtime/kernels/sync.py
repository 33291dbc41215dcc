"""What threads need to share work without the interpreter: atomic integers, waiting politely, a clock, memory by address."""

from __future__ import annotations

import os
import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from sasimc.runtime.kernels.simd import _data

__all__ = [
    "atomic_add",
    "atomic_load",
    "atomic_max",
    "call2",
    "call4",
    "call6",
    "compare_swap",
    "give_way",
    "nanoseconds",
    "pointer",
    "relax",
]

intrinsic: Any = _intrinsic  # the typing context is numba's argument, not the caller's: keep type checkers out
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_X86 = platform.machine().lower() in ("x86_64", "amd64")
_POSIX = os.name == "posix"
_THREAD_TIME = 16 if platform.system() == "Darwin" else 3  # CLOCK_THREAD_CPUTIME_ID of the C library


def _cell(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return _data(context, builder, signature.args[0], args[0], _I64, args[1])


@intrinsic
def atomic_load(typingctx: Any, array: Any, index: Any) -> Any:
    """array[index] of an int64 array; what its writer did before is seen."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_cell(context, builder, signature, args), ordering="acquire", align=8)

    return types.int64(array, types.intp), codegen


def _read_modify_write(operation: str) -> Any:
    @intrinsic
    def atomic(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
        """array[index] = operation(array[index], value), int64; returns what was there before."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, _cell(context, builder, signature, args), args[2], ordering="acq_rel")

        return types.int64(array, types.intp, types.int64), codegen

    return atomic


atomic_add = _read_modify_write("add")
atomic_max = _read_modify_write("max")


@intrinsic
def compare_swap(typingctx: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
    """Set array[index] (int64) to value if it is `expected`; True if it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cell = _cell(context, builder, signature, args)
        return builder.extract_value(builder.cmpxchg(cell, args[2], args[3], ordering="acq_rel", failordering="acquire"), 1)

    return types.boolean(array, types.intp, types.int64, types.int64), codegen


@intrinsic
def relax(typingctx: Any) -> Any:
    """A hint to the processor that the thread waits for another one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(typingctx: Any) -> Any:
    """Let another thread have the processor."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _POSIX:
            builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, []), "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nanoseconds(typingctx: Any) -> Any:
    """Processor time of this thread, ns (0 where the system has no such clock)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not _POSIX:
            return ir.Constant(_I64, 0)
        time = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        kind = ir.FunctionType(_I32, [_I32, time.type])
        read = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(read, [ir.Constant(_I32, _THREAD_TIME), time])
        value = builder.load(time)
        seconds, rest = builder.extract_value(value, 0), builder.extract_value(value, 1)
        return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), rest)

    return types.int64(), codegen


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """An address as a pointer, for `numba.carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


def _caller(count: int) -> Any:
    """An intrinsic that calls the compiled function (a `numba.cfunc` of ``count`` addresses and numbers that returns one) at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_I64, [_I64] * count)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    n = types.int64
    if count == 2:

        @intrinsic
        def call_two(typingctx: Any, address: Any, a: Any, b: Any) -> Any:
            return n(n, n, n), codegen

        return call_two
    if count == 4:

        @intrinsic
        def call_four(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
            return n(n, n, n, n, n), codegen

        return call_four

    @intrinsic
    def call_six(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
        return n(n, n, n, n, n, n, n), codegen

    return call_six


call2, call4, call6 = _caller(2), _caller(4), _caller(6)
