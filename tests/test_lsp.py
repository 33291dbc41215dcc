"""The language server, spoken to by a client process as an editor would."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygls")

from lsp_client import Client

from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.printer import format_program
from sasimc.lsp.document import Document

TEXT = (Path(__file__).parents[1] / "examples" / "two_layer.s").read_text()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    client = Client()
    yield client
    code, errors = client.close()
    assert (code, errors) == (0, "")


class Text:
    """An open text in the editor."""

    count = 0

    def __init__(self, client: Client, text: str, folder: str = "/nowhere") -> None:
        Text.count += 1
        self.client, self.text, self.version = client, text, 1
        self.uri = f"file://{folder}/p{Text.count}.s"
        client.open(self.uri, text)

    def place(self, needle: str, nth: int = 0, within: str = "") -> tuple[int, int]:
        """Line and character of a word."""
        found = [m.start() for m in re.finditer(re.escape(needle), self.text)]
        before = self.text[: found[nth]]
        return before.count("\n"), found[nth] - (before.rfind("\n") + 1)

    def at(self, method: str, needle: str, nth: int = 0, offset: int = 0, **more: Any) -> Any:
        line, character = self.place(needle, nth)
        return self.client.at(method, self.uri, line, character + offset, **more)

    def hover(self, needle: str, nth: int = 0) -> str:
        return self.at("hover", needle, nth)["contents"]["value"]

    def diagnostics(self) -> list[dict[str, Any]]:
        return self.client.diagnostics(self.uri)

    def labels(self, needle: str, nth: int = 0, offset: int = 0) -> list[str]:
        return [i["label"] for i in self.at("completion", needle, nth, offset)]

    def applied(self, edits: list[dict[str, Any]]) -> str:
        lines = self.text.split("\n")
        for e in sorted(edits, key=lambda e: (e["range"]["start"]["line"], e["range"]["start"]["character"]), reverse=True):
            a, b = e["range"]["start"], e["range"]["end"]
            assert a["line"] == b["line"]
            line = lines[a["line"]]
            lines[a["line"]] = line[: a["character"]] + e["newText"] + line[b["character"] :]
        return "\n".join(lines)


@pytest.fixture
def right(client: Client) -> Text:
    text = Text(client, TEXT)
    assert text.diagnostics() == []
    return text


def test_hover_tells_the_manual_and_the_cycles_here(right: Text) -> None:
    said = right.hover("vmm a1")
    assert "Dense product" in said
    assert re.search(r"here, in infer:\*\* 4 x \d+ = \d+ cycles", said)  # a batch of four
    said = right.hover("a1, x")
    assert "view a1" in said
    assert "accumulators" in said
    assert re.search(r"- changed .*times, lines \d+ to \d+", said)
    assert "sub-array 1, word lines 0 to 5, weight columns 0 to 2" in right.hover("w2, point")
    assert "set by the host: `.param batch r1`" in right.at("hover", "loop r1", 0, 5)["contents"]["value"]
    assert "begin the section of tests" in right.hover(".tests")
    assert right.client.at("hover", right.uri, 0, 5) is None  # a comment


def test_completion_offers_what_the_operand_takes(right: Text) -> None:
    views = right.labels("vmm a1", 0, len("vmm a"))
    assert {"a1", "a2", "ga1"} <= set(views)
    assert "x" not in views  # in the buffer
    assert set(right.labels("vmm a1, x, w1", 0, len("vmm a1, x, w"))) == {"w1", "w2"}  # no scratch matrix
    assert right.labels("req h, a1, q1", 0, len("req h, a1, q")) == ["q1", "q2"]
    assert {"all", "r1:"} <= set(right.labels("vmm a1, x, w1, point, all", 0, len("vmm a1, x, w1, point, a")))
    assert {"vmm", "halt", ".loc"} <= set(right.labels("    halt", 0, 5))
    assert {"infer", "train_step"} == set(right.labels(".run ", 0, len(".run ")))
    help_ = right.at("signatureHelp", "vmm a1, x, w1", 0, len("vmm a1, x, "))
    assert help_["activeParameter"] == 2
    assert help_["signatures"][0]["label"] == "vmm acc, x, mat, geom, rows"


def test_definition_references_and_rename(right: Text) -> None:
    where = right.at("definition", "vmm a1, x, w1", 0, len("vmm a1, x, "))
    assert TEXT.split("\n")[where["range"]["start"]["line"]].startswith(".mat w1 ")
    found = right.at("references", ".mat w1", 0, 5, context={"includeDeclaration": True})
    assert len(found) == len(re.findall(r"(?<![\w\"])w1(?![\w\"])", re.sub(r";.*", "", TEXT)))
    edit = right.at("rename", ".mat w1", 0, 5, newName="first layer")
    new = right.applied(edit["changes"][right.uri])
    assert '.mat "first layer" dense' in new
    assert 'tensor="w1"' in new  # the tensor is another thing
    assert format_program(assemble(new)).replace('"first layer"', "w1") == format_program(assemble(TEXT))
    for name, reason in (("w2", "already declared"), ("", "at least one")):
        line, character = right.place(".mat w1")
        error = right.client.answer(
            "textDocument/rename",
            textDocument={"uri": right.uri},
            position={"line": line, "character": character + 5},
            newName=name,
        )["error"]
        assert reason in error["message"]
    assert right.at("prepareRename", "vmm a1") is None
    tensor = right.at("rename", 'tensor="w1"', 0, 9, newName="t1")
    assert format_program(assemble(right.applied(tensor["changes"][right.uri]))).count('"t1"') == 2
    register = right.at("rename", ".param mu r2", 0, len(".param mu r"), newName="r40")
    assemble(right.applied(register["changes"][right.uri]))
    assert len(register["changes"][right.uri]) > 1


def test_outline_folding_colours_and_hints(right: Text) -> None:
    outline = right.client.request("textDocument/documentSymbol", textDocument={"uri": right.uri})
    assert [s["name"] for s in outline] == ["head", ".desc", ".data", ".code", ".tests"]
    assert [s["name"] for s in outline[3]["children"]] == ["infer", "train_step"]
    folds = right.client.request("textDocument/foldingRange", textDocument={"uri": right.uri})
    lines = TEXT.split("\n")
    loops = {(f["startLine"], f["endLine"]) for f in folds if lines[f["startLine"]].lstrip().startswith("loop ")}
    assert len(loops) == sum(line.lstrip().startswith("loop ") for line in lines)
    assert all(lines[b].strip().startswith("endl") for _, b in loops)
    data = right.client.request("textDocument/semanticTokens/full", textDocument={"uri": right.uri})["data"]
    legend = right.client.capabilities["semanticTokensProvider"]["legend"]["tokenTypes"]
    line = character = 0
    painted = set()
    for i in range(0, len(data), 5):
        line, character = line + data[i], data[i + 1] + (0 if data[i] else character)
        painted.add((lines[line][character : character + data[i + 2]], legend[data[i + 3]]))
    assert {("vmm", "function"), ("w1", "class"), (".view", "keyword"), ("r1", "parameter"), ("infer", "method")} <= painted
    whole = {"start": {"line": 0, "character": 0}, "end": {"line": len(lines), "character": 0}}
    hints = right.client.request("textDocument/inlayHint", textDocument={"uri": right.uri}, range=whole)
    at = {lines[h["position"]["line"]].split(";")[0].strip(): h["label"] for h in hints}
    assert re.match(r"\S+ k? ?cycles, \S+ ms", at[".entry infer"])
    assert at["loop r1"].startswith("loop: ")


def test_diagnostics_and_quick_fixes_as_one_types(client: Client) -> None:
    text = Text(client, TEXT)
    assert text.diagnostics() == []
    line, character = text.place("vmm a1")
    where = {"start": {"line": line, "character": character}, "end": {"line": line, "character": character + 3}}
    client.change(text.uri, 2, {"range": where, "text": "wmm"})
    (found,) = text.diagnostics()
    assert found["range"] == where
    assert "unknown instruction 'wmm'" in found["message"]
    actions = client.request(
        "textDocument/codeAction", textDocument={"uri": text.uri}, range=where, context={"diagnostics": [found]}
    )
    assert "Change to vmm" in [a["title"] for a in actions]
    fix = next(a for a in actions if a["title"] == "Change to vmm")
    (edit,) = fix["edit"]["changes"][text.uri]
    client.change(text.uri, 3, {"range": edit["range"], "text": edit["newText"]})
    assert text.diagnostics() == []
    # far from the place of the change: the weights are declared frozen
    line, character = text.place(" trainable\n")
    where = {
        "start": {"line": line, "character": character + 1},
        "end": {"line": line, "character": character + len(" trainable")},
    }
    client.change(text.uri, 4, {"range": where, "text": "frozen"})
    assert any("w1 is frozen" in d["message"] for d in text.diagnostics())


def test_formatting_gives_the_canonical_text(client: Client) -> None:
    text = Text(client, re.sub(r"(?m)^    (vmm|halt)", r"\t\1   ", TEXT))
    edits = client.request(
        "textDocument/formatting", textDocument={"uri": text.uri}, options={"tabSize": 4, "insertSpaces": True}
    )
    assert len(edits) < 30
    new = text.applied(edits)
    assert "\t" not in new
    assert format_program(assemble(new)) == format_program(assemble(TEXT))


def test_columns_count_in_the_units_of_the_client() -> None:
    text = TEXT.replace(".mat w1 ", '.mat "wé😀" ').replace("x, w1,", 'x, "wé😀",').replace("h, w1", 'h, "wé😀"')
    line = next(i for i, row in enumerate(text.split("\n")) if 'vmm a1, x, "wé😀", point' in row)
    row = text.split("\n")[line]
    for encoding, size in (
        ("utf-16", lambda s: len(s.encode("utf-16-le")) // 2),
        ("utf-8", lambda s: len(s.encode())),
        ("utf-32", len),
    ):
        document = Document(encoding)
        document.update(text)
        column = row.index("point")
        assert document.position(line + 1, column + 1).character == size(row[:column])
        assert document.place(document.position(line + 1, column + 1)) == (line + 1, column + 1)


def test_a_missing_weights_file_is_said_in_its_line(client: Client, tmp_path: Path) -> None:
    text = Text(client, TEXT.replace(".desc", '.weights "gone.weights.safetensors"\n.desc', 1), str(tmp_path))
    (found,) = text.diagnostics()
    assert "gone.weights.safetensors is missing" in found["message"]
    assert text.text.split("\n")[found["range"]["start"]["line"]].startswith(".weights")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "vmm",
        ".view",
        '.tensor "a" i8 2 [1,\n2',
        "[",
        "\u2028",
        ".code\nloopi 2000000000\nloopi 2000000000\nendl\nendl\nhalt",
    ],
)
def test_no_text_stops_the_server(client: Client, text: str) -> None:
    opened = Text(client, text)
    opened.diagnostics()
    lines = text.split("\n")
    td = {"uri": opened.uri}
    whole = {"start": {"line": 0, "character": 0}, "end": {"line": len(lines), "character": 9}}
    for line, row in enumerate(lines):
        for character in range(len(row) + 2):
            for method in ("hover", "completion", "definition", "prepareRename", "signatureHelp", "documentHighlight"):
                client.at(method, opened.uri, line, character)
    client.request("textDocument/documentSymbol", textDocument=td)
    client.request("textDocument/foldingRange", textDocument=td)
    client.request("textDocument/semanticTokens/full", textDocument=td)
    client.request("textDocument/inlayHint", textDocument=td, range=whole)
    client.request("textDocument/formatting", textDocument=td, options={"tabSize": 4, "insertSpaces": True})


def test_an_edit_parses_only_what_changed() -> None:
    text = TEXT * 40
    document = Document()
    document.update(text)
    before = dict(document.pieces)
    start = time.process_time()
    document.update(text.replace("; hidden", "; Hidden", 1) + "\n")
    spent = time.process_time() - start
    kept = sum(document.pieces[line] is piece for line, piece in before.items())
    assert kept >= len(before) - 1, spent


def test_the_lexer_gives_the_text_back() -> None:
    from pygments.lexers import get_lexer_by_name
    from pygments.token import Comment, Error, Keyword, Name

    from sasimc.lsp.pygments import SasLexer

    assert isinstance(get_lexer_by_name("sas-imc"), SasLexer)
    tokens = list(SasLexer(ensurenl=False, stripnl=False).get_tokens(TEXT))
    assert "".join(t for _, t in tokens) == TEXT
    assert not [t for kind, t in tokens if kind in Error]
    assert (Name.Function, "vmm") in tokens
    assert (Keyword, ".view") in tokens
    assert any(kind in Comment for kind, _ in tokens)
