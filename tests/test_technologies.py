"""Quantities, their units and their printing; technology files: what is shipped, what is refused."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sasimc.evaluation.quantity import YEAR, Quantity, format_duration, format_si, parse_unit
from sasimc.evaluation.technologies.load import load_technology
from sasimc.isa.choices import TECHNOLOGIES
from sasimc.isa.errors import SasError


def shipped(name: str) -> str:
    return resources.files("sasimc.evaluation.technologies").joinpath(f"{name}.toml").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- quantities


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (0.048, "pJ/bit", "48.0 fJ/bit"),
        (999.96, "ns", "1.00 us"),
        (999.4, "ns", "999 ns"),
        (429.62, "um^2", "430 um^2"),
        (6_500_182, "um^2", "6.50 mm^2"),
        (0.0131, "um^2/bit", "0.0131 um^2/bit"),
        (0.31, "MJ/m^3", "310 kJ/m^3"),
        (1e15, "cycle", "1.00e+15 cycle"),
        (98.7, "%", "98.7 %"),
        (0.008, "1", "0.00800"),
        (-0.5, "V", "-500 mV"),
        (0, "J", "0 J"),
        (1e-45, "J", "1.00e-45 J"),
        (float("inf"), "year", "inf year"),
    ],
)
def test_printing(value: float, unit: str, text: str) -> None:
    assert format_si(value, unit) == text


@given(st.floats(1e-28, 1e20), st.sampled_from(["J", "s", "ohm", "A/m", "W/bit", "m^2", "m^3", "fJ/bit", "MHz"]))
def test_printed_text_says_the_value(value: float, unit: str) -> None:
    number, printed = format_si(value, unit).split(" ", 1)
    assert float(number) * parse_unit(printed)[0] == pytest.approx(value * parse_unit(unit)[0], rel=5.1e-3)
    assert parse_unit(printed)[1] == parse_unit(unit)[1]


def test_units() -> None:
    assert Quantity(0.048, "pJ/bit", "table II", "paper").to("fJ/bit") == pytest.approx(48)
    assert Quantity(2, "uohm*m", "x", "assumption").si == pytest.approx(2e-6)
    assert Quantity(1, "um^2", "x", "derived").to("mm^2") == pytest.approx(1e-6)
    assert Quantity(10, "year", "x", "derived").si == pytest.approx(10 * 365.25 * 86400)
    assert parse_unit("W/Hz")[1] != parse_unit("J")[1]  # no algebra beyond powers of the names
    with pytest.raises(SasError, match="cannot be given in"):
        Quantity(1, "J", "x", "fit").to("s")
    for unit in ("furlong", "kyear", "m^x", "", "J//s"):
        with pytest.raises(SasError, match="unit"):
            parse_unit(unit)


@pytest.mark.parametrize(
    "change", [{"unit": "furlong"}, {"source": " "}, {"kind": "guess"}, {"value": float("nan")}, {"value": "much"}]
)
def test_a_quantity_needs_unit_source_and_kind(change: dict[str, object]) -> None:
    whole: dict[str, object] = {"value": 1.0, "unit": "J", "source": "table II", "kind": "paper"}
    Quantity(**whole)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="validation error"):
        Quantity(**{**whole, **change})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- technologies


@pytest.mark.parametrize("name", TECHNOLOGIES)
def test_shipped_technologies_are_complete(name: str) -> None:
    t = load_technology(name)
    assert t.name == name
    for field, quantity in t.quantities().items():
        assert len(quantity.source) > 5, field
    assert t.bits_per_macro.si == (4 if t.kind == "SAS" else 1)
    assert t.non_volatile == (t.kind != "SRAM")
    assert (t.leakage.si > 0) == (t.kind == "SRAM")


def test_what_the_paper_prints() -> None:
    sas, stt, sot, sram = (load_technology(n) for n in ("sas", "stt", "sot", "sram"))
    assert sas.write_energy.to("pJ/bit") == pytest.approx(0.048)
    assert sas.write_energy.kind == "paper"
    assert stt.write_energy.si / sas.write_energy.si == pytest.approx(3.36)
    assert sas.resistance_low is not None
    assert sas.resistance_high is not None
    tmr = sas.resistance_high.si / sas.resistance_low.si - 1
    assert tmr == pytest.approx(0.987, abs=5e-4)
    assert sas.cell_area.to("um^2/bit") * 64 * 512 == pytest.approx(429.62)
    assert [t.transistors_per_bit.si for t in (sas, stt, sot, sram)] == [1.25, 1, 2, 6]
    # figure 11 in words: SRAM writes cheapest and fastest and is largest; STT is smallest, SAS close to it, SOT much larger
    assert min((sas, stt, sot, sram), key=lambda t: t.write_energy.si) is sram
    assert min((sas, stt, sot, sram), key=lambda t: t.write_latency.si) is sram
    assert stt.cell_area.si < sas.cell_area.si < sot.cell_area.si < sram.cell_area.si


def test_stt_efficiency_follows_from_the_tmr() -> None:
    _, stack = load_technology("sas").stack()
    r = 0.987
    assert stack.efficiency() == pytest.approx((r * (r + 2)) ** 0.5 / (2 * (r + 1)), abs=5e-4)


def test_stacks_are_shared_and_named() -> None:
    sas = load_technology("sas")
    assert set(sas.stacks) == {"z", "x", "prototype"}
    assert load_technology("stt").stack("x") == sas.stack("x")
    assert load_technology("sot").stack()[0] == sas.default_stack
    for name in sas.stacks:
        _, stack = sas.stack(name)
        assert stack.thermal_stability > 60
        assert stack.damping.kind == stack.spin_hall_angle.kind == stack.saturation_magnetisation.kind == "paper"
    with pytest.raises(SasError, match="describes no free layer"):
        load_technology("sram").stack()


def test_another_file_is_another_technology(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(shipped("stt").replace('name = "stt"', 'name = "mine"').replace("0.16128", "0.2"))
    assert load_technology(path).write_energy.to("pJ/bit") == pytest.approx(0.2)
    assert load_technology(str(path)).name == "mine"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('unit = "pJ/bit", kind = "derived"', 'unit = "ns", kind = "derived"', "write_energy is given in ns"),
        ("value = 0.16128", "value = -1", "write_energy is negative"),
        ("value = 4408", "value = 9000", "not below resistance_high"),
        ('kind = "STT"', 'kind = "MRAM"', "kind"),
        ("write_energy", "write_enrgy", "write_enrgy"),
        ('source = "section VI-B: 1T1M"', 'source = ""', "source"),
        ('name = "stt"', 'name = ""', "name"),
        ("non_volatile = true", "non_volatile = ", "not valid TOML"),
        ('stacks_of = "sas"', 'stacks_of = "other"', "stacks_of"),
        ("retention = {value = 10,", "retention_ = {value = 10,", "retention"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = shipped("stt")
    assert old in text
    path = tmp_path / "bad.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(SasError, match=message) as caught:
        load_technology(path)
    assert "bad.toml" in str(caught.value)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="did you mean 'sram'"):
        load_technology("sramm")
    with pytest.raises(SasError, match="cannot read"):
        load_technology(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SasError, match="not a text file"):
        load_technology(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (36.8, "36.8 s"),
        (90, "1.50 minutes"),
        (7200, "2.00 hours"),
        (86400 * 3.44, "3.44 days"),
        (1234e3 * YEAR, "1,230,000 years"),
        (2e-9, "2.00 ns"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
