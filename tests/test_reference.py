"""The floating-point reference and table I: the float reference against onnxruntime, what is quantised, training, cells and their table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from sasimc import reference  # noqa: E402
from sasimc.cli.common import invoke  # noqa: E402
from sasimc.cli.sasc import app  # noqa: E402
from sasimc.datasets.dataset import open_dataset  # noqa: E402
from sasimc.isa.errors import SasError  # noqa: E402
from sasimc.reference import cells, table1  # noqa: E402
from sasimc.reference.float_reference import FloatReference  # noqa: E402
from sasimc.reference.training import train_float  # noqa: E402
from sasimc.training.recipe import Recipe, ReferenceSection  # noqa: E402
from sasimc.zoo.zoo import RepSpec, ZooOptions, build, write  # noqa: E402

MODULES = (RepSpec(2, 4, 3, 1), RepSpec(7, 8, 3, 2), RepSpec(17, 8, 3, 2))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def zoo(path: Path, **options: Any) -> Path:
    base: dict[str, Any] = {"width": 0.25, "resolution": 32, "classes": 12, "modules": MODULES, "calibration_images": 4}
    return write(build("mobilenetv2-repnet", ZooOptions(**{**base, **options})), path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo(tmp_path_factory.mktemp("twin") / "model.onnx")


def pictures(n: int = 4) -> Any:
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (n, 3, 32, 32)).astype(np.float32))


def run_onnx(path: Path, x: Any) -> np.ndarray[Any, Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # without it, sums saturate where there is no VNNI
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_int8_reference_of_a_frozen_network_is_the_quantised_network(tmp_path: Path) -> None:
    """Nothing trainable: every quantisation of the file is done. Sums of products are exact in float32; what rounds to one side here
    and to the other there can move a logit by a few steps of 1/16 and no more."""
    path = zoo(tmp_path / "frozen.onnx", classes=None, modules=())
    x = pictures()
    with torch.no_grad():
        ours, other = FloatReference(path, int8=True).eval()(x).numpy(), run_onnx(path, x)
        apart = FloatReference(path).eval()(x).numpy()
    step = float(np.diff(np.unique(other)).min())
    assert np.mean(np.abs(ours - other) < 1e-4) > 0.9
    assert np.abs(ours - other).max() <= 3 * step
    assert np.mean(np.abs(apart - other) < 1e-4) < 0.5  # the float reference is another network


def test_float_reference_is_the_network_without_quantisation(model: Path, tmp_path: Path) -> None:
    """onnxruntime with the activations' QuantizeLinear and DequantizeLinear taken out."""
    import onnx

    m = onnx.load(str(model))
    weights = {i.name for i in m.graph.initializer}
    rename: dict[str, str] = {}
    kept = []
    for node in m.graph.node:
        node.input[:] = [rename.get(i, i) for i in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in weights:
            rename[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    last = rename["logits"]
    for node in kept:
        node.output[:] = ["logits" if o == last else o for o in node.output]
    del m.graph.node[:]
    m.graph.node.extend(kept)
    del m.graph.value_info[:]
    onnx.save(m, str(tmp_path / "float.onnx"))
    x = pictures()
    with torch.no_grad():
        assert np.allclose(FloatReference(model).eval()(x).numpy(), run_onnx(tmp_path / "float.onnx", x), atol=1e-4, rtol=1e-3)


def test_only_the_frozen_part_is_quantised(model: Path) -> None:
    from sasimc.reference.float_reference import _fake_quantise

    steps = {s.name: s for s in FloatReference(model, int8=True)._steps}
    quantised = {name.removesuffix(".q") for name, s in steps.items() if s.run is _fake_quantise}
    own = {name for name in quantised if name.startswith("rep.") and not name.endswith(".sum")}
    assert not own
    assert {"rep.2.sum", "rep.7.sum", "rep.17.sum", "input", "features.18.0"} <= quantised
    assert not {"avgpool", "classifier"} & quantised
    assert not any(s.run is _fake_quantise for s in FloatReference(model)._steps)


def test_parameters_and_frontier(model: Path) -> None:
    twin = FloatReference(model, batch_norm=True, gain=0.25)
    head, rep = twin.groups()
    assert sum(p.numel() for p in head) == 12 * 1280 + 12
    assert sum(p.numel() for p in rep) == sum(w.numel() for n, w in twin.weights.items() if n.startswith("rep")) + sum(
        p.numel() for p in twin.norms.parameters()
    )
    gains = {n: float(norm.weight.detach()[0]) for n, norm in twin.norms.items()}
    assert {g for n, g in gains.items() if "conv1" in n} == {1.0}
    assert {g for n, g in gains.items() if "conv2" in n} == {0.25}
    x = pictures()
    before = [f.clone() for f in twin.prefix(x)]
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, twin.prefix(x), strict=True))
    assert len(before) == 2  # the small image of the first module, and the block it corrects


