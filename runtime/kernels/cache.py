"""numba's cache watches only the file that a kernel stands in; a kernel also holds the code of kernels that it calls. Here its mark of
freshness takes in every file of `sasimc.runtime` that the kernel's file imports, directly or not: after an edit no old code runs.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import caching

__all__ = ["sources"]

_ROOT = Path(__file__).resolve().parents[2]
_IMPORT = re.compile(r"^from sasimc\.(runtime[.\w]*) import (\([^)]*\)|.*)", re.MULTILINE)


@cache
def _imports(path: Path) -> frozenset[Path]:
    """The files of `sasimc.runtime` that a file names in its imports."""
    found: set[Path] = set()
    for module, names in _IMPORT.findall(path.read_text(encoding="utf-8")):
        place = _ROOT.joinpath(*module.split("."))
        for candidate in (place, *(place / name for name in re.findall(r"\w+", names))):
            found.update(file for file in (candidate.with_suffix(".py"), candidate / "__init__.py") if file.is_file())
    return frozenset(found)


def sources(path: Path) -> set[Path]:
    """A file and what it imports of `sasimc.runtime`, directly or not."""
    found, left = {path}, [path]
    while left:
        new = _imports(left.pop()) - found
        found |= new
        left += new
    return found


@cache
def _mark(path: Path) -> str:
    text = hashlib.sha256()
    for file in sorted(sources(path)):
        text.update(file.read_bytes())
    return text.hexdigest()


def _watch_imports() -> None:
    """Let numba's cache of files of this package watch their imports, too. Does nothing where numba's inside is another."""
    locator: Any = getattr(caching, "_SourceFileBackedLocatorMixin", None)
    if locator is None or hasattr(locator.get_source_stamp, "inner"):
        return
    inner = locator.get_source_stamp

    def get_source_stamp(self: Any) -> Any:
        path = Path(getattr(self, "_py_file", "")).resolve()
        stamp = inner(self)
        return (stamp, _mark(path)) if path.is_relative_to(_ROOT) and path.is_file() else stamp

    get_source_stamp.inner = inner  # type: ignore[attr-defined]
    locator.get_source_stamp = get_source_stamp


_watch_imports()
