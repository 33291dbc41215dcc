"""Messages of the Debug Adapter Protocol: JSON behind a header with its length."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

__all__ = ["Channel", "ProtocolError"]

_MOST: Final = 64 << 20


class ProtocolError(Exception):
    """What came is no message of the protocol."""


class Channel:
    """Reads and writes messages. Writing is safe from several threads."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._lock, self._number = threading.Lock(), 0

    def messages(self) -> Iterator[dict[str, Any]]:
        """Messages until the other side has gone.

        Raises:
            ProtocolError: no header, no JSON object.
        """
        while True:
            length = -1
            while line := self._source.readline(4096):
                text = line.decode("ascii", "replace").strip()
                if not text:
                    break
                name, _, value = text.partition(":")
                if name.lower() == "content-length" and value.strip().isdecimal():
                    length = int(value)
            else:
                return
            if not 0 <= length <= _MOST:
                raise ProtocolError("a message needs a header `Content-Length: N`")
            body = self._source.read(length)
            if len(body) < length:
                return
            try:
                message = json.loads(body)
            except ValueError as exc:
                raise ProtocolError(f"this is no JSON: {exc}") from None
            if not isinstance(message, dict):
                raise ProtocolError("a message is a JSON object")
            yield message

    def send(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write a message of type ``response`` or ``event``."""
        with self._lock:
            self._number += 1
            body = json.dumps({"seq": self._number, "type": kind, **fields}).encode()
            self._sink.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self._sink.flush()
