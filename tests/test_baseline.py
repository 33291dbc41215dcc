"""Other tools' figures beside ours: NVSim's result text, hwcomponents."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.evaluation.baseline.hwcomponents import hwcomponents_items
from sasimc.evaluation.baseline.item import Item, baseline_table, filled
from sasimc.evaluation.baseline.nvsim_result import nvsim_items, read_result
from sasimc.evaluation.cost import CostModel
from sasimc.isa.errors import SasError
from sasimc.isa.machine import load_machine

MODEL = CostModel.make(load_machine())

RESULT = """Design Target: Random Access Memory
Data Width : 16384Bits (2048Bytes)
Bank Organization: 16 x 16
 - Row Activation   : 1 / 16
Mat Organization: 2 x 2
 - Subarray Size    : 64 Rows x 512 Columns
Mux Level:
 - Senseamp Mux      : 2
 - Output Level-1 Mux: 4
 - Output Level-2 Mux: 1
=============
   RESULT
=============
Area:
 - Total Area = 11.442mm x 1.918mm = 21.945mm^2
 |--- Mat Area      = 715.095um x 119.877um = 85723.083um^2   (2.004%)
 |--- Subarray Area = 354.063um x 59.938um = 21221.909um^2   (2.024%)
Timing:
 -  Read Latency = 10.641ns
 |--- H-Tree Latency = 6.897ns
 - Write Latency = 9.734ns
Power:
 -  Read Dynamic Energy = 16.636nJ
 |--- H-Tree Dynamic Energy = 14.053nJ
 |--- Mat Dynamic Energy    = 161.422pJ per mat
    |--- Predecoder Dynamic Energy = 0.108pJ
    |--- Subarray Dynamic Energy   = 80.657pJ per active subarray
       |--- Row Decoder Dynamic Energy = 0.031pJ
       |--- Bitline & Cell Read Energy = 0.640pJ
       |--- Senseamp Dynamic Energy    = 25.600pJ
 - Write Dynamic Energy = 14.871nJ
       |--- Row Decoder Dynamic Energy = 0.040pJ
       |--- Bitline & Cell Write Energy= 3.200pJ
 - Leakage Power = 67.108864mW
"""
"""In the form that NVSim prints."""


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "result.txt"
    path.write_text(RESULT)
    return path


def test_a_result_is_read(result: Path) -> None:
    """Names repeat under reading and writing; the last of a x b = c counts; prefixes of areas are squared."""
    r = read_result(result)
    assert (r.rows, r.columns, r.subarrays, r.width) == (64, 512, 1024, 16384)
    assert r.figures["Read Dynamic Energy"] == pytest.approx(16.636e-9)
    assert r.figures["Read Dynamic Energy/Row Decoder Dynamic Energy"] == pytest.approx(0.031e-12)
    assert r.figures["Write Dynamic Energy/Row Decoder Dynamic Energy"] == pytest.approx(0.040e-12)
    assert r.figures["Area/Subarray Area"] == pytest.approx(21221.909e-12)
    assert r.figures["Read Latency/H-Tree Latency"] == pytest.approx(6.897e-9)
    assert r.figures["Leakage Power"] == pytest.approx(67.108864e-3)


def test_figures_stand_beside_ours(result: Path) -> None:
    items = {(i.component, i.what): i for i in nvsim_items(MODEL, read_result(result))}
    assert items["sense_amplifier", "energy of a bit"].theirs == pytest.approx(100e-15)  # 256 amplifiers
    assert items["memory_array", "reading a bit"].theirs == pytest.approx(10e-15)  # 64 selected bits
    assert items["cell_write", "writing a bit (Write)"].theirs == pytest.approx(50e-15)
    assert items["cell_write", "writing a bit (Write)"].ours == pytest.approx(63e-15)
    assert items["row_decoder", "a row"].theirs == pytest.approx(0.085e-12)
    assert items["row_decoder", "a row"].ours == pytest.approx(3.4e-12 / 64)
    assert items["leakage", "of a bit's share of the arrays"].theirs == pytest.approx(2e-9)
    assert items["time", "of a read"].ratio == pytest.approx(10.641 / 5)
    model = filled(MODEL, items.values())
    prices = {(c.component, c.event): c.joules for c in model.charges}
    assert prices["sense_amplifier", "sense_ones"] == pytest.approx(100e-15)
    assert prices["memory_array", "sense_ones"] == pytest.approx(10e-15)
    assert prices["interconnect", "buffer_bits_read"] == pytest.approx(14.053e-9 / 16384)  # the chip's side cancels
    assert prices["shift_adder", "shift_adds"] == pytest.approx(334.17e-12 / 64 / 64)  # NVSim has none
    table = baseline_table(MODEL, items.values(), "t", lambda m: m.energy({"sense_ones": 10**9}, 0))
    assert len(table.rows) == len(items)
    row = next(r for r in table.rows if r[0] == "sense amplifier")
    assert row[5] == "102 uJ"  # 10^9 bits at 100 fJ and 2.27 fJ of the cell


@pytest.mark.parametrize(
    "text",
    ["", "RESULT", RESULT.replace("Data Width", "Width"), RESULT.split("Power:")[0], "CACHE DESIGN\n" + RESULT, RESULT + RESULT,
     RESULT.replace("16.636nJ", "many")],
)  # fmt: skip
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.txt"
    path.write_text(text)
    with pytest.raises(SasError):
        read_result(path)


def test_hwcomponents_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through functions of the package's own form; a component that it has no model for is left out, none at all is an error."""
    asked: list[tuple[str, dict[str, Any], str]] = []

    class Tool:
        @staticmethod
        def get_action_cost(name: str, attributes: dict[str, Any], action: str, arguments: dict[str, Any]) -> Any:
            asked.append((name, attributes, action))
            if name == "SRAM":
                raise RuntimeError("no model")
            return type("Cost", (), {"energy": 1e-13})

        @staticmethod
        def get_area(name: str, attributes: dict[str, Any]) -> float:
            return 1e-10

    monkeypatch.setitem(sys.modules, "hwcomponents", Tool)
    items = list(hwcomponents_items(MODEL, 28))
    assert ("AladdinAdder", {"tech_node": pytest.approx(28e-9), "width": 32}, "add") in asked
    addition = next(i for i in items if (i.component, i.what) == ("adder_tree", "an addition"))
    assert addition.ratio == pytest.approx(1e-13 / (814.9e-12 / 64 / 128))
    assert not any("8 KB" in i.how for i in items)
    monkeypatch.setattr(Tool, "get_action_cost", staticmethod(lambda *_: 1 / 0))
    monkeypatch.setattr(Tool, "get_area", staticmethod(lambda *_: 1 / 0))
    with pytest.raises(SasError, match="no model"):
        list(hwcomponents_items(MODEL, 28))
    monkeypatch.setitem(sys.modules, "hwcomponents", None)
    with pytest.raises(SasError, match="not installed"):
        list(hwcomponents_items(MODEL, 28))


