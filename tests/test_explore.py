"""The explorer: what it says of a program is what the estimate and a run say, everything is linked both ways, and the page works in a browser."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from hypothesis import given, settings
from hypothesis import strategies as st

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.costs import cost, price_list
from sasimc.evaluation.cost import Cost
from sasimc.explore.content import Subject, blocks, content
from sasimc.explore.dataflow import dataflow
from sasimc.explore.layering import layered, spread
from sasimc.explore.page import explore_page
from sasimc.explore.stages import Items
from sasimc.explore.work import Work, entry_end, phases_of
from sasimc.frontend.load import load_model
from sasimc.frontend.outline import outline
from sasimc.ir.graph import Graph
from sasimc.ir.text import print_graph
from sasimc.isa.analysis.timing import UNITS
from sasimc.isa.errors import SasError
from sasimc.isa.spec import PHASES
from sasimc.runtime.device import Device
from sasimc.zoo.zoo import default_model_path


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The embedded model, compiled with every step watched."""
    proto, steps = load_model(default_model_path()), list[Any]()
    made = compile_model(proto, CompileOptions(), watch=lambda *step: steps.append(step))
    model = price_list("sas").model(made.program.machine, made.placement.transposable_subarrays)
    return Subject(made.program, "embedded", model, made.batch, made, outline(proto), steps)


@pytest.fixture(scope="module")
def data(subject: Subject) -> dict[str, Any]:
    return json.loads(json.dumps(content(subject)))


def works(subject: Subject) -> dict[str, Work]:
    return {
        e: Work.of(subject.program, e, {"batch": 1 if e == "infer" else subject.batch}, subject.model, 0.5)
        for e in subject.program.entries
    }


def test_every_instruction_is_reached_from_its_nodes_and_back(subject: Subject, data: dict[str, Any]) -> None:
    program, layers, code = subject.program, data["layers"], data["code"]
    nodes = {n.name for n in subject.nodes}
    for i, instr in enumerate(program.code):
        names = [data["names"][n] for n in layers[code["layer"][i]]["names"]]
        assert ",".join(names) == instr.origin.node
        if not names:  # loop control: the block around it has work for a node
            first, last = code["around"][str(i)]
            assert first <= i <= last
            assert any(layers[code["layer"][j]]["names"] for j in range(first, last + 1))
    in_code = {n for i in code["layer"] for n in layers[i]["names"]}
    made = {data["names"][n] for n in in_code}
    assert made - {"output"} <= nodes  # storing the logits is no node of the file
    file = [data["items"][i] for i in data["stages"][0]["items"]]
    assert [item[0] for item in file] == [n.name for n in subject.nodes]
    for label, _, _, names, _ in file:
        assert set(names) & in_code, label
    last = data["stages"][-1]
    for i in last["items"]:
        assert set(data["items"][i][3]) & in_code
    assert last["backward"] > 0
    assert last["saved"]
    assert sorted(i for i in data["at"] if i >= 0) == list(range(len(program.code)))


def test_the_timeline_is_as_long_as_the_estimate(subject: Subject) -> None:
    assert subject.compiled is not None
    for entry, work in works(subject).items():
        said = subject.compiled.infer if entry == "infer" else subject.compiled.train_step
        assert said is not None
        line = work.timeline
        assert line.cycles == said.cycles == line.end[-1]
        assert len(line.kind) == said.issued
        assert line.begin == sorted(line.begin)
        phases = dict.fromkeys(said.phases, 0)
        for phase, begin, end in zip(line.phase, line.begin, line.end, strict=True):
            phases[phase] += end - begin
        assert phases == said.phases
        units: dict[str, list[int]] = {}
        for i, busy in work.units.items():
            total = units.setdefault(subject.program.code[i].origin.node, [0] * len(UNITS))
            units[subject.program.code[i].origin.node] = [a + b for a, b in zip(total, busy, strict=True)]
        assert {n: dict(zip(UNITS, u, strict=True)) for n, u in units.items()} == said.node_units
        cycles: dict[str, float] = {}
        for i, (_, spent) in work.times.items():
            node = subject.program.code[i].origin.node
            cycles[node] = cycles.get(node, 0.0) + spent
        for node, spent in said.node_cycles.items():  # executions begin in whole cycles
            assert cycles[node] == pytest.approx(spent, rel=0.01, abs=work.timeline.cycles * 1e-4)


