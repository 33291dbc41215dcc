"""What the site adds while it is built: pages and tables that are generated from the code."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sasimc.cli import manual
from sasimc.evaluation.machine_notes import machine_table

TABLES = {"<!-- machine fields -->": machine_table}
"""What stands in a page where a generated table belongs."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The reference of the commands, from the applications themselves."""
    files.append(File.generated(config, "reference/cli.md", content=manual.manual()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put generated tables in their places."""
    for mark, table in TABLES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, table())
    return markdown
