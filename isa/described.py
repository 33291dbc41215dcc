"""Description files (machine, technology, circuit, recipe): TOML whose fields a pydantic model declares, with errors in our own words.

What a field may hold is read from the model's JSON schema and said one way everywhere: ``array.rows: -1 is not a whole number from 4 to
4096``. Findings carry the file, the line and a caret wherever the field can be found in the text.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sasimc.isa.errors import Diagnostic, DiagnosticsError, SasError, Span, near
from sasimc.isa.readable import text_of

__all__ = [
    "Finding",
    "Source",
    "damage",
    "findings",
    "parse_toml",
    "place_of",
    "read_source",
    "refusal",
    "schema_at",
    "validate",
    "wanted",
]

MAX_DESCRIPTION_BYTES = 1 << 20

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """The text of a description file and its name in messages."""

    name: str
    text: str


@dataclass(frozen=True)
class Finding:
    """One mistake: the field's path, what is wrong with it (``str()`` puts the path in front), and what to do."""

    path: tuple[str, ...]
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.message}" if self.path else self.message


# -------------------------------------------------------------------------------------------------------------------- reading


def read_source(path: str | Path, what: str) -> Source:
    """The text of a description file; ``what`` names its kind in messages.

    Raises:
        SasError: not a readable text file, or longer than 1 MiB.
    """
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_DESCRIPTION_BYTES + 1)
        if len(data) > MAX_DESCRIPTION_BYTES:
            raise SasError(f"too large for a {what}: more than {MAX_DESCRIPTION_BYTES >> 20} MiB", where=str(path))
        return Source(str(path), text_of(data, str(path)))
    except (OSError, ValueError) as exc:
        raise SasError(f"cannot read the {what}: {getattr(exc, 'strerror', None) or exc}", where=str(path)) from None


def parse_toml(source: Source) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        SasError: a syntax error, with its place.
    """
    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as exc:
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(exc), re.S)
        message = f"not valid TOML: {found[1] if found else exc}"
        lines = source.text.splitlines()
        if found and found[2] and int(found[2]) <= len(lines):
            span = Span(source.name, int(found[2]), int(found[3]), lines[int(found[2]) - 1])
            raise SasError(message, span=span) from None
        raise SasError(f"{message}{' (at the end of the file)' if found else ''}", where=source.name) from None
    except RecursionError:
        raise SasError("not valid TOML: nested too deeply", where=source.name) from None


def validate(model: type[M], data: Any, sources: Sequence[Source], what: str, missing: str = "") -> M:
    """An instance of ``model`` from parsed data; ``sources``: the texts it is from, the one that decides first; ``missing``: what to do about
    a field that is left out.

    Raises:
        DiagnosticsError: every field that is missing, unknown or out of range, in the order of the text.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise refusal(findings(exc, model, data, missing), sources, what) from None


def refusal(found: Sequence[Finding], sources: Sequence[Source], what: str) -> DiagnosticsError:
    """The error that lists findings, each at its place in the text where it has one."""
    placed = [(f, _span(f, sources)) for f in found]
    order = [s.name for s in sources]
    placed.sort(key=lambda p: (order.index(p[1].file), p[1].line) if p[1] else (-1, 0))
    name = sources[0].name if sources else ""
    return DiagnosticsError(
        [Diagnostic(str(f) if span else f"invalid {what}: {f}", span, "" if span else name, f.hint) for f, span in placed]
    )


# ------------------------------------------------------------------------------------------------------------------- findings


def findings(exc: ValidationError, model: type[BaseModel], data: Any, missing: str = "") -> list[Finding]:
    """What is wrong with ``data``, each field once (a union reports each of its members)."""
    schema = _schema(model)
    out: dict[tuple[str, ...], Finding] = {}
    last: Finding | None = None
    for error in exc.errors():
        path, at = schema_at(schema, error["loc"])
        if error["type"] == "extra_forbidden":
            finding = _unknown(schema, path)
        elif error["type"] == "value_error":
            finding = Finding(path, str(error.get("ctx", {}).get("error", "")))
        elif error["type"] == "missing" and len(path) == len(error["loc"]):
            finding = Finding(path, f"missing; {wanted(at)} belongs here")
            last = finding
        else:
            value = data
            for part in path:
                value = value[part] if isinstance(value, Mapping) else getattr(value, part)
            finding = Finding(path, f"{_spelled(value)} is not {wanted(at)}", _near_choice(value, at))
        out.setdefault(finding.path, finding)
    if last is not None:
        out[last.path] = replace(last, hint=missing)
    return list(out.values())


@lru_cache(maxsize=16)
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def damage(exc: Exception) -> str:
    """One line about a file that a program wrote and that does not read back: the field, or the error's first line."""
    if isinstance(exc, ValidationError):
        return f"{'.'.join(map(str, exc.errors()[0]['loc'])) or 'its description'} is not what belongs there"
    if isinstance(exc, KeyError):
        return f"{exc} is missing"
    return (str(exc).splitlines() or [type(exc).__name__])[0]


