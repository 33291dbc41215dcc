"""The explorer as one HTML file: the template, style and scripts of the folder ``web`` with the data in them. Nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import Any, Final

from sasimc.evaluation.report.house import POLICY, house_style
from sasimc.explore.content import Subject, content

__all__ = ["SCRIPTS", "explore_page", "filled"]

SCRIPTS: Final = ("model.js", "graph.js", "assembly.js", "floor.js", "timeline.js", "layers.js", "detail.js", "main.js")
"""In the order in which they build on one another."""


def _asset(name: str) -> str:
    return resources.files("sasimc.explore").joinpath("web", name).read_text(encoding="utf-8")


def filled(data: dict[str, Any]) -> str:
    """The page around its data."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    parts = {
        "policy": POLICY, "title": escape(data["title"]), "style": house_style() + _asset("explore.css"), "data": text,
        "script": "\n".join(_asset(name) for name in SCRIPTS),
    }  # fmt: skip
    out = _asset("explore.html")
    pieces = out.split("@@")
    return "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces))


def explore_page(subject: Subject) -> str:
    """The whole page.

    Raises:
        SasError: as :func:`~sasimc.explore.content.content`.
    """
    return filled(content(subject))
