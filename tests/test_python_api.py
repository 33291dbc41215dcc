"""The Python interface: what dir() shows, short representations, tensors between the layers, errors that name the real fault."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from models import mobilenet_like, ort_session, plain_cnn, random_graph, residual_net, with_all_outputs
from PIL import Image
from whole_path import compile_onnx, embedded, machine_with

import sasimc
from sasimc.backend.compile import Compiled
from sasimc.cli import sasrun
from sasimc.cli.common import invoke
from sasimc.costs import cost_of_report
from sasimc.datasets.procedural import draw
from sasimc.ir import interp
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device
from sasimc.runtime.interpreter import Interpreter
from sasimc.zoo.zoo import default_model_path


@pytest.fixture(scope="module", name="embedded")
def embedded_network() -> Compiled:
    return embedded()


def photos(n: int) -> npt.NDArray[np.uint8]:
    return np.stack([draw("flowers", i, i, 96) for i in range(n)])


def integers(compiled: Compiled, n: int, seed: int = 0) -> npt.NDArray[np.int8 | np.uint8]:
    """Stored inputs (uint8 with three channels: RGB bytes)."""
    t = compiled.graph.type(compiled.graph.inputs[0])
    dtype = {"u8": np.uint8, "i8": np.int8}[t.dtype]
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, (n, *t.shape)).astype(dtype)


# ----------------------------------------------------------------------------------------------------------------- activations


def layer_by_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The QDQ graph cut at its quantised tensors: each is an output where it is computed, and an input ``fed:NAME`` where it is read."""
    cut = with_all_outputs(model)
    types = {o.name: o.type.tensor_type.elem_type for o in cut.graph.output}
    for node in cut.graph.node:
        for i, name in enumerate(node.input):
            if name in types:
                node.input[i] = f"fed:{name}"
    cut.graph.input.extend(onnx.helper.make_tensor_value_info(f"fed:{name}", dtype, None) for name, dtype in types.items())
    return cut


def test_every_layer_of_the_embedded_network_is_onnxruntimes(embedded: Compiled) -> None:
    """onnxruntime, without optimisations, computes every layer from the tensors that we recorded: the same, or one step off in rare ties."""
    device = Device(embedded.program, "fused", 2)
    images = photos(2)
    found = device.activations(images)
    model = onnx.load(default_model_path())
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    quant = {
        n.output[0]: (constants[n.input[1]], constants[n.input[2]]) for n in model.graph.node if n.op_type == "QuantizeLinear"
    }
    ours = {a.tensor: a for a in found.values()}
    (first,) = set(quant) - set(ours)  # the quantised input
    assert len(found) > len(ours) > 90
    feeds = {"input": np.zeros((2, 3, 96, 96), np.float32), f"fed:{first}": device.input.integers(images).transpose(0, 3, 1, 2)}
    for name, a in ours.items():
        scale, zero = quant[name]
        assert a.scale == pytest.approx(float(scale), rel=1e-7)
        stored = (a.values.astype(np.int64) - a.zero + int(zero)).astype(zero.dtype)
        feeds[f"fed:{name}"] = stored.reshape(2, -1) if name == "classifier.q:0" else stored.transpose(0, 3, 1, 2)
    session = ort_session(layer_by_layer(model))
    computed = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    different = 0
    for name in ours:
        off = np.abs(computed[name].astype(np.int64) - feeds[f"fed:{name}"].astype(np.int64))
        assert off.max() <= 1, name
        assert (off > 0).mean() <= 0.01, name
        different += int((off > 0).sum())
    assert different <= 1e-4 * sum(a.values.size for a in ours.values())
    assert (found["classifier"].values[:, 0, 0] == device.infer(images).logits).all()
    real = found["features.1.conv.1"]
    np.testing.assert_allclose(real.real, real.scale * (real.values.astype(float) - real.zero), rtol=1e-6)


