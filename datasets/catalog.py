"""The data sets known by name: how their folders are called, where they officially come from, under which terms."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "KnownSet", "RemoteFile"]


@dataclass(frozen=True)
class RemoteFile:
    """A file at an official address. ``checksum`` is ``md5:...`` or ``sha256:...``; ``unpack``: an archive to expand;
    ``max_bytes`` bounds what is accepted."""

    url: str
    checksum: str
    unpack: bool = False
    max_bytes: int = 8 << 30

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class KnownSet:
    """``prefixes``: a folder under the data folder whose name starts with one of them (lower case) is taken. No
    ``files``: there is no official address to fetch from. ``folder``: where fetched files go."""

    name: str
    title: str
    classes: int
    prefixes: tuple[str, ...]
    licence: str
    folder: str
    files: tuple[RemoteFile, ...] = ()


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"

# Checksums: those that the data sets' common readers publish; the two .mat files of flowers-102 were compared with real files.
CATALOGUE: dict[str, KnownSet] = {
    s.name: s
    for s in (
        KnownSet(
            "flowers",
            "Oxford Flowers-102",
            102,
            ("flowers-102", "flowers102", "oxford-flowers-102"),
            "no explicit licence; images from the web, research use",
            "flowers-102",
            (
                RemoteFile(f"{_VGG}/flowers/102/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa", unpack=True),
                RemoteFile(f"{_VGG}/flowers/102/imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d", max_bytes=1 << 20),
                RemoteFile(f"{_VGG}/flowers/102/setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c", max_bytes=1 << 20),
            ),
        ),
        KnownSet(
            "flowers17",
            "Oxford Flowers-17",
            17,
            ("flowers-17", "flowers17", "oxford-flowers-17"),
            "no explicit licence; images from the web, research use",
            "flowers-17",
            (
                RemoteFile(f"{_VGG}/flowers/17/17flowers.tgz", "md5:b59a65d8d1a99cd66944d474e1289eab", unpack=True),
                RemoteFile(f"{_VGG}/flowers/17/datasplits.mat", "md5:4828cddfd0d803c5abbdebcb1e148a1e", max_bytes=1 << 20),
            ),
        ),
        KnownSet(
            "pets",
            "Oxford-IIIT Pet",
            37,
            ("pets", "oxford-pets", "oxford-iiit-pet"),
            "CC BY-SA 4.0",
            "pets",
            (
                RemoteFile(f"{_VGG}/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", unpack=True),
                RemoteFile(f"{_VGG}/pets/data/annotations.tar.gz", "md5:95a8c909bbe2e81eed6a22bccdf3f68f", unpack=True),
            ),
        ),
        KnownSet(
            "cars",
            "Stanford Cars",
            196,
            ("stanford-cars", "stanford_cars", "cars"),
            "non-commercial research only",
            "stanford-cars",
        ),
        KnownSet(
            "cub",
            "Caltech-UCSD Birds-200-2011",
            200,
            ("cub",),
            "images belong to their owners; non-commercial research and education",
            "cub-200-2011",
            (
                RemoteFile(
                    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                    "md5:97eceeb196236b17998738112f37df78",
                    unpack=True,
                ),
            ),
        ),
        KnownSet(
            "food",
            "Food-101",
            101,
            ("food",),
            "images from a recipe site, not the authors'; research use",
            "food-101",
            (
                RemoteFile(
                    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                    "md5:85eeb15f3717b99a5da872d97d918f87",
                    unpack=True,
                ),
            ),
        ),
        KnownSet(
            "aircraft",
            "FGVC-Aircraft 2013b (variants)",
            100,
            ("aircraft", "fgvc-aircraft", "fgvc_aircraft"),
            "non-commercial research only",
            "aircraft",
            (
                RemoteFile(
                    f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                    "md5:d4acdd33327262359767eeaa97a4f732",
                    unpack=True,
                ),
            ),
        ),
    )
}
