"""Which task does an image belong to? Nearest means of frozen features, as ``sasrun --task auto`` finds it: a mean for every class, or one for every task.

    python benchmarks/recognise.py [--limit 400]                                 (embedded default; flowers and shapes drawn by formula)
    python benchmarks/recognise.py --data FOLDER [--tasks flowers17,pets,...] [--wiring pooled]    (MobileNet-V2 + Rep-Net)

Nothing is trained: means are of the training images' features, and the share of test images whose nearest mean is of their own task is counted.
``forgetting.py`` has what becomes of the classes. ``SET:A-B`` takes classes A to B of a set.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import add_common, data_folder, environment, finish, table
from forgetting import DRAWN, REAL, part, program

from sasimc.runtime.device import Device
from sasimc.training.image.recognise import Mean, half_norms, recognise_code
from sasimc.training.recognition import class_means, read_features


def nearest(features: np.ndarray, means: Mean) -> np.ndarray:
    """The nearest of means [N, K] to features [B, K], as the device computes it."""
    return (features.astype(np.int64) @ means.astype(np.int64).T - half_norms(means)).argmax(axis=1)


def main() -> None:
    """Means, shares, cycles."""
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--tasks", help=f"data sets; default {DRAWN}, with --data {REAL}")
    parser.add_argument("--limit", type=int, default=400, help="at most this many images of each split")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--wiring", choices=("add", "pooled"), default="add")
    o = parser.parse_args()
    o.batch, o.data = 8, data_folder(o) if o.data else None
    o.tasks = o.tasks or (REAL if o.data else DRAWN)
    print(environment(o.threads))
    sets = [part(name, o.data, o.resolution) for name in o.tasks.split(",")]
    p = program(o, max(len(s.classes) for s in sets))
    means = [class_means(p, s, "fused", o.threads, o.limit)[0] for s in sets]
    features = [np.concatenate([f for f, *_ in read_features(p, s, "test", "fused", o.threads, o.limit)]) for s in sets]
    whole = [np.round(m.astype(np.float64).mean(axis=0, keepdims=True)).astype(m.dtype) for m in means]
    rows, shares, cycles = [], {}, {}
    for how, ways in (("a mean for every class", means), ("one for the task", whole)):
        owner, joined = np.repeat(np.arange(len(sets)), [len(m) for m in ways]), np.concatenate(ways)
        shares[how] = [100 * float((owner[nearest(f, joined)] == i).mean()) for i, f in enumerate(features)]
        device = Device(recognise_code(p, joined), "fused", o.threads)
        device.interpreter.write_view("frozen.means", joined[:, None, :])
        first = sets[0].items("test")[0]
        got = int(device.infer(np.asarray(sets[0].load(first))[None]).classes[0])
        assert got < len(joined)
        cycles[how] = {"means": len(joined), "cycles": device.interpreter.cycles}
        rows.append(
            [how, len(joined), *(f"{x:.1f}" for x in shares[how]), f"{np.mean(shares[how]):.1f}", device.interpreter.cycles]
        )
    print(table(["means", "number", *(s.name for s in sets), "mean / %", "cycles an image"], rows))
    finish(o, {"shares": shares, "cycles": cycles, "images": [len(f) for f in features]})


if __name__ == "__main__":
    main()
