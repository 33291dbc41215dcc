"""The Debug Adapter Protocol on a session: what editors speak.

Instructions are addressed by their index, written as ``0x12``; memory by ``buf:64``, ``acc:0``, ``host:0``. The machine runs on the thread that answers
requests; the one that reads them hears `pause` and `disconnect` meanwhile.
"""

from __future__ import annotations

import base64
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

import numpy as np

from sasimc.debug import look, tell
from sasimc.debug.dap.protocol import Channel, ProtocolError
from sasimc.debug.dap.variables import Variables
from sasimc.debug.prompt import Prompt
from sasimc.debug.session import Session
from sasimc.debug.stops import Breakpoint, Stop, Watchpoint
from sasimc.isa.errors import SasError
from sasimc.isa.text.printer import with_lines

__all__ = ["CAPABILITIES", "Adapter"]

CAPABILITIES: Final = (
    "supportsConfigurationDoneRequest", "supportsFunctionBreakpoints", "supportsConditionalBreakpoints", "supportsHitConditionalBreakpoints",
    "supportsStepBack", "supportsDataBreakpoints", "supportsInstructionBreakpoints", "supportsDisassembleRequest", "supportsReadMemoryRequest",
    "supportsWriteMemoryRequest", "supportsEvaluateForHovers", "supportsSetExpression", "supportsRestartRequest", "supportsExceptionInfoRequest",
    "supportsSteppingGranularity", "supportsTerminateRequest", "supportsGotoTargetsRequest",
)  # fmt: skip
_THREAD: Final = 1
_ENDING: Final = ("pause", "disconnect", "terminate")
"""Requests that stop a machine in motion."""
_WHENS: Final = {"read": "read", "write": "change", "readWrite": "access"}
_REASONS: Final = {
    "breakpoint": "breakpoint", "watchpoint": "data breakpoint", "step": "step", "trap": "exception", "end": "pause", "beginning": "pause",
    "interrupted": "pause",
}  # fmt: skip

Body = dict[str, Any] | None


