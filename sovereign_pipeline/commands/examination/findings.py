"""What an examination found: one line each, with its remedy.

What belongs here: the form. What does not: any examination.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.markup import escape

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.commands.terminal import advice_of, out, print_json


@dataclass(frozen=True)
class Finding:
    """One thing that an installation needs."""

    what: str
    ok: bool
    found: str

    advice: Mapping[str, str] = field(default_factory=dict)
    """What puts it right, by its label, such as `Hint`."""


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Print a line for each finding, and below it what puts it right."""
    if as_json:
        print_json([asdict(each) for each in findings])
        return
    for each in findings:
        out.print(f"{'[green]✓[/]' if each.ok else '[red]✗[/]'} {escape(each.what)}: {escape(each.found)}")
        for label, advice in each.advice.items():
            out.print(f"  [bold]{label}:[/] {escape(advice)}")


def failed(what: str, error: SovereignError) -> Finding:
    return Finding(what, False, error.message, advice_of(error))


def wrong(what: str, found: str, hint: str, command: str | None = None) -> Finding:
    """Something that is not as it must be."""
    return Finding(what, False, found, {"Hint": hint} | ({"Command": command} if command is not None else {}))
