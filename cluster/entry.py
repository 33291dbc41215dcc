"""What a worker runs first. It travels by value, so that a worker with other sources, or none, can say so."""

from __future__ import annotations

from typing import Any

__all__ = ["entry"]


def entry(work: bytes, key: str, spec: dict[str, Any], content: Any, files: str, version: str) -> tuple[str, Any]:
    """On a worker: (``done``, outcome), or (``failed`` or ``lacking``, (worker, why)); ``work`` is the pickled function."""
    from distributed import get_worker

    worker = get_worker().address
    try:
        from sasimc.cluster.task import run
        from sasimc.cluster.tools import tools_digest
    except ImportError as exc:
        return "lacking", (worker, "version", f"cannot load this version of sas-imc ({exc})")
    if (here := tools_digest()) != version:
        return "lacking", (worker, "version", f"has another version of sas-imc ({here[:8]}, not {version[:8]})")
    return run(work, key, spec, content, files)
