"""Recipes: what a file may say, what is refused, schedules, and the image draws they ask for."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import plain_cnn
from rich.console import Console
from tiny_task import machine

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.cli.launch import Launch, open_session
from sasimc.datasets.dataset import hold_back, open_dataset
from sasimc.datasets.images import Augment, eval_crop, train_crop
from sasimc.datasets.loader import Loader
from sasimc.datasets.preprocess import Preprocess
from sasimc.isa.choices import shipped_recipes
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.isa.program import Program
from sasimc.passes.options import BackwardOptions
from sasimc.training.keeping import Best, KeepRule, keeps, standard_error
from sasimc.training.recipe import Recipe, Schedule, load_recipe, save_recipe
from sasimc.training.session import Session
from sasimc.training.session_options import SessionOptions, make_recipe
from sasimc.zoo.zoo import ZooOptions

SMALL = Preprocess(size=16, resize=18)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_and_survive_saving(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    save_recipe(recipe, tmp_path / "again.toml")
    assert load_recipe(tmp_path / "again.toml") == recipe


def test_what_is_left_out_has_the_default(tmp_path: Path) -> None:
    """There is one default recipe, ``default.toml``, and whatever makes a recipe begins with it."""
    (tmp_path / "empty.toml").write_text("", encoding="utf-8")
    written = tomllib.loads(
        Path(str(resources.files("sasimc.training") / "recipes" / "default.toml")).read_text(encoding="utf-8")
    )
    for recipe in (
        Recipe(),
        load_recipe(),
        load_recipe("default"),
        load_recipe(tmp_path / "empty.toml"),
        make_recipe(None, {}),
    ):
        assert recipe == Recipe()
        assert recipe.module_exponent == Schedule(**written["module_exponent"])
        assert recipe.head_exponent == Schedule(**written["head_exponent"])
        assert (recipe.epochs, recipe.keep) == (written["epochs"], written["keep"])
        assert recipe.compile == BackwardOptions()


mu = st.floats(-30, 30).map(lambda v: round(v, 3))
schedules = st.builds(Schedule, first=mu, last=mu, shape=st.sampled_from(["linear", "cosine"]))
recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 500),
    seed=st.integers(0, 2**31 - 1),
    limit=st.none() | st.integers(1, 10**6),
    head_exponent=schedules,
    augment=st.builds(Augment, area=st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 1)), cached=st.integers(0, 9)),
)


@given(recipes)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_text_round_trip(recipe: Recipe) -> None:
    from sasimc.training.recipe import recipe_text

    assert Recipe.model_validate(tomllib.loads(recipe_text(recipe))) == recipe


@pytest.mark.parametrize(
    "text, said",
    [
        ("epochs = 0", "epochs: "),
        ("epoch = 3", "epoch: "),
        ("[head_exponent]\nfirst = 99\nlast = 0", "head_exponent.first: "),
        ("[head_exponent]\nlast = 0", "head_exponent.first: "),
        ('[module_exponent]\nfirst = 1\nlast = 0\nshape = "step"', "module_exponent.shape: "),
        ("[augment]\narea = [0.9, 0.2]", "augment: "),
        ("[augment]\ncached = -1", "augment.cached: "),
        ("[compile]\neps = 1.0", "compile.eps: "),
        ("[compile]\nupdate = 'adam'", "compile.update: "),
        ("[compile]\nupdat = 'direct'", "compile.updat: "),
        ("[zoo]\nwidth = 1.0", "zoo.width: "),
        ("[data]\nhold_back = 0.9", "data.hold_back: "),
        ("[reference]\nlr_head = 0", "reference.lr_head: "),
        ("epochs = ", "not valid TOML"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SasError) as caught:
        load_recipe(path)
    assert said in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_an_unknown_name_is_answered_with_a_near_one(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="default"):
        load_recipe("defualt")
    with pytest.raises(SasError, match="no recipe"):
        load_recipe(tmp_path)


def test_which_epoch_is_kept() -> None:
    """40 validation images: 24 right, then 28, 26 and 20; one standard error of 28 of 40 is 2.9 images."""
    for rule, expected in (("late", 2), ("best", 1), ("last", 3)):
        best, kept = Best(), -1
        for epoch, right in enumerate((24, 28, 26, 20)):
            now = 100 * right / 40
            if best.takes(rule, now, standard_error(now, 40)):
                kept = epoch
        assert kept == expected, rule


@pytest.mark.parametrize("rule", ["late", "best", "last"])
def test_the_later_of_equal_epochs_is_kept_and_one_without_a_result(rule: KeepRule) -> None:
    assert keeps(rule, 100.0, 100.0, standard_error(100.0, 4))
    assert keeps(rule, float("nan"), float("nan"), 0.0)
    assert keeps(rule, 75.0, 100.0, standard_error(100.0, 4)) == (rule == "last")


def test_schedules() -> None:
    line = Schedule(first=4, last=-2)
    assert [line.at(s, 7) for s in range(7)] == [4, 3, 2, 1, 0, -1, -2]
    cosine = Schedule(first=4, last=-4, shape="cosine")
    values = [cosine.at(s, 101) for s in range(101)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[50], values[100]) == (4, 0, -4)
    assert values.count(4) > [Schedule(first=4, last=-4).at(s, 101) for s in range(101)].count(4)
    assert line.at(0, 1) == 4
    assert Schedule.parse("3", "--mu") == Schedule(first=3, last=3)
    assert Schedule.parse("3:-1.5:cosine", "--mu") == Schedule(first=3, last=-1.5, shape="cosine")
    for bad in ("", "x", "1:2:3", "1:2:linear:4", "99"):
        with pytest.raises(SasError, match="--mu"):
            Schedule.parse(bad, "--mu")


def test_cached_draws_repeat_and_are_those_of_their_number() -> None:
    data = open_dataset("drawn-shapes", size=24, per_class=(1, 1, 1))
    how = Augment(cached=2)
    loader = Loader(data, "train", SMALL, 4, seed=5, augment=how, shuffle=False)
    first, second, third = ([b[0] for b in loader.epoch(e)] for e in range(3))
    assert all(np.array_equal(a, b) for a, b in zip(first, third, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    fresh = Loader(data, "train", SMALL, 4, seed=5, augment=Augment(), shuffle=False)
    assert all(np.array_equal(a, b[0]) for a, b in zip(second, fresh.epoch(1), strict=True))


def test_area_flip_and_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    still = Augment(crop="middle", flip=False)
    assert np.array_equal(train_crop(image, SMALL, 0, 3, 1, still), eval_crop(image, SMALL))
    mirrored = [train_crop(image, SMALL, 0, e, 1, Augment(crop="middle")) for e in range(16)]
    plain = eval_crop(image, SMALL)
    kinds = {("plain" if np.array_equal(m, plain) else "mirror" if np.array_equal(m, plain[:, ::-1]) else "?") for m in mirrored}
    assert kinds == {"plain", "mirror"}
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 3, 2).repeat(200, 0)
    for e in range(20):
        row = train_crop(ramp, SMALL, 0, e, 0, Augment(area=(0.8, 1.0), flip=False))[8, :, 0].astype(int)
        assert row[-1] - row[0] > 200 * np.sqrt(0.8 * 0.75) * 0.85  # the narrowest rectangle allowed


def test_hold_back_keeps_test_images_and_every_class() -> None:
    data = open_dataset("drawn-shapes", size=24, per_class=(7, 3, 2))
    part = hold_back(data, 0.2, 1)
    assert part.items("test") == data.items("test")
    assert {*part.items("train"), *part.items("val")} == {*data.items("train"), *data.items("val")}
    assert not {*part.items("train")} & {*part.items("val")}
    per_class = np.bincount([i.class_id for i in part.items("val")], minlength=len(data.classes))
    assert (per_class == 2).all()
    assert hold_back(data, 0.0) is data
    assert hold_back(data, 0.2, 2).items("val") != part.items("val")


TRAINED = {"data": None, "train": "drawn-flowers", "engine": "fused", "threads": 1}


def _program(**compiled: Any) -> Program:
    model = plain_cnn(size=8, channels=(3,), classes=10)
    return compile_model(model, CompileOptions(batch=2, machine=machine(2), **compiled)).program


def _session(recipe: Path, **compiled: Any) -> Session:
    program = _program(**compiled)
    options = SessionOptions(program=program, recipe=str(recipe), changes={"limit": 2, "epochs": 1}, **TRAINED)
    return Session(options, Console(quiet=True))


@pytest.mark.parametrize(
    ("text", "compiled", "said"),
    [
        (
            '[compile]\nupdate = "direct"',
            {},
            r"--update direct; this one was compiled with 'momentum'[\s\S]*sasc compile --recipe",
        ),
        ("[compile]\neps = 0.2", {"eps": 0.3}, "--eps 0.2; this one was compiled with '0.3'"),
        ("[zoo]\nlogit_exponent = -3", {}, r"made neither by sasc zoo nor by sasc attach[\s\S]*sasc zoo --recipe"),
    ],
)
def test_a_recipe_for_another_program_is_refused(tmp_path: Path, text: str, compiled: dict[str, Any], said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SasError, match=said):
        _session(path, **compiled)


def test_a_recipe_for_another_program_is_refused_without_a_training(tmp_path: Path) -> None:
    path, program = tmp_path / "mine.toml", _program()
    path.write_text("[compile]\neps = 0.2", encoding="utf-8")
    with pytest.raises(SasError, match="compiled with --eps"):
        Session(SessionOptions(program=program, recipe=str(path), evaluate="drawn-flowers"), Console(quiet=True))
    with pytest.raises(SasError, match="compiled with --eps"):
        open_session(Launch(program, entries=("infer",), recipe=str(path)))


def test_a_recipe_for_this_program_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[compile]\nupdate = "direct"\neps = 0.2', encoding="utf-8")
    _session(path, update="direct", eps=0.2).close()
    path.write_text("epochs = 2", encoding="utf-8")
    _session(path, update="direct").close()


def test_a_model_without_a_recipe_is_that_of_the_default() -> None:
    """``sasc zoo`` and ``sasc compile`` without options make what ``sasrun --train``, which takes the default recipe, would make."""
    recipe, model, compiled = Recipe(), vars(ZooOptions()), vars(CompileOptions())
    assert recipe.zoo.model_dump() == {name: model[name] for name in recipe.zoo.model_dump()}
    assert recipe.compile_options() == {name: compiled[name] for name in recipe.compile_options()}


def test_compile_and_zoo_take_a_recipe(tmp_path: Path) -> None:
    """Options of the command line come before the recipe's, those before the defaults."""
    recipe, model, out = tmp_path / "mine.toml", tmp_path / "m.onnx", tmp_path / "p.s"
    compile_section = 'batch = 3\n[compile]\nupdate = "direct"\neps = 0.2\n'
    recipe.write_text(f"{compile_section}[zoo]\nlogit_exponent = -2\nheadroom = 2.0\ncalibration_images = 1", encoding="utf-8")
    size = ("--size", "32", "--width", "0.1", "--classes", "5", "--modules", "none", "--headroom", "1.5")
    assert invoke(sasc.app, ["zoo", "mobilenetv2-repnet", "-o", str(model), *size, "--recipe", str(recipe)]) == 0
    recipe.write_text(compile_section, encoding="utf-8")
    assert invoke(sasc.app, ["compile", str(model), "-o", str(out), "--recipe", str(recipe), "--eps", "0.3", "--no-verify"]) == 0
    meta = load_program(out).meta
    assert (meta["update"], meta["eps"], meta["batch"], meta["round_errors"]) == (
        "direct",
        "0.3",
        "3",
        BackwardOptions().round_errors,
    )
    made = json.loads(meta["note.sasimc.zoo"])
    assert (made["logit_exponent"], made["headroom"], made["rep_gain"]) == (-2, 1.5, ZooOptions().rep_gain)
    assert float(meta["logit_scale"]) == 0.25
    recipe.write_text("[zoo]\nlogit_exponent = -3", encoding="utf-8")  # of another network
    assert invoke(sasc.app, ["compile", str(model), "-o", str(tmp_path / "q.s"), "--recipe", str(recipe), "--no-verify"]) == 2
    assert not (tmp_path / "q.s").exists()
    assert invoke(sasc.app, ["explore", str(model), "-o", str(tmp_path / "q.html"), "--recipe", str(recipe)]) == 2
    assert not (tmp_path / "q.html").exists()


