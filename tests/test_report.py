"""The report page: complete, right, self-contained, and readable in a browser (headless Chromium where it is installed)."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from hypothesis import given
from hypothesis import strategies as st

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.costs import cost_of_report
from sasimc.evaluation.cost import Cost
from sasimc.evaluation.report.charts import ticks
from sasimc.evaluation.report.content import energy_tables, interval, tables
from sasimc.evaluation.report.house import COMPONENTS, house_style
from sasimc.evaluation.report.page import page
from sasimc.evaluation.report.tables import Table, count, percent, shown, si, tick
from sasimc.evaluation.report.views import views

VOID = {"meta", "link", "input", "br", "wbr", "img"}


class Reader(HTMLParser):
    """Elements, ids, attributes and texts of a page; complains about tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if "id" in found and found["id"] is not None:
            self.ids.append(found["id"])
        self.scripts += tag == "script"
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run of the embedded model with its report and its timeline."""
    out = tmp_path_factory.mktemp("run")
    args = ["--train", "drawn-flowers", "--limit", "4", "--epochs", "2", "--engine", "fused", "--threads", "1"]
    assert invoke(sasrun.app, [*args, "--json", str(out / "run.json"), "--trace", str(out / "run.trace.json.gz")]) == 0
    return out


@pytest.fixture(scope="module")
def cost(folder: Path) -> Cost:
    return cost_of_report(folder / "run.json")


@pytest.fixture(scope="module")
def made(cost: Cost) -> dict[str, Table]:
    return tables(cost)


@pytest.fixture(scope="module")
def html(cost: Cost, made: dict[str, Table]) -> str:
    return page(cost, made)


def page_of(path: Path) -> str:
    cost = cost_of_report(path)
    return page(cost, tables(cost))


def test_the_page_is_one_small_well_formed_file(html: str) -> None:
    read = Reader(html)
    assert read.wrong == []
    assert read.stack == []
    assert len(read.ids) == len(set(read.ids))
    for tag, found in read.elements:
        assert tag not in ("iframe", "object", "embed", "img")
        assert "src" not in found
        assert not any(name.startswith("on") for name in found), (tag, found)
        href = found.get("href")
        assert href is None or href == "data:," or (href.startswith("#") and href[1:] in read.ids)
    assert not re.search(r"https?://|@import|url\(", html)
    assert len(html.encode()) < 3_000_000


def test_every_section_of_a_training_run_is_there(html: str) -> None:
    for section in ("layers", "energy", "floor-plan", "buffer", "accuracy", "training", "area", "assumptions", "provenance"):
        assert f'<section id="{section}">' in html
    for words in (
        "Energy an image",
        "capacity 401 kB",
        "Interpretations of table IV",
        "features.1.conv.1",
        "validation",
        "what a printed energy is for",
    ):
        assert words in html


def test_names_of_the_model_cannot_become_code(folder: Path, tmp_path: Path, html: str) -> None:
    report = json.loads((folder / "run.json").read_text())
    evil = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
    report["program"] = evil
    report["dataset"] = evil
    for row in report["profile"]:
        if row["node"].startswith("features.1."):
            row["node"] = evil
    for m in report["layout"]["matrices"]:
        m["nodes"] = [evil if n.startswith("features.1.") else n for n in m["nodes"]]
        m["name"] = evil if m["name"].startswith("features.1.") else m["name"]
    for use in report["buffer_use"].values():
        for p in use["points"]:
            p["node"] = evil if p["node"].startswith("features.1.") else p["node"]
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(report))
    read = Reader(page_of(path))
    assert read.wrong == []
    assert read.scripts == Reader(html).scripts
    assert not any(tag == "img" for tag, _ in read.elements)


def numbers(table: Table, column: str) -> list[float]:
    return [float(v) for v in table.column(column) if isinstance(v, (int, float))]


def test_tables_add_up(cost: Cost, made: dict[str, Table]) -> None:
    total = cost.energy
    for table, column in (("layers", "energy"), ("components", "energy"), ("phases", "energy"), ("instructions", "energy")):
        assert math.fsum(numbers(made[table], column)) == pytest.approx(total, rel=1e-9)
    assert math.fsum(numbers(made["layers"], "time")) == pytest.approx(cost.run.seconds, rel=1e-9)
    for table in ("units", "instructions"):
        assert math.fsum(numbers(made[table], "time")) == pytest.approx(cost.run.seconds, rel=1e-9)
    assert math.fsum(numbers(made["layers"], "share of time")) == pytest.approx(1)
    assert math.fsum(numbers(made["phases"], "time")) == pytest.approx(cost.run.seconds, rel=1e-9)
    assert math.fsum(numbers(made["area"], "area")) == pytest.approx(cost.model.area.total)
    parts = made["layer_components"]
    for row, energy in zip(parts.rows, numbers(made["layers"], "energy"), strict=True):
        assert math.fsum(float(v or 0) for v in row[1:]) == pytest.approx(energy, rel=1e-9)
    by_phase = [c for c in made["layers"].columns if c.name.startswith("energy, ")]
    assert math.fsum(v for c in by_phase for v in numbers(made["layers"], c.name)) == pytest.approx(total, rel=1e-9)
    held = {t[0] for m in cost.run.report["layout"]["matrices"] for t in m["tiles"]}
    assert len(made["floor_plan"].rows) == len(held)


def test_the_floor_plan_draws_every_sub_array_in_its_bank(cost: Cost, html: str) -> None:
    drawn = re.findall(r'class="s" data-i="(\d+)" x="([\d.]+)" y="([\d.]+)"', html)
    subarrays = cost.run.report["layout"]["subarrays"]
    assert len(drawn) == len(subarrays)
    assert html.count('class="bank"') == 16 * 16
    for i, x, y in drawn:
        s = subarrays[int(i)]
        assert (float(x) // 24, float(y) // 24) == (s["bank"][1], s["bank"][0])
        assert ((float(x) % 24) // 10, (float(y) % 24) // 10) == (s["mat"][1], s["mat"][0])


def test_csv_holds_every_table_at_full_precision(folder: Path, tmp_path: Path, made: dict[str, Table]) -> None:
    args = ["report", str(folder / "run.json"), "-o", str(tmp_path / "r.html"), "--csv", str(tmp_path / "tables")]
    assert invoke(sasc.app, args) == 0
    assert {p.stem for p in (tmp_path / "tables").iterdir()} == set(made)
    for key, table in made.items():
        with (tmp_path / "tables" / f"{key}.csv").open(newline="") as f:
            rows = list(csv.reader(f))
        assert rows[0] == [c.heading for c in table.columns]
        assert len(rows) == len(table.rows) + 1
        for got, expected in zip(rows[1:], table.rows, strict=True):
            for cell, value in zip(got, expected, strict=True):
                assert (
                    cell == "" if value is None else (float(cell) == value if isinstance(value, (int, float)) else cell == value)
                )


def test_technology_and_interpretation_change_the_report_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    def energy(*args: str) -> dict[str, str]:
        out = tmp_path / "t"
        assert (
            invoke(sasc.app, ["report", str(folder / "run.json"), "-o", str(tmp_path / "r.html"), "--csv", str(out), *args]) == 0
        )
        with (out / "components.csv").open(newline="") as f:
            return {row[0]: row[1] for row in csv.reader(f)}

    sas, stt, cycle = energy(), energy("--technology", "stt"), energy("--interpretation", "cycle")
    assert float(stt["cells, writing"]) == pytest.approx(3.36 * float(sas["cells, writing"]))
    assert stt["shift adders"] == sas["shift adders"]
    assert float(cycle["shift adders"]) > 10 * float(sas["shift adders"])
    assert cycle["cells, sensing"] == sas["cells, sensing"]


def test_a_run_without_training_has_no_such_section(folder: Path, tmp_path: Path) -> None:
    report = json.loads((folder / "run.json").read_text())
    for key in ("epochs", "best_epoch", "buffer_use", "wear"):
        report.pop(key, None)
    report |= {"top1": None, "images": 0}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(report))
    text = page_of(path)
    assert Reader(text).wrong == []
    assert '<section id="training">' not in text
    assert '<section id="buffer">' not in text
    assert "Energy an image" not in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"profile": [], "machine_description": {}, "schema": 1}', "nan"])
def test_what_is_no_run_is_refused(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert invoke(sasc.app, ["report", str(path)]) == 2
    assert "x.json" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_the_run_is_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run.json"
    before = run.read_bytes()
    assert invoke(sasc.app, ["report", str(run), "-o", str(run)]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert run.read_bytes() == before
    assert invoke(sasc.app, ["report", str(run), "-o", str(folder / "no" / "x.html")]) == 2


def test_the_timeline_of_the_command_has_the_energy_of_the_report(folder: Path, cost: Cost) -> None:
    import gzip

    trace = json.loads(gzip.decompress((folder / "run.trace.json.gz").read_bytes()))
    assert trace["otherData"]["truncated"] is False
    assert trace["otherData"]["cycles"] == cost.run.cycles
    joules = [e["args"]["J"] for e in trace["traceEvents"] if e["ph"] == "C" and e["name"] == "energy so far"]
    assert joules == sorted(joules)
    assert joules[-1] == pytest.approx(cost.energy, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9999, "9999"),
        (12345, "12.3 k"),
        (999_960, "1.00 M"),
        (1.5, "1.50"),
        (148131650, "148 M"),
        (2e15, "2.00 P"),
        (0.25, "0.250"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert count(value) == text


def test_figures_for_readers() -> None:
    assert si(1.234e-6, "J") == "1.23 µJ"
    assert si(1e-12 * 0.0131, "m^2") == "0.0131 µm²"
    assert [percent(p) for p in (0, 1, 0.5, 0.00123, 1e-7)] == ["0 %", "100 %", "50.0 %", "0.123 %", "< 0.01 %"]
    assert [tick(v, "J") for v in (0, 0.5, 0.02, 1.5e-3)] == ["0", "500 mJ", "20 mJ", "1.5 mJ"]
    assert [shown(v, "J") for v in (None, "2.5 um^2", 1e-3)] == ["–", "2.5 µm²", "1.00 mJ"]


@given(st.floats(1e-18, 1e18))
def test_axes_have_few_round_marks_that_reach_the_top(top: float) -> None:
    marks = ticks(top)
    assert marks[0] == 0
    assert top * (1 - 1e-6) <= marks[-1] <= 2.1 * top
    assert 3 <= len(marks) <= 7
    step = marks[1]
    assert f"{step:.6e}"[0] in "125"


def test_inference_and_training_add_up_to_the_run(cost: Cost, made: dict[str, Table]) -> None:
    assert made["entries"].column("entry point") == ["infer", "train_step"]
    assert sum(numbers(made["entries"], "images")) == cost.run.images
    assert math.fsum(numbers(made["entries"], "energy")) == pytest.approx(cost.energy, rel=1e-9)
    assert math.fsum(numbers(made["entries"], "time")) == pytest.approx(cost.run.seconds, rel=1e-6)
    chip = cost.figures["energy_on_chip"].value
    assert math.fsum(numbers(made["entries"], "energy on the chip")) == pytest.approx(chip, rel=1e-9)
    for view in views(cost):
        whole = view.cost.energy
        assert math.fsum(numbers(energy_tables(view.cost)["components"], "energy")) == pytest.approx(whole, rel=1e-9)
        assert math.fsum(numbers(energy_tables(view.cost)["layers"], "energy")) == pytest.approx(whole, rel=1e-9)
        assert ("host interface" in energy_tables(view.cost)["components"].column("component")) != view.chip
    inference = next(v.cost for v in views(cost) if v.label == "Inference")
    assert {row.phase for row in inference.run.rows} == {"forward"}


def test_accuracy_by_class_and_confusions(folder: Path, made: dict[str, Table]) -> None:
    report = json.loads((folder / "run.json").read_text())
    counts = {(a, b): n for a, b, n in report["confusion"]}
    assert sum(counts.values()) == report["evaluated"]
    assert 100 * sum(n for (a, b), n in counts.items() if a == b) / report["evaluated"] == pytest.approx(report["top1"])
    assert len(report["classes"]) == 10
    assert sum(numbers(made["classes"], "images")) == report["evaluated"]
    if "confusions" in made:
        assert sum(numbers(made["confusions"], "images")) == sum(n for (a, b), n in counts.items() if a != b)


@pytest.mark.parametrize(("right", "count", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (5, 5, 0.5655, 1.0)])
def test_the_interval_of_an_accuracy(right: int, count: int, low: float, high: float) -> None:
    """Wilson's interval as tables of it print it."""
    assert interval(right, count) == pytest.approx((low, high), abs=5e-5)


