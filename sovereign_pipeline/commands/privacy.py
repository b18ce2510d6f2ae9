"""`sovereign privacy`: seeing what scrubbing does with a line's rows.

Text is printed to whoever asks, on this terminal, and goes nowhere else.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from sovereign_pipeline.commands.terminal import AsJson, LineName, out, print_json, print_rows
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.workplace import open_workplace

if TYPE_CHECKING:
    from sovereign_pipeline.privacy.preview import PreviewedField

privacy = typer.Typer(no_args_is_help=True, help="See what scrubbing does with rows of a line.")

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


@privacy.callback()
def group() -> None:
    """See what scrubbing does with rows of a line."""


@privacy.command("preview")
def privacy_preview(
    line: LineName,
    rows: Annotated[int, typer.Option(min=1, help="How many rows are drawn.")] = 5,
    seed: Annotated[int, typer.Option(help="Draws them; another seed, other rows.")] = 7,
    row: Annotated[list[str] | None, typer.Option(help="Show this row instead; may be given again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows of a line before and after scrubbing, what was found in them, and why.

    The rows are those of the line's classified corpus. Each is scrubbed with its case file, as in a run. Nothing is
    stored. Prints personal data: use it where the corpus itself may be read.
    """
    from sovereign_pipeline.privacy.preview import preview

    workplace = open_workplace(Settings.from_environment(), line, with_corpus=lambda line: True)
    shown = preview(workplace, rows, seed, row or ())
    if as_json:
        print_json([asdict(each) for each in shown])
        return
    for each in shown:
        out.rule(f"{escape(each.id)} · {escape(each.case)}", align="left")
        for field in each.fields:
            spans = [(found.start, found.end, found.kind) for found in field.replaced]
            out.print(f"[bold]{field.name}[/]")
            out.print(_coloured(field.before, spans))
            if field.replaced:
                out.print("[dim]becomes[/]")
                out.print(_coloured(field.after, _placed(field)))
            for kind in field.doubted:
                out.print(f"[red]•[/] a second reading still finds a value of kind {kind}")
        found = [
            {"field": field.name, "placeholder": finding.placeholder, "found by": finding.why}
            for field in each.fields
            for finding in field.replaced
        ]
        print_rows(found, False, "Replaced")


def _placed(field: "PreviewedField") -> list[tuple[int, int, Kind]]:
    """Where the placeholders stand in the text that came out."""
    places: list[tuple[int, int, Kind]] = []
    position = 0
    for found in field.replaced:
        start = field.after.index(found.placeholder, position)
        position = start + len(found.placeholder)
        places.append((start, position, found.kind))
    return places


def _coloured(text: str, spans: list[tuple[int, int, Kind]]) -> Text:
    shown = Text(text)
    for start, end, kind in spans:
        shown.stylize(f"bold {COLOURS[KINDS.index(kind) % len(COLOURS)]}", start, end)
    return shown
