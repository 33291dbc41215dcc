"""The level of the loss, and when modules join."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import dataset, short_program

from sasimc.runtime.device import LOSS_TO_NATS, Device
from sasimc.training.level import STILL, UNIT, Level, ModulesSection
from sasimc.training.recipe import Recipe, Schedule
from sasimc.training.trainer import TrainState, train

HALF = ModulesSection(wait=0.5, latest=1)


@given(st.integers(2, 1000), st.lists(st.integers(0, 20 * UNIT), max_size=60))
def test_the_level_is_a_moving_average(classes: int, losses: list[int]) -> None:
    """Beside the same average in floating point; each whole-number step loses less than one word, which sixteen steps keep."""
    level, guess = Level.of(classes, HALF), UNIT * math.log2(classes)
    average = guess
    for words in losses:
        level = level.after(words, HALF)
        average += (min(words, 2 * guess) - average) / 16
    assert average - 16 <= level.level <= average + 1


def _exponent(level: Level, modules: ModulesSection, step: int = 0) -> int:
    """Of modules that are scheduled to have 3, in a run of 10 steps."""
    return Recipe(module_exponent=Schedule(first=3, last=3), modules=modules).exponents(step, 10, level)[1]


def test_modules_join_at_their_share_and_stay() -> None:
    """Two classes: a guess costs one bit. Losses of 0 lower the level by 1/16 a step, so eleven of them halve it: (15/16)**10 > 1/2 > (15/16)**11."""
    level = Level.of(2, HALF)
    assert (level.guess, _exponent(level, HALF)) == (UNIT, STILL)
    joined = []
    for _ in range(11):
        level = level.after(0, HALF)
        joined.append(level.joined)
    assert joined == [False] * 10 + [True]
    for _ in range(100):
        level = level.after(2 * UNIT, HALF)
    assert level.joined
    assert _exponent(level, HALF) == 3


def test_modules_join_at_the_latest_when_their_share_of_the_steps_is_done() -> None:
    """Also where the classifier alone learns nothing, as in a network all of whose layers are trained."""
    modules = ModulesSection(wait=0.5, latest=0.5)
    assert [_exponent(Level.of(5, modules), modules, step) for step in range(10)] == [STILL] * 5 + [3] * 5


def test_values_have_the_loss_of_the_first_step_for_a_guess() -> None:
    level = Level.of(0, HALF)
    assert not level.joined
    level = level.after(1000, HALF)
    assert (level.guess, level.level, level.joined) == (1000, 1000, False)
    assert Level.of(0, ModulesSection(wait=1, latest=1)).joined


def test_modules_that_wait_keep_their_weights() -> None:
    """On the device: only the classifier learns until the modules join, then everything that is trainable moves."""
    modules = ModulesSection(wait=0.1, latest=0.5)
    recipe = Recipe(epochs=2, head_exponent=Schedule(first=4, last=4), module_exponent=Schedule(first=4, last=4), modules=modules)
    device, data, moved = Device(short_program(update="direct"), "fused", 1), dataset(), list[set[str]]()
    begun = {name: values.copy() for name, values in device.state().items()}

    def look(run: TrainState) -> None:
        if run.batch:
            moved.append({name for name, values in device.state().items() if (values != begun[name]).any()})

    train(device, data, recipe, keep=look)
    waiting, learning = moved[: len(moved) // 2], moved[len(moved) // 2 :]
    assert waiting[-1] == {"head"} == set().union(*waiting)
    assert learning[-1] == {"head", "conv0"}


def test_a_step_tells_its_loss_in_whole_words() -> None:
    device, data = Device(short_program(), "fused", 1), dataset()
    items = data.items("train")[:2]
    got = device.train_step(np.stack([data.load(i) for i in items]), np.asarray([i.class_id for i in items]))
    assert 0 <= got.loss / LOSS_TO_NATS - got.words < 1