def test_gradients_reach_every_module_and_agree_with_finite_differences(model: Path) -> None:
    twin = FloatReference(model).double()
    twin._constants = {n: c.double() if c.is_floating_point() else c for n, c in twin._constants.items()}
    x, y = pictures().double(), torch.tensor([0, 1, 2, 3])

    def loss() -> Any:
        return torch.nn.functional.cross_entropy(twin(x), y)

    loss().backward()
    for name, p in twin.weights.items():
        assert p.grad is not None
        assert p.grad.abs().max() > 0, name
        place = np.unravel_index(int(p.grad.abs().argmax()), p.shape)
        grad, width = float(p.grad[place]), 1e-6 * max(1.0, float(p.detach().abs().max()))
        with torch.no_grad():
            p[place] += width
            up = loss().item()
            p[place] -= 2 * width
            down = loss().item()
            p[place] += width
        assert math.isclose((up - down) / (2 * width), grad, rel_tol=2e-2, abs_tol=1e-7), name  # ReLU kinks may lie in between


def test_a_last_batch_of_one_image_is_no_obstacle(model: Path) -> None:
    """On a 1 x 1 map one image has no spread; the running statistics stand in."""
    twin = FloatReference(model, batch_norm=True).train()
    assert torch.isfinite(twin(pictures(1))).all()
    before = next(iter(twin.norms.values())).running_mean.clone()
    twin(pictures(4))
    assert not torch.equal(before, next(iter(twin.norms.values())).running_mean)


def test_training_repeats_and_learns(model: Path) -> None:
    data = open_dataset("drawn-shapes", size=32, per_class=(2, 0, 1))
    recipe = Recipe(epochs=4, keep="last", reference=ReferenceSection(lr_head=3e-3, gain=0.25))

    def run(recipe: Recipe) -> tuple[list[float], FloatReference]:
        twin = FloatReference(model, batch_norm=True, gain=0.25)
        return [e.loss for e in train_float(twin, data, recipe).epochs], twin

    (first, a), (second, b) = run(recipe), run(recipe)
    assert first == second
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert first[-1] < 0.95 * first[0]
    kept = recipe.augment.model_copy(update={"cached": 4})  # as many draws as epochs: the same images, computed once
    assert run(recipe.model_copy(update={"augment": kept}))[0] == first


def result(dataset: str, config: int, seed: int, top1: float, **more: Any) -> dict[str, Any]:
    base = {"dataset": dataset, "config": config, "seed": seed, "top1": top1, "counts": {"train": 90, "val": 10, "test": 100},
            "classes": 5, "side_px": 64, "size": 96, "split": "test", "epochs": [{}] * 7, "wall_s": 2.0, "simulated_s": None,
            "bits_written": None, "bits_flipped": None, "cross_checked": None, "right": "1" * round(top1) + "0" * (100 - round(top1))}  # fmt: skip
    return {**base, **more}


def test_summary_means_deviations_and_paired_differences() -> None:
    made = table1.summary(
        [result("a", 2, s, v) for s, v in enumerate((70, 72, 74))]
        + [result("a", 4, s, v) for s, v in enumerate((71, 71, 74))]
        + [result("flowers", 2, s, v) for s, v in enumerate((50, 50))]
        + [result("flowers", 4, s, v, simulated_s=3.0) for s, v in enumerate((40, 44))]
    )
    rows = {(r["dataset"], r["config"]): r for r in made["rows"]}
    assert rows["a", 2]["top1_mean"] == 72
    assert rows["a", 2]["top1_std"] == 2
    assert math.isclose(rows["a", 2]["images_standard_error"], math.sqrt(72 * 28 / 100))
    assert rows["flowers", 4]["paper_top1"] == 94.7
    assert rows["a", 4]["paper_top1"] is None
    assert rows["flowers", 4]["simulated_s"] == 3.0
    differences = {(d["dataset"], d["config"], d["less"]): d for d in made["differences"]}
    assert differences["a", 4, 2]["points"] == 0
    assert math.isclose(differences["a", 4, 2]["standard_error"], 1 / math.sqrt(3))
    assert differences["mean of 2", 4, 2]["points"] == -4
    assert math.isclose(
        differences["mean of 2", 4, 2]["standard_error"], math.hypot(1 / math.sqrt(3), math.sqrt(8) / math.sqrt(2)) / 2
    )
    assert ("a", 4, 1) not in differences
    # over images, of the means of three seeds: one gains a third (seed 0), one loses a third (seed 1), 98 are the same
    assert math.isclose(differences["a", 4, 2]["images_standard_error"], math.sqrt(2 * (100 / 3) ** 2 / 99) / 10)


