"""The commands."""

import sys
from pathlib import Path
from types import TracebackType


def _interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An interrupt while modules are still imported is no traceback either."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if any(Path(word).stem in ("sasc", "sasrun", "sasdbg") or word.startswith("sasimc.cli.") for word in sys.orig_argv[:3]):
    sys.excepthook = _interrupted