class Adapter:
    """Serves one client until it disconnects. ``launch`` makes a session of the arguments of the request `launch`.

    ``compare`` is for the command `against` in the console.
    """

    def __init__(
        self,
        channel: Channel,
        launch: Callable[[Mapping[str, Any]], Session],
        compare: Callable[[Session, str], Any] | None = None,
    ) -> None:
        self._channel, self._launch, self._compare = channel, launch, compare
        self._session: Session | None = None
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._after: Callable[[], None] | None = None
        self._done = False
        self._waiting = 0
        self._owned: dict[str, list[int]] = {}
        self._lines: dict[int, int] = {}
        self._text = ""
        self._stop_on_entry = True
        self._last: Stop | None = None
        self._targets: list[int] = []

    # ------------------------------------------------------------------------------------------------------------- serving

    def serve(self) -> None:
        """Answer requests until the client disconnects or its end of the channel closes."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        while not self._done and (request := self._requests.get()) is not None:
            self._answer(request)

    def _read(self) -> None:
        try:
            for message in self._channel.messages():
                if message.get("type") != "request":
                    continue
                if message.get("command") in _ENDING:
                    self._waiting += 1
                    threading.Thread(target=self._insist, daemon=True).start()
                self._requests.put(message)
                if message.get("command") == "disconnect":
                    return
        except ProtocolError as exc:
            self._event("output", category="stderr", output=f"{exc}\n")
        if self._session is not None:
            self._session.interrupt()
        self._requests.put(None)

    def _insist(self) -> None:
        """Stop the machine, also one that is just about to be started by a request before, until the request is answered."""
        while self._waiting and not self._done:
            if self._session is not None:
                self._session.interrupt()
            time.sleep(0.02)

    def _event(self, name: str, **body: Any) -> None:
        self._channel.send("event", {"event": name, "body": body})

    def _answer(self, request: dict[str, Any]) -> None:
        command = str(request.get("command"))
        self._waiting -= command in _ENDING
        answer: dict[str, Any] = {"request_seq": request.get("seq", 0), "command": command, "success": True}
        handler = getattr(self, f"_on_{command}", None)
        try:
            if handler is None:
                raise SasError(f"the request {command!r} is not served")
            arguments = request.get("arguments") or {}
            if not isinstance(arguments, dict):
                raise SasError("arguments are a JSON object")
            body = handler(arguments)
            if body is not None:
                answer["body"] = body
        except SasError as exc:
            d = exc.diagnostic
            text = d.message + (f" ({d.hint})" if d.hint else "")
            answer |= {"success": False, "message": text, "body": {"error": {"id": 1, "format": text, "showUser": True}}}
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            text = f"arguments of {command!r} do not fit: {exc}"
            answer |= {"success": False, "message": text, "body": {"error": {"id": 2, "format": text}}}
        after, self._after = self._after, None
        self._channel.send("response", answer)
        if after is not None and answer["success"]:
            try:
                after()
            except SasError as exc:  # a condition that cannot be evaluated
                self._event("output", category="stderr", output=f"{exc}\n")
                self._stopped(Stop("interrupted", self.session.position))

    @property
    def session(self) -> Session:
        """The session. Raises SasError before `launch`."""
        if self._session is None:
            raise SasError("nothing is launched yet")
        return self._session

    # ------------------------------------------------------------------------------------------------- beginning and ending

    def _on_initialize(self, arguments: dict[str, Any]) -> Body:
        return dict.fromkeys(CAPABILITIES, True)

    def _on_launch(self, arguments: dict[str, Any]) -> Body:
        if self._session is not None:
            raise SasError("a program is launched already")
        self._session = self._launch(arguments)
        self._variables = Variables(self._session)
        self._prompt = Prompt(self._session, self._say, self._comparing)
        self._stop_on_entry = bool(arguments.get("stopOnEntry", True))
        program = self._session.program
        if any(i.line for i in program.code):
            self._lines = {pc: i.line for pc, i in enumerate(program.code)}
        else:  # a binary, or compiled just now: its canonical text is the source
            lined, self._text = with_lines(program, program.source)
            self._lines = {pc: i.line for pc, i in enumerate(lined.code)}
        self._after = lambda: self._event("initialized")
        return None

    def _comparing(self, what: str) -> Any:
        if self._compare is None:
            raise SasError("there is nothing to compare with here")
        return self._compare(self.session, what)

    def _on_configurationDone(self, arguments: dict[str, Any]) -> Body:
        session = self.session
        if self._stop_on_entry:
            self._after = lambda: self._stopped(Stop("step", session.position), "entry")
        else:
            self._after = lambda: self._run(session.resume)
        return None

    def _on_restart(self, arguments: dict[str, Any]) -> Body:
        self._after = lambda: self._run(self.session.restart, "entry")
        return None

    def _on_disconnect(self, arguments: dict[str, Any]) -> Body:
        self._done = True
        return None

    def _on_terminate(self, arguments: dict[str, Any]) -> Body:
        self._after = lambda: self._event("terminated")
        return None

    # ------------------------------------------------------------------------------------------------------------- running

    def _say(self, text: str) -> None:
        self._event("output", category="console", output=f"{text}\n")

    def _run(self, move: Callable[[], Stop], reason: str = "") -> None:
        """Move the machine and say where it stopped."""
        self._variables.forget()
        self._stopped(move(), reason)

    def _stopped(self, stop: Stop, reason: str = "") -> None:
        self._last = stop
        self._variables.forget()
        ids = [b.number for b in stop.breakpoints] + [h.watchpoint.number for h in stop.hits if h.watchpoint]
        lines = list(tell.stop_lines(self.session, stop))
        for line in lines:
            self._say(line)
        body = {
            "reason": reason or _REASONS[stop.reason],
            "threadId": _THREAD,
            "allThreadsStopped": True,
            "description": lines[0],
        }
        self._event("stopped", **body, text=lines[0], **({"hitBreakpointIds": ids} if ids else {}))

    def _moving(self, move: Callable[[], Stop]) -> None:
        session = self.session
        session.history.interrupted = False
        self._after = lambda: self._run(move)

    def _on_continue(self, arguments: dict[str, Any]) -> Body:
        session = self.session
        if session.history.ended:
            self._after = lambda: (self._event("exited", exitCode=0), self._event("terminated"))[0]
        else:
            self._moving(session.resume)
        return {"allThreadsContinued": True}

    def _on_reverseContinue(self, arguments: dict[str, Any]) -> Body:
        self._moving(lambda: self.session.resume(backwards=True))
        return None

    def _on_next(self, arguments: dict[str, Any]) -> Body:
        self._moving(self.session.step if arguments.get("granularity") == "instruction" else self.session.over)
        return None

    def _on_stepIn(self, arguments: dict[str, Any]) -> Body:
        self._moving(self.session.step)
        return None

    def _on_stepOut(self, arguments: dict[str, Any]) -> Body:
        self._moving(self.session.out)
        return None

    def _on_stepBack(self, arguments: dict[str, Any]) -> Body:
        fine = arguments.get("granularity") == "instruction"
        self._moving(lambda: self.session.step(backwards=True) if fine else self.session.over(backwards=True))
        return None

    def _on_pause(self, arguments: dict[str, Any]) -> Body:
        """The machine was told by the thread that reads; when this is answered it stands."""
        return None

    def _on_gotoTargets(self, arguments: dict[str, Any]) -> Body:
        """The instructions of a line: going there is to run until one is reached, not a jump."""
        line = int(arguments["line"])
        pcs = [pc for pc, n in self._lines.items() if n == line]
        self._targets = pcs
        return {"targets": [{"id": i, "label": f"run to instruction {pc}", "line": line} for i, pc in enumerate(pcs)]}

    def _on_goto(self, arguments: dict[str, Any]) -> Body:
        pc = self._targets[int(arguments["targetId"])]
        b = self.session.add_breakpoint(f"*{pc}", temporary=True)

        def move() -> Stop:
            try:
                return self.session.resume()
            finally:
                self.session.points.pop(b.number, None)

        self._moving(move)
        return None

    # --------------------------------------------------------------------------------------------------------------- stops

    def _replace(self, group: str, makes: Sequence[Callable[[], Breakpoint | Watchpoint]]) -> list[dict[str, Any]]:
        """Breakpoints of a group instead of those before."""
        for number in self._owned.pop(group, []):
            self.session.points.pop(number, None)
        out: list[dict[str, Any]] = []
        for make in makes:
            try:
                point = make()
            except SasError as exc:
                out.append({"verified": False, "message": exc.diagnostic.message})
                continue
            self._owned.setdefault(group, []).append(point.number)
            found: dict[str, Any] = {"id": point.number, "verified": True}
            if isinstance(point, Breakpoint):
                pc = min(point.pcs)
                found |= {"line": self._lines[pc], "source": self._source(), "instructionReference": hex(pc)}
            out.append(found)
        return out

    def _breakpoint(self, text: str, wanted: Mapping[str, Any]) -> Breakpoint:
        b = self.session.add_breakpoint(text, wanted.get("condition") or "")
        b.ignore = self._passes(wanted)
        return b

    @staticmethod
    def _passes(wanted: Mapping[str, Any]) -> int:
        text = str(wanted.get("hitCondition") or "1").strip()
        found = re.fullmatch(r"(?:>=|==)?\s*(\d+)", text)
        if found is None:
            raise SasError(f"{text!r} is no number of hits")
        return max(0, int(found[1]) - 1)

    def _on_setBreakpoints(self, arguments: dict[str, Any]) -> Body:
        source, session = arguments["source"], self.session
        path = source.get("path") or source.get("name") or ""
        ours = source.get("sourceReference") or PurePath(path).name == PurePath(session.program.source).name

        def at(wanted: Mapping[str, Any]) -> Callable[[], Breakpoint]:
            def make() -> Breakpoint:
                line = next((n for n in sorted(set(self._lines.values())) if n >= int(wanted["line"])), None)
                if line is None or not ours:
                    raise SasError(f"there is no instruction on line {wanted['line']} of {path}")
                return self._breakpoint(f"*{min(pc for pc, n in self._lines.items() if n == line)}", wanted)

            return make

        return {"breakpoints": self._replace(f"source {path}", [at(b) for b in arguments.get("breakpoints") or ()])}

    def _on_setFunctionBreakpoints(self, arguments: dict[str, Any]) -> Body:
        makes = [lambda b=b: self._breakpoint(str(b["name"]), b) for b in arguments["breakpoints"]]
        return {"breakpoints": self._replace("function", makes)}

    def _on_setInstructionBreakpoints(self, arguments: dict[str, Any]) -> Body:
        makes = [
            lambda b=b: self._breakpoint(f"*{int(b['instructionReference'], 16) + int(b.get('offset', 0))}", b)
            for b in arguments["breakpoints"]
        ]
        return {"breakpoints": self._replace("instruction", makes)}

    def _on_setExceptionBreakpoints(self, arguments: dict[str, Any]) -> Body:
        return {"breakpoints": []}

    def _on_dataBreakpointInfo(self, arguments: dict[str, Any]) -> Body:
        name = str(arguments["name"])
        reference = arguments.get("variablesReference")
        if reference:
            found = next((v for v in self._variables.of(int(reference)) if v["name"] == name), None)
            name = "" if found is None else str(found.get("evaluateName", ""))
        try:
            place = self.session.place(name)
        except SasError as exc:
            return {"dataId": None, "description": exc.diagnostic.message}
        return {"dataId": name, "description": place.text, "accessTypes": list(_WHENS), "canPersist": True}

    def _on_setDataBreakpoints(self, arguments: dict[str, Any]) -> Body:
        def make(wanted: Mapping[str, Any]) -> Watchpoint:
            when = _WHENS[wanted.get("accessType") or "write"]
            w = self.session.add_watchpoint(str(wanted["dataId"]), when, wanted.get("condition") or "")
            w.ignore = self._passes(wanted)
            return w

        return {"breakpoints": self._replace("data", [lambda b=b: make(b) for b in arguments["breakpoints"]])}

    # ------------------------------------------------------------------------------------------------------------- looking

    def _source(self) -> dict[str, Any]:
        source = self.session.program.source
        if self._text:
            return {"name": f"{PurePath(source).name} (text)", "sourceReference": 1}
        return {"name": PurePath(source).name, "path": str(PurePath(source))}

    def _on_source(self, arguments: dict[str, Any]) -> Body:
        return {"content": self._text, "mimeType": "text/x-sas-imc"}

    def _on_threads(self, arguments: dict[str, Any]) -> Body:
        return {"threads": [{"id": _THREAD, "name": self.session.history.current.title}]}

    def _on_stackTrace(self, arguments: dict[str, Any]) -> Body:
        found = look.frames(self.session)
        frames = [
            {
                "id": number + 1, "name": f.text if f.kind == "instruction" else f"{f.kind}: {f.text}", "line": self._lines.get(f.pc, 0), "column": 1,
                "source": self._source(), "instructionPointerReference": hex(f.pc), "presentationHint": "normal" if not number else "subtle",
            }
            for number, f in enumerate(found)
        ] or [{"id": 1, "name": "the end", "line": 0, "column": 1}]  # fmt: skip
        first, count = int(arguments.get("startFrame") or 0), int(arguments.get("levels") or 0)
        return {"stackFrames": frames[first : first + count if count else None], "totalFrames": len(frames)}

    def _on_scopes(self, arguments: dict[str, Any]) -> Body:
        return {"scopes": self._variables.scopes()}

    def _on_variables(self, arguments: dict[str, Any]) -> Body:
        found = self._variables.of(int(arguments["variablesReference"]))
        first, count = int(arguments.get("start") or 0), int(arguments.get("count") or 0)
        return {"variables": found[first : first + count if count else None]}

    def _on_evaluate(self, arguments: dict[str, Any]) -> Body:
        """An expression; in the console also a command of the prompt (`help` lists them)."""
        text = str(arguments["expression"])
        if arguments.get("context") == "repl":
            word = text.split(maxsplit=1)[0] if text.strip() else ""
            try:
                command = self._prompt.command(word)
            except SasError:
                command = None
            if command is not None and word in command.names:
                before = self.session.history.time
                self._prompt.execute(text)
                if self.session.history.time != before:
                    self._after = lambda: self._stopped(Stop("step", self.session.position))
                return {"result": "", "variablesReference": 0}
        return self._variables.value(text)

    def _on_setExpression(self, arguments: dict[str, Any]) -> Body:
        place = str(arguments["expression"])
        self.session.set(place, self.session.value(str(arguments["value"])))
        return {"value": self._variables.value(place)["result"]}

    def _on_exceptionInfo(self, arguments: dict[str, Any]) -> Body:
        trap = self._last.trap if self._last is not None else None
        if trap is None:
            raise SasError("the machine did not trap")
        return {"exceptionId": trap.kind, "description": trap.detail, "breakMode": "always"}

    def _on_disassemble(self, arguments: dict[str, Any]) -> Body:
        program = self.session.program
        first = (
            int(arguments["memoryReference"], 16)
            + int(arguments.get("offset") or 0)
            + int(arguments.get("instructionOffset") or 0)
        )
        out: list[dict[str, Any]] = []
        for pc in range(first, first + int(arguments["instructionCount"])):
            if 0 <= pc < len(program.code):
                i = look.instruction(self.session, pc)
                symbol = next((n for n, at in program.entries.items() if at == pc), None)
                out.append({"address": hex(pc), "instruction": i.text, "line": self._lines[pc], "location": self._source()})
                if symbol or i.nodes:
                    out[-1]["symbol"] = symbol or ",".join(i.nodes)
            else:
                out.append(
                    {"address": hex(max(pc, 0)) if pc >= 0 else f"-{-pc:#x}", "instruction": "", "presentationHint": "invalid"}
                )
        return {"instructions": out}

    def _memory(self, arguments: Mapping[str, Any]) -> tuple[str, int, Any]:
        """Memory, first byte, all its bytes."""
        name, _, address = str(arguments["memoryReference"]).partition(":")
        state = self.session.it.state
        memories = {"buf": (state.buffer, 1), "acc": (state.accumulators.view(np.uint8), 4), "host": (state.host, 1)}
        if name not in memories:
            raise SasError(f"there is no memory {name!r}", hint="buf:ADDRESS, acc:WORD, host:ADDRESS")
        memory, unit = memories[name]
        return name, int(address or 0) * unit + int(arguments.get("offset") or 0), memory

    def _on_readMemory(self, arguments: dict[str, Any]) -> Body:
        name, first, memory = self._memory(arguments)
        count = int(arguments["count"])
        data = bytes(memory[max(0, first) : max(0, first + count)]) if first >= 0 else b""
        return {"address": f"{name}:{first}", "data": base64.b64encode(data).decode(), "unreadableBytes": count - len(data)}

    def _on_writeMemory(self, arguments: dict[str, Any]) -> Body:
        name, first, _ = self._memory(arguments)
        data = base64.b64decode(str(arguments["data"]))
        if name == "acc":
            raise SasError("accumulators are written by setExpression")
        self.session.set(f"{name}[{first}:{first + len(data)}]", np.frombuffer(data, np.uint8).astype(np.int64))
        return {"bytesWritten": len(data)}
