"""The cost model: linear in events, additive over nodes and components, scaled by rule, and as its files say."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import mobilenet_like

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.evaluation.area import area
from sasimc.evaluation.charges import ACTIVATIONS, PRINTED
from sasimc.evaluation.circuit.circuit import Circuit, load_circuit
from sasimc.evaluation.cost import PHASE_NAMES, Cost, CostModel
from sasimc.evaluation.diff import compare
from sasimc.evaluation.fields import at_end, numbers, with_number
from sasimc.evaluation.plausibility import beside
from sasimc.evaluation.quantity import Quantity, format_si
from sasimc.evaluation.ranges import assigned, curve, tornado
from sasimc.evaluation.remarks import remarks
from sasimc.evaluation.run import Row, Run, load_run, read_run
from sasimc.evaluation.run_figures import figures, one_bit_operations
from sasimc.evaluation.technologies.load import load_technology
from sasimc.evaluation.text import cost_lines, cost_tables
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine, load_machine
from sasimc.isa.spec import EVENTS
from sasimc.profiling.profile import Meter, profile
from sasimc.runtime.device import Device

READINGS = tuple(load_circuit().interpretations)
MODEL = CostModel.make(load_machine())


def circuit_data() -> dict[str, Any]:
    return tomllib.loads(resources.files("sasimc.evaluation.circuit").joinpath("table4.toml").read_text())


def machine_of(**changes: Any) -> Machine:
    data = load_machine().model_dump()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        data[section] |= {name: value}
    return Machine.model_validate(data)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A run report with an inference, two training steps and one epoch."""
    device = Device(compile_model(mobilenet_like(), CompileOptions(batch=2)).program, "fused", 1)
    meter = Meter(device.interpreter)
    images = np.random.default_rng(0).integers(0, 256, (2, *device.input_shape)).astype(np.uint8)
    device.infer(images)
    for _ in range(2):
        device.train_step(images, np.array([0, 1]))
    it = device.interpreter
    made = {"program": "p", "cycles": it.cycles, "images": 6, "epochs": [{"epoch": 0, **meter.lap()}]}
    return json.loads(json.dumps({**made, **profile(it)}))


@pytest.fixture(scope="module")
def run(report: dict[str, Any]) -> Run:
    return read_run(report)


def cost_of(run: Run, technology: str = "sas", interpretation: str | None = None) -> Cost:
    return CostModel.make(run.machine, technology, interpretation, transposable=run.transposable).cost(run)


@pytest.mark.parametrize("interpretation", READINGS)
@pytest.mark.parametrize("technology", ["sas", "sram"])
def test_every_split_has_the_same_sum(run: Run, technology: str, interpretation: str) -> None:
    cost = cost_of(run, technology, interpretation)
    assert cost.energy > 0
    splits = (cost.by_node(), cost.by_component(), cost.by_phase(), cost.by_instruction())
    assert set(splits[2]) == set(PHASE_NAMES)
    for split in splits:
        assert math.fsum(split.values()) == pytest.approx(cost.energy, rel=1e-9)
    nested = [v for parts in cost.node_components().values() for v in parts.values()]
    assert math.fsum(nested) == pytest.approx(cost.energy, rel=1e-9)
    epochs = cost.by_epoch()
    assert len(epochs) == 1
    assert epochs[0] == pytest.approx(cost.by_phase(), rel=1e-9)


