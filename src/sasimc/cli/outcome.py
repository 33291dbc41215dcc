"""What ``sasrun`` leaves besides its lines: cost, trace and JSON of a run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli.common import write_json
from sasimc.cli.tables import say

if TYPE_CHECKING:
    from sasimc.costs import PriceList
    from sasimc.runtime.interpreter import Interpreter

__all__ = ["Outcome", "traced", "write_outcome"]


@dataclass(frozen=True)
class Outcome:
    """Engine and threads of a run, prices, and the files it writes (None: not asked for)."""

    engine: str
    threads: int | None
    technology: str
    prices: PriceList
    json_file: Path | None
    trace: Path | None
    trace_limit: int
    trace_lanes: str

    @property
    def files(self) -> tuple[Path | None, ...]:
        """The files."""
        return self.json_file, self.trace


@contextmanager
def traced(it: Interpreter, outcome: Outcome) -> Iterator[Callable[[str], None]]:
    """What executes an entry point; with ``--trace`` it records, and the recording is written also when the run ends with an error."""
    if outcome.trace is None:
        yield it.run
        return
    from sasimc.costs import joules_of
    from sasimc.profiling.trace import Tracer

    prices = outcome.prices
    tracer = Tracer(it, outcome.trace_limit, joules_of(it.program, prices), outcome.trace_lanes)
    try:
        yield tracer.run
    finally:
        tracer.write(
            outcome.trace,
            {"technology": prices.technology.name, "interpretation of the circuit figures": prices.interpretation},
        )
        dropped = f"; the limit of {outcome.trace_limit} was reached after {tracer.end:.0f} cycles, later events are dropped"
        say(f"wrote {outcome.trace}: {tracer.events} events{dropped if tracer.full else ''}")


def write_outcome(it: Interpreter, made: dict[str, Any], outcome: Outcome, start: float) -> None:
    """Print the cost of what was done and write the report. ``made``: the report so far, ``start``: ``time.perf_counter()`` of the beginning."""
    from sasimc.cli.provenance import provenance
    from sasimc.costs import cost_of
    from sasimc.evaluation.text import cost_lines
    from sasimc.profiling.profile import profile, profile_rows

    for reason in it.slow_loops.values():
        say(f"a loop was interpreted, on one core: {reason}")
    rows = profile_rows(it)
    cost = cost_of(it, made, outcome.prices, rows)
    for line in cost_lines(cost):
        say(line)
    if outcome.json_file is None:
        return
    write_json(
        outcome.json_file,
        {
            **made, "wall_s": time.perf_counter() - start, "host": platform.machine(), "provenance": provenance(it.program), "technology": outcome.technology,
            "interpretation": outcome.prices.interpretation, "cost": cost.summary(), **profile(it, rows),
        },
    )  # fmt: skip
    say(f"wrote {outcome.json_file}")
