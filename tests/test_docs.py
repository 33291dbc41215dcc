"""The documentation holds: links lead somewhere, commands exist, report keys and machine fields are those of the code, examples run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from whole_path import embedded

import sasimc
from sasimc.api import CHOICE, CompileOptions, compile_model
from sasimc.cli import manual, sasc, sasdbg, sasrun
from sasimc.cli.common import invoke
from sasimc.datasets.procedural import draw
from sasimc.evaluation.machine_notes import flat_fields, machine_table
from sasimc.isa.machine import load_machine
from sasimc.isa.spec import EVENTS
from sasimc.training.recipe import Recipe
from sasimc.zoo.zoo import default_model_path

ROOT = Path(__file__).parents[1]
GENERATED = ["reference/cli.md"]
"""Pages that exist in the built site only."""
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str) -> dict[str, str]:
    """First column (code spans) to the whole row, of all tables."""
    out: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first = line.split("|")[1]
            out.update(dict.fromkeys(re.findall(r"`([^`]+)`", first), line))
    return out


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            there = (path.parent / target).resolve()
            generated = there.is_relative_to(ROOT / "docs") and there.relative_to(ROOT / "docs").as_posix() in GENERATED
            assert generated or there.exists(), f"{path.name} links to {target}"


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml names every page once. That links and anchors lead somewhere is what the strict build checks."""
    named = re.findall(r"[\w/-]+\.md", page("mkdocs.yml").split("\nnav:\n")[1])
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted([*written, *GENERATED])
    home = page("docs/index.md")
    assert [name for name in named if name != "index.md" and home.count(f"({name})") != 1] == []


def every_command() -> dict[str, click.Command]:
    """``sasc data list`` and the like -> the command."""
    out: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        out[name] = command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                assert found is not None
                walk(f"{name} {sub}", found)

    walk("sasc", sasc.app)
    walk("sasrun", sasrun.app)
    walk("sasdbg", sasdbg.app)
    return out


