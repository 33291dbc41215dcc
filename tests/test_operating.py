"""Operating points of a write against drawn writes and textbook probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from sasimc.evaluation.questions.life import CODES
from sasimc.evaluation.questions.operating import (
    Access,
    approximate,
    coded,
    front,
    left_by,
    operating_points,
    operating_table,
    verified,
    weight_error,
)

PULSES = [Access(1e-2, 20e-15, 3e-9), Access(1e-4, 40e-15, 5e-9), Access(1e-6, 50e-15, 6e-9)]
READ = Access(1e-9, 2e-15, 5e-9)


def test_write_verify_as_drawn_rows_do_it() -> None:
    rng, row, rows, pulse = np.random.default_rng(0), 64, 40_000, Access(2e-2, 1.0, 1.0)
    wrong = np.ones((rows, row), bool)
    pulses, rounds = 0, np.zeros(rows)
    for _ in range(3):
        left = wrong.any(axis=1)
        rounds += left
        pulses += int(wrong.sum())
        wrong &= rng.random(wrong.shape) < pulse.error
    made = verified(pulse, Access(0.0, 0.25, 0.5), 2, row)
    assert made.latency == pytest.approx(1.5 * rounds.mean(), rel=0.01)
    assert made.energy == pytest.approx(pulses / wrong.size + 0.25 * rounds.mean(), rel=0.01)
    assert made.error == pytest.approx(8e-6)
    assert wrong.mean() == pytest.approx(made.error, abs=4 * math.sqrt(made.error / wrong.size))


def test_a_read_that_errs_limits_what_verifying_reaches() -> None:
    assert verified(PULSES[0], Access(1e-5, 0.0, 0.0), 3, 512).error == 1e-5
    assert verified(PULSES[2], Access(1e-5, 0.0, 0.0), 0, 512).error == 1e-6  # no worse than without


@pytest.mark.parametrize("name", ["secded", "dec"])
def test_codes_leave_what_the_binomial_distribution_leaves(name: str) -> None:
    code = CODES[name]
    n, c, e = code.bits, code.corrects, 3e-3
    expected = binom.expect(lambda k: k * (k > c), args=(n, e)) / n
    assert left_by(code, e) == pytest.approx(expected, rel=1e-9)
    made = coded(PULSES[0], name)
    assert (made.error, made.cells) == (PULSES[0].error, code.overhead)  # products do not see the code
    assert made.energy == pytest.approx(20e-15 * code.overhead)


def test_wrong_bits_of_a_weight() -> None:
    rng, errors = np.random.default_rng(1), [0.02, 0.02, 0.01, 0.0, 0.0, 0.0, 0.0, 0.001]
    flips = rng.random((400_000, 8)) < errors
    signs = rng.choice([-1.0, 1.0], flips.shape)  # a wrong bit was 0 or 1
    off = (flips * signs * 2.0 ** np.arange(8)).sum(axis=1)
    assert weight_error(errors) == pytest.approx(math.sqrt((off**2).mean()), rel=0.05)
    made = approximate(PULSES[2], PULSES[0], 4)
    assert made.energy == pytest.approx(35e-15)
    assert made.latency == 6e-9
    assert made.weight_error == pytest.approx(weight_error([1e-2] * 4 + [1e-6] * 4))


def test_the_front_has_no_point_that_another_beats() -> None:
    every = list(operating_points(PULSES, READ, 512))
    best = front(every)
    assert 0 < len(best) < len(every)
    for p in best:
        assert not any(p.dominated_by(q) for q in every)
    for p in set(every) - set(best):
        assert any(p.dominated_by(q) for q in best)
    assert len(operating_table("sas", best).rows) == len(best)
