"""Lives of devices against closed forms and drawn words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from sasimc.evaluation.questions.life import CODES, LONGEST, Code, Duty, Flips, Rows, life, life_table, lost

NONE, SECDED, DEC = CODES.values()


@pytest.mark.parametrize("p", [1e-12, 1e-6, 1e-3, 0.1, 0.5])
def test_words_that_are_lost_as_the_binomial_distribution_says(p: float) -> None:
    for code in CODES.values():
        assert float(lost(code, p)) == pytest.approx(float(binom.sf(code.corrects, code.bits, p)), rel=1e-9)


def test_codes_have_the_bits_that_their_bounds_ask_for() -> None:
    """Hamming's bound: a word and all its correctable errors have patterns of check bits of their own."""
    for code in (SECDED, DEC):
        assert 2**code.check >= sum(math.comb(code.bits, k) for k in range(code.corrects + 1))
    assert SECDED.overhead == 1.125


def test_retention_alone_is_a_closed_form() -> None:
    """N words without a code: all n bits of all words hold with exp(-n N p), p = r t for short times."""
    found = life([Rows(1000, 512, 0, 0)], Flips((1.0,), (1e-18,), (0.0,), ""), 1e9, Duty(1.0, NONE, 0.0))
    assert found.retention == pytest.approx(math.log(2) / (1000 * 512 * 1e-18), rel=1e-4)
    assert found.all == pytest.approx(found.retention)
    assert found.disturb == found.endurance == LONGEST
    assert found.limit == "retention"


def test_scrubbing_keeps_pairs_of_errors_apart() -> None:
    """Two wrong bits in a word of 72 within T: t / T x N x C(72, 2) (r T)^2 = ln 2."""
    rate, step, rows = 1e-12, 3600.0, [Rows(1000, 512, 0, 0)]
    found = life(rows, Flips((1.0,), (rate,), (0.0,), ""), 1e9, Duty(1.0, SECDED, step))
    words = 1000 * 512 / 64
    assert found.retention == pytest.approx(math.log(2) / (words * math.comb(72, 2) * rate**2 * step), rel=1e-3)
    slow = life(rows, Flips((1.0,), (rate,), (0.0,), ""), 1e9, Duty(1.0, SECDED, 0.0))
    assert slow.retention < 0.1 * found.retention


def test_weak_cells_decide() -> None:
    """One cell in a million that turns round a million times as fast doubles the flips."""
    few = Flips((1 - 1e-6, 1e-6), (1e-18, 1e-12), (0.0, 0.0), "")
    found, alike = (
        life([Rows(100_000, 512, 0, 0)], f, 1e9, Duty(1.0, NONE, 0.0)) for f in (few, Flips((1.0,), (1e-18,), (0.0,), ""))
    )
    assert found.retention == pytest.approx(alike.retention / 2, rel=0.01)


def test_disturb_counts_reads() -> None:
    quiet, busy = (
        life([Rows(10, 512, 0, n)], Flips((1.0,), (0.0,), (1e-19,), ""), 1e9, Duty(3.0, NONE, 0.0)) for n in (100.0, 400.0)
    )
    assert quiet.disturb == pytest.approx(4 * busy.disturb, rel=1e-6)
    assert busy.disturb == pytest.approx(math.log(2) / (10 * 512 * 1e-19 * 400 * 3), rel=1e-3)


def test_endurance_of_one_hot_row_and_of_levelled_ones() -> None:
    """512 cells, the first of which wears out: 512 (n / N)^2 = ln 2."""
    hot = [Rows(1, 512, 64.0, 0), Rows(63, 512, 0.0, 0)]
    found = life(hot, Flips((1.0,), (0.0,), (0.0,), ""), 1e6, Duty(1.0, NONE, 0.0))
    assert found.endurance == pytest.approx(1e6 / 64 * math.sqrt(math.log(2) / 512), rel=1e-3)
    even = life([Rows(64, 512, 1.0, 0)], Flips((1.0,), (0.0,), (0.0,), ""), 1e6, Duty(1.0, NONE, 0.0))
    assert even.endurance == pytest.approx(1e6 * math.sqrt(math.log(2) / (64 * 512)), rel=1e-3)
    assert even.endurance == pytest.approx(
        8 * found.endurance, rel=1e-3
    )  # 64 times fewer writes, 64 times the cells that may be first


def test_half_of_drawn_devices_have_lost_a_word_by_then() -> None:
    rng, code = np.random.default_rng(0), Code(64, 8, 1)
    found = life([Rows(4, 512, 3.0, 0)], Flips((1.0,), (0.0,), (0.0,), ""), 1e6, Duty(1.0, code, 0.0))
    cells = 1e6 / 3 * rng.weibull(2.0, (4000, 4 * 512 // 64, code.bits))
    second = np.partition(cells, 1, axis=-1)[..., 1]  # a word is lost with its second cell
    assert np.median(second.min(axis=1)) == pytest.approx(found.endurance, rel=0.02)


def test_the_table_names_the_limit() -> None:
    found = life([Rows(1, 512, 1e3, 0)], Flips((1.0,), (0.0,), (0.0,), ""), 1e6, Duty(1.0, NONE, 0.0))
    assert life_table([("x", "none", found)]).rows == [
        ("x", "none", "36.8 s", "> 1e6 years", "> 1e6 years", "36.8 s", "endurance")
    ]
