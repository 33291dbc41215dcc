"""Work on other processes: evaluations shared out leave the same bytes as one process; workers and schedulers that lack something, come and go."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_measures as measures
from colour_nets import colour_program
from dask_processes import free_port, processes, wait_for
from models import mobilenet_like, plain_cnn
from PIL import Image
from tiny_task import dataset, machine

from sasimc.api import CompileOptions, compile_model
from sasimc.cli import sasc, sasrun
from sasimc.cli.common import invoke
from sasimc.cluster.pool import Pool, Serial
from sasimc.cluster.task import Failure
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.sent import heading, stored
from sasimc.isa.errors import SasError
from sasimc.isa.machine import Machine
from sasimc.pieces import Shared, run_piece
from sasimc.profiling.profile import profile
from sasimc.runtime.device import Device
from sasimc.sent_data import content_of, data_here, listing
from sasimc.study.description import Description
from sasimc.study.run import Study
from sasimc.training.evaluation import Run, evaluate, evaluate_values, run_here

cloudpickle = pytest.importorskip("cloudpickle")
cloudpickle.register_pickle_by_value(measures)  # workers do not know the folder of the tests

RGB = ((64, 0, 0), (0, 64, 0), (0, 0, 64))


class Many(Serial):
    """This process in the part of so many workers."""

    def __init__(self, workers: int) -> None:
        super().__init__(run_piece)
        self.workers = workers  # type: ignore[misc]


def skipping(machine: Machine, what: str) -> Machine:
    data = machine.model_dump()
    data["bit_serial"]["zero_skip"] = what
    return Machine.model_validate(data)


def outcome(device: Device, data: Dataset, run: Run) -> str:
    """All that an evaluation leaves."""
    answers = Counter[tuple[int, int]]()
    top1 = evaluate(device, data, "train", limit=29, answers=answers, run=run)
    it = device.interpreter
    return json.dumps(
        [top1, sorted(answers.items()), it.cycles, it.cycles_saved, it.phase_events, device.images, device.replayed, profile(it)]
    )


@pytest.mark.parametrize("skip", ["energy", "cycles"])
def test_pieces_leave_what_one_process_leaves(skip: str) -> None:
    model = mobilenet_like(size=8, width=4, modules=1)
    program = compile_model(model, CompileOptions(batch=2, machine=skipping(machine(), skip))).program
    found = []
    for workers in (0, 1, 2, 8):
        device = Device(program, "fused", 1)
        device.cross_check(7)
        run = Shared(Many(workers), 1, 7).run if workers else run_here
        found.append(outcome(device, dataset(4, images=8), run))
    assert found[1:] == found[:1] * 3
    assert json.loads(found[0])[6] > 0


def test_errors_of_values_are_shared_out_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random((11, 3, 6, 6), np.float32), rng.random((11, 5), np.float32)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    program = compile_model(
        plain_cnn(size=6, channels=(3,), classes=5), CompileOptions(batch=2, loss="squared-error", machine=machine(2))
    ).program
    data = open_dataset(tmp_path / "a.npz", values=5)
    found = []
    for run in (run_here, Shared(Many(3), 1, 0).run):
        errors = evaluate_values(Device(program, "fused", 1), data, "test", run=run)
        found.append((errors.each.tolist(), errors.keys))
    assert found[0] == found[1]
    assert len(found[0][0]) == 11


def pictures(folder: Path) -> Path:
    """Pictures of three colours; the header of one is all that is left of it."""
    for i in range(12):
        for channel, name in enumerate(("red", "green", "blue")):
            a = np.random.default_rng(i).integers(0, 60, (20, 20, 3), dtype=np.uint8)
            a[..., channel] += 150
            (folder / "test" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(a).save(folder / "test" / name / f"{i}.png")
    with io.BytesIO() as f:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(f, "JPEG")
        (folder / "test" / "red" / "7.png").write_bytes(f.getvalue()[:-3000])
    return folder


def test_a_worker_without_the_data_set_is_sent_its_images(tmp_path: Path) -> None:
    """The archive is deleted once it is open: only this process can read it."""
    program = colour_program(tmp_path, RGB, labels=("red", "green", "blue"))
    folder = pictures(tmp_path / "d")
    found = []
    for run in (run_here, Shared(Many(2), 1, 0).run):
        archive = tmp_path / f"colours{len(found)}.zip"
        with zipfile.ZipFile(archive, "w") as z:
            for path in sorted(folder.rglob("*.png")):
                z.write(path, path.relative_to(folder))
        data = open_dataset(archive)
        data.items("test")
        if found:
            archive.unlink()
        device = Device(program, "fused", 1)
        found.append((evaluate(device, data, "test", run=run), list(data.damaged.files), device.interpreter.events))
    assert found[0] == found[1]
    assert found[0][0][1] == 35
    assert len(found[0][1]) == 1


@dataclasses.dataclass(frozen=True)
class Whole:
    """A task that needs a whole data set."""

    content: Any
    spec: Any
    key = name = "whole"


def test_a_worker_that_is_to_train_is_sent_the_whole_data_set(tmp_path: Path) -> None:
    """First it has the data set, then another one under the same name, then none."""
    folder, away = pictures(tmp_path / "d"), tmp_path / "away"
    shutil.copytree(folder / "test", folder / "train")

    def work(spec: Any, files: Any) -> Any:
        data = data_here(spec, str(folder), 20, expected=spec["listing"])
        pixels = [data.load(item).tobytes() for split in data.splits for item in data.items(split) if item.class_id < 2]
        return data.classes, data.counts(), ["content" in spec, *pixels]

    data = open_dataset(folder)
    content = (heading(data), stored(data, heading(data)))
    task = Whole(lambda: content, {"listing": listing(data)})
    assert content_of(data) is not None
    found = [next(Serial(work).run([task], {}, None))[1]]
    (folder / "train" / "red" / "0.png").unlink()
    found.append(next(Serial(work).run([task], {}, None))[1])
    folder.rename(away)
    found.append(next(Serial(work).run([task], {}, None))[1])
    assert [f[2].pop(0) for f in found] == [False, True, True]
    assert found[0] == found[1] == found[2]
    assert isinstance(next(Serial(work).run([Whole(None, task.spec)], {}, None))[1], Failure)


def test_only_the_work_itself_is_a_pickle() -> None:
    """What Dask sends; files never are: no other module reads Python objects."""
    root, reads = (
        Path(sasc.__file__).parents[1],
        re.compile(r"^\s*(import|from) (cloudpickle|pickle|marshal|shelve|dill|joblib)|allow_pickle=True", re.M),
    )
    folders = [f.resolve() for f in root.iterdir() if f.is_dir()]
    found = {
        f"{folder.name}/{path.name}"
        for folder in (root, *folders)
        for path in folder.rglob("*.py")
        if reads.search(path.read_text())
    }
    assert found == {"cluster/pool.py", "cluster/task.py"}


def test_what_depends_on_the_images_before_is_not_shared_out() -> None:
    for words in ("--trace x.json.gz", "--bit-error-rate 1e-4", "--cluster tcp://127.0.0.1:1"):
        assert invoke(sasrun.app, ["--eval", "drawn-flowers", "--workers", "2", *words.split()], "sasrun") == 2


def test_the_report_of_two_workers_is_that_of_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, data = colour_program(tmp_path, RGB, labels=("red", "green", "blue")), pictures(tmp_path / "d")
    made = []
    for words in ((), ("--workers", "2")):
        report = tmp_path / "r.json"
        assert (
            invoke(sasrun.app, [str(program), "--eval", str(data), "--engine", "fused", "--json", str(report), *words], "sasrun")
            == 0
        )
        found = json.loads(report.read_text())
        for name in ("wall_s", "images_per_s"):
            del found[name]
        del found["provenance"]["command"], found["provenance"]["date"]
        made.append(json.dumps(found))
    assert made[0] == made[1]
    assert json.loads(made[0])["evaluated"] == 35
    assert "2 workers, dashboard http://127.0.0.1" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- a cluster of its own processes


def certificates(folder: Path) -> dict[str, str]:
    """One certificate for all, by openssl, and Dask's own settings that use it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=sasimc", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = "DASK_DISTRIBUTED__COMM__TLS"
    whole = {f"{tls}__CA_FILE": str(cert), "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    return whole | {
        f"{tls}__{role}__{what}": str(path)
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for what, path in (("CERT", cert), ("KEY", key))
    }