def test_settings_and_baselines_on_the_command_line(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run, out = tmp_path / "run.json", tmp_path / "o.json"
    row = {
        "phase": "forward",
        "node": "n",
        "unit": "array",
        "mnemonic": "vmm",
        "cycles": 100.0,
        "events": {"sense_ones": 10**9, "buffer_bits_read": 10**6},
    }
    run.write_text(
        json.dumps(
            {
                "schema": 1,
                "profile": [row],
                "machine_description": load_machine().model_dump(mode="json"),
                "cycles": 100,
                "images": 1,
            }
        )
    )
    command = ["energy", str(run), "--json", str(out)]
    assert invoke(sasc.app, [*command, "--set", "circuit.sense_amplifier.energy=100fJ/bit"]) == 0
    assert json.loads(out.read_text())["energy_j"]["by_component"]["sense_amplifier"] == pytest.approx(1e-4)
    assert invoke(sasc.app, [*command, "--set", "circuit.sense_amplifier.energy=10..100", "--plot", str(tmp_path / "p.png")]) == 0
    assert json.loads(out.read_text())["curve"]["x"][-1] == pytest.approx(100)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "over circuit.sense_amplifier.energy" in capsys.readouterr().out
    assert (
        invoke(sasc.app, [*command, "--baseline", "nvsim-result", str(result), "--fill", "--plot", str(tmp_path / "p.svg")]) == 0
    )
    made = json.loads(out.read_text())
    assert made["energy_j"]["by_component"]["sense_amplifier"] == pytest.approx(1e-4)
    assert {"sense_amplifier", "interconnect", "area"} <= {
        Item(**{**i, "setting": tuple(i["setting"])}).component for i in made["baseline"] if i.pop("ratio")
    }
    assert "<svg" in (tmp_path / "p.svg").read_text()
    for bad in (["--set", "x"], ["--set", "circuit.relu.energy=1..2", "--set", "circuit.buffer.energy=1..2"], ["--set", "circuit.relu.energy=2..1"], ["--fill"],
                ["--baseline", "nvsim", str(result)], ["--baseline", "nvsim-result", str(run)], ["--baseline", "hwcomponents", "x"], ["--plot", str(tmp_path / "p.bmp")]):  # fmt: skip
        assert invoke(sasc.app, ["energy", str(run), *bad]) == 2, bad