@pytest.mark.parametrize("machine", [None, "small", "host"])
@pytest.mark.parametrize(
    "model",
    [residual_net(), plain_cnn(size=24), mobilenet_like(size=24), *(random_graph(seed) for seed in range(3))],
    ids=["residual", "plain", "mobilenet", *(f"random{seed}" for seed in range(3))],
)
def test_activations_are_the_reference_semantics(model: onnx.ModelProto, machine: str | None) -> None:
    """Also in stripes, with the tensors in host memory, concatenated, padded, reshaped, and computed channel block by channel block."""
    options = {
        None: {}, "small": {"buffer__bytes": 6_000, "accumulator__entries": 1024, "array__bit_columns": 64},
        "host": {"buffer__bytes": 3_000, "accumulator__entries": 2048},
    }[machine]  # fmt: skip
    try:
        compiled = compile_onnx(model, machine=machine_with(**options))
    except SasError as exc:
        pytest.skip(f"the machine is too small: {exc.diagnostic.message[:60]}")
    device = Device(compiled.program, "bitserial", 1)
    x = integers(compiled, 2)
    expected = interp.run(compiled.graph, {compiled.graph.inputs[0]: device.input.integers(x)})
    found = device.activations(x)
    assert {a.tensor for a in found.values()} == {op.output for op in compiled.graph.ops if op.kind != "argmax"}
    for name, a in found.items():
        t = compiled.graph.type(a.tensor)
        assert (a.values == expected[a.tensor]).all(), name
        assert (a.scale, a.zero, a.values.shape[1:]) == (t.scale, t.zero, t.shape)


def test_activations_by_name_with_the_weights_as_they_are(embedded: Compiled) -> None:
    device, images = Device(embedded.program, "fused", 2), photos(2)
    device.train_step(images, [0, 1])
    counted = (device.interpreter.cycles, dict(device.interpreter.events), device.interpreter.state.wear.sum(), device.images)
    names = ["classifier", "features.0.0", "features.0.0.relu6", "features.0.0.q:0"]
    found = device.activations(images, names)
    assert list(found) == names
    assert (found["features.0.0"].values == found["features.0.0.q:0"].values).all()
    after = (device.interpreter.cycles, dict(device.interpreter.events), device.interpreter.state.wear.sum(), device.images)
    assert counted == after
    assert (found["classifier"].values[:, 0, 0] == device.infer(images).logits).all()
    assert repr(found["classifier"]).startswith("Activation('classifier.q:0', int8 2x1x1x10, scale ")
    with pytest.raises(SasError, match=r"(?s)computes no node or tensor 'clasifier'.*did you mean 'classifier'"):
        device.activations(images, ["clasifier"])
    bare = dataclasses.replace(embedded.program, meta={k: v for k, v in embedded.program.meta.items() if k != "tensors"})
    with pytest.raises(SasError, match=r"(?s)does not say where its layers' results stand.*compile the model again"):
        Device(bare, "fused", 1).activations(images)


# ---------------------------------------------------------------------------------------------------- what there is, in short


def test_dir_shows_what_there_is() -> None:
    """Every public name is listed once, imports, and is what the type checker is told."""
    assert set(sasimc.__all__) <= set(dir(sasimc))
    for name in sasimc.__all__:
        assert getattr(sasimc, name) is not None
    tree = ast.parse(Path(sasimc.__file__).read_text(encoding="utf-8"))
    told = {
        alias.name: node.module
        for block in tree.body if isinstance(block, ast.If)
        for node in block.body if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }  # fmt: skip
    assert told == sasimc._LAZY
    with pytest.raises(AttributeError, match="no attribute 'compil'"):
        _ = sasimc.compil  # type: ignore[attr-defined]


def test_importing_sasimc_loads_nothing_heavy() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys, sasimc; dir(sasimc); print([m for m in ('numba', 'onnx', 'numpy') if m in sys.modules])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "[]"


def test_representations_are_short(embedded: Compiled) -> None:
    device = Device(embedded.program, "fused", 1)
    for thing in (embedded, embedded.program, embedded.graph, embedded.placement, embedded.plan, device):
        assert len(repr(thing)) < 300, type(thing)
    assert repr(embedded.program).startswith("<Program mobilenetv2_repnet: infer, train_step; ")
    assert "machine sas28" in repr(embedded)


