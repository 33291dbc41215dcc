"""What the site adds while it is built: pages and tables that are generated from the code, and how tables are set."""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sasimc.cli import manual
from sasimc.debug.prompt import command_table
from sasimc.evaluation.machine_notes import machine_table

TABLES = {"<!-- machine fields -->": machine_table, "<!-- debugger commands -->": command_table}
"""What stands in a page where a generated table belongs."""

_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_NUMBER = re.compile(r"[-+±~x<]?\s*\d[\d,. ]*([eE][-+]?\d+)?( ± [\d.]+)?( \(\d\))?( [%GMkx])?|-|")
_ROLE = re.compile(r":(?:class|meth|func|mod|attr):<code>~?")
_LONG_CODE = re.compile(r"<code>(?=[^<]{45})")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The reference of the commands, from the applications themselves."""
    files.append(File.generated(config, "reference/cli.md", content=manual.manual()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put generated tables in their places; columns of numbers are aligned to the right."""
    for mark, table in TABLES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, table())
    return _TABLE.sub(lambda found: _align(found[0]), markdown)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Long pieces of code may be broken in a table, names may not (site.css); roles of docstrings become plain code."""
    return _LONG_CODE.sub('<code class="long">', _ROLE.sub("<code>", html))


def _align(table: str) -> str:
    lines = table.splitlines()
    if len(lines) < 3 or not re.fullmatch(r"\|(-+\|)+", lines[1]):
        return table
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    columns = lines[1].count("|") - 1
    for number in range(columns):
        cells = [row[number].strip() for row in rows if number < len(row)]
        if any(c not in ("", "-") for c in cells) and all(_NUMBER.fullmatch(c) for c in cells):
            rule = lines[1].split("|")
            rule[number + 1] = "---:"
            lines[1] = "|".join(rule)
    return "\n".join(lines) + "\n"
