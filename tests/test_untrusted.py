"""Files that fuzzing found to end in a traceback (docs/explanation/untrusted-files.md), and that the fuzzer sees what it shall see."""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from onnx import helper

from sasimc.api import CompileOptions, compile_model
from sasimc.cli.network import names_of
from sasimc.datasets.arrays import parse_npy
from sasimc.datasets.fetch import unpack_tar
from sasimc.datasets.preprocess import Preprocess
from sasimc.evaluation.nvsim.importer import import_files
from sasimc.evaluation.run import load_run
from sasimc.frontend.load import load_model
from sasimc.isa import cache
from sasimc.isa.analysis.check import check_matrix
from sasimc.isa.analysis.lint import lint
from sasimc.isa.binary.container import decode_program, encode_program
from sasimc.isa.errors import SasError
from sasimc.isa.files import load_program
from sasimc.isa.machine import load_machine
from sasimc.isa.objects import Matrix, Tile
from sasimc.isa.text.assembler import assemble, assemble_source
from sasimc.quantise.preprocessing import find_preprocess

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))

import itertools

import harness
import mutants
import mutate

TEXT = '.sas 1\n.machine "sas28"\n.code\n.entry main\n    li r1, 3\n    halt\n'


def test_a_tar_whose_xz_stream_is_damaged(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as t:
        info = tarfile.TarInfo("a.bin")
        info.size = 50_000
        t.addfile(info, io.BytesIO(random.Random(0).randbytes(50_000)))
    data = bytearray(out.getvalue())
    data[20_000:30_000] = b"\xff" * 10_000
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(SasError, match="damaged archive"):
        unpack_tar(tmp_path / "a.tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("data", "said"), [(b'["cat", "dog', "not a JSON list of class names"), (b"cat\n\x8b\n", "not a text file")]
)
def test_damaged_files_of_class_names(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "l.txt").write_bytes(data)
    with pytest.raises(SasError, match=said):
        names_of(str(tmp_path / "l.txt"))


@pytest.mark.parametrize("code", [0x110000, 0xD800])
def test_text_arrays_that_are_not_unicode(code: int) -> None:
    out = io.BytesIO()
    np.save(out, np.array(["ab"]))
    data = bytearray(out.getvalue())
    data[-4:] = code.to_bytes(4, "little")
    with pytest.raises(SasError, match="not Unicode"):
        parse_npy(bytes(data), "x.npy")


@pytest.mark.parametrize(
    "lines",
    [b"", b"[]", b"\xff", b'{"code": [1, 2]}', b'{"code": ["a", "b"], "declared": []}', b'{"code": [1, 1], "declared": [[]]}'],
)
def test_a_kept_form_with_other_lines_counts_as_not_there(tmp_path: Path, lines: bytes) -> None:
    text = TEXT.encode() + b";" * cache.SHORTEST
    (tmp_path / "a.s").write_bytes(text)
    whole = load_program(tmp_path / "a.s")
    kept = cache.cache_of(tmp_path / "a.s")
    _, key, _, size = cache._HEAD.unpack_from(kept.read_bytes())
    body = lines + kept.read_bytes()[cache._HEAD.size + size :]
    kept.write_bytes(cache._HEAD.pack(cache._MAGIC, key, zlib.crc32(body, len(lines)), len(lines)) + body)
    again = load_program(tmp_path / "a.s")
    assert again == whole
    assert [i.line for i in again.code] == [5, 6]


def _with_functions(depth: int, calls: int, first: str) -> onnx.ModelProto:
    """A network whose input passes a chain of local functions, each of which calls the next so many times."""
    model = models.mlp()
    names = [*(f"F{i}" for i in range(depth)), first]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    for name, inner in itertools.pairwise(names):
        nodes = [helper.make_node(inner, [f"t{i}"], [f"t{i + 1}"], domain="my" if inner[0] == "F" else "") for i in range(calls)]
        model.functions.append(helper.make_function("my", name, ["t0"], [f"t{calls}"], nodes, imports))
    model.opset_import.append(imports[1])
    node = model.graph.node[0]
    model.graph.node.insert(0, helper.make_node("F0", [node.input[0]], ["through"], domain="my"))
    model.graph.node[1].input[0] = "through"
    return model


@pytest.mark.parametrize(
    ("depth", "calls", "first", "said"),
    [(3, 2, "Identity", ""), (40, 2, "Identity", "nodes with its local functions"), (3, 1, "F1", "call themselves")],
)
def test_local_functions_that_never_end_or_grow(tmp_path: Path, depth: int, calls: int, first: str, said: str) -> None:
    onnx.save(_with_functions(depth, calls, first), tmp_path / "m.onnx")
    if not said:
        assert sum(n.op_type == "Identity" for n in load_model(tmp_path / "m.onnx").graph.node) == calls**depth
        return
    with pytest.raises(SasError, match=said):
        load_model(tmp_path / "m.onnx")


def test_text_of_an_onnx_file_that_is_not_utf8(tmp_path: Path) -> None:
    model = models.mlp()
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="there.bin")
    (tmp_path / "there.bin").write_bytes(bytes(4096))
    (tmp_path / "m.onnx").write_bytes(
        model.SerializeToString().replace(b"there.bin", b"\xffhere.bin").replace(b"location", b"locatio\xff")
    )
    with pytest.raises(SasError, match="not UTF-8"):
        load_model(tmp_path / "m.onnx")


