"""`sovereign adapters`: registered adapters, what each was made of, and their verification."""

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.commands.release import add_release_commands
from sovereign_pipeline.commands.terminal import (
    AdapterId,
    AsJson,
    OfLine,
    only,
    out,
    print_facts,
    print_json,
    print_rows,
)
from sovereign_pipeline.commands.verification import StrictSources, verify
from sovereign_pipeline.settings import Settings

adapters = typer.Typer(
    no_args_is_help=True, help="List, show and verify registered adapters, and decide about their state."
)
add_release_commands(adapters)


@adapters.command("list")
def adapters_list(line: OfLine = None, as_json: AsJson = False) -> None:
    """List every registered adapter."""
    from sovereign_pipeline.ledger.catalog import list_adapters
    from sovereign_pipeline.ledger.database import open_registry

    rows = list_adapters(open_registry(Settings.from_environment()), line)
    if as_json:
        print_json(rows)
    else:
        print_adapters(rows)


@adapters.command("show")
def adapters_show(adapter_id: AdapterId, as_json: AsJson = False) -> None:
    """Show an adapter, its datasets, gates and evaluation; with --json every fact and digest."""
    from sovereign_pipeline.ledger.catalog import show_adapter
    from sovereign_pipeline.ledger.database import open_registry

    facts = show_adapter(open_registry(Settings.from_environment()), adapter_id)
    if as_json:
        print_json(facts)
    else:
        _print_adapter(facts)


@adapters.command("verify")
def adapters_verify(adapter_id: AdapterId, as_json: AsJson = False, strict_sources: StrictSources = False) -> None:
    """Verify an adapter and all its inputs, down to the source files.

    Every file is hashed again. Ends 1, naming the file, when one was changed. A source file that is gone or has
    changed since it was read is counted, with the rows that were withdrawn or reclassified: it ends 0 all the same, and
    1 with --strict-sources.
    """
    from sovereign_pipeline.registry.verification import verify_adapter

    verify(verify_adapter, adapter_id, as_json, strict_sources)


def _print_adapter(facts: Mapping[str, Any]) -> None:
    base, libraries = facts["base"], facts["framework_versions"]
    single = {name: value for name, value in facts.items() if not isinstance(value, dict | list)}
    trained_with = ", ".join(f"{name} {version}" for name, version in libraries.items())
    licence = f"{base['licence']}, {len(base['files'])} files"
    print_facts({**single, "base model licence": licence, "trained with": trained_with}, as_json=False)
    kept = ("kind", "rows", "rows_held_out", "classification", "digest")
    print_rows([only(each, *kept) for each in facts["datasets"]], False, "Datasets")
    accepted = {(each["stage"], each["gate"]): each for each in facts["acceptances"]}
    print_rows([_gate(each, accepted) for each in facts["gate_records"]], False, "Gates")
    if "held" in facts["evaluation"]:  # not in reports of earlier versions
        print_rows([_held(name, each) for name, each in facts["evaluation"]["held"].items()], False, "Evaluation")
    out.print("Every fact and digest: the same with --json")


def _gate(record: Mapping[str, Any], accepted: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    acceptance = accepted.get((record["stage"], record["gate"]))
    outcome = (
        f"{acceptance['outcome']}; waived by {acceptance['officer']}: {acceptance['reason']}" if acceptance else "pass"
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


def print_adapters(rows: Iterable[Mapping[str, Any]]) -> None:
    shown = [
        {
            "id": row["id"],
            "state": row["state"],
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
