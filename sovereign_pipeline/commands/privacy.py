"""`sovereign privacy`: seeing what scrubbing does with a line's rows.

Text is printed to whoever asks, on this terminal, and goes nowhere else.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.commands.terminal import AsJson, LineName, out, print_json, print_rows
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.spans import AUTHOR
from sovereign_pipeline.workplace import open_workplace

if TYPE_CHECKING:
    from sovereign_pipeline.privacy.preview import PreviewedField, PreviewedRow
    from sovereign_pipeline.record.stage import Workplace

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
    judge: Annotated[
        str | None, typer.Option(help="Name of whoever judges the rows: each is asked about, and the counts are kept.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows of a line before and after scrubbing, what was found in them, and why.

    The rows are those of the line's classified corpus. Each is scrubbed with its case file, as in a run. Prints
    personal data: use it where the corpus itself may be read. Without --judge, nothing is stored; with it, how many
    values were replaced rightly, wrongly and missed, by row id and kind, beside the scrubbed corpus.
    """
    from sovereign_pipeline.privacy.preview import preview

    if judge is not None and (as_json or not judge.strip()):
        raise InputError("--judge asks a person about each row.", "Give the person's name, and no --json.")
    if judge is not None and row:
        raise InputError("A judged sample is drawn by --seed, not chosen.", "Leave --row out.")

    workplace = open_workplace(Settings.from_environment(), line, with_corpus=lambda line: True)
    shown = preview(workplace, rows, seed, row or ())
    if judge is not None:
        _judge(workplace, shown, judge.strip(), seed)
        return
    if as_json:
        print_json([asdict(each) for each in shown])
        return
    for each in shown:
        _print_row(each)


def _judge(workplace: "Workplace", shown: "list[PreviewedRow]", judge: str, seed: int) -> None:
    """Ask about each row. What was answered before an end of input is kept."""
    from sovereign_pipeline.privacy.preview import (
        Judgement,
        assert_shown_as_stored,
        estimate_of,
        judged_row,
        read_judgements,
        record_judgement,
        told,
    )

    line = workplace.line.line
    scrubbed = workplace.store.current(line, "scrubbed_corpus")
    if scrubbed is None:
        raise InputError(
            f"Line {line} has no scrubbed corpus yet.", f"Run `sovereign run {line} --until scrubbed_corpus` first."
        )
    assert_shown_as_stored(workplace, scrubbed, shown)
    judged = []
    for number, each in enumerate(shown, start=1):
        _print_row(each)
        out.print(f"[dim]row {number} of {len(shown)}; 'stop' keeps what was answered so far[/]")
        known = {name for place, found in each.places for name in (place, found.placeholder)}
        wrong = _asked("Placeholders, or single places of one, that replaced what is no personal data", known)
        if wrong is None:
            break
        missed = _asked("Kinds of personal data that are still there, one for each value", set(KINDS))
        if missed is None:
            break
        judged.append(judged_row(each, wrong, [kind for kind in KINDS for name in missed if name == kind]))
    if not judged:
        out.print("Nothing was judged, and nothing is kept.")
        return
    record_judgement(workplace, scrubbed, Judgement(judge=judge, seed=seed, rows=tuple(judged)))
    estimate = estimate_of(read_judgements(workplace, scrubbed.digest))
    of_kinds: list[tuple[str, list[Kind] | None]] = [(kind, [kind]) for kind in estimate.kinds]
    table = [
        {"kind": name, "precision": told(estimate.precision(kinds)), "recall": told(estimate.recall(kinds))}
        for name, kinds in [*of_kinds, ("all", None)]
    ]
    print_rows(table, False, f"{estimate.judged} replaced values in {estimate.rows} rows, as people judged them")


def _asked(question: str, known: set[str]) -> list[str] | None:
    """The words of an answer, which are among the known ones; none is an answer too. None for `stop`."""
    while True:
        try:
            answer: str = typer.prompt(f"{question} (Enter: none)", default="", show_default=False)
        except typer.Abort:  # the end of input, or Ctrl-C
            return None
        words = answer.replace(",", " ").upper().split()
        if words == ["STOP"]:
            return None
        unknown = [word for word in words if word not in known]
        if not unknown:
            return words
        out.print(
            f"[red]•[/] not one of them: {escape(and_more(unknown))}. Known: {', '.join(sorted(known)) or 'none'}"
        )


def _print_row(each: "PreviewedRow") -> None:
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
    places = iter(each.places)
    found = [
        {
            "field": field.name,
            "placeholder": finding.placeholder if field.name == AUTHOR else next(places)[0],
            "found by": finding.why,
        }
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
