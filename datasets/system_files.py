"""Names that operating systems and tools leave in folders and archives. They are never images, never classes."""

from __future__ import annotations

__all__ = ["is_system"]

_NAMES = frozenset(
    {
        "__macosx", "icon\r", "desktop db", "desktop df", "network trash folder", "temporary items",  # macOS
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "system volume information", "recycler", "autorun.inf",  # Windows
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",  # network storage
        "lost+found", "__pycache__", "picasa.ini", "zbthumbnail.info",
    }
)  # fmt: skip
_BEGINNINGS = (".", "$recycle", "paxheader", "~$")
"""A dot: ``._x.jpg``, ``.DS_Store``, ``.ipynb_checkpoints``, ``.git``, ``.Trash-1000``, ..."""


def is_system(name: str) -> bool:
    """Whether a part of a path (no slashes) is such a name, in any case."""
    lower = name.lower()
    return lower in _NAMES or lower.startswith(_BEGINNINGS)
