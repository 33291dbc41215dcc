"""The page of a study: one HTML file, no network. Its parts stand beside this file."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["page"]


def page(report: dict[str, Any]) -> str:
    """The page of a report (``sasc study show --json``)."""

    def part(name: str) -> str:
        return resources.files("sasimc.study.page").joinpath(name).read_text(encoding="utf-8")

    data = json.dumps(report, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    text = part("study.html")
    for mark, content in (("/*STYLE*/", part("study.css")), ("/*SCRIPT*/", part("study.js")), ("/*DATA*/", data)):
        text = text.replace(mark, content)
    return text
