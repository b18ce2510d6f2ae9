"""A model card in Markdown, with the front matter that the ecosystem's tools read.

What belongs here: what is on record, in the sections that readers of model cards expect. What does not: judgement.
Where nothing is on record, the card says who is to write it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sovereign_pipeline.audit.documents.facts import AdapterFacts

UNWRITTEN = "Not known to this system"
"""Begins each place of a document that persons are to write."""
UNKNOWN = f"{UNWRITTEN}: {{who}} is to write it."


def model_card(facts: AdapterFacts) -> str:
    """The card, front matter first."""
    return f"---\n{_front_matter(facts)}---\n\n" + "\n".join(_sections(facts)) + "\n"


def _front_matter(facts: AdapterFacts) -> str:
    record = facts.record
    content: dict[str, Any] = {
        "library_name": "transformers" if "full" in record.method else "peft",
        "pipeline_tag": "text-generation",
        "base_model": record.base_model.name,
        "license": "other",
        "license_name": record.base_model.licence,
        "language": sorted(facts.card.get("by_language", {})),
        "datasets": [dataset.digest for dataset in record.datasets],
        "tags": [record.line, record.method, f"classification:{record.classification}"],
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _sections(facts: AdapterFacts) -> Iterator[str]:
    record = facts.record
    yield f"# {facts.id}"
    yield f"\n**{record.classification}.** {record.purpose}\n"
    yield "| | |\n|---|---|"
    yield from (
        f"| {name} | {cell(value)} |"
        for name, value in {
            "provider": facts.institution,
            "owner": record.owner,
            "method": record.method,
            "base model": f"{record.base_model.name} ({record.base_model.licence}), `{record.base_model.digest}`",
            "continued from": record.parent_adapter.adapter if record.parent_adapter is not None else "the base model",
            "weights (SHA-256)": f"`{record.adapter_sha256}`",
            "registered": facts.registered_at,
            "review by": facts.review_date,
        }.items()
    )
    yield "\n## Uses\n"
    yield record.purpose
    yield "\nOut of scope: " + UNKNOWN.format(who=record.owner)
    yield "\n## Limitations\n"
    yield from ([f"- {_line(each)}" for each in facts.issues] or ["No known issue is on record."])
    yield "\n## Training data\n"
    yield "| dataset | rows | level | file (SHA-256) |\n|---|---:|---|---|"
    for dataset in record.datasets:
        yield f"| {dataset.kind} | {dataset.rows:,} | {dataset.classification} | `{dataset.file_sha256}` |"
    yield "\n| source | licence | file (SHA-256) |\n|---|---|---|"
    for source in facts.sources:
        yield f"| {cell(source['name'])} | {cell(source.get('licence', ''))} | `{source['sha256']}` |"
    yield "\n## Evaluation\n"
    outcome = record.evaluation.get("outcome", "no outcome is on record")
    yield f"Report `{record.evaluation_report_digest}`: {outcome}.\n"
    yield "| gate | outcome | |\n|---|---|---|"
    for each in facts.verdicts:
        waived = f" **Waived:** {cell(each.waived_because)}" if each.waived_because is not None else ""
        yield f"| {each.stage}.{each.gate} | {each.outcome} | {cell(each.message)}{waived} |"
    yield from figures(record.evaluation.get("held", {}))
    yield "\n## Environmental impact\n"
    yield UNKNOWN.format(who="whoever runs the hardware")
    yield "\n## How to get started\n"
    yield "It is served by the institution's gateway alone, under the name of its line, and never otherwise."


def figures(held: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the report's gates looked at, as a table."""
    if not held:
        return
    yield "\n| figure | candidate | reference | difference | 95 % interval |\n|---|---:|---:|---:|---|"
    for name, figure in sorted(held.items()):
        low, high = figure.get("low"), figure.get("high")
        interval = f"{low:+.4g} to {high:+.4g}" if low is not None and high is not None else "none"
        numbers = [_number(figure.get(each)) for each in ("candidate", "reference", "difference")]
        yield f"| {cell(name)} | {' | '.join(numbers)} | {interval} |"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _line(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    """A text as one cell of a table."""
    return _line(text).replace("|", "\\|")
