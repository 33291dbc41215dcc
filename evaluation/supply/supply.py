"""A power supply: what is harvested, what stores it, what waking up costs. A TOML file of quantities (:class:`~sasimc.evaluation.quantity.Quantity`).

Shipped: ``constant``, ``duty``, ``solar``, ``rf``, ``vibration``. Another supply is another file; its trace may be one of these forms or a CSV file
of measured power.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sasimc.evaluation.quantity import Measured, Quantity
from sasimc.isa.choices import SUPPLIES
from sasimc.isa.described import Source, parse_toml, read_source, validate
from sasimc.isa.errors import SasError, near

__all__ = ["Supply", "load_supply"]


class Supply(Measured):
    """Harvester, storage and start of a device that has no other power.

    ``trace``: the form of the power over time (:mod:`~sasimc.evaluation.supply.trace`), a shipped name or a CSV file beside this one (seconds, watts);
    ``power``: its mean; ``period``: its length; ``share``: the part of the time that has power. The device wakes when ``storage`` is filled to
    ``wake_level``, and is cut off when it is empty; with the ``policy`` ``wait`` it sleeps before a step that may not fit, as far as it knows the step
    from before. ``journal``: what keeping a bit of the host's memory costs, so that a step that was cut
    off can be undone.
    """

    UNITS: ClassVar[dict[str, str]] = {
        "power": "W", "period": "s", "share": "1", "storage": "J", "wake_level": "1", "efficiency": "1", "storage_leakage": "W", "wake_energy": "J",
        "wake_time": "s", "journal": "J/bit",
    }  # fmt: skip

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
    description: Annotated[str, Field(max_length=400)] = ""
    trace: Annotated[str, Field(max_length=200)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    policy: Literal["run", "wait"] = "run"
    power: Quantity
    period: Quantity
    share: Quantity
    storage: Quantity
    wake_level: Quantity
    efficiency: Quantity
    storage_leakage: Quantity
    wake_energy: Quantity
    wake_time: Quantity
    journal: Quantity

    @model_validator(mode="after")
    def _possible(self) -> Supply:
        if self.trace not in SUPPLIES and not self.trace.endswith(".csv"):
            raise ValueError(f"trace is {self.trace!r}, not one of {', '.join(SUPPLIES)} or a .csv file")
        for name in ("power", "period", "storage"):
            if getattr(self, name).value <= 0:
                raise ValueError(f"{name} is 0")
        for name in ("share", "wake_level", "efficiency"):
            if not 0 < getattr(self, name).si <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not above 0 and at most 1")
        if self.wake_energy.si >= self.storage.si * self.wake_level.si:
            raise ValueError(f"wake_energy ({self.wake_energy}) takes all that wake_level of storage ({self.storage}) holds")
        return self


def load_supply(source: str | Path) -> Supply:
    """Read and validate a supply: a shipped name or a TOML file.

    Raises:
        SasError: unknown name, unreadable file, syntax, unknown, missing or impossible fields (all of them are listed).
    """
    name, path = str(source), Path(source)
    if name in SUPPLIES:
        text = Source(
            f"{name}.toml", resources.files("sasimc.evaluation.supply").joinpath(f"{name}.toml").read_text(encoding="utf-8")
        )
    elif path.suffix or path.exists():
        text = read_source(path, "supply file")
    else:
        raise SasError(
            f"no power supply is called {name!r}",
            hint=near(name, SUPPLIES) or f"shipped: {', '.join(SUPPLIES)}; or give a .toml file",
        )
    supply = validate(Supply, parse_toml(text), [text], "supply", "a shipped file, for instance rf.toml, has every field")
    if supply.trace.endswith(".csv"):
        supply = supply.model_copy(update={"trace": str(path.parent / supply.trace)})
    return supply
