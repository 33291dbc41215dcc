"""``--workers`` and ``--cluster``: who does the work of a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

if TYPE_CHECKING:
    from sasimc.cluster.pool import Pool
    from sasimc.cluster.task import Work

__all__ = ["check_workers", "pool_of", "say_who"]


def check_workers(cluster: str | None, workers: int | None) -> bool:
    """Whether other processes do the work. Raises SasError when both are given."""
    if cluster is not None and workers is not None:
        raise SasError("--workers are processes of this machine, --cluster brings its own", hint="one of them")
    return cluster is not None or bool(workers)


def pool_of(work: Work, cluster: str | None, workers: int | None) -> Pool:
    """The workers, to be entered; what they lack is said on standard error."""
    from sasimc.cluster.pool import Pool

    return Pool(work, workers, cluster, lambda text: say(text, file=sys.stderr))


def say_who(pool: Pool) -> None:
    """How many workers there are, and where they can be watched."""
    count = pool.workers
    say(f"{count} worker{'' if count == 1 else 's'}, dashboard {pool.address}")
