"""Program files: saved and loaded alike in both forms, bound to their weights; every damage is one clear error; nothing half-written."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from isa_programs import SMALL

from sasimc.isa.errors import DiagnosticsError, SasError
from sasimc.isa.files import load_program, save_program
from sasimc.isa.program import Program
from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.printer import format_program


@pytest.fixture
def program() -> Program:
    """The small program with its weights in a file."""
    return replace(assemble(SMALL), inline=frozenset())


@pytest.mark.parametrize("name", ["prog.s", "prog.bin"])
def test_save_and_load(tmp_path: Path, program: Program, name: str) -> None:
    saved = save_program(program, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "prog.weights.safetensors"]
    loaded = load_program(tmp_path / name)
    assert loaded.weights_file == "prog.weights.safetensors"
    assert format_program(loaded) == format_program(saved)
    assert loaded.code == saved.code  # with the same source lines
    assert loaded.tensors["w"].tolist() == program.tensors["w"].tolist()
    assert loaded.tensors["w"].dtype == np.int8
    if name.endswith(".s"):
        assert (tmp_path / name).read_text() == format_program(saved)


def test_saving_is_reproducible(tmp_path: Path, program: Program) -> None:
    save_program(program, tmp_path / "a.s")
    first = [(tmp_path / n).read_bytes() for n in ("a.s", "a.weights.safetensors")]
    save_program(load_program(tmp_path / "a.s"), tmp_path / "a.s")
    assert [(tmp_path / n).read_bytes() for n in ("a.s", "a.weights.safetensors")] == first


def test_text_and_binary_share_a_weights_file(tmp_path: Path, program: Program) -> None:
    save_program(program, tmp_path / "a.s")
    save_program(load_program(tmp_path / "a.s"), tmp_path / "a.bin")
    assert format_program(load_program(tmp_path / "a.bin")) == format_program(load_program(tmp_path / "a.s"))


def _weights(folder: Path) -> Path:
    return folder / "prog.weights.safetensors"


@pytest.mark.parametrize("form", ["prog.s", "prog.bin"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty", "other", "folder"])
def test_damaged_weights(tmp_path: Path, program: Program, form: str, damage: str) -> None:
    save_program(program, tmp_path / form)
    path = _weights(tmp_path)
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[:-1])
    elif damage == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_bytes(safetensors.numpy.save({"w": np.zeros((2, 3), np.int8)}))
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(
        SasError, match="is missing" if damage in ("missing", "folder") else "is not the weights file this program was made with"
    ):
        load_program(tmp_path / form)


@pytest.mark.parametrize("name", ["../prog.weights.safetensors", "/etc/passwd", "sub/w.safetensors", "..", ".", "", "a\\\\b"])
def test_weights_outside_the_folder(tmp_path: Path, program: Program, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    save_program(program, inner / "prog.s")
    os.replace(_weights(inner), _weights(tmp_path))
    text = (inner / "prog.s").read_text().replace('"prog.weights.safetensors"', f'"{name}"')
    (inner / "prog.s").write_text(text)
    with pytest.raises(SasError):
        load_program(inner / "prog.s")


def test_link_out_of_the_folder(tmp_path: Path, program: Program) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    save_program(program, inner / "prog.s")
    os.replace(_weights(inner), _weights(tmp_path))
    _weights(inner).symlink_to(_weights(tmp_path))
    with pytest.raises(SasError, match="leads out of the program's folder"):
        load_program(inner / "prog.s")


def test_weights_without_digest(tmp_path: Path, program: Program) -> None:
    saved = save_program(program, tmp_path / "prog.s")
    text = (tmp_path / "prog.s").read_text().replace(f' sha256="{saved.digest}"', "")
    (tmp_path / "prog.s").write_text(text)
    assert load_program(tmp_path / "prog.s").digest == saved.digest
    _weights(tmp_path).write_bytes(b"not safetensors")
    with pytest.raises(SasError, match="not a valid safetensors file"):
        load_program(tmp_path / "prog.s")
    _weights(tmp_path).write_bytes(safetensors.numpy.save({"w": np.zeros((2, 3), np.float32)}))
    with pytest.raises(SasError, match="is float32; programs use int8 and int32"):
        load_program(tmp_path / "prog.s")
    _weights(tmp_path).write_bytes(safetensors.numpy.save({"v": np.zeros((2, 3), np.int8)}))
    with pytest.raises(DiagnosticsError, match="there is no tensor 'w'"):
        load_program(tmp_path / "prog.s")


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    for name, data, message in (
        ("a.s", b"\xff\xfe\0", "not a text file"), ("b.s", b"halt\0", "zero bytes"), ("c.bin", b"SASBIN\r\n\1", "ends in its header"),
        ("d.s", b"", "no instruction"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SasError, match=message):
            load_program(tmp_path / name)
    with pytest.raises(SasError, match="cannot read the program"):
        load_program(tmp_path / "nowhere.s")
    with pytest.raises(SasError, match="cannot read the program"):
        load_program(tmp_path)


def test_nothing_is_written_when_it_cannot_be(tmp_path: Path, program: Program) -> None:
    with pytest.raises(SasError, match="cannot write"):
        save_program(program, tmp_path / "no" / "prog.s")
    with pytest.raises(DiagnosticsError, match="no tensor"):
        save_program(replace(program, tensors={}), tmp_path / "prog.s")
    assert list(tmp_path.iterdir()) == []


def test_full_disk(tmp_path: Path, program: Program) -> None:
    """A write that fails half-way (here: the limit on file sizes) leaves the old file and no temporary one."""
    save_program(program, tmp_path / "prog.s")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, old[1]))
        with pytest.raises(SasError, match="cannot write"):
            save_program(replace(program, meta={"k": "v"}), tmp_path / "prog.s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