def test_energy_by_hand(run: Run) -> None:
    """Each component of the run once more, from the printed numbers and the run's event totals."""
    cost, e = cost_of(run, interpretation="row"), dict.fromkeys(EVENTS, 0)
    for row in run.rows:
        for event, n in row.events.items():
            e[event] += n
    machine = run.machine
    rows_written = e["rows_written_compute"] + e["rows_written_transposable"]
    driven = sum(e[a] for a in ACTIVATIONS) + rows_written * machine.write.cycles_per_row / 8 + e["array_bits_read"] / 512 / 8
    bits = e["buffer_bits_read"] + e["buffer_bits_written"]
    expected = {
        "shift_adder": 334.17e-12 / 8 / 64 * e["shift_adds"],
        "column_decoder": 7.9e-12 * driven,
        "row_decoder": 3.4e-12 * driven,
        "adder_tree": 814.9e-12 / 8 / 128 * e["adder_tree_ops"],
        "buffer": 0.002e-12 * bits,
        "relu": 0.6e-12 / 64 * e["relu_ops"],
        "cell_write": 0.048e-12 * (e["bits_written_compute"] + e["bits_written_transposable"]),
        "accumulators": 32 * 0.01e-12 * (e["accumulator_reads"] + e["accumulator_writes"]),
        "host": 5e-12 * (e["host_bits_in"] + e["host_bits_out"]),
        "host_standby": 1e-3 * run.seconds,
        "controller": 10e-12 * e["instructions"],
        "memory_array": 2.27e-15 * (e["sense_ones"] + e["array_bits_read"]),
        "sense_amplifier": 6.4e-15 * (e["sense_ones"] + e["array_bits_read"]),
        "write_driver": 15e-15 * (e["bits_written_compute"] + e["bits_written_transposable"]),
        # 22 bits: 8 x 8 bits summed over 64 rows; the chip is a square
        "interconnect": 1e-10
        * math.sqrt(cost.model.area.total)
        * (bits + e["array_bits_read"] + 22 * 0.081 * e["adder_tree_ops"]),
    }
    found = cost.by_component()
    for component, joules in expected.items():
        assert found[component] == pytest.approx(joules, rel=1e-9), component
    assert set(found) == {*expected, "periphery", "leakage"}
    power = math.fsum(f.value for f in cost.model.leakage) - 1e-3
    assert found["leakage"] == pytest.approx(power * run.cycles / machine.clock_hz, rel=1e-9)


def test_write_and_host_energies_leave_their_phase(run: Run) -> None:
    cost = cost_of(run)
    phases, components = cost.by_phase(), cost.by_component()
    assert phases["host"] == pytest.approx(components["host"] + components["host_standby"], rel=1e-12)
    assert components["host"] > components["host_standby"] > 0
    assert phases["leakage"] == components["leakage"] > 0
    assert phases["write"] > components["cell_write"] > 0


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(EVENTS)), st.integers(0, 10**12)), st.integers(0, 10**9), st.integers(2, 9))
def test_energy_is_linear(events: dict[str, int], cycles: int, factor: int) -> None:
    once = sum(t.joules for t in MODEL.terms([Row("forward", cycles=cycles, events=events)]))
    many = {e: n * factor for e, n in events.items()}
    more = sum(t.joules for t in MODEL.terms([Row("forward", cycles=cycles * factor, events=many)]))
    assert more == pytest.approx(factor * once, rel=1e-9, abs=0)
    assert MODEL.energy(events, cycles) == pytest.approx(once, rel=1e-9, abs=0)


def test_every_event_is_priced_or_free_on_purpose() -> None:
    """Flips are written bits that changed, and every written bit is paid; saturations are elements of shifts, which are paid; all other events cost something."""
    assert set(EVENTS) - {c.event for c in MODEL.charges} == {"bits_flipped_compute", "bits_flipped_transposable", "saturated"}


