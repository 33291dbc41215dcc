"""Where a result comes from: what made it, with which command line, when, from which files."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from typing import Any

import click

import sasimc
from sasimc.isa.program import Program

__all__ = ["provenance"]


def provenance(program: Program) -> dict[str, Any]:
    """For the JSON of a run and the pages made from it; a digest is left out where there is no such file."""
    model = json.loads(program.meta.get("model", "{}"))
    ctx = click.get_current_context(silent=True)
    digests = {"weights": program.digest, "model": model.get("sha256", "") if isinstance(model, dict) else ""}
    return {
        "version": sasimc.__version__,
        "command": str(ctx.obj) if ctx and ctx.obj else "",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "sha256": {name: digest for name, digest in digests.items() if digest},
    }