def test_a_unit_works_on_one_thing_at_a_time(subject: Subject) -> None:
    for work in works(subject).values():
        line, ends = work.timeline, [0] * len(UNITS)
        for number, starts in zip(line.kind, line.units, strict=True):
            busy = [(u, n) for u, n in enumerate(line.kinds[number].busy) if n]
            for (u, n), begin in zip(busy, starts, strict=True):
                if u == UNITS.index("array"):
                    assert begin >= ends[u]
                    ends[u] = begin + n
        assert ends[UNITS.index("array")] <= line.cycles
        groups = subject.program.machine.subarrays // subject.program.machine.group_size
        for kind in line.kinds:
            for group, begin, length in kind.groups:
                assert 0 <= group < groups
                assert begin >= 0
                assert begin + length <= 1 + 1e-9


def test_sums_are_the_totals(subject: Subject, data: dict[str, Any]) -> None:
    for number, (entry, work) in enumerate(works(subject).items()):
        said = data["entries"][number]
        assert said["name"] == entry
        total = math.fsum(work.joules.values())
        assert said["joules"] == pytest.approx(total)
        for part in ("components", "categories"):
            assert math.fsum(said[part].values()) == pytest.approx(total)
        shares = [layer["shares"][number] for layer in data["layers"] if layer["shares"][number]]
        assert sum(s[0] for s in shares) == pytest.approx(said["cycles"], rel=1e-5)
        assert sum(s[1] for s in shares) == pytest.approx(total, rel=1e-5)
        assert sum(c for s in shares for c in s[4]) == pytest.approx(said["cycles"], rel=1e-5)
        assert sum(said["times"][2::4]) == pytest.approx(said["cycles"], rel=1e-5)
        assert sum(said["timeline"]["step"]) <= said["cycles"]
    bounds = [layer["bound"] for layer in data["layers"] if layer["bound"]]
    assert subject.compiled is not None
    from sasimc.backend.bound import bound_cycles

    assert sum(bounds) == pytest.approx(bound_cycles(subject.compiled.graph, subject.program.machine), rel=1e-3)


@pytest.fixture(scope="module")
def spent(subject: Subject) -> Cost:
    """What one image on a simulated device cost."""
    device = Device(subject.program, engine="fused", threads=1)
    shape = device.program.views[json.loads(device.program.meta["io"])["input"]].shape
    device.infer(np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8))
    return cost(device)


def test_a_run_of_one_image_costs_what_the_page_says(subject: Subject, spent: Cost) -> None:
    """The runtime counts what the explorer follows from the code alone."""
    made = content(Subject(**{**subject.__dict__, "measured": spent}))
    infer = made["entries"][0]
    assert infer["cycles"] == spent.run.cycles
    assert infer["joules"] == pytest.approx(spent.energy, rel=1e-6)
    for component, joules in spent.by_component().items():
        assert infer["components"][component] == pytest.approx(joules, rel=1e-6, abs=1e-15)
    assert made["run"]["total"] == pytest.approx(math.fsum(made["run"]["joules"]), rel=1e-9)


