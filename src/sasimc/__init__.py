"""sas-imc: compiler and ISA toolchain for a digital in-memory-computing accelerator of STT-assisted-SOT MRAM.

program = sasimc.compile("model.onnx")
device = sasimc.Device(program)
device.infer(images); device.train_step(images, labels); device.activations(images); device.state()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sasimc.api import CompileOptions, compile, compile_model
    from sasimc.backend.compile import Compiled
    from sasimc.costs import cost, report
    from sasimc.datasets.dataset import open_dataset
    from sasimc.export import export_onnx
    from sasimc.isa.errors import SasError, Trap
    from sasimc.isa.files import load_program, save_program
    from sasimc.isa.machine import Machine, load_machine
    from sasimc.isa.program import Program
    from sasimc.isa.text.assembler import assemble
    from sasimc.quantise.from_torch import from_torch
    from sasimc.runtime.activations import Activation
    from sasimc.runtime.device import Device, Inference, StepResult
    from sasimc.studies import Study
    from sasimc.training.evaluation import evaluate, evaluate_values
    from sasimc.training.recipe import Recipe, load_recipe
    from sasimc.training.trainer import train

__version__ = "0.10.0"

_LAZY = {
    "Activation": "sasimc.runtime.activations",
    "CompileOptions": "sasimc.api",
    "Compiled": "sasimc.backend.compile",
    "Device": "sasimc.runtime.device",
    "Inference": "sasimc.runtime.device",
    "Machine": "sasimc.isa.machine",
    "Program": "sasimc.isa.program",
    "Recipe": "sasimc.training.recipe",
    "SasError": "sasimc.isa.errors",
    "StepResult": "sasimc.runtime.device",
    "Study": "sasimc.studies",
    "Trap": "sasimc.isa.errors",
    "assemble": "sasimc.isa.text.assembler",
    "compile": "sasimc.api",
    "compile_model": "sasimc.api",
    "cost": "sasimc.costs",
    "evaluate": "sasimc.training.evaluation",
    "evaluate_values": "sasimc.training.evaluation",
    "from_torch": "sasimc.quantise.from_torch",
    "export_onnx": "sasimc.export",
    "load_machine": "sasimc.isa.machine",
    "load_program": "sasimc.isa.files",
    "load_recipe": "sasimc.training.recipe",
    "open_dataset": "sasimc.datasets.dataset",
    "report": "sasimc.costs",
    "save_program": "sasimc.isa.files",
    "train": "sasimc.training.trainer",
}
"""Name -> module that it is imported from on first use."""

__all__ = [*_LAZY, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``sasc asm`` does not pay for onnx and numba."""
    if name not in _LAZY:
        raise AttributeError(f"module 'sasimc' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "annotations"})
