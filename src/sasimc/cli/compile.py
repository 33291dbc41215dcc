"""``sasc check`` and ``sasc compile``: what of a model maps where, and its program."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli import options
from sasimc.cli.common import EXIT_ERROR, command, require_suffix, require_writable, write_json
from sasimc.cli.compiling import compile_options
from sasimc.cli.options import File, argument, declared, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import print_tables, say
from sasimc.isa.errors import SasError
from sasimc.options import CompileOptions

if TYPE_CHECKING:
    from sasimc.backend.compile import Compiled
    from sasimc.evaluation.table import Table
    from sasimc.frontend.check import CheckReport, Finding

__all__ = ["check", "compile_command"]


@command("check")
@argument("model", "ONNX file.", type=File())
@options.machine
@declared(CompileOptions, "trainable", "Training", "PATTERN")
@declared(CompileOptions, "batch", "Training")
@declared(CompileOptions, "loss", "Training")
@declared(CompileOptions, "backprop", "Training")
@declared(CompileOptions, "calibrate", "Input", "[NAME|FOLDER|FILE.npz]")
@options.json_file("mapping and findings")
def check(model: Path, json_file: Path | None, **given: Any) -> int:
    """Show what every operation becomes and costs, or everything that is in the way and what to do about it."""
    from sasimc.api import compile_model
    from sasimc.backend.stripes import plan_forward
    from sasimc.frontend.check import check_model
    from sasimc.frontend.load import load_model
    from sasimc.isa.machine import load_machine
    from sasimc.quantise.ranges import with_ranges

    require_writable(json_file)
    findings: list[Finding] = []
    compiled: Compiled | None = None
    with progress("checking") as show:
        ranged = with_ranges(load_model(model), given["calibrate"])
        report = check_model(ranged.model, given["trainable"])
        findings += report.findings
        if report.ok:
            try:
                compiled = compile_model(
                    ranged.model, CompileOptions(**given), progress=lambda what, done=None: show(f"compiling: {what}", done)
                )
            except SasError as e:
                findings.append(_obstacle(e))
        if report.graph is not None and compiled is None:  # weights and tensors may both be too large
            try:
                plan_forward(report.graph, load_machine(given["machine"]))
            except SasError as e:
                findings.append(_obstacle(e))
    findings = list(dict.fromkeys(findings))
    made: dict[str, Any] = {"model": str(model), "ok": not findings, "findings": [str(f) for f in findings]}
    said = (
        [f"{len({f.node for f in findings})} of {report.nodes} nodes are in the way"]
        if not report.ok
        else str(report).splitlines()
    )
    for line in [*said, *["but the network does not fit the machine:"] * (report.ok and compiled is None)]:
        say(line)
    if compiled is not None:
        if ranged.tensors:
            say(str(ranged))
        made.update(_mapping(compiled))
    else:
        _refused(report, findings)
    if json_file:
        write_json(json_file, made)
    return 0 if compiled is not None else EXIT_ERROR


def _obstacle(e: SasError) -> Finding:
    from sasimc.frontend.check import Finding

    return Finding(e.diagnostic.where or "graph", "mapping", e.diagnostic.message, e.diagnostic.hint)


def _refused(report: CheckReport, findings: list[Finding]) -> None:
    """Operators with how many nodes pass, then every finding with its remedy."""
    from sasimc.evaluation.table import Table

    where = {(f.node, f.op) for f in findings}
    rows = []
    for operator, count in sorted(report.operators.items()):
        bad = len({node for node, op in where if op.rpartition(".")[2] == operator})
        rows.append((operator, str(count), str(max(0, count - bad)), str(bad or "")))
    print_tables(Table("", ("operator", "nodes", "supported", "in the way"), rows, (0,)))
    say()
    for f in findings:
        say(f"{f.node} ({f.op}): {f.reason}")
        if f.rewrite:
            say(f"    {f.rewrite}")


def _mapping(compiled: Compiled) -> dict[str, Any]:
    """Print what every operation became, what it costs and where its weights are; returns it."""
    from sasimc.evaluation.table import Table

    m, place, cycles = compiled.program.machine, compiled.placement, dict(compiled.infer.node_cycles)
    layers, operations = list[dict[str, Any]](), list[dict[str, Any]]()
    rows: list[tuple[str, ...]] = []
    for op in compiled.graph.ops:
        node, shape = op.origin or op.name, compiled.graph.type(op.output).shape
        spent = cycles.pop(node, 0.0)
        operations.append({"name": op.name, "node": node, "kind": op.kind, "output": list(shape), "cycles": spent})
        parts = place.layers.get(op.name, ())
        standing = [(part, matrix) for part, made in parts for matrix in (made, place.twins.get(part.name)) if matrix is not None]
        if not standing:
            rows.append((op.name, op.kind, "x".join(map(str, shape)), "", "", "", "", "", f"{spent:.0f}"))
        for i, (part, matrix) in enumerate(standing):
            subarrays = sorted({t.subarray for t in matrix.tiles})
            row: dict[str, Any] = {
                "layer": matrix.name, "kind": part.kind, "trainable": part.trainable, "array": matrix.array, "weights": [matrix.k, matrix.n],
                "tiles": len(matrix.tiles) // matrix.copies, "copies": matrix.copies, "subarrays": len(subarrays),
                "groups": sorted({m.group_of(s) for s in subarrays}), "cycles": spent if i == 0 else 0.0,
            }  # fmt: skip
            layers.append(row)
            rows.append((
                row["layer"], " ".join([row["kind"], *["trainable"] * row["trainable"], *[row["array"]] * (row["array"] != "compute")]),
                "x".join(map(str, shape)), "{}x{}".format(*row["weights"]), str(row["tiles"]), str(row["copies"]), str(row["subarrays"]),
                _ranges(row["groups"]), f"{spent:.0f}" if i == 0 else "",
            ))  # fmt: skip
    names = ("operation", "becomes", "output", "weights", "tiles", "copies", "sub-arrays", "groups", "cycles")
    print_tables(Table("", names, rows, (0, 1, 7)))
    hosted = sorted(v for v, home in compiled.plan.home.items() if home == "host")
    say(
        f"{place.used} of {m.subarrays} sub-arrays ({place.transposable_subarrays} transposable), buffer peak "
        f"{compiled.buffer_peak_bytes} of {m.buffer.bytes} bytes; {compiled.infer.cycles} cycles an image"
    )
    say(f"kept in host memory: {', '.join(hosted)}")
    return {
        "operations": operations, "layers": layers, "subarrays_used": place.used, "subarrays_transposable": place.transposable_subarrays, "subarrays_total": m.subarrays,
        "buffer_peak_bytes": compiled.buffer_peak_bytes, "buffer_bytes": m.buffer.bytes, "kept_on_host": hosted, "cycles": compiled.infer.cycles,
    }  # fmt: skip


def _ranges(numbers: list[int]) -> str:
    """``3-5,9`` for [3, 4, 5, 9]."""
    out: list[str] = []
    for n in numbers:
        if out and int(out[-1].split("-")[-1]) == n - 1:
            out[-1] = f"{out[-1].split('-')[0]}-{n}"
        else:
            out.append(str(n))
    return ",".join(out)


@command("compile")
@argument("model", "ONNX file; default: the embedded small MobileNet-V2 + Rep-Net.", type=File(), required=False)
@option("-o", "--output", section="Output", type=File(), default="prog.s", help="Program to write: .s (text) or .bin.")
@options.json_file("the summary")
@option("--explain", section="Output", is_flag=True, help="Print tiles, copies, cycles, bound and what binds for every layer.")
@option(
    "--no-verify", section="Output", is_flag=True, help="Write the program without checking its translation; it then says so."
)
@declared(CompileOptions, "print_ir_after", "Output", "PASS")
@options.machine
@compile_options
@options.recipe
def compile_command(
    model: Path | None, output: Path, json_file: Path | None, explain: bool, no_verify: bool, recipe: str | None, **given: Any
) -> None:
    """Compile an ONNX file to a program, and check it before it is written.

    A text program (.s) has its weights in a file beside it."""
    start = time.perf_counter()
    # the check's products run beside the linter and onnxruntime; several threads of BLAS would only spin for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from sasimc.api import CHOICE, compile_model, compile_report
    from sasimc.isa.files import save_program
    from sasimc.zoo.zoo import default_model_path

    tuned = None
    if recipe:
        from sasimc.training.recipe import load_recipe

        tuned = load_recipe(recipe)
        given = options.over(tuned.compile_options(), given)
    require_suffix(output, ".s", ".bin")
    require_writable(output, json_file)
    with progress("compiling") as show:
        compiled = compile_model(
            model or default_model_path(), CompileOptions(**given, verify=not no_verify), progress=lambda what, done=None: show(f"compiling: {what}", done), sink=print
        )  # fmt: skip
        if recipe and tuned:
            from sasimc.training.session_options import check_network

            check_network(tuned, recipe, compiled.program.meta)
        show("writing")
        compiled = replace(compiled, program=save_program(compiled.program, output))
    made = compile_report(compiled, time.perf_counter() - start)
    if explain:
        made["handover"] = _handover(compiled)
    if json_file:
        write_json(json_file, made)
    if explain:
        print_tables(*_explained(made))
        say()
    if choice := made.get(CHOICE):
        print_tables(_chosen(choice))
        say()
    _summary(output, made)
    if ranged := compiled.program.meta.get("note.calibrated"):
        say(ranged)
    say(f"verified: {compiled.program.meta['verified']}")


def _chosen(choice: dict[str, Any]) -> Table:
    """What was chosen within the budget, layer by layer."""
    from sasimc.budget import FIGURES
    from sasimc.evaluation.table import Table

    limits = choice["budget"]
    rows = [
        (
            row["layer"],
            f"{row['importance']:.3g}",
            *(str(row["alone"][name]) for name in limits),
            "yes" if row["chosen"] else "no",
        )
        for row in choice["layers"]
    ]
    for what, figures, count in (
        ("chosen", choice["taken"], sum(row["chosen"] for row in choice["layers"])),
        ("all layers", choice["all"], len(rows)),
        ("budget", limits, ""),
    ):
        rows.append((what, "", *(str(figures[name]) for name in limits), str(count)))
    limited = ", ".join(FIGURES[name] for name in limits)
    always = ", ".join(row["layer"] for row in choice["layers"] if row["always"])
    title = f"layers to train; importance: {choice['criterion']}; {limited} of a program in which besides {always} this layer alone learns"
    return Table(title, ("layer", "importance", *limits, "trains"), rows, (0,))


def _handover(compiled: Compiled) -> dict[str, Any]:
    """What overlap takes for granted, by entry."""
    from sasimc.isa.analysis.pipeline import handover

    entries = {"infer": 1} | ({"train_step": compiled.batch} if compiled.train_step is not None else {})
    found = {e: handover(compiled.program, e, {"batch": n}, compiled.buffer_peak_bytes) for e, n in entries.items()}
    return {entry: asdict(h) for entry, h in found.items()}


def _summary(output: Path, made: dict[str, Any]) -> None:
    say(f"{output}: {made['instructions']} instructions, {made['encoded_bytes']} bytes encoded")
    say(
        f"sub-arrays {made['subarrays_used']} of {made['subarrays_total']} ({made['subarrays_transposable']} transposable, "
        f"{made['subarrays_scratch']} scratch), buffer peak {made['buffer_peak_bytes']} of {made['buffer_bytes']} bytes"
    )
    clock = made["clock_hz"]
    for entry, cycles in made["cycles"].items():
        say(f"{entry}: {cycles} cycles = {1e3 * cycles / clock:.3g} ms at {clock / 1e6:g} MHz")
    bound = made["bound_cycles"]
    say(f"bound of infer: {bound} cycles" + (f" (x {made['cycles']['infer'] / bound:.2f})" if bound else ""))
    mapping = made["mapping"]
    gap = "" if mapping["gap"] is None else f"; mapping lower bound: {mapping['limit']:.0f} cycles (gap {mapping['gap']:.2%})"
    say(f"mapping: products of {mapping['cycles']:.0f} cycles a sample{gap}")
    say(f"compiled in {made['wall_s']:.2f} s")


def _explained(made: dict[str, Any]) -> list[Table]:
    """The tables of ``--explain``: layers, and the phases of a training step with the machine fields that would change them."""
    from sasimc.evaluation.table import Table

    layers = [
        (row["layer"], row["kind"], str(row["tiles"]), str(row["copies"]), str(row["side"]), str(row["subarrays"]), f"{row['cycles']:.0f}",
         f"{row['bound']:.0f}", f"{row['ratio']:.2f}" if row["ratio"] else "", row["binds"])
        for row in made["layers"]
    ]  # fmt: skip
    names = ("layer", "kind", "tiles", "copies", "side by side", "sub-arrays", "cycles", "bound", "ratio", "binds")
    tables = [Table("", names, layers, (0, 1, 9))]
    rows = [
        (
            entry,
            str(h["cycles"]),
            f"{h['filling']} ({100 * h['filling'] / h['cycles']:.2g} %)",
            str(h["regions"]),
            str(h["short"]),
            f"{h['stalls']} ({100 * h['stalls'] / h['cycles']:.2g} %)",
            str(h["stripe_short"]),
        )
        for entry, h in made["handover"].items()
    ]
    title = "overlap: at most so many cycles more for filling and emptying; regions without room for what units hand on row by row (and what that costs if they stall), or for every stripe twice"
    tables.append(Table(title, ("entry", "cycles", "filling", "regions", "no room", "if these stall", "no second stripe"), rows))
    if phases := made.get("training"):
        units = [u for u in phases[0]["units"] if any(row["units"].get(u) for row in phases)]
        rows = [
            (r["phase"], str(r["cycles"]), *(str(r["units"].get(u, 0)) for u in units), r["binds"], ", ".join(r["fields"]))
            for r in phases
        ]
        columns = ("phase", "cycles", *units, "binds", "machine fields")
        tables.append(
            Table("train_step: cycles, and busy cycles of each unit", columns, rows, (0, len(columns) - 2, len(columns) - 1))
        )
    return tables