def test_images_that_cannot_be_read_have_no_difference() -> None:
    (difference,) = table1.summary([result("a", 2, 0, 50, right="-110"), result("a", 4, 0, 50, right="-011")])["differences"]
    assert math.isclose(difference["images_standard_error"], 100 / math.sqrt(3))


def test_what_is_not_comparable_is_said() -> None:
    said = "\n".join(table1.not_comparable([result("cars", 2, 0, 10.0), result("mine", 2, 0, 10.0)]))
    for part in (
        "96 px, the paper's 224",
        "short side of 64 px",
        "cars: a subset or another split, 90 + 10",
        "8144",
        "mine: not in the paper",
        "7 epochs",
    ):
        assert part in said
    whole = result("flowers", 2, 0, 10.0, counts={"train": 2040, "val": 0, "test": 6149}, size=224, side_px=500, epochs=[{}] * 50)
    assert len(table1.not_comparable([whole])) == 1


def test_the_whole_table_on_drawn_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["paper", "table1", "--datasets", "drawn-shapes", "-o", str(tmp_path / "o"), "--seeds", "1", "--size", "32", "--width", "0.25",
            "--weights", "random", "--epochs", "1", "--limit", "12", "--threads", "1", "--cross-check", "1", "--json", str(tmp_path / "t.json")]  # fmt: skip
    assert invoke(app, args) == 0
    first = json.loads((tmp_path / "t.json").read_text())
    assert [r["config"] for r in first["rows"]] == [1, 2, 3, 4]
    assert first["rows"][3]["cross_checked"] > 0
    for cell in first["cells"]:
        assert len(cell["right"].replace("-", "")) == 12
        assert math.isclose(100 * cell["right"].count("1") / 12, cell["top1"])
    assert first["rows"][3]["bits_written"] > 0
    lines = (tmp_path / "o" / "curves.csv").read_text().splitlines()
    assert len(lines) == 5
    assert (tmp_path / "o" / "curves-drawn-shapes.png").read_bytes().startswith(b"\x89PNG")
    assert "not in the paper" in capsys.readouterr().out

    monkeypatch.setattr(cells.Runner, "run", lambda *_, **__: pytest.fail("a finished cell was run again"))
    assert invoke(app, args) == 0
    assert json.loads((tmp_path / "t.json").read_text()) == first
    next((tmp_path / "o" / "cells").glob("*.json")).write_text("{", encoding="utf-8")
    assert invoke(app, args) == 2
    assert "delete the file" in capsys.readouterr().err


@pytest.mark.parametrize("config", [1, 4])
def test_a_cell_of_a_worker_is_that_of_this_process(tmp_path: Path, config: int) -> None:
    """Its file, times aside, and its model, byte for byte."""
    from sasimc.cluster.pool import Serial
    from sasimc.table1_cells import CellTask, compiler, run_cell

    cell, recipe, found = cells.Cell("drawn-shapes", config, 0), Recipe(epochs=1, limit=12), []
    for name in ("here", "there"):
        runner = cells.Runner(cells.Settings(tmp_path / name, 32, 0.25, recipe=recipe, split="val"), compiler("fused", 1))
        if name == "here":
            runner.run(cell)
        else:
            task = CellTask(runner, cell, "fused", 1)
            task.take(next(Serial(run_cell).run([task], {}, None))[1])
        made = runner.finished(cell)
        assert made is not None
        for part in (made, *made["epochs"]):
            del part["wall_s"]
        found.append((runner.path(cell).name, made, {p.name: p.read_bytes() for p in (tmp_path / name / "models").iterdir()}))
    assert found[0] == found[1]


