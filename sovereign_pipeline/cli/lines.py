"""`sovereign lines` and `sovereign gates`: check recipes, show gate verdicts, and waive a gate."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from sovereign_pipeline.base.errors import InputError, NotFoundError, SovereignError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.sandbox import require_sandbox
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.stages import load_card
from sovereign_pipeline.cli.terminal import (
    AsJson,
    Group,
    Home,
    KeyOptions,
    LineName,
    Reason,
    RecipeFile,
    Result,
    command_for,
    officers_signer,
    out,
    print_done,
    print_error,
    print_json,
    print_next,
    print_note,
    print_rows,
    print_wrong,
)
from sovereign_pipeline.corpus.documents_from_rows import Sample, format_numbers, sample_of
from sovereign_pipeline.corpus.extraction import KINDS, extract
from sovereign_pipeline.corpus.stages import MOST_IN_OTHER_LANGUAGE
from sovereign_pipeline.evaluation.statistics import (
    CHANGED_ANSWERS,
    CHANGED_CHOICES,
    CHANGED_CONTINUATIONS,
    POWER,
    GatePower,
    gate_powers,
)
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import EXAMPLE_OF_EVALUATION, Line, line_names, load_lines, read_line
from sovereign_pipeline.policy.recipe_model import FILL_IN, json_schema, keys_to_fill_in
from sovereign_pipeline.policy.training import warnings
from sovereign_pipeline.privacy.corrections import load_word_lists
from sovereign_pipeline.privacy.names.name_models import name_model_directory
from sovereign_pipeline.privacy.vault import read_public_key
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.gates import GateStatus, find_gate, gate_statuses, propose_waiver, waive, waiver_in
from sovereign_pipeline.record.officers import officer_shown, trust_root_if_any
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.staleness import explain
from sovereign_pipeline.suites.rows import open_suite, prompt_files, read_prompts
from sovereign_pipeline.workplace import open_workplace

if TYPE_CHECKING:
    from sovereign_pipeline.privacy.preview import KindFacts

lines = Group(no_args_is_help=True, help="Show, check and add the recipes of lines.")


@lines.command("list")
def lines_list(home: Home) -> Result:
    """List every line that has a recipe. Exits with status 1 if a recipe is invalid."""
    recipes = load_lines(home.settings.data, home.institution)
    rows = [_row(recipe) for recipe in recipes.valid]
    for name, error in recipes.broken.items():
        rows.append(dict.fromkeys(rows[0] if rows else ("line",)) | {"line": name, "error": str(error)})
    rows.sort(key=lambda row: str(row["line"]))

    def show() -> None:
        print_rows([_shown(row) for row in rows], "Lines")
        for error in recipes.broken.values():
            print_error(error)

    return Result(rows, show, passed=not recipes.broken)


@lines.command("check")
def lines_check(
    home: Home,
    file: RecipeFile,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Print a training row with its supervised tokens between ⟦ and ⟧.")
    ] = False,
    row: Annotated[str | None, typer.Option(help="With --show-mask: id of the row; default: the first row.")] = None,
    power: Annotated[
        bool,
        typer.Option(
            "--power",
            help="Print how each kind of personal data is detected, and how many rows each gate needs.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> Result:
    """Check a recipe and every file, model and suite in it, and warn of common mistakes.

    Reads the first rows of each source. Lists the evaluation gates with too few rows for their margin; --power prints
    the tables. If the recipe has no `evaluation`, prints the keys that training needs. Exits with status 1 if the line
    cannot run, for example because a key still says FILL IN, more rows of a source would be quarantined than the recipe
    allows, or rows are in a language in which the line detects no names.
    """
    if row is not None and not show_mask:
        raise InputError("--row needs --show-mask.", "Give both, or neither.")
    if as_json and show_mask:
        raise InputError("--show-mask prints text, so it cannot be combined with --json.", "Leave out one of the two.")
    from sovereign_pipeline.privacy.preview import how_found, trade_off

    path = _path_of(home, file)
    recipe, institution = _checked(home, path, file), home.institution
    load_word_lists(home.settings.data, recipe.line)
    of_recipe = keys_to_fill_in(recipe)
    to_fill_in = [*of_recipe, *(f"institution.yaml: {key}" for key in keys_to_fill_in(institution))]
    kinds = how_found(recipe.privacy, institution.treatments(recipe.line))
    powers = gate_powers(home.settings, recipe) if recipe.evaluation is not None else []
    samples = _samples(home, recipe)
    is_readable = not any(_problems(each, recipe) for each in samples)
    mistakes = warnings(recipe.training, elsewhere=institution.trainer.where != "here")
    facts = {
        "line": recipe.line,
        "evaluation": recipe.evaluation is not None,
        "fill_in": to_fill_in,
        "sources": samples,
        "warnings": mistakes,
        "personal_data": kinds,
        "power": powers,
    }

    def show() -> None:
        mark = "[green]✓[/]" if is_readable and not of_recipe else "[red]✗[/]"
        out.print(f"{mark} {recipe.line}: {len(recipe.sources)} sources, ceiling {recipe.ceiling}")
        for key in to_fill_in:
            print_note(f"{key}: still says {FILL_IN}")
        for sample in samples:
            _print_sample(sample, recipe)
        for warning in mistakes:
            print_note(warning)
        print_done(
            f"names: favour {recipe.privacy.names.favour}. Measured precision and recall: "
            f"{'; '.join(trade_off(recipe.privacy))}"
        )
        if power:
            _print_kinds(kinds)
        if recipe.evaluation is None:
            print_note("evaluation: missing. Datasets can be built, but no adapter can be trained. To train, add:")
            typer.echo(EXAMPLE_OF_EVALUATION)
        elif power:
            _print_powers(powers)
        elif few := [f"{each.gate} has {each.rows} of {each.needed}" for each in powers if each.rows < each.needed]:
            print_note(
                "evaluation: too few rows, so gates may be inconclusive even for a good adapter (details: --power): "
                f"{'; '.join(few)}. Datasets can be built."
            )
        if show_mask:
            from sovereign_pipeline.training.mask import masked_row

            _print_mask(masked_row(open_workplace(home.settings, recipe.line), row))
        if of_recipe:
            print_next(f"sovereign lines check {file}", f"Replace each {FILL_IN!r} in {path}, then")
        elif is_readable:
            _print_next(home, path, recipe)
        else:
            print_next(_command_for(home, path, recipe), f"Correct {path} or the rows, then")

    return Result(facts, show, passed=is_readable and not of_recipe)


@lines.command("add")
def lines_add(home: Home, file: RecipeFile) -> None:
    """Check a recipe as `lines check` does, and copy it into the institution's lines. Keys may still say FILL IN."""
    recipe, file = _checked(home, path := _path_of(home, file), file), path
    problems = [each for sample in _samples(home, recipe) for each in _problems(sample, recipe)]
    if problems:
        raise InputError(f"{file}: {' '.join(problems)}", f"`sovereign lines check {file}` lists every row.")
    target = home.settings.data / "lines" / f"{recipe.line}.yaml"
    if target.exists() and target.resolve() != file.resolve():
        raise InputError(f"{target} exists already.", "Edit that file, or give the new line another name.")
    if not target.exists():
        shutil.copyfile(file, target)
    print_done(f"{recipe.line}: added as {target}")
    if keys_to_fill_in(recipe):
        print_next(f"sovereign lines check {recipe.line}", f"Replace each {FILL_IN!r} in {target}, then")
    else:
        _print_next(home, target, recipe)


