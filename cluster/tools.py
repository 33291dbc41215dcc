"""Which tools made a result: a digest of the sources, the same wherever they are installed."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["tools_digest"]


@cache
def tools_digest() -> str:
    """SHA-256 over the names and contents of the package's Python and TOML files."""
    spec = find_spec("sasimc")
    assert spec is not None
    root = Path(next(iter(spec.submodule_search_locations or [])))
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.endswith((".py", ".toml"))
    ]
    found = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.relative_to(root).as_posix()):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
