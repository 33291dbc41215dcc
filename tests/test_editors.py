"""The extension for Visual Studio Code, as far as it can be tried without the editor: its files, and its grammar beside the assembler's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import sasimc
from sasimc.cli.launch import LAUNCH
from sasimc.isa.text.syntax import tokens_of
from sasimc.lsp import paint

FOLDER = Path(__file__).parents[1] / "editors" / "vscode"
PACKAGE = json.loads((FOLDER / "package.json").read_text())
GRAMMAR = json.loads((FOLDER / "syntaxes" / "sas-imc.tmLanguage.json").read_text())
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.s"))

SCOPES = {
    "COMMENT": "comment", "STRING": "string", "TENSOR": "string.quoted.double.tensor", "DIRECTIVE": "keyword.control.directive",
    "ROWS": "variable.language.register.rows", "NUMBER": "constant.numeric", "COMMA": "punctuation", "EQUAL": "punctuation", "LSQB": "punctuation",
    "RSQB": "punctuation", "STAR": "punctuation",
}  # fmt: skip


def scopes(line: str) -> list[tuple[int, int, str]]:
    """(first column, end, scope) as a TextMate engine gives them: at each place the leftmost match, the first rule among equals."""
    rules = [(re.compile(p["match"].replace(r"[\p{L}_]", r"[^\W\d]")), p["name"]) for p in GRAMMAR["patterns"]]
    out, at = [], 0
    while at < len(line):
        found = [
            (m.start(), i, m.end(), name) for i, (rule, name) in enumerate(rules) if (m := rule.search(line, at)) and m.end() > at
        ]
        if not found:
            break
        start, _, end, name = min(found)
        out.append((start, end, name))
        at = end
    return out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_the_grammar_colours_what_the_assembler_reads(path: Path) -> None:
    for number, line in enumerate(path.read_text().split("\n"), 1):
        painted = scopes(line)
        for t in tokens_of(line):
            scope = next((name for a, b, name in painted if a < t.column <= b), "nothing")
            expected = SCOPES.get(t.kind, ("entity", "variable"))
            assert scope.startswith(expected), f"{path.name}:{number}:{t.column}: {t.text} is {scope}"


def test_the_package_names_files_that_exist() -> None:
    named = [PACKAGE["main"], *(g["path"] for g in PACKAGE["contributes"]["grammars"])]
    named += [entry["configuration"] for entry in PACKAGE["contributes"]["languages"]]
    for name in named:
        assert (FOLDER / name).is_file(), name
    json.loads((FOLDER / "language-configuration.json").read_text())
    assert PACKAGE["version"] == sasimc.__version__


def test_the_package_speaks_of_what_the_server_gives() -> None:
    (scoped,) = PACKAGE["contributes"]["semanticTokenScopes"]
    assert set(scoped["scopes"]) <= set(paint.TOKENS)
    source = (FOLDER / "extension.js").read_text()
    settings = {name.removeprefix("sas-imc.") for name in PACKAGE["contributes"]["configuration"]["properties"]}
    assert set(re.findall(r'setting\("(\w+)"\)', source)) == settings
    assert '"lsp"' in source
    assert '"--dap"' in source


def test_the_debugger_takes_what_the_adapter_takes() -> None:
    (debugger,) = PACKAGE["contributes"]["debuggers"]
    offered = debugger["configurationAttributes"]["launch"]["properties"]
    assert set(offered) == {*LAUNCH, "stopOnEntry"}


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_extension_is_valid_javascript() -> None:
    subprocess.run(["node", "--check", str(FOLDER / "extension.js")], check=True)
