"""The node tests of the ONNX standard, rebuilt as int8 QDQ graphs: what runs is compared with onnxruntime, what is refused is listed.

    python benchmarks/conformance.py [--json FILE] [--markdown FILE] [PATTERN]

Every node test of ``onnx.backend.test`` with one float activation (the first input; the other inputs become constants, int8 where they are
weights) gets a QuantizeLinear and DequantizeLinear on its input and on its output, scaled to their values. It is compiled with all checks
(docs/explanation/verification.md), and the program's output is compared with onnxruntime's on the test's own data.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from sasimc.api import CompileOptions, compile_model
from sasimc.frontend.check import check_model
from sasimc.frontend.load import load_model
from sasimc.isa.errors import SasError
from sasimc.runtime.device import Device
from sasimc.runtime.ports import outputs_of
from sasimc.verify.difference import Difference

Array = np.ndarray[Any, Any]
NEWEST = 21
WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")


@dataclass(frozen=True)
class Result:
    """``outcome``: equal, one step, wrong, refused, crash, or left out; ``steps``: the largest difference in steps of the output."""

    name: str
    operator: str
    outcome: str
    detail: str = ""
    steps: int = 0


def cases(pattern: str) -> list[tuple[str, onnx.ModelProto, Array, dict[str, Array]]]:
    """Name, model, the activation and the other inputs of every node test that can be rebuilt."""
    import warnings

    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)  # type: ignore[arg-type]
    out = []
    for case in sorted(found, key=lambda c: c.name):
        if not fnmatch.fnmatchcase(case.name, pattern) or case.model is None or len(case.model.graph.node) != 1:
            continue
        inputs = case.data_sets[0][0]
        names = [i.name for i in case.model.graph.input]
        if (
            not inputs
            or not all(isinstance(a, np.ndarray) for a in inputs)
            or inputs[0].dtype != np.float32
            or inputs[0].ndim < 2
        ):
            continue
        made = case.data_sets[0][1][0]
        if len(case.model.graph.output) != 1 or not isinstance(made, np.ndarray) or made.dtype not in (np.float32, np.int64):
            continue
        if max(inputs[0].size, made.size) > 1 << 18 or not np.isfinite(inputs[0]).all() or inputs[0].size == 0:
            continue
        out.append((case.name, case.model, inputs[0], dict(zip(names[1:], inputs[1:], strict=False))))
        if len(inputs) > 1 and all(a.shape == inputs[0].shape and a.dtype == np.float32 for a in inputs):
            out.append((f"{case.name}, one tensor for all inputs", case.model, inputs[0], {}))
    return out


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def quantised(model: onnx.ModelProto, x: Array, others: dict[str, Array]) -> onnx.ModelProto:
    """The node between QuantizeLinear / DequantizeLinear pairs, its other inputs as constants."""
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[0])
    node.name = node.name or "node"
    first = model.graph.input[0].name
    nodes: list[onnx.NodeProto] = []
    inits = list(model.graph.initializer)

    def const(name: str, value: Any, dtype: Any = None) -> str:
        inits.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def pair(source: str, to: str, low: float, high: float) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255 or 1.0
        zero = int(np.clip(np.rint(-128 - low / scale), -128, 127))
        s, z = const(f"{to}.scale", scale, np.float32), const(f"{to}.zero", zero, np.int8)
        nodes.append(helper.make_node("QuantizeLinear", [source, s, z], [f"{to}.q"], f"{to}.quantize"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{to}.q", s, z], [to], f"{to}.dequantize"))

    pair(first, "quantised.in", float(x.min()), float(x.max()))
    for i, name in enumerate(node.input):
        if name == first or (name and name not in others):
            node.input[i] = "quantised.in"
    for position, (name, value) in enumerate(others.items()):
        if node.op_type in WEIGHTED and position == 0 and value.dtype == np.float32 and value.size:
            scale = float(np.abs(value).max() / 127) or 1.0
            w = const(f"{name}.int8", np.clip(np.rint(value / scale), -127, 127), np.int8)
            nodes.append(
                helper.make_node(
                    "DequantizeLinear",
                    [w, const(f"{name}.s", scale, np.float32), const(f"{name}.z", 0, np.int8)],
                    [name],
                    f"{name}.weight",
                )
            )
        else:
            const(name, value)
    nodes.append(node)
    out = node.output[0]
    infos = [helper.make_tensor_value_info(first, TensorProto.FLOAT, x.shape)]
    graph = helper.make_graph(nodes, "conformance", infos, [helper.make_empty_tensor_value_info(out)], inits)
    # onnxruntime has no QuantizeLinear of the newest operator sets yet
    sets = [
        helper.make_opsetid(e.domain, min(e.version, NEWEST) if e.domain in ("", "ai.onnx") else e.version)
        for e in model.opset_import
    ]
    made = helper.make_model(graph, opset_imports=sets, ir_version=min(model.ir_version, 10))
    want = np.asarray(session(made).run(None, {first: x})[0])
    if want.dtype != np.float32:
        return made
    pair(out, "quantised.out", float(want.min(initial=0)), float(want.max(initial=0)))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(inits[len(graph.initializer) :])
    graph.output[0].name = "quantised.out"
    return helper.make_model(graph, opset_imports=sets, ir_version=min(model.ir_version, 10))


def run(name: str, model: onnx.ModelProto, x: Array, others: dict[str, Array], folder: Path) -> Result:
    """One case, end to end."""
    operator = model.graph.node[0].op_type
    try:
        made = quantised(model, x, others)
        want = np.asarray(session(made).run(None, {made.graph.input[0].name: x})[0])
    except Exception as e:
        return Result(name, operator, "left out", f"onnxruntime: {' '.join(str(e).split())[:100]}")
    path = folder / "case.onnx"
    onnx.save(made, path)
    try:
        report = check_model(load_model(path))
        if not report.ok:
            return Result(name, operator, "refused", report.findings[0].reason)
        compiled = compile_model(path, CompileOptions(verify=True, batch=len(x) if len(x) <= 64 else 8))
        got = Device(compiled.program, "fused").run(x)[made.graph.output[0].name]
    except Difference as e:
        return Result(name, operator, "wrong", str(e))
    except SasError as e:
        return Result(name, operator, "refused", e.diagnostic.message.replace(f"{path}: ", ""))
    except Exception as e:
        return Result(name, operator, "crash", f"{type(e).__name__}: {e}")
    (port,) = outputs_of(compiled.program)
    # a softmax is the host's; the file quantises it
    scales = {t.name: float(numpy_helper.to_array(t)) for t in made.graph.initializer if t.name == "quantised.out.scale"}
    unit = 1.0 if port.end == "index" else scales["quantised.out.scale"]
    steps = int(np.rint(np.abs(got.astype(np.float64) - want).max(initial=0) / unit))
    return Result(name, operator, "wrong" if steps > 1 else ("one step" if steps else "equal"), "", steps)


def markdown(results: list[Result]) -> str:
    """A row for each operator of which some case runs, and the others by name."""
    columns = ("equal", "one step", "refused", "wrong", "crash", "left out")
    rows = ["| operator | " + " | ".join(columns) + " | most frequent reason |", "|---" * (len(columns) + 2) + "|"]
    runs = {r.operator for r in results if r.outcome not in ("refused", "left out")}
    rest = sorted({r.operator for r in results} - runs)
    for operator in sorted(runs):
        mine = [r for r in results if r.operator == operator]
        counts = Counter(r.outcome for r in mine)
        why = Counter(r.detail for r in mine if r.outcome == "refused").most_common(1)
        reason = why[0][0].replace("|", "/")[:90] if why else ""
        rows.append(f"| {operator} | " + " | ".join(str(counts[c] or "") for c in columns) + f" | {reason} |")
    return "\n".join([*rows, "", "No case runs of: " + ", ".join(f"`{o}`" for o in rest) + ".", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="of names of node tests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="write the table of operators")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, model, x, others in cases(args.pattern):
            results.append(run(name, model, x, others, Path(folder)))
    counts = Counter(r.outcome for r in results)
    for r in results:
        if r.outcome in ("wrong", "crash"):
            print(f"{r.name} ({r.operator}): {r.outcome} {r.detail} {r.steps or ''}")
    print(f"{len(results)} cases: " + ", ".join(f"{n} {k}" for k, n in counts.most_common()))
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    if args.markdown:
        args.markdown.write_text(markdown(results))
    return 1 if counts["wrong"] or counts["crash"] else 0


if __name__ == "__main__":
    sys.exit(main())