# ----------------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((1, 96, 96, 3), np.int64), r"(?s)array: int64.*the input's own integers \(int8\)"),
        (np.zeros((1, 50, 50, 3), np.int64), r"(?s)array: int64.*real values \(float32\)"),
        (np.zeros((1, 50, 50, 3), np.float32), r"(?s)array \[1, 50, 50, 3\].*takes \[3, 96, 96\]"),
        (np.zeros((1, 3, 96, 96), np.uint8), r"(?s)channels first.*transpose\(0, 2, 3, 1\)"),
        (np.zeros((3, 96, 96), np.uint8), r"(?s)channels first.*transpose\(1, 2, 0\)"),
        (np.zeros((0, 96, 96, 3), np.uint8), "0 images, the program was compiled for 1 to 8"),
        (np.zeros((9, 96, 96, 3), np.uint8), "9 images, the program was compiled for 1 to 8"),
    ],
)
def test_what_is_wrong_with_images(embedded: Compiled, images: npt.NDArray[np.generic], message: str) -> None:
    device = Device(embedded.program, "fused", 1)
    for use in (device.infer, device.activations):
        with pytest.raises(SasError, match=message):
            use(images)
    assert device.images == 0


def test_what_is_wrong_with_labels_and_programs(embedded: Compiled) -> None:
    device, images = Device(embedded.program, "fused", 1), photos(2)
    for labels, message in (
        ([0.0, 1.0], "labels are float64; numbers of classes"),
        ([0], "2 images and 1 labels"),
        ([0, 10], "the classifier has classes 0..9"),
        (["a", "b"], "labels are <U1"),
    ):
        with pytest.raises(SasError, match=message):
            device.train_step(images, labels)
    with pytest.raises(SasError, match=r"(?s)runs a Program, not a Compiled.*compile_model\(\.\.\.\)\.program"):
        Device(embedded)  # type: ignore[arg-type]
    it = device.interpreter
    with pytest.raises(SasError, match="input holds integers; the array is float64"):
        it.write_view("input", np.zeros(5))
    with pytest.raises(SasError, match=r"input is \(96, 96, 3\); the array is \(5,\)"):
        it.write_view("input", np.zeros(5, np.int8))


# ------------------------------------------------------------------------------------------------------------------------ cost


def test_cost_and_report_of_a_device(embedded: Compiled, tmp_path: Path) -> None:
    """The same figures as `sasrun --json` and `sasc report` give for the same work."""
    device, images = Device(embedded.program, "fused", 2), photos(3)
    with pytest.raises(SasError, match="done nothing yet"):
        sasimc.cost(device)
    for i in range(3):
        sasimc.save_program(embedded.program, tmp_path / "prog.s")
        Image.fromarray(images[i]).save(tmp_path / f"{i}.png")
        device.infer(images[i])
    words = [str(tmp_path / "prog.s"), "--engine", "fused", "--json", str(tmp_path / "run.json")]
    assert invoke(sasrun.app, [*words, *(w for i in range(3) for w in ("--input", str(tmp_path / f"{i}.png")))]) == 0
    expected = cost_of_report(tmp_path / "run.json")
    spent = sasimc.cost(device)
    assert device.images == spent.run.images == 3
    assert spent.energy == expected.energy > 0
    assert spent.by_node() == expected.by_node()
    assert {n: f.value for n, f in spent.figures.items()} == {n: f.value for n, f in expected.figures.items()}
    assert sasimc.cost(device, "sram").figures["area"].value > spent.figures["area"].value
    assert len(repr(spent)) < 300
    with pytest.raises(SasError, match="no technology is called 'sass'"):
        sasimc.cost(device, "sass")
    assert sasimc.report(device, tmp_path / "page.html").energy == spent.energy
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "features.0.0" in text
    assert "Floor plan" in text
    with pytest.raises(SasError, match="cannot write"):
        sasimc.report(device, tmp_path / "nowhere" / "page.html")


# ------------------------------------------------------------------------------------------------------------ overwritten views


