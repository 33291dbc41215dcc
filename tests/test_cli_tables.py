"""Tables and lines at any width: no number, no name and no number with its unit is broken, and nothing is lost."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.evaluation.device import figures
from sasimc.evaluation.table import Table, wrapped

WORDS = st.text("abcXYZ.-_/", min_size=1, max_size=14)
PROSE = st.lists(WORDS, max_size=12).map(" ".join)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = tuple(draw(st.lists(WORDS, min_size=1, max_size=6)))
    rows = draw(st.lists(st.tuples(*([WORDS] * (len(columns) - 1)), PROSE), max_size=5))
    return Table(draw(PROSE), columns, rows, tuple(range(len(columns))))


@given(tables(), st.integers(20, 120))
def test_every_word_of_a_table_stays_whole(table: Table, width: int) -> None:
    lines = table.lines(width)
    words = [word for line in lines for word in line.split()]
    for cell in (cell for row in table.rows for cell in row):
        assert set(cell.split()) <= set(words) | {w.split(":", 1)[-1] for w in words}
    for line in lines:
        label = 2 if re.match(r" *\S+: \S+$", line) else 1  # the name of a column stays beside the first word of its cell
        assert len(line) <= width or len(line.split()) <= label, line


@given(PROSE, st.integers(10, 60))
def test_wrapped_lines(text: str, width: int) -> None:
    lines = wrapped(text, width, "  ")
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)


def test_a_number_and_its_unit_stay_together() -> None:
    text = "energy 12.6 nJ (2.99 nJ on the chip), 2.72 mW, 1.04 TOPS/W and 64 x 512 cells, 76.2 % of 3 images"
    for width in range(12, 100):
        joined = "\n".join(wrapped(text, width))
        for kept in ("12.6 nJ", "2.99 nJ", "2.72 mW", "1.04 TOPS/W", "64 x 512", "76.2 %"):
            assert kept in joined, (width, joined)


def test_wide_tables_become_blocks() -> None:
    table = Table(
        "", ("layer", "cycles", "how"), [("features.0.conv", "123456", "counted word by word, every one of them")], (0, 2)
    )
    assert table.lines(80) == ["layer            cycles  how", "features.0.conv  123456  counted word by word, every one of them"]
    assert table.lines(52)[1:] == ["features.0.conv  123456  counted word by word, every", " " * 25 + "one of them"]
    assert table.lines(30) == [
        "features.0.conv",
        "    cycles: 123456",
        "    how: counted word by word,",
        "      every one of them",
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, a run's report and an NVSim file."""
    folder = tmp_path_factory.mktemp("files")
    example = Path(__file__).parents[1] / "examples" / "two_layer.s"
    onnx.save(models.mobilenet_like(size=8, width=4, modules=1), folder / "m.onnx")
    assert invoke(sasrun.app, [str(example), "--entry", "infer", "--set", "batch=1", "--json", str(folder / "r.json")]) == 0
    (folder / "memory.cfg").write_text(
        "-MemoryCellInputFile: memory.cell\n-TotalCapacity (MB): 4\n-WordWidth (bit): 512\n-ForceBank (Total AxB, Active CxD): 16x16, 1x16\n"
        "-ForceMat (Total AxB, Active CxD): 2x2, 1x2\n-Unknown: a setting of which this program knows nothing at all\n"
    )
    (folder / "memory.cell").write_text(
        "-MemCellType: MRAM\n-CellArea (F^2): 40\n-ResistanceOn (ohm): 4408\n-ResistanceOff (ohm): 8759\n"
    )
    return folder


COMMANDS: Sequence[Sequence[str]] = (
    ("check", "m.onnx"),
    ("compile", "m.onnx", "-o", "out.s", "--explain"),
    ("energy", "r.json"),
    ("diff", "r.json", "r.json", "--technology-b", "stt"),
    ("mtj", "--writes", "2", "--sweep", "1", "--threads", "1"),
    ("paper", "--quick"),
    ("machine", "show"),
    ("machine", "show", "sas"),
    ("machine", "import", "memory.cfg", "-o", "machine.toml", "--technology-out", "technology.toml"),
    ("data", "list"),
)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Answers as it did the first time."""
    said: list[Any] = []
    return lambda *args, **options: said[0] if said else said.append(function(*args, **options)) or said[0]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_at_60_and_80_columns(
    files: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every word of the wide output stands in the narrow one; lines keep the width; the answer is there as JSON."""
    monkeypatch.chdir(files)
    for name in ("device_report", "write_sweeps"):  # simulates for seconds, and its tables are what is asked for
        monkeypatch.setattr(figures, name, once(getattr(figures, name)))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert invoke(sasc.app, [*words, "--json", "answer.json"]) == 0
    assert json.loads((files / "answer.json").read_text())
    wide = capsys.readouterr().out
    assert "\x1b" not in wide
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        assert invoke(sasc.app, list(words)) == 0
        narrow = capsys.readouterr().out
        steady = [line for line in wide.splitlines() if not line.startswith("compiled in")]
        lost = {w for line in steady for w in line.split()} - {w.removesuffix(":") for w in narrow.split()} - set(narrow.split())
        columns = {line for line in steady if "  " in line.strip()}  # the heads of tables that became blocks
        assert not {w for w in lost if any(c.isdigit() for c in w)}, width
        assert len(lost) <= 3 * len(columns), (width, lost)
        long = [line for line in narrow.splitlines() if len(line) > width and len(line.split()) > 2]
        assert not long, (width, long)


@pytest.mark.parametrize(
    "words", [("-h",), ("compile", "-h"), ("diff", "-h"), ("paper", "table1", "-h"), ("image", "show", "-h")]
)
def test_help_keeps_the_width_and_every_name(
    words: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        assert invoke(sasc.app, list(words)) == 0
        out = capsys.readouterr().out
        assert not [line for line in out.splitlines() if len(line) > width and len(line.split()) > 2]
        assert "Other:" in out
        assert not re.search(r"-$", out, re.M), "a line ends inside a name"


def test_a_session_breaks_its_lines_between_words(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    assert invoke(sasc.app, ["compile", "m.onnx", "-o", "s.s"]) == 0
    monkeypatch.setenv("COLUMNS", "60")
    capsys.readouterr()
    words = ["s.s", "--train", "drawn-shapes", "--epochs", "1", "--limit", "4", "--threads", "1", "--engine", "fused"]
    assert invoke(sasrun.app, words) == 2, "drawn-shapes has more classes"
    words[2] = str(files / "set")
    for name in ("a", "b", "c"):
        (files / "set" / name).mkdir(parents=True)
        for i in range(6):
            _picture(files / "set" / name / f"{i}.png")
    assert invoke(sasrun.app, words) == 0
    out = capsys.readouterr().out
    assert "images/s" in out
    assert not [line for line in out.splitlines() if len(line) > 60 and len(line.split()) > 2]


def _picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path)


def test_on_a_terminal(files: Path) -> None:
    """A terminal 70 columns wide, NO_COLOR: lines of at most 70 characters and no colours."""
    env = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    code = (
        "import fcntl, struct, sys, termios; fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 70, 0, 0)); "
        "from sasimc.cli import sasc; from sasimc.cli.common import invoke; sys.exit(invoke(sasc.app, ['energy', 'r.json']))"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=subprocess.DEVNULL, cwd=files, env={**env, "NO_COLOR": "1"}
    )
    os.close(theirs)
    out = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        out += part
    assert process.wait() == 0
    lines = out.decode().replace("\r", "").splitlines()
    assert len(lines) > 40
    assert "\x1b[3" not in out.decode()
    assert max(map(len, lines)) <= 70
