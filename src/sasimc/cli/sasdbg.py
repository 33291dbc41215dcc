"""``sasdbg``: debug a program forwards and backwards."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sasimc.cli import options
from sasimc.cli.common import EXIT_FAILED, command, require_writable, run_app
from sasimc.cli.options import AtLeast, Choice, File, option
from sasimc.cli.progress import progress
from sasimc.cli.tables import say
from sasimc.isa.errors import SasError

if TYPE_CHECKING:
    from sasimc.cli.launch import Launch
    from sasimc.debug.difference import FirstDifference
    from sasimc.debug.prompt import Prompt
    from sasimc.debug.session import Session

__all__ = ["app", "main"]

_PROMPT = "(sasdbg) "


@command("sasdbg")
@options.program
@options.inputs("What to debug")
@option("--train", section="What to debug", metavar="DATASET", help="Data set to train on, step by step.")
@option(
    "--at-step",
    section="What to debug",
    type=AtLeast(1),
    default=1,
    help="Training step to stand before; earlier ones stay reachable.",
)
@option(
    "--entry",
    "entries",
    section="What to debug",
    metavar="NAME",
    multiple=True,
    help="Entry point to run (may be repeated: one after the other).",
)
@option(
    "--set", "settings", section="What to debug", metavar="NAME=VALUE", multiple=True,
    help="Before the run: r1=3, or a named register; VIEW=FILE.npy, VIEW=1,2,3; MATRIX=FILE.npy.",
)  # fmt: skip
@option(
    "--against", section="First difference", metavar="WHAT",
    help="Stop where the run first differs from onnxruntime, an engine, another program of the same network, a machine, or a recorded run.",
)  # fmt: skip
@option("--model", section="First difference", type=File(), help="The network's ONNX file, for onnxruntime and machines.")
@option(
    "--record",
    section="First difference",
    type=File(),
    help="Run to the end and record what every instruction writes; --against reads it.",
)
@option(
    "--dap", section="Commands", is_flag=True, help="Serve an editor: the Debug Adapter Protocol on standard input and output."
)
@option("-x", "scripts", section="Commands", type=File(), multiple=True, help="File of commands to execute (may be repeated).")
@option(
    "-e",
    "commands",
    section="Commands",
    metavar="COMMAND",
    multiple=True,
    help="Command to execute after these (may be repeated).",
)
@option("--tui", section="Commands", is_flag=True, help="Terminal interface: code, tensors, sub-arrays, counters side by side.")
@option("--no-prompt", section="Commands", is_flag=True, help="Leave after the commands, also on a terminal.")
@options.data_folder
@option(
    "--recipe", section="Training", type=Choice("sasimc.isa.choices:shipped_recipes", "FILE"), show_default="default",
    help="Recipe of the training.",
)  # fmt: skip
@option("--limit", section="Training", type=AtLeast(1), help="Use at most this many training images.")
@options.seed("Seed of image order and augmentation.", "Training", None, show_default="the recipe's")
@option("--image", section="Device", type=File(), help="Device image (.sas) whose weights are used; nothing is written to it.")
@option("--task", section="Device", metavar="NAME", show_default="the only one", help="Task of the device image.")
@options.engine("bitserial", "Engine of the simulator. On `step`, word lines and input bits can be watched.")
@options.threads
@option(
    "--history",
    section="Execution",
    type=AtLeast(1),
    default=256,
    metavar="MEGABYTES",
    help="Memory for checkpoints, from which going back begins.",
)
@options.technology("sas")
@options.isa
@options.version
@options.completion
def app(
    program: Path | None, inputs: tuple[Path, ...], train: str | None, at_step: int, entries: tuple[str, ...], settings: tuple[str, ...],
    against: str | None, model: Path | None, record: Path | None, dap: bool, scripts: tuple[Path, ...], commands: tuple[str, ...],
    tui: bool, no_prompt: bool, data: Path | None, recipe: str | None, limit: int | None, seed: int | None, image: Path | None, task: str | None,
    engine: str, threads: int | None, history: int, technology: str,
) -> int:  # fmt: skip
    """Debug a program: run it forwards and backwards, stop at lines, nodes and conditions, watch bytes and cells, look at tensors and sub-arrays.

    Commands come from the terminal, from files (-x), from -e, or from a pipe; `help` lists them.

    \b
    sasdbg prog.s --input flower.jpg -e 'break features.1.conv.1' -e continue -e where
    sasdbg prog.s --train flowers --at-step 3
    sasdbg mine.s --entry main --set r1=4 -x commands.txt
    sasdbg prog.s --input flower.jpg --against onnxruntime --model model.onnx
    """
    from sasimc.cli.launch import Launch, compare, open_session
    from sasimc.debug.difference import difference_lines
    from sasimc.debug.prompt import Prompt
    from sasimc.debug.stream import write_record

    if tui and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SasError("--tui needs a terminal", hint="scripts and pipes talk to the prompt: leave --tui out")
    require_writable(record)
    if model is not None and not model.exists():
        raise SasError(f"there is no file {model}", hint="--model names the ONNX file the program was compiled from")
    changes = {name: value for name, value in (("limit", limit), ("seed", seed)) if value is not None}
    lines = [line for path in scripts for line in _read(path)] + list(commands)
    asked = Launch(
        program, inputs, train, at_step, entries, settings, engine, threads, history * 1_000_000, data, recipe, changes, image, task, technology,
    )  # fmt: skip
    if dap:
        _serve(asked, model)
        return 0
    session = open_session(asked)
    comparing = partial(compare, session, model=model)
    prompt = Prompt(session, _say, comparing)
    found = None
    with _interruptible(session):
        if record is not None:
            with progress("recording"):
                count = write_record(session, record)
            _say(f"wrote {record}: {count} instructions")
            session.restart()
        if against is not None:
            with progress(f"comparing with {against}"):
                found = comparing(against)
            for text in difference_lines(session, against, found):
                _say(text)
        if lines:
            prompt.run(lines)
        elif not (sys.stdin.isatty() or record or against):
            prompt.run(line.rstrip("\n") for line in sys.stdin)
        if tui and not prompt.quit:
            _show(session, comparing)
        elif sys.stdin.isatty() and not no_prompt and not prompt.quit:
            _converse(prompt)
    return EXIT_FAILED if found is not None else 0


def _show(session: Session, comparing: Callable[[str], FirstDifference | None]) -> None:
    """The terminal interface."""
    try:
        from sasimc.debug.terminal.app import Terminal
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.split(".")[0] == "textual":
            raise SasError("the terminal interface needs textual", hint="pip install 'sas-imc[debug]'") from None
        raise
    Terminal(session, comparing).run()


def _serve(asked: Launch, model: Path | None) -> None:
    """Speak the protocol on standard input and output; whatever else would print there goes to standard error."""
    from sasimc.cli.launch import compare, launch_of, open_session
    from sasimc.debug.dap.adapter import Adapter
    from sasimc.debug.dap.protocol import Channel

    sink, sys.stdout = sys.stdout.buffer, sys.stderr
    adapter = Adapter(
        Channel(sys.stdin.buffer, sink),
        lambda given: open_session(launch_of(given, asked)),
        lambda session, what: compare(session, what, model),
    )
    adapter.serve()


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SasError(f"cannot read {path}: {getattr(exc, 'strerror', None) or 'this is no text'}") from None


def _say(text: str) -> None:
    print(text, flush=True)


def _converse(prompt: Prompt) -> None:
    """Commands from the terminal, with a history of lines; an error is said, and the session goes on."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input() then edits lines)
    say(f"{prompt.session.program.source}: {len(prompt.session.program.code)} instructions; help lists the commands")
    for text in prompt.stopped(prompt.session.goto(prompt.session.history.time)):
        _say(text)
    while not prompt.quit:
        try:
            prompt.execute(input(_PROMPT))
        except EOFError:
            return
        except SasError as exc:
            print(exc, file=sys.stderr)


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """Within, Ctrl-C stops the machine; a second one before it stands ends the program."""

    def stop(*_: Any) -> None:
        if session.history.interrupted:
            raise KeyboardInterrupt
        session.interrupt()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Entry point of the ``sasdbg`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
