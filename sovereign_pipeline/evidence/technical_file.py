"""Write an adapter's technical file (Annex IV of the EU AI Act) and model card, and sign the completed file."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import read_bounded
from sovereign_pipeline.evidence.documents import AdapterFacts, VerdictFacts
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.statements import TECHNICAL_FILE, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.compute import THIRD, LineageCompute
from sovereign_pipeline.training.compute import COUNTED

UNWRITTEN = "Not known to this system"
"""Prefix of each passage that a person must write."""
UNKNOWN = f"{UNWRITTEN}: {{who}} is to write it."


def technical_file(facts: AdapterFacts) -> str:
    record = facts.manifests["registered_adapter"].digest
    level = f"**{facts.record.classification}.** Written on {facts.made_at} from the record `{record}`."
    to_do = "The persons responsible complete it and sign it."
    return (
        "\n".join(
            [
                f"# Technical file of {facts.id} · الملف الفني\n",
                level,
                to_do,
                *_annex(facts),
                *_nist(facts),
                *_iso(facts),
            ]
        )
        + "\n"
    )


def sign_technical_file(adapter: Adapter, path: Path, signer: Signer) -> bytes:
    """Return an officer's detached signature of a completed file: an in-toto statement in a sigstore bundle. Raises
    InputError if the file does not name the adapter's record."""
    content = read_bounded(path, LARGEST, "Name the completed file.")
    if adapter.record_digest.encode() not in content:
        raise InputError(
            f"{path}: it does not name the record of {adapter.id}, {adapter.record_digest}.",
            "Complete the draft of this adapter, and keep the record's digest in it.",
        )
    about = Subject(path.name, hashlib.sha256(content).hexdigest())
    stated = {"adapter": adapter.id, "record": adapter.record_digest}
    return sign_statement(signer, Statement((about,), TECHNICAL_FILE, stated))


def model_card(facts: AdapterFacts) -> str:
    """Return the model card as Markdown with YAML front matter."""
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
    yield "\n## Computation and environmental impact\n"
    yield from _computation(facts.compute)
    yield "\nOther impact, such as of serving: " + UNKNOWN.format(who="whoever runs the hardware")
    yield "\n## How to get started\n"
    yield "It is served by the institution's gateway alone, under the name of its line, and never otherwise."


