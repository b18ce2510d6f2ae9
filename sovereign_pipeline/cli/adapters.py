"""`sovereign adapters` and `sovereign datasets`: list, show and verify registered adapters and datasets."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.cli.terminal import (
    AdapterId,
    AsJson,
    DatasetDigest,
    Group,
    Home,
    KeyOptions,
    OfLine,
    Reason,
    Result,
    mark_demonstration,
    officers_signer,
    only,
    out,
    print_done,
    print_facts,
    print_note,
    print_rows,
    print_wrong,
    tell_progress,
    write_new_file,
)
from sovereign_pipeline.policy.line import line_names
from sovereign_pipeline.record.catalog import (
    adapters_in_brief,
    find_adapter,
    list_adapters,
    list_datasets,
    purge_dates,
    show_adapter,
    show_dataset,
    urgent_promotions,
)
from sovereign_pipeline.record.database import Registry, open_registry, registry_read_only
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import officer_shown, officers_words, trust_root_if_any
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.tables import row_as_dict
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS
from sovereign_pipeline.release.acts import add_issue, issues_by_adapter, words_of_issue
from sovereign_pipeline.release.recall import open_recalls, question_of, recalls_in_force

if TYPE_CHECKING:
    from sovereign_pipeline.base.pages import Language


def write_page(home: Home, adapter_id: str, path: Path, language: "Language") -> None:
    """Write the page about an adapter to a new file. Raises the errors of `adapter_view` and `write_new_file`."""
    from sovereign_pipeline.web.rendering import adapter_file
    from sovereign_pipeline.web.views import adapter_view

    view = adapter_view(home.registry, home.store, adapter_id, datetime.datetime.now(datetime.UTC))
    write_new_file(path, adapter_file(view, language))
    print_done(f"{path}: {view.adapter.id}, {view.adapter.classification}")


StrictSources = Annotated[
    bool, typer.Option("--strict-sources", help="Exit with status 1 if a source file is missing or has changed.")
]

TrustRoot = Annotated[
    str | None,
    typer.Option(
        "--trust-root",
        help="SHA-256 of the first root, copied from paper. Verifies everything from this value, and writes nothing.",
    ),
]


def verified(home: Home, verify: Callable[..., Any], subject: str, strict_sources: bool) -> Result:
    """Verify an adapter by its id, or a dataset by its digest.

    Args:
        verify: `verify_with_acts` or `verify_dataset`.
        subject: the adapter's id, or the dataset's digest.
        strict_sources: exit with status 1 if a source file is missing or has changed.
    """
    settings = home.settings
    registry, store = open_registry(settings, from_first_entry=True), open_store(settings, settings.corpus)
    report = verify(registry, store, settings, subject, tell_progress)

    def show() -> None:
        mark_demonstration(home.trust)
        _print(report)

    return Result(report, show, passed=not (strict_sources and report.changed_sources))


def verified_from_trust_root(home: Home, adapter_id: str, root_sha256: str, strict_sources: bool) -> Result:
    """Verify an adapter, given the SHA-256 of the first root. Writes nothing."""
    from sovereign_pipeline.release.auditing import audit_adapter

    settings = home.settings
    with registry_read_only(settings) as registry:
        store = open_store(settings, settings.corpus, registry)
        report = audit_adapter(registry, store, settings, adapter_id, root_sha256, tell_progress)
    return Result(report, lambda: _print_audit(report), passed=not (strict_sources and report.lineage.changed_sources))


def _print_audit(report: Any) -> None:
    trust, witnessed = report.trust, report.witnessed
    by = f"; these are {DEMONSTRATION_KEYS}" if trust.is_demonstration else ""
    print_done(f"trust root {trust.root_sha256}: root {trust.root_version}, targets {trust.targets_version}{by}")
    print_done(f"ledger: {report.entries} entries, signed by the log's key")
    if witnessed is None:
        out.print(
            "  the trust root lists no witness: anyone with the registry and its key can rewrite the ledger undetected"
        )
    else:
        print_done(f"{witnessed.entries} entries witnessed by {', '.join(sorted(witnessed.at))}")
    print_done(
        f"{counted(report.requests, 'request')} and {counted(report.transitions, 'transition')}: all signatures valid"
    )
    _print(report.lineage)


def _print(report: Any) -> None:
    for each in report.checked:
        print_done(f"{each.what:<24} {each.files:>4} files {each.bytes:>14,} bytes  {each.digest}")
    for missing in (*report.changed_sources, *report.withheld, *report.purged):
        out.print(f"[yellow]![/] {escape(str(missing))}")
    for note in report.notes:
        print_note(note)
    print_done(f"{report.subject} matches the registry")
    if report.changed_sources:
        files = counted(len(report.changed_sources), "source file is", "source files are")
        out.print(f"[yellow]![/] {files} missing or changed; the stored artifacts were verified without the source")
    if report.withheld:
        out.print("[yellow]![/] unscrubbed text was not verified; run this where SOVEREIGN_CORPUS is readable")


adapters = Group(no_args_is_help=True, help="List, show and verify registered adapters, and decide on their state.")
issue = Group(no_args_is_help=True, help="Known issues of a registered adapter.")
adapters.add_typer(issue, name="issue")


@adapters.command("list")
def adapters_list(
    home: Home,
    line: OfLine = None,
    wide: Annotated[bool, typer.Option("--wide", help="Also show method, digests, base model and time.")] = False,
    as_json: AsJson = False,
) -> Result:
    """List every registered adapter."""
    rows = with_marks(home.registry, (list_adapters if as_json else adapters_in_brief)(home.registry, line))
    return Result(rows, lambda: print_adapters(rows, wide=wide))


@adapters.command("show")
def adapters_show(
    home: Home,
    adapter_id: AdapterId,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a standalone HTML page about the adapter to this new file.")
    ] = None,
    arabic: Annotated[bool, typer.Option("--arabic", help="Write the page in Arabic, from right to left.")] = False,
) -> Result | None:
    """Show an adapter with its datasets, gates and evaluation. --json prints every fact and digest.

    With --html, write a page instead: the lineage from an answer to source documents, a command to check each digest,
    waivers, and a timeline of states and approvals. The page contains no document text, and is marked with the
    adapter's classification level.
    """
    if arabic and html is None:
        raise InputError("--arabic needs --html.", "Add --html FILE.")
    if html is not None:
        write_page(home, adapter_id, html, "ar" if arabic else "en")
        return None
    (facts,) = with_marks(home.registry, [show_adapter(home.registry, adapter_id)], adapter_id)
    trust = trust_root_if_any(home.settings) if facts["waivers"] else None
    facts["waivers"] = [{**each, "person": officer_shown(trust, each["officer"])} for each in facts["waivers"]]
    return Result(facts, lambda: _print_adapter(facts))


@adapters.command("verify")
def adapters_verify(
    home: Home, adapter_id: AdapterId, trust_root: TrustRoot = None, strict_sources: StrictSources = False
) -> Result:
    """Verify an adapter and all its inputs, down to the source files, and every signed act about its line.

    Every file is hashed again. If an artifact's file was changed, exits with status 1 and names the file. If a source
    file is missing or changed, lists the source's withdrawn or reclassified rows. With --strict-sources, this also
    causes status 1.

    With --trust-root, also verify the trust root, the ledger with its key and witnesses, and every row and signature
    about the line. This also works on a copy of the installation on another machine: the command then needs no keys,
    vault or corpus, and writes nothing.
    """
    if trust_root is not None:
        return verified_from_trust_root(home, adapter_id, trust_root, strict_sources)
    from sovereign_pipeline.release.auditing import verify_with_acts

    return verified(home, verify_with_acts, adapter_id, strict_sources)


@adapters.command("mlflow")
def adapters_mlflow(
    home: Home, repair: Annotated[bool, typer.Option("--repair", help="Correct MLflow's entries that differ.")] = False
) -> Result:
    """Compare MLflow with the registry: names, versions, sources, digests and aliases. Exits with status 1 if MLflow
    differs. The registry is authoritative. No decision depends on MLflow.
    """
    from sovereign_pipeline.registry import mlflow_mirror

    examine = mlflow_mirror.repair if repair else mlflow_mirror.differences
    found = examine(home.registry, home.settings)

    def show() -> None:
        for each in found:
            print_wrong(each)
        if not found:
            print_done("MLflow matches the registry")

    return Result([{"line": each.line, "what": each.what} for each in found], show, passed=not found)


@adapters.command("reviewed")
def adapters_reviewed(
    home: Home,
    adapter_id: AdapterId,
    text: Annotated[str, typer.Option(help="The findings, without document text.")],
    key: KeyOptions,
) -> None:
    """Record that you reviewed an adapter and decided to keep it. The next review is due one full period from now.

    Prints the statement before your key signs it.
    """
    from sovereign_pipeline.release.cadence import record_review

    level = find_adapter(home.registry, adapter_id).classification
    stated = {"adapter": adapter_id, "classification": level, "reviewed and kept": officers_words(text, "A review")}
    signer = officers_signer(home.settings, key, stated)
    record_review(home.registry, adapter_id, text, signer, datetime.datetime.now(datetime.UTC).replace(microsecond=0))
    print_done(f"{adapter_id}: reviewed")


@adapters.command("purge")
def adapters_purge(home: Home, adapter_id: AdapterId, reason: Reason, key: KeyOptions) -> None:
    """Remove the weights of a retired, rejected or recalled adapter from disk. All records are kept.

    The purge is signed and logged before any file is removed. Run the command again after an interruption to remove the
    remaining files.
    """
    from sovereign_pipeline.release.purge import finish_purge, plan_purge, purge

    done = finish_purge(home.registry, home.store, home.settings, adapter_id)
    if done is not None:
        recorded, left = done
        words = f"its weights were purged on {recorded.at:%Y-%m-%d} by {recorded.officer}"
        print_done(f"{adapter_id}: {words}; {left:,} remaining bytes were freed")
        return
    plan = plan_purge(home.registry, home.store, home.settings, adapter_id, tell_progress)
    facts = {"adapter": adapter_id, "state": plan.state, "classification": plan.adapter.classification}
    for number, file in enumerate(plan.files, start=1):
        facts[f"removed {number}"] = f"{short(file.artifact)}/{file.path}, {file.size:,} bytes, SHA-256 {file.sha256}"
    facts |= {"freed": f"{plan.bytes:,} bytes", "reason": officers_words(reason, "A purge")}
    signer = officers_signer(home.settings, key, facts)
    recorded = purge(home.registry, home.store, home.settings, signer, plan, reason)
    what = f"{counted(len(recorded.files), 'file')} of weights purged, {recorded.bytes:,} bytes freed"
    print_done(f"{adapter_id}: {what}")


@issue.command("add")
def issue_add(
    home: Home,
    adapter_id: AdapterId,
    text: Annotated[str, typer.Option(help="Description of the issue, without document text.")],
    key: KeyOptions,
) -> None:
    """Add a known issue to an adapter. Every page about the adapter shows it permanently.

    Prints the statement before your key signs it.
    """
    level = find_adapter(home.registry, adapter_id).classification
    stated = {"adapter": adapter_id, "classification": level, "known issue": words_of_issue(text)}
    signer = officers_signer(home.settings, key, stated)
    added = add_issue(home.registry, adapter_id, text, signer)
    print_done(f"{adapter_id}: known issue {added.number}")


def with_marks(registry: Registry, rows: list[dict[str, Any]], adapter_id: str | None = None) -> list[dict[str, Any]]:
    """Add to each adapter's row its recalls, its known issues, and the dates of its urgent promotion and its purge.

    Args:
        adapter_id: the adapter of the only row. If given, acts about other adapters are not verified.
    """
    with registry.reading() as session:
        if adapter_id is None:
            recalls = recalls_in_force(session, registry.settings, {row["id"]: row["state"] for row in rows})
        else:
            recalls = {adapter_id: open_recalls(session, registry.settings, adapter_id, rows[0]["state"])}
        issues = issues_by_adapter(session, registry.settings, adapter_id)
        purged, urgent = purge_dates(session), urgent_promotions(session)
    trust = trust_root_if_any(registry.settings) if issues else None
    marked = {*recalls, *issues, *purged, *urgent}
    plain: dict[str, Any] = {"recalls": [], "known_issues": [], "weights_purged": None, "promoted_urgently": None}
    return [
        {**row, **plain}
        if row["id"] not in marked
        else {
            **row,
            "recalls": [
                {"id": each.id, "recalled": str(question_of(each)), "reason": each.reason}
                for each in recalls.get(row["id"], ())
            ],
            "known_issues": [
                {**row_as_dict(each), "person": officer_shown(trust, each.officer)}
                for each in issues.get(row["id"], ())
            ],
            "weights_purged": purged[row["id"]].isoformat() if row["id"] in purged else None,
            "promoted_urgently": urgent[row["id"]].isoformat() if row["id"] in urgent else None,
        }
        for row in rows
    ]


def _print_adapter(facts: Mapping[str, Any]) -> None:
    base, libraries = facts["base"], facts["framework_versions"]
    single = {name: value for name, value in facts.items() if not isinstance(value, dict | list)}
    trained_with = ", ".join(f"{name} {version}" for name, version in libraries.items())
    licence = f"{base['licence']}, {len(base['files'])} files"
    print_facts({**single, "base model licence": licence, "trained with": trained_with})
    print_urgent([facts])
    kept = ("kind", "rows", "rows_held_out", "classification", "digest")
    print_rows([only(each, *kept) for each in facts["datasets"]], "Datasets")
    accepted = {(each["stage"], each["gate"]): each for each in facts["waivers"]}
    print_rows([_gate(each, accepted) for each in facts["gate_records"]], "Gates")
    if facts["known_issues"]:
        issues = [only(each, "number", "text", "person", "added_at") for each in facts["known_issues"]]
        print_rows(issues, "Known issues")
    if facts["recalls"]:
        print_rows(facts["recalls"], "Recalls that apply to the adapter")
    if "held" in facts["evaluation"]:
        print_rows([_held(name, each) for name, each in facts["evaluation"]["held"].items()], "Evaluation")
    out.print("Use --json for every fact and digest")


def _gate(record: Mapping[str, Any], accepted: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    acceptance = accepted.get((record["stage"], record["gate"]))
    outcome = (
        f"{acceptance['outcome']}; waived by {acceptance['person']}: {acceptance['reason']}" if acceptance else "pass"
    )
    return {**only(record, "stage", "gate"), "outcome": outcome, "record": short(record["digest"])}


def _held(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "figure": name,
        "reference": f"{figure['reference']:.3f}",
        "candidate": f"{figure['candidate']:.3f}",
        "difference": f"{figure['difference']:+.3f}",
        "95 % interval": f"{figure['low']:+.3f} to {figure['high']:+.3f}",
        "rows": figure["rows"],
    }


def print_adapters(rows: Sequence[Mapping[str, Any]], *, wide: bool = False) -> None:
    """Print a table of adapters that fits into 100 columns. With `wide`, also print method, digests and base model."""
    columns: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "id": lambda row: row["id"],
        "state": lambda row: row["state"],
        "level": lambda row: row["classification"],
        "registered": lambda row: str(row["registered_at"])[: 19 if wide else 10],
        "review by": lambda row: str(row["review_date"])[:10],
    }
    if wide:
        columns |= {
            "method": lambda row: row["method"],
            "adapter": lambda row: short(row["adapter_digest"]),
            "dataset": lambda row: short(row["dataset_digest"]),
            "base model": lambda row: row["base_model"],
        }
    marks: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "issues": lambda row: len(row["known_issues"]) or None,
        "recalled by": lambda row: ", ".join(each["id"] for each in row["recalls"]) or None,
        "weights purged": lambda row: row["weights_purged"],
    }
    columns |= {name: of for name, of in marks.items() if any(of(row) for row in rows)}
    print_rows([{name: of(row) for name, of in columns.items()} for row in rows], "Registered adapters")
    print_urgent(rows)


def print_urgent(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if row["promoted_urgently"] is not None:
            words = f"promoted urgently on {row['promoted_urgently']}, without a passed trial"
            out.print(f"[bold red]! {escape(row['id'])}: {words}[/]")


datasets = Group(no_args_is_help=True, help="List, show and verify registered datasets.")


@datasets.command("list")
def datasets_list(home: Home, line: OfLine = None) -> Result:
    """List the datasets that registered adapters were trained on. Also print each line's current datasets that no
    registered adapter was trained on."""
    rows = list_datasets(home.registry, line)
    named = ("digest", "line", "kind", "rows", "rows_held_out", "classification", "created_at")
    known = {row["digest"] for row in rows}
    made = [ref for ref in _made_datasets(home.settings) if ref.line == (line or ref.line) and ref.digest not in known]

    def show() -> None:
        print_rows([only(row, *named) for row in rows], "Datasets")
        if made:
            out.print("No registered adapter was trained on:")
        for ref in made:
            print_dataset(home.settings, ref)

    return Result(rows, show)


@datasets.command("show")
def datasets_show(home: Home, digest: DatasetDigest) -> Result:
    """Show a dataset's data card and its registry entry. Only a dataset that an adapter was trained on has a registry
    entry."""
    from sovereign_pipeline.registry.verification import card_of, card_of_dataset

    try:
        row = show_dataset(home.registry, digest)
    except NotFoundError:
        made = [ref for ref in _made_datasets(home.settings) if ref.digest.startswith(digest)]
        if len(made) != 1:
            raise
        unused = card_of(home.store.open(made[0]))
        facts = {**made[0].model_dump(), "adapters": [], "card": unused.facts}
        return Result(facts, lambda: out.print(unused.markdown, markup=False))
    card = card_of_dataset(home.store, row)

    def show() -> None:
        out.print(card.markdown, markup=False)
        print_facts(only(row, "digest", "manifest_sha256", "card_sha256", "created_at", "adapters"))

    return Result({**row, "card": card.facts}, show)


def print_dataset(settings: Settings, ref: ArtifactRef) -> None:
    """Print a dataset's digest, the path of its data card, and the findings that are warnings."""
    from sovereign_pipeline.dataset.card import DatasetCard
    from sovereign_pipeline.dataset.jsonl import CARD, CARD_FOR_PEOPLE

    directory = open_store(settings).path_of(ref.digest)
    if not (directory / CARD).is_file():
        out.print(f"  {ref.kind} of {ref.line}, digest {short(ref.digest)}: its files are missing")
        return
    card = DatasetCard.model_validate_json((directory / CARD).read_bytes())
    out.print(f"  {ref.kind} of {ref.line}: {card.documents:,} rows, digest {short(ref.digest)}")
    out.print(f"  data card: {escape(str(directory / CARD_FOR_PEOPLE))}")
    for finding in card.findings:
        if finding.warns:
            out.print(f"  [yellow]•[/] {finding.name}: {finding.count:,} rows ({finding.share:.1%}). {finding.todo}")


def _made_datasets(settings: Settings) -> list[ArtifactRef]:
    store = open_store(settings)
    found = [
        store.current(line, kind)
        for line in line_names(settings.data)
        for kind in ("training_dataset", "preference_dataset")
    ]
    return [ref for ref in found if ref is not None]


@datasets.command("verify")
def datasets_verify(home: Home, digest: DatasetDigest, strict_sources: StrictSources = False) -> Result:
    """Verify a dataset and all its inputs, down to the source files.

    Every file is hashed again. If an artifact's file was changed, exits with status 1 and names the file. If a source
    file is missing or changed, lists the source's withdrawn or reclassified rows. With --strict-sources, this also
    causes status 1.
    """
    from sovereign_pipeline.registry.verification import verify_dataset

    return verified(home, verify_dataset, digest, strict_sources)
