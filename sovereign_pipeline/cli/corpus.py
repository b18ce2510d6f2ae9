"""`sovereign sources` and `sovereign privacy`: inspect source files, and preview the scrubbing of rows."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from sovereign_pipeline.base.errors import InputError, SourceError, SovereignError
from sovereign_pipeline.base.settings import Settings, go_offline
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.cli.lines import lines_check
from sovereign_pipeline.cli.terminal import (
    AsJson,
    Group,
    Home,
    LineName,
    Result,
    err,
    on_one_line,
    out,
    print_done,
    print_next,
    print_note,
    print_rows,
    write_new_file,
)
from sovereign_pipeline.corpus.file_formats import WORKBOOKS, format_of, sheets_of
from sovereign_pipeline.corpus.folders import MAIL, format_suffixes, look_at_folder
from sovereign_pipeline.corpus.inspection import (
    NOT_UTF8,
    ColumnFacts,
    FileFacts,
    compared_columns,
    format_rows,
    inspect_file,
)
from sovereign_pipeline.corpus.opening import is_sqlite
from sovereign_pipeline.corpus.suggestion import (
    TERMS,
    Suggestion,
    about_layout,
    about_states,
    format_texts,
    has_letters,
    recipe_with,
    suggest,
)
from sovereign_pipeline.corpus.values import may_be_shown
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.policy.line import LINE_NAME, load_line
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.policy.recipe_model import FILL_IN
from sovereign_pipeline.privacy.names.name_models import files_digest, is_spacy_model, model_files
from sovereign_pipeline.privacy.names.ner import train_own
from sovereign_pipeline.privacy.preview import (
    Judgement,
    PreviewedRow,
    assert_matches_stored,
    estimate_of,
    format_share,
    judged_row,
    preview,
    read_judgements,
    record_judgement,
)
from sovereign_pipeline.privacy.spans import AUTHOR
from sovereign_pipeline.record.officers import pipeline_signer
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.statements import SUFFIX, sign_listed
from sovereign_pipeline.workplace import open_workplace

MOST_SHOWN_VALUES, LONGEST_SHOWN_VALUE, LEAST_REPEATS = 8, 20, 5
"""Limits for showing a column's values: maximum number of distinct values, maximum length, and minimum repetitions.
Each value must also be a known word for a state, level or language, because any other word may be a person's name."""
_NAMES_OF_LANGUAGES = re.compile(r"lang(?:uage)?|locale|اللغة", re.IGNORECASE)

sources = Group(no_args_is_help=True, help="Inspect source files, and import rated answers.")


@sources.callback()
def sources_group() -> None:
    pass


@sources.command("take-rated")
def sources_take_rated(
    home: Home,
    line: LineName,
    file: Annotated[Path, typer.Argument(help="File of rows from `sovereign-transcripts preferences`.")],
    reason: Annotated[str, typer.Option(help="Reason for training on these answers. It is logged in the ledger.")],
) -> Result:
    """Import rated answers as a source file of a line, log the import, and print the section for the recipe.

    The line must permit answers as preferences. Adapters are trained on the answers only after you add the printed
    section to the recipe.
    """
    # loads packages that compare texts
    from sovereign_pipeline.serving.rated_answers import take_rated

    recipe = load_line(home.settings.data, line, home.institution)
    taken = take_rated(home.registry, home.institution, recipe, file, home.actor, reason)

    def show() -> None:
        print_done(f"{taken.rows} rows, highest level {taken.classification}: {taken.path.as_posix()}")
        out.print("  To train on these answers, add this to `sources` in the recipe:")
        described = {
            "name": taken.name,
            "role": taken.role,
            "path": taken.path.as_posix(),
            **({"layout": taken.layout} if taken.layout != "columns" else {}),
            "constants": dict.fromkeys(("author", "department", "subject"), ""),
            "licence": FILL_IN,
            "retention": FILL_IN,
        }
        typer.echo(yaml.safe_dump([described], sort_keys=False, allow_unicode=True), nl=False)

    return Result(taken, show)


@sources.command("snapshot")
def sources_snapshot(home: Home, line: LineName) -> Result:
    """Run the queries of a line's database sources, and write the resulting rows to the Parquet files that the recipe
    names.

    The line reads these files; it does not query the database. If a file changes, the artifacts made from it become
    stale.
    """
    from sovereign_pipeline.corpus.database import take_snapshot  # loads SQLAlchemy

    recipe = load_line(home.settings.data, line, home.institution)
    of_databases = [source for source in recipe.sources if source.kind == "database"]
    if not of_databases:
        raise InputError(f"Line {line} has no source of the kind `database`.", "Add such a source to the recipe.")
    taken = [
        {"source": each.name, "path": str(path := home.settings.data / each.path), "rows": take_snapshot(each, path)}
        for each in of_databases
    ]
    return Result(taken, lambda: print_rows(taken, "Snapshots"))


