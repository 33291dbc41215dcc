"""Harvested power: traces with the means they promise, power cuts that change nothing but time, energy and wear, break-even idle times by hand."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_task import dataset, short_program

from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.costs import joules_of, price_list
from sasimc.evaluation.quantity import Quantity
from sasimc.evaluation.questions.idle import Idling, Way, idle_table
from sasimc.evaluation.supply.supply import Supply, load_supply
from sasimc.evaluation.supply.trace import Trace, trace_of
from sasimc.intermittent import Intermittent
from sasimc.isa.choices import SUPPLIES
from sasimc.isa.errors import SasError
from sasimc.isa.files import save_program
from sasimc.runtime.device import Device
from sasimc.training.recipe import Recipe, Schedule
from sasimc.training.trainer import train

RECIPE = Recipe(epochs=2, seed=5, head_exponent=Schedule(first=3, last=0), module_exponent=Schedule(first=2, last=-1))


def supply(name: str = "rf", **changes: float) -> Supply:
    """A shipped supply with other values, in the units of its file."""
    shipped = load_supply(name)
    new = {k: Quantity(v, getattr(shipped, k).unit, "a test", "assumption") for k, v in changes.items()}
    return Supply.model_validate({**{k: getattr(shipped, k) for k in Supply.model_fields}, **new})


# ------------------------------------------------------------------------------------------------------------------------ traces


@pytest.mark.parametrize("name", SUPPLIES)
def test_traces_have_the_mean_that_their_file_says(name: str) -> None:
    s, trace = load_supply(name), trace_of(load_supply(name))
    assert trace.between(0, trace.length) / trace.length == pytest.approx(s.power.si)
    assert (trace.watts >= 0).all()
    assert trace.between(0.3 * trace.length, 5.7 * trace.length) == pytest.approx(
        trace.between(0.3 * trace.length, trace.length) + 4 * trace.until(trace.length) + trace.until(0.7 * trace.length)
    )


def test_a_duty_cycle_and_bursts_have_power_for_their_share_of_the_time() -> None:
    assert (trace_of(supply("duty", share=0.25)).watts > 0).mean() == pytest.approx(0.25)
    assert (trace_of(supply("rf", share=0.3)).watts > 0).mean() == pytest.approx(0.3, abs=0.12)  # 64 drawn bursts


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=9), st.floats(0, 20), st.floats(0, 1), st.floats(0.05, 0.9), st.floats(0, 0.5)
)
def test_when_a_storage_is_full_as_small_steps_of_time_find_it(
    watts: list[float], start: float, stored: float, more: float, leak: float
) -> None:
    trace, wanted, step = Trace(0.5, np.array(watts)), stored + more, 1 / 512
    t, level = start, stored
    while level < wanted and t < start + 60:
        level = max(0.0, level + step * (0.8 * watts[int((t + step / 2) / 0.5) % len(watts)] - leak))
        t += step
    found = trace.filled(start, stored, wanted, 0.8, leak)
    if t < start + 59:
        # an interval that begins within another, or falls to zero within one, is met a step early or late
        assert found is not None
        assert found == pytest.approx(t, abs=0.03 + 4 * step / max(step, 0.8 * max(watts) - leak))
    else:
        assert found is None or found > start + 50


def test_a_measured_trace(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("s,W\n0,1\n1,0\n3,2\n4,0\n")
    text = Path(str(_file("rf"))).read_text().replace('trace = "rf"', 'trace = "t.csv"')
    (tmp_path / "mine.toml").write_text(text)
    trace = trace_of(load_supply(tmp_path / "mine.toml"))
    assert trace.until(4.0) == pytest.approx(3.0)
    for bad in ("0,1\n", "0,1\n0,2\n", "0,1\n1,x\n", "0,-1\n1,1\n", "0,0\n1,0\n"):
        (tmp_path / "t.csv").write_text(bad)
        with pytest.raises(SasError, match=r"power trace"):
            trace_of(load_supply(tmp_path / "mine.toml"))


def _file(name: str) -> Path:
    from sasimc.evaluation.supply import supply as module

    return Path(module.__file__).with_name(f"{name}.toml")


# -------------------------------------------------------------------------------------------------------------------- power cuts


@lru_cache
def _learned(engine: str = "fused", **changes: float) -> tuple[dict[str, Any], Intermittent | None]:
    """Everything that a training leaves but wear, and what powered it."""
    p = short_program(update="momentum")
    device = Device(p, engine, 1)
    powered = None
    if changes:
        powered = Intermittent(device, supply("rf", **changes), joules_of(p, price_list("sas")))
        device.run_with(powered.run)
    result = train(device, dataset(images=4), RECIPE)
    it = device.interpreter
    left = {
        "weights": {k: v.tobytes() for k, v in device.state().items()}, "host": it.state.host.tobytes(), "cycles": it.cycles, "events": dict(it.events),
        "epochs": [(e.loss, e.train_top1, e.val_top1) for e in result.epochs], "wear": it.state.wear.copy(),
    }  # fmt: skip
    return left, powered


@lru_cache
def _need() -> float:
    """Joules of the dearest run, journal included."""
    _, powered = _learned(storage=1e3)
    assert powered is not None
    return max(powered._needs.values())


@pytest.mark.parametrize("engine", ["fused", "bitserial", "step"])
def test_what_is_learned_does_not_depend_on_power_cuts(engine: str) -> None:
    whole, _ = _learned()
    cut, powered = _learned(engine, storage=1.3e3 * _need(), wake_energy=1e-3, storage_leakage=1e-3)
    assert powered is not None
    assert powered.cuts >= 5
    wear, worn = whole["wear"], cut["wear"]
    assert {k: v for k, v in cut.items() if k != "wear"} == {k: v for k, v in whole.items() if k != "wear"}
    assert (worn >= wear).all()
    assert worn.sum() - wear.sum() >= powered.rows_undone > 0  # written for nothing, and written back
    s = powered.spent
    used = s.useful + s.lost + s.waking + s.undoing + s.journal + s.leaked + s.overflow + powered.stored
    assert s.harvested == pytest.approx(used, rel=1e-9)
    assert powered.time == pytest.approx(s.on_s + s.off_s)


def test_a_device_that_waits_is_not_cut_off() -> None:
    p = short_program(update="momentum")
    device = Device(p, "fused", 1)
    source = supply(storage=1.5e3 * _need(), wake_energy=1e-3, storage_leakage=1e-3).model_copy(update={"policy": "wait"})
    powered = Intermittent(device, source, joules_of(p, price_list("sas")))
    device.run_with(powered.run)
    train(device, dataset(images=4), RECIPE)
    assert powered.cuts <= 2  # the first of each kind may be
    assert powered.wakes > 5
    assert {k: v.tobytes() for k, v in device.state().items()} == _learned()[0]["weights"]


def test_the_useful_energy_is_that_of_the_run_without_cuts() -> None:
    whole, _ = _learned()
    _, powered = _learned(storage=1.3e3 * _need(), wake_energy=1e-3, storage_leakage=1e-3)
    price = joules_of(short_program(update="momentum"), price_list("sas"))
    assert powered is not None
    assert powered.spent.useful == pytest.approx(price(whole["events"], whole["cycles"]))
    assert powered.spent.journal == pytest.approx(whole["events"]["host_bits_out"] * 5e-12)


def test_a_supply_that_cannot_do_it_is_refused() -> None:
    p = short_program()
    for changes, said in (
        ({"storage": 0.3e3 * _need(), "wake_energy": 1e-5, "power": 1e-6, "storage_leakage": 0.0}, "cut off 100 times in a row"),
        ({"storage_leakage": 1e5}, "never fills its storage"),
    ):
        device = Device(p, "fused", 1)
        device.run_with(Intermittent(device, supply("constant", **changes), joules_of(p, price_list("sas"))).run)
        with pytest.raises(SasError, match=said):
            train(device, dataset(), RECIPE)


# -------------------------------------------------------------------------------------------------------------------------- idle


def test_break_even_is_where_the_lines_cross() -> None:
    off, kept, loaded = Way("a", "off", 5.0, 0.0), Way("b", "retained", 1.0, 0.5), Way("b", "reloaded", 4.0, 0.0)
    assert off.breaks_even(kept) == 8.0
    assert off.joules(8.0) == kept.joules(8.0)
    assert off.breaks_even(loaded) is None
    assert Way("c", "off", 1.0, 0.0).breaks_even(kept) == 0.0
    assert idle_table(Idling("an image", 1, (off, kept, loaded))).rows[-1] == ("a is cheaper", "", "from 8.00 s", "never")


# ---------------------------------------------------------------------------------------------------------------------- commands


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_program(short_program(), tmp_path / "p.s")
    for name in ("train/a/0", "train/a/1", "train/b/0", "train/b/1", "test/a/0", "test/b/0"):
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (len(name), 40 * ("b" in name), 99)).save(path)
    run = [str(tmp_path / "p.s"), "--train", str(tmp_path / "set"), "--epochs", "1", "--engine", "fused"]
    assert invoke(sasrun.app, [*run, "--power", "solar", "--json", str(tmp_path / "r.json")]) == 0
    assert "power solar (simulated" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["power"]["runs"] == 3  # batches of 2: training, what was held back, test
    assert invoke(sasc.app, ["idle", str(tmp_path / "r.json"), "--against", "sram", "--json", str(tmp_path / "i.json")]) == 0
    assert "sas is cheaper" in capsys.readouterr().out
    bursts = json.loads((tmp_path / "i.json").read_text())["bursts"]
    assert {b["burst"]: b["bursts"] for b in bursts} == {"a training step": 1, "an image": report["images"] - 2}
    retained = bursts[0]["ways"][1]
    cells = 64 * 512 * len(report["layout"]["subarrays"])
    assert retained["idle"] == pytest.approx(50e-12 * cells)
    lives = [
        "life",
        str(tmp_path / "r.json"),
        "--technology",
        "sas",
        "--technology",
        "sram",
        "--nominal",
        "--code",
        "none",
        "--runs-per-day",
        "1",
    ]
    assert invoke(sasc.app, [*lives, "--json", str(tmp_path / "l.json")]) == 0
    assert "endurance alone" in capsys.readouterr().out
    sas, sram = json.loads((tmp_path / "l.json").read_text())["lives"]
    assert sas["limit"] == "retention"
    assert sas["all_years"] > 100
    assert sram["retention_years"] is None
    for words, said in (
        (["--power", "sola"], "solar"),
        (["--power", "none.toml"], "cannot read"),
        (["--power", "rf", "--cross-check", "2"], "--cross-check"),
    ):
        assert invoke(sasrun.app, [*run, *words]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "bad.toml").write_text(_file("rf").read_text().replace("value = 0.9", "value = 9"))
    assert invoke(sasrun.app, [*run, "--power", str(tmp_path / "bad.toml")]) == 2
    assert "wake_level is 9" in capsys.readouterr().err