def test_interpretations_beside_the_headline() -> None:
    """Peak efficiency of every interpretation, by hand from table IV, and 131 TOPS/W lies between the extremes."""
    machine = load_machine()
    array, tree, buffer, relu = 7.9 + 3.4 + 334.17, 814.9, 0.002, 0.6
    by_hand = {"cycle": 32 * array + tree, "cycle-all": array + tree, "row": 32 * array / 8 + tree / 8, "row-all": array / 8 + tree / 8,
               "scan": (32 * array + tree) / 64, "pass": (32 * array + tree) / 512, "pass-row": 32 * array / 512 + tree / 8, "operation": (array + tree) / 512}  # fmt: skip
    values = {}
    for name, interpretation in load_circuit().interpretations.items():
        peak = CostModel.make(machine, interpretation=name).peak()
        picojoules = by_hand[name] + buffer * (32 + 8 * 4) + 4 * relu / interpretation.relu_elements
        assert peak.printed_power == pytest.approx(picojoules * 1e-12 * 200e6, rel=1e-9)
        assert peak.operations == 3276.8e9
        values[name] = peak.tops_per_watt()
        assert values[name] == pytest.approx(3276.8e9 / peak.printed_power * 1e-12)
        assert peak.tops_per_watt(peak.power) < values[name]
    assert min(values.values()) < 131 < max(values.values())
    assert values["scan"] == pytest.approx(88.26, abs=0.005)


def test_the_default_interpretation_is_the_plausible_one() -> None:
    """Prices of single operations, by hand from table IV; only the default leaves every component but the buffer within published figures."""
    assert load_circuit().default_interpretation == "scan"
    outside = {}
    for name in READINGS:
        found = {(b.component, b.what.split()[0]): b for b in beside(MODEL.with_interpretation(name))}
        outside[name] = [key for key, b in found.items() if key[1] == "energy" and b.verdict != "within"]
        if name == "scan":
            assert found["shift_adder", "energy"].value == pytest.approx(334.17e3 / 64 / 64)  # fJ
            assert found["adder_tree", "energy"].value == pytest.approx(814.9e3 / 64 / 128)
            assert found["row_decoder", "energy"].value == pytest.approx(3.4 / 64)  # pJ
            assert found["buffer", "energy"].verdict == "25 x below"
            assert found["memory_array", "area"].verdict.endswith("below")
            assert found["buffer", "area"].verdict == "within"
    assert outside["scan"] == [("buffer", "energy")]
    assert all(len(found) > 1 for name, found in outside.items() if name != "scan")


def test_ranges_bound_every_total(run: Run) -> None:
    """No combination of ends leaves the range of a total, and each assumption alone stays in it; the tornado is complete."""
    cost = cost_of(run)
    energy, area_ = cost.figures["energy"], cost.figures["area"]
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low < energy.value < energy.high
    assert energy.value == pytest.approx(cost.energy)
    assert cost.figures["latency"].range_text == ""
    assert cost.figures["tops_per_watt_8b"].low == pytest.approx(
        cost.figures["tops_per_watt_8b"].value * energy.value / energy.high
    )
    rng = np.random.default_rng(0)
    paths = [path for path, q in numbers(cost.model.circuit) if isinstance(q, Quantity) and q.ranged]
    for _ in range(10):
        circuit = cost.model.circuit
        for path in paths:
            q = dict(numbers(circuit))[path]
            assert isinstance(q, Quantity)
            circuit = with_number(circuit, path, q.at(("low", "nominal", "high")[rng.integers(3)]))
        other = replace(cost.model, circuit=circuit)
        assert energy.low * (1 - 1e-12) <= other.energy(cost.totals, run.cycles) <= energy.high * (1 + 1e-12)
        assert area_.low <= other.area.total <= area_.high  # type: ignore[operator]
    swings = tornado(cost.model, lambda m: m.energy(cost.totals, run.cycles))
    assert [s.width for s in swings] == sorted((s.width for s in swings), reverse=True)
    names = {s.name for s in swings}
    assert {
        "circuit.sense_amplifier.energy",
        "circuit.host.standby",
        "circuit.interconnect.energy",
        "circuit.leakage.idle",
    } <= names
    assert not any("plausible" in name for name in names)
    sense = next(s for s in swings if s.name == "circuit.sense_amplifier.energy")
    sensed = cost.totals["sense_ones"] + cost.totals.get("array_bits_read", 0)
    assert sense.high - sense.low == pytest.approx((150 - 3.2) * 1e-15 * sensed)


