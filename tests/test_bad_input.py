"""Bad input to the commands: a clear message, exit code 2, no traceback, nothing half-written and nothing changed."""

from __future__ import annotations

import json
import re
import resource
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.isa.files import save_program

ASM = """.sas 1
.machine "sas28"
.param n r1
.desc
.view x.host host u8 1x2x4 addr=0 batch=8
.view x buf u8 1x2x4 addr=0
.view y buf i8 1x2x3 addr=16
.view sums acc i32 1x2x3 addr=0
.geom point kernel=1x1
.mat w dense compute 4x3 tensor="w"
.tile sub=0 size=4x3
.table q requant zero=0 lo=-128 hi=127 bias=[0*3] mult=[0x40000000*3] shift=[35*3]
.data
.tensor "w" i8 4x3 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
.code
.entry infer
    li r3, 0
    loop r1
      hld x, x.host, r3, all
      vmm sums, x, w, point, all
      req y, sums, q, all
      addi r3, r3, 1
    endl
    halt
"""

PRETRAIN = ("--head-init", "zero", "--calibration-images", "1")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard error, standard output."""

    code: int
    err: str
    out: str


class Scene:
    """A folder with good files; a test spoils one of them and runs a command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def _state(self) -> dict[str, bytes]:
        found = (p for p in self.folder.rglob("*") if p.is_file() and p.suffix != ".cache")  # the kept form of a text
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in found}

    def run(self, *args: str | Path) -> Outcome:
        """``sasc`` or ``sasrun`` with arguments, in this process."""
        app = {"sasc": sasc.app, "sasrun": sasrun.app}[str(args[0])]
        rest = [str(a) for a in args[1:]]
        self.capsys.readouterr()
        code = invoke(app, rest, str(args[0]))
        said = self.capsys.readouterr()
        return Outcome(code, said.err, said.out)

    def refuses(self, *args: str | Path, message: str) -> Outcome:
        """Run a command that must fail with this message (a regular expression) and must not change the folder."""
        before = self._state()
        got = self.run(*args)
        assert got.code == 2, f"exit code {got.code}: {got.err or got.out}"
        said = got.err + got.out
        assert "Traceback" not in said
        assert re.search(message, said, re.DOTALL | re.IGNORECASE), f"expected {message!r} in:\n{said}"
        after = self._state()
        assert after.keys() == before.keys(), f"files appeared or vanished: {sorted(after.keys() ^ before.keys())}"
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, f"files changed: {changed}"
        return got


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    onnx.save(models.mobilenet_like(size=8, width=4, modules=1), folder / "model.onnx")
    compiled = compile_model(folder / "model.onnx", CompileOptions(batch=2))
    for name in ("prog.s", "prog.bin"):
        save_program(compiled.program, folder / name)
    (folder / "small.s").write_text(ASM, encoding="utf-8")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / "rose.jpg")
    shutil.copy(Path(str(resources.files("sasimc.isa"))) / "sas28.toml", folder / "machine.toml")
    (folder / "set").mkdir()
    lines = ["file,class_id,split"]
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / "set" / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{'train' if i < 4 else 'test'}")
    (folder / "set" / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def scene(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    shutil.copytree(good, tmp_path / "work")
    return Scene(tmp_path / "work", capsys)


def test_the_good_files_are_good(scene: Scene) -> None:
    """Each command accepts what the tests below spoil."""
    for args in (
        ["sasc", "check", scene / "model.onnx"],
        ["sasc", "compile", scene / "model.onnx", "-o", scene / "new.s", "--machine", scene / "machine.toml", "--batch", "2"],
        ["sasc", "lint", scene / "small.s"],
        ["sasc", "asm", scene / "small.s", "-o", scene / "small.bin"],
        ["sasc", "disasm", scene / "prog.bin"],
        ["sasrun", scene / "prog.s", "--input", scene / "rose.jpg", "--engine", "fused"],
        ["sasrun", scene / "prog.bin", "--train", scene / "set", "--epochs", "1", "--engine", "fused", "--no-augment"],
    ):
        got = scene.run(*args)
        assert got.code == 0, f"{args[:2]}: {got.err}{got.out}"


# --- ONNX ------------------------------------------------------------------------------------------------------------------


def _edit(change: Callable[[onnx.ModelProto], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        path.write_bytes(model.SerializeToString())

    return apply


def _node(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == op)


def _set(model: onnx.ModelProto, part: str, value: float | Sequence[int]) -> None:
    """Overwrite the first initialiser whose name contains ``part``."""
    tensor = next(t for t in model.graph.initializer if part in t.name)
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(old, value), tensor.name))


def _cycle(model: onnx.ModelProto) -> None:
    nodes = [n for n in model.graph.node if n.op_type == "Conv"]
    nodes[0].input[0] = next(n.output[0] for n in model.graph.node if n.name == "tail_dq")


def _external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if "weight" in t.name)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "16")):
            tensor.external_data.add(key=key, value=value)

    return change


