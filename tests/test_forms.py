"""Forms of the hot kernels: chosen by features, bit-identical on every processor that this one can act, and written for others."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir
from numba.core import codegen

from sasimc.runtime.kernels import form, sources
from sasimc.runtime.kernels import products as P
from sasimc.runtime.kernels.forms import FORM, PROCESSORS, Form, acting, choose

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
FORMS = {
    "alderlake": "AVX-VNNI, 256 bit",
    "skylake-avx512": "AVX-512, 512 bit",
    "haswell": "AVX2, 256 bit",
    "core2": "SSSE3, 128 bit",
    "x86-64": "SSE2, 128 bit",
}
AVX2, AVX512 = PROCESSORS["haswell"], PROCESSORS["skylake-avx512"]

PROGRAM = """
import numpy as np
from numba import njit
from sasimc.runtime.kernels import form
from sasimc.runtime.kernels.rounding import STEP, requantise_constants, requantise_run, shift_run
from sasimc.runtime.kernels.dense import dense_bitserial, dense_fused, make_view, pack_weights, prepare_fused
from sasimc.runtime.kernels.depthwise import dw_scatter, make_geom
rng = np.random.default_rng(5)
for pixels, k, n in ((1, 5, 17), (13, 40, 48), (9, 300, 33), (7, 1100, 16)):
    for signed in (False, True):
        x = rng.integers(0, 256, (pixels, k), dtype=np.uint8)
        w = rng.integers(-128, 128, (k, n)).astype(np.int8)
        if k == 300:
            x[:], w[:] = 255 if not signed else 128, -128
        x = x.view(np.int8) if signed else x
        expected = x.astype(np.int64) @ w.astype(np.int64)
        assert np.array_equal(dense_bitserial(x, pack_weights(w), n, signed), expected), ("bitserial", pixels, k, n, signed)
        assert np.array_equal(dense_fused(x, prepare_fused(w), n, signed), expected), ("fused", pixels, k, n, signed)
