"""sas-imc: compiler and ISA toolchain for a digital in-memory-computing accelerator of STT-assisted-SOT MRAM.

program = sasimc.compile("model.onnx")
device = sasimc.Device(program)
device.infer(images); device.train_step(images, labels); device.state()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sasimc.api import compile
    from sasimc.isa.program import Program
    from sasimc.runtime.device import Device

__all__ = ["Device", "Program", "__version__", "compile"]

__version__ = "0.2.0"

_LAZY = {"compile": "sasimc.api", "Device": "sasimc.runtime.device", "Program": "sasimc.isa.program"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``sasc asm`` does not pay for onnx and numba."""
    if name not in _LAZY:
        raise AttributeError(f"module 'sasimc' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