@sources.command("look")
def sources_look(
    home: Home,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="The file: JSONL, JSON, CSV, TSV or Parquet, optionally compressed; a workbook, an SQLite database or "
            "mail. Or a folder of documents or mail."
        ),
    ] = None,
    recipe: Annotated[bool, typer.Option("--recipe", help="Print a draft recipe as YAML instead.")] = False,
    line: Annotated[
        str | None,
        typer.Option(help="Name of the line: write a draft recipe to lines/NAME.yaml. With --recipe, print it."),
    ] = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a key of the recipe, or of its source, to a YAML value. Without a value, remove the key. "
            "Repeatable.",
        ),
    ] = None,
    header: Annotated[
        bool, typer.Option("--header", help="The first line contains the column names. They are shown in the output.")
    ] = False,
    sheet: Annotated[str | None, typer.Option(help="Sheet to read, if several sheets contain letters.")] = None,
    url_from: Annotated[
        str | None, typer.Option(help="Environment variable with the SQLAlchemy URL of a database, in place of a file.")
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(help="SELECT statement, if no table or several tables of the database contain letters."),
    ] = None,
) -> Result | None:
    """Show encoding, dialect, rows, columns and links of a file. With --line, also write a draft recipe.

    The output contains no text, name or identifier. It contains the column names. If a column only repeats a few known
    words for levels, languages, labels or states, the output also contains these words. The recipe also contains the
    values of a level column with at most 12 different values, each in at least 3 rows.

    The last line of the output is the next command, with a --set for each decision that you must make. A recipe without
    open decisions is checked at once, with the checks of `sovereign lines check`.
    """
    if (file is None) == (url_from is None):
        raise InputError("Exactly one source is needed.", "Give a file, a folder or --url-from.")
    name = file.name.split(".")[0] if file is not None else (url_from or "").lower().removesuffix("_url")
    named = line if line is not None else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "line"
    if not LINE_NAME.fullmatch(named):
        raise InputError(f"--line: '{line}' is not a valid name for a line.", "Use only a-z, 0-9, '-' and '_'.")
    is_written = line is not None and not recipe
    target = home.settings.data / "lines" / f"{named}.yaml"
    if is_written and target.exists():
        raise InputError(f"{target} exists already.", "Edit that file, or give the new line another name.")
    again = ["sovereign", "sources", "look", *([str(file)] if file else []), "--line", named, *["--header"] * header]
    for option, value in (("--sheet", sheet), ("--url-from", url_from), ("--query", query)):
        again += [option, value] if value is not None else []
    given, with_recipe = answers or [], is_written or recipe
    if file is not None and (file.is_dir() or file.suffix.lower() in MAIL):
        look = _look_at_folder(home.settings, file, named, given)
    elif file is not None and not is_sqlite(file):
        look = _look_at_file(home.settings, file, named, given, header, sheet, with_recipe)
    else:
        variable = url_from or f"{re.sub('[^A-Z0-9]+', '_', named.upper())}_URL"
        if file is not None:
            os.environ[variable] = f"sqlite:///{file.absolute()}"
        look = _look_at_database(home.settings, variable, query, named, given, is_written)
    if not with_recipe:
        return Result(look.data, lambda: _print_look(look, again))
    assert look.drafted is not None
    return _drafted(home, look, look.drafted.answered(given), target, named, recipe)


@dataclass
class _Look:
    """The result of `sources look`."""

    data: dict[str, Any]
    subject: str
    """Size of the source, such as "120 rows"."""
    show: Callable[[], None]
    drafted: Suggestion | None
    """A draft recipe without the values of --set; None if there is no institution.yaml."""


def _drafting(settings: Settings) -> tuple[Institution, list[Path], Path | None]:
    """Return the institution, the paths of its suites, and the path of its prompt file or None."""
    suites = [each.relative_to(settings.data) for each in sorted((settings.data / "suites").glob("*.jsonl"))]
    prompts = Path("red_team/prompts.jsonl")
    return load_institution(settings.data), suites, prompts if (settings.data / prompts).is_file() else None


