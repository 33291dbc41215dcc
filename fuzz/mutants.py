"""Plant faults in the compiled kernels, one by one, and see what finds them: the validation of `sasc compile`, or a cross-check of engines.

    python fuzz/mutants.py [--count 100] [--seed 0] [--output FILE.json]

The faults are drawn from all places of `runtime/kernels/*.py` where an operator of `_changes` applies, each file by its number of places. A fault
stands alone in a copy of the package in a temporary folder with a kernel cache of its own. It is found by validation if compiling a network of
`_NETWORKS` raises; if none does, cross-checks of the programs follow, fused against bitserial and step. Faults that do not compile are replaced by others.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sasimc

SECONDS = 240
"""Processor time of a fault, after which it counts as found: the program hangs."""
_PACKAGE = Path(sasimc.__file__).resolve().parent
_NOT_KERNELS = {"__init__.py", "cache.py", "forms.py"}
_OPERATORS: dict[type[ast.AST], type[Any]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.Lt: ast.LtE, ast.LtE: ast.Lt,
    ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "add": "sub", "sub": "add", "mul": "add", "shl": "lshr", "lshr": "ashr", "ashr": "lshr",
          "and_": "or_", "or_": "and_", "xor": "or_", "sext": "zext", "zext": "sext", "atomic_add": "atomic_max"}  # fmt: skip

Change = tuple[str, ast.AST, Callable[[], None]]


def _set(node: Any, **fields: Any) -> Callable[[], None]:
    def change() -> None:
        for name, value in fields.items():
            setattr(node, name, value)

    return change


def _changes(node: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """The faults that can stand in a node: what kind, and what plants it."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        yield "operator", _set(node, op=_OPERATORS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield "dropped term", _set(node, right=ast.Constant(0))
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _OPERATORS:
        yield "bound", _set(node, ops=[_OPERATORS[type(node.ops[0])](), *node.ops[1:]])
    if isinstance(node, ast.BoolOp):
        yield "condition", _set(node, op=_OPERATORS[type(node.op)]())
    if isinstance(node, ast.If | ast.IfExp):
        yield "condition", _set(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", _set(node, value=node.value + 1)
        yield "constant", _set(node, value=node.value - 1)
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _CALLS:
            kind = "saturation" if name in ("min", "max") else "operator"
            yield kind, _set(node.func, **{"attr" if isinstance(node.func, ast.Attribute) else "id": _CALLS[name]})
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2:
        yield "swapped index", _set(node.slice, elts=node.slice.elts[::-1])


def _sites(tree: ast.Module) -> list[Change]:
    """All faults of a file: in bodies of functions; annotations, decorators and defaults left out."""
    found: list[Change] = []

    def walk(node: ast.AST) -> None:
        found.extend((kind, node, plant) for kind, plant in _changes(node))
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list", "args") or isinstance(node, ast.Call):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        walk(child)

    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            walk(function)
    return found


def plant(path: Path, rng: random.Random) -> dict[str, str] | None:
    """Write a file with one fault; says which. None: the choice changes nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kind, node, change = rng.choice(_sites(tree))
    function = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and node in ast.walk(f))
    line = getattr(node, "lineno", None) or next(n.lineno for n in ast.walk(node) if hasattr(n, "lineno"))  # type: ignore[attr-defined]
    spoken = node.test if isinstance(node, ast.If | ast.IfExp) else node
    before = ast.unparse(spoken)
    change()
    ast.fix_missing_locations(tree)
    after = ast.unparse(node.test if isinstance(node, ast.If | ast.IfExp) else node)
    if before == after:
        return None
    path.write_text(ast.unparse(tree), encoding="utf-8")
    return {"file": path.name, "line": str(line), "function": function.name, "kind": kind, "was": before, "is": after}


def draw(kernels: Path, rng: random.Random) -> Path:
    """A file of kernels, by its number of places."""
    files = sorted(f for f in kernels.glob("*.py") if f.name not in _NOT_KERNELS)
    return rng.choices(files, [len(_sites(ast.parse(f.read_text(encoding="utf-8")))) for f in files])[0]


# ------------------------------------------------------------------------------------------------------- in a process with the fault


def _networks(folder: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Small networks that between them reach every kernel that compiled programs use: of inference, of every update rule, rounding and loss."""
    other = {"update": "direct", "round_errors": "stochastic", "gradient_range": "peak", "gradient_power": 1, "batch": 3}
    skipping = {"machine": folder / "skip.toml", "round_errors": "nearest"}
    return [
        ("inverted residuals", folder / "inverted.onnx", {}),
        ("plain", folder / "plain.onnx", other),
        ("drawn", folder / "drawn.onnx", skipping),
        ("depth-wise", folder / "depthwise.onnx", {"update": "accumulate"}),
        ("MobileNet-V2", folder / "mobilenet.onnx", {}),
        ("gated", folder / "gated.onnx", {"loss": "squared-error", "batch": 2}),
        ("odd", folder / "odd.onnx", {"machine": folder / "free.toml", "update": "direct"}),
    ]


def _depthwise() -> Any:
    """A network whose depth-wise layer, of a kernel that is no square, learns; behind it a padded average pool that errors pass."""
    import models

    b = models.Builder(0, pow2=True)
    x = b.conv(b.input((3, 8, 8), low=0.0), 6, act="relu", trainable=True, name="first")
    x = b.conv(x, 6, (5, 3), groups=6, act="relu", bias=False, per_channel=False, trainable=True, name="dw")
    x = b.avgpool(x, 3, 2, pads=[1, 0, 1, 1], name="pool")
    return b.model(b.gemm(b.flatten(x), 4, trainable=True, name="head", dtype="int8"))


def _odd() -> Any:
    """Shapes that leave something over everywhere: 15 x 13 pixels, 19 and 21 channels, strides that do not divide, one-sided padding, also of a
    pool whose zero is not 0; all of it learns, on a machine of large banks with the free rule of activation that skips zero bits."""
    import models

    b = models.Builder(3, pow2=True)
    image = b.input((5, 15, 13), low=0.0)
    x = b.conv(image, 19, 3, stride=2, pads=[0, 1, 2, 0], act="relu", trainable=True, name="dense")
    x = b.conv(x, 38, 3, groups=19, pads=[2, 1, 0, 1], act="relu6", trainable=True, name="dw")
    x = b.maxpool(x, 3, stride=2, name="max")
    x = b.add(b.conv(x, 21, 1, trainable=True, name="point"), b.conv(x, 21, 3, name="frozen"), name="join", pow2=False)
    x = b.avgpool(x, 3, 1, pads=[1, 1, 1, 1], name="smooth")
    x = b.resize(x, (2 * x.shape[1], 2 * x.shape[2]), mode="linear", name="up")
    x = b.conv(x, 12, 3, groups=3, pads=[1, 0, 1, 1], act="relu", trainable=True, name="grouped")
    return b.model(b.gemm(b.flatten(b.avgpool(x, 2, name="mean")), 7, trainable=True, name="head", dtype="int8"))


def _write_networks(folder: Path) -> None:
    import models
    import onnx

    from sasimc.zoo.zoo import ZooOptions, build_mobilenetv2_repnet

    skip = 'extends = "sas28"\n[bit_serial]\nzero_skip = "cycles"\n'
    (folder / "skip.toml").write_text(skip, encoding="utf-8")
    (folder / "free.toml").write_text(
        f'{skip}[activation]\nrule = "free"\nbanks = [1, 1]\n[array]\nbanks = [1, 4]\nmats = [4, 4]\nrows = 16\n',
        encoding="utf-8",
    )
    size = ZooOptions(width=0.35, resolution=32, resize=32, classes=4, calibration_images=2)
    made = (
        models.mobilenet_like(linear=True),
        models.plain_cnn(),
        models.random_graph(28),
        _depthwise(),
        build_mobilenetv2_repnet(size),
        models.gated(),
        _odd(),
    )
    for (_, path, _), model in zip(_networks(folder), made, strict=True):
        onnx.save(model, path)


def prepare(folder: Path) -> None:
    """Compile the networks, and compute what the graphs make of the samples of the validation: nothing of it runs kernels."""
    from sasimc.api import CompileOptions, compile_model
    from sasimc.frontend.load import load_model
    from sasimc.frontend.onnx_import import import_float
    from sasimc.passes.manager import run_passes
    from sasimc.passes.pipeline import import_passes
    from sasimc.verify.check import SAMPLES, samples, targets
    from sasimc.verify.graphs import against_import

    for name, path, options in _networks(folder):
        compiled = compile_model(path, CompileOptions(**options))
        found = import_float(load_model(path))
        assert found.graph is not None
        imported = run_passes(found.graph, import_passes())
        env = against_import(imported, compiled.graph, {imported.inputs[0]: samples(imported, SAMPLES)}).final
        wanted = targets(compiled, min(compiled.batch, 2))
        (folder / f"{name}.pickle").write_bytes(pickle.dumps((compiled, env, wanted)))


def judge(folder: Path) -> str:
    """What finds the fault that this process runs with: `verify.program`, the part of the validation that runs kernels, or a cross-check."""
    from sasimc.isa.errors import SasError
    from sasimc.runtime.crosscheck import cross_check
    from sasimc.runtime.device import Device
    from sasimc.verify.program import HEAD_EXPONENT, MODULE_EXPONENT, against_graph

    made = {name: pickle.loads((folder / f"{name}.pickle").read_bytes()) for name, _, _ in _networks(folder)}
    for name, (compiled, env, wanted) in made.items():
        try:
            against_graph(compiled, env, wanted, lambda *_: None)
        except SasError as e:
            return f"validation, {name}: {_line(e)}"
    for name, (compiled, env, wanted) in made.items():
        program = compiled.program
        for other in ("bitserial", "step"):
            try:
                device, second = Device(program, "fused", 2), Device(program, other, 2)
                it, role = device.interpreter, device.io["targets" if "targets" in device.io else "labels"]
                for b, target in enumerate(wanted):
                    it.write_view(device.io["input"], env[compiled.graph.inputs[0]][b], b)
                    it.write_view(role, target.reshape(program.views[role].shape), b)
                for parameter, value in (
                    ("batch", len(wanted)),
                    ("head_exponent", HEAD_EXPONENT),
                    ("module_exponent", MODULE_EXPONENT),
                ):
                    it.regs[program.params[parameter]] = value
                for entry in ("infer", "train_step"):
                    cross_check(it, second.interpreter, entry)
            except SasError as e:
                return f"cross-check with {other}, {name}: {_line(e)}"
    return "not found"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# ----------------------------------------------------------------------------------------------------------------------------- all


def dependents(kernels: Path, function: str) -> set[str]:
    """Names of `runtime` whose compiled code may hold that of a function: what names it, and so on."""
    names: dict[str, set[str]] = {}
    for path in (*kernels.glob("*.py"), kernels.parent / "kernel.py", kernels.parent / "engines" / "step_kernels.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            said = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own = [node.name]
            else:
                targets = node.targets if isinstance(node, ast.Assign) else []
                own = [t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)]
            for name in own:
                names.setdefault(name, set()).update(said)
    found, left = {function}, [function]
    while left:
        one = left.pop()
        new = {name for name, said in names.items() if one in said} - found
        found |= new
        left += new
    return found


def _keep_cache() -> None:
    """Let numba take everything in its cache as fresh: what a fault changes was deleted from it."""
    from numba.core import caching

    for locator in (caching.UserProvidedCacheLocator, caching._SourceFileBackedLocatorMixin):
        locator.get_source_stamp = lambda self: b""


def run(folder: Path) -> str:
    """Judge the copy of the package in a process of its own."""
    said, process = folder / "said", os.fork()
    if not process:
        try:
            with open(said, "w", encoding="utf-8") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
                print(judge(folder), flush=True)
        except BaseException:
            with open(said, "a", encoding="utf-8") as out:
                traceback.print_exc(file=out)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    text = said.read_text(encoding="utf-8", errors="replace").strip()
    last = (text.splitlines() or ["?"])[-1]
    if status == 0:
        return last
    if status < 0:
        return f"validation: the process ends by signal {-status}"
    refused = any(word in text for word in ("numba.core.errors", "llvmlite", "LLVM", "SyntaxError", "in codegen"))
    return ("does not compile: " if refused else "validation: ") + last[:200]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("mutants.json"))
    parser.add_argument("--known", type=Path, help="results of an earlier run: faults that were found are taken over")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    if o.prepare:
        _write_networks(o.prepare)
        prepare(o.prepare)
        return 0
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        os.environ |= {"NUMBA_CACHE_DIR": str(outer / "cache"), "NUMBA_OPT": "1", "SAS_NB": "0"}
        subprocess.run([sys.executable, __file__, "--prepare", name], check=True)
        shutil.copytree(_PACKAGE, outer / "sasimc", ignore=shutil.ignore_patterns("__pycache__"))
        for module in [m for m in sys.modules if m.split(".")[0] == "sasimc"]:
            del sys.modules[module]
        sys.path.insert(0, name)
        kernels = outer / "sasimc" / "runtime" / "kernels"
        for path in kernels.glob("*.py"):
            path.write_text(ast.unparse(ast.parse(path.read_text(encoding="utf-8"))), encoding="utf-8")
        import numba  # noqa: F401

        import sasimc.backend.compile
        import sasimc.isa.analysis.lint
        import sasimc.passes.pipeline  # noqa: F401

        assert not any(m.startswith("sasimc.runtime") for m in sys.modules)
        assert Path(sys.modules["sasimc"].__file__ or "").is_relative_to(outer)
        _keep_cache()
        whole = run(outer)
        print(f"no fault: {whole}", flush=True)
        if whole != "not found":
            return 1
        (outer / "cache").rename(outer / "whole")
        known = json.loads(o.known.read_text(encoding="utf-8")) if o.known else []
        rng, seen = random.Random(o.seed), []
        while len(seen) < o.count:
            path = draw(kernels, rng)
            text, start = path.read_bytes(), time.monotonic()
            fault = plant(path, rng)
            new = fault is not None and fault not in [{k: f[k] for k in fault} for f in seen]
            if fault is not None and new and (before := [f for f in known if {**f, **fault} == f and f["found"] != "not found"]):
                seen.append(before[0])
            elif fault is not None and new:
                shutil.copytree(outer / "whole", outer / "cache", copy_function=os.link)
                stale = dependents(kernels, fault["function"])
                for kept in (outer / "cache").rglob("*.nb?"):
                    if kept.name.split("-")[0].split(".")[-1] in stale:
                        kept.unlink()
                found = run(outer)
                shutil.rmtree(outer / "cache")
                print(f"{len(seen) + 1}: {fault} -> {found} ({time.monotonic() - start:.0f} s)", flush=True)
                if not found.startswith("does not compile"):
                    seen.append({**fault, "found": found})
                    o.output.write_text(json.dumps(seen, indent=1), encoding="utf-8")
            path.write_bytes(text)
    print(Counter(f["found"].split(":")[0].split(",")[0] for f in seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
