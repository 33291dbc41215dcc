"""The words that operations of a training graph may carry. Formulas: docs/reference/numerics.md."""

from typing import Literal

__all__ = ["ErrorRange", "Loss", "Range", "Rounding", "Spill", "Update"]

Loss = Literal["cross-entropy", "squared-error"]
"""What a training step lowers: the cross-entropy of class numbers, or the squared error of real targets."""
Update = Literal["direct", "accumulate", "momentum"]
"""What an ``update`` does with a gradient; absent: the first (docs/reference/numerics.md, "Gradient and update")."""
Range = Literal["batch", "peak"]
"""What an ``update`` compares a gradient with: the largest of this batch, or of the batches so far; absent: the first."""
ErrorRange = Literal["batch", "previous"]
"""What range a ``stage`` quantises errors by: that of this batch, or that of the steps before; absent: the first."""
Rounding = Literal["nearest", "stochastic", "carried", "unbiased"]
"""How a ``stage`` rounds errors to int8; absent: the first. ``carried``: what a channel lost goes to the next one, so that sums are kept;
``unbiased``: up with the probability of what is cut off."""
Spill = Literal["cheaper", "always", "half", "never"]
"""Whether errors wait in host memory for the range of their batch, as 32 or 16 bits, or are computed twice; values do not depend on it."""