def test_what_if(run: Run) -> None:
    cost = cost_of(run)
    other = assigned(cost.model, "circuit.adder_tree.energy", "1.6298nJ")
    assert other.cost(run).by_component()["adder_tree"] == pytest.approx(2 * cost.by_component()["adder_tree"])
    assert assigned(cost.model, "circuit.components.adder_tree.energy", "814.9").energy(
        {"adder_tree_ops": 1}, 0
    ) == pytest.approx(cost.model.energy({"adder_tree_ops": 1}, 0))
    assert assigned(cost.model, "technology.write_energy", "1 pJ/bit").cost(run).by_component()["cell_write"] == pytest.approx(
        cost.by_component()["cell_write"] / 0.048
    )
    assert assigned(cost.model, "circuit.interpretations.scan.relu_elements", "32").cost(run).by_component()[
        "relu"
    ] == pytest.approx(2 * cost.by_component()["relu"])
    found = curve(cost.model, "circuit.host.energy", ("1", "100"), lambda m: {f.name: f for f in figures(m, run, cost.totals)})
    assert [found.x[i] for i in (0, 4, 8)] == pytest.approx([1, 10, 100])
    values = [f.value for f in found.figures["energy"]]
    moved = cost.totals["host_bits_in"] + cost.totals["host_bits_out"]
    assert values[8] - values[0] == pytest.approx(99e-12 * moved)
    for name, text, words in (
        ("circuit.adder_tre.energy", "1", "adder_tree.energy"), ("circuit.adder_tree.energy", "1ns", "pJ"),
        ("circuit.adder_tree.energy", "-1", "negative"), ("circuit.reference.rows", "1.5", "whole"),
    ):  # fmt: skip
        with pytest.raises(SasError) as caught:
            assigned(cost.model, name, text)
        assert words in str(caught.value)


def test_the_documented_interpretations_are_the_computed_ones() -> None:
    page = (Path(__file__).parents[1] / "docs" / "explanation" / "energy.md").read_text(encoding="utf-8")
    found = {}
    for line in page.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].split("`")[1:2] and cells[0].split("`")[1] in READINGS:
            found[cells[0].split("`")[1]] = (cells[3], cells[4], cells[5])
    expected = {}
    for name in READINGS:
        peak = MODEL.with_interpretation(name).peak()
        tops = peak.tops_per_watt()
        mac = format_si(peak.printed_power / (peak.operations / 64), "J")
        expected[name] = (f"{float(f'{tops:.3g}'):g}", f"{tops / 131:.3g}", mac)
    assert {n: (f"{float(t):g}", r, m) for n, (t, r, m) in found.items()} == expected


def test_notes_say_which_interpretation_and_that_nothing_is_scaled() -> None:
    for name in READINGS:
        model = CostModel.make(load_machine(), interpretation=name)
        first, *assumed = model.notes()
        assert repr(name) in first
        peaks = assumed[0]
        assert "131" in peaks
        assert f"{model.peak().tops_per_watt() / 32:.3g} of the components of table IV" in peaks
        assert any("not printed" in text for text in assumed)


def test_area_by_hand() -> None:
    machine, circuit, sas = load_machine(), load_circuit(), load_technology("sas")
    found = area(machine, circuit, sas)
    array = 1024 * (429.62 + 243.18 + 37.3 + 2857.93)
    printed = array + 44113 + 650018.2 + 719.7
    assert found.printed == pytest.approx(printed * 1e-12, rel=1e-9)
    missing = 1024 * 512 * (5 + 2) + 65536 * 32 * 0.2 + 256 * 1459 + 50_000
    assert found.total == pytest.approx((printed + missing) * 1e-12, rel=1e-9)
    shares = found.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["SAS-MRAM array"] == pytest.approx(array / printed)
    assert area(machine, at_end(circuit, "high"), sas).parts["buffer"].value == pytest.approx(6500182e-12)
    mixed = area(machine, circuit, sas, 64)
    grown = 64 * (429.62 * 1 / 1.25 + 243.18 + 37.3 + 64 * 5)
    assert mixed.total - found.total == pytest.approx(grown * 1e-12, rel=1e-9)
    sram = area(machine, circuit, load_technology("sram"))
    assert sram.parts["memory_array"].value == pytest.approx(0.127e-12 * machine.capacity_bits)


