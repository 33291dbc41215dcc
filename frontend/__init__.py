"""ONNX in, integer graph out: :func:`load_model`, :func:`check_model`, :func:`import_model`."""

from sasimc.frontend.check import CheckReport, Finding, check_model
from sasimc.frontend.load import load_model
from sasimc.frontend.onnx_import import import_model

__all__ = ["CheckReport", "Finding", "check_model", "import_model", "load_model"]
