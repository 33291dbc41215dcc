"""Compiling kernels: only those a program needs, shared out to processes, kept by content."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from isa_programs import SMALL
from numba import types
from numba.core import event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc

import sasimc.isa.spec
from sasimc.isa.text.assembler import assemble
from sasimc.runtime import warmup
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernel import Code
from sasimc.runtime.kernels import cache
from sasimc.runtime.kernels.compiling import Inner, callback, entry, for_python, inner, kept, parts
from sasimc.runtime.warmup import warm_up

X = np.arange(32, dtype=np.int8).reshape(4, 4, 2)


class Compiled(event.Listener):
    """What numba compiles meanwhile."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_start(self, event: Any) -> None:
        self.found.append(event.data)

    def on_end(self, event: Any) -> None: ...


@pytest.mark.parametrize("engine", ["bitserial", "fused"])
def test_warm_up_leaves_nothing_to_compile(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    it, said = Interpreter(assemble(SMALL), engine), []
    warm_up(it.datapath.codes(), lambda what, done=None: said.append((what, done)))
    assert said[-1] == ("loading the kernels", None)
    it.write_view("in", X)
    it.regs[1] = 0
    with event.install_listener("numba:compile", Compiled()) as made:
        it.run("infer")
    assert not made.found
    monkeypatch.setattr(CFunc, "compile", None)  # nor a kernel
    assert warm_up(it.datapath.codes()) == 0


def test_only_what_the_program_needs() -> None:
    found = {str(code) for code in Interpreter(assemble(SMALL), "fused").datapath.codes()}
    assert found == {"hld: load_host", "vmm: fuse", "vmm: forward_fused", "req: requantise", "addi"}
    assert "vmm: pack" in {str(code) for code in Interpreter(assemble(SMALL), "bitserial").datapath.codes()}
    assert not any("vmm" in str(code) for code in Interpreter(assemble(SMALL), "step").datapath.codes())
    two = Interpreter(assemble(f"{SMALL}\n.entry other\naddi r1, r1, 1\nhalt\n"), "fused").datapath
    assert {str(code) for code in two.codes("infer")} == found
    assert {str(code) for code in two.codes("other")} == {"addi"}


SHARED = """
import sys
from sasimc.isa.text.assembler import assemble
from sasimc.runtime import warmup
from sasimc.runtime.interpreter import Interpreter
from sasimc.runtime.kernel import Code
warmup._WORTH, helper = 1, warmup._Helper
class Watched(helper):
    def _feed(self):
        super()._feed()
        said.append(self.jobs.done)
said, sys.executable = [], sys.executable if sys.argv[2] == "helped" else sys.argv[2]
warmup._Helper = Watched
warmup.os.sched_getaffinity = lambda of: {0, 1}
text = '''.sas 1
.machine "sas28"
.code
.entry main
addi r1, r0, 3
add r2, r1, r1
max r3, r1, r2
sub r4, r1, r2
halt
'''
it = Interpreter(assemble(text), "fused")
count = warmup.warm_up(it.datapath.codes())
it.run("main")
helped = sum(Code(c.mnemonic, c.engine, c.place).callback._cache_hits for c in it.datapath.codes())
print(count, helped, it.regs[1:5])
"""


def run(folder: Path, how: str) -> list[str]:
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "NUMBA_OPT": "0", "SAS_NB": "0"}
    done = subprocess.run([sys.executable, "-c", SHARED, "-", how], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split(maxsplit=2)


def test_processes_share_the_work_and_one_that_fails_costs_nothing(tmp_path: Path) -> None:
    values, hows = "[3, 6, 6, -3]\n", ("helped", "/bin/true", "/nowhere/python")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        (count, _, got), *broken = pool.map(lambda how: run(tmp_path / Path(how).name, how), hows)
    assert (count, got) == ("4", values)
    assert broken == [["4", "0", values]] * 2
    assert run(tmp_path / "helped", "helped") == ["0", "4", values]  # all of it was kept


def test_the_estimate_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(warmup.time, "monotonic", lambda: now)
    codes = [c for c in Interpreter(assemble(SMALL), "fused").datapath.codes() if c.place >= 0]
    said: list[tuple[str, float]] = []
    jobs = warmup._Jobs({c.function: [c] for c in codes}, lambda what, done: said.append((what, done)))
    order = [job[0] for job in jobs.left]
    assert set(order) == set(codes)
    assert jobs.total == pytest.approx(sum(jobs.work.values()))
    first = jobs.seconds_left()
    for code in order:
        now += 10 * jobs.work[code.function] / jobs.total  # at the pace of 10 s for all
        jobs.finish([code])
        assert said[-1][1] == pytest.approx(jobs.finished / jobs.total)
        left = 1 - jobs.finished / jobs.total
        assert first * left - 1e-9 <= jobs.seconds_left() <= 10 * left + 1e-9  # between the usual pace and this computer's
    assert jobs.seconds_left() < 1e-6
    assert "left" not in said[-1][0]


@inner
def doubled(x: Any) -> Any:
    return 2 * x


def quadrupled(x: Any) -> Any:
    return doubled(doubled(x))


def test_inner_functions_are_part_of_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(doubled, Inner)
    assert doubled(4) == 8  # from Python, too
    assert {code.co_name for code in parts(quadrupled)} == {"quadrupled", "doubled"}
    made = callback(quadrupled, types.int64(types.int64))
    made._cache = monkeypatch and type("None", (), {"load_overload": lambda *_: None, "save_overload": lambda *_: None})()
    assert not kept(made)
    address = entry(made)
    assert kept(made)
    assert entry(made) == address
    assert made.ctypes(5) == 20
    assert not any(o.library._final_module is None for o in doubled.overloads.values())
    assert all(
        not o.library.codegen._engine.is_symbol_defined(o.fndesc.llvm_cfunc_wrapper_name) for o in doubled.overloads.values()
    )


def tripled(x: Any) -> Any:
    return 3 * x


def test_no_folder_to_keep_code_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CFunc, "enable_caching", refuse)
        made = callback(tripled, types.int64(types.int64))
        assert entry(made)
        assert made.ctypes(5) == 15
    with monkeypatch.context() as patch:
        patch.setattr(IndexDataCacheFile, "save", full)
        patch.setattr(IndexDataCacheFile, "load", lambda *_: None)
        made = callback(tripled, types.int32(types.int32))
        assert entry(made)
        assert made.ctypes(-7) == -21
    assert for_python(tripled)(2) == 6