def test_scaling_to_another_machine() -> None:
    """Twice the columns: decoders' energy and area doubled, a shift-add costs the same; four times the buffer: twice the energy a bit."""
    wide, small = CostModel.make(machine_of(array__bit_columns=1024, buffer__bytes=4 * 401408)), CostModel.make(load_machine())
    priced = [{(c.component, c.event): c.joules for c in m.charges} for m in (wide, small)]
    ratio = {key: priced[0][key] / priced[1][key] for key in priced[0]}
    assert ratio["column_decoder", "row_activations"] == ratio["row_decoder", "row_activations"] == pytest.approx(2)
    assert ratio["shift_adder", "shift_adds"] == ratio["adder_tree", "adder_tree_ops"] == 1
    assert ratio["buffer", "buffer_bits_read"] == pytest.approx(2)
    sizes = {name: wide.area.parts[name].value / small.area.parts[name].value for name in wide.area.parts}
    assert sizes == pytest.approx(
        {
            "memory_array": 2,
            "column_decoder": 2,
            "row_decoder": 1,
            "shift_adder": 2,
            "adder_tree": 1,
            "buffer": 4,
            "relu": 1,
            "sense_amplifier": 2,
            "write_driver": 2,
            "accumulators": 1,
            "requantise_lanes": 1,
            "controller": 1,
        }
    )
    tall = CostModel.make(machine_of(array__rows=128, adder_tree__units=256))
    sizes = {name: tall.area.parts[name].value / small.area.parts[name].value for name in tall.area.parts}
    assert sizes == pytest.approx(
        {
            "memory_array": 2,
            "column_decoder": 1,
            "row_decoder": 2,
            "shift_adder": 1,
            "adder_tree": 2,
            "buffer": 1,
            "relu": 1,
            "sense_amplifier": 1,
            "write_driver": 1,
            "accumulators": 1,
            "requantise_lanes": 1,
            "controller": 1,
        }
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"array__rows": 1024}, "rows"), ({"array__bit_columns": 64}, "bit_columns"), ({"buffer__bytes": 401408 * 17}, "buffer_bits"),
     ({"adder_tree__units": 8}, "adder_units"), ({"write__cycles_per_row": 1}, "write.cycles_per_row")],
)  # fmt: skip
def test_outside_the_range_there_is_a_warning(changes: dict[str, Any], word: str) -> None:
    technology = "stt" if word.startswith("write") else "sas"
    assert not CostModel.make(load_machine(), technology).warnings()
    warnings = CostModel.make(machine_of(**changes), technology).warnings()
    assert len(warnings) == 1
    assert warnings[0].startswith(word)


def test_technology_changes_the_figures_without_recompiling(run: Run, tmp_path: Path) -> None:
    text = resources.files("sasimc.evaluation.technologies").joinpath("sas.toml").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(text.replace("value = 0.048", "value = 0.48").replace('name = "sas"', 'name = "mine"'))
    plain, other = cost_of(run), cost_of(run, str(mine))
    assert other.by_component()["cell_write"] == pytest.approx(10 * plain.by_component()["cell_write"])
    assert other.energy - plain.energy == pytest.approx(9 * plain.by_component()["cell_write"])
    assert cost_of(run, "stt").by_component()["cell_write"] == pytest.approx(3.36 * plain.by_component()["cell_write"])


