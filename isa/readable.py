"""Text of files that users give, and what a file seems to be that is no text: for messages."""

from __future__ import annotations

from sasimc.isa.errors import SasError

__all__ = ["ONNX", "seems", "text_of"]

_KINDS = (
    (b"\x89SASD\r\n", "a device image", "give the program first, and the image as --image FILE"),
    (b"SASBIN", "a binary program", "sasc disasm makes text of it"),
    (b".sas ", "a program", "an ONNX file is needed, which it was compiled from"),
    (b"PK\3\4", "a zip archive", ""),
    (b"\x1f\x8b", "a gzip archive", ""),
    (b"\x89PNG", "a picture", ""),
    (b"\xff\xd8\xff", "a picture", ""),
    (b"\x93NUMPY", "an array of numpy", ""),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
)
_FIELD = 0x08  # ONNX files begin with the field ir_version, a small number


ONNX = "an ONNX model"


def seems(data: bytes) -> tuple[str, str]:
    """What a file that begins with ``data`` seems to be, and what to do with it; empty where nothing is known."""
    for start, kind, hint in _KINDS:
        if data.lstrip(b"\xef\xbb\xbf").startswith(start):
            return kind, hint
    if len(data) > 2 and data[0] == _FIELD and data[1] < 0x20 and (data[2] & 7) == 2:
        return ONNX, "compile it first: sasc compile MODEL.onnx"
    return "", ""


def text_of(data: bytes, where: str) -> str:
    """UTF-8 text, without the mark that editors of Windows put in front.

    Raises:
        SasError: no such text; the message says what it seems to be.
    """
    kind, hint = seems(data)
    kind = f" but {kind}" if kind else ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SasError(f"not a text file{kind} (byte {exc.start} is not UTF-8)", where=where, hint=hint) from None
    if "\0" in text:
        raise SasError(f"not a text file{kind} (it contains zero bytes)", where=where, hint=hint)
    return text
