"""The kernel of the macrospin model: many macros at once, each of one or more free layers on one line, with the line's currents solved every step.

Trajectories are worked off in blocks of lanes, so that the compiler can use the processor's vector instructions. The thermal field is drawn as sums of
two uniform numbers of the right variance: weak convergence of the scheme asks for no more than the first moments, and a layer sums thousands of
draws within its relaxation time.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["ENERGIES", "FIELDS", "LANES", "advance"]

LANES = 16
"""Macros of a block."""

FIELDS = ("kx", "ky", "kz", "spread", "sot", "stt", "p2", "g_p", "tmr", "v2", "access")
"""Columns of ``layer``: diagonal of C, tesla; standard deviation of a step's thermal field, tesla; torque per ampere of line and junction current (STT at
cos = 0), tesla/A; P^2 in the efficiency 1 / (1 + P^2 cos); conductance of the parallel state, S; TMR at no voltage; 1 / (voltage that halves it)^2, 1/V^2;
resistance of the access transistor, ohm."""

ENERGIES = ("line", "driver", "junction", "access", "line_charge", "junction_charge")
"""Columns of ``spent``: joule in the line, in the line's transistor, in junctions, in access transistors; coulomb drawn through the line's driver and
through the bit lines' drivers."""


@njit(error_model="numpy", cache=True)
def _seed_state(seed, stream, s, lane):  # type: ignore[no-untyped-def]
    """Fill column ``lane`` of ``s`` uint64[4, lanes] from seed and stream by splitmix64."""
    z = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(stream) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
    for i in range(4):
        z += np.uint64(0x9E3779B97F4A7C15)
        y = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        y = (y ^ (y >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        s[i, lane] = y ^ (y >> np.uint64(31))


@njit(error_model="numpy", cache=True, inline="always")
def _slope(mx, my, mz, bx, by, bz, sot, px, pz, alpha, rate):  # type: ignore[no-untyped-def]
    """dm/dt for the field B and the torques; (px, 0, pz) is the spin-transfer torque's b p, ``rate`` gamma / (1 + alpha^2)."""
    bx += my * pz - mz * sot  # m x p, with p = (px, sot, pz)
    by += mz * px - mx * pz
    bz += mx * sot - my * px
    cx, cy, cz = my * bz - mz * by, mz * bx - mx * bz, mx * by - my * bx
    return (
        -rate * (cx + alpha * (my * cz - mz * cy)),
        -rate * (cy + alpha * (mz * cx - mx * cz)),
        -rate * (cz + alpha * (mx * cy - my * cx)),
    )


@njit(error_model="numpy", cache=True, inline="always")
def _draw(s, noise):  # type: ignore[no-untyped-def]
    """Three numbers of mean 0 and variance 1 for each lane: sums of two uniform ones of 21 bits (xoshiro256++ gives 64 at once)."""
    low = np.uint64((1 << 21) - 1)
    scale = np.sqrt(6.0) / (1 << 21)
    for half in range(2):
        for v in range(LANES):
            s0, s1, s2, s3 = s[0, v], s[1, v], s[2, v], s[3, v]
            a = s0 + s3
            out = ((a << np.uint64(23)) | (a >> np.uint64(41))) + s0
            t = s1 << np.uint64(17)
            s2 ^= s0
            s3 ^= s1
            s1 ^= s2
            s0 ^= s3
            s2 ^= t
            s3 = (s3 << np.uint64(45)) | (s3 >> np.uint64(19))
            s[0, v], s[1, v], s[2, v], s[3, v] = s0, s1, s2, s3
            x = np.float64(np.int64(out & low)) + 0.5
            y = np.float64(np.int64((out >> np.uint64(21)) & low)) + 0.5
            z = np.float64(np.int64((out >> np.uint64(42)) & low)) + 0.5
            if half == 0:
                noise[0, v], noise[1, v], noise[2, v] = x, y, z
            else:
                noise[0, v] = (noise[0, v] + x) * scale - np.sqrt(6.0)
                noise[1, v] = (noise[1, v] + y) * scale - np.sqrt(6.0)
                noise[2, v] = (noise[2, v] + z) * scale - np.sqrt(6.0)


@njit(error_model="numpy", cache=True, inline="always")
def _circuit(m, lay, easy, on, voltage, level, side, source, ga, r_driver, returns, g_line, work, local, through, spent, dt):  # type: ignore[no-untyped-def]
    """Kirchhoff's laws of the ladder for every lane: ``local`` [J, lanes] line current under each junction, ``through`` [J, lanes] current from the
    bit line into the line; heat and charge of the step are added to ``spent``. Nodes: the driven end, then the junctions; the far end is ground."""
    layers = m.shape[0]
    g, volt, diagonal, right, v = work[0], work[1], work[2], work[3], work[4]
    for v_ in range(LANES):
        diagonal[0, v_] = ga + g_line[0]
        right[0, v_] = source[v_]
    for j in range(layers):
        for k in range(LANES):
            along = m[j, easy, k]
            tmr = lay[j, 8, k] / (1.0 + through[j, k] * through[j, k] * lay[j, 9, k] / (volt[j, k] * volt[j, k]))
            g_p = lay[j, 7, k]
            conductance = 0.5 * g_p * ((1.0 + along) + (1.0 - along) / (1.0 + tmr))
            volt[j, k] = conductance  # of the junction alone, also for the next step's voltage
            g[j, k] = on * conductance / (1.0 + lay[j, 10, k] * conductance)
    for j in range(layers):
        gl, gr = g_line[j], g_line[j + 1]
        for k in range(LANES):
            drive = -level * side[j, k]
            gj = g[j, k] if voltage else 0.0
            factor = gl / diagonal[j, k]
            diagonal[j + 1, k] = gl + gr + gj - gl * factor
            right[j + 1, k] = (gj * drive if voltage else on * drive) + right[j, k] * factor
    for k in range(LANES):
        v[layers, k] = right[layers, k] / diagonal[layers, k]
    for j in range(layers - 1, -1, -1):
        for k in range(LANES):
            v[j, k] = (right[j, k] + g_line[j] * v[j + 1, k]) / diagonal[j, k]
    for k in range(LANES):
        out = source[k] - ga * v[0, k]
        spent[1, k] += out * out * r_driver * dt
        spent[4, k] += abs(out) * dt
        local[0, k] = 0.5 * out
        spent[0, k] += out * (v[0, k] - v[1, k]) * dt
    for j in range(layers):
        for k in range(LANES):
            drive = -level * side[j, k]
            current = g[j, k] * (drive - v[j + 1, k]) if voltage else on * drive
            through[j, k] = current
            after = g_line[j + 1] * (v[j + 1, k] - (v[j + 2, k] if j + 1 < layers else 0.0))
            local[j, k] += 0.5 * after
            if j + 1 < layers:
                local[j + 1, k] = 0.5 * after
            spent[0, k] += after * after / g_line[j + 1] * dt
            spent[2, k] += current * current / volt[j, k] * dt
            spent[3, k] += current * current * lay[j, 10, k] * dt
            spent[5, k] += abs(current) * dt
    if returns == 0.0:
        for j in range(layers):
            for k in range(LANES):
                local[j, k] = source[k]


@njit(error_model="numpy", cache=True, nogil=True)
def advance(first, last, m, side, sign, layer, steps, drive, line, p, dt, seed, every, path, marks, settled, spent):  # type: ignore[no-untyped-def]
    """Integrate macros first..last in place.

    ``m`` [N, J, 3]; ``side`` [N, J] +1 or -1: the state that the bit line writes; ``sign`` [N]: of the line's current; ``layer`` [N, J, FIELDS];
    ``steps`` [S]; ``drive`` [S, 6]: source begin and end (A into the driven end), bit line level begin and end (V or A), conductance of the driven end
    to ground (S), whether access transistors are on; ``line`` [J + 1]: conductances along the line; ``p``: field (3), alpha, gamma / (1 + alpha^2),
    field-like ratio, easy axis, whether bit lines drive voltages, resistance of the line's driver, whether the junctions' currents return
    through the line (0: only its source's current acts on the layers); ``spent`` [N, ENERGIES]; ``settled`` [N, J];
    ``marks`` [N, S, J]: the component along the easy axis at the end of every segment; ``path`` [recorded, samples, J, 3].
    """
    layers = m.shape[1]
    ex, ey, ez, alpha, rate, field_like, easy_f, voltage_f, r_driver, returns = p
    easy, voltage = int(easy_f), voltage_f > 0
    state, noise = np.empty((4, LANES), np.uint64), np.zeros((3, LANES))
    mm, ss, lay = np.empty((layers, 3, LANES)), np.empty((layers, LANES)), np.empty((layers, layer.shape[2], LANES))
    sg, source, done = np.empty(LANES), np.empty(LANES), np.empty((layers, LANES))
    local, through = np.zeros((layers, LANES)), np.zeros((layers, LANES))
    work, heat = np.zeros((5, layers + 1, LANES)), np.zeros((spent.shape[1], LANES))
    for block in range(first, last, LANES):
        noisy = False
        for v in range(LANES):
            i = min(block + v, last - 1)
            _seed_state(seed, i, state, v)
            sg[v] = sign[i]
            for j in range(layers):
                ss[j, v], done[j, v], through[j, v], work[1, j, v] = side[i, j], 0.0, 0.0, 1.0
                for c in range(3):
                    mm[j, c, v] = m[i, j, c]
                for f in range(layer.shape[2]):
                    lay[j, f, v] = layer[i, j, f]
                noisy |= lay[j, 3, v] > 0
        heat[:] = 0.0
        step = 0
        for segment in range(steps.shape[0]):
            count = steps[segment]
            s0, s1, t0, t1, ga, on = drive[segment]
            for n in range(count):
                level = t0 + (t1 - t0) * ((n + 0.5) / count)
                for v in range(LANES):
                    source[v] = (s0 + (s1 - s0) * ((n + 0.5) / count)) * sg[v]
                _circuit(
                    mm, lay, easy, on, voltage, level, ss, source, ga, r_driver, returns, line, work, local, through, heat, dt
                )
                step += 1
                time = step * dt
                for j in range(layers):
                    if noisy:
                        _draw(state, noise)
                    for v in range(LANES):
                        mx, my, mz = mm[j, 0, v], mm[j, 1, v], mm[j, 2, v]
                        spread = lay[j, 3, v]
                        sot = lay[j, 4, v] * local[j, v]
                        along = mx if easy == 0 else mz
                        stt = -lay[j, 5, v] * through[j, v] / (1.0 + lay[j, 6, v] * along)
                        px = stt if easy == 0 else 0.0
                        pz = 0.0 if easy == 0 else stt
                        kx, ky, kz = lay[j, 0, v], lay[j, 1, v], lay[j, 2, v]
                        hx = ex + spread * noise[0, v]
                        hy = ey + spread * noise[1, v] + field_like * sot
                        hz = ez + spread * noise[2, v]
                        ax, ay, az = _slope(mx, my, mz, kx * mx + hx, ky * my + hy, kz * mz + hz, sot, px, pz, alpha, rate)
                        ux, uy, uz = mx + dt * ax, my + dt * ay, mz + dt * az
                        bx, by, bz = _slope(ux, uy, uz, kx * ux + hx, ky * uy + hy, kz * uz + hz, sot, px, pz, alpha, rate)
                        mx += 0.5 * dt * (ax + bx)
                        my += 0.5 * dt * (ay + by)
                        mz += 0.5 * dt * (az + bz)
                        norm = 1.0 / np.sqrt(mx * mx + my * my + mz * mz)
                        mx, my, mz = mx * norm, my * norm, mz * norm
                        mm[j, 0, v], mm[j, 1, v], mm[j, 2, v] = mx, my, mz
                        done[j, v] = time if ss[j, v] * (mx if easy == 0 else mz) < 0.5 else done[j, v]
                if block < path.shape[0] and step % every == 0:
                    row = step // every - 1
                    for v in range(min(LANES, path.shape[0] - block)):
                        if row < path.shape[1]:
                            for j in range(layers):
                                for c in range(3):
                                    path[block + v, row, j, c] = mm[j, c, v]
            for v in range(min(LANES, last - block)):
                for j in range(layers):
                    marks[block + v, segment, j] = mm[j, easy, v]
        for v in range(min(LANES, last - block)):
            for j in range(layers):
                for c in range(3):
                    m[block + v, j, c] = mm[j, c, v]
                settled[block + v, j] = np.inf if done[j, v] == step * dt else done[j, v]
            for e in range(spent.shape[1]):
                spent[block + v, e] += heat[e, v]
