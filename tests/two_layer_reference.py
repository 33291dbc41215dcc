"""The network of examples/two_layer.s in plain integers, from docs/reference/numerics.md alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def rne(v: Ints, s: int) -> Ints:
    """v / 2^s, to nearest, ties to even; s <= 0: v."""
    if s <= 0:
        return v
    down = v >> s
    rest = v - (down << s)
    half = 1 << (s - 1)
    return down + ((rest > half) | ((rest == half) & (down & 1 == 1)))


def bits(v: Ints) -> int:
    """Binary digits of the largest magnitude."""
    return int(np.abs(v).max()).bit_length()


def psr(g: Ints, sh: int) -> Ints:
    """Pseudo-stochastic rounding to int8."""
    if sh <= 0:
        return np.clip(g, -127, 127)
    q = np.abs(g) >> sh
    r = np.abs(g) - (q << sh)
    h = sh >> 1
    low = (r & ((1 << h) - 1)) << (sh & 1)
    return np.sign(g) * np.minimum(q + ((r >> h) > low), 127)


def xent(q: Ints, label: int, mult: int, t_other: int, t_label: int) -> tuple[Ints, int]:
    """Errors of the logits and the loss in Q12 bits."""
    t = (q.max() - q) * mult
    n, f = t >> 12, t & 4095
    p2 = 32768 - ((f * (2751 - ((703 * f) >> 12))) >> 9)
    p = np.where(n > 15, 0, p2 >> np.minimum(n, 15))
    s = int(p.sum())
    e = (p * 32768 + (s >> 1)) // s - t_other
    e[label] += t_other - t_label
    e[label] -= e.sum()
    m = s.bit_length() - 1
    return e, min(int(t[label]), 65536) + (m << 12) + (((s << 12) >> m) - 4096) - 61440


@dataclass
class TwoLayer:
    """Weights [4, 6] and [6, 3]."""

    w1: Ints
    w2: Ints

    def forward(self, x: Ints) -> tuple[Ints, Ints]:
        """Hidden activations and logits of a batch [B, 4]."""
        h = np.clip(rne(x @ self.w1, 7), 0, 255)
        return h, np.clip(rne(h @ self.w2, 5), -128, 127)

    def train_step(self, x: Ints, labels: Ints, mu: int) -> Ints:
        """One step; the losses of the samples."""
        h, logits = self.forward(x)
        pairs = [xent(q, int(c), 369, 1092, 30584) for q, c in zip(logits, labels, strict=True)]
        v2 = np.array([e for e, _ in pairs])
        e2 = np.clip(rne(v2, max(0, bits(v2) - 7)), -127, 127)
        v1 = np.where(h > 0, e2 @ self.w2.T, 0)
        e1 = np.clip(rne(v1, max(0, bits(v1) - 7)), -127, 127)
        g2, g1 = h.T @ e2, x.T @ e1
        self.w2 = np.clip(self.w2 - psr(g2, bits(g2) - mu), -127, 127)
        self.w1 = np.clip(self.w1 - psr(g1, bits(g1) - mu), -127, 127)
        return np.array([loss for _, loss in pairs])
