"""Define the stage scrubbed_corpus and its gates. One gate searches the scrubbed documents again."""

import json
import time
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError, SovereignError
from sovereign_pipeline.base.files import digest_of, read_secret
from sovereign_pipeline.base.text import Countdown, and_more
from sovereign_pipeline.corpus.columns import kinds_of
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, RAW_CORPUS
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.corrections import NO_WORDS, load_word_lists
from sovereign_pipeline.privacy.detection import Detector, detector_digest, recognizer_digests
from sovereign_pipeline.privacy.engines import ScrubJob, scrub_file
from sovereign_pipeline.privacy.json_texts import kept_words, names_a_field, outline_of, readings_of
from sovereign_pipeline.privacy.names.name_models import name_model_parts
from sovereign_pipeline.privacy.preview import estimate_of, format_share, read_judgements, recorded_judgements
from sovereign_pipeline.privacy.vault import FINDINGS, PUBLIC_KEY, Vault
from sovereign_pipeline.record.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace, identity_of
from sovereign_pipeline.record.store import Artifact

ROWS_IN_EVIDENCE = 20


def build_scrubbed_corpus(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the documents in the input's order, with placeholders for personal data, and the originals to the vault.

    Raises PrivacyError if a detector fails or misses its canary, a text already contains a placeholder, a document
    contains a kind of personal data for which the policy says `stop`, the vault's public key is missing or not the
    institution's, or a name model is missing.
    """
    line = workplace.line
    vault = _vault_of(workplace)
    treatments = workplace.institution.treatments(line.line)
    digests, libraries = detector_parts(workplace), SCRUBBED_CORPUS.libraries
    words = load_word_lists(workplace.settings.data, line.line)
    job = ScrubJob(
        source=inputs[CLASSIFIED_CORPUS.kind].file(DOCUMENTS),
        line=line.line,
        run=identity_of(
            SCRUBBED_CORPUS, workplace, {kind: artifact.ref for kind, artifact in inputs.items()}
        ).fingerprint,
        privacy=line.privacy,
        treatments=treatments,
        detector=detector_digest(line.privacy, treatments, digests, libraries, words),
        cache=workplace.settings.privacy_cache,
        secret=read_secret(workplace.settings.caches_key),
        words=words,
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
            "doubtful": {kind: rows.total() for kind, rows in sorted(findings.doubtful.items())},
        },
        measured={
            "scrub_seconds": round(seconds, 3),
            "characters_per_second": round(findings.characters / seconds, 1),
            "texts_searched": findings.searched,
        },
        recorded={PUBLIC_KEY: vault.fingerprint},
    )


def _vault_of(workplace: Workplace) -> Vault:
    """Return the vault. Raises PrivacyError if its public key is not the expected one: `vault_key` in institution.yaml,
    or else the key of the newest scrubbed corpus. Whoever planted another key could decrypt the originals."""
    path = workplace.settings.vault_public_key
    vault = Vault.at(workplace.settings.vault, path)
    named = workplace.institution.vault_key
    expected = named or _last_key(workplace)
    if expected not in (None, vault.fingerprint):
        by = "in institution.yaml" if named else "of the key that the newest scrubbed corpus used"
        raise PrivacyError(
            f"{path}: this public key has the fingerprint {vault.fingerprint}. The fingerprint {by} is {expected}. "
            "Nothing was written.",
            "Find out who changed the file. If the key was changed on purpose, set `vault_key` in "
            "institution.yaml to the new fingerprint.",
        )
    return vault


def _last_key(workplace: Workplace) -> str | None:
    """Return the fingerprint of the public key that the newest scrubbed corpus of any line of adapters used. Return
    None if there is no scrubbed corpus yet."""
    store = workplace.store
    made = [store.read_manifest(ref).circumstances for ref in store.indexed(SCRUBBED_CORPUS.kind)]
    keys = [(each.created_at, each.recorded[PUBLIC_KEY]) for each in made if PUBLIC_KEY in each.recorded]
    return max(keys)[1] if keys else None


def evaluate_no_identifier_left(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Search the scrubbed documents with the stricter second search of the scrubber (`Detector.read_again`).

    The recipe's own recognizers run too, and columns and kept words are searched as in `kinds_in_columns`. If all
    findings rest on weak evidence, the gate is inconclusive. A recipe may permit an officer to waive an inconclusive
    gate. The gate ignores kinds that the policy keeps. It also ignores values that are found as such a kind elsewhere
    in the same text, and values that the word lists exclude.
    """
    treatments = workplace.institution.treatments(workplace.line.line)
    kinds_in = workplace.kinds_in_columns(RAW_CORPUS.config_at(workplace))
    countdown = Countdown(workplace.progress, "gate no_identifier_left", _rows_in(artifact), "document")
    words = load_word_lists(workplace.settings.data, workplace.line.line)
    detector = Detector(workplace.line.privacy, treatments, words)
    left: Counter[str] = Counter()
    by_lists: Counter[str] = Counter()
    listed: list[dict[str, Any]] = []
    certain = count = 0
    for document in read_documents(artifact.file(DOCUMENTS)):
        count += 1
        try:
            readings = [each for name, text in document.texts.items() for each in readings_of(document, name, text)]
            found = [detector.read_again(document.language, each) for each in readings]
            found.append(detector.read_again(document.language, document.author))
            in_columns = [kind for each in _columns_of(document) for kind in kinds_of(kinds_in, *each)]
            for word in set(kept_words(document)):
                in_columns += [kind for kind in kinds_in(word) if kind != "NAME" or not names_a_field(word)]
        except SovereignError:
            raise
        except Exception as error:  # its message may quote a text
            raise PrivacyError(
                f"Line {count} of the scrubbed corpus: the second search for personal data raised "
                f"{type(error).__name__}.",
                "Correct the row in its source, or correct the detector. Then run the line again.",
            ) from None
        left_here = [span for each in found for span in each.left]
        by_lists.update(span.kind for each in found for span in each.by_lists)
        certain += len(in_columns) + sum(not span.by_length for span in left_here)
        kinds = [*(span.kind for span in left_here), *in_columns]
        left.update(kinds)
        if kinds:  # the id itself may contain the finding
            listed.append({"row": f"line {count}" if in_columns else document.id, "kinds": sorted(set(kinds))})
        countdown.reached(count)
    rows = [str(each["row"]) for each in listed]
    evidence = {
        "rows_read": count,
        "left": dict(sorted(left.items())),
        "rows": rows[:ROWS_IN_EVIDENCE],
        "rows_with_identifiers": len(rows),
        "left_by_word_lists": dict(sorted(by_lists.items())),
    }
    if not rows:
        stays = f"; the line's word lists leave {by_lists.total():,} values that look like one" if by_lists else ""
        return Verdict(True, f"no structured identifier is left in {count:,} rows{stays}.", evidence)
    named = ", ".join(f"{number} {kind}" for kind, number in sorted(left.items()))
    message = (
        f"left in the output: {named}; rows {and_more(rows)}. Look at them in the preview; leave them out with the "
        f"source's key `exclude`, or correct them in the source."
    )
    return Verdict(False, message, evidence, tuple(listed), inconclusive=not certain)


def evaluate_columns_kept(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Compare each document with the same row of the classified corpus. Scrubbing may change only texts and authors."""
    rows = max(_rows_in(artifact), _rows_in(inputs[CLASSIFIED_CORPUS.kind]))
    countdown = Countdown(workplace.progress, "gate columns_kept", rows, "document")
    both = zip_longest(
        read_documents(artifact.file(DOCUMENTS)), read_documents(inputs[CLASSIFIED_CORPUS.kind].file(DOCUMENTS))
    )
    differing: list[str] = []
    count = 0
    for count, (scrubbed, classified) in enumerate(both, start=1):
        if scrubbed is None or classified is None or _columns(scrubbed) != _columns(classified):
            differing.append(f"line {count}")
        countdown.reached(count)
    evidence = {"rows": differing[:ROWS_IN_EVIDENCE], "rows_that_differ": len(differing)}
    if not differing:
        return Verdict(True, f"all {count:,} rows have the level and columns that they had.", evidence)
    message = (
        f"{len(differing):,} rows differ from the classified corpus in more than their texts: {and_more(differing)}."
    )
    return Verdict(False, message, evidence)


def evaluate_sample_judged(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Verify that people judged as many replaced values of this corpus as the recipe demands."""
    line = workplace.line
    estimate = estimate_of(read_judgements(workplace, artifact.ref.digest))
    evidence = {
        "rows": estimate.rows,
        "values": estimate.judged,
        "demanded": line.privacy.judged or 0,
        "by_kind": {
            kind: {
                "right": estimate.right[kind],
                "wrong": estimate.wrong[kind],
                "missed": estimate.missed[kind],
                "precision": format_share(estimate.precision([kind])),
                "recall": format_share(estimate.recall([kind])),
            }
            for kind in estimate.kinds
        },
    }
    found = (
        f"precision {format_share(estimate.precision())}, recall {format_share(estimate.recall())}"
        if estimate.judged
        else "none was judged"
    )
    if line.privacy.judged is None:
        return Verdict(True, f"the recipe demands no judged sample; {found}.", evidence)
    counted = f"{estimate.judged:,} of {line.privacy.judged:,} replaced values were judged by a person"
    if estimate.judged >= line.privacy.judged:
        return Verdict(True, f"{counted}: {found}.", evidence)
    command = f"sovereign privacy preview {line.line} --judge NAME"
    return Verdict(False, f"{counted}; {found}. Judge more with `{command}`, and run the line again.", evidence)


def judgements_demanded(workplace: Workplace) -> dict[str, str]:
    """Return `recorded_judgements` if the recipe demands judgements, otherwise an empty dict."""
    return recorded_judgements(workplace) if workplace.line.privacy.judged is not None else {}


def _columns(document: Document) -> dict[str, object]:
    """Return what scrubbing must not change in a document: all columns except the author, the names of the non-empty
    texts, and the JSON structure of these texts."""
    columns = document.with_texts(dict.fromkeys(document.texts, "{}")).model_dump(exclude={"author"})
    texts = {name: outline_of(readings_of(document, name, text)[0]) for name, text in document.texts.items() if text}
    return {**columns, "texts": texts}


def _columns_of(document: Document) -> list[tuple[str, str]]:
    """Return the column and value of each kept column that may contain personal data."""
    ids = [("id", each) for each in (document.id, *document.links)]
    return [*ids, ("case", document.case), ("department", document.department)]


def _rows_in(artifact: Artifact) -> int:
    with artifact.file(DOCUMENTS).open("rb") as stream:
        return sum(1 for _ in stream)


def detector_parts(workplace: Workplace) -> dict[str, str]:
    """Return the digests of the detectors' external inputs. The key `name_model:LANGUAGE` stands for a model's files
    and libraries, `recognizer:CLASS` for the code version of an added recognizer, and `word_lists` for the word lists.
    `word_lists` is missing if the word lists are empty."""
    privacy = workplace.line.privacy
    models = {f"name_model:{key}": digest_of(name_model_parts(model)) for key, model in privacy.name_models.items()}
    words = load_word_lists(workplace.settings.data, workplace.line.line)
    lists = {"word_lists": digest_of(words.model_dump(mode="json"))} if words != NO_WORDS else {}
    return dict(sorted({**models, **recognizer_digests(privacy), **lists}.items()))


def sensitive_kinds(institution: Institution, line: Line) -> Config:
    """Return the institution's treatment of each kind in this line of adapters."""
    return {"sensitive": dict(institution.treatments(line.line))}


SCRUBBED_CORPUS = Stage(
    kind="scrubbed_corpus",
    code_version="10",
    build=build_scrubbed_corpus,
    inputs=(CLASSIFIED_CORPUS,),
    reads_corpus=lambda line: True,
    selects_rows=True,
    config=lambda line: {"privacy": line.privacy.identity()},
    policy=sensitive_kinds,
    external=detector_parts,
    libraries=("detect-secrets", "phonenumbers", "presidio-analyzer", "python-stdnum", "spacy"),
    gates=(
        Gate(
            name="no_identifier_left",
            question=(
                "Does a second, stricter reading find no structured identifier in the texts, and no personal data in "
                "the columns?"
            ),
            code_version="8",
            evaluate=evaluate_no_identifier_left,
            policy=sensitive_kinds,
            officer_may=lambda line: line.privacy.officer_may,
        ),
        Gate(
            name="columns_kept",
            question="Is every document of the classified corpus still there, with its level and its other columns?",
            code_version="1",
            evaluate=evaluate_columns_kept,
        ),
        Gate(
            name="sample_judged",
            question="Did a person judge as many replaced values of a sample as the recipe demands?",
            code_version="1",
            evaluate=evaluate_sample_judged,
            config=lambda line: {"judged": line.privacy.judged},
            external=judgements_demanded,
        ),
    ),
)
