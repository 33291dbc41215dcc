"""Data as users have it: archives of other systems' tools, tables in other dialects, arrays, odd images, folders that can be misread."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sasimc.datasets import store
from sasimc.datasets.arrays import parse_npy
from sasimc.datasets.check import check_files, check_headers
from sasimc.datasets.class_folders import split_of
from sasimc.datasets.classes import align
from sasimc.datasets.dataset import Dataset, open_dataset
from sasimc.datasets.images import decode
from sasimc.isa.errors import SasError

Counts = tuple[int, int, int]


def picture(value: int = 0, kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value % 256, 100, 50)).convert(mode).save(out, kind)
    return out.getvalue()


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def pets(prefix: str = "", each: int = 4) -> dict[str, bytes | str]:
    return {f"{prefix}{c}/{i}.png": picture(60 * i) for c in ("cat", "dog") for i in range(each)}


def counts(d: Dataset) -> Counts:
    train, val, test = (len(d.items(s)) for s in ("train", "val", "test"))
    return train, val, test


# --- what systems leave ---------------------------------------------------------------------------------------------

LEFT_BY_SYSTEMS = (
    "__MACOSX/cat/._0.png", "cat/._0.png", ".DS_Store", "cat/.DS_Store", "Thumbs.db", "cat/THUMBS.DB", "desktop.ini", "dog/Desktop.ini",
    ".ipynb_checkpoints/0-checkpoint.png", "cat/.ipynb_checkpoints/0-checkpoint.png", "@eaDir/cat/0.png/SYNOPHOTO_THUMB_M.jpg",
    "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/a/x.png", "System Volume Information/x.png", "#recycle/x.png", "lost+found/x.png",
    ".git/objects/ab", ".Trash-1000/files/x.png", "__pycache__/x.png", "~$list.xlsx", "Icon\r",
)  # fmt: skip


def zipped(root: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as z:
        for p in sorted(root.rglob("*")):
            if p.is_file():
                z.write(p, p.relative_to(root))


def tarred(root: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:" + archive.suffix.removeprefix(".").replace("tar", "")) as t:
        t.add(root, ".")


def system_zip(root: Path, archive: Path) -> None:
    subprocess.run(["zip", "-q", "-r", str(archive), "."], cwd=root, check=True)


def system_tar(root: Path, archive: Path) -> None:
    subprocess.run(["tar", "-c", "-a", "-f", str(archive), "-C", str(root), "."], check=True)


PACKERS: list[tuple[str, Callable[[Path, Path], None] | None, str]] = [
    ("", None, ""), ("a.zip", zipped, ""), ("a.tar", tarred, ""), ("a.tar.gz", tarred, ""), ("a.tar.bz2", tarred, ""), ("a.tar.xz", tarred, ""),
    ("b.zip", system_zip, "zip"), ("b.tar.gz", system_tar, "tar"), ("b.tar.xz", system_tar, "xz"),
]  # fmt: skip


@pytest.mark.parametrize("name,pack,tool", PACKERS)
def test_what_systems_leave_is_no_image_and_no_class(
    tmp_path: Path, name: str, pack: Callable[[Path, Path], None] | None, tool: str
) -> None:
    if tool and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    left = {n: b"\0\5\x16\7" if "._" in n else picture() for n in LEFT_BY_SYSTEMS}
    root = write(tmp_path / "f", {**pets(), **left})
    if pack:
        pack(root, tmp_path / name)
    d = open_dataset(tmp_path / (name or "f"))
    assert d.classes == ("cat", "dog")
    assert sum(counts(d)) == 8
    assert "system files ignored" in d.note
    assert {"__MACOSX", "$RECYCLE.BIN"} <= {n.partition("/")[0] for n in d.left_out}
    check_headers(d, strict=True)


def test_a_wrapped_mac_zip(tmp_path: Path) -> None:
    write(tmp_path / "f", {**pets("pets/"), **{f"__MACOSX/pets/cat/._{i}.png": b"\0\5\x16\7" for i in range(4)}})
    zipped(tmp_path / "f", tmp_path / "a.zip")
    assert open_dataset(tmp_path / "a.zip").classes == ("cat", "dog")


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,split",
    [
        ("train", "train"), ("Training", "train"), ("seg_train", "train"), ("TRAINING_SET", "train"), ("train2017", "train"), ("val", "val"),
        ("valid", "val"), ("Validation", "val"), ("dev", "val"), ("TEST", "test"), ("test1", "test"), ("seg_test", "test"), ("trainer", ""),
        ("test_train", ""), ("cat", ""), ("seg_pred", ""), ("images", ""), ("contest", ""),
    ],
)  # fmt: skip
def test_names_of_splits(name: str, split: str) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "dev", "Test"), ("seg_train/seg_train", "seg_val", "seg_test/seg_test"),
        ("a/train", "a/valid", "a/test"), ("a/b/training_set/training_set", "a/b/val/images", "a/b/test_set/test_set"),
    ],
)  # fmt: skip
def test_splits_by_their_usual_names(tmp_path: Path, folders: tuple[str, str, str]) -> None:
    for folder, n in zip(folders, (5, 2, 3), strict=True):
        write(tmp_path, pets(f"{folder}/", n))
    d = open_dataset(tmp_path)
    assert (d.classes, counts(d)) == (("cat", "dog"), (10, 4, 6))


def test_splits_inside_classes(tmp_path: Path) -> None:
    write(
        tmp_path,
        {f"{c}/{s}/{i}.png": picture(i) for c in ("cat", "dog") for s, n in (("train", 3), ("test", 2)) for i in range(n)},
    )
    d = open_dataset(tmp_path)
    assert (d.classes, len(d.items("test"))) == (("cat", "dog"), 4)


def test_without_a_training_split_the_others_are_no_classes(tmp_path: Path) -> None:
    d = open_dataset(write(tmp_path, {**pets("val/", 2), **pets("test/", 3)}))
    assert (d.classes, counts(d)) == (("cat", "dog"), (0, 4, 6))


def test_unlabelled_images_beside_splits_are_left_out_and_named(tmp_path: Path) -> None:
    more: dict[str, bytes | str] = {"seg_pred/seg_pred/1.png": picture(), "test1/7.png": picture()}
    d = open_dataset(write(tmp_path, {**pets("train/", 5), **more}))
    assert d.classes == ("cat", "dog")
    assert {"seg_pred/", "test1/"} <= set(d.left_out)
    assert "seg_pred/" in d.note


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    d = open_dataset(write(tmp_path, {f"{c}/{i}.png": picture(i) for c in ("bus", "car", "train") for i in range(3)}))
    assert d.classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    "files,words",
    [
        ({**pets("part1/"), **pets("part2/")}, "part1 and part2 hold the same folders"),
        ({"train/1.png": picture(), "test/2.png": picture()}, "no class folders"),
        ({**pets("train/"), "test/cow/1.png": picture()}, "class 'cow' has 1 test images and no training images"),
        ({**pets("train/"), "test/Cat/1.png": picture()}, "did you mean 'cat'"),
    ],
)
def test_what_could_be_read_in_two_ways_is_asked_back(tmp_path: Path, files: dict[str, bytes | str], words: str) -> None:
    with pytest.raises(SasError, match=words):
        open_dataset(write(tmp_path, files))


def test_a_class_that_vanishes_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "empty", pets())
    (tmp_path / "empty" / "cow").mkdir()
    with pytest.raises(SasError, match="class 'cow' has no images"):
        open_dataset(tmp_path / "empty")
    write(tmp_path / "one", {f"cat/{i}.png": picture(i) for i in range(4)})
    (tmp_path / "one" / "dog").mkdir()
    with pytest.raises(SasError, match="class 'dog' has no images"):
        open_dataset(tmp_path / "one")
    d = open_dataset(write(tmp_path / "bad", {**pets(), **{f"cow/{i}.jpg": b"" for i in range(4)}}))
    with pytest.raises(SasError, match=r"image of class 'cow' can be read .*the file is empty"):
        check_headers(d)


# --- files ----------------------------------------------------------------------------------------------------------


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "cat/a": picture(), "cat/b.JPG": picture(kind="PNG"), "cat/c.Png": picture(kind="JPEG"), "cat/d.dat": picture(kind="WEBP"),
        "cat/notes.txt": "no image", "cat/e.bin": b"\0" * 50, "dog/a.jp2": picture(kind="JPEG2000"), "dog/b.tga": picture(kind="TGA"),
        "dog/c.ICO": picture(kind="ICO", size=(16, 16)), "dog/d.pcx": picture(kind="PCX"),
    }  # fmt: skip
    d = open_dataset(write(tmp_path, files))
    assert sum(counts(d)) == 8
    assert set(d.left_out) == {"cat/notes.txt", "cat/e.bin"}
    assert "cat/notes.txt" in d.note
    check_headers(d, strict=True)
    for s in ("train", "val", "test"):
        check_files(d, [s])


def test_files_that_only_pretend_are_counted_and_named(tmp_path: Path) -> None:
    bad: dict[str, bytes | str] = {"cat/e.jpg": b"", "cat/t.jpg": b"hello", "dog/cut.png": picture()[:20]}
    d = open_dataset(write(tmp_path, {**pets(each=10), **bad}))
    checked = check_headers(d)
    assert set(checked.damaged.files) == set(bad)
    assert sum(counts(checked)) == 20
    assert sum(counts(d)) == 23
    with pytest.raises(SasError, match=r"cat/e\.jpg: the file is empty"):
        check_headers(open_dataset(tmp_path), strict=True)


def test_a_file_that_ends_early_passes_by_header_and_fails_as_a_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(out, "JPEG")
    d = open_dataset(write(tmp_path, {**pets(), "cat/cut.jpg": out.getvalue()[:-9000]}))
    check_headers(d, strict=True)
    with pytest.raises(SasError, match=r"cat/cut\.jpg: damaged or truncated"):
        check_files(d, ("train", "val", "test"))


MODES = {"1": "PNG", "L": "PNG", "LA": "PNG", "P": "GIF", "RGBA": "PNG", "CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF"}


@pytest.mark.parametrize("mode", MODES)
def test_colour_modes(mode: str) -> None:
    out = io.BytesIO()
    base = (
        Image.new("LAB", (6, 5), (200, 128, 128))
        if mode == "LAB"
        else Image.new("RGB", (6, 5), (200, 200, 200)).convert("L").convert(mode)
    )
    base.save(out, MODES[mode])
    got = decode(out.getvalue(), "x")
    assert (got.shape, got.dtype) == ((5, 6, 3), np.uint8)
    assert mode in ("1", "LAB") or np.abs(got.astype(int) - 200).max() <= 3


@pytest.mark.parametrize(
    "values,kind",
    [
        (np.full((5, 6), 200 * 257, np.uint16), "PNG"),
        (np.full((5, 6), 200 * 257, np.int32), "TIFF"),
        (np.full((5, 6), 200 / 255, np.float32), "TIFF"),
        (np.full((5, 6), 200, np.float32), "TIFF"),
    ],
)
def test_more_than_a_byte_a_pixel(values: np.ndarray, kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)
    assert (decode(out.getvalue(), "x") == 200).all()


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ((250, 0, 0), (0, 250, 0))]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:])
        r, g, _ = decode(out.getvalue(), "x")[4, 4]
        assert (r > 200, g < 60) == (True, True)


# --- names in Unicode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archive", ["", "a.zip", "a.tar"])
def test_composed_and_decomposed_names_are_one_class(tmp_path: Path, archive: str) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Blüte") for form in ("NFC", "NFD"))
    files: dict[str, bytes | str] = {f"train/{nfd}/{i}.png": picture(i) for i in range(3)} | {
        f"test/{nfc}/{i}.png": picture(i) for i in range(2)
    }
    write(tmp_path / "f", files | {f"{s}/Gänse/{i}.png": picture(i) for s in ("train", "test") for i in range(2)})
    if archive:
        (zipped if archive == "a.zip" else tarred)(tmp_path / "f", tmp_path / archive)
    d = open_dataset(tmp_path / (archive or "f"))
    assert d.classes == (nfc, unicodedata.normalize("NFC", "Gänse"))
    assert len(d.items("test")) == 4
    d.load(d.items("train")[0])


def test_tables_find_files_in_either_form(tmp_path: Path) -> None:
    names = [unicodedata.normalize("NFD", f"Größe {i}.png") for i in range(4)]
    lines = [f"{unicodedata.normalize('NFC', n)},{'ab'[i % 2]}" for i, n in enumerate(names)]
    write(tmp_path, {"labels.csv": "\n".join(["file,class_name", *lines]), **{n: picture(i) for i, n in enumerate(names)}})
    d = open_dataset(tmp_path)
    assert sum(counts(d)) == 4
    check_headers(d, strict=True)


# --- tables ---------------------------------------------------------------------------------------------------------

ROWS = [("a.png", "cat"), ("b.png", "dog"), ("c.png", "cat"), ("d.png", "dog"), ("e.png", "cat"), ("f.png", "dog")]


def test_names_in_other_case_where_they_mean_one_file(tmp_path: Path) -> None:
    """A table from a system that does not tell case apart; two files that differ in case alone are told apart as written, or not at all."""
    lines = ["File\tClass", "IMAGES\\Cat\\A.JPG\tcat", "images/cat/b.jpg\tcat", "images/DOG/c.jpg\tdog", "images/dog/d.jpg\tdog"]
    files = {f"Images/{n}.jpg": picture(i, "JPEG") for i, n in enumerate(("cat/a", "cat/B", "dog/c", "dog/d"))}
    d = open_dataset(write(tmp_path / "a", {"labels.csv": "\r\n".join(lines), **files}))
    assert d.classes == ("cat", "dog")
    assert sum(counts(d)) == 4
    files |= {"Images/cat/A.jpg": picture(9, "JPEG")}
    with pytest.raises(SasError, match=r"'IMAGES.*A.JPG' does not exist"):
        open_dataset(write(tmp_path / "b", {"labels.csv": "\r\n".join(lines), **files}))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("header", ["file{}label", "Filename{}Class", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_in_all_dialects(tmp_path: Path, delimiter: str, encoding: str, header: str, end: str) -> None:
    lines = [header.format(delimiter)] * bool(header) + [f'"{f}"{delimiter}{c}' for f, c in ROWS]
    write(tmp_path, {"labels.csv": (end.join(lines) + end).encode(encoding), **{f"images/{f}": picture() for f, _ in ROWS}})
    d = open_dataset(tmp_path)
    assert (d.classes, sum(counts(d))) == (("cat", "dog"), 6)
    assert {
        d.classes[i.class_id] for s in ("train", "val", "test") for i in d.items(s) if i.key.endswith(("a.png", "c.png", "e.png"))
    } == {"cat"}


def test_tables_by_split_and_by_path(tmp_path: Path) -> None:
    images: dict[str, bytes | str] = {f: picture() for f, _ in ROWS}
    parts: dict[str, bytes | str] = {
        "train.csv": "image;label\n" + "".join(f"{f};{c}\n" for f, c in ROWS[:4]),
        "test.csv": "image;label\n" + "".join(f"{f};{c}\n" for f, c in ROWS[4:]),
    }
    d = open_dataset(write(tmp_path, {**images, **parts}))
    assert (d.classes, len(d.items("test")), len(d.items("train")) + len(d.items("val"))) == (("cat", "dog"), 2, 4)
    assert sum(counts(open_dataset(tmp_path / "train.csv"))) == 4
    write(
        tmp_path / "n", {**images, "annotations.csv": "file_name,target\n" + "".join(f"{f},{int(c == 'dog')}\n" for f, c in ROWS)}
    )
    d = open_dataset(tmp_path / "n")
    assert (d.classes, d.named) == (("class 0", "class 1"), False)


# --- arrays ---------------------------------------------------------------------------------------------------------


def test_npz_of_keras_and_medmnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def x(n: int) -> np.ndarray:
        return rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)

    np.savez(tmp_path / "mnist.npz", x_train=x(20), y_train=np.arange(20) % 4, x_test=x(8), y_test=np.arange(8) % 4)
    d = open_dataset(tmp_path / "mnist.npz")
    assert (d.classes, d.named, counts(d)) == (tuple(f"class {i}" for i in range(4)), False, (16, 4, 8))
    names = {
        f"{s}_{what}": v
        for s, n in (("train", 9), ("val", 3), ("test", 6))
        for what, v in (("images", x(n)), ("labels", np.arange(n)[:, None] % 3))
    }
    np.savez_compressed(tmp_path / "med.npz", **names)
    d = open_dataset(tmp_path / "med.npz")
    assert counts(d) == (9, 3, 6)
    assert np.array_equal(d.load(d.items("test")[2]), names["test_images"][2])
    words = np.array(["sí", "no", "sí", "no"])
    np.savez(tmp_path / "audio.npz", x=rng.normal(size=(4, 49, 10)).astype(np.float32), y=words, notes=np.zeros(3))
    d = open_dataset(tmp_path / "audio.npz")
    assert (d.classes, d.named, sum(counts(d))) == (("no", "sí"), True, 4)
    assert "notes" in d.note


@pytest.mark.parametrize(
    "arrays,words",
    [
        ({"x": np.zeros((3, 2))}, "no x with its y"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "4 labels"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, -1])}, "no class numbers"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 0.5, 1])}, "no class numbers"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "class_names": np.array(["a", "b"])}, "label 2 is out of range"),
        ({"x": np.array([object()]), "y": np.zeros(1)}, "numbers are needed"),
        ({}, "no arrays"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
    with pytest.raises(SasError, match=words):
        open_dataset(tmp_path / "a.npz")


def test_an_npy_header_that_promises_too_much(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    d = open_dataset(
        write(
            tmp_path,
            {"a/1.npy": out.getvalue(), "b/1.npy": out.getvalue(), **{f"{c}/{i}.npy": _npy() for c in "ab" for i in (2, 3, 4)}},
        )
    )
    assert set(check_headers(d).damaged.files) == {"a/1.npy", "b/1.npy"}


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', (\n",
        b"{'descr'\0: 1}",
        b"{" * 200,
        b"\xff\xfe",
        b"{'descr': '<f4', 'fortran_order': 0, 'shape': (-1,)}",
    ],
)
def test_npy_headers_that_are_no_python(header: bytes) -> None:
    with pytest.raises(SasError, match=r"not an \.npy file of numbers"):
        parse_npy(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header, "x.npy")


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros((3, 4), np.float32))
    return out.getvalue()


# --- archives that are not to be trusted ----------------------------------------------------------------------------


def test_links_are_refused(tmp_path: Path) -> None:
    secret = write(tmp_path, {"secret.png": picture()}) / "secret.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        info = zipfile.ZipInfo("cat/1.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        z.writestr(info, str(secret))
    with tarfile.open(tmp_path / "a.tar", "w") as t:
        link = tarfile.TarInfo("cat/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        t.addfile(link)
    for name in ("a.zip", "a.tar"):
        with pytest.raises(SasError, match="symbolic link"):
            open_dataset(tmp_path / name)
    with tarfile.open(tmp_path / "dev.tar", "w") as t:
        pipe = tarfile.TarInfo("cat/1.png")
        pipe.type = tarfile.FIFOTYPE
        t.addfile(pipe)
    with pytest.raises(SasError, match="no plain file"):
        open_dataset(tmp_path / "dev.tar")


def test_hard_links_are_second_names(tmp_path: Path) -> None:
    root = write(tmp_path / "f", pets(each=3))
    os.link(root / "cat" / "0.png", root / "dog" / "9.png")
    tarred(root, tmp_path / "a.tar.gz")
    d = open_dataset(tmp_path / "a.tar.gz")
    assert sum(counts(d)) == 7
    check_headers(d, strict=True)


def test_encrypted_and_oversized_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(write(tmp_path / "f", pets()), tmp_path / "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    with pytest.raises(SasError, match="encrypted"):
        open_dataset(tmp_path / "locked.zip")
    write(tmp_path / "big", {"cat/1.png": b"\0" * 300_000, "dog/1.png": b"\0" * 300_000})
    zipped(tmp_path / "big", tmp_path / "big.zip")
    tarred(tmp_path / "big", tmp_path / "big.tar.gz")
    monkeypatch.setattr(store, "expanded_limit", lambda size: 500_000)
    for name in ("big.zip", "big.tar.gz"):
        with pytest.raises(SasError, match="expands to more than 500,000 bytes"):
            open_dataset(tmp_path / name)


def test_a_zip_member_without_a_name(tmp_path: Path) -> None:
    zipped(write(tmp_path / "f", {"a": picture()}), tmp_path / "a.zip")
    data = (tmp_path / "a.zip").read_bytes()
    at = data.index(b"PK\1\2")
    nameless = data[: at + 28] + b"\0\0" + data[at + 30 : at + 46] + data[at + 47 :]
    end = nameless.index(b"PK\5\6")
    size = int.from_bytes(nameless[end + 12 : end + 16], "little") - 1
    (tmp_path / "b.zip").write_bytes(nameless[: end + 12] + size.to_bytes(4, "little") + nameless[end + 16 :])
    with pytest.raises(SasError, match="leads out of the data set"):
        open_dataset(tmp_path / "b.zip")


def test_the_limit_of_expansion() -> None:
    assert store.expanded_limit(0) == 1 << 30
    assert store.expanded_limit(10 << 20) == (1 << 30) + (1000 << 20)
    assert store.expanded_limit(1 << 40) == store.MAX_EXPANDED_BYTES


def test_a_tar_header_that_lies_about_its_length(tmp_path: Path) -> None:
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = tarfile.XHDTYPE, 3 << 30
    (tmp_path / "a.tgz").write_bytes(zlib.compress(pax.tobuf(tarfile.USTAR_FORMAT) + bytes(2048), wbits=31))
    with pytest.raises(SasError, match="damaged tar archive"):
        open_dataset(tmp_path / "a.tgz")


# --- classes by name ------------------------------------------------------------------------------------------------


def _named(tmp_path: Path, *names: str) -> Dataset:
    return open_dataset(write(tmp_path, {f"{n}/{i}.png": picture(i) for n in names for i in range(3)}))


def test_classes_take_the_numbers_of_the_program(tmp_path: Path) -> None:
    d = _named(tmp_path, "blue", "Green", "red_one")
    got, words = align(d, ["red one", "green", "blue"], learns=False)
    assert got.classes == ("red one", "green", "blue")
    for before, after in zip(d.items("train"), got.items("train"), strict=True):
        assert (d.classes[before.class_id], after.class_id) in {("blue", 2), ("Green", 1), ("red_one", 0)}
    assert "in the program's order" in words


def test_fewer_classes_than_the_program(tmp_path: Path) -> None:
    got, words = align(
        _named(tmp_path, "goldfish", "tench"), ["tench, Tinca tinca", "goldfish, Carassius auratus", "shark"], learns=False
    )
    assert {i.class_id for i in got.items("train")} == {0, 1}
    assert "2 of the program's 3" in words


def test_a_mismatch_is_shown_as_a_table(tmp_path: Path) -> None:
    d = _named(tmp_path, "cat", "dog")
    for learns in (True, False):
        with pytest.raises(SasError, match="1 of 2 classes have no counterpart") as e:
            align(d, ["cat", "cow"], learns=learns)
        lines = [line.split() for line in str(e.value).splitlines()]
        assert [*lines[1:5]] == [["program", "data"], ["-", "dog"], ["cow", "-"], ["cat", "cat"]]
    with pytest.raises(SasError, match="2 of 2 classes"):
        align(d, ["rose", "lily"], learns=False)
    assert align(d, ["rose", "lily"], learns=True)[0] == d
    assert align(d, [], learns=False) == (d, "")


def test_classes_by_position_and_without_names(tmp_path: Path) -> None:
    assert align(_named(tmp_path / "f", "cat", "dog"), ["rose", "lily"], learns=False, by_position=True)[0].classes == (
        "rose",
        "lily",
    )
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 4)), y=np.arange(6) % 2)
    assert align(open_dataset(tmp_path / "a.npz"), ["rose", "lily", "iris"], learns=False)[0].classes == ("rose", "lily", "iris")