def _look_at_folder(settings: Settings, folder: Path, named: str, answers: Sequence[str]) -> _Look:
    institution, suites, prompts = _drafting(settings)
    facts = look_at_folder(settings, folder, _named_path(folder, settings), institution.ladder, answers)
    drafted = recipe_with(facts.source, facts.more, facts.notes, named, institution, suites, prompts)

    def show() -> None:
        out.print(f"{escape(facts.path)}: {escape(format_suffixes(facts.suffixes))}")
        what = "messages" if facts.source["kind"] == "mail" else "files"
        outcomes = [
            {("reason or rule" if key == "reason" else key): value for key, value in each.items()}
            for each in facts.outcomes
        ]
        print_rows(outcomes, f"Outcomes of {sum(each['files'] for each in facts.outcomes):,} {what}")
        shown = {key: value for key, value in facts.source.items() if FILL_IN not in str(value)}
        out.print("The recipe would have this source:")
        typer.echo(yaml.safe_dump([shown], sort_keys=False, allow_unicode=True, width=120), nl=False)
        for note in drafted.notes:
            print_note(on_one_line(note))

    return _Look(asdict(facts), f"{sum(facts.suffixes.values()):,} files", show, drafted)


def _look_at_file(
    settings: Settings,
    file: Path,
    named: str,
    answers: Sequence[str],
    header: bool,
    sheet: str | None,
    with_recipe: bool,
) -> _Look:
    others = list[str]()
    if sheet is None and format_of(file) in WORKBOOKS and len(sheets := sheets_of(file)) > 1:
        facts, others = _sheet_with_letters(file, sheets, header)
    else:
        facts = inspect_file(file, header, sheet)
    drafted = None
    if with_recipe or (settings.data / "institution.yaml").is_file():
        drafted = suggest(facts, _named_path(file, settings), named, *_drafting(settings), answers)

    def show() -> None:
        _print_facts(facts)
        if others:
            out.print(
                f"  Only '{escape(str(facts.sheet))}' has columns of letters and replies, not "
                f"{escape(', '.join(others))}"
            )

    return _Look(_as_json(facts), f"{facts.rows:,} rows", show, drafted)


def _sheet_with_letters(file: Path, sheets: Sequence[str], header: bool) -> tuple[FileFacts, list[str]]:
    """Return the facts about the only sheet that has columns of letters and replies, and the names of the other
    sheets. Raises InputError if no sheet or several sheets have such columns."""
    found = list[FileFacts]()
    for each in sheets:
        try:
            facts = inspect_file(file, header, each)
        except SourceError:  # a sheet of notes has no header
            continue
        found += [facts] if has_letters(facts) else []
    if len(found) != 1:
        raise InputError(
            f"{file}: {counted(len(found), 'sheet has', 'sheets have')} columns of letters and replies. Sheets: "
            f"{', '.join(sheets)}.",
            "Select a sheet with --sheet.",
        )
    return found[0], [each for each in sheets if each != found[0].sheet]


def _look_at_database(
    settings: Settings, url_from: str, query: str | None, named: str, answers: Sequence[str], is_written: bool
) -> _Look:
    from sovereign_pipeline.corpus.database import tables_in, take_snapshot  # loads SQLAlchemy

    institution, suites, prompts = _drafting(settings)
    kept = settings.data / "sources" / f"{named}.parquet"
    if is_written and kept.exists():
        raise InputError(f"{kept} exists already.", "Remove that file, or give the new line another name.")
    settings.corpus.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=settings.corpus) as directory:
        path = Path(directory, f"{named}.parquet")

        def facts_of(query: str, most: int | None = None) -> FileFacts | None:
            of_kind = {"kind": "database", "url_from": url_from, "query": query}
            source = Source.model_validate({"name": "letters", "path": path, **of_kind, **TERMS})
            return inspect_file(path) if take_snapshot(source, path, most) else None

        others = list[str]()
        if query is None:
            tables = tables_in(url_from)
            found = [
                each
                for each in tables
                if (first := facts_of(tables[each], ROWS_OF_A_TABLE)) is not None and has_letters(first)
            ]
            if len(found) != 1:
                raise InputError(
                    f"{counted(len(found), 'table has', 'tables have')} columns of letters and replies. Tables and "
                    f"views: {', '.join(tables) or 'none'}.",
                    "Write a SELECT statement, and give it with --query.",
                )
            query, others = tables[found[0]], [each for each in tables if each != found[0]]
        facts = facts_of(query)
        if facts is None:
            raise InputError("The statement in --query returned no rows.", "Correct the statement.")
        of_kind = {"kind": "database", "url_from": url_from, "query": query}
        drafted = suggest(facts, _named_path(kept, settings), named, institution, suites, prompts, answers, of_kind)
        if is_written:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, kept)
    drafted = Suggestion(
        drafted.recipe,
        (f"database: `sovereign sources snapshot {named}` reads the rows again, with {url_from}.", *drafted.notes),
    )

    def show() -> None:
        _print_facts(facts, f"Database in {url_from}")
        out.print(f"  Query: {escape(on_one_line(str(query)))}")
        if others:
            out.print(f"  Tables without columns of letters and replies: {escape(', '.join(others))}")

    return _Look(_as_json(facts), f"{facts.rows:,} rows", show, drafted)