def test_reference_of_the_commands() -> None:
    """The generated page has every command and every option."""
    text = manual.manual()
    for name, command in every_command().items():
        assert re.search(rf"\n##+ {name}\n", text), name
        for parameter in getattr(command, "params", ()):
            if parameter.param_type_name == "option" and not parameter.hidden and "--help" not in parameter.opts:
                assert any(f"`{o} " in text or f"`{o}`" in text or f" {o} " in text for o in parameter.opts), parameter.opts


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every sasc, sasrun and sasdbg command the pages show, in sh blocks and indented."""
    out = []
    for path in PAGES:
        if path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.S | re.M)
        for line in [*"".join(blocks).splitlines(), *(part[4:] for part in text.splitlines() if part.startswith("    s"))]:
            for part in re.split(r"[;&]+", line.split(" #")[0]):
                words = part.strip().removeprefix(".venv/bin/")
                if re.match(r"(sasc|sasrun|sasdbg)\b", words):
                    out.append((path.name, words))
    return out


def test_commands_exist() -> None:
    """Each command and option shown is one that the program has."""
    shown = commands()
    assert len(shown) > 20
    known_commands = every_command()
    for where, line in shown:
        words = line.replace("...", "").split()
        name = next((n for k in (3, 2, 1) if (n := " ".join(words[:k])) in known_commands), "sasc")
        assert name != "sasc" or words[1] == "--help", f"{where}: {line}"
        command = known_commands[name]
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
        for option in [w for w in words if re.match(r"--?[a-z]", w)]:
            assert option.split("=")[0] in known, f"{where}: {line}: {option}"


def test_readme_commands_are_what_ci_runs() -> None:
    blocks = re.findall(r"^```sh\n(.*?)\n```$", page("README.md"), flags=re.S | re.M)
    assert len(blocks) == 2
    assert all("\n" not in b for b in blocks)
    assert blocks[0].startswith("python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/sasrun")
    assert blocks[1] == ".venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest"
    script = page(".ci/run")
    assert '"$(readme_command 1)"' in script
    assert '"$(readme_command 2)"' in script
    extract = re.search(r"^readme_command\(\) \{(.*)\}$", script, flags=re.M)
    assert extract
    for number, block in enumerate(blocks, 1):
        made = subprocess.run(
            ["bash", "-c", f"readme_command() {{{extract[1]}}}; readme_command {number}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert made.stdout == block + "\n"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reports of a compilation and of a run that classifies, trains and evaluates."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("reports")
    program, image = folder / "p.s", folder / "x.png"
    Image.fromarray(draw("flowers", 0, 0, 96)).save(image)
    assert invoke(sasc.app, ["compile", "-o", str(program), "--json", str(folder / "c.json")]) == 0
    words = [str(program), "--input", str(image), "--train", "drawn-flowers", "--epochs", "1", "--limit", "8"]
    assert invoke(sasrun.app, [*words, "--engine", "fused", "--json", str(folder / "r.json")]) == 0
    return json.loads((folder / "c.json").read_text()), json.loads((folder / "r.json").read_text())


def test_report_keys(reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    text = page("docs/reference/run-json.md")
    for title, report, asked in zip(("sasc compile", "sasrun"), reports, ({CHOICE}, set[str]()), strict=True):
        assert set(rows(section(text, title))) == set(report) | asked
    assert set(rows(section(text, "Events"))) == set(EVENTS)
    for key, report in (("layers", reports[0]), ("epochs", reports[1])):
        words = next(part for part in text.split("\n\n") if part.startswith(f"A row of `{key}`"))
        assert set(re.findall(r"`(\w+)`", words)) - {key} == set(report[key][0])


def test_machine_fields() -> None:
    """The page has the place that the site puts the table of fields in, and the table has every field."""
    assert "\n<!-- machine fields -->\n" in page("docs/reference/machine.md")
    assert list(rows(machine_table())) == list(flat_fields(load_machine()))


def test_meta_data_of_programs() -> None:
    """The page lists every key that the compiler writes, and no other."""
    listed = rows(section(page("docs/reference/program-text.md"), "Meta data of compiled programs")).items()
    keys = {word for word, line in listed if f"`{word}`" in line.split("|")[1]}
    meta = embedded().program.meta
    assert keys == {"note.KEY" if key.startswith("note.") else key for key in meta} | {CHOICE}


def test_tiny_machine() -> None:
    """The example machine has another shape, and the embedded network computes the same on it."""
    path = ROOT / "examples" / "tiny_machine.toml"
    assert load_machine(path).array.rows != load_machine().array.rows
    images = np.stack([draw("flowers", i, i, 96) for i in range(2)])
    results = []
    for machine in (None, path):
        compiled = compile_model(default_model_path(), CompileOptions(machine=machine)) if machine else embedded()
        device = sasimc.Device(compiled.program, "fused", 1)
        device.train_step(images, np.array([0, 1]))
        results.append((device.infer(images).logits, device.state(), device.interpreter.cycles))
    (logits_a, state_a, cycles_a), (logits_b, state_b, cycles_b) = results
    assert (logits_a == logits_b).all()
    assert cycles_a != cycles_b
    total = {k.split("#")[0] for k in state_a} & {k.split("#")[0] for k in state_b}
    assert total


def test_example_trains() -> None:
    words = [sys.executable, str(ROOT / "examples" / "train_flowers.py"), "--epochs", "1", "--limit", "16"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "after training: top-1" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_say_how_to_run_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(text))
    assert doc
    assert "__main__" not in text or f"python benchmarks/{path.name}" in doc


def test_changelog_has_the_version() -> None:
    assert f"## {sasimc.__version__}" in page("CHANGELOG.md")
    assert tomllib.loads(page("pyproject.toml"))["project"]["version"] == sasimc.__version__


def test_recipe_keys() -> None:
    """The page of the recipe has every key of every section, and its default."""

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in values.items():
            out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return out

    defaults = flat(Recipe().model_dump())
    shown = rows(page("docs/reference/recipe.md").split("The shipped default")[0])
    assert set(shown) == set(defaults)
    for key, value in defaults.items():
        keys, cell = (part.strip() for part in shown[key].split("|")[1:3])
        words = {w.strip(" `") for w in cell.split(",")}
        if value is None or value == ():
            assert cell == "", key
        elif "," not in keys:
            values = value if isinstance(value, tuple) else (value,)
            assert words == {
                str(v).lower() if isinstance(v, bool) else f"{v:g}" if isinstance(v, float) else str(v) for v in values
            }, key
        else:
            assert f"{value:g}" in words, key


def test_tutorial_from_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the tutorial shows runs as it stands, on fewer images and for one epoch."""
    text = page("docs/tutorials/folder-of-images.md")
    script = re.findall(r"^```python\n(.*?)^```$", text, flags=re.S | re.M)
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", text, flags=re.S | re.M)).splitlines()
    assert len(script) == 1
    assert len(lines) == 6
    monkeypatch.chdir(tmp_path)
    exec(compile(script[0].replace("range(100)", "range(5)"), "tutorial", "exec"), {})
    for line in lines:
        command, *words = shlex.split(line.replace("--epochs 8", "--epochs 1"))
        assert invoke({"sasc": sasc.app, "sasrun": sasrun.app, "sasdbg": sasdbg.app}[command], words) == 0, line
    said = capsys.readouterr().out
    assert "photos: 4 classes, 12 / 4 / 4 images" in said
    assert re.search(r"%  (rose|daisy|tulip|poppy)\n", said), "the saved program names the classes it learned"
    assert "<!doctype html>" in (tmp_path / "run.html").read_text(encoding="utf-8")[:100].lower()


def test_api_page_has_what_the_package_exports() -> None:
    shown = re.findall(r"^::: ([\w.]+)$", page("docs/reference/api.md"), flags=re.M)
    missing = {name: module for name, module in sasimc._LAZY.items() if f"{module}.{name}" not in shown}
    assert missing == {}


def test_sources_name_pages_that_exist() -> None:
    sources = [
        p for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".") for p in folder.rglob("*.py")
    ]
    named = {(p.name, path) for p in sources for path in re.findall(r"docs/[\w/-]+\.md", p.read_text(encoding="utf-8"))}
    generated = {f"docs/{name}" for name in GENERATED}
    assert [pair for pair in sorted(named) if pair[1] not in generated and not (ROOT / pair[1]).exists()] == []
