"""NVSim and PIMA-SIM files: what becomes of every key, odd and wrong lines, and machines that compile."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sasimc.cli import sasc
from sasimc.cli.common import invoke
from sasimc.evaluation.cost import CostModel
from sasimc.evaluation.fields import with_number
from sasimc.evaluation.machine_notes import notes_of
from sasimc.evaluation.nvsim.importer import import_files, machine_toml, technology_toml
from sasimc.evaluation.nvsim.keys import KEYS
from sasimc.evaluation.nvsim.reader import read
from sasimc.evaluation.quantity import Quantity
from sasimc.evaluation.technologies.load import load_technology
from sasimc.isa.errors import DiagnosticsError, SasError
from sasimc.isa.machine import load_machine

CFG = """// a memory
# another comment
-DesignTarget: RAM   // trailing comment
-ProcessNode: 32
-Capacity (KB): 256
-WordWidth (bit): 256
/* a block
-ProcessNode: 90
comment */
-ForceBank (Total AxB, Active CxD): 2x8, 1x4
-ForceMat (Total AxB, Active CxD): 2x2, 1x2
-ForceMuxSenseAmp: 4
-ForceMuxOutputLev1: 1
-ForceMuxOutputLev2: 2
-Routing: H-tree
-MemoryCellInputFile: cell_a.cell
"""

CELL = """-MemCellType: MRAM
-CellArea (F^2): 40
-ResistanceOn (ohm): 2000
-ResistanceOff (kohm): 5
-ReadPower (uW): 20
-SetCurrent (uA): 50
-SetVoltage (V): 0.5
-SetPulse (ns): 8
-ResetEnergy (fJ): 400
-ResetPulse (ns): 12.5
-AccessType: CMOS"""

PIM = """/*-Subaddon component Latency (ns): 5 */
-Max Row Activation:  2
-Sense Amplifier Latency (ns): 7
-Subaddon component  Area (um^2): 17.364,0,0 \t
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "memory.cfg").write_text(CFG)
    (tmp_path / "cell_a.cell").write_text(CELL)
    (tmp_path / "user.pim").write_text(PIM)
    return tmp_path


def test_a_cfg_becomes_a_machine(files: Path) -> None:
    made = import_files([files / "memory.cfg", files / "user.pim"])
    m = made.machine
    assert m is not None
    assert m.array.banks == (2, 8)
    assert m.array.mats == (2, 2)
    assert (m.activation.rule, m.activation.banks, m.activation.mats) == ("row", (1, 4), (1, 2))
    # a word of 256 bits comes from 4 x 2 sub-arrays, 4 x 1 x 2 columns share an output: 256 columns; 256 KiB / 64 / 256 = 128 rows
    assert m.array.bit_columns == 256
    assert m.array.rows == 128
    assert m.capacity_bits == 256 * 1024 * 8
    assert m.write.cycles_per_row == math.ceil(12.5e-9 * 200e6)
    assert m.write.read_cycles_per_row == 2  # 7 ns at 5 ns a cycle


def test_the_written_machine_is_valid_and_says_where_each_field_is_from(files: Path) -> None:
    made = import_files([files / "memory.cfg"])
    path = files / "machine.toml"
    path.write_text(machine_toml(made))
    assert load_machine(path) == made.machine
    assert made.machine is not None
    assert made.organisation is not None
    sources = {name: source for name, (_, source) in made.organisation.fields.items()}
    lines = path.read_text().splitlines()
    for name in notes_of(made.machine):
        assert any(line.startswith(f"{name.split('.')[-1]} = ") and line.endswith(f"# {sources[name]}") for line in lines), name
    assert "memory.cfg:10 ForceBank" in sources["array.banks"]
    assert "Routing = H-tree" in path.read_text()
    notes = notes_of(made.machine, sources)
    assert notes["array.banks"].kind == "changed"
    assert "memory.cfg:10 ForceBank" in notes["array.banks"].source
    assert "16 x 16 (paper, section VI-B)" in notes["array.banks"].source
    assert notes["buffer.bytes"].kind == "paper"  # the paper's value, whatever a comment says


