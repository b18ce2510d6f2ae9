"""`sovereign datasets` and `sovereign adapters`: what the registry holds, shown and hashed anew."""

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from sovereign_pipeline.artifacts.hashing import short
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
from sovereign_pipeline.commands.verification import verify
from sovereign_pipeline.settings import Settings

adapters = typer.Typer(no_args_is_help=True, help="Registered adapters.")


@adapters.command("list")
def adapters_list(line: OfLine = None, as_json: AsJson = False) -> None:
    """Every registered adapter."""
    from sovereign_pipeline.ledger.catalog import list_adapters
    from sovereign_pipeline.ledger.database import open_registry

    rows = list_adapters(open_registry(Settings.from_environment()), line)
    if as_json:
        print_json(rows)
    else:
        print_adapters(rows)


@adapters.command("show")
def adapters_show(adapter_id: AdapterId, as_json: AsJson = False) -> None:
    """What one adapter is, what it was made of and what the gates said of it; with --json every fact and digest."""
    from sovereign_pipeline.ledger.catalog import show_adapter
    from sovereign_pipeline.ledger.database import open_registry

    facts = show_adapter(open_registry(Settings.from_environment()), adapter_id)
    if as_json:
        print_json(facts)
    else:
        _print_adapter(facts)


@adapters.command("verify")
def adapters_verify(adapter_id: AdapterId, as_json: AsJson = False) -> None:
    """Re-hash everything an adapter was made from, down to the source files. Ends 1, naming the file, at a change."""
    from sovereign_pipeline.registry.verification import verify_adapter

    verify(verify_adapter, adapter_id, as_json)


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
    said = (
        f"{acceptance['outcome']}; let pass by {acceptance['officer']}: {acceptance['reason']}"
        if acceptance
        else "pass"
    )
    return {**only(record, "stage", "gate"), "outcome": said, "record": short(record["digest"])}


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
