"""``sasc lsp``: the language server for editors."""

from __future__ import annotations

import gc
import os
import sys

from sasimc.cli import options
from sasimc.cli.common import command
from sasimc.isa.errors import SasError

__all__ = ["lsp"]


@command("lsp")
@options.isa
def lsp() -> None:
    """Serve an editor: diagnostics, hover, completion, rename, cycles beside the lines.

    Speaks the Language Server Protocol on standard input and output; an editor starts it. docs/how-to/editor.md says how to set up
    VS Code, Neovim and Emacs."""
    try:
        from sasimc.lsp.server import create
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.split(".")[0] in ("pygls", "lsprotocol"):
            raise SasError("the language server needs pygls", hint="pip install 'sas-imc[editor]'") from None
        raise
    sys.setswitchinterval(0.001)  # a check behind must not make an answer wait
    gc.set_threshold(100_000)  # a long text is a hundred thousand small objects that stay
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:  # the server closes what it writes to
        create().start_io(sys.stdin.buffer, out)
