"""``sasc export``: a trained program, or a task of a device image, back to ONNX."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sasimc.cli.common import command, require_writable
from sasimc.cli.options import File, argument, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

__all__ = ["export"]


@command("export")
@argument("program", "Trained program, written by `sasrun PROGRAM --train DATA --save FILE`.", type=File())
@option("-o", "--output", section="Output", type=File(), required=True, help="ONNX file to write.")
@option(
    "--model",
    section="Model",
    type=File(),
    show_default="the file beside the program, or in this folder, that was compiled",
    help="ONNX file that was compiled.",
)
@option("--image", section="Device image", type=File(), help="Device image (.sas) that holds the weights; needs --task.")
@option("--task", section="Device image", help="Task of the device image.")
def export(program: Path, output: Path, model: Path | None, image: Path | None, task: str | None) -> None:
    """Write the model that was compiled, with the weights that were learned, as an int8 ONNX file.

    Names, preprocessing and class names are kept. Compiled again, the file gives the same results bit for bit."""
    from sasimc.export import export_onnx
    from sasimc.isa.files import load_program

    if (image is None) != (task is None):
        raise SasError(
            "--image and --task belong together", hint="sasc export prog.s --image device.sas --task NAME -o NAME.onnx"
        )
    require_writable(output)
    if model is not None and output.exists() and model.exists() and output.samefile(model):
        raise SasError(f"{output} would overwrite the model that was compiled", hint="give another name with -o")
    trained, note = load_program(program), ""
    if image is not None and task is not None:
        from sasimc.training.image.image import DeviceImage
        from sasimc.training.image.tasks import TaskStore

        if not image.exists():
            raise SasError(f"there is no device image {image}")
        with closing(DeviceImage.open(image, trained)) as opened:
            store = TaskStore(opened, trained)
            known, outputs = store.task(task), int(trained.meta["classes"])
            trained = trained.with_trained(store.weights(task), known.classes)
        if 0 < len(known.classes) < outputs:
            note = f"; its classes are the first {len(known.classes)} of {outputs} outputs"
    with progress("exporting"):
        export_onnx(trained, model, output)
    say(f"wrote {output}{note}")
