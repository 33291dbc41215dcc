"""The options of every command that compiles a model to the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sasimc.cli.options import declared
from sasimc.options import CompileOptions

__all__ = ["compile_options"]

_OPTIONS: Final = (
    ("calibrate", "Input", "[NAME|FOLDER|FILE.npz]"), ("trainable", "Training", "PATTERN"), ("train_budget", "Training", "FIGURE=NUMBER"),
    ("importance_data", "Training", "[NAME|FOLDER|FILE.npz]"), ("inference_only", "Training", None), ("batch", "Training", None),
    ("loss", "Training", None), ("eps", "Training", None), ("backprop", "Training", None), ("backprop_through", "Training", "PATTERN"),
    ("update", "Training", None), ("train_biases", "Training", None), ("round_errors", "Training", None), ("unbiased_updates", "Training", None), ("error_range", "Training", None), ("spill", "Training", None),
    ("gradient_power", "Training", None), ("gradient_range", "Training", None),
)  # fmt: skip


def compile_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """Declare them; the command receives the fields of :class:`~sasimc.options.CompileOptions` that they are."""
    for name, section, metavar in reversed(_OPTIONS):
        f = declared(CompileOptions, name, section, metavar)(f)
    return f
