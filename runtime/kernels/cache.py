"""numba's cache watches only the file that a kernel stands in; a kernel also holds the code of functions that it calls. Here its mark of
freshness is the content of every file of `sasimc.runtime` that the kernel's file imports, directly or not, and the constants that these take from
elsewhere in the package: after an edit no old code runs, and a copy of the package, or one installed again, stays warm.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import caching

__all__ = ["sources"]

_ROOT = Path(__file__).resolve().parents[2]
_IMPORT = re.compile(r"^from (sasimc\.[.\w]*) import (\([^)]*\)|.*)", re.MULTILINE)
_RUNTIME = "sasimc.runtime"


@cache
def _imports(path: Path) -> list[tuple[str, list[str]]]:
    """The modules of this package that a file imports, and the names that it imports from each."""
    return [(module, re.findall(r"\w+", names)) for module, names in _IMPORT.findall(path.read_text(encoding="utf-8"))]


def _runtime(path: Path) -> set[Path]:
    """The files of `sasimc.runtime` among them."""
    found: set[Path] = set()
    for module, names in _imports(path):
        if module.startswith(_RUNTIME):
            place = _ROOT.joinpath(*module.split(".")[1:])
            for candidate in (place, *(place / name for name in names)):
                found.update(file for file in (candidate.with_suffix(".py"), candidate / "__init__.py") if file.is_file())
    return found


def _constants(path: Path) -> list[tuple[str, str, Any]]:
    """Numbers, words and tuples that a file takes from elsewhere in the package."""
    found = [
        (module, name, getattr(sys.modules.get(module), name, None))
        for module, names in _imports(path)
        if not module.startswith(_RUNTIME)
        for name in names
    ]
    return [entry for entry in found if isinstance(entry[2], bool | int | float | str | bytes | tuple)]


def sources(path: Path) -> set[Path]:
    """A file and what it imports of `sasimc.runtime`, directly or not."""
    found, left = {path}, [path]
    while left:
        new = _runtime(left.pop()) - found
        found |= new
        left += new
    return found


@cache
def _mark(path: Path) -> str:
    text = hashlib.sha256()
    for file in sorted(sources(path)):
        text.update(file.read_bytes() + repr(_constants(file)).encode())
    return text.hexdigest()


def _watch_imports() -> None:
    """Let numba's cache of files that import from this package watch that, too. Does nothing where numba's inside is another."""
    locator: Any = getattr(caching, "_SourceFileBackedLocatorMixin", None)
    if locator is None or hasattr(locator.get_source_stamp, "inner"):
        return
    inner = locator.get_source_stamp

    def get_source_stamp(self: Any) -> Any:
        path = Path(getattr(self, "_py_file", "")).resolve()
        ours = path.is_file() and (path.is_relative_to(_ROOT) or len(sources(path)) > 1)
        return _mark(path) if ours else inner(self)

    get_source_stamp.inner = inner  # type: ignore[attr-defined]
    locator.get_source_stamp = get_source_stamp


_watch_imports()
