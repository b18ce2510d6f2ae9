"""`sovereign sources`: looking at an institution's own files before a recipe describes them, and taking in rated
answers as one of them."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape

from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import AsJson, LineName, err, out, print_json, print_rows
from sovereign_pipeline.corpus.inspection import (
    NOT_UTF8,
    ColumnFacts,
    FileFacts,
    Suggestion,
    compared_columns,
    look_at,
    rows_shown,
    suggest,
)
from sovereign_pipeline.corpus.values import may_be_shown
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.policy.recipe_model import FILL_IN
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.people import People

MOST_SHOWN_VALUES, LONGEST_SHOWN_VALUE, LEAST_REPEATS = 8, 20, 5
"""Values are shown of a column that has few, short ones, each of which stands there often and is a word of states,
levels or languages: any other word may be the name of a person."""
_NAMES_OF_LANGUAGES = re.compile(r"lang(?:uage)?|locale|اللغة", re.IGNORECASE)

sources = typer.Typer(no_args_is_help=True, help="Look at source files, and take in rated answers.")


@sources.callback()
def group() -> None:
    """Look at source files before a recipe describes them, and take in rated answers."""


@sources.command("take-rated")
def sources_take_rated(
    line: LineName,
    file: Annotated[Path, typer.Argument(help="Rows that `sovereign-transcripts preferences` made.")],
    reason: Annotated[str, typer.Option(help="Why these answers are to be trained on; it stands in the ledger.")],
    as_json: AsJson = False,
) -> None:
    """Take in rated answers as a source file of a line, with an entry of the ledger, and print what the recipe needs.

    The line must let answers become preferences, and nothing is trained on them before its recipe names the file.
    """
    # Loads what compares texts.
    from sovereign_pipeline.serving.rated_answers import take_rated

    settings = Settings.from_environment()
    institution = load_institution(settings.data)
    actor = People(settings).commitment_of(account())
    recipe = load_line(settings.data, line, institution)
    taken = take_rated(open_registry(settings), institution, recipe, file, actor, reason)
    if as_json:
        print_json({**asdict(taken), "path": taken.path.as_posix()})
        return
    out.print(f"[green]✓[/] {taken.rows} rows, {escape(taken.classification)} at most: {taken.path.as_posix()}")
    out.print("  To train on them, add to `sources` of the recipe:")
    described = {
        "name": taken.name,
        "role": taken.role,
        "path": taken.path.as_posix(),
        "constants": dict.fromkeys(("author", "department", "subject"), ""),
        "licence": FILL_IN,
        "retention": FILL_IN,
    }
    typer.echo(yaml.safe_dump([described], sort_keys=False, allow_unicode=True), nl=False)


@sources.command("look")
def sources_look(
    file: Annotated[Path, typer.Argument(help="The file: JSONL, JSON, CSV, TSV or Parquet, also packed.")],
    recipe: Annotated[bool, typer.Option("--recipe", help="Print a recipe to start from instead, as YAML.")] = False,
    line: Annotated[str | None, typer.Option(help="With --recipe: name of the line; else the file's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show encoding, dialect, rows and columns of a file, and the links in it; with --recipe, a recipe to start from.

    No letter, name or identifier is shown: only the names of columns, and the values of a column that holds nothing
    but a few known words of levels, languages, labels or states, each of them often.
    """
    settings = Settings.from_environment()
    facts = look_at(file)
    if recipe:
        name = line or re.sub(r"[^a-z0-9]+", "-", file.name.split(".")[0].lower()).strip("-") or "line"
        suites = [each.relative_to(settings.data) for each in sorted((settings.data / "suites").glob("*.jsonl"))]
        prompts = Path("red_team/prompts.jsonl")
        found = prompts if (settings.data / prompts).is_file() else None
        _print_recipe(suggest(facts, _named_path(file, settings), name, load_institution(settings.data), suites, found))
        return
    if as_json:
        print_json(_as_json(facts))
        return
    _print_facts(facts)