def test_a_cell_becomes_a_technology(files: Path) -> None:
    made = import_files([files / "memory.cfg"])
    t = made.technology
    assert t is not None
    assert (t.kind, t.name, t.non_volatile) == ("STT", "cell_a", True)
    assert t.resistance_low is not None
    assert t.resistance_high is not None
    assert (t.resistance_low.si, t.resistance_high.si) == (2000, 5000)
    assert t.cell_area.to("um^2/bit") == pytest.approx(40 * 0.032**2)
    assert t.write_latency.si == pytest.approx(12.5e-9)
    assert t.write_energy.si == pytest.approx((0.5 * 50e-6 * 8e-9 + 400e-15) / 2)
    assert (t.write_energy.kind, t.endurance.kind) == ("derived", "assumption")
    path = files / "technology.toml"
    path.write_text(technology_toml(made))
    assert load_technology(path) == t


def test_a_cell_file_is_a_technology_wherever_one_is_asked_for(files: Path) -> None:
    t = load_technology(files / "cell_a.cell")
    assert t.cell_area.to("um^2/bit") == pytest.approx(40 * 0.028**2)  # no .cfg, so no process node: the paper's, an assumption
    assert t.cell_area.kind == "assumption"
    (files / "bad.cell").write_text("-MemCellType: MRAM\n-CellArea (F^2): large\n")
    with pytest.raises(DiagnosticsError, match=r"bad\.cell:2:1: error: CellArea cannot be read"):
        load_technology(files / "bad.cell")


