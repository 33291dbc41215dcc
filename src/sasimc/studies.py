"""Studies as a user has them: a file or a mapping, checked before anything starts; results as a table, a page, and pages of single points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.isa.errors import SasError
from sasimc.isa.files import write_atomically
from sasimc.study.results import Row, csv_text, front, importance, table
from sasimc.study.run import Progress
from sasimc.study.run import Study as Trials

if TYPE_CHECKING:
    from sasimc.study.description import Description

__all__ = ["Study", "open_trials", "report_of", "share_data"]


def _check(d: Description) -> None:
    """Raise SasError for what no trial could measure."""
    from sasimc.measures import TRAINED
    from sasimc.parameters import CONFIGURATION, check_point, recipe_of
    from sasimc.zoo.zoo import MODELS

    check_point(d.base)
    for name in d.vary:
        if name in d.base:
            raise SasError(f"{name!r} stands in base and in vary", hint="a parameter varies or it does not")
        for value in d.values(name):
            check_point({name: value})
    if not d.model.endswith(".onnx") and d.model not in ("embedded", *MODELS):
        raise SasError(f"there is no model {d.model!r}", hint=f"embedded, {', '.join(MODELS)}, or an ONNX file")
    if d.training is not None:
        recipe_of({}, 0, d.training.model_dump())
    trained = [m for m in d.metrics if m in TRAINED]
    if trained and d.training is None:
        raise SasError(f"{trained[0]!r} needs a training", hint='[training] with data = "drawn-flowers"')
    if d.training is not None and not trained:
        raise SasError("a training of which nothing is measured", hint=f"metrics: {', '.join(TRAINED)}; or no [training]")
    _check_zoo(d)
    if (CONFIGURATION in d.vary or CONFIGURATION in d.base) and d.training is None:
        raise SasError(f"{CONFIGURATION!r} needs a training", hint='[training] with data = "flowers17"')


def _check_zoo(d: Description) -> None:
    """Raise SasError for options of the model that no trial would heed."""
    from sasimc.parameters import CONFIGURATION, part
    from sasimc.training.recipe import ZooSection, load_recipe
    from sasimc.zoo.zoo import MODELS

    names = [name for name in (*d.base, *d.vary) if name.startswith(("zoo.", "recipe.zoo."))]
    if d.model not in MODELS:
        if names:
            raise SasError(f"{names[0]!r} has no meaning for the model {d.model!r}", hint=f"model: {', '.join(MODELS)}")
        if d.training is not None and "zoo" in load_recipe(d.training.recipe).model_fields_set:
            raise SasError(
                f"the recipe {d.training.recipe} has a section zoo, the model {d.model!r} is made otherwise",
                hint=f"model: {', '.join(MODELS)}",
            )
    elif CONFIGURATION in d.base or CONFIGURATION in d.vary:
        heeded = {"resolution", "width", "weights", *ZooSection.model_fields}
        for name in part({**d.base, **d.vary}, "zoo"):
            if name not in heeded:
                raise SasError(
                    f"'zoo.{name}' has no meaning for a row of table I", hint=", ".join(f"zoo.{n}" for n in sorted(heeded))
                )


def open_trials(given: Path | Mapping[str, Any], folder: Path | None = None) -> Trials:
    """A study that is checked and not run yet: a file, or what one holds. ``folder``: by default the file's name without .toml, or the study's name.

    Raises:
        SasError: what is wrong with the study or its model; a folder that cannot be written.
    """
    from sasimc.measures import METRICS
    from sasimc.study.description import load_description

    d = load_description(given, METRICS)
    where = str(given) if isinstance(given, Path) else ""
    try:
        _check(d)
    except SasError as exc:
        raise SasError(exc.diagnostic.message, where=where, hint=exc.diagnostic.hint) from None
    files: dict[str, bytes] = {}
    if d.model.endswith(".onnx"):
        beside = given.parent if isinstance(given, Path) else Path()
        try:
            files[d.model] = (beside / d.model).read_bytes()
        except OSError as exc:
            raise SasError(f"cannot read the model {d.model}: {exc.strerror}", where=where) from None
    return Trials(d, folder or (given.with_suffix("") if isinstance(given, Path) else Path(d.name)), files)


def share_data(found: Trials) -> None:
    """Let workers that have not got the data set of a study's trainings have ours, if we have it and it is not too large."""
    from sasimc.datasets.dataset import open_dataset
    from sasimc.sent_data import content_of

    if found.description.training:
        with suppress(SasError):
            found.content = content_of(open_dataset(found.description.training.data))