def _named_path(file: Path, settings: Settings) -> Path:
    """The path as a recipe names it: relative to the data root where the file lies in it."""
    absolute = file.absolute()
    return absolute.relative_to(settings.data) if absolute.is_relative_to(settings.data) else absolute


def _print_facts(facts: FileFacts) -> None:
    encoding, delimiter = facts.encoding or "UTF-8", f", delimiter {facts.delimiter!r}" if facts.delimiter else ""
    compression = f", {facts.compression}" if facts.compression else ""
    out.print(f"{escape(str(facts.path))}: {facts.format[1:]}{compression}, {encoding}{delimiter}, {facts.rows:,} rows")
    for reason, count in facts.broken.most_common():
        out.print(f"[yellow]•[/] {count:,} cannot be read: {escape(reason)}; {rows_shown(facts, reason)}")
    if NOT_UTF8 in facts.broken and facts.encoding is None:
        out.print("[yellow]•[/] The file is a mixture of encodings: these rows are not UTF-8, and all others are")
    print_rows([_row(column, facts.rows) for column in facts.columns.values()], False, "Columns")
    for each in compared_columns(facts):
        holds = "holds" if each.doubt is None else "may hold"
        doubt = f"; to be decided: {each.doubt}" if each.doubt else ""
        out.print(
            f"  '{escape(each.column)}' {holds} {each.links:,} ids; {each.matched:,} name a row by "
            f"'{escape(each.ids)}', {each.unmatched:,} name none{doubt}"
        )
    out.print(f"  [bold]sovereign sources look {escape(str(facts.path))} --recipe[/] prints a recipe to start from")


def _row(column: ColumnFacts, rows: int) -> dict[str, Any]:
    few = [f"{value} ({times:,})" for value, times in column.values.most_common()]
    is_of_languages = _NAMES_OF_LANGUAGES.fullmatch(column.name.strip()) is not None
    are_all = column.values.total() == column.filled
    are_states = (
        are_all
        and len(few) <= MOST_SHOWN_VALUES
        and column.longest <= LONGEST_SHOWN_VALUE
        and all(times >= LEAST_REPEATS for times in column.values.values())
        and all(may_be_shown(value, of_languages=is_of_languages) for value in column.values)
    )
    return {
        "column": column.name,
        "types": ", ".join(name for name, _ in column.types.most_common())
        + (" (ISO dates)" if column.is_dated else ""),
        "empty": f"{(rows - column.filled) / rows:.0%}",
        "different": f"{len(column.values):,}" if are_all else "",
        "longest": column.longest,
        "values": ", ".join(few) if are_states else "",
    }


def _as_json(facts: FileFacts) -> dict[str, Any]:
    return {
        "path": str(facts.path),
        "format": facts.format,
        "compression": facts.compression,
        "encoding": facts.encoding or "utf-8",
        "delimiter": facts.delimiter,
        "rows": facts.rows,
        "broken": dict(facts.broken),
        "broken_rows": facts.broken_rows,
        "columns": [_row(column, facts.rows) for column in facts.columns.values()],
        "links": [asdict(each) for each in compared_columns(facts)],
    }


def _print_recipe(suggestion: Suggestion) -> None:
    """The recipe on standard output; what a person must look at on standard error and in it, as comments."""
    for note in suggestion.notes:
        typer.echo(f"# {_on_one_line(note)}")
    typer.echo(yaml.safe_dump(suggestion.recipe, sort_keys=False, allow_unicode=True, width=120), nl=False)
    for note in suggestion.notes:
        err.print(f"[yellow]•[/] {escape(_on_one_line(note))}")
    err.print(f"  Read it, and replace each {FILL_IN!r}. Then: sovereign lines add FILE")


def _on_one_line(note: str) -> str:
    """A name of a column may hold line breaks and control characters, which end a comment of YAML or are none of it."""
    return "".join(each if each.isprintable() else " " for each in note)
