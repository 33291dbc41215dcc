"""Description files: machines that extend each other, commented files, and errors in our own words with file, line and field."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.evaluation.circuit.circuit import Circuit, load_circuit
from sasimc.evaluation.machine_notes import flat_fields, machine_file, machine_notes, notes_of, toml_value
from sasimc.evaluation.run import read_run
from sasimc.evaluation.technologies.technology import Technology, read_technology
from sasimc.isa.described import Source, damage, validate
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.printer import format_program
from sasimc.training.recipe import Recipe, load_recipe

KINDS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "machine": (load_machine, "sasimc.isa", "sas28.toml"),
    "technology": (read_technology, "sasimc.evaluation.technologies", "sas.toml"),
    "circuit": (load_circuit, "sasimc.evaluation.circuit", "table4.toml"),
    "recipe": (load_recipe, "sasimc.training", "recipes/default.toml"),
}
MODELS: dict[str, type[BaseModel]] = {"machine": Machine, "technology": Technology, "circuit": Circuit, "recipe": Recipe}
FOREIGN = ("Input should", "Field required", "validation error", "Extra inputs", "pydantic", "Value error", "errors.pydantic")


def shipped(kind: str) -> str:
    _, package, name = KINDS[kind]
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------------- extends


def test_a_machine_gives_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "wide.toml").write_text('extends = "sas28"\n[array]\nbit_columns = 1024\nrows = 32\n')
    (tmp_path / "more" / "fast.toml").write_text('extends = "../wide.toml"\nclock_hz = 1e9\n[array]\nrows = 16\n')
    paper, wide, fast = load_machine(), load_machine(tmp_path / "wide.toml"), load_machine(tmp_path / "more" / "fast.toml")
    assert (wide.name, fast.name) == ("wide", "fast")
    assert (wide.array.bit_columns, wide.array.rows) == (1024, 32)
    assert (fast.array.bit_columns, fast.array.rows, fast.clock_hz) == (1024, 16, 1e9)
    changed = {path for path, value in flat_fields(fast).items() if flat_fields(paper)[path] != value}
    assert changed == {"name", "clock_hz", "array.rows", "array.bit_columns"}
    assert load_machine("sas28") == paper


def test_the_program_text_needs_no_machine_file(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('extends = "sas28"\n[array]\nrows = 32\n[controller]\noverlap = false\n')
    machine = load_machine(tmp_path / "m.toml")
    program = assemble('.machine "m"\n.set array.rows=32\n.set controller.overlap=false\n.entry main\nhalt\n')
    assert program.machine == machine
    (tmp_path / "m.toml").unlink()
    assert assemble(format_program(program)).machine == machine


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.toml").write_text(f'clock_hz = 1e9\nextends = "{base}.toml"\n')
    with pytest.raises(SasError, match=r"c\.toml:2:1: error: extends leads back to where it began: .*a\.toml -> .*b\.toml -> "):
        load_machine(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text('extends = "sas82"\n')
    with pytest.raises(SasError, match=r"(?s)a\.toml:1:1: error: no machine is called 'sas82'.*did you mean 'sas28'"):
        load_machine(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("extends = 3\n")
    with pytest.raises(SasError, match="extends: not the name of a machine or of a file"):
        load_machine(tmp_path / "a.toml")


def test_a_mistake_is_shown_in_the_file_that_holds_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('extends = "sas28"\n[array]\nrow = 3\n')
    (tmp_path / "top.toml").write_text('extends = "base.toml"\n\n[activation]\nbanks = [5, 1]\n')
    with pytest.raises(SasError, match=r"(?s)base\.toml:3:1: error: array\.row: there is no such field.*did you mean 'rows'"):
        load_machine(tmp_path / "top.toml")
    (tmp_path / "base.toml").write_text('extends = "sas28"\n')
    with pytest.raises(SasError, match=r"top\.toml:4:1: error: activation\.banks\[0\] = 5 does not divide"):
        load_machine(tmp_path / "top.toml")


# --------------------------------------------------------------------------------------------------------------- written files


def test_init_writes_a_file_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my machine.toml"
    assert invoke(sasc.app, ["machine", "init", "-o", str(path)]) == 0
    paper = load_machine()
    assert load_machine(path) == paper.model_copy(update={"name": "my_machine"})
    capsys.readouterr()
    assert invoke(sasc.app, ["machine", "init", "-o", str(path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert (
        invoke(sasc.app, ["machine", "init", "-o", str(path), "--force", "--base", str(Path("examples/tiny_machine.toml"))]) == 0
    )
    assert load_machine(path).array.rows == 32
    assert "# sas28: 64 (paper, table IV)\nrows = 32\n" in path.read_text()


def test_init_comments_every_field() -> None:
    """Meaning, unit, limits, the paper's value and where it is from stand above each field."""
    section, comment, seen = "", "", dict[str, str]()
    for line in machine_file(load_machine(), "sas28").splitlines():
        if line.startswith("["):
            section, comment = line.strip("[]") + ".", ""
        elif line.startswith("# "):
            comment += " " + line.removeprefix("# ")
        elif " = " in line:
            seen[section + line.split(" = ")[0]], comment = comment, ""
    del seen["extends"]
    assert list(seen) == list(machine_notes())
    for path, note in machine_notes().items():
        for said in (note.about.meaning[1:], note.about.unit, note.about.source, note.wanted[1:]):
            assert said in seen[path], path
        assert path == "name" or f"sas28: {toml_value(note.paper)} ({note.about.kind}" in seen[path]


