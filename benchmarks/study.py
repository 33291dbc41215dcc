"""Studies on workers of this machine: overhead of a trial, scaling, and workers killed at random.

    python benchmarks/study.py [--kills 100] [--json FILE]

Overhead: 1,000 trials that do nothing. Scaling: the same compile-only trials of the embedded network in this process, on one worker and on two. Kills: trials of 50 ms while
workers are killed; the results are compared with those of this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import add_common, finish, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cloudpickle
import study_measures
from study_measures import empty
from study_measures import files_of as files

from sasimc.cluster.pool import Pool, Serial
from sasimc.measures import measure
from sasimc.study.description import Description
from sasimc.study.run import Study

cloudpickle.register_pickle_by_value(study_measures)


MACHINES = Description.model_validate(
    {
        "metrics": ["latency.infer", "energy.infer", "area"],
        "minimise": ["latency.infer", "area"],
        "vary": {
            "machine.array.rows": [32, 64, 128],
            "machine.array.bit_columns": [256, 512, 1024],
            "machine.buffer.bytes": [200704, 401408],
        },
    }
)


def seconds(study: Study, pool: Any) -> float:
    start = time.perf_counter()
    study.run(pool)
    assert not study.failures, study.failures[:3]
    return time.perf_counter() - start


def killing(folder: Path, wanted: int) -> tuple[int, bool]:
    """Kills done, and whether the results are those of an undisturbed run."""
    trials = empty(wanted * 100)
    study = Study(trials, folder / "killed")
    with Pool(study_measures.slow, 2) as pool, study_measures.killing(pool, wanted, (0.1, 0.6)) as killed:
        study.run(pool)
    alone = Study(trials, folder / "quiet")
    alone.run(Serial(study_measures.by_formula))
    return len(killed), not study.failures and files(folder / "killed") == files(folder / "quiet")


def main() -> None:
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--kills", type=int, default=100)
    o = parser.parse_args()
    rows: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Pool(study_measures.by_formula, 2) as pool:
            rows.append(("1,000 empty trials, ms each", f"{seconds(Study(empty(1000), folder / 'empty'), pool):.2f}"))
        serial = seconds(Study(MACHINES, folder / "0"), Serial(measure))
        rows.append(("18 machines, this process, s", f"{serial:.1f}"))
        for n in (1, 2):
            with Pool(measure, n) as pool:
                rows.append(
                    (
                        f"18 machines, {n} worker{'s' if n > 1 else ''}, s",
                        f"{seconds(Study(MACHINES, folder / str(n)), pool):.1f}",
                    )
                )
        rows.append(("same files", str(files(folder / "0") == files(folder / "1") == files(folder / "2"))))
        if o.kills:
            done, same = killing(folder, o.kills)
            rows.append(("workers killed", str(done)))
            rows.append(("results complete and equal", str(same)))
    print(table(("what", "measured"), rows))
    finish(o, {"rows": rows})


if __name__ == "__main__":
    main()
