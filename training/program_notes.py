"""What a program says about its use besides its code: names of its classes, preprocessing, whether it has learned anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sasimc.datasets.network_input import PREPROCESS, SOURCE
from sasimc.datasets.preprocess import Preprocess, parse_preprocess
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program
from sasimc.runtime.interface import Interface

__all__ = [
    "HOST_NOTES",
    "MODULE_WEIGHTS",
    "ZOO",
    "chosen_preprocess",
    "more_classes",
    "untrained",
    "with_labels",
    "with_notes",
    "with_preprocess",
]

LABELS: Final = "note.sasimc.labels"
UNTRAINED: Final = "note.sasimc.untrained"
ZOO: Final = "note.sasimc.zoo"
"""The tuned options that `sasc zoo` built the network with, as JSON."""
MODULE_WEIGHTS: Final = "note.sasimc.module_weights"
"""The shipped file that the modules' first weights are from, where they are."""
HOST_NOTES: Final = frozenset({LABELS, UNTRAINED, PREPROCESS, SOURCE, ZOO, MODULE_WEIGHTS})
"""Entries of a program's meta data that say nothing of what the device does."""

_UNTRAINED_WORDS: Final = {
    "weights": "untrained: all weights are random",
    "classifier": "untrained: the classifier's weights are random",
    "backbone": "the backbone's weights are random",
}


def untrained(program: Program) -> tuple[bool, str]:
    """(whether its classes are no answers, in words what has not been trained or an empty string)."""
    what = program.meta.get(UNTRAINED, "").strip('"')
    return what in ("weights", "classifier"), _UNTRAINED_WORDS.get(what, "")


def more_classes(classes: int) -> str:
    """What to do about a classifier with too few outputs."""
    return f"a classifier of {classes} outputs: sasc attach --classes {classes} for a network of yours, sasc zoo --classes {classes} for the zoo's"


def with_notes(program: Program, notes: Mapping[str, str]) -> Program:
    """The program with other notes; an empty text removes one."""
    meta = {k: v for k, v in {**program.meta, **notes}.items() if v or k not in notes}
    return replace(program, meta=meta)


def with_labels(program: Program, classes: Sequence[str]) -> Program:
    """The program with the names of the classes it learned (none where it predicts values); no longer untrained."""
    left = "backbone" if program.meta.get(UNTRAINED, "").strip('"') in ("weights", "backbone") else ""
    return with_notes(program, {LABELS: json.dumps(list(classes), ensure_ascii=False) if classes else "", UNTRAINED: left})


def with_preprocess(program: Program, base: str | None, changes: Mapping[str, Any]) -> Program:
    """The program with a preprocessing from options: ``base`` (a preset's name or JSON), then single fields.

    Raises:
        SasError: no such preset, values out of range, a network that takes no pictures, another size than its input's.
    """
    if base is None and not changes:
        return program
    now = Interface.of(program).input
    if now.preprocess is None:
        raise SasError(
            "the network takes arrays, no pictures: there is nothing to preprocess", hint="leave out the options for it"
        )
    fields: dict[str, Any] = {
        **json.loads(now.preprocess.to_json()),
        **(parse_preprocess(base) if base is not None else {}),
        **changes,
    }
    if "resize" not in changes and not (base or "").count('"resize"'):
        size = fields["size"]
        fields["resize"] = max(fields["resize"], min(size) if isinstance(size, list | tuple) else size)
    chosen = Preprocess.from_json(fields)
    options = ", ".join(f"--{name}" for name in (*(("preprocess",) if base is not None else ()), *changes))
    made = with_notes(program, {PREPROCESS: chosen.to_json(), SOURCE: options})
    Interface.of(made)
    return made


def chosen_preprocess(program: Program) -> dict[str, str]:
    """The notes of a preprocessing that an option set, else none."""
    source = program.meta.get(SOURCE, "")
    return {key: program.meta[key] for key in (PREPROCESS, SOURCE)} if source.startswith("--") else {}