def figures(held: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of the numbers that the report's gates evaluated."""
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
    return _line(text).replace("|", "\\|")


LARGEST = 4 << 20
CORPUS = ("raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split")
"""Kinds of artifacts whose gates document how data were selected, labelled and cleaned."""
TRAINED = ("sft_adapter", "reward_model", "aligned_adapter")
PROVIDER, OPERATIONS, SECURITY = (
    "the provider's legal office",
    "whoever runs the installation",
    "the institution's security office",
)


def _annex(facts: AdapterFacts) -> Iterator[str]:
    record = facts.record
    yield _heading("1. General description", "الوصف العام")
    yield from _table(
        {
            "intended purpose": record.purpose,
            "provider": facts.institution,
            "version": f"{facts.id}, registered {facts.registered_at}",
            "earlier version that it continues": record.parent_adapter.adapter if record.parent_adapter else "none",
            "form": "an adapter (PEFT) or weights, answered with by the institution's own gateway",
        }
    )
    yield f"\nHardware, user interface and instructions for use: {UNKNOWN.format(who=OPERATIONS)}"
    yield _heading("2. Elements of the system and its development", "عناصر النظام وعملية تطويره")
    yield _heading("2 (a) Methods, and parts that were trained before", "الأساليب والأجزاء المدربة مسبقا", 3)
    yield from _table(
        {
            "method": record.method,
            "base model": f"{record.base_model.name}, {record.base_model.licence}, `{record.base_model.digest}`",
            "libraries": ", ".join(f"{name} {version}" for name, version in sorted(record.framework_versions.items())),
        }
    )
    yield _heading("2 (b) Design choices", "خيارات التصميم", 3)
    for kind in TRAINED:
        if kind in facts.manifests:
            config = json.dumps(facts.manifests[kind].producer.config, ensure_ascii=False, sort_keys=True)
            yield f"`{kind}`: `{config}`\n"
    yield f"Reasons for them: {UNKNOWN.format(who=record.owner)}"
    yield _heading("2 (c) Architecture and computing", "البنية وموارد الحوسبة", 3)
    yield f"The architecture is that of {record.base_model.name}.\n"
    yield from _computation(facts.compute)
    yield "\nMeasured while it was made:\n"
    yield from _measured(facts)
    yield _heading("2 (d) Data", "البيانات", 3)
    yield "| source | licence | file (SHA-256) |\n|---|---|---|"
    for source in facts.sources:
        yield f"| {cell(source['name'])} | {cell(source.get('licence', ''))} | `{source['sha256']}` |"
    yield "\n| dataset | rows | level | digest |\n|---|---:|---|---|"
    for dataset in record.datasets:
        yield f"| {dataset.kind} | {dataset.rows:,} | {dataset.classification} | `{dataset.digest}` |"
    yield "\nHow data were selected, labelled and cleaned, by the gates of each step:\n"
    yield from _verdicts(each for each in facts.verdicts if each.stage in CORPUS or "dataset" in each.stage)
    yield _heading("2 (e) Human oversight", "الإشراف البشري", 3)
    yield from _history(facts)
    yield _heading("2 (f) Changes determined beforehand", "التغييرات المحددة مسبقا", 3)
    yield UNKNOWN.format(who=record.owner)
    yield _heading("2 (g) Validation and testing", "التحقق والاختبار", 3)
    report = facts.manifests["evaluation_report"]
    yield (
        f"Report `{report.digest}` of {report.circumstances.created_at}, signed by the pipeline. Whoever signs "
        "this file signs what is written here of it.\n"
    )
    yield from _verdicts(each for each in facts.verdicts if each.stage not in CORPUS and "dataset" not in each.stage)
    yield from figures(record.evaluation.get("held", {}))
    yield f"\nPotentially discriminatory impact: {UNKNOWN.format(who=record.owner)}"
    yield _heading("2 (h) Cybersecurity", "الأمن السيبراني", 3)
    yield "Every artifact is signed and in the log; `verify.py` of the evidence package verifies that."
    yield f"\nOther measures: {UNKNOWN.format(who=SECURITY)}"
    yield _heading("3. Monitoring, functioning and control", "الرصد والتشغيل والتحكم")
    yield f"To be reviewed by {facts.review_date}. Known issues: {'; '.join(facts.issues) or 'none on record'}."
    yield f"\nAccuracy for groups of persons, and foreseeable risks: {UNKNOWN.format(who=record.owner)}"
    yield _heading("4. Appropriateness of the performance metrics", "ملاءمة مقاييس الأداء")
    yield UNKNOWN.format(who=record.owner)
    yield _heading("5. Risk management", "إدارة المخاطر")
    waived = [each for each in facts.verdicts if each.waived_because is not None]
    yield from (
        [f"- waived: {each.gate} ({each.outcome}): {each.waived_because}" for each in waived] or ["No gate was waived."]
    )
    yield f"\nThe risk management system of Article 9: {UNKNOWN.format(who=PROVIDER)}"
    yield _heading("6. Changes through the lifecycle", "التغييرات خلال دورة الحياة")
    yield from _history(facts)
    yield _heading("7. Standards applied", "المعايير المطبقة")
    yield (
        "Forms: in-toto, DSSE and sigstore bundles, TUF, RFC 6962 with C2SP checkpoints, CycloneDX 1.7, OpenLineage."
    )
    yield f"\nHarmonised standards: {UNKNOWN.format(who=PROVIDER)}"
    yield _heading("8. EU declaration of conformity", "إعلان المطابقة")
    yield UNKNOWN.format(who=PROVIDER)
    yield _heading("9. Monitoring after placing on the market", "الرصد بعد الطرح")
    yield f"Review by {facts.review_date}. The plan of Article 72: {UNKNOWN.format(who=PROVIDER)}"


def _nist(facts: AdapterFacts) -> Iterator[str]:
    record = facts.record
    yield _heading("NIST AI 600-1: inventory entry (GV-1.6-003)", "بند الجرد وفق NIST AI 600-1")
    yield from _table(
        {
            "data provenance": f"{len(facts.sources)} source files by SHA-256, signed manifests down to them",
            "known issues": "; ".join(facts.issues) or "none on record",
            "human oversight roles": "officers by the trust root; who decided: 2 (e)",
            "intellectual property": ", ".join(sorted({str(each.get("licence", "")) for each in facts.sources})),
            "underlying foundation model": f"{record.base_model.name} ({record.base_model.licence})",
        }
    )


def _iso(facts: AdapterFacts) -> Iterator[str]:
    waived = sum(each.waived_because is not None for each in facts.verdicts)
    yield _heading("ISO/IEC 42001: controls", "ضوابط ISO/IEC 42001")
    yield from _table(
        {
            "A.5 assessing impacts": UNKNOWN.format(who=facts.record.owner),
            "A.6.2.4 verification and validation": f"{len(facts.verdicts)} gates, {waived} waived: 2 (d), 2 (g)",
            "A.6.2.7 technical documentation": "this file",
            "A.6.2.8 event logs": "the log's entries in the evidence package, each with its proof",
            "A.7.2 data for development": "2 (d)",
            "A.7.3 acquisition of data": "2 (d): licences of the sources",
            "A.7.4 quality of data": "2 (d): gates",
            "A.7.5 data provenance": "2 (d), and `lineage.openlineage.jsonl`",
            "A.7.6 data preparation": "2 (d): gates",
        }
    )


def _history(facts: AdapterFacts) -> Iterator[str]:
    if not facts.history:
        yield "No officer has decided about it yet."
        return
    yield "| at | transition | state | asked by | approved by | reason |\n|---|---|---|---|---|---|"
    for each in facts.history:
        by = ", ".join(each["approved_by"]) or "–"
        words = [each["at"][:16], each["transition"], each["to"], each["requested_by"], by, each["reason"]]
        yield f"| {' | '.join(map(cell, words))} |"


def _computation(compute: LineageCompute) -> Iterator[str]:
    """Yield the figures of every training in the lineage, their sum, and its share of the base model's training."""
    yield "| training | tokens learned from | FLOPs | energy, kWh | source of the energy |\n|---|---:|---:|---:|---|"
    for each in compute.trainings:
        energy = "not known" if each.kilowatt_hours is None else f"{each.kilowatt_hours:.4g}"
        name = f"{each.kind} ({each.method}) of {each.line} `{each.digest[:12]}`"
        yield f"| {name} | {each.tokens:,} | {each.flops:.4g} | {energy} | {cell(each.energy_source)} |"
    total = "not known" if compute.kilowatt_hours is None else f"{compute.kilowatt_hours:.4g}"
    yield f"| **together** | {compute.tokens:,} | {compute.flops:.4g} | {total} | |"
    yield f"\nFLOPs: {COUNTED}."
    if compute.base_flops is None or compute.share is None:
        yield f"\nShare of the base model's own training compute: not known, as {compute.base_source}."
    else:
        above = "above" if compute.share > THIRD else "not above"
        yield (
            f"\nShare of the base model's own training compute: {compute.share:.2g} of {compute.base_flops:.4g} FLOPs "
            f"({_line(compute.base_source)}). That is {above} a third, the Commission's indicative criterion for a "
            "modifier who becomes a provider (C(2025) 7719 final, point 60)."
        )


def _measured(facts: AdapterFacts) -> Iterator[str]:
    yield "| step | measured |\n|---|---|"
    for kind in TRAINED:
        if kind in facts.manifests:
            measured = facts.manifests[kind].circumstances.measured
            yield f"| {kind} | {', '.join(f'{name} {value:g}' for name, value in sorted(measured.items()))} |"


def _verdicts(verdicts: Iterable[VerdictFacts]) -> Iterator[str]:
    yield "| gate | outcome | |\n|---|---|---|"
    for each in verdicts:
        waived = f" **Waived:** {cell(each.waived_because)}" if each.waived_because is not None else ""
        yield f"| {each.stage}.{each.gate} | {each.outcome} | {cell(each.message)}{waived} |"


def _table(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "| | |\n|---|---|"
    yield from (f"| {name} | {cell(str(value))} |" for name, value in rows.items())


def _heading(english: str, arabic: str, level: int = 2) -> str:
    return f"\n{'#' * level} {english} · {arabic}\n"
