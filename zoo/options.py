"""The options of what is trained on a backbone, for every network that gets modules or a classifier (:mod:`sasimc.isa.options`)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from sasimc.isa.errors import SasError, near
from sasimc.isa.options import check_options, option

__all__ = ["LearnerOptions"]


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """First weights, ranges and scales of the modules and of the new classifier; what they mean for the numbers: :mod:`sasimc.zoo.zoo`."""

    seed: Annotated[int, Interval(ge=0)] = option(0, "Seed of the first weights")
    percentile: Annotated[float, Interval(ge=50, le=100)] = option(
        99.99, "Share of the magnitudes, in percent, that the range of a trainable activation holds"
    )
    headroom: Annotated[float, Interval(ge=0.1, le=64)] = option(
        3.0, "Factor by which ranges of trainable activations may grow in training"
    )
    wiring: Literal["add", "pooled"] = option(
        "add", "Modules' outputs: added to what they correct (add), or pooled features of the classifier"
    )
    rep_gain: Annotated[float, Interval(ge=0, le=16)] | None = option(
        None,
        "Initial size of a module's output relative to what it corrects (none: 1/8), or to the features that it joins (none: 1)",
    )
    rep_weight_max: Annotated[int, Interval(ge=1, le=127)] = option(48, "Largest first weight of a module")
    module_weights: str = option(
        "auto",
        "First weights of the modules: shipped ones for this backbone and about this size if there are any, else random (auto), random, or those of a file (.npz)",
    )
    module_scales: Literal["tensor", "channel"] = option(
        "tensor", "A weight scale of the modules (a power of two) for each tensor, or for each output channel"
    )
    logit_exponent: Annotated[int, Interval(ge=-12, le=8)] | None = option(
        None, "A logit's step is 2 to this power; none: from the number of classes"
    )
    head_weight_exponent: int | None = option(
        None, "A step of the classifier's weights is 2 to this power; none: from the number of features"
    )
    head_init: Literal["random", "zero"] = option("random", "Start of the classifier")

    def check(self) -> None:
        """Raise :class:`SasError` for the first option that makes no sense."""
        check_options(self)
        if self.weights_file is not None and not Path(self.weights_file).is_file():
            hint = near(self.weights_file, ["auto", "random"]) or "auto, random, or an .npz file"
            what = "are a folder" if Path(self.weights_file).is_dir() else "do not exist"
            raise SasError(f"module weights '{self.weights_file}' {what}", hint=hint)
        if self.weights_file is not None and self.rep_gain is not None:
            raise SasError("module_weights and rep_gain both say how large a module's output is", hint="leave one of them out")
        if self.weights_file is not None and self.module_scales == "channel":
            raise SasError(
                "module_scales = channel balances the channels of random weights, module_weights gives others",
                hint="leave one of them out",
            )

    def logit_step(self, classes: int) -> float:
        """A logit's step: 1/16, or as much more as the range of int8 needs to hold the margin that is best for label smoothing 0.1 (ln 9C, half of it to
        either side) two and a half times over."""
        if self.logit_exponent is not None:
            return 2.0**self.logit_exponent
        return 2.0 ** max(-4, math.ceil(math.log2(1.25 * math.log(9 * classes) / 127)))

    @property
    def weights_file(self) -> str | None:
        """The file of the modules' first weights, if one is named."""
        return self.module_weights if self.module_weights not in ("auto", "random") else None

    @property
    def takes_shipped(self) -> bool:
        """Whether shipped weights go with the other options: they are for added modules, and bring their size and scales along."""
        return (self.module_weights, self.wiring, self.rep_gain, self.module_scales) == ("auto", "add", None, "tensor")

    @property
    def first_gain(self) -> float:
        """Size that a module's output is given; where ``rep_gain`` is 0 (conv2 at zero), the usual one."""
        return self.rep_gain or {"add": 0.125, "pooled": 1.0}[self.wiring]