def test_throughput_and_utilisation(run: Run) -> None:
    figures = cost_of(run).figures
    bits = sum(one_bit_operations(r, 8) for r in run.rows)
    assert figures["gops_1b"].value == pytest.approx(bits / run.seconds * 1e-9)
    assert figures["gops_8b"].value == pytest.approx(figures["gops_1b"].value * 2 / 64)
    assert figures["utilisation"].value == pytest.approx(figures["gops_1b"].value / 3276.8)
    assert 0 < figures["utilisation"].value < 1
    assert figures["power"].value * run.seconds == pytest.approx(figures["energy"].value)
    assert figures["energy_delay"].value == pytest.approx(figures["energy"].value * run.seconds)
    assert figures["tops_per_watt_1b"].value == pytest.approx(figures["gops_1b"].value / figures["power"].value * 1e-3)
    assert all(f.how for f in figures.values())
    cost = cost_of(run)
    for cycles in (cost.phase_cycles(), cost.node_cycles()):
        assert math.fsum(cycles.values()) == pytest.approx(run.cycles, rel=1e-9)
    assert sum(cost.unit_cycles().values()) >= run.cycles


def test_transposed_products_count_single_bits() -> None:
    """A full row of forward products and a full column of transposed ones do as many bit products a cycle as bits are sensed."""
    forward = Row("forward", events={"row_activations": 1, "shift_adds": 64 * 8})
    column = Row("error", events={"column_activations": 1, "shift_adds": 64 * 8})
    assert one_bit_operations(forward, 8) == 512 * 8
    assert one_bit_operations(column, 8) == 64 * 8


def test_wear(run: Run) -> None:
    figures = cost_of(run).figures
    wear = run.report["wear"]
    assert figures["wear_worst"].value == wear["worst"] >= figures["wear_mean"].value
    seconds_a_write = run.seconds / wear["worst"]
    assert figures["years_to_endurance"].value == pytest.approx(1e15 * seconds_a_write / (365.25 * 86400))


def test_a_run_says_what_of_figure_11_is_seen(run: Run) -> None:
    cost = cost_of(run)
    share = cost.by_component()["cell_write"] / cost.energy
    first = remarks(cost)[0]
    assert f"{share:.2g} of the energy" in first
    assert f"{236 * share:.2g} %" in first
    assert ("invisible" in first) == (236 * share < 1)
    part = cost.of_entry("train_step")
    text = next(r for r in remarks(cost) if "train_step" in r)
    assert f"{100 * (1 - part.on_chip().energy / part.energy):.3g} %" in text
    assert not any("infer" in r for r in remarks(cost))
    assert cost.notes()[: len(remarks(cost))] == remarks(cost)
    dear = assigned(cost.model, "technology.write_energy", "1 nJ/bit").cost(run)
    assert "is seen" in remarks(dear)[0]


def test_writes_of_the_host_stand_apart(run: Run) -> None:
    report = {**run.report, "writes": {"host": {"bits_written": 1000}}}
    cost = cost_of(Run(run.machine, run.rows, run.cycles, run.images, report))
    assert cost.figures["host_writes"].value == pytest.approx(48e-12)
    assert cost.energy == cost_of(run).energy
    assert "host_writes" not in cost_of(run).figures


def test_all_numbers_have_source_and_formula(run: Run) -> None:
    cost = cost_of(run)
    for charge in cost.model.charges:
        assert charge.how
        assert charge.source
        assert charge.joules >= 0
    for figure in (*cost.model.leakage, *cost.model.area.parts.values()):
        assert figure.how
        assert figure.source
    json.dumps(cost.as_dict())
    json.dumps(cost.summary())


def test_text(run: Run) -> None:
    cost = cost_of(run)
    text = "\n".join(line for table in cost_tables(cost, 3) for line in table.lines())
    assert all(name in text for name in (*PHASE_NAMES, *PRINTED, *READINGS))
    assert f"({len(cost.by_node()) - 3} more)" in text
    assert "assumed" in cost_lines(cost)[-1]
    empty = CostModel.make(run.machine).cost(Run(run.machine, (), 0, 0))
    assert cost_lines(empty) == []
    assert empty.energy == 0