def test_a_stage_marks_what_its_pass_changed(subject: Subject, data: dict[str, Any]) -> None:
    """Compared with the graphs as they are printed."""
    graphs = [(name, g) for name, g in subject.steps if isinstance(g, Graph)]
    drawn = data["stages"][1 : 1 + len(graphs)]
    before: dict[str, str] = {}
    for (name, graph), stage in zip(graphs, drawn, strict=True):
        text = dict(
            zip(
                (op.name for op in graph.ops),
                (line for line in print_graph(graph).splitlines() if line.startswith("op ")),
                strict=True,
            )
        )
        text = {op.name: f"{text[op.name]}{graph.type(op.output)}" for op in graph.ops}
        assert stage["name"] == name
        if before:
            assert stage["marks"].count(1) == len(text.keys() - before.keys())
            assert all(data["items"][was][2] != data["items"][stage["items"][int(i)]][2] for i, was in stage["was"].items())
            assert len(stage["was"]) == stage["marks"].count(2)
            assert stage["marks"].count(2) == sum(before[n] != t for n, t in text.items() if n in before)
            assert len(stage["gone"]) == len(before.keys() - text.keys())
        before = text
    assert sum(stage["marks"].count(2) for stage in drawn) > 20


def test_the_dataflow_in_the_code_is_the_graph(subject: Subject) -> None:
    """Edges between nodes that the code of ``infer`` shows are those of the graph that it was compiled from."""
    assert subject.compiled is not None
    graph, items = subject.compiled.graph, Items()
    program = subject.program
    stage = dataflow(program, "infer", entry_end(program, "infer"), phases_of(program), items)
    found = {(items.all[stage.items[a]].nodes, items.all[stage.items[b]].nodes) for a, b in stage.edges}
    expected: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()

    def source(value: str) -> Any:
        op = graph.producer(value)
        while op is not None and op.kind == "reshape":
            op = graph.producer(op.inputs[0])
        return op

    emitted = {items.all[i].nodes for i in stage.items}
    for op in graph.ops:
        for value in op.inputs:
            maker = source(value)
            pair = tuple(tuple(o.origin.split(",")) for o in (maker, op)) if maker is not None else ()
            if len(pair) == 2 and set(pair) <= emitted:
                expected.add((pair[0], pair[1]))
    assert expected <= found
    assert all("output" in b for _, b in found - expected)


@given(
    st.integers(1, 14).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))
    )
)
@settings(max_examples=60, deadline=None)
def test_a_layout_goes_down_and_nothing_overlaps(drawn: tuple[int, set[tuple[int, int]]]) -> None:
    count, pairs = drawn
    edges = sorted((a, b) for a, b in pairs if a < b)
    made = layered(count, edges)
    for (a, b), bends in zip(edges, made.bends, strict=True):
        assert made.layer[a] < made.layer[b]
        assert [layer for _, layer in bends] == list(range(made.layer[a] + 1, made.layer[b]))
    places = sorted(zip(made.layer, made.x, strict=True))
    for (layer, x), (other, y) in pairwise(places):
        assert layer != other or y - x >= 1 - 1e-6


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_places_are_the_nearest_that_keep_apart(wanted: list[float], seed: int) -> None:
    def miss(at: Any) -> float:
        return math.fsum((a - w) ** 2 for a, w in zip(at, wanted, strict=True))

    best = spread(wanted, [1.0] * len(wanted), [1.0] * len(wanted))
    assert all(b - a >= 1 - 1e-9 for a, b in pairwise(best))
    rng = np.random.default_rng(seed)
    for _ in range(20):  # no place nearby that is allowed is better
        moved = np.array(best) + rng.normal(0, 0.3, len(best))
        if np.all(np.diff(moved) >= 1):
            assert miss(moved) >= miss(best) - 1e-9


def test_blocks_are_the_smallest_around(subject: Subject) -> None:
    program = subject.program
    found = blocks(program)
    loops = [i for i, instr in enumerate(program.code) if instr.spec.flow == "loop"]
    assert any(found[i][0] == i for i in loops)
    assert all(not program.code[i].origin.node for i in found)


# ------------------------------------------------------------------------------------------------------------ the command


