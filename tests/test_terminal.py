"""The terminal interface of the debugger, driven by keys on a screen of 80 x 24; screens are compared with kept ones.

`SASIMC_KEEP_SCREENS=1 pytest tests/test_terminal.py` writes them anew: look at what changed before you commit it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot

from sasimc.cli.launch import Launch, open_session
from sasimc.debug.session import Session
from sasimc.debug.terminal.app import Terminal

SCREENS = Path(__file__).parent / "screens"
PROGRAM = Path(__file__).parents[1] / "examples" / "two_layer.s"
SETTINGS = ("batch=2", "mu=3", "x.host=200,30,10,60,20,220,40,15", "label=0,1")


@pytest.fixture
def session() -> Session:
    return open_session(Launch(program=PROGRAM, entries=("train_step",), settings=SETTINGS))


def text_of(app: Terminal) -> str:
    """The screen as text, from the drawing that textual makes of it."""
    rows: dict[float, list[str]] = {}
    cell = 12.2
    for x, y, words in re.findall(
        r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', app.export_screenshot()
    ):
        line = rows.setdefault(float(y), [])
        column = round(float(x) / cell)
        line += [" "] * (column - len(line))
        line[column:] = unescape(words).replace("\xa0", " ")
    return "\n".join("".join(rows[y]).rstrip() for y in sorted(rows)) + "\n"


def drive(session: Session, *keys: str, size: tuple[int, int] = (80, 24), then: Callable[[Terminal], None] | None = None) -> str:
    """The screen after keys; a word that begins with ':' is typed and entered."""

    async def settle(pilot: Pilot[None], app: Terminal) -> None:
        await pilot.pause()
        while app.busy:
            await pilot.pause(0.02)
        await pilot.pause()

    async def go() -> str:
        app = Terminal(session)
        async with app.run_test(size=size) as pilot:
            await settle(pilot, app)
            for key in keys:
                if len(key) > 1 and key[0] in ":/":
                    await pilot.press({":": "colon", "/": "slash"}[key[0]])
                    await pilot.press(*(c if c.isalnum() else {" ": "space"}.get(c, c) for c in key[1:]), "enter")
                else:
                    await pilot.press(key)
                await settle(pilot, app)
            if then is not None:
                then(app)
            return text_of(app)

    return asyncio.run(go())


def same(name: str, screen: str) -> None:
    path = SCREENS / f"{name}.txt"
    if os.environ.get("SASIMC_KEEP_SCREENS"):
        SCREENS.mkdir(exist_ok=True)
        path.write_text(screen)
    assert screen == path.read_text(), name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("beginning", []),
        ("tensors", ["s"] * 6),
        ("array", [*"sssss", "2"]),
        ("where", ["c", "S", "3"]),
        ("counts", ["c", "4"]),
        ("keys", ["question_mark"]),
        ("prompt", [":watch w1", "c", ":p max(g1)"]),
    ],
)
def test_screens(session: Session, name: str, keys: list[str]) -> None:
    screen = drive(session, *keys)
    lines = screen.split("\n")
    assert len(lines) <= 25
    assert all(len(line) <= 80 for line in lines)
    same(name, screen)


def test_breakpoint_at_the_cursor_and_both_directions(session: Session) -> None:
    def check(app: Terminal) -> None:
        assert session.pc == app.session.pc

    drive(session, "/wupd", "b", "c", then=check)
    (point,) = session.points.values()
    (index,) = point.pcs
    assert session.program.code[index].spec.mnemonic == "wupd"
    assert session.pc == index
    time = session.history.time
    drive(session, "s", "s", "C")
    assert (session.pc, session.history.time) == (index, time)
    drive(session, "r")
    assert session.history.time == 0


def test_a_cell_that_changed_is_white(session: Session) -> None:
    session.add_breakpoint(f"*{next(i for i, x in enumerate(session.program.code) if x.spec.mnemonic == 'wupd')}")
    seen: list[str] = []
    drive(session, "c", "2", "s", then=lambda app: seen.append(app.export_screenshot()))
    assert "#ffffff" in seen[0]


def test_an_error_of_the_prompt_is_said_and_the_session_goes_on(session: Session) -> None:
    assert "there is no command 'nonsense'" in drive(session, ":nonsense", "s")
    assert session.history.time == 1


def test_escape_stops_what_runs() -> None:
    """An endless program: only Esc ends it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.s"
        path.write_text(
            '.sas 1\n.machine "sas28"\n.code\n.entry main\n    loopi 2000000000\n      loopi 2000000000\n        addi r1, r1, 0\n      endl\n    endl\n    halt\n'
        )
        endless = open_session(Launch(program=path))

        async def go() -> None:
            app = Terminal(endless)
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.press("c")
                for _ in range(20):
                    await pilot.pause(0.02)
                assert app.busy
                await pilot.press("escape")
                for _ in range(500):
                    await pilot.pause(0.02)
                    if not app.busy:
                        break
                assert not app.busy
                assert "interrupted" in text_of(app)

        asyncio.run(go())


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (200, 60)])
def test_any_size_of_the_screen(session: Session, size: tuple[int, int]) -> None:
    screen = drive(session, "s", "2", "3", "4", size=size)
    assert max(map(len, screen.split("\n"))) <= size[0]
