"""What a priced run says about the paper's comparisons: which of them can be seen in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sasimc.evaluation.paper.line import printed
from sasimc.evaluation.quantity import format_si

if TYPE_CHECKING:
    from sasimc.evaluation.cost import Cost

__all__ = ["remarks"]

_VISIBLE = 0.01
"""Change of the energy from which on a difference is worth a word."""


def remarks(cost: Cost) -> list[str]:
    """Sentences on the share of cell writes (figure 11) and, where something was learned, of host traffic."""
    out: list[str] = []
    if writes := cost.by_component().get("cell_write", 0.0):
        ratio = printed()["device.stt_over_sas"].value
        change = (ratio - 1) * writes / cost.energy
        seen = "a difference that is seen" if change >= _VISIBLE else "the ratio is invisible at system level"
        out.append(
            f"writing of cells is {writes / cost.energy:.2g} of the energy: {ratio:g} times the energy a write, figure 11's STT / SAS, would change the whole by "
            f"{100 * change:.2g} %; {seen}"
        )
    for entry in cost.entries:
        part = cost.of_entry(entry)
        if part.energy and any(row.phase != "forward" for row in part.run.rows):
            host = part.energy - part.on_chip().energy
            into, out_of = (part.totals.get(e, 0) for e in ("host_bits_in", "host_bits_out"))
            moved = " and ".join(f"{format_si(n / 8, 'B')} {way}" for n, way in ((into, "in"), (out_of, "out")))
            out.append(f"host interface and memory take {100 * host / part.energy:.3g} % of the energy of {entry}: {moved}")
    return out
