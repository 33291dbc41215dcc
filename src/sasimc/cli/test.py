"""``sasc test``: run the tests that stand in assembly files, without pytest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sasimc.cli.common import EXIT_FAILED, command, require_writable, write_json
from sasimc.cli.options import File, argument, isa, json_file
from sasimc.cli.progress import progress
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

__all__ = ["test"]


@command("test")
@argument("files", "Assembly files with tests (.test, .init, .run, .expect).", type=File(), nargs=-1, required=True)
@json_file("the results")
@isa
def test(files: tuple[Path, ...], json_file: Path | None) -> int:
    """Run the tests of assembly files on all engines.

    The exit code is 1 when a test fails. pytest runs the same tests from files named test_*.s.
    """
    from sasimc.isa.files import load_assembly
    from sasimc.runtime.asmtest import failures

    require_writable(json_file)
    assemblies = [(path, load_assembly(path)) for path in files]
    for path, assembly in assemblies:
        if not assembly.tests:
            raise SasError(f"{path} has no tests", hint="a test has .run and .expect lines after .tests")
    results: list[dict[str, Any]] = []
    with progress("testing") as show:
        for path, assembly in assemblies:
            for case in assembly.tests:
                name = case.name or path.stem
                show(f"testing {path}: {name}")
                found = failures(assembly, case)
                say(f"{'FAILED' if found else 'ok    '}  {path}: {name}")
                for text in found:
                    say(f"    {text}")
                results.append({"file": str(path), "test": name, "line": case.line, "failures": found})
    failed = sum(bool(row["failures"]) for row in results)
    say(f"{len(results)} test{'s' * (len(results) != 1)}, {failed} failed")
    if json_file:
        write_json(json_file, {"tests": results, "failed": failed})
    return EXIT_FAILED if failed else 0
