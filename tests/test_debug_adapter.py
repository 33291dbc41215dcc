"""The Debug Adapter Protocol, spoken with a real adapter process over pipes by a client written from the protocol's specification."""

from __future__ import annotations

import base64
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from debug_rings import RINGS

ROOT = Path(__file__).parents[1]


class Client:
    """One client: requests with their responses, events in the order in which they come."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sasimc.cli.sasdbg", "--dap"], cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        self._came: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seq, self.order = 0, list[int]()
        self.events: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        out = self.process.stdout
        assert out is not None
        while header := out.readline():
            assert header.startswith(b"Content-Length: ")
            assert out.readline() == b"\r\n"
            self._came.put(json.loads(out.read(int(header.split(b":")[1]))))

    def send(self, command: str, **arguments: Any) -> int:
        self.seq += 1
        body = json.dumps({"seq": self.seq, "type": "request", "command": command, "arguments": arguments}).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()
        return self.seq

    def _next(self) -> dict[str, Any]:
        message = self._came.get(timeout=100)
        self.order.append(message["seq"])
        if message["type"] == "event":
            self.events.append(message)
        return message

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The response of a request that succeeds."""
        answer = self.response(self.send(command, **arguments))
        assert answer["success"], answer
        assert answer["command"] == command
        return answer.get("body", {})

    def refused(self, command: str, **arguments: Any) -> str:
        answer = self.response(self.send(command, **arguments))
        assert not answer["success"]
        return answer["message"]

    def response(self, seq: int) -> dict[str, Any]:
        while True:
            message = self._next()
            if message["type"] == "response" and message["request_seq"] == seq:
                return message

    def event(self, name: str) -> dict[str, Any]:
        """The next event of a name, its body."""
        while True:
            for number, message in enumerate(self.events):
                if message["event"] == name:
                    del self.events[number]
                    return message.get("body", {})
            self._next()

    def stop(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What a request that moves the machine stops with."""
        self.request(command, **arguments)
        return self.event("stopped")

    def evaluate(self, expression: str) -> str:
        return self.request("evaluate", expression=expression, context="watch")["result"]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    (tmp_path / "rings.s").write_text(RINGS, encoding="utf-8")
    np.save(tmp_path / "in.npy", (np.arange(64) * 37 % 41 - 20).reshape(8, 4, 2))
    made = Client(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    for pipe in (made.process.stdin, made.process.stdout, made.process.stderr):
        assert pipe is not None
        pipe.close()


def _launch(client: Client, **more: Any) -> None:
    capabilities = client.request("initialize", adapterID="sasdbg", linesStartAt1=True, columnsStartAt1=True)
    assert capabilities["supportsStepBack"]
    assert capabilities["supportsDataBreakpoints"]
    client.request("launch", program="rings.s", entry="main", set=["r1=3", "in=in.npy"], engine="fused", threads=1, **more)
    client.event("initialized")


def _line(text: str) -> int:
    return next(n for n, line in enumerate(RINGS.splitlines(), 1) if text in line)


def test_a_whole_session(client: Client) -> None:
    """Breakpoints of all kinds, both directions, the stack, variables, memory, the console, the end; messages are numbered without gaps."""
    _launch(client)
    source = {"path": "/somewhere/rings.s"}
    [b] = client.request("setBreakpoints", source=source, breakpoints=[{"line": _line("clip z"), "condition": "r2 == 1"}])[
        "breakpoints"
    ]
    assert b["verified"]
    assert b["line"] == _line("clip z")
    bad = client.request("setFunctionBreakpoints", breakpoints=[{"name": "conv", "hitCondition": "12"}, {"name": "nothing"}])
    assert [f["verified"] for f in bad["breakpoints"]] == [True, False]
    client.request("configurationDone")
    assert client.event("stopped")["reason"] == "entry"
    assert client.request("threads")["threads"] == [{"id": 1, "name": "main"}]

    stop = client.stop("continue", threadId=1)
    assert (stop["reason"], stop["hitBreakpointIds"]) == ("breakpoint", [b["id"]])
    frames = client.request("stackTrace", threadId=1)["stackFrames"]
    assert frames[0]["name"] == "clip z, y, -100, 100, r3:2"
    assert frames[0]["line"] == _line("clip z")
    assert frames[0]["source"]["name"] == "rings.s"
    assert [f["name"] for f in frames[2:4]] == ["loop: loopi 4, pass 1 of 4", "loop: loop r1, pass 2 of 3"]
    assert client.request("stackTrace", threadId=1, startFrame=1, levels=1)["stackFrames"][0]["name"].startswith("node: store")

    scopes = {s["name"]: s["variablesReference"] for s in client.request("scopes", frameId=1)["scopes"]}
    registers = client.request("variables", variablesReference=scopes["Registers"])["variables"]
    assert next(v for v in registers if v["name"] == "r1")["value"] == "3 (count)"
    operands = client.request("variables", variablesReference=scopes["Operands"])["variables"]
    z = next(v for v in operands if v["name"] == "dst: z")
    assert z["memoryReference"] == "buf:128"
    rows = client.request("variables", variablesReference=z["variablesReference"])["variables"]
    assert len(rows) == 8
    assert rows[3]["evaluateName"] == '"z"[3]'
    pixels = client.request("variables", variablesReference=rows[3]["variablesReference"])["variables"]
    assert client.evaluate('"z"[3, 1]') == pixels[1]["value"]

    assert client.stop("next", threadId=1)["reason"] == "step"
    assert client.request("stackTrace", threadId=1)["stackFrames"][0]["name"].startswith("addi r3")
    assert client.stop("stepBack", threadId=1)["reason"] == "step"
    assert client.stop("stepOut", threadId=1)["reason"] == "breakpoint"
    client.request("setBreakpoints", source=source, breakpoints=[])
    assert client.stop("reverseContinue", threadId=1)["description"] == "the beginning of history"
    assert client.evaluate("time") == "0"

    [i] = client.request("setInstructionBreakpoints", breakpoints=[{"instructionReference": "0x9"}])["breakpoints"]
    assert i["verified"]
    assert client.stop("continue", threadId=1)["hitBreakpointIds"] == [i["id"]]
    client.request("setInstructionBreakpoints", breakpoints=[])
    listed = client.request("disassemble", memoryReference="0x0", instructionOffset=-1, instructionCount=3)["instructions"]
    assert listed[0]["presentationHint"] == "invalid"
    assert listed[1] == {
        "address": "0x0", "instruction": "phase forward", "line": _line("phase forward"), "location": {"name": "rings.s", "path": "rings.s"},
        "symbol": "main",
    }  # fmt: skip
    got = client.request("readMemory", memoryReference="buf:0", offset=2, count=4)
    assert base64.b64decode(got["data"]) == bytes((np.arange(2, 6) * 37 % 41 - 20).astype(np.int8).tobytes())
    assert client.request("readMemory", memoryReference="buf:401400", count=20)["unreadableBytes"] == 12
    assert client.request("setExpression", expression="x[0, 0, 0]", value="2 ** 5 + 1")["value"] == "33"

    client.request("setFunctionBreakpoints", breakpoints=[])
    assert client.request("evaluate", expression="who x[0, 0, 0]", context="repl")["result"] == ""
    assert any("hld x, in" in e["body"]["output"] for e in client.events if e["event"] == "output")
    client.request("evaluate", expression="goto 5", context="repl")
    assert client.event("stopped")["reason"] == "step"
    assert client.stop("continue", threadId=1)["description"] == "the end of the program"
    client.request("continue", threadId=1)
    client.event("terminated")
    client.request("disconnect")
    assert client.process.wait(timeout=20) == 0
    assert client.order == list(range(1, len(client.order) + 1))


def test_data_breakpoints_in_both_directions(client: Client) -> None:
    _launch(client, stopOnEntry=False)
    info = client.request("dataBreakpointInfo", name="y[5, 2, 1]")
    assert info["accessTypes"] == ["read", "write", "readWrite"]
    assert client.request("dataBreakpointInfo", name="y[99]")["dataId"] is None
    [d] = client.request("setDataBreakpoints", breakpoints=[{"dataId": info["dataId"], "accessType": "write"}])["breakpoints"]
    client.request("configurationDone")
    seen: list[tuple[str, str]] = []
    stop = client.event("stopped")
    while stop["reason"] == "data breakpoint":
        assert stop["hitBreakpointIds"] == [d["id"]]
        seen.append((client.evaluate("time"), client.evaluate("y[5, 2, 1]")))
        stop = client.stop("continue", threadId=1)
    assert len(seen) > 1
    assert stop["description"] == "the end of the program"
    back: list[str] = []
    while (stop := client.stop("reverseContinue", threadId=1))["reason"] == "data breakpoint":
        back.append(client.evaluate("time"))
        assert "before" in client.events[-1]["body"]["output"] or client.events
    assert [int(t) + 1 for t in back[::-1]] == [int(t) for t, _ in seen]
    client.request("setDataBreakpoints", breakpoints=[])
    scopes = {s["name"]: s["variablesReference"] for s in client.request("scopes", frameId=1)["scopes"]}
    found = client.request("dataBreakpointInfo", name="r3", variablesReference=scopes["Registers"])
    assert found["dataId"] == "r3"


def test_traps_pauses_and_what_is_refused(client: Client, tmp_path: Path) -> None:
    assert "nothing is launched" in client.refused("threads")
    assert "is not served" in client.refused("dance")
    client.request("initialize", adapterID="sasdbg")
    assert "cannot read the program" in client.refused("launch", program="no.s", entry="main")
    assert "'atStep' is 'two'" in client.refused("launch", program="rings.s", atStep="two")
    endless = RINGS.replace("loop r1", "loopi 2000000000").replace("in host i8 8x4x2", "in host i8 8x4x2 batch=64")
    (tmp_path / "rings.s").write_text(endless.replace("    phase update", "    hld x, in, r2, all"), encoding="utf-8")
    client.request("launch", program="rings.s", entry="main", set=["r1=3"], engine="fused", threads=1)
    client.event("initialized")
    client.request("setInstructionBreakpoints", breakpoints=[{"instructionReference": "0x6", "condition": "r2 == 1000000000"}])
    client.request("configurationDone")
    client.event("stopped")
    client.request("continue", threadId=1)
    client.request("pause", threadId=1)
    assert client.event("stopped")["description"] == "interrupted"
    assert int(client.evaluate("time")) > 3
    assert "did not trap" in client.refused("exceptionInfo", threadId=1)
    client.request("setInstructionBreakpoints", breakpoints=[])
    client.request("setExpression", expression="r1", value="0")
    assert "do not fit" in client.refused("variables")
    assert (
        "no entry or node"
        in client.request("setFunctionBreakpoints", breakpoints=[{"name": "none"}])["breakpoints"][0]["message"]
    )
    assert "')' is missing" in client.refused("evaluate", expression="max(r1")
    client.request("disconnect")
    assert client.process.wait(timeout=20) == 0
