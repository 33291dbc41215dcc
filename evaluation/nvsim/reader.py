"""Reading NVSim and PIMA-SIM files (``.cfg``, ``.cell``, ``.pim``): settings with their unit, value and place.

A setting is a line ``-Key (unit): value``. ``//``, ``#`` and ``/* ... */`` are comments, also behind a value. NVSim silently skips
whatever it does not recognise; here every line that is neither a comment nor a setting is a finding with file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sasimc.evaluation.nvsim.keys import KEYS, Key, normalised
from sasimc.isa.errors import Diagnostic, SasError, Span, near

__all__ = ["SUFFIXES", "Document", "Setting", "read"]

SUFFIXES: Final = (".cfg", ".cell", ".pim")
MAX_BYTES: Final = 1 << 20
SMALLEST, LARGEST = 1e-30, 1e30
"""Numbers beyond are no physical sizes; products of some of them stay finite."""

_SETTING = re.compile(r"-\s*(?P<key>[A-Za-z][A-Za-z0-9 _\t-]*?)\s*(?:\((?P<unit>[^()]*)\))?\s*:(?P<value>.*)")
_BLOCK = re.compile(r"/\*.*?(\*/|$)", re.DOTALL)
_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PAIRS = re.compile(r"(\d+)\s*[xX]\s*(\d+)\s*,\s*(\d+)\s*[xX]\s*(\d+)")
_LIST = re.compile(rf"{_NUMBER}(?:\s*,\s*{_NUMBER})*")
_PREFIX: Final = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
_CAPACITY: Final = {"bit": 1, "B": 8, "KB": 8 << 10, "MB": 8 << 20, "GB": 8 << 30, "Byte": 8}


@dataclass(frozen=True)
class Setting:
    """One line: the key as NVSim spells it, the value (a word, or numbers in SI units), and where it stands.

    ``numbers`` are in the unit ``key.unit`` without its prefix (volt, ohm, second, joule, watt, ampere, farad, kelvin, bit; F and F^2 are
    feature sizes); ``text`` is the value as written.
    """

    key: Key
    text: str
    numbers: tuple[float, ...]
    span: Span

    @property
    def number(self) -> float:
        """The first number."""
        return self.numbers[0]

    @property
    def place(self) -> str:
        """``file:line key``, for sources."""
        return f"{Path(self.span.file).name}:{self.span.line} {self.key.name}"


@dataclass(frozen=True)
class Document:
    """A file: its settings by normalised key (the last one counts, as in NVSim), and what was odd or wrong in it."""

    path: Path
    kind: str
    settings: dict[str, Setting]
    findings: tuple[Diagnostic, ...]

    def get(self, name: str) -> Setting | None:
        """A setting by NVSim's spelling of its key."""
        return self.settings.get(normalised(name))


def read(path: str | Path) -> Document:
    """Read one file; its kind follows from the suffix.

    Findings with severity ``error`` are values that could not be read; ``warning``: text that is no setting, unknown keys, missing units,
    trailing text, repeated keys.

    Raises:
        SasError: no such file, another suffix, not a text, longer than 1 MiB.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise SasError(f"{path} is no NVSim file", hint=f"names end in {', '.join(SUFFIXES)}")
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_BYTES + 1)
    except OSError as exc:
        raise SasError(f"cannot read {path}: {exc.strerror or exc}") from None
    if len(data) > MAX_BYTES or b"\0" in data:
        raise SasError(f"{path} is no NVSim file", hint="a text of at most 1 MiB is expected")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    settings: dict[str, Setting] = {}
    findings: list[Diagnostic] = []
    for span, line in _lines(str(path), text):
        found = _setting(span, line, findings)
        if found is None:
            continue
        name = normalised(found.key.name)
        if name in settings:
            before = settings[name].span.line
            findings.append(
                _warn(f"{found.key.name} was set in line {before} already; this line counts", span, "remove one of them")
            )
        settings[name] = found
    return Document(path, kind, settings, tuple(findings))


def _lines(file: str, text: str) -> Iterator[tuple[Span, str]]:
    """Lines with something in them beside comments; comments are blanked, so that columns stay."""
    blank = _BLOCK.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), _hide_line_comments(text))
    for number, (line, whole) in enumerate(zip(blank.split("\n"), text.split("\n"), strict=True), 1):
        rest = line.rstrip()
        if rest.strip():
            start = len(rest) - len(rest.lstrip())
            yield Span(file, number, start + 1, whole.rstrip(), len(rest) - start), rest.strip()


def _hide_line_comments(text: str) -> str:
    """Blank ``//`` and ``#`` to the end of the line (a ``/*`` inside such a comment opens nothing)."""
    out: list[str] = []
    inside = False
    for line in text.split("\n"):
        at = _line_comment(line, inside)
        kept = line[:at] + " " * (len(line) - at)
        inside = _ends_inside(kept, inside)
        out.append(kept)
    return "\n".join(out)


