"""Downloads against a server on this machine: complete, interrupted, continued, wrong, too large, disk full."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sasimc.datasets import fetch
from sasimc.datasets.catalog import CATALOGUE, KnownSet, RemoteFile
from sasimc.datasets.fetch import checksum_of, download, fetch_dataset, unpack_tar
from sasimc.isa.errors import SasError

BODY = bytes(range(256)) * 3000 + b"end"
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """What the server does next, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the connection is dropped, one an answer
    statuses: list[int] = field(default_factory=list)  # error answers to give first
    ranges: bool = True
    say_length: bool = True
    asked: list[str | None] = field(default_factory=list)
    redirect: str = ""

    def remote(self, name: str = "file.bin", checksum: str = MD5, **kwargs: Any) -> RemoteFile:
        return RemoteFile(f"{self.address}/{name}", checksum, **kwargs)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(files={"file.bin": BODY})

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            self.close_connection = True
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            body = state.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if start and start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if state.say_length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : start + state.cut_after.pop(0)] if state.cut_after else body[start:])

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def _no_pause(_seconds: float) -> None:
    pass


def test_download_reports_progress_and_leaves_only_the_file(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = download(server.remote(checksum=SHA), tmp_path / "deep" / "file.bin", lambda *a: seen.append(a))
    assert path.read_bytes() == BODY
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert seen[-1] == ("file.bin", len(BODY), len(BODY))
    assert [s[1] for s in seen] == sorted(s[1] for s in seen)
    download(server.remote(checksum=SHA), path)
    assert len(server.asked) == 1  # right checksum: not asked again


def test_interrupted_download_continues_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 200_000]
    pauses: list[float] = []
    path = download(server.remote(), tmp_path / "file.bin", pause=pauses.append)
    assert path.read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-", "bytes=300000-"]
    assert pauses == [1.0, 2.0]


def test_next_run_resumes_after_giving_up(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1000]
    with pytest.raises(SasError, match="tried 1 times") as e:
        download(server.remote(), tmp_path / "file.bin", retries=0, pause=_no_pause)
    assert "continues where it broke off" in str(e.value)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").stat().st_size == 1000
    download(server.remote(), tmp_path / "file.bin", pause=_no_pause)
    assert server.asked[-1] == "bytes=1000-"
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_complete_part_of_an_earlier_run_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(BODY)
    assert download(server.remote(), tmp_path / "file.bin").read_bytes() == BODY


def test_stale_part_is_replaced_by_a_fresh_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"of another version")
    assert download(server.remote(), tmp_path / "file.bin").read_bytes() == BODY
    assert server.asked == ["bytes=18-", None]


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_after = [5000]
    assert download(server.remote(), tmp_path / "file.bin", pause=_no_pause).read_bytes() == BODY


def test_wrong_checksum_keeps_nothing_and_the_old_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"old")
    with pytest.raises(SasError, match="wrong checksum"):
        download(server.remote(checksum="md5:" + "0" * 32), tmp_path / "file.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == b"old"


def test_passing_errors_are_tried_again_others_not(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert download(server.remote(), tmp_path / "file.bin", pause=_no_pause).exists()
    with pytest.raises(SasError, match="HTTP 404"):
        download(server.remote("absent.bin"), tmp_path / "absent.bin", pause=_no_pause)
    assert len(server.asked) == 4


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="tried 2 times"):
        download(RemoteFile("http://127.0.0.1:9/x", MD5), tmp_path / "x", retries=1, pause=_no_pause)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("say_length", [True, False])
def test_size_limit(server: Server, tmp_path: Path, say_length: bool) -> None:
    server.say_length = say_length
    with pytest.raises(SasError, match="bytes"):
        download(server.remote(max_bytes=1000), tmp_path / "file.bin", pause=_no_pause)
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SasError, match="http"):
        download(RemoteFile(url, MD5), tmp_path / "x")


def test_redirect_off_the_web_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirect = "ftp://127.0.0.1/x"
    with pytest.raises(SasError, match="redirects to"):
        download(server.remote(), tmp_path / "file.bin", pause=_no_pause)


