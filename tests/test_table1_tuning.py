"""Table I with equal tuning, and what it costs, said before it starts."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from sasimc.cli import table1 as command
from sasimc.cli.common import invoke
from sasimc.cli.sasc import app
from sasimc.datasets.dataset import open_dataset
from sasimc.isa.errors import SasError
from sasimc.reference.cells import CONFIGURATIONS, Cell, Runner, Settings
from sasimc.table1_cells import compiler
from sasimc.table1_cost import probe
from sasimc.table1_tuning import MOVES, SPACE, chosen, log, moved, moves, trials, write_log
from sasimc.training.recipe import Recipe, Schedule


def _runner(out: Path, **changes: Any) -> Runner:
    data = open_dataset("drawn-shapes", size=32)
    return Runner(Settings(out, **{"size": 32, "width": 0.25, **changes}), compiler("fused", 1), {"shapes": data})


def test_every_configuration_has_the_same_number_of_settings() -> None:
    """However a recipe begins: places are steps from it, so none of the four has a finer or wider space, and no step of one leads nowhere."""
    assert set(SPACE) == set(CONFIGURATIONS)
    recipe = Recipe(head_exponent=Schedule(first=3, last=-1))
    for config in SPACE:
        made = [moved(recipe, config, (a, b)) for a in MOVES for b in MOVES]
        assert len({str(r) for r in made}) == len(MOVES) ** 2
        assert moved(recipe, config, (0, 0)) == recipe
    up = moved(recipe, 4, (1, -2))
    assert (up.head_exponent.first, up.head_exponent.last, up.module_exponent.first) == (4, 0, recipe.module_exponent.first - 2)
    down = moved(recipe, 2, (-2, 1)).reference
    assert math.isclose(down.lr_head, recipe.reference.lr_head / 10)
    assert math.isclose(down.lr_rep, recipe.reference.lr_rep * math.sqrt(10), rel_tol=1e-2)


@pytest.mark.parametrize("count", [1, 5, 16])
def test_trials_begin_with_the_recipe_and_repeat_no_place(count: int) -> None:
    found = moves(count)
    assert found[0] == (0, 0)
    assert len(set(found)) == count == len(found)
    assert found == moves(16)[:1] + found[1:]
    assert set(found) <= {(a, b) for a in MOVES for b in MOVES}


def _found(first: int, right: int) -> dict[str, Any]:
    """What a cell of 100 images says of which so many are right, from one on."""
    return {"top1": float(right), "right": ("0" * first + "1" * right).ljust(100, "0")}


def test_the_best_on_validation_images_is_taken_and_all_are_logged(tmp_path: Path) -> None:
    runner = _runner(tmp_path)
    made = trials(runner, ["shapes"], (1, 2, 4), 5)
    assert {t.runner.settings.split for t in made} == {"val"}
    assert (
        [t.move for t in made if t.config == 1]
        == [t.move for t in made if t.config == 2]
        == [t.move for t in made if t.config == 4]
    )
    right = {1: [50, 40, 30, 20, 10], 2: [10, 20, 70, 70, 30], 4: [1, 2, 3, 4, 8]}  # of equal ones the first
    for t in made:
        t.runner.keep(t.cell, _found(0, right[t.config][t.number]))
    best = chosen(made)
    assert {config: t.number for (_, config), t in best.items()} == {1: 0, 2: 2, 4: 4}
    assert best["shapes", 1].runner.recipe("shapes") == runner.recipe("shapes")
    write_log(made, tmp_path / "tuning.csv")
    rows = list(csv.DictReader((tmp_path / "tuning.csv").read_text(encoding="utf-8").splitlines()))
    assert [int(r["trial"]) for r in rows] == [*range(5)] * 3
    assert [r["config"] for r in rows if r["chosen"] == "True"] == ["1", "2", "4"]
    assert [float(r["val_top1"]) for r in rows] == right[1] + right[2] + right[4]
    assert rows[0]["first_axis"] == "reference.lr_classifier=0.001"
    assert len(list(log(made))) == 15
    with pytest.raises(SasError, match="no validation images"):
        trials(
            Runner(runner.settings, compiler("fused", 1), {"bare": open_dataset("drawn-shapes", size=32, per_class=(2, 0, 1))}),
            ["bare"],
            (1,),
            2,
        )


@pytest.mark.parametrize(("first", "right", "number"), [(0, 54, 1), (30, 54, 0), (30, 65, 1), (0, 50, 0), (0, 40, 0)])
def test_a_setting_must_be_clearly_better_than_the_recipe(tmp_path: Path, first: int, right: int, number: int) -> None:
    """The recipe has images 0 to 49 of 100 right. Four more are clear where no others are lost (4 of 2.0 points); where 30 others are, they are not (4 of 8)."""
    made = trials(_runner(tmp_path), ["shapes"], (4,), 2)
    for trial, found in zip(made, (_found(0, 50), _found(first, right)), strict=True):
        trial.runner.keep(trial.cell, found)
    assert chosen(made)["shapes", 4].number == number


def test_a_probe_predicts_what_a_whole_cell_spends(tmp_path: Path) -> None:
    """Cycles of the device do not depend on data, so that seconds are met exactly; bits written do."""
    runner, cell = _runner(tmp_path, limit=96, epochs=2), Cell("shapes", 4, 0)
    found = probe(runner, cell)
    predicted, made = found.cell(runner, cell), runner.run(cell)
    measured = found.classified * 96  # what follows the last epoch is in none of the cell's figures
    assert math.isclose((predicted - measured).device_s, made["simulated_s"], rel_tol=1e-9)
    assert 0.5 < predicted.bits / made["bits_written"] < 2
    assert predicted.joules > 0
    twice = found.cell(runner.varied(epochs=4), cell)
    assert math.isclose((twice - predicted).device_s, (predicted - measured).device_s, rel_tol=1e-9)


def test_the_command_says_the_cost_and_takes_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With trainings that are a formula; --dry-run makes no cell."""
    ran: list[tuple[str, float]] = []

    def run(self: Runner, cell: Cell, *_: Any) -> dict[str, Any]:
        rate, split = self.recipe(cell.dataset).reference.lr_classifier, self.settings.split
        ran.append((split, rate))
        right = round(1e5 * rate)
        made = {
            "dataset": cell.dataset, "config": cell.config, "seed": cell.seed, "top1": right / 10, "counts": {"train": 1, "val": 1, "test": 1}, "classes": 2, "side_px": 32,
            "size": 32, "split": split, "epochs": [], "wall_s": 0.0, "simulated_s": None, "bits_written": None, "bits_flipped": None, "cross_checked": None, "right": ("1" * right).ljust(1000, "0"),
        }  # fmt: skip
        self.keep(cell, made)
        return made

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(command, "_predict", lambda runner, cells, tried, workers: print(f"{len(tried)} + {len(cells)}"))
    words = [
        "paper",
        "table1",
        "--datasets",
        "drawn-shapes",
        "--configs",
        "1",
        "--size",
        "32",
        "--seeds",
        "2",
        "--weights",
        "random",
        "--tune",
        "16",
    ]
    assert invoke(app, [*words, "-o", str(tmp_path), "--dry-run"]) == 0
    assert "16 + 2" in capsys.readouterr().out
    assert not ran
    assert invoke(app, [*words, "-o", str(tmp_path)]) == 0
    best = max(rate for split, rate in ran if split == "val")
    assert [rate for split, rate in ran if split == "test"] == [best, best]
    assert len((tmp_path / "tuning.csv").read_text().splitlines()) == 17