def _unsupported(model: onnx.ModelProto) -> None:
    node = _node(model, "Clip")
    node.op_type = "Hardmax"
    del node.input[1:]


def _huge_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if "weight" in t.name)
    tensor.dims[:] = [1 << 40, 1 << 20, 3, 3]


def _huge_input(model: onnx.ModelProto) -> None:
    for d, size in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (1 << 24, 1 << 24), strict=True):
        d.dim_value = size


def _negative_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -8


def _float_conv(model: onnx.ModelProto) -> None:
    node = _node(model, "Conv")
    weight = next(n for n in model.graph.node if node.input[1] in n.output)
    name = weight.output[0]
    shape = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == weight.input[0])).shape
    model.graph.node.remove(weight)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))


ONNX_CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-200]), "not an ONNX model|cut off|bytes"),
    "garbage": (lambda p: p.write_bytes(bytes(range(256)) * 20), "not an ONNX model"),
    "text": (lambda p: p.write_text("hello, I am a text file\n" * 9), "not an ONNX model"),
    "image": (lambda p: p.write_bytes((p.parent / "rose.jpg").read_bytes()), "not an ONNX model"),
    "missing": (lambda p: p.unlink(), "no such file"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "is a folder"),
    "unsupported operator": (_edit(_unsupported), "stem_clip.*Hardmax|Hardmax.*not supported"),
    "NaN scale": (_edit(lambda m: _set(m, "_scale", float("nan"))), "scale.*(nan|finite|positive)"),
    "zero scale": (_edit(lambda m: _set(m, "_scale", 0.0)), "scale.*(0|positive)"),
    "negative scale": (_edit(lambda m: _set(m, "_scale", -1.0)), "scale.*(-1|positive|negative)"),
    "infinite weight scale": (_edit(lambda m: _set(m, "w_scale", float("inf"))), "scale.*(inf|finite)"),
    "huge tensor": (_edit(_huge_weight), "sensible size|needs \\d+"),
    "huge input": (_edit(_huge_input), "(shape|size|too|\\d{5,})"),
    "negative input size": (_edit(_negative_input), "-8|size|shape|dimension"),
    "cycle": (_edit(_cycle), "cycle"),
    "undefined name": (_edit(lambda m: _node(m, "Conv").input.__setitem__(0, "nowhere")), "nowhere.*nothing defines"),
    "name defined twice": (_edit(lambda m: m.graph.node.append(_node(m, "Conv"))), "defined twice"),
    "no nodes": (_edit(lambda m: m.graph.ClearField("node")), "no nodes|nothing defines|not defined"),
    "old operator set": (_edit(lambda m: setattr(m.opset_import[0], "version", 9)), "operator set 9"),
    "future operator set": (_edit(lambda m: setattr(m.opset_import[0], "version", 900)), "operator set 900"),
    "external data escapes": (_edit(_external("../../etc/passwd")), "outside the model's folder"),
    "absolute external data": (_edit(_external("/etc/passwd")), "not a path relative"),
    "external data missing": (_edit(_external("weights.bin")), "weights.bin"),
    "float network": (_edit(_float_conv), "quantis|quantiz|DequantizeLinear"),
    "trainable list damaged": (_edit(lambda m: helper.set_model_props(m, {"sasimc.trainable": "[oops"})), "sasimc.trainable"),
    "trainable layer unknown": (
        _edit(lambda m: helper.set_model_props(m, {"sasimc.trainable": '["haed"]'})),
        "haed.*did you mean 'head'",
    ),
}


