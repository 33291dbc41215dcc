"""``sasc zoo``: build a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sasimc.cli import options
from sasimc.cli.common import command, require_suffix, require_writable
from sasimc.cli.options import AtLeast, Choice, File, Folder, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import say

__all__ = ["zoo"]

ZOO = "sasimc.zoo.zoo:ZooOptions"


@command("zoo")
@argument("name", "Model to build.", metavar="NAME", type=Choice("sasimc.zoo.zoo:MODELS"))
@option("-o", "--output", section="Output", type=File(), required=True, help="ONNX file to write.")
@option("--size", "resolution", section="Network", type=int, of=ZOO, help="Side of the input in pixels.")
@option("--width", section="Network", type=float, of=ZOO, help="Width multiplier of the backbone.")
@option(
    "--classes", section="Network", type=int, show_default="the classifier of the weights, frozen",
    help="Outputs of a new, trainable classifier.",
)  # fmt: skip
@option(
    "--modules", section="Network", metavar="MODULES", default="default",
    help="Rep-Net modules: default, none, or ATTACH[:HIDDEN[:KERNEL[:GROUPS]]],...",
)  # fmt: skip
@option(
    "--weights", section="Weights", metavar="[torchvision|FOLDER|FILE.npz]", show_default="random",
    help="torchvision's weights, a folder of INT8 weights, or an .npz of folded floats.",
)  # fmt: skip
@option(
    "--padding",
    section="Weights",
    type=Choice("sasimc.zoo.zoo:PADDINGS"),
    show_default="as trained",
    help="Where odd padding goes.",
)
@option(
    "--calibrate", section="Calibration", type=Folder(), show_default="images drawn by formula",
    help="Folder of images that give the ranges of the activations.",
)  # fmt: skip
@option("--calibration-images", section="Calibration", type=AtLeast(1), of=ZOO, help="Images taken from that folder.")
@options.learner
@options.recipe
def zoo(name: str, output: Path, modules: str, recipe: str | None, **given: Any) -> None:
    """Build MobileNet-V2 + Rep-Net as a quantised ONNX file."""
    from sasimc.training.recipe import load_recipe
    from sasimc.zoo.zoo import ZooOptions, build, parse_modules, write

    require_suffix(output, ".onnx")
    require_writable(output)
    tuned = load_recipe(recipe).zoo.model_dump() if recipe else {}
    made = ZooOptions(modules=parse_modules(modules), **options.over(tuned, given))
    with progress(f"building {name}"):
        model = build(name, made)
        path = write(model, output)
    notes = {p.key: json.loads(p.value) for p in model.metadata_props}
    say(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB), trainable layers: {', '.join(notes['sasimc.trainable']) or 'none'}")
    if "sasimc.module_weights" in notes:
        say(f"the modules begin with shipped weights ({notes['sasimc.module_weights']})")
    elif made.module_weights == "auto" and made.modules and name != "mobilenetv2":
        say("the modules begin at random: no weights are shipped for this backbone, about this resolution and these options")
