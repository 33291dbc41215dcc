"""``sasc quantize`` and ``sasc attach``: from a network of one's own to one that the device trains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sasimc.cli.common import command, require_suffix, require_writable
from sasimc.cli.options import AtLeast, Choice, File, argument, data_folder, json_file, learner, option, seed
from sasimc.cli.progress import counted, progress
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

__all__ = ["attach", "names_of", "quantize"]


@command("quantize")
@argument("model", "ONNX file of a float network.", type=File())
@option("-o", "--output", section="Output", type=File(), required=True, help="ONNX file to write.")
@json_file()
@option(
    "--calibrate", section="Calibration", required=True, metavar="[NAME|FOLDER|FILE.npz]",
    help="Images that give the ranges of the activations: a data set, a folder, or an array x (and class numbers y) as the network takes it.",
)  # fmt: skip
@option("--images", section="Calibration", type=AtLeast(1), default=200, help="Images used, spread evenly over all.")
@option(
    "--method",
    section="Calibration",
    type=Choice("sasimc.quantise.quantise:METHODS"),
    default="minmax",
    help="How ranges follow from them.",
)
@option("--per-tensor", section="Calibration", is_flag=True, help="One weight scale a layer, not one an output channel.")
@data_folder
@option(
    "--mean",
    section="Preprocessing",
    metavar="M[,M,M]",
    help="Mean of pixel / 255, for RGB; default: found (metadata, files beside the model, exporter).",
)
@option("--std", section="Preprocessing", metavar="S[,S,S]", help="Standard deviation of pixel / 255.")
@option("--resize", section="Preprocessing", type=AtLeast(1), help="Short side before the middle is cut out, in pixels.")
@option(
    "--interpolation",
    section="Preprocessing",
    type=Choice("sasimc.isa.choices:INTERPOLATIONS"),
    help="Filter of the scaling.",
)
@seed("Seed of drawn data sets.", "Calibration")
def quantize(
    model: Path, output: Path, json_file: Path | None, calibrate: str, images: int, method: Any, per_tensor: bool, data: Path | None, seed: int,
    **given: Any,
) -> None:  # fmt: skip
    """Quantise a float ONNX network to the int8 (QDQ) form that `sasc compile` takes.

    onnxruntime calibrates and quantises; classes before and after are compared on the same images.
    """
    from sasimc.cli.common import write_json
    from sasimc.frontend.check import check_model
    from sasimc.frontend.load import load_model
    from sasimc.quantise.preprocessing import find_preprocess, parse_numbers
    from sasimc.quantise.quantise import compare
    from sasimc.quantise.quantise import quantise as quantise_model
    from sasimc.quantise.samples import input_plane, read_samples

    require_suffix(output, ".onnx")
    require_writable(output, json_file)
    source = load_model(model)
    plane = input_plane(source)
    metadata: dict[str, str] = {}
    values = {k: parse_numbers(v, f"--{k}") if k in ("mean", "std") else v for k, v in given.items() if v is not None}
    with progress("reading") as show:
        found = find_preprocess(source, model, plane.size, values) if plane.image else None
        samples, why = (
            read_samples(calibrate, data, plane, found and found.preprocess, images, seed),
            "arrays are what the network takes",
        )
        if found and samples.pictures:
            why = metadata["sasimc.preprocess.source"] = found.why
            metadata["sasimc.preprocess"] = found.preprocess.to_json()
        say(f"preprocessing: {metadata.get('sasimc.preprocess', 'none')} ({why})")
        say(f"calibration: {len(samples.inputs)} of {samples.note}")
        tell, total = counted(show), len(samples.inputs)
        quantise_model(
            model, plane, samples, output, metadata, method=method, per_channel=not per_tensor,
            progress=lambda n: tell("calibrating", n - 1, total),
        )  # fmt: skip
        quality = compare(model, output, plane, samples, _labels(source), lambda n: tell("comparing", n - 1, total))
    report = check_model(load_model(output))
    say(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB)")
    say(
        f"int8 beside float, {quality.images} calibration examples: outputs differ by {quality.difference:.1%} of their size (RMS)"
    )
    if quality.classes:
        say(f"same class before and after: {quality.same_class:.1%}")
    labelled = not math.isnan(quality.top1_float)
    if labelled:
        how = "by name" if _labels(source) else "the network's classes taken as the data set's, in order"
        say(f"top-1 ({how}): float {quality.top1_float:.1%}, int8 {quality.top1_int8:.1%}")
    say(str(report) if report.ok else f"{output} does not compile yet: `sasc check {output}` says why")
    if json_file:
        write_json(
            json_file,
            {
                "output": str(output), "preprocess": metadata.get("sasimc.preprocess"), "preprocess_from": why, "images": quality.images,
                "same_class": quality.same_class if quality.classes else None, "difference": quality.difference, "top1_float": quality.top1_float if labelled else None,
                "top1_int8": quality.top1_int8 if labelled else None, "supported": report.ok,
            },
        )  # fmt: skip


@command("attach")
@argument("model", "ONNX file of an int8 backbone.", type=File())
@option("-o", "--output", section="Output", type=File(), required=True, help="ONNX file to write.")
@option("--classes", section="Network", type=AtLeast(2), required=True, help="Outputs of the new classifier.")
@option(
    "--at",
    section="Network",
    multiple=True,
    metavar="NODE",
    help="Correct the result of this operation; may be given more than once. Default: found by shapes.",
)
@option("--no-modules", section="Network", is_flag=True, help="Only a new classifier.")
@option(
    "--labels",
    section="Network",
    metavar="[FILE|NAME,NAME,...]",
    help="Names of the classes: one a line, or separated by commas.",
)
@option(
    "--calibrate",
    section="Calibration",
    metavar="[NAME|FOLDER|FILE.npz]",
    default="drawn-flowers",
    help="Images that give the ranges of what is new.",
)
@option("--images", section="Calibration", type=AtLeast(1), default=32, help="Images used, spread evenly over all.")
@data_folder
@learner
def attach(
    model: Path, output: Path, at: tuple[str, ...], no_modules: bool, labels: str | None, calibrate: str, images: int, data: Path | None,
    **given: Any,
) -> None:  # fmt: skip
    """Attach a Rep-Net and a new classifier to any int8 backbone.

    The backbone's nodes stay as they are. Modules go where the shape of the activation changes; their first weights are random, the ranges
    calibrated. The result is a plain ONNX file.
    """
    from sasimc.attach.attach import AttachOptions
    from sasimc.attach.attach import attach as attach_modules
    from sasimc.frontend.load import load_model
    from sasimc.isa.files import write_atomically
    from sasimc.quantise.preprocessing import find_preprocess
    from sasimc.quantise.samples import plane_of, read_samples

    require_suffix(output, ".onnx")
    require_writable(output)
    source = load_model(model)
    plane = plane_of(source)
    options = AttachOptions(at=at, modules=not no_modules, labels=names_of(labels), **given)
    options.check()
    with progress("attaching"):
        found = find_preprocess(source, model, plane.size, {}) if plane.image else None
        samples = read_samples(calibrate, data, plane, found and found.preprocess, images, options.seed)
        if found and samples.pictures:
            say(f"preprocessing: {found.preprocess.to_json()} ({found.why})")
        made = attach_modules(source, options, list(samples))
        write_atomically(output, made.model.SerializeToString())
    for module, place in made.modules:
        reads = "the image" if place.entry is None else place.entry.node
        say(
            f"{module.name}: reads {reads}, corrects {place.exit.node} ({place.exit.channels} x {place.exit.size} x {place.exit.size}), "
            f"{module.parameters} weights"
        )
    say(f"classifier: {made.features} features, {options.classes} classes")
    say(f"wrote {output} ({output.stat().st_size / 1e6:.2f} MB), {made.parameters} weights in {len(made.modules)} modules")


def _labels(model: Any) -> tuple[str, ...]:
    """Names of the classes in the model's metadata."""
    text = next((p.value for p in model.metadata_props if p.key == "sasimc.labels"), "[]")
    try:
        found = json.loads(text)
    except ValueError:
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def names_of(labels: str | None) -> tuple[str, ...]:
    """Class names from a file (a line each, or a JSON list) or from a text with commas."""
    if labels is None:
        return ()
    path = Path(labels)
    if not path.is_file():
        return tuple(name.strip() for name in labels.split(","))
    from sasimc.isa.described import read_source

    text = read_source(path, "file of class names").text
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (ValueError, RecursionError) as exc:
        raise SasError(f"not a JSON list of class names: {exc}", where=str(path), hint="or write one name a line") from None
    return tuple(str(name).strip() for name in found if str(name).strip())