def _print_next(home: Home, path: Path, recipe: Line) -> None:
    """Print the next command for a recipe without problems. If the installation lacks something that a run needs, print
    the reason and the command that adds what is missing. If no command adds it, or if nothing is missing, print the
    command that `_command_for` returns."""
    command = _command_for(home, path, recipe)
    if command.startswith("sovereign run"):
        from sovereign_pipeline.dataset.tokens import tokenizer_digests

        try:
            home.store.seals.assert_ready()
            read_public_key(home.settings.vault_public_key)
            tokenizer_digests(open_workplace(home.settings, recipe.line))
        except SovereignError as error:
            if error.remedy is not None:
                print_next(command_for(error.remedy), f"{error.message} Next")
            else:
                print_next(command, f"{error.message} {error.hint} Then")
            return
    print_next(command)


def _command_for(home: Home, path: Path, recipe: Line) -> str:
    """Return the next command for a recipe: `sovereign run` for a recipe in the institution's lines, `sovereign lines
    add` for a file elsewhere."""
    is_of_line = path.resolve().parent == (home.settings.data / "lines").resolve()
    return f"sovereign run {recipe.line} --until training_dataset" if is_of_line else f"sovereign lines add {path}"


@lines.command("explain")
def lines_explain(home: Home, line: LineName) -> Result:
    """Show for each stage of a line whether `sovereign run` would run the stage again, and which inputs and keys
    changed."""
    from sovereign_pipeline.dagster.chain import CHAIN

    found = explain(CHAIN, open_workplace(home.settings, line))
    facts = [{"stage": each.kind, "stale": each.is_stale, "reasons": each.reasons} for each in found]
    states = ["✗ stale" if each.is_stale else "✓ current" for each in found]
    rows = [
        {"stage": each.kind, "state": state, "why": "\n".join(map(str, each.reasons))}
        for each, state in zip(found, states, strict=True)
    ]
    return Result(facts, lambda: print_rows(rows, f"Stages of {line}"))