def test_one_command_builds_model_program_and_device(tmp_path: Path) -> None:
    """The recipe's sections zoo and compile are honoured; the classes are the data set's."""
    recipe, saved, image = tmp_path / "mine.toml", tmp_path / "p.s", tmp_path / "d.sas"
    recipe.write_text(
        'batch = 2\nepochs = 1\nlimit = 2\n[compile]\nupdate = "direct"\n[zoo]\nwiring = "pooled"\nlogit_exponent = -2\ncalibration_images = 1',
        encoding="utf-8",
    )
    what = ("--train", "drawn-shapes", "--weights", "random", "--size", "32", "--recipe", str(recipe))
    result = tmp_path / "r.json"
    out = ("--save", str(saved), "--image", str(image), "--json", str(result), "--engine", "fused", "--threads", "1")
    assert invoke(sasrun.app, [*what, *out]) == 0
    assert json.loads(result.read_text(encoding="utf-8"))["wall_s"] > 0
    meta = load_program(saved).meta
    made = json.loads(meta["note.sasimc.zoo"])
    assert (made["wiring"], made["logit_exponent"], meta["update"], meta["batch"]) == ("pooled", -2, "direct", "2")
    assert json.loads(meta["note.sasimc.labels"]) == list(open_dataset("drawn-shapes", size=32).classes)
    assert image.exists()


@pytest.mark.parametrize(
    "words",
    [("--weights", "random"), ("--weights", "random", "--train", "drawn-shapes", "--size", "32x48")],
    ids=["no data", "not square"],
)
def test_weights_without_what_they_need_are_refused(words: tuple[str, ...]) -> None:
    assert invoke(sasrun.app, list(words)) == 2
