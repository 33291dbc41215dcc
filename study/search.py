"""Which points are tried: all, drawn ones, or what Optuna proposes. Proposals come in batches of fixed size, so that workers do not change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from sasimc.isa.errors import SasError
from sasimc.study.description import Description, Value

__all__ = ["batches"]

Tell = Callable[[list[dict[str, float] | None]], None]
"""To be called with the goals measured at the points of a batch, None where a point is infeasible."""


def batches(d: Description) -> Iterator[tuple[list[dict[str, Any]], Tell]]:
    """Batches of points, and what takes their results. The next batch may depend on them."""
    size = d.search.batch
    if d.search.method == "grid":
        points = d.grid()
        while batch := list(islice(points, max(size, 256))):
            yield batch, lambda _: None
        return
    yield from _proposed(d, size)


def _proposed(d: Description, size: int) -> Iterator[tuple[list[dict[str, Any]], Tell]]:
    try:
        import optuna
    except ModuleNotFoundError:
        raise SasError("this search needs optuna", hint="pip install 'sas-imc[study]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = d.search.seed
    samplers: dict[str, Callable[[], Any]] = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=size),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=size),
    }
    goals = d.goals or {"": "minimise"}
    directions: list[Any] = [g.replace("ise", "ize") for g in goals.values()]
    study = optuna.create_study(sampler=samplers[d.search.method](), directions=directions)
    worst = {name: float("inf") if goal == "minimise" else float("-inf") for name, goal in goals.items()}
    done = 0
    while done < d.search.trials:
        asked = [study.ask() for _ in range(min(size, d.search.trials - done))]
        points = [d.active({name: _suggested(t, name, d.values(name)) for name in d.vary}) for t in asked]
        done += len(asked)

        def tell(results: list[dict[str, float] | None], asked: list[Any] = asked) -> None:
            for trial, result in zip(asked, results, strict=True):
                if result is None and d.search.method == "tpe":
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, [(result or worst).get(name, 0.0) for name in goals])

        yield points, tell


def _suggested(trial: Any, name: str, values: list[Value]) -> Value:
    """A value: numbers by their place in order, so that a search knows which are near each other."""
    if any(isinstance(v, str | bool) for v in values):
        return trial.suggest_categorical(name, values)
    return sorted(values)[trial.suggest_int(name, 0, len(values) - 1)]
