"""Work on other processes: what a task costs scheduler, driver and worker, what travels, and how workers and threads share the cores.

    python benchmarks/cluster.py [--images 600] [--large] [--json FILE]

Tasks: 1,000 that do nothing, with a scheduler of its own; processor seconds of every process, which do not depend on who else is at work. Sharing: an evaluation of
the embedded network by one worker with two threads and by two with one thread, in turns. ``--large``: the same figures of MobileNet-V2 1.0/224 (one image), as the plan for
ImageNet needs them.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import TESTS, add_common, finish, table

sys.path.insert(0, str(TESTS))

import cloudpickle
import psutil
import study_measures
from dask_processes import free_port, processes, wait_for
from study_measures import empty

from sasimc.api import CompileOptions, compile_model
from sasimc.cluster.pool import Pool, Serial
from sasimc.datasets.dataset import open_dataset
from sasimc.isa.files import packed_program
from sasimc.pieces import Shared, run_piece
from sasimc.runtime.device import Device
from sasimc.study.run import Study
from sasimc.training.evaluation import evaluate, run_here
from sasimc.zoo.zoo import ZooOptions, build, default_model_path

cloudpickle.register_pickle_by_value(study_measures)

EMPTY = 1000


def spent(process: psutil.Process) -> float:
    """Processor seconds of a process and its children."""
    return sum(t.user + t.system for t in (p.cpu_times() for p in (process, *process.children(recursive=True))))


@contextmanager
def cluster(work: Any, *threads: int) -> Any:
    """A pool on a worker for each number of threads, with the scheduler's process and theirs."""
    port = free_port()
    with processes() as start:
        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        wait_for(port)
        place = f"tcp://127.0.0.1:{port}"
        workers = [start("worker", place, "--nthreads", n, "--no-nanny", "--no-dashboard") for n in threads]
        with Pool(work, given=place) as pool:
            while pool.workers < len(threads):
                time.sleep(0.5)
            yield pool, psutil.Process(scheduler.pid), [psutil.Process(w.pid) for w in workers]


def tasks(folder: Path) -> list[tuple[str, str]]:
    with cluster(study_measures.by_formula, 1) as (pool, scheduler, workers):
        Study(empty(20), folder / "warm").run(pool)
        before = [spent(p) for p in (scheduler, *workers)]
        start, own = time.perf_counter(), time.process_time()
        Study(empty(EMPTY), folder / "empty").run(pool)
        wall, own = time.perf_counter() - start, time.process_time() - own
        used = [spent(p) - b for p, b in zip((scheduler, *workers), before, strict=True)]
        info = pool._client.scheduler_info(n_workers=-1)["workers"]
    kept = [p.stat().st_size for p in (folder / "empty" / "trials").iterdir()]
    return [
        ("an empty task, wall ms", f"{1e3 * wall / EMPTY:.2f}"),
        ("processor ms: scheduler", f"{1e3 * used[0] / EMPTY:.2f}"),
        ("processor ms: driver, file of the result included", f"{1e3 * own / EMPTY:.2f}"),
        ("processor ms: worker", f"{1e3 * used[1] / EMPTY:.2f}"),
        ("bytes of a result file", f"{statistics.fmean(kept):.0f}"),
        ("bytes that tell of a worker", f"{len(pickle.dumps(info))}"),
    ]


def sharing(program: Any, images: int) -> list[tuple[str, str]]:
    data, wall, used = open_dataset("drawn-flowers", size=96), dict[str, list[float]](), dict[str, float]()

    def once(name: str, run: Any, processes: list[psutil.Process]) -> None:
        device = Device(program, "fused", 1)
        before, start = sum(map(spent, processes)), time.perf_counter()
        evaluate(device, data, "test", limit=images, run=run)
        wall.setdefault(name, []).append(time.perf_counter() - start)
        used[name] = sum(map(spent, processes)) - before

    with cluster(run_piece, 2) as (one, _, wide), cluster(run_piece, 1, 1) as (two, _, narrow):
        for _ in range(4):
            once("one worker, two threads", Shared(one, None, 0).run, wide)
            once("two workers, one thread each", Shared(two, None, 0).run, narrow)
            once("this process, one thread", run_here, [psutil.Process()])
    return [
        (
            f"{images} images, {name}: s (best of the last 3), processor ms an image",
            f"{min(w[1:]):.2f}, {1e3 * used[name] / images:.1f}",
        )
        for name, w in wall.items()
    ]


class _Noting(Serial):
    """This process, that notes what a worker would be sent and would answer."""

    def __init__(self) -> None:
        super().__init__(run_piece)
        self.seen: list[tuple[int, int]] = []

    def run(self, tasks: Any, files: Any, limit_s: Any) -> Any:
        for task, outcome in super().run(tasks, files, limit_s):
            self.seen.append((len(pickle.dumps(task.spec)), len(pickle.dumps(outcome))))
            yield task, outcome


def travels(name: str, program: Any, size: int) -> list[tuple[str, str]]:
    """What goes to a worker and comes back, of a piece of one batch."""
    data, device, noting = open_dataset("drawn-flowers", size=size), Device(program, "fused", 1), _Noting()
    evaluate(device, data, "test", limit=device.batch_size, run=Shared(noting, 1, 0).run)
    spec, outcome = noting.seen[0]
    counted = device.interpreter.counters.plain()
    start = time.thread_time()  # other threads of this process are not the driver's work
    for _ in range(20):
        device.interpreter.counters.merge(counted)
        _ = device.simulated_s
    merged = (time.thread_time() - start) / 20
    evaluate(device, data, "test", limit=device.batch_size)
    start = time.process_time()
    evaluate(device, data, "test", limit=4 * device.batch_size)
    seconds = time.process_time() - start
    return [
        (f"{name}: bytes of program and weights", f"{sum(map(len, packed_program(program).values()))}"),
        (f"{name}: bytes of a piece's description, of its outcome", f"{spec}, {outcome}"),
        (f"{name}: processor ms an image on one thread", f"{1e3 * seconds / device.batch_size / 4:.1f}"),
        (f"{name}: ms to add a piece's counts and show progress", f"{1e3 * merged:.2f}"),
    ]


def main() -> None:
    parser = add_common(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--large", action="store_true")
    o = parser.parse_args()
    program = compile_model(default_model_path()).program
    with tempfile.TemporaryDirectory() as name:
        rows = tasks(Path(name))
    rows += sharing(program, o.images)
    rows += travels("embedded network", program, 96)
    if o.large:
        model = build("mobilenetv2-repnet", ZooOptions(classes=1000))
        rows += travels("MobileNet-V2 1.0/224", compile_model(model, CompileOptions(inference_only=True)).program, 224)
    print(table(("what", "measured"), rows))
    finish(o, {"rows": rows})


if __name__ == "__main__":
    main()