ROWS_OF_A_TABLE = 200
"""Number of rows that are read from each table of a database to find columns of letters."""


def _print_look(look: _Look, again: Sequence[str]) -> None:
    look.show()
    every = look.drafted.questions if look.drafted is not None else {}
    questions = {
        key: what for key, what in every.items() if key[:7] != "levels." or may_be_shown(key.removeprefix("levels."))
    }
    if every:
        out.print("Your decisions, for the next command:")
        for key, what in questions.items():
            out.print(f"  [bold]{escape(on_one_line(key))}[/]: {escape(on_one_line(what))}")
        if len(questions) < len(every):
            out.print("  [bold]levels[/]: the column's values, which may be names. Only the recipe shows them")
    print_next(
        shlex.join([*again, *(part for key in questions for part in ("--set", f"{on_one_line(key)}={FILL_IN}"))])
    )


def _drafted(home: Home, look: _Look, drafted: Suggestion, target: Path, named: str, only_print: bool) -> Result | None:
    """Print a draft recipe, or write it to its file. If a written recipe has no key left to fill in, also check it."""
    if only_print:
        typer.echo(_as_yaml(drafted), nl=False)
        _print_notes(drafted, err)
        print_next("sovereign lines check FILE", f"Replace each {FILL_IN!r} in the recipe, then", err)
        return None
    target.parent.mkdir(exist_ok=True)
    write_new_file(target, _as_yaml(drafted))
    check = None
    if not drafted.questions:
        try:
            check = lines_check(home, Path(named))
        except SovereignError:
            target.unlink()  # so that the corrected command can write the file again
            raise

    def show() -> None:
        print_done(f"{target}: a draft recipe for {look.subject}. Its assumptions:")
        _print_notes(drafted, out)
        if check is not None:
            check.print(as_json=False)
        else:
            print_next(f"sovereign lines check {named}", f"Replace each {FILL_IN!r} in {target}, then")

    data = {**look.data, "recipe": str(target), "notes": drafted.notes}
    return Result(data if check is None else {**data, "check": check.data}, show, passed=check is None or check.passed)


def _named_path(file: Path, settings: Settings) -> Path:
    """Return the path by which a recipe names a file: relative for a file below the data root, otherwise absolute."""
    absolute = file.absolute()
    return absolute.relative_to(settings.data) if absolute.is_relative_to(settings.data) else absolute


def _print_facts(facts: FileFacts, database: str = "") -> None:
    about = [facts.format[1:], *([facts.compression] if facts.compression else [])]
    about += [f"sheet '{facts.sheet}'"] if facts.sheet is not None else []
    about += [facts.encoding or "UTF-8"] if facts.format not in (".parquet", *WORKBOOKS) else []
    about += [f"delimiter {facts.delimiter!r}"] if facts.delimiter else []
    name = database or ", ".join([f"{facts.path}: {about[0]}", *about[1:]])
    out.print(escape(on_one_line(f"{name}, {counted(facts.rows, 'row')}")))
    for reason, count in facts.broken.most_common():
        print_note(f"{count:,} cannot be read ({reason}); {format_rows(facts, reason)}")
    if NOT_UTF8 in facts.broken and facts.encoding is None:
        print_note("The file mixes encodings: these rows are not UTF-8, but all other rows are")
    print_rows([_row(column, facts.rows) for column in facts.columns.values()], "Columns")
    for column in facts.columns.values():
        if column.date_formats:
            formats = " and ".join(map(" or ".join, column.date_formats))
            out.print(f"  '{escape(on_one_line(column.name))}' has dates as {escape(formats)}")
        if column.states:
            print_note(on_one_line(about_states(column)))
        if facts.layout is None and column.is_of_texts and column.mean_length > LONGEST_SHOWN_VALUE * 2:
            out.print(f"  '{escape(on_one_line(column.name))}' has {format_texts(column)}")
    for sentence in about_layout(facts):
        out.print(f"  {escape(sentence)}")
    for each in compared_columns(facts):
        holds = "contains" if each.doubt is None else "may contain"
        doubt = f"; please decide: {each.doubt}" if each.doubt else ""
        told = f"'{each.column}' {holds} {each.links:,} ids; {each.matched:,} match a row's '{each.ids}', "
        out.print(f"  {escape(on_one_line(told))}{each.unmatched:,} match none{doubt}")


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
        "dates": {column.name: column.date_formats for column in facts.columns.values() if column.date_formats},
        "states": {column.name: column.states for column in facts.columns.values() if column.states},
        "layout": facts.layout,
        "turns": dict(facts.turns),
        "roles": dict(facts.roles),
        "calls": facts.calls,
        "with_tools": facts.with_tools,
        "links": [asdict(each) for each in compared_columns(facts)],
    }


