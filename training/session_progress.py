"""What a session shows while it works: a progress bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sasimc.training.evaluation import Progress, Watch

__all__ = ["Shower"]

_PLAIN_EVERY_S = 10.0
"""Where the output is no terminal (a log), progress is a plain line this often."""


class Shower:
    """``images``: so many went through the device; ``busy_s``: the time they took; ``heed`` is called with every piece of progress."""

    def __init__(self, console: Console, heed: Callable[[], None]) -> None:
        self.console, self._heed = console, heed
        self.images = 0
        self.busy_s = 0.0

    @property
    def images_per_s(self) -> float:
        return self.images / self.busy_s if self.busy_s else 0.0

    def line(self, text: str) -> None:
        """One line of output."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self) -> Iterator[Watch]:
        """A progress bar fed by the trainer."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeRemainingColumn(),
        )
        start, first = time.perf_counter(), self.images
        with Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("", total=None, info="")
            state: dict[str, Any] = {"what": "", "base": first, "said": start}

            def watch(p: Progress) -> None:
                self._heed()
                if p.what != state["what"]:
                    state.update(what=p.what, base=self.images)
                self.images = int(state["base"]) + p.done
                now = time.perf_counter()
                parts = [f"{(self.images - first) / max(1e-9, now - start):.1f} images/s"]
                if p.loss is not None:
                    parts.append(f"loss {p.loss:.4g}")
                if p.top1 is not None:
                    parts.append(f"top-1 {p.top1:.1f} %")
                parts.append(f"device {p.simulated_s:.3g} s")
                bar.update(task, description=p.what, completed=p.done, total=p.total, info=", ".join(parts))
                if not self.console.is_terminal and now - state["said"] > _PLAIN_EVERY_S:
                    state["said"] = now
                    self.line(f"{p.what}: {p.done}/{p.total}, {', '.join(parts)}")

            yield watch
        self.busy_s += time.perf_counter() - start