def test_a_cell_is_known_by_what_its_numbers_depend_on(tmp_path: Path) -> None:
    cell = cells.Cell("drawn-shapes", 2, 0)

    def path(recipe: str = "", config: int = 2, **changes: Any) -> Path:
        file = tmp_path / "r.toml"
        file.write_text(recipe, encoding="utf-8")
        settings = cells.Settings(out=tmp_path, recipe=str(file), **{"size": 32, **changes})
        return cells.Runner(settings, lambda *_: pytest.fail("compiled")).path(cells.Cell(cell.dataset, config, 0))

    assert path() == path() == path("seed = 3") == path("[head_exponent]\nfirst = 1\nlast = 0")
    assert path(config=4) == path("[reference]\nlr_rep = 0.5", config=4)
    different = [path(), path("epochs = 3"), path(epochs=4), path(size=64), path(split="val"), path(hold_back=0.3), path(config=4),
                 path("[head_exponent]\nfirst = 1\nlast = 0", config=4), path("[reference]\nlr_rep = 0.5")]  # fmt: skip
    assert len(set(different)) == len(different)


def test_a_cell_is_known_by_the_content_of_its_first_weights(tmp_path: Path) -> None:
    """Not by the file's path; without modules they do not matter."""
    names = {}
    for config in (1, 2):
        for what, content in (("one", b"1"), ("again", b"1"), ("other", b"2")):
            file = tmp_path / f"{what}.npz"
            file.write_bytes(content)
            zoo = {"module_weights": str(file)}
            settings = cells.Settings(tmp_path, 32, recipe=Recipe.model_validate({"zoo": zoo}))
            names[config, what] = cells.Runner(settings, lambda *_: pytest.fail("compiled")).path(
                cells.Cell("drawn-shapes", config, 0)
            )
    assert names[2, "one"] == names[2, "again"] != names[2, "other"]
    assert names[1, "one"] == names[1, "again"] == names[1, "other"]


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra, said in [
        (["--configs", "5"], "--configs"),
        (["--datasets", "nonesuch"], "nonesuch"),
        (["--recipe", "nonesuch"], "nonesuch"),
        (["--split", "train"], "train"),
        (["--weights", str(tmp_path / "none")], "none"),
    ]:
        args = ["paper", "table1", "--datasets", "drawn-shapes", "-o", str(tmp_path / "o"), "--size", "32", *extra]
        assert invoke(app, args) == 2
        assert said in capsys.readouterr().err


def test_without_torch_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda name: None)
    assert invoke(app, ["paper", "table1", "--datasets", "drawn-shapes", "-o", str(tmp_path / "o")]) == 2
    assert "pip install 'sas-imc[reference]'" in capsys.readouterr().err
    with pytest.raises(SasError, match="torch and matplotlib"):
        reference.require()


def test_a_recipe_builds_the_network_of_every_configuration(tmp_path: Path) -> None:
    """Its section zoo is none of the integers' alone."""
    recipe = Recipe.model_validate({"zoo": {"wiring": "pooled", "calibration_images": 1}})
    runner = cells.Runner(
        cells.Settings(tmp_path, 32, 0.25, recipe=recipe),
        lambda *_: pytest.fail("compiled"),
        {"d": open_dataset("drawn-shapes", size=32, per_class=(1, 1, 1))},
    )
    joins = [
        [n.op_type for n in onnx.load(runner.model(cells.Cell("d", config, 0))).graph.node].count("Concat")
        for config in (1, 2, 4)
    ]
    assert joins == [0, 1, 1]


def test_mu_schedules_of_a_recipe_reach_the_device(tmp_path: Path) -> None:
    """Large steps move the weights far, tiny ones hardly: the recipe's mu is what configuration 4 uses."""
    flipped = {}
    for mu in (5, -6):
        recipe = tmp_path / f"{mu}.toml"
        recipe.write_text(
            f"epochs = 1\n[head_exponent]\nfirst = {mu}\nlast = {mu}\n[module_exponent]\nfirst = {mu}\nlast = {mu}\n[modules]\nwait = 1.0\n",
            encoding="utf-8",
        )
        args = ["paper", "table1", "--datasets", "drawn-shapes", "-o", str(tmp_path / "o"), "--seeds", "1", "--size", "32", "--width", "0.25",
                "--weights", "random", "--limit", "8", "--threads", "1", "--cross-check", "0", "--configs", "4", "--recipe", str(recipe),
                "--json", str(tmp_path / "t.json")]  # fmt: skip
        assert invoke(app, args) == 0
        flipped[mu] = json.loads((tmp_path / "t.json").read_text())["rows"][0]["bits_flipped"]
    assert flipped[5] > 1.2 * flipped[-6]