def test_a_view_reads_what_was_computed_or_says_that_it_is_gone(embedded: Compiled) -> None:
    """After a run, every view of every layer: the tensor last computed through it, or an error."""
    device, images = Device(embedded.program, "fused", 2), photos(2)
    found = device.activations(images)
    device.infer(images)
    by_tensor = {a.tensor: a for a in found.values()}
    last = {view: by_tensor[name] for name, _, _, _, _, view, _ in json.loads(embedded.program.meta["tensors"])}
    it, stands, gone = device.interpreter, 0, ""
    for view, a in last.items():
        try:
            assert (it.read_view(view) == a.values[-1]).all(), view
            stands += 1
        except SasError as exc:
            gone += f"{exc}\n"
            assert it.read_view(view, stale=True).shape == a.values.shape[1:]
    assert stands >= 3
    assert len(re.findall(r"row \d+ of \S+ (?:was overwritten through|is gone: its ring)", gone)) == len(last) - stands >= 20


VIEWS = """.machine "sas28"
.view all buf i8 4x2x3 addr=0
.view half buf i8 4x2x2 addr=1 row=6 pix=3
.view other buf i8 1x2x2 addr=4
.view ring buf i8 6x1x4 addr=100 row=4 ring=2
.view host host i8 6x1x4 addr=0 batch=64
.entry first
fill all, 1, r0:4
fill half, 2, r0:4
halt
.entry second
fill all, 1, r0:4
fill other, 3, r0:1
halt
.entry third
li r8, 0
loopi 3
hld ring, host, r0, r8:2
addi r8, r8, 2
endl
halt
"""


def test_what_stands_in_the_buffer() -> None:
    """Parts of a tensor are no other tensor; rings hold their last rows; what the host writes stands; a stepped run says nothing."""
    it = Interpreter(sasimc.assemble(VIEWS), "fused", 1)
    it.run("first")
    assert it.read_view("all").tolist() == [[[1, 2, 2]] * 2] * 4
    assert (it.read_view("half") == 2).all()
    it.run("second")
    with pytest.raises(SasError, match=r"(?s)row 0 of all was overwritten through other when entry second had ended.*stale=True"):
        it.read_view("all")
    with pytest.raises(SasError, match="row 0 of half was overwritten through other"):
        it.read_view("half")
    assert it.read_view("all", stale=True)[0].tolist() == [[1, 1, 1], [1, 3, 3]]
    assert it.read_view("other")[0].tolist() == [[3, 3], [3, 3]]
    it.write_view("all", np.arange(24, dtype=np.int8).reshape(4, 2, 3))
    assert (it.read_view("all").reshape(-1) == np.arange(24)).all()
    it.run("third")
    with pytest.raises(SasError, match="row 0 of ring is gone: its ring of 2 rows holds row 4 in its place"):
        it.read_view("ring")
    assert (it.read_view("all").reshape(-1) == np.arange(24)).all()
    for _ in it.steps("second"):
        pass
    assert it.read_view("all").shape == (4, 2, 3)


# ------------------------------------------------------------------------------------------------------------------------ pages


@pytest.mark.parametrize("page", ["how-to/python.md", "how-to/export.md"])
def test_the_examples_of_the_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, in one namespace, in a folder with a model."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    blocks = [b for b in re.findall(r"^```python\n(.*?)^```$", text, flags=re.S | re.M) if "--8<--" not in b]
    assert len(blocks) >= 2
    shutil.copy(default_model_path(), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"images": photos(2), "labels": np.array([0, 1])}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= ({"run.html", "trained.onnx"} if page == "how-to/python.md" else {"trained.onnx"})


def test_single_instructions_on_many_threads_give_the_same(embedded: Compiled) -> None:
    """Helpers that come late must find the work they were called for, not the next instruction's."""
    images = photos(2)
    one = Device(embedded.program, "fused", 1).activations(images)
    for _ in range(3):
        many = Device(embedded.program, "fused", 4).activations(images)
        assert all(np.array_equal(one[name].values, many[name].values) for name in one)
