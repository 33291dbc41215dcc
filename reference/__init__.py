"""Floating-point training in PyTorch: configurations 1 to 3 of the paper's table I, to compare the device with.

An optional part (``pip install 'sas-imc[reference]'``): nothing else in the package imports it, and PyTorch is loaded only by
the modules that compute with it.
"""

from __future__ import annotations

import importlib.util

from sasimc.isa.errors import SasError

__all__ = ["require"]


def require() -> None:
    """Raise SasError, saying how to install it, when PyTorch or matplotlib is missing."""
    missing = [name for name in ("torch", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise SasError(f"the floating-point reference needs {' and '.join(missing)}", hint="pip install 'sas-imc[reference]'")