@lines.command("schema")
def lines_schema(
    institution: Annotated[
        bool, typer.Option("--institution", help="Print the schema of institution.yaml instead.")
    ] = False,
) -> None:
    """Print the JSON Schema for completing and checking recipes in an editor."""
    if institution:
        print_json(json_schema(Institution, "Rules of the institution"))
    else:
        print_json(json_schema(Line, "Recipe of a line"))


def _row(recipe: Line) -> dict[str, Any]:
    training = recipe.training
    return {
        "line": recipe.line,
        "purpose": recipe.purpose,
        "owner": recipe.owner,
        "ceiling": recipe.ceiling,
        "base_model": training.base_model,
        "adapter": training.sft.adapter,
        "preference": training.preference.name if training.preference else None,
        "rlhf": training.rlhf.algorithm if training.rlhf else None,
        "error": None,
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a line's table row without its error, because the error is printed below the table."""
    return {key: value for key, value in row.items() if key != "error"} | (
        {"purpose": "✗ broken"} if row["error"] else {}
    )


def _path_of(home: Home, file: Path) -> Path:
    """Return the path of a recipe that the user entered as a file or as the name of a line."""
    data = home.settings.data
    of_line = data / "lines" / f"{file}.yaml"
    if file.suffix or file.exists():
        return file
    if not of_line.is_file():
        known = ", ".join(line_names(data)) or "none"
        raise NotFoundError(f"'{file}' is neither a file nor the name of a line in {data}.", f"Known lines: {known}.")
    return of_line


def _checked(home: Home, path: Path, file: Path) -> Line:
    """Read a recipe, and check every file, model and suite in it. `file`: the recipe as the user entered it."""
    from sovereign_pipeline.evaluation.capability import check_suite
    from sovereign_pipeline.evaluation.red_team import read_labels
    from sovereign_pipeline.training.stages import reward_code

    settings, named = home.settings, list[Path]()
    recipe = read_line(path, home.institution)
    evaluation = recipe.evaluation
    if evaluation is not None:
        named += [suite.path for suite in evaluation.capability if suite.path is not None]
        named += [*prompt_files(settings.data, evaluation.red_team).values(), evaluation.red_team.judge_labels]
    if recipe.training.rlhf is not None:
        named += [path for tool in recipe.training.rlhf.tools for path in tool.named]
    missing = [str(settings.data / path) for path in named if not (settings.data / path).is_file()]
    sources = [settings.data / source.path for source in recipe.sources]
    missing = [*(str(path) for path in sources if not path.exists()), *missing]
    if missing:
        raise InputError(
            f"{file}: these files are missing: {', '.join(missing)}.", "Add these files, or correct the paths."
        )
    load_card(settings, recipe.training.base_model)
    if recipe.training.rlhf is not None and recipe.training.rlhf.tools:
        require_sandbox()
        reward_code(settings, recipe.training.rlhf)
    for suite in evaluation.capability if evaluation is not None else ():
        check_suite(settings, suite)
        if suite.path is not None:
            open_suite(settings, suite, recipe.named_evaluation.seed)
    if evaluation is not None:
        read_prompts(*prompt_files(settings.data, evaluation.red_team).values())
        read_labels(settings.data / evaluation.red_team.judge_labels)
    if recipe.training.start_from is not None:
        find_adapter(home.registry, recipe.training.start_from)
    for model in recipe.privacy.name_models.values():
        name_model_directory(model)
    if recipe.privacy.recognizers:
        from sovereign_pipeline.privacy.added_recognizers import try_added_recognizers

        try_added_recognizers(recipe.privacy)
    return recipe


def _samples(home: Home, recipe: Line) -> list[Sample]:
    """Return a sample of each source's first rows. A source with a key that still says FILL IN is skipped."""
    settings, privacy, ladder = home.settings, recipe.privacy, home.institution.ladder
    read = (source for source in recipe.sources if source.is_filled_in)
    return [
        sample_of(
            *(each, path := settings.data / each.path, recipe.quarantine, ladder, recipe.ceiling, privacy.detected),
            extraction=extract(settings, each, path, ladder) if each.kind in KINDS else None,
        )
        for each in read
    ]


def _problems(sample: Sample, recipe: Line) -> list[str]:
    """Return a message about each problem in a source's first rows that would stop a run."""
    if sample.error is not None:
        return [f"{sample.source}: {sample.error}"]
    problems, most = [], recipe.quarantine.max_share
    if sample.share > most:
        problems.append(
            f"{sample.source}: {sample.share:.1%} of the rows would be quarantined; the recipe allows {most:.1%}. "
            f"{sample.remedy}"
        )
    if sample.above_ceiling:
        levels = ", ".join(f"{level} ({count:,})" for level, count in sample.above_ceiling.items())
        problems.append(
            f"{sample.source}: documents above the line's ceiling {recipe.ceiling}: {levels}. Raise the ceiling, or "
            f"leave these rows out with `where` or `exclude`."
        )
    wrong = sum(map(len, sample.wrong_language.values()))
    if wrong > MOST_IN_OTHER_LANGUAGE * sample.documents:
        rows = "; ".join(f"{language}: {format_numbers(rows)}" for language, rows in sample.wrong_language.items())
        problems.append(
            f"{sample.source}: {wrong:,} documents have a text that is not in the document's language ({rows}). "
            f"Correct the language of the source, or set language_from_text: true."
        )
    problems += [
        f"{sample.source}: the line detects no names in {language} ({format_numbers(numbers)}). Add a model "
        f"to privacy.name_models, or leave these rows out with `exclude`."
        for language, numbers in sample.other_languages.items()
    ]
    return problems


def _print_sample(sample: Sample, recipe: Line) -> None:
    problems = _problems(sample, recipe)
    if sample.error is None:
        rows = f"{sample.rows:,} rows" if sample.is_whole else f"the first {sample.rows:,} rows"
        languages = ", ".join(f"{name} {count:,}" for name, count in sample.languages.items())
        left_out = [
            f", {count:,} {what}"
            for count, what in ((sample.not_selected, "not selected by `where`"), (sample.excluded, "excluded"))
            if count
        ]
        mark = "[red]✗[/]" if problems else "[green]✓[/]"
        out.print(
            f"{mark} {escape(sample.source)}, {rows}: {sample.documents:,} documents ({languages or 'none'})"
            f"{''.join(left_out)}, {sample.quarantined:,} to quarantine ({sample.share:.1%}); the recipe allows "
            f"{recipe.quarantine.max_share:.1%}"
        )
        for reason in sample.rows_by_reason:
            out.print(f"    {escape(reason)}")
    for problem in problems:
        print_wrong(problem)
    if sample.unknown_levels:
        out.print(f"    unknown classification levels, to be mapped under `levels`: {escape(sample.unknown_levels)}")
    if sample.not_read:
        out.print(f"    not read: {escape(and_more(sample.not_read))}")


def _print_kinds(kinds: "Sequence[KindFacts]") -> None:
    """Print the kinds of personal data, grouped by treatment: first the kinds that the line replaces, then the kinds
    that the line keeps, then the kinds that stop the line."""
    does = {"replace": "replaces", "keep": "keeps", "stop": "stops at"}
    rows = [
        {"the line": does[each.treatment], "kind": each.kind, "found by": each.ways, "but": each.remark}
        for treatment in does
        for each in kinds
        if each.treatment == treatment
    ]
    print_rows(rows, "Personal data")


def _print_powers(powers: Sequence[GatePower]) -> None:
    rows = [
        {
            "gate": each.gate,
            "margin": f"{each.margin:g}",
            "rows": each.rows,
            "least": each.least,
            "needed": each.needed,
            "passes with probability": f"{each.probability:.2f}",
            "": "✓" if each.rows >= each.needed else "✗ far too few" if each.rows < each.least else "• too few",
        }
        for each in powers
    ]
    print_rows(rows, "Rows for the margins")
    out.print(
        f"  least: with fewer rows, even a candidate with the base model's own answers cannot pass. needed: with this\n"
        f"  many rows, an equally good candidate passes with probability {POWER}. Assumption: results differ on "
        f"{CHANGED_ANSWERS:.0%} of prompts,\n  {CHANGED_CHOICES:.0%} of a suite's rows and "
        f"{CHANGED_CONTINUATIONS:.0%} of continuations.\n"
        f"  Add rows, or widen the margin and say why. The rows of held_out_loss are known only after the split."
    )


def _print_mask(row: Any) -> None:
    out.print(f"\nRow {escape(row.id)} · {escape(row.origin)}")
    for each in row.completions:
        found = ", ".join(map(str, dict.fromkeys(each.end_ids)))
        ends = "no, so the trainer rejects the row" if None in each.end_ids else f"yes (id {found})"
        out.print(
            f"[bold]{each.name}[/]: {each.prompt_tokens} prompt tokens, {each.supervised_tokens} supervised tokens"
            f"{f' in {len(each.parts)} turns' if len(each.parts) > 1 else ''}; "
            f"ends in an end-of-turn id: {ends}"
        )
        if each.is_cut:
            print_note(f"the row is longer than max_length {each.max_length}, so the trainer skips it")
        if each.dropped:
            print_note(f"the first {each.dropped} messages are left out, to fit max_length {each.max_length}")
        marked = ((before, "⟦", (supervised, "underline green"), "⟧") for before, supervised in each.parts)
        out.print(Text.assemble(*(piece for part in marked for piece in part)))


NOT_EVALUATED = "not asked"
"""Outcome in `--json` for a gate without a record. Programs depend on this value, so do not change it."""

SHOWN = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive", NOT_EVALUATED: "· not evaluated"}
"""Mapping of outcome to the text that the table shows."""

gates = Group(no_args_is_help=True, help="Show the gates of a line, and waive a gate as an officer.")


@gates.command("list")
def gates_list(home: Home, line: LineName) -> Result:
    """List every gate of the line's current artifacts with outcome, message and waiver."""
    from sovereign_pipeline.dagster.chain import AFTER_PEOPLE, CHAIN

    workplace = open_workplace(home.settings, line)
    rows = [_facts(workplace, each) for each in gate_statuses((*CHAIN, *AFTER_PEOPLE), workplace)]

    def show() -> None:
        if rows:
            print_rows([_row_gates(each) for each in rows], f"Gates of {line}")
        else:
            out.print(f"Line {line}: no stage has run yet, so no gate was evaluated.")

    return Result(rows, show)


@gates.command("waive")
def gates_waive(
    home: Home,
    line: LineName,
    gate: Annotated[str, typer.Argument(help="Name of the gate, as `sovereign gates list` shows it.")],
    reason: Reason,
    key: KeyOptions,
) -> None:
    """Waive a gate that the line's current artifact did not pass. Prints the waiver before your key signs it.

    The waiver applies only to this verdict. Another candidate, suite, incumbent or recipe needs a new waiver. Exits
    with status 1 if the recipe does not permit a waiver.
    """
    from sovereign_pipeline.dagster.chain import AFTER_PEOPLE, CHAIN

    workplace = open_workplace(home.settings, line)
    found = find_gate((*CHAIN, *AFTER_PEOPLE), workplace, gate)
    proposal = propose_waiver(found.stage, found.gate, workplace, found.ref, reason)
    signer = officers_signer(home.settings, key, proposal.question())
    ref, waiver = waive(proposal, signer)
    officer = officer_shown(trust_root_if_any(home.settings), waiver.officer)
    print_done(f"{gate}: waived by {officer} ({waiver.kind}); logged as {short(ref.digest)}")
    out.print(f"Next: [bold]sovereign run {line}[/]")


def _facts(workplace: Workplace, status: GateStatus) -> dict[str, Any]:
    recorded = status.recorded
    return {
        "stage": status.stage.kind,
        "gate": status.gate.name,
        "question": status.gate.question,
        "evaluated": status.ref.digest,
        "outcome": recorded.verdict.outcome if recorded else NOT_EVALUATED,
        "message": recorded.verdict.message if recorded else None,
        "record": recorded.record.digest if recorded else None,
        "officer_may": status.gate.permission(workplace, status.ref),
        "waiver": _waiver(workplace, status),
    }


def _waiver(workplace: Workplace, status: GateStatus) -> dict[str, Any] | None:
    if status.recorded is None or status.recorded.waiver is None:
        return None
    ref = status.recorded.waiver
    waiver = waiver_in(workplace, ref)
    return {
        "digest": ref.digest,
        **waiver.model_dump(mode="json", exclude={"gate"}),
        "person": officer_shown(trust_root_if_any(workplace.settings), waiver.officer),
        "at": workplace.store.read_manifest(ref).circumstances.created_at,
    }


def _row_gates(facts: dict[str, Any]) -> dict[str, Any]:
    waiver = facts["waiver"]
    if waiver:
        waived = f"waived by {waiver['person']} ({waiver['kind']}, {waiver['at'][:10]}): {waiver['reason']}"
    elif facts["officer_may"] != "nothing" and facts["outcome"] not in ("pass", NOT_EVALUATED):
        waived = f"an officer may: {facts['officer_may'].replace('_', ' ')}"
    else:
        waived = None
    return {
        "stage": facts["stage"],
        "gate": facts["gate"],
        "outcome": SHOWN[facts["outcome"]],
        "message": facts["message"],
        "waiver": waived,
    }