def test_a_program_without_its_model(subject: Subject, tmp_path: Path) -> None:
    from sasimc.isa.files import save_program

    save_program(subject.program, tmp_path / "p.bin")
    assert invoke(sasc.app, ["explore", str(tmp_path / "p.bin")]) == 0
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, flags=re.S)[0])
    assert [s["name"] for s in data["stages"]] == ["dataflow of infer", "dataflow of train_step"]
    assert not any(layer["bound"] for layer in data["layers"])


@pytest.mark.parametrize(
    ("name", "content_", "says"),
    [
        ("x.txt", b"hello\n", "neither an ONNX file nor a program"),
        ("x.json", b"{}", "neither an ONNX file nor a program"),
        ("x.s", b"nothing here\n", "neither an ONNX file nor a program"),
        ("x.onnx", b"", "empty"),
        ("x.onnx", b"\x00\x01\x02", "not an ONNX model"),
        ("x.png", b"\x89PNG\r\n\x1a\n\x00\x00", "not an ONNX model"),
    ],
)
def test_what_is_neither_is_refused(
    tmp_path: Path, name: str, content_: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content_)
    assert invoke(sasc.app, ["explore", str(tmp_path / name), "-o", str(tmp_path / "out.html")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_nothing_is_overwritten_and_options_have_a_meaning(
    subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sasimc.isa.files import save_program

    save_program(subject.program, tmp_path / "p.bin")
    assert invoke(sasc.app, ["explore", str(tmp_path / "p.bin"), "-o", str(tmp_path / "p.bin")]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert invoke(sasc.app, ["explore", str(tmp_path / "p.bin"), "--batch", "4"]) == 2
    assert "--batch has no meaning" in capsys.readouterr().err
    assert invoke(sasc.app, ["explore", str(tmp_path / "missing.onnx")]) == 2
    assert "missing.onnx" in capsys.readouterr().err


def test_a_run_of_another_program_is_refused(subject: Subject, spent: Cost) -> None:
    rows = tuple(row.__class__(**{**row.__dict__, "node": f"other.{row.node}"}) for row in spent.run.rows)
    other = spent.model.cost(spent.run.__class__(spent.run.machine, rows, spent.run.cycles, 1, spent.run.report))
    with pytest.raises(SasError, match="another program"):
        content(Subject(**{**subject.__dict__, "measured": other}))


# ---------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def page(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explore") / "explore.html"
    path.write_text(explore_page(subject), encoding="utf-8")
    return path


def quiet(browser: Browser) -> None:
    assert browser.complaints() == []
    assert [u for u in browser.requests() if not u.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (900, False), (390, False), (320, True)])
def test_it_opens_quietly_and_fits(browser: Browser, page: Path, width: int, dark: bool) -> None:
    assert page.stat().st_size < 5_000_000
    browser.open(page, width=width, dark=dark)
    assert browser.busy() < 2
    quiet(browser)
    assert len([u for u in browser.requests() if u.startswith("file:")]) == 1
    tabs = browser.value("[...document.querySelectorAll('.tabs button')].map(b => b.dataset.tab)")
    for tab in tabs if width < 700 else tabs[:1]:
        browser.value(f"document.querySelector('.tabs [data-tab={tab}]').click()")
        assert browser.value("document.documentElement.scrollWidth") <= width
        wide = browser.value(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .canvas, .list, #found, svg, .vh') && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.tagName + '.' + e.className)"
        )
        assert wide == []
        assert browser.value(f"getComputedStyle(document.querySelector('.{tab}')).display") != "none"


LIT = """({nodes: document.querySelectorAll('.node.lit').length, lines: document.querySelectorAll('.line.lit').length,
subs: document.querySelectorAll('.s.lit').length, rows: [...document.querySelectorAll('#layers tr.lit')].map(r => +r.cells[0].textContent - 1), hash: location.hash})"""


def test_a_choice_lights_up_in_every_pane(browser: Browser, page: Path, subject: Subject, data: dict[str, Any]) -> None:
    browser.open(page, width=1400)
    layer = next(i for i, x in enumerate(data["layers"]) if data["names"][x["names"][0]] == "features.1.conv.1")
    browser.value(f"document.querySelectorAll('#layers tbody tr')[{layer}].click()")
    by_layer = browser.value(LIT)
    assert by_layer["rows"] == [layer]
    assert by_layer["nodes"] >= 1
    assert by_layer["lines"] >= 1
    mats = {m for i, m in enumerate(data["code"]["matrix"]) if data["code"]["layer"][i] == layer and m >= 0}
    assert by_layer["subs"] == len({t for m in mats for t in data["matrices"][m][7][::8]})
    browser.value("document.querySelector('.node.lit').click()")
    assert browser.value(LIT)["rows"] == [layer]
    browser.value("document.querySelector('.line.lit').click()")
    by_line = browser.value(LIT)
    assert by_line["rows"] == [layer]
    assert by_line["nodes"] >= 1
    browser.value("document.querySelector('.s.lit').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert layer in browser.value(LIT)["rows"]
    assert browser.value("document.querySelector('#detail').textContent").startswith("Sub-array")
    # a moment: the middle of the timeline
    box = browser.value(
        "(() => { const c = document.querySelector('#time canvas'); c.scrollIntoView(); const b = c.getBoundingClientRect(); return [b.left, b.top, b.width]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=box[0] + box[2] / 2, y=box[1] + 60, button="left", clickCount=1)
    at = browser.value(LIT)
    assert "sel=time." in at["hash"]
    assert at["rows"]
    assert at["lines"] >= 1
    quiet(browser)


def test_links_keys_search_and_steps(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page, width=1400)

    def key(name: str) -> None:
        browser.value(
            f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(name)}, bubbles: true}}))"
        )

    key("r")
    assert "run=train_step" in browser.value("location.hash")
    heats = set()
    for n in ("1", "2", "3", "4"):
        key(n)
        heats.add(browser.value("[...document.querySelectorAll('.node')].map(n => n.style.background).join()"))
    assert len(heats) == 4
    for _ in range(len(data["stages"])):
        key("[")
        assert browser.value("document.querySelectorAll('.node').length") == len(
            data["stages"][browser.value("+document.querySelector('#stage').value")]["items"]
        )
    assert browser.value("document.querySelector('#stage-name').textContent").startswith("ONNX file")
    key("/")
    assert browser.value("document.activeElement.id") == "search"
    browser.value(
        "(() => { const s = document.querySelector('#search'); s.value = 'rep.2.conv1'; s.dispatchEvent(new Event('input')); })()"
    )
    assert browser.value("document.querySelectorAll('#found li').length") > 3
    key("Enter")
    said = browser.value(LIT)
    assert said["nodes"] >= 1
    assert said["subs"] >= 1
    # the address alone gives the same again
    other = page.with_name("again.html")
    other.write_bytes(page.read_bytes())
    browser.call("Page.navigate", url=other.resolve().as_uri() + said["hash"])
    browser.events.clear()
    browser.wait(lambda e: e.get("method") == "Page.loadEventFired")
    assert browser.value(LIT) == said
    key("Escape")
    assert browser.value("document.querySelectorAll('.lit').length") == 0
    quiet(browser)


def test_it_prints(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True, media="print")
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 2 <= pages <= 8
    assert browser.value("getComputedStyle(document.querySelector('.code')).display") == "none"
    quiet(browser)


def test_names_of_the_model_cannot_become_code(subject: Subject, data: dict[str, Any]) -> None:
    from sasimc.explore.page import filled

    evil = "</script><img src=x onerror=alert(1)>"
    text = filled({**data, "title": evil, "names": [evil for _ in data["names"]]})
    assert "<img" not in text
    assert PHASES[0] in text
