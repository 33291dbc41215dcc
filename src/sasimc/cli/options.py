"""Options that several commands share, and the types of their values. One word means one thing: it is declared here once."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from sasimc.isa.errors import near
from sasimc.isa.options import options_of

__all__ = ["MACHINE", "AtLeast", "Choice", "File", "Folder", "argument", "circuit", "cluster", "completion", "data_folder", "declared", "engine", "inputs", "interpretation", "isa", "json_file", "learner", "machine", "option", "over", "program", "recipe", "rows", "seed", "technology", "threads", "version", "workers"]  # fmt: skip

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Choice(click.ParamType):
    """One of some words. They are taken from where they are defined, ``module:name`` (a function is called), when they are first needed:
    `--help` of other commands does not import that module. ``other``: what else may be given, for instance a file.
    """

    name = "choice"

    def __init__(self, source: str | tuple[str, ...], other: str = "") -> None:
        self.source, self.other = source, other

    @property
    def words(self) -> tuple[Any, ...]:
        """The words."""
        if isinstance(self.source, tuple):
            return self.source
        found = _found(self.source)
        words: Any = found() if callable(found) else found
        return tuple(words)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(map(str, (*self.words, *([self.other] if self.other else ()))))}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.other:
            return value
        words = {str(word): word for word in self.words}
        if str(value) in words:
            return words[str(value)]
        self.fail(
            f"{value!r} is none of {', '.join(words)}" + (f"; {hint}" if (hint := near(str(value), tuple(words))) else ""),
            param,
            ctx,
        )

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(word) for word in map(str, self.words) if word.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type="file")] if self.other else [])


class AtLeast(click.ParamType):
    """A number that is not too small."""

    def __init__(self, low: int) -> None:
        self.low, self.name = low, "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = click.INT.convert(value, param, ctx)
        if number < self.low:
            self.fail(f"{number}: at least {self.low} is needed", param, ctx)
        return number


class File(click.Path):
    """A file. Whether it can be read or written is said by what reads or writes it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)
        self.name = "file"


