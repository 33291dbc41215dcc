"""The plain prompt: words and abbreviations as in gdb, from a terminal, a script or a pipe. A module for each trade; `commands` has what they share."""

from sasimc.debug.prompt import motion, stops, looking, lists, other  # noqa: F401, I001  (in the order of `help`)
from sasimc.debug.prompt.commands import COMMANDS, Command, Prompt, command_table

__all__ = ["COMMANDS", "Command", "Prompt", "command_table"]