def _as_yaml(drafted: Suggestion) -> str:
    notes = [f"# {on_one_line(note)}\n" for note in drafted.notes]
    return "".join(notes) + yaml.safe_dump(drafted.recipe, sort_keys=False, allow_unicode=True, width=120)


def _print_notes(drafted: Suggestion, console: Console) -> None:
    for note in drafted.notes:
        print_note(on_one_line(note), console)


privacy = Group(no_args_is_help=True, help="Preview how a line's rows are scrubbed, and train a name detector.")

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


@privacy.callback()
def privacy_group() -> None:
    pass


@privacy.command("preview")
def privacy_preview(
    home: Home,
    line: LineName,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to draw.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the random draw.")] = 7,
    row: Annotated[
        list[str] | None, typer.Option(help="Id of a row to show instead of drawn rows; repeatable.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Your name, to judge each row interactively. The counts are stored.")
    ] = None,
    as_json: AsJson = False,
) -> Result | None:
    """Show rows of a line before and after scrubbing, with every finding and its reason.

    Rows come from the line's classified corpus. As in a run, each row is scrubbed together with the other rows of its
    case. The output contains personal data, so use the command only where the corpus itself may be read. With --judge,
    the numbers of correct, wrong and missed replacements are stored beside the scrubbed corpus, by row id and kind of
    personal data. Otherwise nothing is stored.
    """
    if judge is not None and (as_json or not judge.strip()):
        raise InputError("--judge needs your name, and cannot be combined with --json.", "Correct these options.")
    if judge is not None and row:
        raise InputError("Rows to judge are drawn with --seed and cannot be chosen.", "Leave --row out.")

    workplace = open_workplace(home.settings, line, with_corpus=lambda line: True)
    shown = preview(workplace, rows, seed, row or ())
    if judge is not None:
        _judge(workplace, shown, judge.strip(), seed)
        return None

    def show() -> None:
        for each in shown:
            _print_row(each)

    return Result(shown, show)


def _judge(workplace: Workplace, shown: list[PreviewedRow], judge: str, seed: int) -> None:
    """Ask a person which replacements in each row are wrong or missed, and store the answers. If the person enters
    'stop' or the input ends, the rows judged so far are stored."""
    line = workplace.line.line
    scrubbed = workplace.store.current(line, "scrubbed_corpus")
    if scrubbed is None:
        raise InputError(
            f"Line {line} has no scrubbed corpus yet.", f"Run `sovereign run {line} --until scrubbed_corpus` first."
        )
    assert_matches_stored(workplace, scrubbed, shown)
    judged = []
    for number, each in enumerate(shown, start=1):
        _print_row(each)
        out.print(f"[dim]row {number} of {len(shown)}; enter 'stop' to end; the answers so far are stored[/]")
        known = {name for place, found in each.places for name in (place, found.placeholder)}
        wrong = _asked("Placeholders (or single occurrences of a placeholder) that replaced no personal data", known)
        if wrong is None:
            break
        missed = _asked("Kinds of personal data that were missed, one kind for each missed value", set(KINDS))
        if missed is None:
            break
        judged.append(judged_row(each, wrong, [kind for kind in KINDS for name in missed if name == kind]))
    if not judged:
        out.print("Nothing was judged or stored.")
        return
    record_judgement(workplace, scrubbed, Judgement(judge=judge, seed=seed, rows=tuple(judged)))
    estimate = estimate_of(read_judgements(workplace, scrubbed.digest))
    of_kinds: list[tuple[str, list[Kind] | None]] = [(kind, [kind]) for kind in estimate.kinds]
    table = [
        {
            "kind": name,
            "precision": format_share(estimate.precision(kinds)),
            "recall": format_share(estimate.recall(kinds)),
        }
        for name, kinds in [*of_kinds, ("all", None)]
    ]
    print_rows(table, f"{estimate.judged} replaced values in {estimate.rows} rows, judged by people")


