"""The instruction set: importing this package fills ``sasimc.isa.spec.TABLE``. One class is one instruction, in one place."""

from sasimc.isa.instructions import array, control, movement, periphery

__all__ = ["array", "control", "movement", "periphery"]
