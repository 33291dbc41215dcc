"""Names of nodes as exporters write them: text, binary, state and patterns all know the network's own names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from qdq_net import Net

from sasimc.api import CompileOptions, compile_model
from sasimc.isa.binary.container import encode_program
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


@pytest.mark.parametrize("name", NAMES)
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
