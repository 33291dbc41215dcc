"""The first difference: planted faults, in a kernel, in weights, in a record, are found at their node, instruction and element; sound runs show none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import mobilenet_like
from numba import njit
from tiny_task import machine

from sasimc.api import CompileOptions, compile_model
from sasimc.debug.difference import against_engine, against_model, against_program, against_record
from sasimc.debug.reference import expected
from sasimc.debug.runs import images
from sasimc.debug.session import Session
from sasimc.debug.stream import write_record
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.runtime import kernel
from sasimc.runtime.device import Device
from sasimc.runtime.engines.step import StepDatapath
from sasimc.runtime.kernel import KERNELS, buf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(mobilenet_like(size=8, width=4, modules=1), path)
    return path


@pytest.fixture(scope="module")
def program(model: Path) -> Program:
    return compile_model(model, CompileOptions(batch=2, machine=machine(4))).program


def _session(program: Program, engine: str = "fused") -> Session:
    device = Device(program, engine, 1)
    rng = np.random.default_rng(5)
    examples = [(name, rng.integers(0, 256, device.input_shape).astype(np.uint8)) for name in ("a.npy", "b.npy")]
    return Session(device, images(device, examples))


def test_sound_runs_have_no_difference(program: Program, model: Path, tmp_path: Path) -> None:
    s = _session(program)
    assert against_engine(s, "bitserial") is None
    s.goto(0)
    assert against_engine(s, "step") is None
    s.goto(0)
    count = write_record(s, tmp_path / "a.rec")
    assert count == s.history.time
    assert against_record(_session(program, "bitserial"), tmp_path / "a.rec") is None
    s.goto(3)
    assert against_model(s, model) is None
    s.goto(s.history.starts[1])
    assert against_model(s, model) is None


def test_another_machine_has_the_same_nodes(program: Program, model: Path) -> None:
    other = compile_model(model, CompileOptions(batch=1, machine=machine(8), inference_only=True)).program
    s = _session(program)
    assert against_program(s, other, "eight groups") is None
    s.goto(0)
    name = next(n for n, m in program.matrices.items() if m.kind == "dense" and m.tensor)
    s.set(f'"{name}"[0, 0]', 127 if s.it.read_matrix(name)[0, 0] < 100 else -128)
    found = against_program(s, other, "eight groups")
    assert found is not None
    assert any(f"1 weights of {name} are not those of the program" in line for line in found.lines)


def test_the_references_are_what_every_engine_does(program: Program) -> None:
    """The numpy definitions, on every instruction of an inference that has one."""
    s = _session(program, "fused")
    seen = set[str]()
    while s.history.run == 0:
        assert s.pc is not None
        want = expected(s, s.pc)
        kind = program.code[s.pc].spec.kernel
        s.step()
        if want is not None:
            seen.add(kind)
            assert np.array_equal(s.it.read_view(want.view, stale=True)[want.first : want.first + len(want.values)], want.values)
    assert {"forward_product", "depthwise_product", "requantise"} <= seen


@pytest.fixture
def broken_requantise() -> Iterator[tuple[int, int]]:
    """A kernel with a planted fault: requantisation flips a bit of the byte at this distance in its result, when it has so many rows."""
    key, stages = ("requantise", ""), KERNELS["requantise", ""]
    sound: Any = njit(stages[0].function)
    byte, rows = 7, 4

    def broken(op, m, first, last):  # type: ignore[no-untyped-def]
        found = sound(op, m, first, last)
        if op.dst.height == rows:
            buf(m)[op.dst.base + byte] ^= 4
        return found

    KERNELS[key] = [replace(stages[0], function=broken), *stages[1:]]
    kernel.stages.cache_clear()
    yield byte, rows
    KERNELS[key] = stages
    kernel.stages.cache_clear()


def test_a_fault_in_a_kernel_is_found_by_onnxruntime(program: Program, model: Path, broken_requantise: tuple[int, int]) -> None:
    """All engines share the kernel, so none shows the fault; onnxruntime does: at the first node, instruction and element."""
    byte, rows = broken_requantise
    s = _session(program)
    assert against_engine(s, "bitserial") is None
    s.goto(0)
    found = against_model(s, model)
    assert found is not None
    first = next(
        pc for pc, i in enumerate(program.code)
        if i.spec.kernel == "requantise" and program.views[i.operands[0]].height == rows and i.origin.node
    )  # fmt: skip
    assert found.pc == first
    assert found.node == program.code[first].origin.node
    view = program.views[program.code[first].operands[0]]
    at = np.unravel_index(byte, view.shape)
    assert found.element == f"{view.name}{[int(i) for i in at]}"
    assert found.ours ^ 4 == found.theirs
    assert any("first that does not do what its definition says" in line for line in found.lines)
    assert found.lines[-1].endswith(", wrong")
    assert s.pc == first


def test_a_fault_in_one_engine_is_found_by_another(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference engine adds 1 to one sum of the third dense product."""
    sound, calls = StepDatapath.forward_product, list[int]()

    def broken(self: StepDatapath, o: Any, r0: int, r1: int) -> int:
        found = sound(self, o, r0, r1)
        calls.append(self.index)
        if len(calls) == 3:
            o.acc.phys[0, 0, 1] += 1
        return found

    monkeypatch.setattr(StepDatapath, "forward_product", broken)
    s = _session(program)
    found = against_engine(s, "step")
    assert found is not None
    assert found.pc == calls[2] == s.pc
    assert found.element.endswith("[0, 0, 1]")
    assert found.theirs == found.ours + 1
    assert f"this run: {found.ours}, right; step: {found.theirs}, wrong" in found.lines


def test_a_wrong_weight_is_told_from_a_record_and_from_onnxruntime(program: Program, model: Path, tmp_path: Path) -> None:
    s = _session(program)
    write_record(s, tmp_path / "a.rec")
    s.goto(2)
    name = [n for n, m in program.matrices.items() if m.kind == "dense" and m.tensor and not m.trainable][1]
    s.set(f'"{name}"[1, 2]', 127)
    for found in (against_record(s, tmp_path / "a.rec"), against_model(s, model)):
        assert found is not None
        assert any(line.startswith(f"1 weights of {name} are not those of the program: [1, 2] is 127") for line in found.lines)
        assert name.split(".g")[0] in found.node


def test_what_cannot_be_compared(program: Program, model: Path, tmp_path: Path) -> None:
    s = _session(program)
    (tmp_path / "no.rec").write_bytes(b"no record")
    with pytest.raises(SasError, match="no record of a run"):
        against_record(s, tmp_path / "no.rec")
    other = tmp_path / "other.onnx"
    onnx.save(mobilenet_like(size=8, width=4, modules=1, seed=9), other)
    with pytest.raises(SasError, match="not the network this program was compiled from"):
        against_model(s, other)
    write_record(s, tmp_path / "a.rec")
    small = compile_model(other, CompileOptions(batch=1, machine=machine(4))).program
    with pytest.raises(SasError, match="recorded with another program"):
        against_record(_session(small), tmp_path / "a.rec")
