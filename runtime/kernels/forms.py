"""Which form the hot kernels take on a processor: the width of a register, the instruction of an integer product, of a look-up.

All forms give the same bits. The choice follows the features for which numba generates code, that is the host's, or those that
NUMBA_CPU_FEATURES names (then also with a minus sign, and whatever NUMBA_CPU_NAME implies beyond them is used by the code generator, but
does not choose the form). numba keeps compiled code by name and features of the processor, so that no form ever loads another's code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import llvmlite.binding as llvm

__all__ = ["FORM", "PROCESSORS", "Form", "acting", "choose", "features", "form"]


_AVX2 = ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi", "bmi2", "fma", "f16c", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")

PROCESSORS: dict[str, tuple[str, ...]] = {
    "haswell": _AVX2,
    "skylake-avx512": _AVX512,
    "alderlake": (*_AVX512, "avx512vnni", "prefer-256-bit"),
    "core2": ("sse3", "ssse3"),
    "x86-64": ("sse2",),
}
"""Processors that a newer one can act: name -> features of the code. alderlake's AVX-VNNI in the encoding that AVX-512 has for it."""

_TBL, _PSHUFB = "llvm.aarch64.neon.tbl1.v16i8", "llvm.x86.avx2.pshuf.b"


@dataclass(frozen=True)
class Form:
    """A way to write the hot kernels.

    lanes: 32-bit lanes of a register; dot: the instruction that adds 4 products of bytes to a lane, "" if there is none (then pairs of 16
    bits are multiplied, which every x86 processor has an instruction for, and code generators find); look_up: the instruction that looks
    bytes up in tables of 16, "" if there is none; pixels, blocks: rows and blocks of 16 columns of the tile of sums that a dense kernel
    holds in registers; x86: whether LLVM's intrinsics for x86 may be used.
    """

    name: str
    lanes: int
    dot: str
    look_up: str
    pixels: int
    blocks: int
    x86: bool = False

    def narrow(self) -> Form:
        """The same with registers of at most 256 bits: less of them is empty where there is little to sum over."""
        return replace(self, lanes=8, look_up=_PSHUFB) if self.lanes > 8 else self

    def __str__(self) -> str:
        return f"{self.name}, {32 * self.lanes} bit"


def choose(triple: str, found: frozenset[str]) -> Form:
    """The form for a processor with these features, in LLVM's names."""
    machine = triple.split("-")[0]
    if machine in ("aarch64", "arm64"):
        # LLVM does not ask Apple's systems for features; all of Apple's processors for computers have this one
        if "dotprod" in found or "apple" in triple:
            return Form("Arm dot product", 4, "sdot", _TBL, 6, 1)
        return Form("Arm NEON", 4, "", _TBL, 4, 1)
    if machine not in ("x86_64", "amd64"):
        return Form("generic", 4, "", "", 2, 1)
    whole = "prefer-256-bit" not in found
    if {"avx512vnni", "avx512bw"} <= found and whole:
        return Form("AVX-512 VNNI", 16, "vpdpbusd", "llvm.x86.avx512.pshuf.b.512", 8, 2, True)
    if "avxvnni" in found or {"avx512vnni", "avx512vl"} <= found:
        return Form("AVX-VNNI", 8, "vpdpbusd", _PSHUFB, 6, 1, True)
    if "avx512bw" in found and whole:
        return Form("AVX-512", 16, "", "llvm.x86.avx512.pshuf.b.512", 8, 2, True)
    if "avx2" in found:
        return Form("AVX2", 8, "", _PSHUFB, 6, 1, True)
    if "ssse3" in found:
        return Form("SSSE3", 4, "", "llvm.x86.ssse3.pshuf.b.128", 2, 1, True)
    return Form("SSE2", 4, "", "", 2, 1, True)


def features() -> frozenset[str]:
    """The features for which numba generates code."""
    from numba.core import codegen, config

    settings: Any = config
    text = settings.CPU_FEATURES if settings.CPU_FEATURES is not None else codegen.get_host_cpu_features()
    return frozenset(word[1:] for word in text.split(",") if word.startswith("+"))


FORM = choose(llvm.get_process_triple(), features())
"""The form in use."""


def acting(processor: str) -> dict[str, str] | None:
    """Environment in which a new process runs the code of another processor (`PROCESSORS`); None if this one lacks instructions for it."""
    wanted, host = PROCESSORS[processor], llvm.get_host_cpu_features()
    if not all(host.get(feature, False) for feature in wanted if feature not in ("prefer-256-bit", "sse2")):
        return None
    name = "haswell" if processor == "alderlake" else processor
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in wanted)}


def form() -> str:
    """The form in use, for people: "AVX-512 VNNI, 512 bit"."""
    return str(FORM)