def test_comparison(run: Run) -> None:
    a, b = cost_of(run), cost_of(run, "stt", "row")
    found = compare(a, b)
    assert {"technology", "interpretation", "technology.write_energy"} <= set(found.settings)
    assert "machine.array.rows" not in found.settings
    totals = {p.name: p for p in found.parts["totals"]}
    assert totals["energy"].a == pytest.approx(a.energy)
    assert totals["energy"].b == pytest.approx(b.energy)
    assert totals["latency"].ratio == 1
    by_node = found.parts["energy_by_node"]
    assert math.fsum(p.a or 0 for p in by_node) == pytest.approx(a.energy)
    assert not compare(a, a).settings
    assert all(p.ratio in (None, 1) for part in compare(a, a).parts.values() for p in part)
    json.dumps(found.as_dict())
    assert found.tables(2)


Damage = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("profile"),
        lambda d: d.update(schema=99),
        lambda d: d["profile"][0].update(surplus=1),
        lambda d: d["profile"][0]["events"].update(nonsense=1),
        lambda d: d["profile"][0]["events"].update(shift_adds=-1),
        lambda d: d["profile"][0].update(phase="dream"),
        lambda d: d["machine_description"].pop("array"),
        lambda d: d.update(cycles="many"),
        lambda d: d.update(layout=[]),
        lambda d: d.update(wear={"worst": 1}),
        lambda d: d.update(profile=None),
        lambda d: d.update(writes=[1]),
        lambda d: d.update(epochs=[{"phase_events": 3, "phase_cycles": {}}]),
    ],
)
def test_damaged_reports_are_refused(report: dict[str, Any], damage: Damage, tmp_path: Path) -> None:
    broken = json.loads(json.dumps(report))
    damage(broken)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(SasError):
        load_run(path)
    assert invoke(sasc.app, ["energy", str(path)]) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "3", '{"profile": 1}'])
def test_other_files_are_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    assert invoke(sasc.app, ["energy", str(path)]) == 2
    assert "r.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.update(default_interpretation="none"), "default_interpretation"),
        (lambda d: d["components"]["shift_adder"].pop("energy"), "shift_adder"),
        (lambda d: d["components"]["shift_adder"]["energy"].update(unit="um^2"), "energy"),
        (lambda d: d["components"]["relu"]["area"].update(value=-1), "area"),
        (lambda d: d["interpretations"]["row"]["subarray"].update(interval="day"), "interval"),
        (lambda d: d["periphery"].update(mask_ops={"sqrt": 1}), "mask_ops"),
        (lambda d: d["unprinted"].pop("host"), "host"),
        (lambda d: d.update(surplus=1), "surplus"),
    ],
)
def test_circuit_files_are_checked(change: Damage, word: str) -> None:
    data = circuit_data()
    Circuit.model_validate(data)
    change(data)
    with pytest.raises(ValueError, match=word):
        Circuit.model_validate(data)


def test_commands(report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "r.json", tmp_path / "o.json"
    path.write_text(json.dumps(report))
    assert invoke(sasc.app, ["energy", str(path), "--technology", "sot", "--interpretation", "row-all", "--json", str(out)]) == 0
    made = json.loads(out.read_text())
    assert made["technology"] == "sot"
    assert made["interpretation"] == "row-all"
    parts = made["energy_j"]
    assert math.fsum(parts["by_node"].values()) == pytest.approx(math.fsum(parts["by_component"].values()), rel=1e-9)
    assert "note:" in capsys.readouterr().out
    assert invoke(sasc.app, ["diff", str(path), str(path), "--technology-b", "stt", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["settings"]["technology"] == {"a": "sas", "b": "stt"}
    assert invoke(sasc.app, ["energy", str(path), "--interpretation", "cyle"]) == 2
    assert "cycle" in capsys.readouterr().err
    assert invoke(sasc.app, ["energy", str(tmp_path / "absent.json")]) == 2
