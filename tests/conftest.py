"""Puts this folder on the import path: the tests share ``golden`` (the oracle) and ``models`` (small ONNX networks)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
