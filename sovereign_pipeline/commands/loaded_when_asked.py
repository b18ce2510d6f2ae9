"""A program whose groups of commands are imported when they are called: `adapters list` needs no detector of names.

What belongs here: finding a command in its module. What does not: which commands there are (`cli.py`).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group


class LoadedWhenAsked(TyperGroup):
    """Has the commands of `elsewhere` besides its own: name -> the module in which it has this name."""

    elsewhere: Mapping[str, str] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, in alphabetical order within own and others."""
        self.load_all()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One command; only its module is imported."""
        if cmd_name in self.elsewhere and cmd_name not in self.commands:
            self.add_command(_command_in(self.elsewhere[cmd_name], cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def load_all(self) -> None:
        """Import every module; the commands are then in the order of the table, with their own at the end."""
        own = dict(self.commands)
        others = {name: own[name] if name in own else _command_in(at, name) for name, at in self.elsewhere.items()}
        self.commands = {**others, **own}


def _command_in(module: str, name: str) -> Any:
    """The group or the function of this name, as a command."""
    found = getattr(import_module(module), name)
    if isinstance(found, typer.Typer):
        command: Any = get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command()(found)
        command = get_command(alone)
    command.name = name
    return command