class Folder(click.Path):
    """A folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)
        self.name = "folder"


class _Option(click.Option):
    """``section``: heading on the help page. ``of``: ``module:class`` whose field of the same name has the default."""

    def __init__(self, *args: Any, section: str, of: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section, self.of = section, of

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        if not self.of:
            return super().get_default(ctx, call)
        return getattr(_found(self.of), self.name or "")

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)  # click puts defaults that are said in words into parentheses
        return record and (
            record[0],
            re.sub(r"\[default: \((.*)\)", r"[default: \1", record[1]).replace('[default: ""]', "").rstrip(),
        )


class _Argument(click.Argument):
    section = "Arguments"

    def __init__(self, *args: Any, help: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.text = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        words = f"  {self.type.get_metavar(self, ctx)}" if isinstance(self.type, Choice) else ""
        return self.human_readable_name, self.text + words


def option(*names: str, section: str = "Options", **settings: Any) -> Decorator:
    """An option under a heading of the help page."""
    return click.option(*names, cls=_Option, section=section, **settings)


def declared(of: type, name: str, section: str, metavar: str | None = None) -> Decorator:
    """The option that a dataclass of options declares (:mod:`sasimc.isa.options`): words, default and help are its."""
    o = next(o for o in options_of(of) if o.name == name)
    if o.kind is bool:
        return option(o.flag, section=section, is_flag=True, default=o.default, help=f"{o.doc}.")
    kind: Any = Choice(o.words) if o.words else o.kind
    return option(o.flag, section=section, type=kind, default=o.default, multiple=o.many, metavar=metavar, help=f"{o.doc}.")


def learner(f: Callable[..., Any]) -> Callable[..., Any]:
    """What is trained on a backbone: the options that users of `sasc zoo` and `sasc attach` set."""
    from sasimc.zoo.options import LearnerOptions

    for name, section in (
        ("seed", "Weights"),
        ("wiring", "Network"),
        ("rep_gain", "Weights"),
        ("module_weights", "Weights"),
        ("module_scales", "Weights"),
        ("head_init", "Weights"),
        ("headroom", "Calibration"),
    ):
        f = declared(LearnerOptions, name, section)(f)
    return f


def argument(name: str, help: str, **settings: Any) -> Decorator:
    """An argument with its help."""
    return click.argument(name, cls=_Argument, help=help, **settings)


def json_file(what: str = "everything") -> Decorator:
    """``--json FILE``: the machine-readable answer."""
    return option("--json", "json_file", section="Output", type=File(), help=f"Write {what} as JSON.")


MACHINE = Choice("sasimc.isa.machine:shipped_machines", "FILE")
machine = option(
    "--machine",
    section="Machine",
    type=MACHINE,
    show_default="the paper's",
    help="Machine: a shipped one, or a description (TOML).",
)
circuit = option("--circuit", section="Prices", type=File(), show_default="table IV of the paper", help="Circuit figures (TOML).")
interpretation = option(
    "--interpretation", section="Prices", metavar="NAME", show_default="the circuit figures' own",
    help="What the printed energies of the circuit are taken to be for; `sasc energy` lists the interpretations.",
)  # fmt: skip
threads = option("--threads", section="Execution", type=AtLeast(1), show_default="all cores", help="Worker threads.")
cluster = option(
    "--cluster", section="Execution", metavar="ADDRESS", help="Dask scheduler whose workers do the work, as in tcp://host:8786.",
)  # fmt: skip
data_folder = option("--data", section="Data", type=Folder(), show_default="SASIMC_DATA", help="Folder of data sets.")


def workers(without: str) -> Decorator:
    """``--workers N``; ``without`` it (None), in words."""
    return option(
        "--workers",
        section="Execution",
        type=AtLeast(0),
        show_default=without,
        help="Processes of this machine, one thread each; 0: this one alone.",
    )


def _load_isa(ctx: click.Context, param: click.Parameter, files: tuple[Path, ...]) -> None:
    from sasimc.isa.extend import load_instructions

    for file in files if not ctx.resilient_parsing else ():
        load_instructions(file)


program = argument(
    "program", "Program (.s or .bin); default: the embedded small network, compiled now.", type=File(), required=False
)


def inputs(section: str) -> Decorator:
    """Images that are run one after the other."""
    return option(
        "--input",
        "inputs",
        section=section,
        type=File(),
        multiple=True,
        help="Image, .npy or .npz to classify (may be repeated).",
    )


isa = option(
    "--isa", section="Other", type=File(), multiple=True, is_eager=True, expose_value=False, callback=_load_isa,
    help="Python file that declares further instructions (may be repeated).",
)  # fmt: skip


def _show_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import platform

    import sasimc
    from sasimc.runtime.kernels.forms import form

    click.echo(f"{ctx.find_root().info_name} {sasimc.__version__} (sas-imc)")
    click.echo(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    click.echo(f"kernels: {form()}")
    ctx.exit()


def _show_completion(ctx: click.Context, param: click.Parameter, shell: str | None) -> None:
    if not shell or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    root = ctx.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    name = root.info_name or ""
    click.echo(kind(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
    ctx.exit()


version = option(
    "--version", section="Other", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the versions of the program and of Python, and which form of the kernels runs.",
)  # fmt: skip
completion = option(
    "--completion", section="Other", type=Choice(("bash", "zsh", "fish")), is_eager=True, expose_value=False, callback=_show_completion,
    help='Show the script that completes commands and options: eval "$(sasc --completion bash)".',
)  # fmt: skip


def technology(
    default: str | None, section: str = "Prices", name: str = "--technology", what: str = "Memory technology."
) -> Decorator:
    """``--technology``; default None: the one that the run's report names."""
    kind = Choice("sasimc.isa.choices:TECHNOLOGIES", "FILE")
    return option(name, section=section, type=kind, default=default, show_default=default or "the run's", help=what)


def engine(default: str, what: str = "Engine of the simulator. All three agree bit for bit.") -> Decorator:
    """``--engine``."""
    return option("--engine", section="Execution", type=Choice("sasimc.isa.choices:ENGINES"), default=default, help=what)


def seed(what: str, section: str = "Options", default: int | None = 0, **settings: Any) -> Decorator:
    """``--seed``."""
    return option("--seed", section=section, type=AtLeast(0), default=default, help=what, **settings)


def rows(what: str) -> Decorator:
    """``--rows``: how long a table gets."""
    return option("--rows", section="Output", type=AtLeast(0), default=20, help=f"{what}; 0: all.")


recipe = option(
    "--recipe", section="Training", type=Choice("sasimc.isa.choices:shipped_recipes", "FILE"), show_default="none",
    help="Recipe whose options are taken where they are not given here.",
)  # fmt: skip


def over(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command: those on the command line, else ``values``, else their defaults."""
    source = click.get_current_context().get_parameter_source
    left_out = {name for name in given if source(name) is not ParameterSource.COMMANDLINE}
    return {**given, **{name: value for name, value in values.items() if name not in given or name in left_out}}
