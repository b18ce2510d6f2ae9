"""Scrub batches of case files together with canaries, which verify that the detectors work, and count the findings."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.case_files import CaseScrubber, ScrubbedCase, SearchedDocument
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import Detector, FindingsCache, SearchedText, Text, read_findings, texts_of
from sovereign_pipeline.privacy.spans import AUTHOR, Span, kind_of, reject_placeholders

CANARY_CASE = "canary"


@dataclass(frozen=True)
class Canary:
    """A document with invented personal data, which scrubbing must replace."""

    document: Document
    planted: tuple[tuple[Kind, str], ...]
    """Values that scrubbing must remove, each with its kind."""

    @property
    def language(self) -> str:
        return self.document.language

    def check(self, scrubbed: Document, kept: Collection[Kind] = ()) -> None:
        """Raise PrivacyError unless every planted value is gone and each expected kind has a placeholder.

        Args:
            kept: kinds that the policy leaves in the text. Kinds in `kept` are not checked, and those of
                `KEPT_BY_DEFAULT` need no placeholder.
        """
        text = "\n".join((*scrubbed.texts.values(), scrubbed.author))
        missed = sum(kind not in kept and value in text for kind, value in self.planted)
        absent = [
            kind for kind in KINDS if kind not in KEPT_BY_DEFAULT and kind not in kept and f"{kind}_1" not in text
        ]
        if missed or absent:
            raise PrivacyError(
                f"The scrubbed {self.language} canary has {missed} planted values left, and no placeholder for "
                f"{len(absent)} kinds ({', '.join(absent) or 'none'}). Nothing was written.",
                "Reinstall the detectors, or undo the change to recipe.privacy that hides the canary.",
            )


def _read_canaries() -> tuple[Canary, ...]:
    rows = json.loads(Path(__file__).with_name("canaries.json").read_bytes())
    return tuple(
        Canary(
            Document(
                id=f"{CANARY_CASE}-{row['language']}",
                source=CANARY_CASE,
                case=f"{CANARY_CASE}-{row['language']}",
                department=CANARY_CASE,
                author=row["author"],
                date="2000-01-01",
                classification=CANARY_CASE,
                language=row["language"],
                subject="",
                request=row["request"],
                response=row["response"],
            ),
            tuple((kind, value) for kind, value in row["planted"]),
        )
        for row in rows
    )


CANARIES = _read_canaries()
"""Canary documents, one for each language. Their IBANs and card number have valid check digits and belong to nobody."""

TextsByField = Mapping[str, Text]
SpansByText = dict[bytes, list[Span]]


class Scrubber:
    """A scrubber with the detectors of one line of adapters and its institution's treatment of each kind."""

    def __init__(
        self,
        line: str,
        run: str,
        privacy: Privacy,
        treatments: Treatments | None = None,
        cache: FindingsCache | None = None,
        words: WordLists = NO_WORDS,
    ) -> None:
        """
        Args:
            line: name of the line of adapters.
            run: fingerprint under which its originals go to the vault.
            treatments: treatment of each kind; a kind that is missing is replaced.
            cache: cached findings of earlier texts.
            words: the word lists that correct the findings.
        """
        self.detector = Detector(privacy, treatments or {}, words)
        self.texts_searched = 0
        added = self.detector.added_spans if privacy.recognizers else None
        self._cases = CaseScrubber(
            line,
            run,
            treatments or {},
            self.detector.patterns,
            self.detector.corrections,
            added=added,
            regions=self.detector.regions,
        )
        self._once = replace(self._cases, reads_again=False)  # a second reading would hide a failure of the first one
        self._kept = frozenset(kind for kind, treatment in (treatments or {}).items() if treatment == "keep")
        self._cache = cache

    def keeps(self, kind: Kind) -> bool:
        """Return whether the policy leaves values of a kind in the text."""
        return kind in self._kept

    def scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        """Scrub whole case files together with the canaries. The documents of a case file are in row order.

        New findings are cached only after the canaries pass. Raises PrivacyError if a detector raises (the error names
        the row), a canary value survives, or a text already contains something that looks like a placeholder.
        """
        for case in cases:
            for document in case:
                reject_placeholders(document)
        texts = [[texts_of(document) for document in case] for case in cases]
        canaries = [texts_of(canary.document, is_canary=True) for canary in CANARIES]
        spans, new = self._search(text for fields in (*chain(*texts), *canaries) for text in fields.values())
        scrubbed = [_scrub_case(self._cases, case, fields, spans) for case, fields in zip(cases, texts, strict=True)]
        self._check_canaries(canaries, spans)
        if self._cache is not None and new:
            self._cache.write(new)
        return scrubbed

    def _search(self, texts: Iterable[Text]) -> tuple[SpansByText, dict[bytes, bytes]]:
        """Return the spans of each text by its key, and the new findings in binary form.

        If any text is searched, the canaries are searched with it instead of being read from the cache.
        """
        by_key = {text.key: text for text in texts if text.original}
        spans = self._remembered(by_key)
        missing = [key for key in by_key if key not in spans]
        if not missing:
            return spans, {}
        searched = [text for key, text in by_key.items() if text.is_canary or key not in spans]
        new = dict(zip((text.key for text in searched), self.detector.find(searched), strict=True))
        self.texts_searched += len(missing)
        return spans | _read(new, by_key), new

    def _remembered(self, texts: Mapping[bytes, Text]) -> dict[bytes, list[Span]]:
        return _read(self._cache.read(list(texts)), texts) if self._cache is not None else {}

    def _check_canaries(self, texts: Sequence[TextsByField], spans: SpansByText) -> None:
        for canary, fields in zip(CANARIES, texts, strict=True):
            canary.check(_scrub_case(self._once, [canary.document], [fields], spans).documents[0], self._kept)