def test_every_setting_is_listed_once(files: Path) -> None:
    made = import_files([files / "memory.cfg", files / "user.pim"])
    settings = [s for d in made.documents for s in d.settings.values()]
    listed = [s for s, _ in (*made.used, *made.unused)]
    assert sorted(s.place for s in listed) == sorted(s.place for s in settings)
    unused = {s.key.name: why for s, why in made.unused}
    assert {"Routing", "AccessType", "Max Row Activation"} <= set(unused)
    assert all(unused.values())
    assert "ProcessNode" not in unused


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        ("-ForceBank (Total AxB, Active CxD): 4y4, 1x4", ":1:1", "ForceBank cannot be read"),
        ("-ForceMat (Total AxB, Active CxD): 2x2", ":1:1", "ForceMat cannot be read"),
        ("-Capacity: 128", ":1:1", "Capacity has no unit"),
        ("-Capacity (pint): 128", ":1:1", "has the unit 'pint'"),
        ("  -WordWidth (bit): wide", ":1:3", "WordWidth cannot be read"),
        ("-ProcessNode:", ":1:1", "ProcessNode has no value"),
        ("-ProcessNode: -45", ":1:1", "larger than zero"),
        ("-Capacity (MB): 1e999", ":1:1", "no size that a memory has"),
        ("-ResistanceOn (ohm): 1e-200", ":1:1", "no size that a memory has"),
        ("-ForceBank (Total AxB, Active CxD): 4x4, 1x0", ":1:1", "larger than zero"),
    ],
)
def test_values_that_cannot_be_read_are_errors_with_their_place(tmp_path: Path, line: str, place: str, message: str) -> None:
    path = tmp_path / "bad.cfg"
    path.write_text(line + "\n-DesignTarget: RAM\n")
    with pytest.raises(DiagnosticsError) as caught:
        import_files([path])
    text = str(caught.value)
    assert f"bad.cfg{place}: error:" in text
    assert message in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-ProcessNode 45", "a key without `: value`"),
        ("ProcessNode: 45", "neither a comment nor a setting"),
        ("-ProcesNode: 45", "unknown key 'ProcesNode'"),
        ("-WordWidth: 64", "WordWidth has no unit; read as bit"),
        ("-ApplyWriteEdpConstraint: 0.5a aaaaaaaasdsdsdssd", "text behind the value"),
        ("-Routing: H-tree of wires", "text behind the value"),
    ],
)
def test_odd_lines_are_findings_and_no_errors(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "odd.cfg"
    path.write_text(f"-DesignTarget: RAM\n{line}\n")
    made = import_files([path])
    assert [(f.span.line if f.span else 0, f.severity) for f in made.findings] == [(2, "warning")]
    assert message in made.findings[0].message


def test_the_last_of_two_settings_counts_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "twice.cfg"
    path.write_text("-ProcessNode: 45\n-processnode: 22\n")
    document = read(path)
    found = document.get("ProcessNode")
    assert found is not None
    assert found.number == 22
    assert "was set in line 1" in document.findings[0].message


@pytest.mark.parametrize(
    "text", ["-ProcessNode: 1 /* -Capacity (KB): 2", "-ProcessNode: 1 // /* open\n/* */", "#/*\n-ProcessNode: 1"]
)
def test_comments_of_all_kinds(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.cfg"
    path.write_text(text)
    document = read(path)
    assert [s.key.name for s in document.settings.values()] == ["ProcessNode"]
    assert not document.findings


def test_sizes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    bank = "-ForceBank (Total AxB, Active CxD): 4x4, 3x4\n"
    path = tmp_path / "a.cfg"
    path.write_text(bank)
    with pytest.raises(SasError, match=r"a\.cfg:1:1: error: ForceBank: 3 active do not divide 4"):
        import_files([path])
    path.write_text(bank.replace("3x4", "1x4") + "-Capacity (B): 1000\n-WordWidth (bit): 64\n-ForceMuxSenseAmp: 2\n")
    with pytest.raises(SasError, match=r"a\.cfg:2:1: error: Capacity of 8000 bits is no multiple of"):
        import_files([path])
    path.write_text(bank.replace("3x4", "1x4").replace("4x4", "9999x4"))
    with pytest.raises(SasError, match=r"array\.banks: \[9999, 4\] is not.*a\.cfg:1 ForceBank"):
        import_files([path])


def test_a_sub_array_beyond_the_limits_stands_as_several(tmp_path: Path) -> None:
    path = tmp_path / "large.cfg"
    force = "-ForceBank (Total AxB, Active CxD): 1x1, 1x1\n-ForceMat (Total AxB, Active CxD): 1x1, 1x1\n"
    path.write_text(f"{force}-Capacity (MB): 64\n-WordWidth (bit): 64\n-ForceMuxSenseAmp: 256\n")
    m = import_files([path]).machine
    assert m is not None
    assert m.capacity_bits == 64 * 8 << 20
    assert (m.array.mats, m.activation.mats) == ((8, 2), (1, 2))
    assert (m.array.rows, m.array.bit_columns) == (4096, 8192)


def test_a_missing_cell_file_is_a_finding(files: Path) -> None:
    (files / "cell_a.cell").unlink()
    made = import_files([files / "memory.cfg"])
    assert made.technology is None
    assert "cell_a.cell is not there" in made.findings[0].message
    assert "MemoryCellInputFile" in {s.key.name for s, _ in made.unused}
    with pytest.raises(SasError, match=r"needs a \.cell file"):
        technology_toml(made)


def test_unknown_cells_are_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "x.cell"
    path.write_text("-MemCellType: PCRM\n")
    with pytest.raises(SasError, match="did you mean 'PCRAM'"):
        import_files([path])
    path.write_text("-MemCellType: MRAM\n-ResistanceOn (ohm): 6000\n-ResistanceOff (ohm): 3000\n")
    with pytest.raises(SasError, match="is not below resistance_high"):
        import_files([path])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_file_ends_in_anything_but_a_clean_message(tmp_path: Path, data: st.DataObject) -> None:
    """Lines of real keys with any value, and any text at all."""
    key = st.sampled_from([k.name for k in KEYS.values()])
    unit = st.sampled_from(["", " (MB)", " (ns)", " (Total AxB, Active CxD)", " (bit)", " ("])
    value = st.one_of(
        st.sampled_from(
            ["0", "1", "8", "1e999", "4x4, 1x4", "1x1, 1x1", "MRAM", "cell_a.cell", "-3", "0x10", "1e-30", "99999999999"]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    )
    line = st.one_of(
        st.builds("-{}{}: {}".format, key, unit, value), st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    )
    path = tmp_path / f"a{data.draw(st.sampled_from(['.cfg', '.cell', '.pim']))}"
    path.write_text("\n".join(data.draw(st.lists(line, max_size=12))), encoding="utf-8")
    try:
        made = import_files([path])
    except SasError:
        return
    if made.machine is not None:
        copy = tmp_path / "m.toml"
        copy.write_text(machine_toml(made), encoding="utf-8")
        assert load_machine(copy) == made.machine
    if made.technology is not None:
        copy = tmp_path / "t.toml"
        copy.write_text(technology_toml(made), encoding="utf-8")
        assert load_technology(copy) == made.technology


@pytest.mark.parametrize(("name", "data"), [("a.txt", b"-ProcessNode: 1"), ("a.cfg", b"\0\1\2"), ("gone.cfg", None)])
def test_what_is_no_such_file_is_refused(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SasError):
        read(tmp_path / name)


def test_the_table_of_keys_is_complete() -> None:
    for key in KEYS.values():
        assert bool(key.use) != bool(key.reason) or key.name == "MemoryCellInputFile", key.name


def test_commands(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine, technology = files / "m.toml", files / "t.toml"
    args = ["machine", "import", str(files / "memory.cfg"), "-o", str(machine), "--technology-out", str(technology)]
    assert invoke(sasc.app, args) == 0
    said = capsys.readouterr().out
    assert "memory.cfg:15 Routing" in said
    assert "not used" in said
    assert invoke(sasc.app, ["machine", "show", str(machine)]) == 0
    shown = capsys.readouterr().out
    assert "2 x 8 banks of 2 x 2 MATs: 64 sub-arrays" in shown
    assert "changed     sas28: 16 x 16 (paper, section VI-B)" in shown
    assert invoke(sasc.app, ["machine", "show", str(files / "memory.cfg")]) == 0
    assert "memory.cfg:10 ForceBank" in capsys.readouterr().out
    assert invoke(sasc.app, ["machine", "show", str(technology)]) == 0
    assert "300 fJ/bit" in capsys.readouterr().out
    for name in ("sas28", "sas", "sram"):
        assert invoke(sasc.app, ["machine", "show", name]) == 0
    assert invoke(sasc.app, ["machine", "show", "sas82"]) == 2
    assert "did you mean 'sas28'" in capsys.readouterr().err


def test_a_failed_import_writes_nothing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "memory.cfg").write_text(CFG.replace("2x8, 1x4", "2x8; 1x4"))
    assert invoke(sasc.app, ["machine", "import", str(files / "memory.cfg"), "-o", str(files / "m.toml")]) == 2
    assert "memory.cfg:10:1: error: ForceBank cannot be read" in capsys.readouterr().err
    assert not (files / "m.toml").exists()


def test_a_machine_from_a_cfg_compiles(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = files / "memory.cfg"
    cfg.write_text(CFG.replace("256\n-WordWidth", "1024\n-WordWidth"))
    machine = files / "m.toml"
    assert invoke(sasc.app, ["machine", "import", str(cfg), "-o", str(machine), "--quiet"]) == 0
    compiled = invoke(sasc.app, ["compile", "--inference-only", "--machine", str(machine), "-o", str(files / "p.s")])
    assert compiled == 0, capsys.readouterr().err
    assert "of 64 (" in capsys.readouterr().out


def test_a_read_charges_cell_and_reference_for_the_sensing_time(tmp_path: Path) -> None:
    """NVSim: 2 x ReadPower x latency of the sense amplifier; for its own PIMA-SIM example that is 48 fJ (45 nm HP, 0.8 ns)."""
    (tmp_path / "c.cell").write_text(CELL.replace("-ReadPower (uW): 20", "-ReadPower (uW): 30"))
    energy = load_technology(tmp_path / "c.cell").read_energy
    assert energy.si == pytest.approx(60e-15)
    assert energy.ends == pytest.approx((30, 90))
    assert energy.ends[0] < 48 < energy.ends[1]
    (tmp_path / "u.pim").write_text("-Sense Amplifier Latency (ns): 0.8\n")
    made = import_files([tmp_path / "c.cell", tmp_path / "u.pim"])
    assert made.technology is not None
    assert made.technology.read_energy.si == pytest.approx(48e-15)
    assert not made.technology.read_energy.ranged
    again = tmp_path / "t.toml"
    again.write_text(technology_toml(import_files([tmp_path / "c.cell"])))
    assert load_technology(again).read_energy == energy


@pytest.mark.parametrize(
    ("name", "text"), [("c.cell", "-MemCellType: SLCNAND\n"), ("c.cfg", "-ForceBank: 1x1, 1x1\n-FlashPageSize (Byte): 2048\n")]
)
def test_flash_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SasError, match="by rows"):
        import_files([tmp_path / name])


def test_other_nodes_are_warned_of(files: Path) -> None:
    made = import_files([files / "memory.cfg"])
    assert [f.message for f in made.findings] == ["what is of 32 nm is priced beside circuits of 28 nm"]
    (files / "cell_a.cell").write_text(CELL + "\n-ProcessNode: 90")
    assert "the cell is of 90 nm and the memory of 32 nm" in [f.message for f in import_files([files / "memory.cfg"]).findings]
    (files / "memory.cfg").write_text(CFG.replace("-ProcessNode: 32", "-ProcessNode: 28"))
    (files / "cell_a.cell").write_text(CELL)
    assert not import_files([files / "memory.cfg"]).findings


def test_added_circuits_become_components(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Energy of each word line and input bit, leakage and area of each instance, by hand."""
    pim, circuit = tmp_path / "u.pim", tmp_path / "c.toml"
    pim.write_text(
        "-Subaddon component Latency (ns): 0.66,0\n-Subaddon component Dynamic Energy (nJ): 0.004,0\n-Subaddon component Leakage Power (uW): 6,0\n"
        "-Subaddon component Area (um^2): 17,0\n-Mataddon component Dynamic Energy (nJ): 0.01\n-Bankaddon component Area (um^2): 1000\n"
    )
    (tmp_path / "m.cfg").write_text("-ProcessNode: 28\n")
    assert (
        invoke(sasc.app, ["machine", "import", str(tmp_path / "m.cfg"), str(pim), "--circuit-out", str(circuit), "--quiet"]) == 0
    )
    plain, added = CostModel.make(load_machine()), CostModel.make(load_machine(), circuit=circuit)
    assert set(added.circuit.add_ons) == {"sub_1", "mat_1", "bank_1"}
    assert added.area.total - plain.area.total == pytest.approx((1024 * 17 + 1000) * 1e-12)
    prices = {(c.component, c.event): c.joules for c in added.charges}
    assert prices["sub_1", "row_activations"] == pytest.approx(8 * 4e-12)
    assert prices["mat_1", "row_activations"] == pytest.approx(8 * 10e-12 / 2)  # two of a bank's sub-arrays work together
    assert prices["bank_1", "column_activations"] == 0
    power = {f.name: f.value for f in added.leakage}
    assert power["sub_1"] == pytest.approx(1024 * 6e-6)
    assert not added.warnings()
    slow = with_number(added.circuit, "add_ons.sub_1.latency", Quantity(6, "ns", "a test", "assumption"))
    assert any("sub_1" in text for text in CostModel.make(load_machine(), circuit=slow).warnings())
    pim.write_text("-Subaddon component Latency (ns): 1,2\n-Subaddon component Area (um^2): 17\n")
    assert invoke(sasc.app, ["machine", "import", str(pim), "--circuit-out", str(circuit)]) == 2
    assert "different lengths" in capsys.readouterr().err


DATA = Path(os.environ.get("SASIMC_DATA", "")) / "nvsim"

SAMPLES = {
    "pimasim.cfg": ((4, 4), (2, 2), (1, 4), (1, 2), 1024, 128),
    "sample_NVM_macro.cfg": ((1, 1), (2, 2), (1, 1), (2, 2), 512, 512),
    "sample_PCRAM.cfg": ((8, 4), (1, 4), (1, 1), (1, 4), 1024, 1024),
    "sample_STTRAM_cache.cfg": ((32, 16), (2, 2), (1, 16), (1, 2), 64, 512),
}
"""Real configuration -> banks, MATs, active banks, active MATs, rows, bit columns."""

CAPACITY_MB = {
    "pimasim.cfg": 1,
    "sample_NVM_macro.cfg": 1 / 8,
    "sample_PCRAM.cfg": 16,
    "sample_STTRAM_cache.cfg": 8,
}


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SASIMC_DATA with nvsim")
@pytest.mark.parametrize("name", SAMPLES)
def test_real_configurations(tmp_path: Path, name: str) -> None:
    made = import_files([DATA / name, DATA / "userinput.pim"])
    m = made.machine
    assert m is not None
    got = (m.array.banks, m.array.mats, m.activation.banks, m.activation.mats, m.array.rows, m.array.bit_columns)
    assert got == SAMPLES[name]
    assert m.capacity_bits == CAPACITY_MB[name] * 8 * 2**20
    path = tmp_path / "m.toml"
    path.write_text(machine_toml(made))
    assert load_machine(path) == m
    assert made.technology is not None
    path.write_text(technology_toml(made))
    assert load_technology(path) == made.technology
    assert set(made.add_ons) == {"sub_1"}  # the others of the file are all zero
    assert any("priced beside circuits of 28 nm" in f.message for f in made.findings)  # none of these memories is of 28 nm
    settings = sum(len(d.settings) for d in made.documents)
    assert len(made.used) + len(made.unused) == settings


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SASIMC_DATA with nvsim")
@pytest.mark.parametrize(
    ("name", "energy", "latency"),
    [
        ("sample_STTRAM.cell", 1e-12, 10e-9),
        ("sample_STTRAM_aggressive.cell", 0.252e-12, 5e-9),
        ("sample_RRAM.cell", 0.6e-12, 10e-9),
        ("sample_PCRAM.cell", 1.2 * (150e-6 * 150e-9 + 300e-6 * 40e-9) / 2, 150e-9),
        ("SRAM.cell", 6.4e-15, 0.5e-9),
    ],
)
def test_real_cells(name: str, energy: float, latency: float) -> None:
    made = import_files([DATA / name])
    t = made.technology
    assert t is not None
    assert t.write_energy.si == pytest.approx(energy)
    assert t.write_latency.si == pytest.approx(latency)
    assert [f.message for f in made.findings] == (
        ["what is of 90 nm is priced beside circuits of 28 nm"] if "PCRAM" in name else []
    )


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SASIMC_DATA with nvsim")
@pytest.mark.parametrize("name", ["sample_SLCNAND.cell", "sample_SLCNAND.cfg"])
def test_real_flash_is_refused(name: str) -> None:
    with pytest.raises(SasError, match="by rows"):
        import_files([DATA / name])


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs SASIMC_DATA with nvsim")
def test_every_real_file_is_tested() -> None:
    cells = {"sample_STTRAM.cell", "sample_STTRAM_aggressive.cell", "sample_RRAM.cell", "sample_PCRAM.cell", "SRAM.cell"}
    tested = {*SAMPLES, *cells, "userinput.pim", "sample_SLCNAND.cell", "sample_SLCNAND.cfg"}
    assert {p.name for p in DATA.iterdir() if p.suffix in (".cfg", ".cell", ".pim")} == tested
