"""Answer times of the language server on a long program, as a client process sees them.

    python benchmarks/editor.py prog.s [--repeat 5] [--json FILE]

For each request: after an edit, with the check of the text running behind; and when that is done. The program is best a compiled one with a training step:
`sasc zoo mobilenetv2-repnet --classes 17 -o m.onnx && sasc compile m.onnx -o prog.s`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from common import add_common, finish, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lsp_client import Client


def main() -> None:
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("program", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    o = parser.parse_args()
    text = o.program.read_text()
    lines = text.split("\n")
    n = next(i for i, line in enumerate(lines) if line.strip().startswith("vmm "))
    uri = o.program.resolve().as_uri()
    td = {"uri": uri}
    shown = {"start": {"line": n, "character": 0}, "end": {"line": n + 80, "character": 0}}
    column = lines[n].index("vmm") + 5
    client = Client()
    start = time.perf_counter()
    client.open(uri, text)
    client.diagnostics(uri)
    checked = time.perf_counter() - start

    def place(method: str, **more: Any) -> Any:
        return lambda: client.at(method, uri, n, column, **more)

    def whole(method: str, **more: Any) -> Any:
        return lambda: client.request(f"textDocument/{method}", textDocument=td, **more)

    works = {
        "hover": place("hover"),
        "completion": place("completion"),
        "definition": place("definition"),
        "references": place("references", context={"includeDeclaration": True}),
        "rename": place("rename", newName="another.name"),
        "signature": place("signatureHelp"),
        "cycles of 80 lines": whole("inlayHint", range=shown),
        "colours of 80 lines": whole("semanticTokens/range", range=shown),
        "colours of all": whole("semanticTokens/full"),
        "outline": whole("documentSymbol"),
        "folding": whole("foldingRange"),
        "formatting": whole("formatting", options={"tabSize": 4, "insertSpaces": True}),
    }
    taken: dict[str, dict[str, list[float]]] = {name: {"busy": [], "idle": []} for name in works}
    version = 1
    for _ in range(o.repeat):
        for state in ("busy", "idle"):
            for name, work in works.items():
                if state == "busy":
                    version += 1
                    at = {"line": n, "character": len(lines[n])}
                    client.change(uri, version, {"range": {"start": at, "end": at}, "text": " "})
                    lines[n] += " "
                start = time.perf_counter()
                work()
                taken[name][state].append(1e3 * (time.perf_counter() - start))
            if state == "busy":
                client.diagnostics(uri)
    client.close()
    rows = [
        (name, *(f"{sorted(t[s])[len(t[s]) // 2]:.0f}" for s in ("idle", "busy")), f"{max(t['busy'] + t['idle']):.0f}")
        for name, t in taken.items()
    ]
    print(table(("request", "median, ms", "median after an edit, ms", "worst, ms"), rows))
    print(f"{len(lines)} lines; assembled, linted and priced in {checked:.1f} s")
    finish(o, {"rows": rows, "lines": len(lines), "checked_s": checked})


if __name__ == "__main__":
    main()
