"""Studies: description, search, front and importance beside brute force and closed forms; runs that are killed, hang, and go on; workers change nothing."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_measures as measures
from whole_path import embedded

from sasimc.cli.common import invoke
from sasimc.cli.sasc import app
from sasimc.cluster.pool import Pool, Serial
from sasimc.isa.errors import SasError
from sasimc.study.description import Description, load_description
from sasimc.study.results import Row, csv_text, front, importance, rows_of, table
from sasimc.study.run import Study, load_study

cloudpickle = pytest.importorskip("cloudpickle")
cloudpickle.register_pickle_by_value(measures)  # workers do not know the folder of the tests


def described(**changes: Any) -> Description:
    data = {
        "vary": {"a": [1, 2, 5], "b": [0, 10]},
        "metrics": ["cost", "gain"],
        "minimise": ["cost"],
        "maximise": ["gain"],
        "seeds": [0, 1],
        **changes,
    }
    return Description.model_validate(data)


# ---------------------------------------------------------------------------------------------------------- what is tried


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"from": 1, "to": 7, "step": 2}, [1, 3, 5, 7]),
        ({"from": 0.5, "to": 1.0, "steps": 3}, [0.5, 0.75, 1.0]),
        ({"from": 1, "to": 1000, "steps": 4, "log": True}, [1, 10, 100, 1000]),
        ([3, "x", True], [3, "x", True]),
    ],
)
def test_ranges(given: Any, values: list[Any]) -> None:
    assert described(vary={"a": given}).values("a") == values


def test_parameters_that_vary_only_where_others_allow_it() -> None:
    d = described(vary={"mode": ["x", "y"], "a": [1, 2]}, only={"a": {"mode": ["y"]}})
    assert list(d.grid()) == [{"mode": "x"}, {"mode": "y", "a": 1}, {"mode": "y", "a": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('metrics = ["cost"]\n[vary]\na = []\n', "there is no value"),
        ('metrics = ["cost"]\n[vary]\na = [1, 1]\n', "twice"),
        ('metrics = ["cost"]\nseeds = [0, 0]\n[vary]\na = [1]\n', "twice"),
        ('metrics = ["cost"]\n[vary]\na = [nan]\n', "vary.a"),
        ('metrics = ["cots"]\n[vary]\na = [1]\n', "there is no metric 'cots'"),
        ('metrics = ["cost"]\nminimise = ["gain"]\n[vary]\na = [1]\n', "is not measured"),
        ('metrics = ["cost"]\n[vary]\na = {from = 3, to = 1, step = 1}\n', "from <= to"),
        ('metrics = ["cost"]\n[vary]\na = [1]\n[constraints]\ncost = "about 7"\n', "no comparison"),
        ('metrics = ["cost"]\n[vary]\na = [1]\n[only]\nb = {a = [1]}\n', "does not vary"),
        ('metrics = ["cost"]\nsurprise = 1\n[vary]\na = [1]\n', "surprise"),
        ('metrics = ["cost"]\n[vary]\na = [1]\n[search]\nmethod = "nsga2"\n', "needs goals"),
        ('metrics = "cost"\n[vary', "not valid TOML"),
    ],
)
def test_a_wrong_description_is_refused_before_anything_starts(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SasError) as caught:
        load_description(path, {"cost": "", "gain": ""})
    assert message in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- what is found


def test_front_beside_brute_force() -> None:
    rng = random.Random(5)
    d = described()
    rows = [
        Row({"a": i}, {"cost": rng.randrange(20), "gain": rng.randrange(20)}, {}, 1, "no" if rng.random() < 0.2 else "")
        for i in range(80)
    ]
    good = [i for i, r in enumerate(rows) if not r.infeasible]

    def beats(i: int, j: int) -> bool:
        (c, g), (e, h) = (tuple(float(rows[k].metrics[m] or 0) for m in ("cost", "gain")) for k in (i, j))
        return c <= e and g >= h and (c < e or g > h)

    assert sorted(front(d, rows)) == [j for j in good if not any(beats(i, j) for i in good)]


def test_importance_of_a_sum_is_the_share_of_each_variance() -> None:
    a, b = [0.0, 1.0, 2.0], [0.0, 3.0]
    rows = [Row({"a": x, "b": y}, {"cost": x + y}, {}, 1) for x, y in itertools.product(a, b)]
    whole = np.var(a) + np.var(b)
    found = importance(rows, "cost", ["a", "b"])
    assert found == pytest.approx({"b": np.var(b) / whole, "a": np.var(a) / whole})
    assert list(found) == ["b", "a"]


def test_rows_are_means_over_seeds_with_constraints() -> None:
    d = described(constraints={"cost": "< 20"})
    results = [(p, measures.by_formula({"base": {}, "point": p, "seed": s}, {})) for p in d.grid() for s in d.seeds]
    rows = rows_of(d, results)
    assert rows[0].metrics == {"cost": 1 + 1 / 16, "gain": 0}
    assert rows[0].errors["cost"] == pytest.approx(1 / 16)
    assert [bool(r.infeasible) for r in rows] == [r.metrics["cost"] is None or r.metrics["cost"] >= 20 for r in rows]
    assert (
        csv_text(table(d, rows)).split("\n")[0] == "a,b,cost,gain,cost standard error,gain standard error,seeds,infeasible,front"
    )


@pytest.mark.parametrize("method", ["random", "tpe", "nsga2"])
def test_proposals_depend_on_the_seed_alone(tmp_path: Path, method: str) -> None:
    pytest.importorskip("optuna")
    goals = {"minimise": ["cost"], "maximise": []} if method == "tpe" else {}
    d = described(
        vary={"a": {"from": 0, "to": 20, "step": 1}, "b": [0, 1, 2]},
        search={"method": method, "trials": 24, "batch": 6},
        seeds=[0],
        **goals,
    )
    found = []
    for name in ("one", "two"):
        study = Study(d, tmp_path / name)
        study.run(Serial(measures.by_formula))
        found.append(study.results)
    assert found[0] == found[1]
    assert len(found[0]) == 24


# ------------------------------------------------------------------------------------------------------------ how it is run


def test_the_same_files_from_one_process_and_two_workers(tmp_path: Path) -> None:
    d, files = described(vary={"a": list(range(8)), "b": [0, 1]}), {"model.onnx": bytes(range(200))}
    d = d.model_copy(update={"model": "model.onnx"})
    alone, many = Study(d, tmp_path / "alone", files), Study(d, tmp_path / "many", files)
    alone.run(Serial(measures.by_formula))
    with Pool(measures.by_formula, 2) as pool:
        progress = many.run(pool)
    assert progress.done == 32
    assert measures.files_of(tmp_path / "alone") == measures.files_of(tmp_path / "many")
    assert many.rows() == alone.rows()
    loaded = load_study(tmp_path / "many")
    assert {json.dumps(r.point) for r in loaded.rows()} == {json.dumps(r.point) for r in alone.rows()}


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    calls: list[Any] = []

    def counted(spec: Any, files: Any) -> Any:
        calls.append(spec["point"])
        return measures.by_formula(spec, files)

    Study(described(), tmp_path).run(Serial(counted))
    assert len(calls) == 12
    more = Study(described(vary={"a": [1, 2, 5, 7], "b": [0, 10]}), tmp_path)
    progress = more.run(Serial(counted))
    assert (progress.known, progress.done, len(calls)) == (12, 4, 16)
    damaged = sorted((tmp_path / "trials").iterdir())[0]
    damaged.write_text("{")
    more.run(Serial(counted))
    assert len(calls) == 17


def test_trials_that_hang_fail_or_lose_their_worker_end_no_study(tmp_path: Path) -> None:
    d = described(vary={"a": [1, 2, 3, 4, 5, 6, 13]}, seeds=[0], base={"once": str(tmp_path / "once")}, time_limit_s=4.0)
    study = Study(d, tmp_path / "study")
    with Pool(measures.bad, 2) as pool:
        progress = study.run(pool)
    reasons = {p["a"]: reason for p, reason in study.failures}
    assert set(reasons) == {1, 3, 4}
    assert "took more than 4 s on tcp://127.0.0.1" in reasons[1]
    assert "there is no data set flowers" in reasons[3]
    assert "ZeroDivisionError" in reasons[4]
    assert (tmp_path / "once").exists()
    assert {p["a"] for p, _ in study.results} == {2, 5, 6, 13}
    assert progress.infeasible == 1
    assert len(measures.files_of(tmp_path / "study")) == 4  # failures are tried again next time


def test_workers_that_are_killed_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    d = described(vary={"a": {"from": 20, "to": 79, "step": 1}}, seeds=[0])
    study = Study(d, tmp_path / "killed")
    with Pool(measures.slow, 2) as pool, measures.killing(pool, 4, (0.4, 0.4)) as killed:
        progress = study.run(pool)
    assert len(killed) > 0
    assert not study.failures
    assert progress.done == 60
    alone = Study(d, tmp_path / "alone")
    alone.run(Serial(measures.by_formula))
    assert measures.files_of(tmp_path / "killed") == measures.files_of(tmp_path / "alone")


# -------------------------------------------------------------------------------------------------------------- the command


SMALL = """
name = "small"
metrics = ["cycles.infer", "energy.infer", "area"]
minimise = ["cycles.infer", "area"]
[vary]
"machine.array.bit_columns" = [256, 512]
"machine.array.rows" = [64, 2]
"""


def test_the_command_measures_shows_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    assert invoke(app, ["study", "run", str(path), "-o", str(tmp_path / "dry"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 trials, 0 known" in said
    assert "the 0 left take about" in said
    assert "to each worker 0.00 MB once" in said
    assert invoke(app, ["study", "run", str(path), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "4 measured, 2 of them infeasible, 0 failed" in said
    assert invoke(app, ["study", "run", str(path), "--workers", "0", "--json", str(tmp_path / "t.json")]) == 0
    assert "4 known, 0 measured" in capsys.readouterr().out
    page, table = tmp_path / "p.html", tmp_path / "t.csv"
    assert invoke(app, ["study", "show", str(tmp_path / "small"), "--html", str(page), "--csv", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 5
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    points = json.loads((tmp_path / "t.json").read_text())["points"]
    mine = next(p for p in points if p["point"] == {"machine.array.bit_columns": 512, "machine.array.rows": 64})
    assert mine["metrics"]["cycles.infer"] == embedded().infer.cycles


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"machine.array.rowz" = [1]', "did you mean"),
        ('"compile.batch" = [0]', "--batch 0"),
        ('"machine.array.banks[2]" = [8]', "no parameter"),
        ('"machine.buffer.bytes" = ["large"]', "no value for a field"),
        ('"zoo.width" = ["wide"]', "zoo.width"),
        ('"recipe.epochs" = [0]', "epochs"),
        ('"bit_errors.compute.write" = [2]', "between 0 and 1"),
        ('"technology" = ["flash"]', "flash"),
        ('"interpretation" = ["mine"]', "mine"),
        ("configuration = [1]", "needs a training"),
        ('"zoo.width" = [1]\n[base]\n"zoo.width" = 1', "base and in vary"),
        ('"zoo.width" = [1]\n[training]\ndata = "drawn-flowers"', "nothing is measured"),
        ('"recipe.zoo.wiring" = ["pooled"]', "no meaning for the model 'embedded'"),
        ("configuration = [5]", "configuration 5"),
        ('"machine" = ["nowhere"]', "nowhere"),
    ],
)
def test_parameters_are_checked_before_anything_starts(
    tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(SMALL + change + "\n")
    assert invoke(app, ["study", "run", str(path), "--workers", "0"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s" / "study.json").exists()


def test_points_that_share_a_mapping_are_measured_as_if_alone() -> None:
    from sasimc.api import CompileOptions, compile_model
    from sasimc.measures import measure
    from sasimc.parameters import machine_of
    from sasimc.zoo.zoo import default_model_path

    wanted = ["cycles.infer", "cycles.train_step", "subarrays", "buffer_peak"]
    for point in ({}, {"machine.buffer.bytes": 100_352}, {"machine.buffer.bytes": 100_352, "machine.array.banks[0]": 8}):
        spec = {"model": "embedded", "base": {}, "point": point, "seed": 0, "training": None}
        made = compile_model(default_model_path(), CompileOptions(machine=machine_of(point)))
        alone = [made.infer.cycles, made.train_step.cycles, made.placement.used, made.buffer_peak_bytes]
        measured = measure(spec, {})["metrics"]
        assert [measured[name] for name in wanted] == alone


def test_the_page_lists_every_metric() -> None:
    from sasimc.measures import METRICS

    page = (Path(__file__).parents[1] / "docs" / "how-to" / "studies.md").read_text()
    assert [name for name, what in METRICS.items() if f"| `{name}` | {what} |" not in page] == []


def test_no_study_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.toml"
    path.write_text(SMALL)
    assert invoke(app, ["study", "show", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err
