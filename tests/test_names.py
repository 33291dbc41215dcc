"""Names of nodes as exporters write them: text, binary, state and patterns all know the network's own names."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from qdq_net import Net

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.isa.binary.container import decode_program, encode_program
from sasimc.isa.files import load_program, save_program
from sasimc.isa.text.assembler import assemble
from sasimc.isa.text.printer import format_program
from sasimc.runtime.device import Device

NAMES = (
    "/conv1/Conv",
    "model/dense_1/MatMul;StatefulPartitionedCall",
    'quo"te\\',
    "two words",
    "größe",
    "層",
    "r5",
    "all",
    "12",
    "#;",
    "__metadata__",
    "a\nb",
)


# As exporters write them: scopes of torch and of TensorFlow, outputs by number, mangled duplicates, words of the assembly.
_WORDS = st.sampled_from(
    (
        "features",
        "0",
        "conv",
        "Conv",
        "attn.qkv",
        "dense_1",
        "BiasAdd",
        "ReadVariableOp",
        "r1",
        "all",
        "vmm",
        "halt",
        ".code",
        "@w",
        "rows",
    )
)
EXPORTED = st.one_of(
    st.lists(_WORDS, min_size=1, max_size=5).map("/".join),
    st.lists(_WORDS, min_size=1, max_size=5).map(lambda words: "/" + "/".join(words) + "_output_0"),
    st.lists(_WORDS, min_size=1, max_size=4).map(".".join),
    st.tuples(st.lists(_WORDS, min_size=1, max_size=3).map("/".join), st.integers(0, 9)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
    st.lists(_WORDS, min_size=2, max_size=3).map(";".join),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30),
)


def network(first: str, second: str) -> onnx.ModelProto:
    net = Net(("n", 3, 4, 4))
    x = net.q(net.node("Relu", net.conv(net.q("x", 0.011), 3, 4, 3, name=first)), 0.03, -128)
    x = net.q(net.node("Flatten", net.node("GlobalAveragePool", x)), 0.01)
    return net.model(net.q(net.node("Gemm", x, net.weight((4, 3), 1), name=second), 0.02))


@pytest.mark.parametrize("name", NAMES)
def test_any_name_works_everywhere(name: str, tmp_path: Path) -> None:
    onnx.save(network("backbone", name), tmp_path / "m.onnx")
    made = compile_model(
        tmp_path / "m.onnx", CompileOptions(trainable=name.replace("\\", "\\\\") if "\\" in name else name, verify=True)
    )
    weights = Device(made.program, "fused").state()
    assert list(weights) == [name]
    for path in (tmp_path / "p.s", tmp_path / "p.bin"):
        back = load_program(save_program(made.program, path) and path)
        assert list(Device(back, "fused").state()) == [name]
        assert {i.origin.node for i in back.code if name in i.origin.node}
    assert encode_program(load_program(tmp_path / "p.s")) == encode_program(load_program(tmp_path / "p.bin"))


HOSTILE = ("a*[b]", " lead", "a,b", "<blink>x</blink>", "</script>", "it's", "%s", "${x}", "../up", "..", "-x", "NaN", "\x1b[31m")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue")):
        (folder / name).mkdir()
        for k in range(3):
            Image.new("RGB", (4, 4), colour).save(folder / name / f"{k}.png")
    return folder


class _Tags(HTMLParser):
    """Tags of a page, by name."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count = Counter[str]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] += 1


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_survives_training_export_and_pages(name: str, colours: Path, tmp_path: Path) -> None:
    """Patterns of one name, ``--save``, the trained network out, the report and the explorer: the commands as users type them."""

    def run(app: object, *words: object) -> None:
        assert invoke(app, [str(w) for w in words]) == 0, words  # type: ignore[arg-type]

    onnx.save(network("backbone", name), model := tmp_path / "m.onnx")
    before, after, report = tmp_path / "p.s", tmp_path / "q.s", tmp_path / "r.json"
    run(sasc.app, "compile", model, "--trainable", f"backbone,{name}", "--backprop-through", name, "-o", before, "--no-verify")
    run(sasrun.app, before, "--train", colours, "--epochs", 1, "--engine", "fused", "--save", after, "--json", report)
    assert set(Device(load_program(after), "fused").state()) == {"backbone", name}
    run(sasc.app, "export", after, "--model", model, "-o", tmp_path / "e.onnx")
    assert name in {n.name for n in onnx.load(tmp_path / "e.onnx").graph.node}
    for page, words in (("rep.html", ("report", report)), ("ex.html", ("explore", before))):
        run(sasc.app, *words, "-o", tmp_path / page)
        tags = _Tags((tmp_path / page).read_text(encoding="utf-8")).count
        assert tags["script"] >= 1
        assert not tags["blink"]


@settings(max_examples=6, deadline=None)
@given(names=st.lists(EXPORTED, min_size=2, max_size=2))
def test_exported_names_come_back_from_both_forms(names: list[str]) -> None:
    """Duplicates too: both layers stay, under names that text and binary agree about."""
    made = compile_model(network(*names), CompileOptions(verify=False))
    assert len(made.placement.layers) == 2
    text = format_program(replace(made.program, inline=frozenset(made.program.tensors), weights_file="", digest=""))
    back = assemble(text)
    assert back.matrices.keys() == made.program.matrices.keys()
    assert format_program(back) == text
    again = decode_program(encode_program(back))
    assert [i.origin.node for i in again.code] == [i.origin.node for i in made.program.code]


@pytest.mark.parametrize("names", [("", ""), ("same", "same"), ("same", "same:2")])
def test_unnamed_and_equally_named_nodes(names: tuple[str, str], tmp_path: Path) -> None:
    model = network("one", "two")
    for node, name in zip([n for n in model.graph.node if n.op_type in ("Conv", "Gemm")], names, strict=True):
        node.name = name
    onnx.save(model, tmp_path / "m.onnx")
    made = compile_model(tmp_path / "m.onnx", CompileOptions(verify=True))
    assert len(made.placement.layers) == 2
    save_program(made.program, tmp_path / "p.s")
    assert load_program(tmp_path / "p.s").matrices.keys() == made.program.matrices.keys()


@settings(max_examples=80, deadline=None)
@given(name=EXPORTED)
@example(name="r5")
@example(name="12")
@example(name="#;")
@example(name="a\nb")
@example(name='quo"te\\')
def test_descriptors_of_any_name_print_and_assemble(name: str) -> None:
    program = assemble(".desc\n.view a buf i8 1x1x4 addr=0\n.view b buf i8 1x1x4 addr=8\n.code\ncpy b, a, 0, 0:1\nhalt\n")
    view = replace(program.views["a"], name=name)
    code = tuple(replace(i, operands=tuple(name if o == "a" else o for o in i.operands)) for i in program.code)
    renamed = replace(program, views={name: view, "b": program.views["b"]}, code=code, entries={name: 0}, params={name: 3})
    text = format_program(renamed)
    back = assemble(text)
    assert format_program(back) == text
    assert back.views[name] == view
    assert back.entries == {name: 0}
    assert back.params == {name: 3}
    assert np.array_equal([len(i.operands) for i in back.code], [len(i.operands) for i in code])
