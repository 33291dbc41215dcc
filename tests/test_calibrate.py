"""Fits to measured figures, and cell files that are read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sasimc.evaluation.device.calibrate import calibrate, load_calibration
from sasimc.evaluation.device.cellfile import cell_text
from sasimc.evaluation.technologies.load import load_technology
from sasimc.isa.errors import SasError

SAS = load_technology("sas")
Z = SAS.stack("z")[1]
FILE = """method = "sas"
write_energy = {value = 48, unit = "fJ/bit", kind = "paper", source = "table II"}
[free]
"heavy_metal.resistivity" = [0.5, 2.0]
"""


def test_the_printed_energy_is_fitted_and_marked(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_text(FILE)
    fit = calibrate(Z, SAS.resistances, load_calibration(path), macros=32, threads=1)
    assert fit.after["write_energy"] == pytest.approx(48e-15, rel=2e-3)
    assert fit.stack.heavy_metal.resistivity.kind == "fit"
    assert fit.stack.damping == Z.damping
    assert fit.after["pulse"] == fit.before["pulse"]  # not fitted: a check
    # most of the energy is the line's heat
    assert 0.4 < fit.sensitivities["write_energy"]["heavy_metal.resistivity"] < 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        (("heavy_metal.resistivity", "heavy_metal.colour"), "no such field"),
        (("[0.5, 2.0]", "[1.5, 2.0]"), "must hold 1"),
        (("fJ/bit", "fJ"), "unit"),
        (('write_energy = {value = 48, unit = "fJ/bit", kind = "paper", source = "table II"}', ""), "nothing is measured"),
    ],
)
def test_impossible_calibrations_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(SasError, match=message):
        load_calibration(path)


@pytest.mark.parametrize("method, pulse", [("sas", 9.6), ("sot", 14.5)])
def test_a_cell_file_is_read_back(tmp_path: Path, method: str, pulse: float) -> None:
    path = tmp_path / "out.cell"
    path.write_text(cell_text(SAS, Z, method, writes=40))  # type: ignore[arg-type]
    back = load_technology(path)
    assert back.resistance_low is not None
    assert back.resistance_low.si == pytest.approx(4408)
    assert back.write_latency.to("ns") == pytest.approx(pulse)
    assert back.cell_area.si == pytest.approx(SAS.cell_area.si, rel=1e-4)
    assert 20 < back.write_energy.to("fJ/bit") < 120
