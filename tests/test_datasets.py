"""Drawn images, preprocessing, data sets in every layout, batches, and what bad input is answered."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import savemat

from sasimc.datasets import images, procedural
from sasimc.datasets.dataset import Dataset, list_datasets, open_dataset
from sasimc.datasets.images import Augment, decode, eval_crop, read_image, train_crop
from sasimc.datasets.loader import Loader
from sasimc.datasets.preprocess import Preprocess, quantise, quantise_table
from sasimc.isa.errors import SasError

SMALL = Preprocess(size=16, resize=18)


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SASIMC_DATA", raising=False)


def _jpeg(value: int = 0, size: tuple[int, int] = (20, 24), kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value % 256, 100, 50)).save(out, kind)
    return out.getvalue()


def _write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def _counts(d: Dataset) -> tuple[int, ...]:
    return tuple(len(d.items(s)) for s in ("train", "val", "test"))


# --- drawn images ---------------------------------------------------------------------------------------------------


def test_drawn_images_never_change() -> None:
    """Shipped weights were trained on these bytes, on whatever machine: a change here is a new data set."""
    digest = hashlib.sha256()
    for kind in procedural.KINDS:
        for c in range(len(procedural.class_names(kind))):
            digest.update(procedural.draw(kind, c, 7 * c + 1, 48).tobytes())
    assert digest.hexdigest() == "207c27265d4ede178d329f7f8cfcfe7917280996e4e4254cf79dffbff23c7ee9"


def test_drawn_classes_are_new_and_scenes_apart() -> None:
    assert len(procedural.class_names("pretrain")) >= 10
    assert len(procedural.class_names("flowers")) == 10
    assert not set(procedural.class_names("pretrain")) & set(procedural.class_names("flowers"))
    scenes = {procedural.draw(k, c, s, 16).tobytes() for k in procedural.KINDS for c in range(10) for s in range(16)}
    assert len(scenes) == 2 * 10 * 16
    # The background corner differs between classes at the same seed: classes share no scene.
    corners = {tuple(procedural.draw("flowers", c, s, 16)[0, 0]) for c in range(10) for s in range(16)}
    assert len(corners) > 150


def test_colour_alone_does_not_tell_the_class() -> None:
    """Nearest class mean over colour histograms: near chance (10 %), where the shape is what differs."""

    def histogram(c: int, s: int) -> npt.NDArray[np.float64]:
        cells = procedural.draw("flowers", c, s, 32) >> 6
        index = (cells[..., 0].astype(int) * 4 + cells[..., 1]) * 4 + cells[..., 2]
        return np.bincount(index.ravel(), minlength=64) / index.size

    means = np.array([[histogram(c, s) for s in range(60)] for c in range(10)]).mean(1)
    tests = np.array([[histogram(c, s) for s in range(1000, 1030)] for c in range(10)])
    nearest = ((tests[:, :, None] - means) ** 2).sum(-1).argmin(-1)
    assert (nearest == np.arange(10)[:, None]).mean() < 0.25


def test_drawing_out_of_range() -> None:
    for kind, c, size, words in (("flower", 0, 96, "did you mean"), ("flowers", 10, 96, "class 10"), ("flowers", 0, 4, "4 x 4")):
        with pytest.raises(SasError, match=words):
            procedural.draw(kind, c, 0, size)


# --- preprocessing --------------------------------------------------------------------------------------------------


def test_quantise_equals_the_formula_written_out() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    p = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    scale, zero = 0.0186, 114
    real = (image.astype(np.float32) / np.float32(255) - np.float32(p.mean)) / np.float32(p.std)
    expected = np.clip(np.rint(real / np.float32(scale)) + zero, 0, 255)
    got = quantise(image, p, scale, zero, "uint8")
    assert got.dtype == np.uint8
    assert np.array_equal(got, expected.astype(np.uint8))


def test_quantise_reproduces_raw_bytes_of_mobilenet() -> None:
    """mean = std = 0.5, s = 1/127.5, z = 127.5 rounded: the raw pixel up to rounding; int8 is the same less 128."""
    table = quantise_table(Preprocess(), 1 / 128, 0, "int8")
    assert (table[0, 0], table[0, 255]) == (-128, 127)
    assert np.array_equal(table[0], np.clip(np.rint((np.arange(256) / 127.5 - 1) * 128), -128, 127))


def test_quantise_rounds_halves_to_even_and_clamps() -> None:
    p = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))
    white = {scale: int(quantise_table(p, scale, 0, "int8")[0, 255]) for scale in (2.0, 2 / 3, 2 / 5)}
    assert white == {2.0: 0, 2 / 3: 2, 2 / 5: 2}  # 0.5, 1.5, 2.5
    assert quantise_table(p, 1e-30, -5, "int8")[0].tolist() == [-5] + [127] * 255


@pytest.mark.parametrize("scale,zero,dtype", [(0.0, 0, "int8"), (float("nan"), 0, "int8"), (1.0, 128, "int8"), (1.0, 0, "int16")])
def test_bad_quantisation(scale: float, zero: int, dtype: str) -> None:
    with pytest.raises(SasError):
        quantise(np.zeros((2, 2, 3), np.uint8), Preprocess(), scale, zero, dtype)


def test_bad_image_array() -> None:
    with pytest.raises(SasError, match="RGB image of bytes"):
        quantise(np.zeros((2, 2), np.uint8), Preprocess(), 1.0, 0)


def test_preprocess_json_round_trip() -> None:
    p = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 96, 110, "bicubic")
    assert Preprocess.from_json(p.to_json()) == p
    assert Preprocess.from_json({"mean": 0.5, "std": 0.25, "size": 224}) == Preprocess((0.5,) * 3, (0.25,) * 3, 224, 256)


@pytest.mark.parametrize(
    "text,words",
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ('{"sise": 3}', "did you mean 'size'"),
        ('{"mean": [1, 2]}', "'mean'"),
        ('{"std": 0}', "above 0"),
        ('{"std": NaN}', "finite"),
        ('{"size": 224, "resize": 100}', "smaller than the crop"),
        ('{"size": -1}', "'size'"),
        ('{"size": 2.5}', "'size'"),
        ('{"interpolation": "bilinaer"}', "did you mean 'bilinear'"),
    ],
)
def test_bad_preprocess(text: str, words: str) -> None:
    with pytest.raises(SasError, match=words):
        Preprocess.from_json(text)


def test_eval_crop_is_the_middle_after_resizing() -> None:
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 50, 0).repeat(3, 2)
    out = eval_crop(ramp, Preprocess(size=40, resize=50))
    assert out.shape == (40, 40, 3)
    assert np.array_equal(out[:, :, 0], np.repeat(np.arange(30, 70, dtype=np.uint8)[None], 40, 0))
    assert eval_crop(ramp[:7, :9], Preprocess()).shape == (224, 224, 3)


def test_too_narrow_image() -> None:
    with pytest.raises(SasError, match="too narrow"):
        eval_crop(np.zeros((1, 60000, 3), np.uint8), Preprocess(size=2000, resize=2000))


def test_train_crop_is_a_function_of_its_key() -> None:
    image = procedural.draw("flowers", 3, 0, 64)
    crops = {(s, e, i): train_crop(image, SMALL, s, e, i).tobytes() for s in (0, 1) for e in (0, 1) for i in range(20)}
    assert len(set(crops.values())) > 70
    assert crops[1, 0, 5] == train_crop(image, SMALL, 1, 0, 5).tobytes()
    assert train_crop(np.zeros((3, 300, 3), np.uint8), SMALL, 0, 0, 0).shape == (16, 16, 3)


def test_train_crop_covers_and_mirrors() -> None:
    """Over many draws: areas down to 0.22, both mirror states about equally often."""
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 128, 0).repeat(3, 2)
    p = Preprocess(size=32, resize=32, interpolation="nearest")
    spans = []
    mirrored = 0
    for i in range(400):
        row = train_crop(ramp, p, 0, 0, i)[16, :, 0].astype(int)
        mirrored += row[0] > row[-1]
        spans.append(abs(row[-1] - row[0]) / 254)
    assert 160 < mirrored < 240
    assert 0.36 < min(spans) < 0.5
    assert max(spans) > 0.9


# --- decoding -------------------------------------------------------------------------------------------------------


def test_exif_orientation_is_respected() -> None:
    picture = Image.new("RGB", (30, 10), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    assert decode(out.getvalue(), "x.jpg").shape == (30, 10, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA", "I;16"])
def test_other_modes_become_rgb(mode: str) -> None:
    out = io.BytesIO()
    picture = Image.new("I;16", (4, 3), 257 * 200) if mode == "I;16" else Image.new("RGB", (4, 3), (200, 200, 200)).convert(mode)
    picture.save(out, "TIFF")
    got = decode(out.getvalue(), "x.tif")
    assert got.shape == (3, 4, 3)
    assert got.dtype == np.uint8
    if mode in ("L", "RGBA", "LA", "I;16"):
        assert (got == 200).all()


@pytest.mark.parametrize(
    "data,words",
    [
        (b"", "the file is empty"),
        (b"not an image at all", "not an image"),
        (_jpeg(size=(200, 200))[:-400], "truncated"),
        (_jpeg(kind="PNG")[:60], "x.jpg"),
        (b"GIF89a" + b"\xff" * 40, "x.jpg"),
    ],
)
def test_damaged_images_name_the_file(data: bytes, words: str) -> None:
    with pytest.raises(SasError, match=words) as e:
        decode(data, "x.jpg")
    assert "x.jpg" in str(e.value)


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack(">4sIIBBBBB", b"IHDR", 40000, 40000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    with pytest.raises(SasError, match="too large") as e:
        decode(png, "bomb.png")
    assert "bomb.png" in str(e.value)
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(SasError, match=r"20 x 24 pixels"):
        decode(_jpeg(), "bomb.jpg")


def test_read_image(tmp_path: Path) -> None:
    _write(tmp_path, {"a.jpg": _jpeg()})
    assert read_image(tmp_path / "a.jpg").shape == (24, 20, 3)
    with pytest.raises(SasError, match=r"absent\.jpg: cannot read"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(SasError):
        read_image(tmp_path)


# --- layouts --------------------------------------------------------------------------------------------------------


def _csv_set(root: Path, header: str = "file,class_id,class_name,split", classes: int = 3, each: int = 10) -> Path:
    names = [f"{c}_{i}.jpg" for c in range(classes) for i in range(each)]
    lines = [f"{n},{n[0]},class{n[0]},{'test' if int(n[2:-4]) >= 8 else 'train'}" for n in names]
    return _write(
        root, {"labels.csv": "\n".join([header, *lines]) + "\n", **{f"images/{n}": _jpeg(int(n[0]) * 80) for n in names}}
    )


def test_labels_csv_with_held_back_validation(tmp_path: Path) -> None:
    d = open_dataset(_csv_set(tmp_path))
    assert d.classes == ("class0", "class1", "class2")
    assert _counts(d) == (21, 3, 6)
    assert Counter(i.class_id for i in d.items("val")) == {0: 1, 1: 1, 2: 1}
    assert {i.key for i in d.items("test")} == {f"images/{c}_{i}.jpg" for c in range(3) for i in (8, 9)}
    assert "val images drawn from the training images" in d.note
    assert abs(int(d.load(d.items("test")[5])[0, 0, 0]) - 160) < 4
    assert open_dataset(tmp_path).splits == d.splits
    assert open_dataset(tmp_path, seed=5).items("val") != d.items("val")
    assert open_dataset(tmp_path, seed=5).items("test") == d.items("test")


def test_labels_csv_column_variants(tmp_path: Path) -> None:
    d = open_dataset(
        _write(
            tmp_path / "a",
            {
                "labels.csv": '"file",class_id_1based\n"x.png",1\ny.png,2\nz.png,2\n',
                **dict.fromkeys(("x.png", "y.png", "z.png"), _jpeg(kind="PNG")),
            },
        )
    )
    assert sorted(i.class_id for s in ("train", "val", "test") for i in d.items(s)) == [0, 1, 1]
    d = open_dataset(
        _write(tmp_path / "b", {"labels.csv": "\ufefffile,breed\nx.png,Zebra\ny.png,ape\n", "x.png": _jpeg(), "y.png": _jpeg()})
    )
    assert d.classes == ("Zebra", "ape")  # as sorted() sorts, and with it other tools
    d = open_dataset(
        _write(
            tmp_path / "c",
            {"labels.csv": "file,class_id\nx.png,1\n", "x.png": _jpeg(), "class_names.txt": "1,one\n2,two\n3,three\n"},
        )
    )
    assert d.classes == ("one", "two", "three")


@pytest.mark.parametrize(
    "csv,words,place",
    [
        ("name,class_id\nx.jpg,0\n", "column 'file' is missing", ":1:"),
        ("file,split\nx.jpg,train\n", "column 'class_id' or 'class_name' is missing", ":1:"),
        ("", "column 'file' is missing", ":1:"),
        ("file,class_id\n", "names no images", ""),
        ("file,class_id\nx.jpg,-1\n", "label '-1' is out of range", ":2:7"),
        ("file,class_id\nx.jpg,70000\n", "out of range", ":2:7"),
        ("file,class_id\nx.jpg,cat\n", "label 'cat' is out of range", ":2:7"),
        ("file,class_id\nx.jpg,1.5\n", "out of range", ":2:7"),
        ("file,class_id_1based\nx.jpg,0\n", "out of range", ":2:7"),
        ("file,class_id\nx.jpg\n", "2 fields are needed", ":2:"),
        ("file,class_id\nx.jpg,1,2\n", "2 fields are needed", ":2:"),
        ("file,class_id,split\nx.jpg,0,tset\n", "unknown split 'tset'", ":2:9"),
        ("file,class_id\n../x.jpg,0\n", "leads out of the data set", ":2:1"),
        ("file,class_id\n/etc/hostname,0\n", "leads out of the data set", ":2:1"),
        ("file,class_id\nx.jpg,0\nx.jpg,0\n", "named twice", ":3:1"),
        ("file,class_id\nx.jpg,0\nno.jpg,0\n", "'no.jpg' does not exist", ":3:1"),
        ("file,class_id,class_name\nx.jpg,0,a\ny.jpg,0,b\n", "is called 'a' elsewhere", ":3:9"),
        ('file,class_id\n"x.jpg,0\n', "not a valid CSV", ""),
    ],
)
def test_bad_labels_csv(tmp_path: Path, csv: str, words: str, place: str) -> None:
    _write(tmp_path, {"labels.csv": csv, "x.jpg": _jpeg(), "y.jpg": _jpeg()})
    with pytest.raises(SasError, match=words) as e:
        open_dataset(tmp_path)
    assert f"labels.csv{place}" in str(e.value)


def test_labels_csv_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="not UTF-8"):
        open_dataset(_write(tmp_path, {"labels.csv": b"file,class_id\n\xff\xfe\n"}))


def test_label_beyond_the_declared_names(tmp_path: Path) -> None:
    _write(tmp_path, {"labels.csv": "file,class_id\nx.jpg,2\n", "x.jpg": _jpeg(), "class_names.txt": "a\nb\n"})
    with pytest.raises(SasError, match="label '2' is out of range"):
        open_dataset(tmp_path)


def _class_folders(root: Path, each: int = 20) -> Path:
    return _write(root, {f"{c}/{i}.jpg": _jpeg(i) for c in ("rose", "Aster", "iris") for i in range(each)})


def test_class_folders_split_80_10_10_a_class(tmp_path: Path) -> None:
    d = open_dataset(_class_folders(tmp_path))
    assert d.classes == ("Aster", "iris", "rose")
    assert _counts(d) == (48, 6, 6)
    for split, n in (("train", 16), ("val", 2), ("test", 2)):
        assert Counter(i.class_id for i in d.items(split)) == {0: n, 1: n, 2: n}
    keys = [i.key for s in ("train", "val", "test") for i in d.items(s)]
    assert len(set(keys)) == 60


def test_class_folders_below_train_and_test(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            f"{s}/{c}/{i}.png": _jpeg(kind="PNG")
            for s, n in (("train", 10), ("valid", 2), ("test", 3))
            for c in "ab"
            for i in range(n)
        },
    )
    assert _counts(open_dataset(tmp_path)) == (20, 4, 6)


def test_tiny_classes_keep_a_training_image(tmp_path: Path) -> None:
    d = open_dataset(_class_folders(tmp_path, each=3))
    assert _counts(d) == (3, 3, 3)
    assert "calibration" in open_dataset(_class_folders(tmp_path / "one", each=1)).note
    assert _counts(open_dataset(tmp_path / "one")) == (0, 0, 3)


def _pack_zip(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as z:
        for p in sorted(root.rglob("*")):
            if p.is_file():
                z.write(p, f"top/{p.relative_to(root)}")
    return archive


def _pack_tar(root: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as t:
        t.add(root, "./top")
    return archive


@pytest.mark.parametrize("name,pack", [("a.zip", _pack_zip), ("a.tar", _pack_tar), ("a.tgz", _pack_tar)])
def test_archives_read_as_their_folders(tmp_path: Path, name: str, pack: Callable[[Path, Path], Path]) -> None:
    folder = _class_folders(tmp_path / "f")
    d, plain = open_dataset(pack(folder, tmp_path / name)), open_dataset(folder)
    assert d.splits == plain.splits
    item = d.items("train")[7]
    assert np.array_equal(d.load(item), plain.load(item))


@pytest.mark.parametrize("evil", ["../x.jpg", "/x.jpg", "a/../../x.jpg", "c:/x.jpg"])
def test_archives_with_names_that_lead_out(tmp_path: Path, evil: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr(evil, _jpeg())
    with pytest.raises(SasError, match="leads out"):
        open_dataset(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as t:
        info = tarfile.TarInfo(evil)
        info.size = 3
        t.addfile(info, io.BytesIO(b"abc"))
    with pytest.raises(SasError, match="leads out"):
        open_dataset(tmp_path / "a.tgz")


def test_damaged_archives(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar", "a.tgz"):
        _write(tmp_path, {name: b"PK\x03\x04 nothing more"})
        with pytest.raises(SasError, match="damaged"):
            open_dataset(tmp_path / name)
    archive = _pack_zip(_class_folders(tmp_path / "f"), tmp_path / "b.zip")
    data = bytearray(archive.read_bytes())
    at = data.index(b"\xff\xd8\xff")
    data[at : at + 50] = bytes(50)
    archive.write_bytes(data)
    d = open_dataset(archive)
    items = [i for s in ("train", "val", "test") for i in d.items(s)]
    with pytest.raises(SasError, match=r"b\.zip/top/.*\.jpg: damaged"):
        [d.load(i) for i in items]


def _flowers(root: Path, jpg: str = "jpg/") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 1, 2, 2, 3, 3]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1, 3, 5]], "valid": [[2]], "tstid": [[4, 6]]})
    return _write(root, {f"{jpg}image_{i:05d}.jpg": _jpeg(40 * i) for i in range(1, 7)})


@pytest.mark.parametrize("where", ["jpg", "zip", "tgz"])
def test_flowers_official_layout(tmp_path: Path, where: str) -> None:
    root = _flowers(tmp_path / "flowers-102-small")
    if where != "jpg":
        (_pack_zip if where == "zip" else _pack_tar)(root / "jpg", root / f"images.{where}")
        for p in (root / "jpg").iterdir():
            p.unlink()
        (root / "jpg").rmdir()
    d = open_dataset("flowers", tmp_path)
    assert _counts(d) == (3, 1, 2)
    assert [i.class_id for i in d.items("test")] == [1, 2]
    assert d.classes[0] == "pink primrose"
    assert not d.synthetic
    assert abs(int(d.load(d.items("test")[1])[0, 0, 0]) - 240) < 4


def test_flowers_with_a_piece_missing_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    root = _flowers(tmp_path / "flowers-102")
    (root / "jpg" / "image_00004.jpg").unlink()
    with pytest.raises(SasError, match="1 of 6 images are missing"):
        open_dataset("flowers", tmp_path)
    (root / "setid.mat").unlink()
    with pytest.raises(SasError, match=r"setid\.mat is missing"):
        open_dataset("flowers", tmp_path)
    (root / "imagelabels.mat").unlink()
    with pytest.raises(SasError, match=r"imagelabels\.mat and setid\.mat are missing"):
        open_dataset("flowers", tmp_path)


def test_flowers_with_bad_mat_files(tmp_path: Path) -> None:
    root = _flowers(tmp_path)
    savemat(root / "setid.mat", {"trnid": [[1, 300]], "valid": [[2]], "tstid": [[4]]})
    with pytest.raises(SasError, match="image 300"):
        open_dataset(root)
    savemat(root / "setid.mat", {"trnid": [[1]], "valid": [[1]], "tstid": [[4]]})
    with pytest.raises(SasError, match="overlap"):
        open_dataset(root)
    savemat(root / "setid.mat", {"trnid": [[1]]})
    with pytest.raises(SasError, match="no variable 'valid'"):
        open_dataset(root)
    (root / "setid.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\x00" * 200)
    with pytest.raises(SasError, match="damaged MATLAB file"):
        open_dataset(root)


def test_flowers_fall_back_to_drawn_ones_and_say_so(tmp_path: Path) -> None:
    d = open_dataset("flowers", tmp_path, size=40, per_class=(5, 2, 3))
    assert d.synthetic
    assert d.note.startswith("procedurally drawn flowers: the real Oxford Flowers-102 were not found in ")
    assert str(tmp_path) in d.note
    assert _counts(d) == (50, 20, 30)
    assert d.load(d.items("val")[3]).shape == (40, 40, 3)
    assert open_dataset("flowers", tmp_path, size=40, per_class=(9, 2, 3)).items("test") == d.items("test")
    assert "neither --data nor SASIMC_DATA" in open_dataset("flowers").note


def test_flowers17_cub_food_aircraft_pets(tmp_path: Path) -> None:
    _write(tmp_path / "flowers-17", {f"jpg/image_{i:04d}.jpg": b"" for i in range(1, 1361)})
    d = open_dataset("flowers17", tmp_path)
    assert _counts(d) == (1088, 136, 136)
    assert d.classes[16] == "pansy"
    cub = {f"images/00{c}.B{c}/{i}.jpg": _jpeg() for c in (1, 2) for i in range(4)}
    number = list(enumerate(cub, 1))
    text = {
        "images.txt": "".join(f"{i} {f.removeprefix('images/')}\n" for i, f in number),
        "image_class_labels.txt": "".join(f"{i} {f[9]}\n" for i, f in number),
        "train_test_split.txt": "".join(f"{i} {int(i % 4 != 0)}\n" for i, _ in number),
        "classes.txt": "1 001.B1\n2 002.B2\n",
    }
    _write(tmp_path / "CUB-x" / "CUB_200_2011", {**cub, **text})
    d = open_dataset("cub", tmp_path)
    assert (d.classes, _counts(d)) == (("B1", "B2"), (4, 2, 2))
    _write(
        tmp_path / "food-101",
        {
            "meta/train.txt": "pie/1\npie/2\ncake/3\n",
            "meta/test.txt": "pie/4\n",
            **{f"images/{n}.jpg": _jpeg() for n in ("pie/1", "pie/2", "cake/3", "pie/4")},
        },
    )
    d = open_dataset("food", tmp_path)
    assert (d.classes, _counts(d)) == (("cake", "pie"), (2, 1, 1))
    _write(
        tmp_path / "aircraft" / "fgvc-aircraft-2013b" / "data",
        {
            "images_variant_train.txt": "01 747-400\n",
            "images_variant_val.txt": "02 A 320\n",
            "images_variant_test.txt": "03 A 320\n",
            **{f"images/0{i}.jpg": _jpeg() for i in (1, 2, 3)},
        },
    )
    d = open_dataset("aircraft", tmp_path)
    assert (d.classes, _counts(d)) == (("747-400", "A 320"), (1, 1, 1))
    _write(
        tmp_path / "pets",
        {
            "annotations/trainval.txt": "Big_Cat_1 1 1 1\nbig_dog_2 2 2 1\n",
            "annotations/test.txt": "Big_Cat_3 1 1 1\n",
            **{f"images/{n}.jpg": _jpeg() for n in ("Big_Cat_1", "big_dog_2", "Big_Cat_3")},
        },
    )
    d = open_dataset("pets", tmp_path)
    assert (d.classes, _counts(d)) == (("Big_Cat", "big_dog"), (2, 0, 1))


def test_cars_official_layout(tmp_path: Path) -> None:
    root = tmp_path / "cars"
    (root / "devkit").mkdir(parents=True)
    notes = np.zeros((1, 4), [("class", "O"), ("fname", "O")])
    for i in range(4):
        notes[0, i] = (i % 2 + 1, f"0000{i}.jpg")
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": notes})
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([["Audi", "BMW"]], object)})
    _write(root, {f"cars_train/0000{i}.jpg": _jpeg() for i in range(4)})
    d = open_dataset("cars", tmp_path)
    assert d.classes == ("Audi", "BMW")
    assert _counts(d) == (2, 0, 2)
    assert "official test images have no labels" in d.note


def test_what_is_not_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(SasError, match="the folder is empty"):
        open_dataset(tmp_path)
    _write(tmp_path, {"readme.txt": "x"})
    with pytest.raises(SasError, match="no data set is recognised"):
        open_dataset(tmp_path)
    with pytest.raises(SasError, match="not a data set"):
        open_dataset(tmp_path / "readme.txt")
    with pytest.raises(SasError, match="did you mean 'flowers'"):
        open_dataset("flowrs")
    with pytest.raises(SasError, match="--data names the folder"):
        open_dataset("flowers", tmp_path / "absent")
    with pytest.raises(SasError, match=r"'cub' .* was not found in"):
        open_dataset("cub", tmp_path)
    with pytest.raises(SasError, match="no split 'tset'"):
        open_dataset("drawn-flowers").items("tset")


def test_list_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _flowers(tmp_path / "flowers-102-x")
    monkeypatch.setenv("SASIMC_DATA", str(tmp_path))
    rows = {r.name: r for r in list_datasets()}
    assert set(rows) >= {"flowers", "flowers17", "pets", "cars", "cub", "food", "aircraft"}
    assert rows["flowers"].found == str(tmp_path / "flowers-102-x")
    assert rows["cub"].found == ""
    assert rows["cub"].address
    assert rows["cars"].address == ()
    assert "no official address" in rows["cars"].note
    assert all(r.licence for r in rows.values())


# --- batches --------------------------------------------------------------------------------------------------------


def _drawn(n: int = 4) -> Dataset:
    return open_dataset("drawn-flowers", size=24, per_class=(n, 1, 1))


def test_loader_is_the_same_for_any_number_of_threads() -> None:
    d = _drawn()
    runs = [list(Loader(d, "train", SMALL, 7, seed=3, augment=Augment(), threads=t).epoch(2)) for t in (1, 3)]
    for (a, la, ia), (b, lb, ib) in zip(*runs, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(la, lb)
        assert np.array_equal(ia, ib)
    assert [len(b[1]) for b in runs[0]] == [7, 7, 7, 7, 7, 5]
    pictures, labels, indices = runs[0][1]
    assert (pictures.shape, pictures.dtype, labels.dtype) == ((7, 16, 16, 3), np.uint8, np.int32)
    for picture, label, i in zip(pictures, labels, indices, strict=True):
        item = d.items("train")[i]
        assert item.class_id == label
        assert np.array_equal(picture, train_crop(d.load(item), SMALL, 3, 2, int(i)))


def test_loader_order() -> None:
    d = _drawn()
    loader = Loader(d, "train", SMALL, 8)
    first, second = (np.concatenate([b[2] for b in loader]) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(40))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, loader.order(0))
    assert not np.array_equal(loader.order(0), Loader(d, "train", SMALL, 8, seed=1).order(0))
    assert Loader(d, "test", SMALL, 8).order(0).tolist() == list(range(10))
    dropped = Loader(d, "train", SMALL, 16, drop_last=True)
    assert (len(dropped), dropped.images, len(loader)) == (2, 32, 5)
    assert sum(len(b[1]) for b in dropped) == 32
    limited = Loader(d, "train", SMALL, 4, limit=6)
    assert sorted(limited.order(0)) == sorted(limited.order(1))
    assert limited.images == 6


def test_loader_works_ahead_and_stops_when_left() -> None:
    d = _drawn(20)
    loader = Loader(d, "train", SMALL, 4, ahead=2)
    seen: list[str] = []
    real = d.load
    object.__setattr__(d, "load", lambda item: (seen.append(item.key), real(item))[1])
    batches = loader.epoch(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 4 <= len(seen) <= 12


def test_loader_leaves_out_a_corrupt_image_and_says_which(tmp_path: Path) -> None:
    root = _csv_set(tmp_path)
    (root / "images" / "1_3.jpg").write_bytes(_jpeg(size=(200, 200))[:-400])
    d = open_dataset(root)
    split = next(s for s in ("train", "val") if "images/1_3.jpg" in {i.key for i in d.items(s)})
    for threads in (1, 3):
        got = list(Loader(d, split, SMALL, 4, threads=threads))
        assert sum(len(labels) for _, labels, _ in got) == len(d.items(split)) - 1
        assert all(len(images) == len(labels) == len(positions) for images, labels, positions in got)
        assert "images/1_3.jpg" not in {d.items(split)[p].key for _, _, positions in got for p in positions}
    (key, reason), *others = d.damaged.files.items()
    assert (key, others) == ("images/1_3.jpg", [])
    assert "damaged or truncated" in reason
    alone = Loader(d, split, SMALL, 1)
    due = [alone.due for _ in alone.epoch(0)]
    assert len(due) == len(d.items(split)) - 1
    assert due[-1] >= len(due)  # the batch that fell out is counted: a run that goes on begins behind it


def test_loader_of_an_empty_split(tmp_path: Path) -> None:
    d = open_dataset(_class_folders(tmp_path, each=1))
    with pytest.raises(SasError, match="the 'train' split has no images"):
        Loader(d, "train", SMALL, 4)
    with pytest.raises(SasError, match="at least 1"):
        Loader(d, "test", SMALL, 0)


# --- the real sets --------------------------------------------------------------------------------------------------

REAL = os.environ.get("SASIMC_DATA", "")


@pytest.mark.data
@pytest.mark.skipif(not REAL, reason="SASIMC_DATA is not set")
@pytest.mark.parametrize(
    "name,classes,counts",
    [
        ("flowers", 102, (1020, 1020, 6149)),
        ("flowers17", 17, (680, 340, 340)),
        ("pets", 37, (185, 37, 148)),
        ("cars", 196, (1176, 196, 588)),
        ("imagenet-sample-1000", 1000, (0, 0, 1000)),
    ],
)
def test_real_sets(name: str, classes: int, counts: tuple[int, int, int]) -> None:
    d = open_dataset(Path(REAL) / name if "-" in name else name, REAL)
    assert len(d.classes) == classes
    assert _counts(d) == counts
    assert {i.class_id for i in d.items("test")} == set(range(classes))
    pictures, _, _ = next(Loader(d, "test", Preprocess(), 4, limit=4).epoch(0))
    assert pictures.shape == (4, 224, 224, 3)
    assert pictures.std() > 5
