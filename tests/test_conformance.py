"""Node tests of the ONNX standard as int8 graphs (benchmarks/conformance.py): a sample of those that run, and of those that are refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUNS = {
    "test_softmax_large_number": "Softmax", "test_argmax_keepdims_example": "ArgMax", "test_dropout_default": "Dropout",
    "test_identity": "Identity", "test_squeeze_negative_axes": "Squeeze", "test_unsqueeze_axis_2": "Unsqueeze", "test_basic_conv_with_padding": "Conv",
    "test_gemm_transposeB": "Gemm", "test_maxpool_1d_default": "MaxPool", "test_averagepool_2d_strides": "AveragePool", "test_batchnorm_epsilon": "BatchNormalization",
    "test_add, one tensor for all inputs": "Add", "test_mul, one tensor for all inputs": "Mul", "test_elu": "Elu", "test_hardswish": "HardSwish",
    "test_mul_bcast": "Mul",
}  # fmt: skip
REFUSED = (
    "test_maxpool_3d_default",
    "test_reshape_reordered_all_dims",
    "test_resize_upsample_scales_cubic",
    "test_flatten_axis0",
)


@pytest.fixture(scope="module")
def conformance() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "conformance.py"
    spec = importlib.util.spec_from_file_location("conformance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module
    spec.loader.exec_module(module)
    return module


def results(conformance: ModuleType, names: set[str], folder: Path) -> dict[str, str]:
    found = {}
    for name, model, x, others in conformance.cases("*"):
        if name in names:
            found[name] = conformance.run(name, model, x, others, folder).outcome
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_sample_of_the_standard(conformance: ModuleType, tmp_path: Path) -> None:
    found = results(conformance, {*RUNS, *REFUSED}, tmp_path)
    assert {n: o for n, o in found.items() if n in REFUSED} == dict.fromkeys(REFUSED, "refused")
    assert all(o in ("equal", "one step") for n, o in found.items() if n in RUNS), found
    assert len(found) >= len(RUNS) + len(REFUSED) - 3
