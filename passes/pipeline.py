"""The order in which the forward passes run."""

from __future__ import annotations

from sasimc.passes.canonicalise import Canonicalise
from sasimc.passes.eliminate_dead import EliminateDead
from sasimc.passes.fold_constants import FoldConstants
from sasimc.passes.join_tables import JoinTables
from sasimc.passes.manager import Pass
from sasimc.passes.mark_trainable import MarkTrainable
from sasimc.passes.simplify import Simplify
from sasimc.passes.store_outputs import StoreOutputs
from sasimc.passes.to_unsigned import ToUnsigned
from sasimc.passes.zero_inputs import ZeroInputs

__all__ = ["forward_passes", "import_passes", "marking_passes", "unmarked_passes"]


def import_passes() -> tuple[Pass, ...]:
    """From a float-level graph to integers: what stands in the file, operation by operation."""
    return (EliminateDead(), FoldConstants(), Canonicalise())


def unmarked_passes() -> tuple[Pass, ...]:
    """From a float-level graph to the integer graph, as far as it does not matter which layers are trainable."""
    return (*import_passes(), ToUnsigned(), Simplify(), EliminateDead(), JoinTables())


def marking_passes(trainable: str | None = None) -> tuple[Pass, ...]:
    """From there to the integer graph the backend maps, with its trainable layers marked."""
    return (MarkTrainable(pattern=trainable), ZeroInputs(), StoreOutputs(), EliminateDead())


def forward_passes(trainable: str | None = None) -> tuple[Pass, ...]:
    """From a float-level graph to the integer graph the backend maps, with its trainable layers marked."""
    return (*unmarked_passes(), *marking_passes(trainable))