def schema_at(schema: dict[str, Any], location: Sequence[str | int]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The path of the field at a pydantic location (without the tags of unions; unknown keys belong to it), and the schema of that field."""
    definitions, path, at = schema.get("$defs", {}), [], schema

    def plain(s: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in s:
            s = definitions[s["$ref"].rsplit("/", 1)[1]]
        options = [plain(o) for o in s.get("anyOf", ()) if o.get("type") != "null"]
        return {**s, **options[0]} if len(options) == 1 else {**s, "anyOf": options} if options else s

    at = plain(at)
    for i, part in enumerate(location):
        if isinstance(part, str) and part in at.get("properties", {}):
            at = plain(at["properties"][part])
        elif isinstance(part, str) and isinstance(at.get("additionalProperties"), dict):
            at = plain(at["additionalProperties"])
        elif isinstance(part, str) and "properties" in at and i == len(location) - 1:
            return (*path, part), {}
        else:
            break  # an element of an array, or the tag of a union
        path.append(part)
    return tuple(path), at


def _unknown(schema: dict[str, Any], path: tuple[str, ...]) -> Finding:
    """An unknown key: the same key elsewhere, else near ones beside it."""
    _, at = schema_at(schema, path[:-1])
    known = tuple(at.get("properties", ()))
    elsewhere = [repr(".".join(p)) for p in _leaves(schema) if p[-1:] == path[-1:]]
    hint = f"did you mean {', '.join(elsewhere[:3])}?" if elsewhere else near(path[-1], known)
    return Finding(path, "there is no such field", hint or f"fields: {', '.join(known)}")


def _leaves(schema: dict[str, Any], path: tuple[str, ...] = (), depth: int = 4) -> list[tuple[str, ...]]:
    _, at = schema_at(schema, path)
    inner = at.get("properties", {})
    return [p for key in inner for p in _leaves(schema, (*path, key), depth - 1)] if inner and depth else [path]


# ---------------------------------------------------------------------------------------------------------------------- words


def wanted(schema: Mapping[str, Any]) -> str:
    """What a field may hold, from its (resolved) schema: ``a whole number from 4 to 4096``, ``"row" or "free"``."""
    if "wanted" in schema:
        return str(schema["wanted"])
    if "anyOf" in schema:
        return " or ".join(wanted(s) for s in schema["anyOf"])
    if "const" in schema:
        return _spelled(schema["const"])
    if "enum" in schema:
        *most, last = map(_spelled, schema["enum"])
        return f"{', '.join(most)} or {last}" if most else last
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _limits(schema, whole=kind == "integer")
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        if "pattern" in schema:
            return f"text of the form {schema['pattern']}"
        return f"text of at most {schema['maxLength']} characters" if "maxLength" in schema else "text"
    if kind == "array":
        return _array(schema)
    if "properties" in schema:
        return f"a table with {', '.join(schema['properties'])}"
    return "a table" if kind == "object" else "a value"


def _array(schema: Mapping[str, Any]) -> str:
    parts = schema.get("prefixItems")
    if parts:
        if all(p == parts[0] for p in parts):
            return f"a list of {len(parts)}, each {wanted(parts[0])}"
        return f"a list of {', '.join(wanted(p) for p in parts)}"
    return f"a list, each element {wanted(schema.get('items', {}))}"


def _limits(schema: Mapping[str, Any], whole: bool) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if whole:
        low, above = (above + 1 if above is not None else low), None
        high, below = (below - 1 if below is not None else high), None
    first = f" from {_number(low)}" if low is not None else f" above {_number(above)}" if above is not None else ""
    if high is not None:
        return f"{first}{' to' if low is not None else ', at most' if first else ' of at most'} {_number(high)}"
    if below is not None:
        return f"{first}{' and' if first else ''} below {_number(below)}"
    return f"{first}{' upwards' if low is not None else ''}"


def _number(value: float) -> str:
    if not float(value).is_integer() or abs(value) >= 1e16:
        return f"{value:g}"
    return f"{int(value):_}" if abs(value) >= 10_000 else str(int(value))


def _spelled(value: Any) -> str:
    """A value as a TOML file writes it, shortened."""
    if isinstance(value, dict):
        return "a table"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _near_choice(value: Any, schema: Mapping[str, Any]) -> str:
    options = [v for s in (schema, *schema.get("anyOf", ())) for v in (*s.get("enum", ()), s.get("const")) if isinstance(v, str)]
    return near(value, options) if isinstance(value, str) else ""


# --------------------------------------------------------------------------------------------------------------------- places

_WORD = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_HEADER = re.compile(rf"\s*\[\[?\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")


def _places(text: str) -> dict[tuple[str, ...], tuple[int, int, int, str]]:
    """Field path -> (line, column, width, text of the line), for sections and keys."""
    out: dict[tuple[str, ...], tuple[int, int, int, str]] = {}
    section: tuple[str, ...] = ()
    quoted = False
    for number, line in enumerate(text.splitlines(), 1):
        if not quoted and (found := _HEADER.match(line) or _KEY.match(line)):
            path = tuple(w.strip("\"' \t") for w in re.findall(_WORD, found[1]))
            if found.re is _HEADER:
                section = path
            else:
                path = (*section, *path)
            out.setdefault(path, (number, found.start(1) + 1, len(found[1]), line))
        quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1
    return out


def _span(finding: Finding, sources: Sequence[Source]) -> Span | None:
    path = finding.path
    if not path and (named := re.match(r"[a-z_]+(?:\.[a-z_]+)*", finding.message)):
        path = tuple(named[0].split("."))  # a rule over several fields begins with one of them
    return place_of(path, sources)


def place_of(path: Sequence[str], sources: Sequence[Source]) -> Span | None:
    """Where a field, or else its section, stands: in the first of the texts that has it."""
    places = [(s.name, _places(s.text)) for s in sources]
    for length in range(len(path), 0, -1):
        for name, known in places:
            if (at := known.get(tuple(path[:length]))) is not None:
                return Span(name, at[0], at[1], at[3], at[2])
    return None