def test_a_source_belongs_to_a_value(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('extends = "sas28"\n[array]\nrows = 32 # P table IV\n[buffer]\nbytes = 401_408 # A: mine\n')
    notes = notes_of(load_machine(tmp_path / "m.toml"))
    assert (notes["array.rows"].kind, notes["array.rows"].source) == ("changed", "sas28: 64 (paper, table IV)")
    assert notes["buffer.bytes"].kind == "paper"
    assert {n.kind for n in notes_of(load_machine()).values()} == {"paper", "derived", "assumption"}


# -------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("machine", ("rows = 64", "rows = 3"), r":10:1: error: array\.rows: 3 is not a whole number from 4 to 4096\n    rows = 3\n    \^{4}"),
        ("machine", ("rows = 64", "rows = 64.5"), r"array\.rows: 64\.5 is not a whole number"),
        ("machine", ("rows = 64\n", ""), r"array\.rows: missing; a whole number from 4 to 4096 belongs here"),
        ("machine", ("rows = 64", "row = 64"), r"(?s)array\.row: there is no such field.*did you mean 'rows'"),
        ("machine", ("rows = 64", "rows = 64\nlanes = 2"), r"(?s)array\.lanes: there is no such field.*did you mean 'periphery\.lanes'"),
        ("machine", ('rule = "row"', 'rule = "rows"'), r'(?s)activation\.rule: "rows" is not "row" or "free".*did you mean \'row\''),
        ("machine", ('subarrays = "auto"', 'subarrays = "all"'), r'transposed\.subarrays: "all" is not a whole number .* or "auto"'),
        ("machine", ("banks = [16, 16]", "banks = [16]"), r"array\.banks: \[16\] is not a list of 2, each a whole number from 1 to 4096"),
        ("machine", ("overlap = true", 'overlap = "on a whim"'), r'controller\.overlap: "on a whim" is not true or false'),
        ("machine", ("[buffer]", "[bufer]"), r"(?s)bufer: there is no such field.*did you mean 'buffer'"),
        ("machine", ("rows = 64", "rows = "), r"machine\.toml:10:\d+: error: not valid TOML"),
        ("technology", ('kind = "SAS"', 'kind = "SAD"'), r'(?s)kind: "SAD" is not "SAS", "SOT".*or "DRAM"'),
        ("technology", ('unit = "pJ/bit"', 'unit = "pJ/bits"'), r"unknown unit 'pJ/bits'"),
        ("technology", ("non_volatile = true", "non_volatile = 3"), r"non_volatile: 3 is not true or false"),
        ("circuit", ("[reference]", "[refrence]"), r"(?s)refrence: there is no such field.*did you mean 'reference'"),
        ("recipe", ("epochs = ", "epoch = "), r"(?s)epoch: there is no such field.*did you mean 'epochs'"),
        ("recipe", ("batch = ", "batch = 10000 # "), r"batch: 10000 is not a whole number from 1 to 1024"),
    ],
)  # fmt: skip
def test_what_is_said(tmp_path: Path, kind: str, change: tuple[str, str], message: str) -> None:
    text, path = shipped(kind), tmp_path / f"{kind}.toml"
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(SasError, match=message) as caught:
        KINDS[kind][0](path)
    assert f"{kind}.toml" in str(caught.value)


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('extends = "sas28"\nclockhz = 1\n[array]\nrows = 0\n[host]\nbytes_per_cycle = "fast"\n')
    with pytest.raises(SasError) as caught:
        load_machine(path)
    lines = [line.split(": ")[0] for line in str(caught.value).splitlines() if "error:" in line]
    assert lines == [f"{path}:2:1", f"{path}:4:1", f"{path}:6:1"]