def test_unknown_checksum_kind(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SasError, match="no checksum"):
        download(server.remote(checksum="crc:1"), tmp_path / "file.bin")
    with pytest.raises(SasError, match="unknown checksum"):
        checksum_of(tmp_path, "crc")


def test_disk_full_while_writing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fetch._write

    def full(out: Any, data: bytes, part: Path) -> None:
        class Full(io.BytesIO):
            def write(self, _data: Any) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        real(Full(), data, part)

    monkeypatch.setattr(fetch, "_write", full)
    with pytest.raises(SasError, match="disk is full"):
        download(server.remote(), tmp_path / "file.bin", pause=_no_pause)
    assert not (tmp_path / "file.bin").exists()
    monkeypatch.undo()
    assert download(server.remote(), tmp_path / "file.bin").read_bytes() == BODY


def test_disk_too_small_is_said_before_writing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _p: usage)
    with pytest.raises(SasError, match="disk is full"):
        download(server.remote(), tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())


def _tar(files: dict[str, bytes], kind: str = "w:gz", link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=kind) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    return out.getvalue()


def test_unpack_merges_and_leaves_links_out(tmp_path: Path) -> None:
    (tmp_path / "jpg").mkdir()
    (tmp_path / "jpg" / "there.jpg").write_bytes(b"1")
    (tmp_path / "a.tgz").write_bytes(_tar({"jpg/new.jpg": b"2", "./top.txt": b"3"}, link="/etc/passwd"))
    assert unpack_tar(tmp_path / "a.tgz", tmp_path) == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tgz", "jpg", "new.jpg", "there.jpg", "top.txt"]


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:\\evil.txt"])
def test_unpack_refuses_names_that_lead_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "a.tgz").write_bytes(_tar({"fine.txt": b"1", name: b"2"}))
    with pytest.raises(SasError, match="leads out"):
        unpack_tar(tmp_path / "a.tgz", folder)
    assert not list(folder.iterdir())


def test_unpack_refuses_damaged_and_too_large(tmp_path: Path) -> None:
    data = _tar({"a.txt": bytes(hashlib.sha256(b"x").digest()) * 5000})
    folder = tmp_path / "in"
    (tmp_path / "cut.tgz").write_bytes(data[: len(data) // 2])
    with pytest.raises(SasError, match="damaged"):
        unpack_tar(tmp_path / "cut.tgz", folder)
    (tmp_path / "a.tgz").write_bytes(data)
    with pytest.raises(SasError, match="expands to more"):
        unpack_tar(tmp_path / "a.tgz", folder, max_bytes=1000)
    assert not list(folder.iterdir())


def test_fetch_dataset_unpacks_once(server: Server, tmp_path: Path) -> None:
    archive = _tar({"set/labels.csv": b"file,class_id\n"})
    server.files = {"set.tgz": archive, "extra.mat": b"12"}
    known = KnownSet(
        "set",
        "A Set",
        2,
        ("set",),
        "ours",
        "set",
        (
            server.remote("set.tgz", "md5:" + hashlib.md5(archive).hexdigest(), unpack=True),
            server.remote("extra.mat", "md5:" + hashlib.md5(b"12").hexdigest()),
        ),
    )
    folder = fetch_dataset(known, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [".set.tgz.done", "extra.mat", "set"]
    fetch_dataset(known, tmp_path)
    assert len(server.asked) == 2


def test_fetch_dataset_of_unknown_or_without_address(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="did you mean 'flowers'"):
        fetch_dataset("flower", tmp_path)
    with pytest.raises(SasError, match="no official address"):
        fetch_dataset("cars", tmp_path)


def test_catalogue_is_well_formed() -> None:
    for known in CATALOGUE.values():
        assert known.folder.startswith(known.prefixes), known.name
        for remote in known.files:
            kind, _, digits = remote.checksum.partition(":")
            assert (kind, len(digits)) in (("md5", 32), ("sha256", 64))
            assert remote.url.startswith(("https://", "http://"))
