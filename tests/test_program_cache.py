"""The assembled form beside a long text program: the same program, never another one, and never missed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_task import short_program

import sasimc.isa.files as files
from sasimc.isa import cache
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, save_program
from sasimc.isa.program import Program


@pytest.fixture(autouse=True)
def every_text_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHORTEST", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_program(short_program(), tmp_path / "prog.s")
    return tmp_path / "prog.s"


def assembled(monkeypatch: pytest.MonkeyPatch, path: Path) -> bool:
    """Whether a load needs the assembler."""
    used: list[Path] = []
    real = files._assemble
    with monkeypatch.context() as m:
        m.setattr(files, "_assemble", lambda path, data: used.append(path) or real(path, data))
        load_program(path)
    return bool(used)


def same(a: Program, b: Program) -> bool:
    """Equal in everything, lines included; arrays by value."""
    tensors = a.tensors.keys() == b.tensors.keys() and all((a.tensors[k] == b.tensors[k]).all() for k in a.tensors)
    return tensors and replace(a, tensors={}) == replace(b, tensors={}) and dict(a.lines) == dict(b.lines)


def test_second_load_gives_the_same_program_without_the_assembler(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_program(path)
    assert cache.cache_of(path).is_file()
    assert not assembled(monkeypatch, path)
    second = load_program(path)
    assert same(first, second)
    assert any(instr.line for instr in second.code)
    assert second.lines


def test_a_changed_text_is_assembled_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_program(path)
    status = path.stat()
    text = path.read_text(encoding="utf-8")
    other = text.replace('.meta "name"', '.meta "nome"') if '.meta "name"' in text else text.replace("batch", "hctab", 1)
    path.write_text(text + "; a comment\n", encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # nor does a time that stays make it a hit
    assert other != text
    assert assembled(monkeypatch, path)
    assert not assembled(monkeypatch, path)


@pytest.mark.parametrize("what", ["toolchain", "instructions"])
def test_another_toolchain_is_no_hit(path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_program(path)
    if what == "toolchain":
        monkeypatch.setattr(cache, "_toolchain", lambda: b"another")
    else:
        monkeypatch.setattr(cache, "TABLE", {**cache.TABLE, "more": cache.TABLE["vmm"]})
    assert assembled(monkeypatch, path)


@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_no_hit(path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    cache.cache_of(path).unlink(missing_ok=True)  # of the example before
    first = load_program(path)
    kept = bytearray(cache.cache_of(path).read_bytes())
    if data.draw(st.booleans()):
        kept[data.draw(st.integers(0, len(kept) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del kept[data.draw(st.integers(0, len(kept) - 1)) :]
    cache.cache_of(path).write_bytes(kept)
    assert assembled(monkeypatch, path)
    assert same(first, load_program(path))


def test_weights_are_checked_all_the_same(path: Path) -> None:
    load_program(path)
    weights = next(path.parent.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SasError, match="not the weights file this program was made with"):
        load_program(path)
    weights.unlink()
    with pytest.raises(SasError, match="is missing"):
        load_program(path)


def test_a_text_that_takes_any_weights_is_not_kept(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    digest = load_program(path).digest
    cache.cache_of(path).unlink()
    loose = text.replace(f' sha256="{digest}"', "")
    assert len(loose) < len(text)
    path.write_text(loose, encoding="utf-8")
    assert load_program(path).digest == digest
    assert not cache.cache_of(path).exists()


def test_what_cannot_be_written_is_not_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.cache_of(path).mkdir()
    first = load_program(path)
    assert same(first, load_program(path))
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_short_texts_are_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHORTEST", 1 << 30)
    load_program(path)
    assert not cache.cache_of(path).exists()
