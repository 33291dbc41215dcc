"""Pieces of HTML that all report pages are made of: cells, tables, tables with bars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from sasimc.evaluation.report.charts import bar
from sasimc.evaluation.report.tables import Cell, Table, shown

__all__ = ["bars", "breakable", "cell", "plain"]


def breakable(name: str) -> str:
    """A name that may be broken after its dots, slashes and underscores."""
    return re.sub(r"([./_:])", r"\1<wbr>", escape(name))


def cell(value: Cell, unit: str, text: str | None = None) -> str:
    if isinstance(value, str):
        return f"<td{' class=long' if len(value) > 30 else ''}>{escape(shown(value, unit))}</td>"
    order = "" if value is None else f' data-v="{value!r}"'
    return f'<td class="n"{order}>{escape(shown(value, unit) if text is None else text)}</td>'


def plain(table: Table, skip: Sequence[str] = (), caption: bool = True) -> str:
    """A table as it is, without the columns named in ``skip``; kinds become badges."""
    keep = [i for i, c in enumerate(table.columns) if c.name not in skip]
    head = "".join(
        f'<th scope="col"{"" if _textual(table, i) else " class=n"}>{escape(table.columns[i].name)}</th>' for i in keep
    )
    rows = "".join("<tr>" + "".join(_kind(row[i]) if table.columns[i].name == "kind" else cell(row[i], table.columns[i].unit) for i in keep) + "</tr>"
                   for row in table.rows)  # fmt: skip
    title = f"<caption>{escape(table.title)}</caption>" if caption else ""
    return f'<div class="scroll"><table class="sortable">{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _textual(table: Table, index: int) -> bool:
    return any(isinstance(row[index], str) for row in table.rows[:20])


def _kind(value: Cell) -> str:
    return f'<td><span class="kind {escape(str(value))}">{escape(str(value))}</span></td>'


def bars(
    table: Table, name: str, value: str, unit: str, colours: Sequence[str], *, share: str = "share", then: Sequence[str] = ()
) -> str:
    """Name, value, bar, share; further columns after them."""
    names, values, shares = table.column(name), table.column(value), table.column(share)
    most = max((float(v) for v in values if isinstance(v, (int, float))), default=0.0)
    rows: list[str] = []
    for i, label in enumerate(names):
        v = float(values[i] or 0)
        rest = "".join(cell(table.column(c)[i], next(k.unit for k in table.columns if k.name == c)) for c in then)
        rows.append(
            f'<tr><th scope="row">{escape(str(label))}</th><td class="n" data-v="{v!r}">{escape(shown(values[i], unit))}</td>'
            f'<td class="bars">{bar([(v, colours[i % len(colours)], "")], most, f"{label}: {shown(values[i], unit)}")}</td>'
            f'<td class="n dim">{shown(shares[i], "share")}</td>{rest}</tr>'
        )
    heads = "".join(f'<th scope="col" class="n">{escape(c)}</th>' for c in then)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll"><table class="sortable"><caption>{escape(table.title)}</caption><thead><tr><th scope="col">{escape(name)}</th>'
        f'<th scope="col" class="n">{escape(value)}</th><th class="bars" scope="col"><span class="vh">bar</span></th><th scope="col" class="n">share</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )
