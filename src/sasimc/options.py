"""The options of a compile: those of the passes (:class:`BackwardOptions`) and those of the whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from sasimc.isa.options import option
from sasimc.passes.options import BackwardOptions

if TYPE_CHECKING:
    from sasimc.isa.machine import Machine

__all__ = ["CompileOptions"]


@dataclass(frozen=True, kw_only=True)
class CompileOptions(BackwardOptions):
    """``machine``: a description, its file, or None for the paper's."""

    machine: "str | Path | Machine | None" = None
    batch: Annotated[int, Interval(ge=1, le=4096)] = option(8, "Largest batch of a training step")
    trainable: str | None = option(
        None, "Pattern over node and initialiser names: the layers to train; default: what the file's metadata say"
    )
    importance_data: str | None = option(
        None,
        "With --train-budget: labelled images of the new classes that layers' importance is measured on, a data set or a folder of classes; default: the last layers are the most important",
    )
    calibrate: str | None = option(
        None,
        "Images that give float tensors without a scale their ranges: a data set, a folder, or an array x (.npz); default: drawn ones",
    )
    inference_only: bool = option(False, "No train_step entry, no transposable sub-arrays")
    print_ir_after: str = option("", "Print the graph after this pass (or 'all')")
    verify: bool = option(False, "Check the translation against onnxruntime and the reference before anything is written")