def test_a_cluster_behind_tls_outlives_its_scheduler_and_goes_round_odd_workers(tmp_path: Path) -> None:
    """Encrypted; one worker has other sources, one runs out of memory once, the scheduler is killed half-way."""
    import distributed  # noqa: F401  its defaults first, the settings are put back after it
    from dask import config

    env, port, said = certificates(tmp_path), free_port(), list[str]()
    address, old = f"tls://127.0.0.1:{port}", tmp_path / "old"
    for part in ("cluster", "isa"):
        shutil.copytree(Path(sasc.__file__).parents[1] / part, old / "sasimc" / part)
    (old / "sasimc" / "__init__.py").touch()

    def trials(*a: int) -> Study:
        made = {"vary": {"a": list(a)}, "base": {"once": str(tmp_path / "once")}, "metrics": ["cost"]}
        return Study(Description.model_validate(made), tmp_path / f"study{a[0]}")

    odd, whole = trials(11, *range(20, 26)), trials(*range(26, 60))
    with processes() as start, config.set({k.removeprefix("DASK_").lower().replace("__", "."): v for k, v in env.items()}):

        def scheduler() -> Any:
            found = start("scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", port, "--no-dashboard", **env)
            wait_for(port)
            return found

        def worker(**more: str) -> Any:
            place = ("--local-directory", tmp_path / "scratch", "--memory-limit", "450MB", "--nthreads", "1", "--no-dashboard")
            return start("worker", address, *place, **env, **more)

        first = scheduler()
        worker()
        worker(PYTHONPATH=str(old))

        def show(p: Any) -> None:
            if p.done == 10 and first.poll() is None:
                first.kill()
                first.wait()
                scheduler()
                worker()

        with pytest.raises(SasError, match="is no address of a Dask scheduler"):
            Pool(measures.odd, given=address.replace("tls", "tcp")).__enter__()
        with Pool(measures.odd, given=address, say=said.append) as pool:
            odd.run(pool)
            progress = whole.run(pool, show)
    assert progress.done == 34
    for study in (odd, whole):
        assert not study.failures
        alone = Study(study.description, tmp_path / "alone" / study.folder.name)
        alone.run(Serial(measures.by_formula))
        assert measures.files_of(study.folder) == measures.files_of(alone.folder)
    text = "\n".join(said)
    assert "tls://127.0.0.1" in text
    assert "has another version of sas-imc" in text
    assert "is out of memory: a 11, seed 0 goes to another" in text
    assert "the scheduler is gone" in text


def test_without_a_cluster_everything_listens_on_this_machine_alone() -> None:
    """The kernel's own list of listening sockets of this process and its children."""
    psutil = pytest.importorskip("psutil")
    with Pool(measures.by_formula, 1):
        me = psutil.Process()
        listening = {
            c.laddr.ip
            for p in (me, *me.children(recursive=True))
            for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
    assert listening == {"127.0.0.1"}