def stamp(path: Path, source: str) -> Any:
    path.write_text(source)
    cache._imports.cache_clear()
    cache._mark.cache_clear()
    space: dict[str, Any] = {}
    exec(compile(source, str(path), "exec"), space)
    return FunctionCache(space["f"])._impl.locator.get_source_stamp()


def test_code_is_kept_by_content_and_by_constants_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    source = "from sasimc.runtime.kernel import buf\nfrom sasimc.isa.spec import PHASES\ndef f(op, m): return buf(m)\n"
    path = tmp_path / "mine.py"
    before = stamp(path, source)
    os.utime(path, (1, 1))
    assert stamp(path, source) == before
    (tmp_path / "copy").mkdir()
    assert stamp(tmp_path / "copy" / "mine.py", source) == before
    assert stamp(path, source + "\n# edited\n") != before
    monkeypatch.setattr(sasimc.isa.spec, "PHASES", ("another",))
    assert stamp(path, source) != before
    assert Code("add", "", -1).function is sasimc.isa.spec.TABLE["add"].result


LINEAR = """
import sys
import numba, numpy as np
from sasimc.runtime.warmup import warm_up
warm_up([])
before = "scipy.linalg" in sys.modules
dot = numba.njit(lambda a, b: np.dot(a, b))
cov = numba.njit(lambda a: np.cov(a))
a = np.arange(6.0).reshape(2, 3)
print(before, dot(a, a.T).tolist(), cov(a).tolist())
"""


def test_scipy_is_imported_by_who_needs_it() -> None:
    done = subprocess.run([sys.executable, "-c", LINEAR], capture_output=True, text=True, check=True)
    assert done.stdout == "False [[5.0, 14.0], [14.0, 50.0]] [[1.0, 1.0], [1.0, 1.0]]\n"
