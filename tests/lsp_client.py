"""A client of the Language Server Protocol, written from its specification: messages over the pipes of a real server process."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from typing import Any

TIMEOUT_S = 60


class Client:
    """Starts ``sasc lsp`` and speaks to it."""

    def __init__(self, *options: str, encodings: tuple[str, ...] = ("utf-16",)) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sasimc.cli.sasc", "lsp", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.number = 0
        self.answers: dict[int, dict[str, Any]] = {}
        self.notices: queue.Queue[dict[str, Any]] = queue.Queue()
        self.arrived = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        general = {"positionEncodings": list(encodings)}
        self.capabilities = self.request("initialize", processId=None, rootUri=None, capabilities={"general": general})[
            "capabilities"
        ]
        self.notify("initialized")

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while True:
            length = 0
            while (line := stream.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if not length:
                return
            message = json.loads(stream.read(length))
            with self.arrived:
                if "id" in message and "method" not in message:
                    self.answers[message["id"]] = message
                elif "id" not in message:
                    self.notices.put(message)
                self.arrived.notify_all()

    def _send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def notify(self, method: str, **params: Any) -> None:
        self._send(method=method, params=params)

    def answer(self, method: str, **params: Any) -> dict[str, Any]:
        """The whole answer, an error perhaps."""
        self.number += 1
        number = self.number
        self._send(id=number, method=method, params=params)
        with self.arrived:
            assert self.arrived.wait_for(lambda: number in self.answers, TIMEOUT_S), f"no answer to {method}"
            return self.answers.pop(number)

    def request(self, method: str, **params: Any) -> Any:
        answer = self.answer(method, **params)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, uri: str, text: str) -> None:
        self.notify("textDocument/didOpen", textDocument={"uri": uri, "languageId": "sas-imc", "version": 1, "text": text})

    def change(self, uri: str, version: int, *changes: dict[str, Any]) -> None:
        self.notify("textDocument/didChange", textDocument={"uri": uri, "version": version}, contentChanges=list(changes))

    def diagnostics(self, uri: str) -> list[dict[str, Any]]:
        """The next diagnostics of a text."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            notice = self.notices.get(timeout=max(0.1, end - time.monotonic()))
            if notice["method"] == "textDocument/publishDiagnostics" and notice["params"]["uri"] == uri:
                return notice["params"]["diagnostics"]

    def at(self, method: str, uri: str, line: int, character: int, **more: Any) -> Any:
        """A request about a place (0-based, in the client's units)."""
        return self.request(
            f"textDocument/{method}", textDocument={"uri": uri}, position={"line": line, "character": character}, **more
        )

    def close(self) -> tuple[int, str]:
        """End the session as a client should; the server's exit code and what it wrote to standard error."""
        self.request("shutdown")
        self.notify("exit")
        assert self.process.stderr is not None
        errors = self.process.stderr.read().decode()
        code = self.process.wait(TIMEOUT_S)
        self.reader.join(TIMEOUT_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code, errors