def report_of(found: Trials, links: Mapping[int, str] | None = None) -> dict[str, Any]:
    """What a study found, JSON-ready; ``links``: of rows, by number, to pages of their own."""
    from sasimc.parameters import is_paper

    d, rows = found.description, found.rows()
    best = set(front(d, rows))
    varies = any(name.startswith("machine") for name in d.vary)
    points = [
        {
            "point": dict(r.point), "metrics": dict(r.metrics), "standard_errors": dict(r.errors), "seeds": r.seeds, "infeasible": r.infeasible,
            "front": i in best, "paper": varies and is_paper({**d.base, **r.point}), **({"page": links[i]} if links and i in links else {}),
        }
        for i, r in enumerate(rows)
    ]  # fmt: skip
    return {
        "study": d.model_dump(mode="json", by_alias=True),
        "points": points,
        "importance": {goal: importance(rows, goal, list(d.vary)) for goal in d.goals},
    }


class Study:
    """A study of many designs, mappings, recipes or seeds: `How-to, Study many designs` says what it may hold.

    ``sasimc.Study("machine.toml").run().table()``; a ``pandas.DataFrame`` takes the table as it is.

    Args:
        description: a TOML file, or a mapping with its keys.
        folder: of the results, one file a trial; by default the file's name without .toml, or the study's name. What it holds is known at once.

    Raises:
        SasError: everything that is wrong with the study, before anything starts.
    """

    def __init__(self, description: str | Path | Mapping[str, Any], folder: str | Path | None = None) -> None:
        given = description if isinstance(description, Mapping) else Path(description)
        self._trials = open_trials(given, None if folder is None else Path(folder))
        self._trials.recall()

    def __repr__(self) -> str:
        feasible = sum(not r.infeasible for r in self.rows)
        return f"<Study {self._trials.description.name!r}: {feasible} feasible of {len(self.rows)} points in {self.folder}>"

    @property
    def folder(self) -> Path:
        """Where the results are kept."""
        return self._trials.folder

    @cached_property
    def rows(self) -> list[Row]:
        """A row a point that is known: ``.point``, ``.metrics`` (means over seeds, SI units), ``.errors`` (their standard errors), ``.infeasible`` (why, or empty)."""
        return self._trials.rows()

    @property
    def failures(self) -> list[tuple[Mapping[str, Any], str]]:
        """(point, reason) of trials that the last run could not measure; they are tried again by the next."""
        return self._trials.failures

    def run(
        self, workers: int | None = None, *, cluster: str | None = None, progress: Callable[[Progress], None] = lambda _: None
    ) -> Study:
        """Measure what is not known; what is finished is kept, whenever it ends.

        Args:
            workers: processes of this machine (None: one a core; 0: this process alone). Others need ``if __name__ == "__main__":`` in a script.
            cluster: address of a Dask scheduler instead.
            progress: called after every trial.

        Raises:
            SasError: no such scheduler, or Dask is not installed.
        """
        from sasimc.cluster.pool import Pool, Serial
        from sasimc.measures import measure

        if cluster is not None:
            share_data(self._trials)
        with Serial(measure) if workers == 0 else Pool(measure, workers, cluster) as pool:
            self._trials.run(pool, progress)
        self.__dict__.pop("rows", None)
        return self

    def table(self) -> dict[str, list[Any]]:
        """Columns of equal length: parameters, metrics, their standard errors, ``seeds``, ``infeasible`` (why), ``front``; None where there is nothing."""
        return table(self._trials.description, self.rows)

    def front(self) -> list[Row]:
        """The rows that no other beats in every goal, in the order of the first goal."""
        return [self.rows[i] for i in front(self._trials.description, self.rows)]

    def importance(self, metric: str) -> dict[str, float]:
        """Share of a metric's variance over the feasible points that each parameter alone explains, the largest first."""
        return importance(self.rows, metric, list(self._trials.description.vary))

    def save(self, path: str | Path) -> None:
        """Write the table (.csv) or the page (.html)."""
        from sasimc.study.page import page

        text = csv_text(self.table()) if Path(path).suffix == ".csv" else page(report_of(self._trials))
        write_atomically(Path(path), text.encode())