def _line_comment(line: str, inside: bool) -> int:
    """Where a line comment begins, outside of block comments; the line's length when there is none."""
    i = 0
    while i < len(line):
        if inside:
            end = line.find("*/", i)
            if end < 0:
                return len(line)
            i, inside = end + 2, False
        elif line.startswith("/*", i):
            i, inside = i + 2, True
        elif line.startswith("//", i) or line[i] == "#":
            return i
        else:
            i += 1
    return len(line)


def _ends_inside(line: str, inside: bool) -> bool:
    at = 0
    while True:
        at = line.find("*/" if inside else "/*", at)
        if at < 0:
            return inside
        at, inside = at + 2, not inside


def _warn(message: str, span: Span, hint: str = "") -> Diagnostic:
    return Diagnostic(message, span, hint=hint, severity="warning")


def _setting(span: Span, line: str, findings: list[Diagnostic]) -> Setting | None:
    match = _SETTING.match(line)
    if match is None:
        what = "a key without `: value`" if line.startswith("-") else "neither a comment nor a setting"
        findings.append(_warn(f"{what}; the line is not read", span, "a setting is `-Key (unit): value`"))
        return None
    key = KEYS.get(normalised(match["key"]))
    value = match["value"].strip()
    if key is None:
        hint = near(match["key"].strip(), [k.name for k in KEYS.values()])
        findings.append(_warn(f"unknown key {match['key'].strip()!r}; it is not used", span, hint))
        return None
    if not value:
        findings.append(Diagnostic(f"{key.name} has no value", span, hint=f"for instance {key.example}"))
        return None
    if key.unit == "word":
        word = value.split()[0] if key.one_word else value
        if word != value:
            findings.append(_warn(f"text behind the value of {key.name} is not read: {value[len(word) :].strip()!r:.60}", span))
        return Setting(key, word, (), span)
    pattern = {"pairs": _PAIRS, "list": _LIST}.get(key.shape, re.compile(_NUMBER))
    found = pattern.match(value)
    if found is None:
        findings.append(Diagnostic(f"{key.name} cannot be read: {value!r:.60}", span, hint=f"for instance {key.example}"))
        return None
    if rest := value[found.end() :].strip():
        findings.append(_warn(f"text behind the value of {key.name} is not read: {rest!r:.60}", span))
    raw = found.groups() if key.shape == "pairs" else re.findall(_NUMBER, found.group())
    scale = _scale(key, match["unit"], span, findings)
    if scale is None:
        return None
    numbers = tuple(float(n) * scale for n in raw)
    if any(n and not SMALLEST <= abs(n) <= LARGEST for n in numbers):
        findings.append(
            Diagnostic(f"{key.name} is no size that a memory has: {value!r:.60}", span, hint=f"for instance {key.example}")
        )
        return None
    if key.positive and any(n <= 0 for n in numbers):
        findings.append(
            Diagnostic(f"{key.name} must be larger than zero: {value!r:.60}", span, hint=f"for instance {key.example}")
        )
        return None
    return Setting(key, found.group(), numbers, span)


def _scale(key: Key, written: str | None, span: Span, findings: list[Diagnostic]) -> float | None:
    """The factor from the written unit to the SI unit; None (and an error) for a unit the key cannot have."""
    if key.shape == "pairs" or not key.unit:
        return 1.0
    unit = (written or "").strip().rstrip(".")
    if key.unit == "capacity":
        if unit in _CAPACITY:
            return float(_CAPACITY[unit])
        what = f"has the unit {unit!r}" if unit else "has no unit"
        findings.append(Diagnostic(f"{key.name} {what}", span, hint="(B), (KB), (MB) or (GB)"))
        return None
    if not unit:
        if not key.bare:
            findings.append(_warn(f"{key.name} has no unit; read as {key.written}", span))
        unit = key.written
    if unit == key.written or (unit.endswith(key.unit) and unit[: -len(key.unit)] in _PREFIX and key.prefixed):
        prefix = unit[: -len(key.unit)] if key.prefixed else ""
        return _PREFIX[prefix]
    findings.append(Diagnostic(f"{key.name} has the unit {unit!r}", span, hint=f"({key.written}) is expected"))
    return None
