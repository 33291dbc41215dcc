"""What users hand over by mistake, in the wrong form or half empty: said as what it is, and nothing lost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colour_nets import colour_program
from PIL import Image

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.frontend.load import load_model
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program, write_together
from sasimc.isa.machine import load_machine
from sasimc.training.image.container import MAGIC
from sasimc.training.recipe import load_recipe


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colour_program(tmp_path_factory.mktemp("program"), [[64, 0, 0], [0, 64, 0]])


def pictures(folder: Path, *names: str, count: int = 4) -> Path:
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (16, 16), (200 - 9 * k, 20, 20) if i % 2 == 0 else (20, 200 - 9 * k, 20)).save(
                folder / name / f"{k}.png"
            )
    return folder


def said(capsys: pytest.CaptureFixture[str], tool: str, *words: object) -> tuple[int, str]:
    """Exit code, and what stands on the terminal."""
    code = invoke({"sasc": sasc.app, "sasrun": sasrun.app}[tool], [str(w) for w in words], tool)
    caught = capsys.readouterr()
    return code, caught.out + caught.err


# ------------------------------------------------------------------------------------------------------------------ files for others


FOREIGN: dict[str, tuple[bytes, str]] = {
    "ONNX": (b"\x08\x09\x12\x07pytorch:\xff\x80", "an ONNX model"),
    "image": (MAGIC + b"\x00\x01\xff", "a device image"),
    "zip": (b"PK\3\4\x14\0\0\xff\xfe", "a zip archive"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\xff", "a picture"),
    "UTF-16": (".sas 1\n".encode("utf-16"), "text in UTF-16"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_that_is_no_program_is_named_as_what_it_seems(case: str, tmp_path: Path) -> None:
    data, kind = FOREIGN[case]
    (tmp_path / "p.s").write_bytes(data)
    for read in (load_program, load_machine):
        with pytest.raises(SasError, match=f"not a text file but {kind}"):
            read(tmp_path / "p.s")
    if case != "ONNX":
        with pytest.raises(SasError, match=f"not an ONNX model but {kind}"):
            load_model(tmp_path / "p.s")


def test_a_program_where_a_model_belongs(program: Path) -> None:
    with pytest.raises(SasError, match=r"not an ONNX model but a program[\s\S]*compiled from"):
        load_model(program)


def test_text_with_the_mark_of_windows_is_text(program: Path, tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    marked = program.with_name("marked.s")
    marked.write_bytes(mark + program.read_bytes())
    assert load_program(marked).code == load_program(program).code
    (tmp_path / "m.toml").write_bytes(mark + b'extends = "sas28"\r\n')
    assert load_machine(tmp_path / "m.toml").array == load_machine("sas28").array
    (tmp_path / "r.toml").write_bytes(mark + b"epochs = 3\r\n")
    assert load_recipe(tmp_path / "r.toml").epochs == 3


# --------------------------------------------------------------------------------------------------------------------- where to write


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    """As `--json /dev/stdout`: renaming a file over a device would replace it for everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_together({tmp_path / "file": b"a", pipe: b"b"})
    assert os.read(reader, 9) == b"b"
    os.close(reader)
    assert pipe.is_fifo()
    assert (tmp_path / "file").read_bytes() == b"a"


def test_a_full_device_is_said_and_stays_one(tmp_path: Path) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    with pytest.raises(SasError, match="No space left"):
        write_together({tmp_path / "file": b"a", Path("/dev/full"): b"b"})
    assert Path("/dev/full").is_char_device()
    assert not list(tmp_path.iterdir())


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/prog.json").write_bytes(b"old")
    (tmp_path / "link.json").symlink_to("real/prog.json")
    write_together({tmp_path / "link.json": b"new"})
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real/prog.json").read_bytes() == b"new"


# --------------------------------------------------------------------------------------------------------------------------- data


def _nan(folder: Path) -> Path:
    x = np.zeros((6, 16, 16, 3), np.float32)
    x[4, 0, 0, 1] = np.nan
    np.savez(folder / "d.npz", x=x, y=np.arange(6) % 2)
    return folder / "d.npz"


def _unnamed(folder: Path) -> Path:
    pictures(folder, "a", "b")
    (folder / "t.csv").write_text("filename,label\n" + "".join(f"a/{k}.png,a\nb/{k}.png,\n" for k in range(4)))
    return folder / "t.csv"


def _hollow(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "readme.txt").write_text("later")
    return folder


POOR: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one class": (lambda f: pictures(f, "a"), "one folder with images only, 'a'"),
    "no images": (_hollow, "no images in a, b"),
    "one image a class": (lambda f: pictures(f, "a", "b", count=1), "one image a class"),
    "numbers that are none": (_nan, r"1 of 4608 values from example 0 on are no numbers \(NaN\)"),
    "a class without a name": (_unnamed, r"t.csv:3:1: error: the class is missing"),
}


@pytest.mark.parametrize("case", POOR)
def test_data_that_cannot_be_learned_from(case: str, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = POOR[case]
    code, text = said(capsys, "sasrun", program, "--train", make(tmp_path))
    assert code == 2
    assert re.search(words, text), text


def test_classes_that_differ_in_case_only_are_pointed_out(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, "sasrun", program, "--eval", pictures(tmp_path, "Cat", "cat"), "--split", "train")
    assert code == 0
    assert "classes differ in case only: Cat, cat" in text


def test_input_that_is_none(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "sasrun", program, "--input", pictures(tmp_path, "a"))
    assert (code, "--eval takes folders" in text) == (2, True)
    np.save(tmp_path / "n.npy", np.full((1, 16, 16, 3), np.nan, np.float32))
    code, text = said(capsys, "sasrun", program, "--input", tmp_path / "n.npy")
    assert (code, "are no numbers (NaN)" in text) == (2, True)
