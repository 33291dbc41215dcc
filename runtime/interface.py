"""What a compiled program says about itself to the host: where images, labels and results stand, and what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sasimc.datasets.network_input import NetworkInput
from sasimc.datasets.values import NetworkOutput
from sasimc.isa.errors import SasError
from sasimc.isa.program import Program

__all__ = ["Interface"]


@dataclass(frozen=True)
class Interface:
    """What a compiled program says about itself: ``io``, the views that images, labels and results stand in; the largest batch; outputs of the
    classifier and their names; the input and what the host does to images; the output; ``values``: it predicts values, not classes."""

    io: Mapping[str, str]
    batch_size: int
    classes: int
    labels: tuple[str, ...]
    input: NetworkInput
    output: NetworkOutput
    values: bool

    @staticmethod
    def of(program: Program) -> Interface:
        """Read it from the program's meta data.

        Raises:
            SasError: the program takes no images, or its meta data are damaged.
        """
        meta = program.meta
        if "io" not in meta or "infer" not in program.entries:
            raise SasError(
                "the program has no images-in, classes-out interface (entry `infer` and meta `io`)",
                where=program.source,
                hint=f"run one of its entry points: sasrun {program.source} --entry {next(iter(program.entries), 'NAME')}",
            )
        try:
            io: Mapping[str, str] = json.loads(meta["io"])
            labels = json.loads(meta.get("note.sasimc.labels", "null") or "null")
            view, out = program.views[io["input"]], program.views[io["logits"]]
            dtypes = {"u8": "uint8", "i8": "int8", "i32": "int32"}
            return Interface(
                io,
                int(meta["batch"]),
                int(meta["classes"]),
                tuple(map(str, labels)) if isinstance(labels, list) else (),
                NetworkInput.of(view.shape, dtypes[view.dtype], float(meta["input_scale"]), int(meta["input_zero"]), meta),
                NetworkOutput(out.shape, dtypes[out.dtype], float(meta["logit_scale"]), int(meta["logit_zero"])),
                meta.get("loss") == "squared-error",
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise SasError(f"the program's meta data are damaged: {exc!r}", where=program.source) from None
