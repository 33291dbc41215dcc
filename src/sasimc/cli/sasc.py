"""``sasc``: build, check and compile models; write, check and test programs; price runs; compare with the paper."""

from __future__ import annotations

import click

from sasimc.cli import options
from sasimc.cli.common import Group, run_app

__all__ = ["app", "main"]

_WHERE = {
    "Models": {
        "zoo": "sasimc.cli.zoo:zoo",
        "quantize": "sasimc.cli.network:quantize",
        "attach": "sasimc.cli.network:attach",
        "check": "sasimc.cli.compile:check",
        "compile": "sasimc.cli.compile:compile_command",
        "export": "sasimc.cli.export:export",
    },
    "Programs": {
        "asm": "sasimc.cli.asm:asm",
        "disasm": "sasimc.cli.asm:disasm",
        "lint": "sasimc.cli.asm:lint",
        "test": "sasimc.cli.test:test",
        "fmt": "sasimc.cli.asm:fmt",
        "lsp": "sasimc.cli.lsp:lsp",
    },
    "Runs": {
        "energy": "sasimc.cli.energy:energy",
        "diff": "sasimc.cli.energy:diff",
        "idle": "sasimc.cli.idle:idle",
        "life": "sasimc.cli.life:life",
        "report": "sasimc.cli.report:report",
        "explore": "sasimc.cli.explore:explore",
    },
    "Studies": {
        "study": "sasimc.cli.study:study",
    },
    "Data and devices": {
        "data": "sasimc.cli.data:data",
        "image": "sasimc.cli.image:image",
        "machine": "sasimc.cli.machine:machine",
    },
    "The paper": {
        "mtj": "sasimc.cli.mtj:mtj",
        "operate": "sasimc.cli.operate:operate",
        "paper": "sasimc.cli.paper:paper",
    },
}


@click.command(cls=Group, name="sasc", where=_WHERE)
@options.version
@options.completion
def app() -> None:
    """Build, check and compile models; assemble, check and test programs; price runs; compare with the paper.

    Programs run with `sasrun`.
    """


def main() -> None:
    """Entry point of the ``sasc`` command."""
    run_app(app)


if __name__ == "__main__":
    main()
