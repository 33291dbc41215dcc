"""Searches and importance beside textbook cases: ZDT1, a bowl, Ishigami's function; the table as pandas reads it; the page in a browser."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, chromium

import sasimc
from sasimc.cluster.pool import Serial
from sasimc.study.description import Description
from sasimc.study.results import Row, front, importance
from sasimc.study.run import Study


def found(
    folder: Path,
    method: str,
    trials: int,
    vary: Mapping[str, Any],
    goals: Callable[[Mapping[str, float]], dict[str, float]],
    seed: int = 0,
) -> Study:
    names = list(goals(dict.fromkeys(vary, 0.0)))
    data = {
        "vary": vary,
        "metrics": names,
        "minimise": names,
        "search": {"method": method, "trials": trials, "batch": 20, "seed": seed},
    }
    study = Study(Description.model_validate(data), folder)
    study.run(Serial(lambda spec, _: {"metrics": goals(spec["point"])}))
    return study


def zdt1(x: Mapping[str, float]) -> dict[str, float]:
    """Zitzler, Deb and Thiele (2000): the front is f2 = 1 - sqrt(f1), where all but the first variable are 0."""
    first, *others = x.values()
    g = 1 + 9 * sum(others) / len(others)
    return {"f1": first, "f2": g * (1 - math.sqrt(first / g))}


def hypervolume(rows: list[Row]) -> float:
    """Area between the front and (1, 10)."""
    points = sorted((float(r.metrics["f1"] or 0), float(r.metrics["f2"] or 0)) for r in rows)
    edges = [x for x, _ in points[1:]] + [1.0]
    return sum((b - a) * (10 - y) for (a, y), b in zip(points, edges, strict=True))


def test_nsga2_finds_the_front_of_zdt1(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    vary = {f"x{i}": {"from": 0, "to": 1, "step": 0.05} for i in range(4)}  # 194,481 points
    volumes = {}
    for method in ("nsga2", "random"):
        study = found(tmp_path / method, method, 400, vary, zdt1)
        rows = study.rows()
        volumes[method] = hypervolume([rows[i] for i in front(study.description, rows)])
    grid = np.arange(0, 1.01, 0.05)
    best = hypervolume([Row({}, {"f1": x, "f2": 1 - math.sqrt(x)}, {}, 1) for x in grid])
    assert best * 0.95 < volumes["nsga2"] <= best + 1e-9
    assert volumes["random"] < volumes["nsga2"] - 0.2


def test_tpe_comes_nearer_to_the_bottom_of_a_bowl_than_chance(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    vary = {"x": {"from": -20, "to": 20, "step": 1}, "y": {"from": -20, "to": 20, "step": 1}}

    def bowl(p: Mapping[str, float]) -> dict[str, float]:
        return {"height": (p["x"] - 7) ** 2 + (p["y"] + 4) ** 2}

    lowest = {}
    for method in ("tpe", "random"):
        heights = []
        for seed in range(2):
            study = found(tmp_path / f"{method}{seed}", method, 80, vary, bowl, seed)
            heights.append(min(float(r.metrics["height"] or 0) for r in study.rows()))
        lowest[method] = sum(heights)
    assert lowest["tpe"] <= 4
    assert lowest["tpe"] < lowest["random"]


def test_importance_of_ishigamis_function_is_its_first_order_sobol_index() -> None:
    a, b = 7.0, 0.1
    xs = [float(v) for v in (np.arange(24) + 0.5) / 24 * 2 * math.pi - math.pi]
    rows = [
        Row({"x": x, "y": y, "z": z}, {"f": math.sin(x) + a * math.sin(y) ** 2 + b * z**4 * math.sin(x)}, {}, 1)
        for x, y, z in itertools.product(xs, xs, xs)
    ]
    whole = a * a / 8 + b * math.pi**4 / 5 + b * b * math.pi**8 / 18 + 0.5
    exact = {"x": 0.5 * (1 + b * math.pi**4 / 5) ** 2 / whole, "y": a * a / 8 / whole, "z": 0.0}
    assert importance(rows, "f", ["x", "y", "z"]) == pytest.approx(exact, abs=0.01)


SMALL = {
    "metrics": ["cycles.infer", "area"],
    "minimise": ["cycles.infer", "area"],
    "vary": {"machine.array.bit_columns": [256, 512], "machine.buffer.bytes": [401_408, 802_816]},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> sasimc.Study:
    return sasimc.Study(SMALL, tmp_path_factory.mktemp("study") / "small").run(0)


def test_a_study_from_python(small: sasimc.Study) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(small.table())
    assert list(frame.columns) == [
        "machine.array.bit_columns",
        "machine.buffer.bytes",
        "cycles.infer",
        "area",
        "seeds",
        "infeasible",
        "front",
    ]
    assert frame.loc[frame["front"], "area"].min() == frame["area"].min()
    assert len(small.front()) == int(frame["front"].sum())
    assert list(small.importance("area")) == ["machine.array.bit_columns", "machine.buffer.bytes"]
    again = sasimc.Study(SMALL, small.folder)  # what the folder holds is known at once
    assert again.table() == small.table()


def test_more_metrics_and_values_measure_only_what_is_new(small: sasimc.Study) -> None:
    more = {**SMALL, "metrics": [*SMALL["metrics"], "utilisation"]}
    seen: list[Any] = []
    sasimc.Study(more, small.folder).run(0, progress=lambda p: seen.append((p.known, p.done)))
    assert seen[-1] == (4, 0)
    assert None not in sasimc.Study(more, small.folder).table()["utilisation"]
    wider = {**more, "vary": {**SMALL["vary"], "machine.buffer.bytes": [401_408, 802_816, 602_112]}}
    sasimc.Study(wider, small.folder).run(0, progress=lambda p: seen.append((p.known, p.done)))
    assert seen[-1] == (4, 2)
    assert len(sasimc.Study(SMALL, small.folder).rows) == 4


def test_the_page_in_a_browser(small: sasimc.Study, tmp_path: Path) -> None:
    command = chromium()
    if command is None:
        pytest.skip("no Chromium")
    small.save(tmp_path / "page.html")
    browser = Browser(command)
    try:
        browser.open(tmp_path / "page.html")
        assert not browser.complaints()
        assert browser.requests() == [(tmp_path / "page.html").resolve().as_uri()]
        assert browser.value("document.querySelectorAll('circle.dot').length") == 4
        assert browser.value("document.querySelectorAll('circle.dot[stroke]').length") == len(small.front())
        assert browser.value("document.querySelectorAll('#scatter .star').length") == 1
        assert "paper" in browser.value("$('chosen').textContent")
        press = "e => new KeyboardEvent('keydown', {key: e, bubbles: true, cancelable: true})"
        axis = "document.querySelector('[data-axis=\"machine.array.bit_columns\"]')"
        browser.value(f"{axis}.dispatchEvent(({press})('ArrowDown'))")
        assert browser.value("document.querySelectorAll('#points tbody tr').length") == 2  # the upper end came down by one value
        browser.value(f"{axis}.dispatchEvent(({press})('Delete'))")
        assert browser.value("document.querySelectorAll('#points tbody tr').length") == 4
        before = browser.value("$('chosen').textContent")
        browser.value(f"$('scatter').dispatchEvent(({press})('ArrowRight'))")
        assert browser.value("$('chosen').textContent") != before
        browser.value("goals.clear(); goals.set('area', -1); findFront(); draw()")  # another front
        largest = [r for r in small.rows if r.metrics["area"] == max(float(q.metrics["area"] or 0) for q in small.rows)]
        assert browser.value("document.querySelectorAll('circle.dot[stroke]').length") == len(largest)
    finally:
        browser.close()
