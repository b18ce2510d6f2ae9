"""How every program of this package prints what went wrong: `sovereign`, `sovereign-vault` and those to come.

What belongs here: the layout of a message on standard error. What does not: the command that would help, which only
`sovereign` knows (`commands/remedies.py`).
"""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape


def print_message(message: str, advice: Mapping[str, str]) -> None:
    """Print what went wrong and what puts it right, each on a line of its own.

    Args:
        advice: by its label, such as `Hint`.
    """
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(f"[bold red]✗[/] {escape(message)}")
    for label, text in advice.items():
        err.print(f"  [bold]{label}:[/] {escape(text)}")