def test_fields_left_out_name_the_remedy_once(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('name = "m"\n')
    with pytest.raises(SasError) as caught:
        load_machine(path)
    assert str(caught.value).count("missing;") == 13
    assert str(caught.value).count('extends = "sas28" gives what is left out') == 1


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text("abc", max_size=3), st.integers(), max_size=2),
)  # fmt: skip


_parsed = cache(tomllib.loads)


@given(data=st.data())
@settings(max_examples=250, deadline=None)
@pytest.mark.parametrize("kind", list(KINDS))
def test_whatever_stands_in_a_file_the_words_are_ours(kind: str, data: st.DataObject) -> None:
    """Any value anywhere, keys gone or renamed: it loads, or the error names the field in our words. (fuzz/kinds_descriptions.py goes on for longer.)"""
    text = shipped(kind)
    content = deepcopy(_parsed(text))
    for _ in range(data.draw(st.integers(1, 3))):
        place, path = content, []
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            path.append(key)
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        action = data.draw(st.sampled_from(["set", "drop", "rename"]))
        if action == "set":
            place[key] = data.draw(junk)
        else:
            value = place.pop(key)
            if action == "rename":
                place[data.draw(st.sampled_from([key + "s", key[1:] or "x", "zz"]))] = value
        if not place:
            break
    said = ""
    try:
        validate(MODELS[kind], content, [Source("m.toml", text)], kind)
    except SasError as exc:
        said = str(exc)
    assert not [f for f in FOREIGN if f in said], said
    assert not said or "m.toml" in said


def test_a_machine_is_the_same_whichever_way_it_is_given() -> None:
    """What is printed as TOML validates to the machine it was printed from."""
    machine = load_machine()
    nested: dict[str, Any] = {}
    for path, value in flat_fields(machine).items():
        head, _, leaf = path.rpartition(".")
        place = nested.setdefault(head, {}) if head else nested
        place[leaf] = tomllib.loads(f"v = {toml_value(value)}")["v"]
    assert Machine.model_validate(nested) == machine


def test_damaged_files_of_ours_are_described_in_our_words() -> None:
    """Device images and run reports: the field, or what is missing; nothing of the validation library."""
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"batch": "many"})
    assert damage(caught.value) == "batch is not what belongs there"
    assert damage(KeyError("shape")) == "'shape' is missing"
    assert damage(ValueError("first line\nsecond")) == "first line"
    assert damage(IndexError()) == "IndexError"
    report = {"schema": 1, "profile": [], "machine_description": {**load_machine().model_dump(mode="json"), "array": 3}}
    with pytest.raises(SasError, match="report is damaged: array is not what belongs there") as refused:
        read_run(report, "run.json")
    assert not [f for f in FOREIGN if f in str(refused.value)]
