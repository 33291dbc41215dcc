"""The options of the passes that users set (:mod:`sasimc.isa.options`)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from sasimc.ir.words import ErrorRange, Loss, Range, Rounding, Spill, Update
from sasimc.isa.options import option

__all__ = ["BackwardOptions"]


@dataclass(frozen=True, kw_only=True)
class BackwardOptions:
    """How the backward half of a training step is derived (pages "Training on the device" and "Arithmetic")."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  a recipe holds these options and refuses any others

    loss: Loss = option(
        "cross-entropy",
        "What training lowers. cross-entropy: of classes; squared-error: of real targets, as for regression, or of the inputs themselves, as for an autoencoder",
    )
    train_budget: tuple[str, ...] = option(
        (),
        "Train only the most important layers, so that the program keeps a limit: transposable=300 (sub-arrays), cycles=10M, writes=2M (bits written at most) or host-bits=100M, "
        "the last three of a training step; may be given more than once",
    )
    backprop: Literal["exact", "truncated"] = option(
        "exact", "exact: errors pass every layer; truncated: they stop at frozen layers with weights where they can"
    )
    backprop_through: tuple[str, ...] = option(
        (),
        "Pattern (glob or regular expression) over node names: of the frozen layers with weights, errors pass these and those that no "
        "trainable layer can do without; replaces --backprop; may be given more than once",
    )
    update: Update = option(
        "momentum",
        "direct: 8-bit weights; accumulate: 16-bit weights, the low byte outside the arrays; momentum: accumulate, with momentum 0.875",
    )
    train_biases: bool = option(False, "Train the biases of trainable layers too: 32 bits each, with the steps of their weights")
    round_errors: Rounding = option(
        "carried",
        "Rounding of errors to 8 bits. nearest; stochastic: by their low bits; unbiased: up with the probability of what is cut off; carried: nearest, and the rounding remainder of the loss error "
        "is carried to the next class (nearest where the loss is the squared error)",
    )
    unbiased_updates: bool = option(
        False,
        "Round gradients up with the probability of what is cut off, by counted random numbers, and not by their own low bits",
    )
    error_range: ErrorRange = option(
        "batch",
        "What decides the exponent of an error tensor. batch: the largest error of this batch, so that 32-bit sums wait in host memory until all "
        "samples are through; previous: the largest of the step before, so that they are cut to 8 bits at once (those beyond are counted)",
    )
    spill: Spill = option(
        "cheaper",
        "Where 32-bit errors are until the range of their batch is known. always: in host memory; half: there as 16 bits, where errors are rounded to nearest; "
        "never: nowhere, they are computed a second time; cheaper: what takes the fewest cycles, layer by layer (values are the same)",
    )
    gradient_power: Literal[0, 1, 2] = option(0, "Divide gradients by this power of their output channel's weight scale")
    gradient_range: Range = option(
        "batch", "What a gradient is compared with. batch: the largest of this batch; peak: the largest of the batches so far"
    )
    eps: Annotated[float, Interval(ge=0, lt=1)] = option(0.1, "Label smoothing of the loss")