def test_provenance_is_in_the_json_and_on_the_page(folder: Path, html: str, made: dict[str, Table]) -> None:
    import sasimc

    said = json.loads((folder / "run.json").read_text())["provenance"]
    assert said["version"] == sasimc.__version__
    assert said["command"].startswith("sasrun --train drawn-flowers --limit 4")
    assert re.fullmatch(r"[0-9a-f]{64}", said["sha256"]["model"])
    rows = {str(k): v for k, v in made["provenance"].rows}
    assert {"sas-imc", "command", "date", "recipe", "seed", "data set", "program, SHA-256", "model, SHA-256"} <= rows.keys()
    assert said["sha256"]["model"] in html


# --------------------------------------------------------------------------------------------------------------- colours


def colours(dark: bool) -> dict[str, tuple[int, ...]]:
    """Colours of the house style by their CSS name."""
    style = house_style()
    block = style.split("prefers-color-scheme: dark")[1] if dark else style.split("@media")[0]
    found = re.findall(r"--([kp]-\w+): #(\w{6})", block.split("@media print")[0])
    return {name: tuple(int(code[i : i + 2], 16) for i in (0, 2, 4)) for name, code in found}


def seen(colour: tuple[int, ...], matrix: Any) -> Any:
    """CIE L*a*b* of a colour after a matrix on its linear parts (the identity, or a simulated colour deficiency)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    r, g, b = np.clip(np.array(matrix) @ linear, 0, 1)
    xyz = np.array(
        [0.4124 * r + 0.3576 * g + 0.1805 * b, 0.2126 * r + 0.7152 * g + 0.0722 * b, 0.0193 * r + 0.1192 * g + 0.9505 * b]
    )
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / np.array([0.9505, 1.0, 1.089])]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


EYES = {
    "usual": np.eye(3).tolist(),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
"""Machado, Oliveira and Fernandes 2009, severity 1."""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("eyes", EYES)
def test_neighbours_in_a_bar_differ_for_every_reader(dark: bool, eyes: str) -> None:
    found = colours(dark)
    components = [f"k-{name}" for name in COMPONENTS]
    assert components == [name for name in found if name.startswith("k-") and name != "k-other"]
    phases = [name for name in found if name.startswith("p-")]
    assert not {found[c] for c in components} & {found[p] for p in phases}
    for order in (components, phases):
        for a, b in pairwise(order):
            assert np.linalg.norm(seen(found[a], EYES[eyes]) - seen(found[b], EYES[eyes])) > 10, (a, b)


def test_a_component_has_one_colour_whatever_its_rank(folder: Path) -> None:
    def of(*args: str) -> dict[str, str]:
        text = page_of_with(folder / "run.json", *args)
        return dict(re.findall(r'fill="(var\(--k-\w+\))"><title>([^:<]+):', text))

    first, other = of(), of("cycle")
    both = {c: (name, other[c]) for c, name in first.items() if c in other}  # parts too small to be seen are not drawn
    assert all(name == again for name, again in both.values())
    assert len(both) > 6
    assert len(set(first)) == len(first)


def page_of_with(path: Path, interpretation: str | None = None) -> str:
    cost = cost_of_report(path, None, interpretation)
    return page(cost, tables(cost))


# ---------------------------------------------------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Path:
    run = str(folder / "run.json")
    assert invoke(sasc.app, ["diff", run, run, "--technology-b", "stt", "--html", str(folder / "diff.html")]) == 0
    return folder / "diff.html"


def test_two_runs_side_by_side(comparison: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = comparison.read_text(encoding="utf-8")
    read = Reader(text)
    assert read.wrong == []
    assert len(read.ids) == len(set(read.ids))
    assert "technology.<wbr>" in text or "technology." in text
    totals = text.split('<section id="totals">')[1].split("</section>")[0]
    assert "images per s" not in totals  # the simulator's speed is no figure of the device
    assert "images per s" in text.split('<section id="host">')[1]
    assert "+236 %" in text  # cells, writing: the ratio of both technologies' write energies
    run = folder / "run.json"
    assert invoke(sasc.app, ["diff", str(run), str(run), "--html", str(run)]) == 2
    assert "overwrite" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def file(folder: Path, html: str) -> Path:
    path = folder / "run.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (768, False), (375, False), (320, True)])
def test_it_opens_quietly_and_fits(browser: Browser, file: Path, width: int, dark: bool) -> None:
    browser.open(file, width=width, dark=dark)
    assert browser.busy() < 2
    assert browser.complaints() == []
    assert [u for u in browser.requests() if not u.startswith(("file:", "data:"))] == []
    assert len([u for u in browser.requests() if u.startswith("file:")]) == 1
    assert browser.value("document.documentElement.scrollWidth") <= width
    wide = browser.value(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, nav, svg') && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.tagName + '.' + e.className)"
    )
    assert wide == []


def luminance(colour: str) -> float:
    red, green, blue = (int(v) / 255 for v in re.findall(r"\d+", colour)[:3])
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_background(browser: Browser, file: Path, dark: bool) -> None:
    browser.open(file, dark=dark)
    back = luminance(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert (back < 0.1) == dark
    for selector in ("h1", ".facts dt", ".card p", "thead th", "td.dim", ".note", ".legend", "nav a", "footer", ".y"):
        fore = luminance(browser.value(f"getComputedStyle(document.querySelector('{selector}')).color"))
        low, high = sorted((fore, back))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector  # WCAG 2, AA


def test_it_prints(browser: Browser, file: Path) -> None:
    browser.open(file, dark=True, media="print")
    assert luminance(browser.value("getComputedStyle(document.body).color")) < 0.05
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.value("getComputedStyle(document.querySelector('tr.more')).display") == "table-row"
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert browser.complaints() == []


def test_switches_sorting_and_details(browser: Browser, file: Path, cost: Cost, made: dict[str, Table]) -> None:
    browser.open(file)
    layers = "[...document.querySelectorAll('#layers-table tbody tr')].filter(r => getComputedStyle(r).display !== 'none')"
    assert browser.value(f"{layers}.length") == 15
    browser.value("document.querySelector('button.all').click()")
    assert browser.value(f"{layers}.length") == len(made["layers"].rows)
    browser.value("document.querySelectorAll('#layers-table thead th')[5].click()")
    times = browser.value(f"{layers}.map(r => +r.cells[5].dataset.v)")
    assert times == sorted(times, reverse=True)
    browser.value("document.querySelectorAll('#layers-table thead th')[5].click()")
    times = browser.value(f"{layers}.map(r => +r.cells[5].dataset.v)")
    assert times == sorted(times)
    fills = {}
    for view in ("layer", "activity", "writes", "filled"):
        browser.value(f"document.querySelector('input[value={view}]').click()")
        fills[view] = browser.value("[...document.querySelectorAll('.s')].map(s => getComputedStyle(s).fill).join()")
    assert len(set(fills.values())) == 4
    browser.value("document.querySelectorAll('.s')[3].dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))")
    said = browser.value("document.querySelector('.panel').textContent")
    assert said.startswith(f"Sub-array {cost.run.report['layout']['subarrays'][3]['index']}")
    browser.value("document.querySelector('.chip').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    assert browser.value("document.querySelector('.panel').textContent") != said
    browser.value("var s = document.getElementById('fp-layer'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    assert 0 < browser.value("document.querySelectorAll('.s.on').length") < len(cost.run.report["layout"]["subarrays"])
    assert browser.complaints() == []


def test_views_of_a_run_and_links_from_the_floor_plan(browser: Browser, file: Path) -> None:
    browser.open(file)
    shown_view = "[...document.querySelectorAll('#layers .view')].filter(v => getComputedStyle(v).display !== 'none').map(v => v.className)"
    assert browser.value(shown_view) == ["view view-0"]
    browser.value("document.querySelector('#part-1').click()")
    browser.value("document.querySelector('#energy-chip').click()")
    assert browser.value(shown_view) == ["view view-1c"]
    energies = "[...document.querySelectorAll('#energy .view')].find(v => v.offsetParent).querySelector('table').textContent"
    assert "adder tree" in browser.value(energies)
    assert "host interface" not in browser.value(energies)
    browser.value("document.querySelectorAll('.s')[3].dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))")
    name = browser.value("document.querySelector('.panel a').textContent")
    browser.value("document.querySelector('.panel a').click()")
    assert browser.value("document.querySelector('tr.found').dataset.layer") == name
    assert browser.value("document.querySelector('tr.found').closest('.view').className") == "view view-1c"
    browser.value("document.querySelector('.card summary').click()")  # formulas open by touch
    assert browser.value("document.querySelector('.card[open] p').textContent.length") > 10
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
def test_a_comparison_opens_quietly_and_fits(browser: Browser, comparison: Path, width: int, dark: bool) -> None:
    browser.open(comparison, width=width, dark=dark)
    assert browser.complaints() == []
    assert [u for u in browser.requests() if not u.startswith(("file:", "data:"))] == []
    assert browser.value("document.documentElement.scrollWidth") <= width


def test_it_reads_without_scripts(browser: Browser, file: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(file)
        assert browser.complaints() == []
        hidden = browser.call("DOM.getDocument", depth=0)
        assert hidden["root"]["nodeName"] == "#document"
        rows = browser.call("DOM.querySelectorAll", nodeId=hidden["root"]["nodeId"], selector="#layers-table tr.more")
        assert rows["nodeIds"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_checks_see_what_they_look_for(browser: Browser, tmp_path: Path) -> None:
    bad: Any = tmp_path / "bad.html"
    bad.write_text('<!doctype html><meta name=viewport content="width=device-width"><main><p style="width:900px">x</p></main>'
                   "<img src='http://example.invalid/x.png'><script>console.error('no'); missing()</script>")  # fmt: skip
    browser.open(bad, width=375)
    assert browser.value("document.documentElement.scrollWidth") > 375
    assert len(browser.complaints()) >= 2
    assert any("example.invalid" in u for u in browser.requests())
    assert Reader("<p><b></p>").wrong