def test_a_matrix_far_larger_than_its_tiles_takes_no_memory() -> None:
    """Its weights were counted one by one, with their places: 6 GiB."""
    machine, tile = load_machine(), Tile(0, 0, 0, 0, 0, 4, 3)
    tracemalloc.start()
    found = list(check_matrix(machine, Matrix("w", "dense", "compute", 1 << 14, 1 << 14, "w", False, (tile,))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [f"{(1 << 28) - 12} or more of its weights stand in no tile"]
    assert peak < 1 << 20
    assert list(check_matrix(machine, Matrix("w", "dense", "compute", 5, 3, "w", False, (tile,)))) == [
        "weight (4, 0) of copy 0 stands in no tile"
    ]


def test_a_window_that_no_sum_can_hold() -> None:
    with pytest.raises(SasError, match="1073741824 elements"):
        assemble(".geom g kernel=32768x32768\n")


def test_a_content_of_a_test_that_no_integer_of_the_machine_holds() -> None:
    text = '.desc\n.view z buf i8 1x1x4\n.code\n.entry e\nhalt\n.tests\n.test "t"\n.init z 18446744073709551616\n.run e\n'
    with pytest.raises(SasError, match="18446744073709551616 is not a value of z"):
        assemble_source(text)


def test_a_circuit_of_a_negative_area(tmp_path: Path) -> None:
    (tmp_path / "a.pim").write_text("-Subaddon component Area (um^2): 17.3, -1\n", encoding="utf-8")
    with pytest.raises(SasError, match="not negative"):
        import_files([tmp_path / "a.pim"])


def test_a_tensor_of_the_binary_form_without_elements() -> None:
    program = replace(
        assemble(".entry infer\n    halt\n"), tensors={"t": np.zeros((0, 1 << 40), np.int8)}, inline=frozenset({"t"})
    )
    with pytest.raises(SasError, match="without elements"):
        decode_program(encode_program(program))


def test_memories_of_a_machine_that_the_linter_does_not_follow() -> None:
    """It took 12 bytes for each of 2^32 accumulators, whether a view reached them or not."""
    text = TEXT.replace('"sas28"\n', '"sas28"\n.set accumulator.entries = 4294967296\n.desc\n.view a acc i32 1x1x1 addr={}\n')
    assert not lint(assemble(text.format(8)))
    (found,) = lint(assemble(text.format(1 << 31)))
    assert (found.severity, "farther than memory is followed" in found.message) == ("warning", True)


def test_a_config_beside_a_model_whose_sizes_overflow(tmp_path: Path) -> None:
    config = {"pretrained_cfg": {"mean": [0.5], "std": [0.5], "crop_pct": 5e-324}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert find_preprocess(onnx.ModelProto(), tmp_path / "m.onnx", 32, {}).guess


@pytest.mark.parametrize("size", [[[]], [], [{}, {}], [32, [32]], "32"])
def test_sizes_of_preprocessing_that_are_no_numbers(size: Any) -> None:
    with pytest.raises(SasError, match="preprocessing: 'size' is"):
        Preprocess.from_json({"size": size, "resize": 64})


def test_a_squeeze_that_drops_a_batch_of_one() -> None:
    model = models.plain_cnn(size=6, channels=(3, 4))
    node = next(n for n in model.graph.node if n.name == "conv1_relu")
    node.op_type = "Squeeze"
    with pytest.raises(SasError, match=r"has the shape \[4, 3, 3\], not 36 elements"):
        compile_model(model, CompileOptions(verify=True))


def test_a_run_report_with_half_a_place(tmp_path: Path) -> None:
    report = {
        "schema": 1, "machine_description": load_machine().model_dump(mode="json"), "profile": [], "cycles": 1, "images": 1,
        "wear": {"worst": 0, "mean": 0, "rows": 0, "total": 0, "worst_row": [0]},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(SasError, match="the report is damaged"):
        load_run(tmp_path / "run.json")


def test_an_edited_text_whose_register_is_none() -> None:
    pytest.importorskip("lsprotocol")
    from lsprotocol.types import Position

    from sasimc.lsp.complete import complete
    from sasimc.lsp.document import Document

    document = Document()
    document.update(".tests\n.expect_reg addi 3\n.init_reg r7 1\n.init_reg r")
    assert "r7" in {item.label for item in complete(document, Position(3, 11))}


def test_quick_fixes_for_a_text_that_got_shorter() -> None:
    types = pytest.importorskip("lsprotocol.types")
    from sasimc.lsp.document import Document
    from sasimc.lsp.edits import fixes
    from sasimc.lsp.facts import gather

    text = ".sas 1\n.code\n.entry main\n    hallt\n"
    document, shown = Document(), types.Diagnostic(types.Range(types.Position(3, 0), types.Position(3, 5)), "")
    found = [(shown, d) for d in gather(text, Path("p.s")).diagnostics]
    document.update(text)
    assert [a.title for a in fixes(document, "file:///p.s", found)] == ["Change to halt"]
    document.update(".sas 1")
    assert not list(fixes(document, "file:///p.s", found))


# --------------------------------------------------------------------------------------------------------------------- the fuzzer itself


def _outside(data: bytes, folder: Path) -> None:
    (folder.parent / "secret").write_bytes(data)


def _traceback(data: bytes, folder: Path) -> None:
    raise KeyError("x")


def _refused(data: bytes, folder: Path) -> None:
    raise SasError("no")


def _fine(data: bytes, folder: Path) -> None:
    (folder / "a").write_bytes(data)


@pytest.mark.parametrize(
    ("read", "counts"), [(_fine, [1, 1, 0, 0]), (_refused, [1, 0, 1, 0]), (_traceback, [1, 0, 0, 1]), (_outside, [1, 1, 0, 1])]
)
def test_the_fuzzer_tells_results_and_refusals_from_finds(
    tmp_path: Path, read: Callable[[bytes, Path], None], counts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    np.zeros(4, np.int64).tofile(tmp_path / "tally")
    cases = harness.Cases("kind", harness.Kind(lambda: [b"x"], read), tmp_path / "tally", tmp_path / "finds")
    cases.one(b"x")
    assert cases.tally.tolist() == counts
    assert ("FIND" in capsys.readouterr().err) == bool(counts[3])


def test_mutations_are_repeatable_and_change_something() -> None:
    for change in (mutate.mutated, mutate.mutated_text):
        made = [change(b"rows = 32\nname = 'x'\n", [b"a = 1"], random.Random(seed)) for seed in range(40)]
        assert made == [change(b"rows = 32\nname = 'x'\n", [b"a = 1"], random.Random(seed)) for seed in range(40)]
        assert len(set(made)) > 30


def test_planted_faults_are_single_and_compile_as_python(tmp_path: Path) -> None:
    source = Path(mutants.__file__).resolve().parents[1] / "runtime" / "kernels" / "periphery.py"
    kinds = set()
    for seed in range(60):
        path = tmp_path / "periphery.py"
        path.write_bytes(source.read_bytes())
        fault = mutants.plant(path, random.Random(seed))
        if fault is not None:
            kinds.add(fault["kind"])
            compile(path.read_text(), str(path), "exec")
    assert kinds >= {"operator", "constant", "bound", "dropped term"}