def _scrub_case(
    scrubber: CaseScrubber, documents: Sequence[Document], fields: Sequence[TextsByField], spans: SpansByText
) -> ScrubbedCase:
    searched = [
        SearchedDocument.of(document, [_searched(name, text, spans) for name, text in texts.items()])
        for document, texts in zip(documents, fields, strict=True)
    ]
    return scrubber.scrub(searched)


def _read(findings: Mapping[bytes, bytes], texts: Mapping[bytes, Text]) -> dict[bytes, list[Span]]:
    """Return the spans of findings in binary form. Findings that do not fit their text are ignored."""
    read = {key: read_findings(content, texts[key].normalised) for key, content in findings.items()}
    return {key: spans for key, spans in read.items() if spans is not None}


def _searched(field: str, text: Text, spans: SpansByText) -> SearchedText:
    return SearchedText(field, text, spans[text.key] if text.original else [])


@dataclass
class Findings:
    """Counts of the values and texts in one scrubbing."""

    documents: int = 0
    documents_touched: int = 0
    """Number of documents with a replaced value in their texts. The author column does not count."""
    cases: int = 0
    characters: int = 0
    """Number of characters in all texts."""
    searched: int = 0
    """Number of texts whose findings were not cached."""
    by_language: dict[str, Counter[Kind]] = field(default_factory=dict)
    """Language -> kind -> number of replaced values."""
    kept: Counter[Kind] = field(default_factory=Counter)
    """Kind -> number of values that the policy leaves in the text."""
    ambiguous: list[dict[str, Any]] = field(default_factory=list)
    """Cases and their rows with a short name that could belong to several people and therefore gets a number of its
    own."""
    doubtful: dict[Kind, Counter[str]] = field(default_factory=dict)
    """Kind -> row id -> number of values that were replaced on weak evidence: by their number of digits alone, or by
    the second reading."""
    mapping_sha256: str = ""
    """Digest of all rows written to the vault (`vault.MappingDigest`); empty until the scrubbing is complete."""

    @property
    def by_kind(self) -> Counter[Kind]:
        return sum(self.by_language.values(), Counter())

    def add(self, other: "Findings") -> None:
        self.documents += other.documents
        self.documents_touched += other.documents_touched
        self.cases += other.cases
        self.characters += other.characters
        self.searched += other.searched
        for language, kinds in other.by_language.items():
            self.by_language.setdefault(language, Counter()).update(kinds)
        self.kept.update(other.kept)
        self.ambiguous += other.ambiguous
        for kind, rows in other.doubtful.items():
            self.doubtful.setdefault(kind, Counter()).update(rows)

    def to_json(self, run: str) -> dict[str, Any]:
        """Return the content of `findings.json`.

        Args:
            run: fingerprint of the scrubbing, which the vault's rows state.
        """
        return {
            "run": run,
            "mapping_sha256": self.mapping_sha256,
            "documents": self.documents,
            "documents_touched": self.documents_touched,
            "cases": self.cases,
            "by_kind": dict(sorted(self.by_kind.items())),
            "by_language": {lang: dict(sorted(kinds.items())) for lang, kinds in sorted(self.by_language.items())},
            "kept": dict(sorted(self.kept.items())),
            "doubtful": {
                kind: {"values": rows.total(), "rows": sorted(rows)} for kind, rows in sorted(self.doubtful.items())
            },
            "ambiguous_names": sorted(self.ambiguous, key=lambda entry: str(entry["case"])),
        }


def findings_of(before: Sequence[Document], case: ScrubbedCase) -> Findings:
    """Return the counts of one scrubbed case.

    Args:
        before: the documents of the case before scrubbing.
    """
    languages = {document.id: document.language for document in before}
    by_language: dict[str, Counter[Kind]] = {}
    for entry in case.mapping:
        by_language.setdefault(languages[entry.row], Counter())[kind_of(entry.placeholder)] += 1
    doubtful: dict[Kind, Counter[str]] = {}
    for row, kinds in case.doubtful.items():
        for kind, values in kinds.items():
            doubtful.setdefault(kind, Counter())[row] += values
    return Findings(
        documents=len(before),
        documents_touched=len({row.row for row in case.mapping if row.field != AUTHOR}),
        cases=1,
        characters=sum(len(text) for document in before for text in document.texts.values()),
        by_language=by_language,
        kept=case.kept,
        ambiguous=[{"case": before[0].case, "rows": case.ambiguous_rows}] if case.ambiguous_rows else [],
        doubtful=doubtful,
    )