@pytest.mark.parametrize("command", ["check", "compile"])
@pytest.mark.parametrize("case", ONNX_CASES)
def test_models(case: str, command: str, scene: Scene) -> None:
    spoil, message = ONNX_CASES[case]
    path = scene / "model.onnx"
    spoil(path)
    extra = ["-o", scene / "prog.s"] if command == "compile" else []
    scene.refuses("sasc", command, path, *extra, message=message)


# --- options ---------------------------------------------------------------------------------------------------------------

OPTION_CASES: dict[str, tuple[list[str], str]] = {
    "unknown command": (["sasc", "compil"], "compil"),
    "unknown option": (["sasc", "compile", "model.onnx", "--bach", "8"], "--bach"),
    "batch 0": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--batch", "0"], "batch 0 is not in"),
    "batch is no number": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--batch", "many"], "--batch.*integer"),
    "backprop": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--backprop", "foo"], "foo.*exact"),
    "smoothing": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--eps", "1.5"], "1.5"),
    "smoothing NaN": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--eps", "nan"], "nan"),
    "trainable pattern": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--trainable", "nothing*"], "nothing\\*"),
    "pass name": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--print-ir-after", "simplfy"], "simplfy.*did you mean"),
    "output type": (["sasc", "compile", "model.onnx", "-o", "prog.txt"], "prog.txt.*\\.s or \\.bin"),
    "machine missing": (["sasc", "compile", "model.onnx", "-o", "prog.s", "--machine", "no.toml"], "no.toml"),
    "zoo name": (["sasc", "zoo", "mobilnetv2-repnet", "-o", "z.onnx"], "mobilenetv2-repnet"),
    "zoo classes": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--classes", "0"], "classes|0"),
    "zoo width": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--width", "-1"], "width"),
    "zoo width NaN": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--width", "nan"], "width"),
    "zoo resolution": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--size", "3"], "resolution|3"),
    "zoo modules": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--modules", "2:x"], "modules|2:x"),
    "zoo weights missing": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--weights", "nowhere"], "nowhere"),
    "zoo calibration missing": (["sasc", "zoo", "mobilenetv2-repnet", "-o", "z.onnx", "--calibrate", "nowhere"], "nowhere"),
    "engine": (["sasrun", "prog.s", "--engine", "fusd", "--input", "rose.jpg"], "fusd.*did you mean 'fused'"),
    "threads": (["sasrun", "prog.s", "--threads", "0", "--input", "rose.jpg"], "threads"),
    "mu": (["sasrun", "prog.s", "--train", "set", "--head-exponent", "big"], "--head-exponent.*big"),
    "mu range": (["sasrun", "prog.s", "--train", "set", "--module-exponent", "3:2:1"], "--module-exponent"),
    "mu NaN": (["sasrun", "prog.s", "--train", "set", "--module-exponent", "nan"], "--module-exponent"),
    "epochs": (["sasrun", "prog.s", "--train", "set", "--epochs", "-1"], "epochs"),
    "limit": (["sasrun", "prog.s", "--eval", "set", "--limit", "0"], "limit"),
    "split": (["sasrun", "prog.s", "--eval", "set", "--split", "tset"], "tset"),
    "cross-check": (["sasrun", "prog.s", "--eval", "set", "--cross-check", "-3"], "cross-check"),
    "program missing": (["sasrun", "nowhere.s", "--input", "rose.jpg"], "nowhere.s"),
    "program is a folder": (["sasrun", "set", "--input", "rose.jpg"], "set"),
    "program is a model": (["sasrun", "model.onnx", "--input", "rose.jpg"], "model.onnx"),
    "no device interface": (["sasrun", "small.s", "--input", "rose.jpg"], "interface"),
    "image missing": (["sasrun", "prog.s", "--input", "tulip.jpg"], "tulip.jpg"),
    "image is a program": (["sasrun", "prog.s", "--input", "prog.bin"], "prog.bin"),
    "data set unknown": (["sasrun", "prog.s", "--train", "flwers"], "flwers.*did you mean"),
    "fetch unknown": (["sasc", "data", "fetch", "flwers", "--data", "set"], "flwers"),
    "asm onto itself": (["sasc", "asm", "prog.bin"], "overwritten"),
    "asm to text": (["sasc", "asm", "small.s", "-o", "out.s"], "\\.bin"),
    "disasm to binary": (["sasc", "disasm", "prog.bin", "-o", "out.bin"], "\\.bin"),
    "lint missing": (["sasc", "lint", "nowhere.s"], "nowhere.s"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTION_CASES)
def test_options(case: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    args, message = OPTION_CASES[case]
    monkeypatch.chdir(scene.folder)
    monkeypatch.delenv("SASIMC_DATA", raising=False)
    scene.refuses(*args, message=message)


# --- machine files ---------------------------------------------------------------------------------------------------------

MACHINE_CASES = {
    "syntax": ("[array]", "[array", "TOML"),
    "unknown field": ("[array]", "[array]\nbankss = [16, 16]", "bankss"),
    "missing field": ("issue_cycles", "# issue_cycles", "issue_cycles"),
    "negative": ("bytes = 401_408", "bytes = -1", "buffer.bytes"),
    "zero": ("entries = 65_536", "entries = 0", "accumulator.entries"),
    "text for a number": ("rows = 64", 'rows = "many"', "array.rows"),
    "not a number": ("clock_hz = 200_000_000", "clock_hz = nan", "clock_hz"),
    "non-dividing activation": ("banks = [1, 16]", "banks = [3, 16]", "does not divide"),
    "unknown rule": ('rule = "row"', 'rule = "diagonal"', "activation.rule"),
    "half weights": ("bit_columns = 512", "bit_columns = 100", "multiple"),
    "absurd size": ("banks = [16, 16]", "banks = [4096, 4096]", "67108864 sub-arrays.*at most"),
}


@pytest.mark.parametrize("case", MACHINE_CASES)
def test_machine_files(case: str, scene: Scene) -> None:
    old, new, message = MACHINE_CASES[case]
    path = scene / "machine.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    scene.refuses("sasc", "compile", scene / "model.onnx", "-o", scene / "prog.s", "--machine", path, message=message)


def test_a_machine_file_that_is_no_text(scene: Scene) -> None:
    (scene / "machine.toml").write_bytes(b"\xff\xfe\x00name")
    scene.refuses(
        "sasc", "check", scene / "model.onnx", "--machine", scene / "machine.toml", message="machine.toml|machine description"
    )


def test_a_machine_too_small_says_the_numbers(scene: Scene) -> None:
    path = scene / "machine.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in (("banks = [16, 16]", "banks = [1, 1]"), ("banks = [1, 16]", "banks = [1, 1]"), ("rows = 64", "rows = 4")):
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    scene.refuses(
        "sasc",
        "compile",
        scene / "model.onnx",
        "-o",
        scene / "prog.s",
        "--machine",
        path,
        message=r"\d+ weights.*need.*\d+ sub-arrays",
    )


# --- assembly --------------------------------------------------------------------------------------------------------------

ASM_CASES = {
    "unknown mnemonic": ("vmm sums", "vmmm sums", r"small.s:\d+:\d+.*vmmm.*\^.*did you mean"),
    "too few operands": ("hld x, x.host, r3, all", "hld x, x.host, r3", "hld"),
    "too many operands": ("addi r3, r3, 1", "addi r3, r3, 1, 2", "addi"),
    "unknown view": ("hld x, x.host", "hld xx, x.host", "xx"),
    "unknown matrix": ("x, w, point", "x, ww, point", "ww"),
    "unknown geometry": ("w, point", "w, pint", "pint.*did you mean"),
    "unknown table": ("sums, q,", "sums, qq,", "qq"),
    "register range": ("li r3, 0", "li r64, 0", "r64"),
    "immediate range": ("li r3, 0", "li r3, 99999999999", "99999999999"),
    "unbalanced loop": ("    endl\n", "", "loop.*endl"),
    "endl alone": ("    loop r1\n", "", "endl"),
    "view twice": (".view y buf", ".view x buf", "x.*(twice|already)"),
    "entry twice": ("    halt\n", "    halt\n.entry infer\n    halt\n", "infer.*(twice|already)"),
    "view beyond the buffer": ("1x2x4 addr=0\n.view y", "1x2x4 addr=401404\n.view y", "beyond the buffer"),
    "tile beyond the sub-array": ("size=4x3", "row=62 size=4x3", "row 66 of 64|ends at row"),
    "sub-array that is not there": ("sub=0", "sub=1024", "1024"),
    "weights in no tile": ("size=4x3", "size=3x3", "stands in no tile"),
    "shapes disagree": ("4x3 tensor", "5x3 tensor", "(5|4) "),
    "tensor too short": ("11, 12]", "11]", "11|12"),
    "value beyond its type": ("11, 12]", "11, 128]", "128"),
    "wrong space": ("vmm sums, x", "vmm y, x", "accumulators"),
    "unknown directive": (".geom point", ".geometry point", "geometry"),
    "machine of another digest": ('"sas28"', '"sas28" sha256="0123456789abcdef"', "digest"),
    "machine field": ('"sas28"', '"sas28"\n.set buffer.bites=4096', "buffer.bites.*did you mean 'buffer.bytes'"),
    "machine value": ('"sas28"', '"sas28"\n.set buffer.bytes=-4', "buffer.bytes"),
    "version": (".sas 1", ".sas 7", "7"),
    "no halt": ("    halt\n", "", "halt"),
    "half a line": ("    vmm sums, x, w, point, all\n", "    vmm sums, x,\n", r"small.s:\d+:\d+"),
    "odd character": ("li r3, 0", "li r3, 0 §", r"small.s:\d+:\d+"),
    "shift out of range": ("shift=[35*3]", "shift=[99*3]", "99"),
    "array too short": ("bias=[0*3]", "bias=[0*2]", "differ in length|2"),
    "weights with a path": ('.tensor "w" i8 4x3 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]', '.weights "../w.safetensors" ""', "path|beside|w.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASM_CASES)
def test_assembly(case: str, scene: Scene) -> None:
    old, new, message = ASM_CASES[case]
    assert ASM.count(old) >= 1
    path = scene / "small.s"
    path.write_text(ASM.replace(old, new, 1), encoding="utf-8")
    (scene / "small.bin").write_bytes(b"old content")
    command = ["sasc", "lint", path] if case == "no halt" else ["sasc", "asm", path, "-o", scene / "small.bin"]
    scene.refuses(*command, message=message)


def test_several_mistakes_in_one_run(scene: Scene) -> None:
    (scene / "small.s").write_text(
        ASM.replace("vmm sums", "vmn sums").replace("req y", "reqq y").replace("li r3", "lii r3"), encoding="utf-8"
    )
    got = scene.refuses("sasc", "asm", scene / "small.s", message="vmn")
    assert got.err.count("error:") == 3
    assert got.err.count("^") >= 3


@pytest.mark.parametrize("data", [b"", b"\x00\x01\x02", b"\xff\xfe\xfa" * 50], ids=["empty", "zero bytes", "not UTF-8"])
def test_programs_that_are_no_text(data: bytes, scene: Scene) -> None:
    (scene / "small.s").write_bytes(data)
    scene.refuses("sasrun", scene / "small.s", "--input", scene / "rose.jpg", message=r"error: .*")


# --- program and weights files ---------------------------------------------------------------------------------------------


def _spoil(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


def _flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 0x5A

    return change


BINARY_CASES: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "truncated": (lambda d: d.__delitem__(slice(len(d) // 2, None)), "ends in"),
    "truncated header": (lambda d: d.__delitem__(slice(9, None)), "ends in its header"),
    "longer": (lambda d: d.extend(b"more"), "goes on"),
    "checksum": (_flip(-40), "checksum"),
    "version": (lambda d: d.__setitem__(slice(8, 10), struct.pack("<H", 77)), "version|section|checksum"),
    "section table": (_flip(20), "section|checksum|ends"),
    "magic": (_flip(1), "error"),
}


@pytest.mark.parametrize("case", BINARY_CASES)
def test_binary_programs(case: str, scene: Scene) -> None:
    change, message = BINARY_CASES[case]
    _spoil(scene / "prog.bin", change)
    scene.refuses("sasc", "disasm", scene / "prog.bin", "-o", scene / "prog.s", message=message)


@pytest.mark.parametrize("program", ["prog.s", "prog.bin"])
@pytest.mark.parametrize("case", ["missing", "wrong digest", "truncated", "other"])
def test_weights_files(case: str, program: str, scene: Scene) -> None:
    path = scene / "prog.weights.safetensors"
    message = "not the weights file this program was made with"
    if case == "missing":
        path.unlink()
        message = "is missing.*beside the program"
    elif case == "wrong digest":
        _spoil(path, _flip(-5))
    elif case == "truncated":
        _spoil(path, lambda d: d.__delitem__(slice(100, None)))
    else:
        shutil.copy(scene / "rose.jpg", path)
    scene.refuses("sasrun", scene / program, "--input", scene / "rose.jpg", message=message)


def test_meta_data_of_another_kind(scene: Scene) -> None:
    text = (scene / "prog.s").read_text(encoding="utf-8")
    (scene / "prog.s").write_text(re.sub(r'\.meta io ".*"', '.meta io "{}"', text), encoding="utf-8")
    scene.refuses("sasrun", scene / "prog.s", "--input", scene / "rose.jpg", message="meta data|interface")


# --- images and data sets --------------------------------------------------------------------------------------------------


def _bomb(path: Path) -> None:
    """A PNG header that promises 60,000 x 60,000 pixels."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[: len(p.read_bytes()) // 3]),
        lambda p: p.write_bytes(b"GIF89a nonsense"),
        lambda p: (p.unlink(), p.mkdir()),
        _bomb,
    ],
    ids=["empty", "truncated", "nonsense", "folder", "bomb"],
)
def test_images(spoil: Callable[[Path], object], scene: Scene) -> None:
    spoil(scene / "rose.jpg")
    scene.refuses("sasrun", scene / "prog.s", "--input", scene / "rose.jpg", message="rose.jpg")


CSV_CASES = {
    "empty": ("", "labels.csv"),
    "no file column": ("picture,class_id\n0.png,1\n", "labels.csv.*file"),
    "no class column": ("file,colour\n0.png,red\n", "labels.csv.*class"),
    "class is no number": ("file,class_id\n0.png,one\n", "labels.csv.*one"),
    "negative class": ("file,class_id\n0.png,-1\n", "labels.csv"),
    "huge class": ("file,class_id\n0.png,99999999999\n", "labels.csv"),
    "file missing": ("file,class_id\nnone.png,0\n0.png,1\n", "none.png"),
    "path escapes": ("file,class_id\n../../etc/passwd,0\n", "passwd"),
    "unknown split": ("file,class_id,split\n0.png,0,tomorrow\n", "tomorrow"),
    "too few columns": ("file,class_id,split\n0.png\n", "labels.csv"),
    "more classes than outputs": ("file,class_id\n" + "".join(f"{i % 6}.png,{i}\n" for i in range(9)), "classes"),
}


@pytest.mark.parametrize("case", CSV_CASES)
def test_labels(case: str, scene: Scene) -> None:
    text, message = CSV_CASES[case]
    (scene / "set" / "labels.csv").write_text(text, encoding="utf-8")
    scene.refuses("sasrun", scene / "prog.s", "--train", scene / "set", message=message)


def test_data_sets_that_are_none(scene: Scene) -> None:
    (scene / "void").mkdir()
    scene.refuses("sasrun", scene / "prog.s", "--eval", scene / "void", message="void")
    (scene / "not.zip").write_bytes(b"PK\x03\x04 nothing")
    scene.refuses("sasrun", scene / "prog.s", "--eval", scene / "not.zip", message="not.zip")
    scene.refuses("sasrun", scene / "prog.s", "--eval", scene / "rose.jpg", message="rose.jpg")
    (scene / "set" / "2.png").write_bytes(b"spoiled")
    scene.refuses("sasrun", scene / "prog.s", "--train", scene / "set", "--epochs", "1", message="2.png")


def test_training_a_program_that_cannot(scene: Scene) -> None:
    assert scene.run("sasc", "compile", scene / "model.onnx", "-o", scene / "only.s", "--inference-only").code == 0
    scene.refuses("sasrun", scene / "only.s", "--train", scene / "set", message="train_step")


# --- writing ---------------------------------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


COMMANDS = {
    "zoo": ["sasc", "zoo", "mobilenetv2-repnet", "--width", "0.35", "--size", "32", *PRETRAIN, "-o"],
    "compile": ["sasc", "compile", "model.onnx", "-o"],
    "asm": ["sasc", "asm", "prog.s", "-o"],
    "disasm": ["sasc", "disasm", "prog.bin", "-o"],
    "save": ["sasrun", "prog.s", "--input", "rose.jpg", "--engine", "fused", "--save"],
}
SUFFIX = {"zoo": ".onnx", "asm": ".bin"}


@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk(command: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a partial file nor a temporary one is left; an older file of that name keeps its content."""
    monkeypatch.chdir(scene.folder)
    target = scene / f"out{SUFFIX.get(command, '.s')}"
    target.write_bytes(b"old content")
    with file_size_limit(2000):
        scene.refuses(*COMMANDS[command], target, message=r"cannot write|too large|no space")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["no such folder", "below a file", "a folder"])
def test_places_that_cannot_be_written(command: str, where: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.folder)
    name = f"out{SUFFIX.get(command, '.s')}"
    target = {"no such folder": Path("nowhere") / name, "below a file": Path("rose.jpg") / name, "a folder": Path(name)}[where]
    if where == "a folder":
        (scene / name).mkdir()
    scene.refuses(*COMMANDS[command], target, message=re.escape(str(target.with_suffix(""))))


@pytest.mark.parametrize(
    "command",
    [["sasc", "compile", "model.onnx", "-o", "prog.s"], ["sasrun", "prog.s", "--input", "rose.jpg"]],
    ids=["compile", "run"],
)
def test_reports_that_cannot_be_written(command: list[str], scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's place is tried before the work is done: nothing else has been written then."""
    monkeypatch.chdir(scene.folder)
    for place in ("nowhere/report.json", "rose.jpg/report.json", "set"):
        scene.refuses(*command, "--json", place, message=re.escape(place))


def test_a_report_is_json(scene: Scene) -> None:
    got = scene.run("sasrun", scene / "prog.s", "--input", scene / "rose.jpg", "--engine", "fused", "--json", scene / "r.json")
    assert got.code == 0
    assert json.loads((scene / "r.json").read_text(encoding="utf-8"))["engine"] == "fused"