@privacy.command("train")
def privacy_train(
    home: Home,
    line: LineName,
    on: Annotated[
        list[Path], typer.Option(help="File of texts with labelled names: BIO, or JSONL with spans; repeatable.")
    ],
    to: Annotated[Path, typer.Option(help="New directory for the model.")],
    language: Annotated[str, typer.Option(help="Language of the files.")] = "ar",
    anew: Annotated[
        bool, typer.Option("--anew", help="Train from scratch, instead of from the recipe's spaCy model.")
    ] = False,
    as_json: AsJson = False,
) -> Result:
    """Train a model for name detection on the institution's labelled texts. If the recipe's model is a spaCy model, its
    training continues, and a fifth of the documents is held out to measure it. Otherwise, a conditional random field is
    trained from scratch, and measured by cross-validation over the documents.

    The directory gets the model, the model's card, and a signature by the pipeline's key. Enter the directory and the
    printed digest of its files into the recipe.
    """
    recipe = load_line(home.settings.data, line, home.institution)
    parent = None if anew else recipe.privacy.name_models.get(language)
    if parent is not None and not is_spacy_model(parent):
        parent = None
    if to.exists():
        raise InputError(f"{to}: the path exists already.", "Choose a new directory.")
    missing = next((path for path in on if not path.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: there is no such file.", "Give files of texts with labelled names.")
    sets = {path.name: path for path in on}
    if len(sets) < len(on):
        raise InputError("Two of the files have the same name.", "Rename one. The model's card lists files by name.")
    signer = pipeline_signer(home.settings, home.trust)

    def report(epoch: int, count: int, loss: float) -> None:
        err.print(f"pass {epoch} of {count}: loss {loss:.2f}")

    go_offline()
    trained = train_own(language, sets, to, parent, report)
    files = model_files(to)
    digest = files_digest(to)
    (to / f"model{SUFFIX}").write_bytes(sign_listed(signer, files, digest))
    recipe_keys = {"name_models": {language: str(to.absolute())}, "name_model_sha256": {language: digest}}

    def show() -> None:
        rows = [("before", trained.before)] if trained.before is not None else []
        table = [{"model": name, **figures} for name, figures in [*rows, ("trained", trained.after)]]
        print_rows(table, f"{trained.names} names in {trained.held_out} of {trained.documents} documents, held out")
        out.print(yaml.safe_dump({"privacy": recipe_keys}), end="", markup=False)

    return Result({**trained._asdict(), "privacy": recipe_keys}, show)


def _asked(question: str, known: set[str]) -> list[str] | None:
    """Repeat a question until the answer contains only known words, and return these words. Return None if the answer
    is `stop` or the input ends."""
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
        out.print(f"[red]•[/] unknown: {escape(and_more(unknown))}. Known: {', '.join(sorted(known)) or 'none'}")


def _print_row(each: PreviewedRow) -> None:
    title = f"{escape(each.id)} · {escape(each.case)}"
    if out.is_terminal:
        out.rule(title, align="left")
    else:
        out.print(title)
    for field in each.fields:
        spans = [(found.start, found.end, found.kind) for found in field.replaced]
        out.print(f"[bold]{field.name}[/]")
        out.print(_coloured(field.before, spans))
        if field.replaced:
            out.print("[dim]becomes[/]")
            placed = [(found.placed, found.placed + len(found.placeholder), found.kind) for found in field.replaced]
            out.print(_coloured(field.after, placed))
        for start, end in field.perhaps_names:
            print_note(f"possible name that was not replaced: {field.before[start:end]}")
        for kind in field.doubted:
            out.print(f"[red]•[/] the second detection pass still finds a value of kind {kind}")
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
    print_rows(found, "Replaced")


def _coloured(text: str, spans: list[tuple[int, int, Kind]]) -> Text:
    shown = Text(text)
    for start, end, kind in spans:
        shown.stylize(f"bold {COLOURS[KINDS.index(kind) % len(COLOURS)]}", start, end)
    return shown
