"""What a client sees as variables: registers, operands, views, matrices, counters; opened piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from sasimc.debug import look, tell
from sasimc.debug.session import Session
from sasimc.isa.errors import SasError
from sasimc.isa.objects import Matrix, View
from sasimc.isa.spec import MatField, Reg, ViewField

__all__ = ["Variables"]

_MOST: Final = 512
Variable = dict[str, Any]


class Variables:
    """Variables by reference number, valid until the machine moves (:meth:`forget`)."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._made: list[Callable[[], Iterator[Variable]]] = []

    def forget(self) -> None:
        """The machine moves: references end."""
        self._made.clear()

    def _reference(self, make: Callable[[], Iterator[Variable]]) -> int:
        self._made.append(make)
        return len(self._made)

    def of(self, reference: int) -> list[Variable]:
        """The variables behind a reference. Raises SasError for one that has ended."""
        if not 1 <= reference <= len(self._made):
            raise SasError(f"there are no variables {reference} any more")
        return list(self._made[reference - 1]())

    def scopes(self) -> list[dict[str, Any]]:
        """The groups of variables."""
        groups = {
            "Operands": self._operands, "Registers": self._registers, "Counters": self._counters, "Views": self._views, "Matrices": self._matrices,
        }  # fmt: skip
        return [
            {"name": name, "variablesReference": self._reference(make), "expensive": name in ("Views", "Matrices")}
            for name, make in groups.items()
        ]

    # ------------------------------------------------------------------------------------------------------------- groups

    def _registers(self) -> Iterator[Variable]:
        names = {register: name for name, register in self.session.program.params.items()}
        for number, value in enumerate(self.session.it.regs):
            name = f"r{number}"
            shown = f"{value} ({names[number]})" if number in names else str(value)
            yield {"name": name, "value": shown, "evaluateName": name, "variablesReference": 0}

    def _counters(self) -> Iterator[Variable]:
        s, p = self.session, self.session.position
        shown: dict[str, Any] = {"time": p.time, "run": p.title, "phase": p.phase, "cycles": p.cycles}
        if s.price is not None:
            shown["energy"] = f"{s.energy:.4g} J"
        shown |= {event: n for event, n in s.it.events.items() if n}
        for name, value in shown.items():
            known = name not in ("run", "phase")
            yield {"name": name, "value": str(value), "variablesReference": 0, **({"evaluateName": name} if known else {})}

    def _operands(self) -> Iterator[Variable]:
        pc, program = self.session.pc, self.session.program
        if pc is None or pc >= len(program.code):
            return
        o = program.resolve(program.code[pc])
        for f in program.code[pc].spec.fields:
            value = getattr(o, f.name)
            if isinstance(f, ViewField):
                yield self._view(value, f"{f.name}: {value.name}")
            elif isinstance(f, MatField):
                yield self._matrix(value, f"{f.name}: {value.name}")
            elif isinstance(f, Reg):
                yield {"name": f"{f.name}: r{value}", "value": str(self.session.it.regs[value]), "variablesReference": 0}

    def _views(self) -> Iterator[Variable]:
        return (self._view(v, v.name) for v in self.session.program.views.values())

    def _matrices(self) -> Iterator[Variable]:
        return (self._matrix(m, m.name) for m in self.session.program.matrices.values())

    # ------------------------------------------------------------------------------------------------------------- arrays

    def _view(self, v: View, name: str) -> Variable:
        def rows() -> Iterator[Variable]:
            values = look.tensor(self.session, v.name).values
            return self._array(values, f'"{v.name}"', ())

        kind = f"{v.space} {v.dtype} {'x'.join(map(str, v.shape))}"
        return {
            "name": name, "value": kind, "type": kind, "evaluateName": f'"{v.name}"', "variablesReference": self._reference(rows),
            "indexedVariables": v.height, "memoryReference": f"{v.space}:{v.addr}",
        }  # fmt: skip

    def _matrix(self, m: Matrix, name: str) -> Variable:
        def rows() -> Iterator[Variable]:
            return self._array(self.session.it.read_matrix(m.name), f'"{m.name}"', ())

        kind = f"{m.kind} {m.array} {m.k}x{m.n}"
        return {
            "name": name, "value": kind, "type": kind, "evaluateName": f'"{m.name}"', "variablesReference": self._reference(rows),
            "indexedVariables": m.k,
        }  # fmt: skip

    def _array(self, values: Any, name: str, at: tuple[int, ...]) -> Iterator[Variable]:
        for index, part in enumerate(values[:_MOST]):
            key = (*at, index)
            place = f"{name}[{', '.join(map(str, key))}]"
            reference = self._reference(lambda part=part, key=key: self._array(part, name, key)) if np.ndim(part) else 0
            shown = tell.value_text(part) if np.size(part) <= 16 else f"{part.dtype} {'x'.join(map(str, part.shape))}"
            yield {"name": f"[{index}]", "value": " ".join(shown.split()), "evaluateName": place, "variablesReference": reference}

    def value(self, expression: str) -> Variable:
        """An expression as the answer to `evaluate`."""
        value = self.session.value(expression)
        shown = " ".join(tell.value_text(value).split())
        reference = self._reference(lambda: self._array(value, expression, ())) if np.ndim(value) else 0
        return {"result": shown, "variablesReference": reference}
