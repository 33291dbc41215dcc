"""pytest plugin: collects ``test_*.s`` files; every ``.test`` in them is a test (page "Writing programs").

It is installed with the package. Options: ``--no-asm`` leaves assembly files out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the toolchain is imported when the first file is collected: other projects pay nothing for the plugin
    from sasimc.isa.plan import AsmTest
    from sasimc.isa.text.assembler import Assembly

__all__ = ["AsmFile", "AsmItem"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the option."""
    parser.getgroup("sasimc").addoption("--no-asm", action="store_true", help="do not collect test_*.s assembly tests")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> AsmFile | None:
    """Take ``test_*.s`` files."""
    if file_path.suffix == ".s" and file_path.name.startswith("test_") and not parent.config.getoption("--no-asm"):
        return AsmFile.from_parent(parent, path=file_path)
    return None


class AsmFailure(Exception):
    """Differences between machine and expectations."""


class AsmFile(pytest.File):
    """One assembly file."""

    def collect(self) -> Iterator[AsmItem]:
        """Its tests."""
        from sasimc.isa.errors import SasError
        from sasimc.isa.files import load_assembly

        try:
            assembly = load_assembly(self.path)
        except SasError as exc:
            raise self.CollectError(str(exc)) from None
        if not assembly.tests:
            raise self.CollectError(f"{self.path}: no tests (.run and .expect directives) in this file")
        for test in assembly.tests:
            yield AsmItem.from_parent(self, name=test.name or self.path.stem, assembly=assembly, test=test)


class AsmItem(pytest.Item):
    """One ``.test``."""

    def __init__(self, *, assembly: Assembly, test: AsmTest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.assembly, self.test = assembly, test

    def runtest(self) -> None:
        """Run it on its engines.

        Raises:
            AsmFailure: something differs.
        """
        from sasimc.runtime.asmtest import failures

        found = failures(self.assembly, self.test)
        if found:
            raise AsmFailure("\n".join(found))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Differences and errors of the program as text; anything else with its traceback."""
        from sasimc.isa.errors import SasError

        if isinstance(excinfo.value, (AsmFailure, SasError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """File, line (0-based) and name."""
        return self.path, max(0, self.test.line - 1), f"{self.path.name}: {self.name}"
