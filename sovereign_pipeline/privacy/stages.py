"""The stage of the privacy room: scrubbed_corpus, and the gate that reads its output again."""

import json
import time
from collections import Counter
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.artifacts.making import identity_of
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.detection import detector_digest
from sovereign_pipeline.privacy.engines.batches import ScrubJob
from sovereign_pipeline.privacy.engines.engine import scrub_file
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers
from sovereign_pipeline.privacy.names.name_models import name_model_parts
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.vault.vault import Vault

FINDINGS = "findings.json"
ROW_IDS_SHOWN = 20


def build_scrubbed_corpus(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Replace personal data by placeholders, in the order of the input; what they stood for goes into the vault.

    Raises PrivacyError when a detector fails or misses its canary, a text already holds a placeholder, a document holds
    what the policy stops at, or the vault's public key or a name model is missing.
    """
    line = workplace.line
    vault = Vault.at(workplace.settings.vault, workplace.settings.vault_public_key)
    treatments = workplace.institution.treatments(line.line)
    digests, libraries = name_model_digests(workplace), SCRUBBED_CORPUS.libraries
    job = ScrubJob(
        source=inputs[CLASSIFIED_CORPUS.kind].file(DOCUMENTS),
        line=line.line,
        run=identity_of(
            SCRUBBED_CORPUS, workplace, {kind: artifact.ref for kind, artifact in inputs.items()}
        ).fingerprint,
        privacy=line.privacy,
        treatments=treatments,
        detector=detector_digest(line.privacy, treatments, digests, libraries),
        cache=workplace.settings.privacy_cache,
    )
    started = time.monotonic()
    findings = scrub_file(job, workspace / DOCUMENTS, vault, line.corpus, workplace.progress)
    seconds = time.monotonic() - started
    (workspace / FINDINGS).write_text(json.dumps(findings.to_json(job.run), ensure_ascii=False, indent=1) + "\n")
    return Built(
        summary={
            "rows": findings.documents,
            "rows_touched": findings.documents_touched,
            "cases": findings.cases,
            "replaced": dict(sorted(findings.by_kind.items())),
            "kept": dict(sorted(findings.kept.items())),
            "ambiguous_names": len(findings.ambiguous),
        },
        measured={
            "scrub_seconds": round(seconds, 3),
            "characters_per_second": round(findings.characters / seconds, 1),
            "texts_searched": findings.searched,
        },
    )


def evaluate_no_identifier_left(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """The output, read again with the stricter set: every recognizer, and long digit runs without any label.

    A kind that the policy keeps is not counted, and neither is a value that the same row says to be of such a kind.
    """
    treatments = workplace.institution.treatments(workplace.line.line)
    left: Counter[str] = Counter()
    rows: list[str] = []
    count = 0
    for document in read_documents(artifact.file(DOCUMENTS)):
        count += 1
        spans = [
            span for text in (*document.texts.values(), document.author) for span in leftovers(normalise(text).text)
        ]
        kept = {span.key for span in spans if treatments[span.kind] == "keep"}
        found = [span.kind for span in spans if span.key not in kept]
        left.update(found)
        if found:
            rows.append(document.id)
    evidence = {
        "rows_read": count,
        "left": dict(sorted(left.items())),
        "rows": rows[:ROW_IDS_SHOWN],
        "rows_with_identifiers": len(rows),
    }
    if not rows:
        return Verdict(True, f"no structured identifier is left in {count:,} rows.", evidence)
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(left.items()))
    more = f" and {len(rows) - ROW_IDS_SHOWN} more" if len(rows) > ROW_IDS_SHOWN else ""
    return Verdict(False, f"left in the output: {kinds}; rows {', '.join(rows[:ROW_IDS_SHOWN])}{more}.", evidence)


def name_model_digests(workplace: Workplace) -> dict[str, str]:
    """A name model is a package or a directory; either way its files and libraries decide the result."""
    models = sorted(workplace.line.privacy.name_models.items())
    return {f"name_model:{language}": digest_of(name_model_parts(model)) for language, model in models}


def sensitive_kinds(institution: Institution, line: Line) -> Config:
    return {"sensitive": dict(institution.treatments(line.line))}


SCRUBBED_CORPUS = Stage(
    kind="scrubbed_corpus",
    code_version="3",
    build=build_scrubbed_corpus,
    inputs=(CLASSIFIED_CORPUS,),
    config=lambda line: {"privacy": line.privacy.model_dump(mode="json")},
    policy=sensitive_kinds,
    external=name_model_digests,
    libraries=("phonenumbers", "python-stdnum", "spacy"),
    gates=(
        Gate(
            name="no_identifier_left",
            question="Does a second, stricter reading find no structured identifier in the output?",
            code_version="2",
            evaluate=evaluate_no_identifier_left,
            policy=sensitive_kinds,
        ),
    ),
)
