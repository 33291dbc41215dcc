"""How far a training has come: the level of its loss, by which modules join. Integers that the host makes of what it reads anyhow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["STILL", "UNIT", "Level", "ModulesSection"]

UNIT = 4096
"""Words of a bit: a loss of words / UNIT bits, as the device puts it out."""
STILL = -30
"""The step exponent of modules that wait: no gradient reaches a 16-bit step."""
_MEMORY = 4
"""A step moves the level by 2**-4 of the way to its loss."""


class ModulesSection(BaseModel):
    """When modules join: they stay as they are until the level of the loss is the share ``wait`` of what guessing has (1: they never wait), at the latest
    until the share ``latest`` of the steps is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait: Annotated[float, Field(gt=0, le=1)] = 0.8
    latest: Annotated[float, Field(ge=0, le=1)] = 0.25

    def joins(self, guess: int) -> int:
        """The level at which modules join."""
        return math.floor(self.wait * guess)


@dataclass(frozen=True)
class Level:
    """The level of the loss between two steps, in words (:data:`UNIT`).

    ``guess``: loss of a guess, log2 of the number of classes, where training begins (where values are predicted, the loss of the first step; 0: that is
    yet to come). ``joined``: whether it was ever so low that the modules join.
    """

    guess: int = 0
    level: int = 0
    joined: bool = False

    @staticmethod
    def of(classes: int, modules: ModulesSection) -> Level:
        """At the beginning; ``classes`` 0: values are predicted."""
        guess = math.floor(UNIT * math.log2(classes)) if classes > 1 else 0
        return Level(guess, guess, modules.wait == 1)

    def after(self, words: int, modules: ModulesSection) -> Level:
        """After a step whose mean loss was ``words``. One batch cannot lift the level by more than a guess would."""
        guess = self.guess or max(1, words)
        level = self.level or guess
        level += (min(words, 2 * guess) - level) >> _MEMORY
        return Level(guess, level, self.joined or level <= modules.joins(guess))

    def learns(self, step: int, steps: int, modules: ModulesSection) -> bool:
        """Whether modules learn in a step (0-based) of ``steps``."""
        return self.joined or step >= modules.latest * steps
