"""How functions become machine code: kernels, the functions that they are made of, and the few that Python calls.

numba optimises every function, makes machine code of it and wraps it for Python; then it does so again inside every caller. An ``inner`` function
is only brought into LLVM's form once; the kernels that it is linked into are optimised whole. Called from Python it is compiled like any other.
Kernels are numba callbacks, called by address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property
from types import CodeType
from typing import Any, Literal

from numba import jit, njit
from numba.core import ccallback
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.target_extension import jit_registry, target_registry
from numba.core.typed_passes import NativeLowering

__all__ = ["Inner", "callback", "entry", "for_python", "inner", "kept", "parts"]


_OPTIONS = {"error_model": "numpy"}  # no code for divisions by zero: none has a divisor of data


_FLAGS: Any = vars(ccallback)["_CFuncCompiler"]._customize_flags


class _Library(JITCodeLibrary):
    """Code to link into other code: it is neither optimised nor made machine code on its own."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Lowering into such a library, with nothing that Python could call."""

    _name = "inner_lowering"

    def run_pass(self, state: Any) -> Literal[True]:
        target = state.targetctx
        state.library = _Library(target.codegen(), state.func_id.func_qualname)
        state.flags.no_cfunc_wrapper = True
        super().run_pass(state)
        lowered = state["cr"]
        key = object()  # what callers look the function up by
        target.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=key)
        return True


class _Compiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "inner")
        passes.passes = [(_Lowering if of is NativeLowering else of, why) for of, why in passes.passes]
        return [passes]


class Inner(CPUDispatcher):
    """An inner function, for numba and for Python."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(function, {}, {**options, **_OPTIONS}, _Compiler)
        # numba compiles functions of its own once for every set of flags: have those of callbacks
        compiler = vars(self)["_compiler"]
        compiler._customize_flags = _FLAGS.__get__(compiler)

    @cached_property
    def alone(self) -> Any:
        """The function as numba compiles it for Python."""
        return for_python(self.py_func)

    def add_overload(self, cres: Any) -> None:
        self.overloads[tuple(cres.signature.args)] = cres  # not for calls from Python

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.alone(*args, **named)


def inner(function: Callable[..., Any]) -> Any:
    """Make a function part of the kernels that call it."""
    return Inner(function)


_compiling = ContextVar("compiling a kernel", default=False)


def _overload(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """What numba compiles its own functions with, such as `numpy.empty`: those that a kernel calls are inner functions."""
    return (lambda function: Inner(function, **options)) if _compiling.get() else jit(**options)


dict.__setitem__(jit_registry, target_registry["cpu"], _overload)  # the registry itself refuses a second entry


def _cached(made: Any) -> Any:
    with suppress(RuntimeError):  # no folder that can be written to: it is compiled in every process
        made.enable_caching()
    return made


def for_python(function: Callable[..., Any]) -> Any:
    """Compile a function for calls from Python, when it is first called."""
    return _cached(njit(nogil=True)(function))


def callback(function: Callable[..., Any], signature: Any) -> Any:
    """A function of numba types that can be called by address; not compiled yet."""
    return _cached(CFunc(function, (signature.args, signature.return_type), {}, _OPTIONS))


def entry(made: Any) -> int:
    """Address of a `callback`, compiled now or loaded from numba's cache when first asked for."""
    if made.address is None:
        before = _compiling.set(True)
        try:
            made.compile()
        except OSError:  # of the cache: it cannot be read or written
            made._cache = NullCache()
            made.compile()
        finally:
            _compiling.reset(before)
    address: Any = made.address
    return address


def kept(made: Any) -> bool:
    """Whether a `callback` needs no compiling: it was, or numba's cache has it."""
    if made.address is not None:
        return True
    if isinstance(made._cache, NullCache):
        return False
    try:
        key = made._cache._index_key(made._sig, made._targetdescr.target_context.codegen())
        return key in made._cache._cache_file._load_index()
    except Exception:  # numba has no public way to ask
        return False


def parts(function: Callable[..., Any]) -> Iterator[CodeType]:
    """The Python code of a function and of the inner functions that it calls, directly or not, each once."""
    left, seen = [function], {function}
    while left:
        code = left[-1].__code__
        names = left.pop().__globals__
        yield code
        new = {names[name].py_func for name in code.co_names if isinstance(names.get(name), Inner)} - seen
        seen |= new
        left += new
