"""What the site adds while it is built: the pages that are generated from the code."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sasimc.cli import manual


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The reference of the commands, from the applications themselves."""
    files.append(File.generated(config, "reference/cli.md", content=manual.manual()))
    return files