for chans, stride, signed in ((16, 1, False), (24, 2, True), (48, 1, True)):
    geom, side = make_geom(3, 3, stride, stride, 1, 1, 1, 1, 9, 9, -(-9 // stride), -(-9 // stride)), -(-9 // stride)
    x = rng.integers(0, 256, (9, 9, chans), dtype=np.uint8)
    w = rng.integers(-128, 128, (3, 3, chans)).astype(np.int8)
    values = np.pad((x.view(np.int8) if signed else x).astype(np.int64), ((1, 1), (1, 1), (0, 0)), constant_values=7)
    expected = np.zeros((side, side, chans), np.int64)
    for ky in range(3):
        for kx in range(3):
            expected += values[ky : ky + 9 : stride, kx : kx + 9 : stride][:side, :side] * w[ky, kx].astype(np.int64)
    for engine in ("fused", "bitserial"):
        acc = np.zeros(side * side * chans, np.int32)
        for r0, r1 in ((-1, 4), (4, 5), (5, 10)):
            dw_scatter(engine, x.reshape(-1), make_view(0, 9, chans, 9), signed, w, geom, 7, r0, r1, acc,
                         make_view(0, side, chans, side))
        assert np.array_equal(acc.reshape(side, side, chans), expected), (engine, chans, stride, signed)
@njit
def requantise(sums, out, bias, mult, shift, table):
    requantise_constants(bias.ctypes.data, mult.ctypes.data, shift.ctypes.data, out.size // STEP, table.ctypes.data)
    requantise_run(sums.ctypes.data, out.ctypes.data, table.ctypes.data, 3, -90, 127, out.size // STEP)

@njit
def to_bytes(words, out, shift):
    shift_run(words.ctypes.data, out.ctypes.data, shift, out.size // STEP)

def rounded(value, shift):  # half to even
    whole, rest = value >> shift, value & ((1 << shift) - 1)
    return whole + (2 * rest > 1 << shift or (2 * rest == 1 << shift and whole & 1))

sums = rng.integers(-(2**30), 2**30, 256).astype(np.int32)
sums[:128] = rng.integers(-8, 8, 128) << 20
bias, mult, shift = rng.integers(-(2**20), 2**20, 256), rng.integers(2**30, 2**31, 256), rng.integers(32, 63, 256)
bias[:128], mult[:128], shift[:128] = 0, 2**30, rng.integers(49, 53, 128)
wanted = [min(max(rounded((int(a) + int(b)) * int(c), int(d)) + 3, -90), 127) for a, b, c, d in zip(sums, bias, mult, shift)]
out, words = np.zeros(256, np.int8), sums.copy()
requantise(sums, out, bias, mult, shift, np.zeros(6 * 256, np.int32))
assert out.tolist() == wanted and not sums.any()
for shift in (1, 20, 24, 31):
    words[:4] = -(2**31), 2**31 - 1, 3 << (shift - 1) if shift < 31 else 0, -(3 << (shift - 1)) if shift < 31 else 0
    to_bytes(words, out, shift)
    assert out.tolist() == [min(max(rounded(int(v), shift), -127), 127) for v in words], shift
print(form())
"""


@pytest.fixture(scope="module")
def acted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """The program on every processor that this one can act, as many at a time as there are cores."""

    def run(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True)

    known = {cpu: env for cpu in FORMS if (env := acting(cpu)) is not None}
    folders = {cpu: str(tmp_path_factory.mktemp(cpu)) for cpu in known}
    envs = [{**os.environ, **known[cpu], "NUMBA_CACHE_DIR": folders[cpu], "NUMBA_OPT": "1"} for cpu in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(known, pool.map(run, envs), strict=True))


@pytest.mark.skipif("x86_64" not in llvm.get_process_triple(), reason="acts other x86 processors")
@pytest.mark.parametrize("cpu", FORMS)
def test_every_form_gives_the_exact_products(cpu: str, acted: dict[str, subprocess.CompletedProcess[str]]) -> None:
    if cpu not in acted:
        pytest.skip("this processor has not all of its instructions")
    assert acted[cpu].returncode == 0, acted[cpu].stderr
    assert acted[cpu].stdout.split("\n")[0] == FORMS[cpu]


def test_the_form_follows_the_features() -> None:
    assert form() == str(FORM) == str(choose(llvm.get_process_triple(), host_features()))
    for cpu, name in FORMS.items():
        assert str(choose(X86, frozenset(PROCESSORS[cpu]))) == name
    assert choose(X86, frozenset([*AVX512, "avx512vnni"])).name == "AVX-512 VNNI"
    assert choose(X86, frozenset([*AVX2, "avxvnni"])).name == "AVX-VNNI"
    assert (
        choose(ARM, frozenset({"neon", "dotprod"})).name == choose("arm64-apple-darwin24", frozenset()).name == "Arm dot product"
    )
    assert choose(ARM, frozenset({"neon"})).name == "Arm NEON"
    assert choose("riscv64-unknown-linux-gnu", frozenset()).name == "generic"


def host_features() -> frozenset[str]:
    return frozenset(word[1:] for word in codegen.get_host_cpu_features().split(",") if word.startswith("+"))


def written(form: Form, triple: str, cpu: str, name: str) -> str:
    """Assembly of a kernel in a form, for a processor."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    kernel, count = {
        "dot tile": (lambda b, a: P.write_dot_tile(b, form, form.pixels, form.blocks, a), 8),
        "bit block": (lambda b, a: P.write_bit_block(b, form, True, a), 4),
    }[name]
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [ir.IntType(64)] * count), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(kernel(builder, list(function.args)))
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = triple
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return machine.emit_assembly(parsed)


@pytest.mark.parametrize(
    ("triple", "features", "cpu", "product", "look_up"),
    [
        (X86, [*AVX512, "avx512vnni"], "icelake-server", r"vpdpbusd", "vpshufb"),
        (X86, [*AVX2, "avxvnni"], "alderlake", r"{vex}", "vpshufb"),
        (X86, AVX2, "haswell", "vpmaddwd", "vpshufb"),
        (X86, ["ssse3"], "core2", "pmaddwd", "pshufb"),
        (ARM, ["dotprod"], "cortex-a76", "sdot", "tbl"),
        (ARM, ["neon"], "cortex-a72", "smull", "tbl"),
    ],
)
def test_code_for_a_processor_has_its_instructions(
    triple: str, features: list[str], cpu: str, product: str, look_up: str
) -> None:
    chosen = choose(triple, frozenset(features))
    assert product in written(chosen, triple, cpu, "dot tile")
    assert look_up in written(chosen, triple, cpu, "bit block")


def test_compiled_code_is_kept_by_what_it_imports() -> None:
    """The handlers of the engines hold the code of the dense kernels: an edit of `products` makes them stale."""
    import sasimc.runtime.kernels.dense as dense
    from sasimc.runtime.kernels.cache import _mark

    file = Path(dense.__file__).resolve()
    names = {path.name for path in sources(file)}
    assert {"dense.py", "products.py", "forms.py", "vector.py", "simd.py"} <= names
    assert "train.py" not in names
    kernel: Any = dense.fused_range.alone
    assert kernel._cache._cache_file._source_stamp == _mark(file)
