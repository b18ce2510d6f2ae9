"""Scrub batches of case files together with canaries, which verify that the detectors work, and count the findings."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError, SovereignError, place_of
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.case_files import CaseScrubber, ScrubbedCase, SearchedDocument, SearchedText
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import Detector, FindingsCache, SpansByText, Text, texts_of
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import AUTHOR, kind_of, reject_placeholders


@dataclass(frozen=True)
class Canary:
    """A document with invented personal data, which scrubbing must replace."""

    document: Document
    planted: tuple[tuple[Kind, str], ...]
    """Values that scrubbing must remove, each with its kind."""

    @property
    def language(self) -> str:
        return self.document.language

    def check(self, scrubbed: Document, keeps: Callable[[Kind], bool]) -> None:
        """Raise PrivacyError unless every planted value is gone and each expected kind has a placeholder.

        Args:
            keeps: returns whether the policy leaves a kind in the text. Such a kind is not checked, and those of
                `KEPT_BY_DEFAULT` need no placeholder.
        """
        text = "\n".join((*scrubbed.texts.values(), scrubbed.author))
        missed = sum(value in text for kind, value in self.planted if not keeps(kind))
        expected = [kind for kind in KINDS if kind not in KEPT_BY_DEFAULT and not keeps(kind)]
        absent = [kind for kind in expected if f"{kind}_1" not in text]
        if missed or absent:
            raise PrivacyError(
                f"The scrubbed {self.language} canary has {missed} planted values left, and no placeholder for "
                f"{len(absent)} kinds ({', '.join(absent) or 'none'}). Nothing was written.",
                "Reinstall the detectors, or undo the change to recipe.privacy that hides the canary.",
            )


def _read_canaries() -> tuple[Canary, ...]:
    rows = json.loads(Path(__file__).with_name("canaries.json").read_bytes())
    columns = {
        "date": "2000-01-01",
        "subject": "",
        **dict.fromkeys(("source", "department", "classification"), "canary"),
    }
    found = []
    for row in rows:
        planted = tuple((kind, value) for kind, value in row.pop("planted"))
        request, response = row.pop("request"), row.pop("response")
        looked_up = {"text": request}
        conversation = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "tool_calls": [{"name": "look_up", "arguments": looked_up}]},
            {"role": "tool", "content": json.dumps(looked_up)},
            {"role": "assistant", "content": response},
        ]
        for name, texts in (
            ("canary", {"request": request, "response": response}),
            ("canary-conversation", {"messages": conversation}),
        ):
            name = f"{name}-{row['language']}"
            found.append(
                Canary(Document.model_validate({**columns, **row, **texts, "id": name, "case": name}), planted)
            )
    return tuple(sorted(found, key=lambda each: not each.document.is_letter))


CANARIES = _read_canaries()
"""Canary documents: for each language a letter, and a conversation with a call and its result. Their IBANs and card
number have valid check digits and belong to nobody."""


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
        self._line, self._run = line, run
        self._cache = cache

    def scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        """Scrub whole case files together with the canaries. The documents of a case file are in row order.

        New findings are cached only after the canaries pass. Raises PrivacyError if a detector raises (the error names
        the row), a canary value survives, or a text already contains something that looks like a placeholder.
        """
        try:
            return self._scrub(cases)
        except SovereignError:
            raise
        except Exception as error:  # its message may quote a text
            raise PrivacyError(
                f"Scrubbing failed with {place_of(error)}, {self._where_it_fails(cases)}. Nothing was written.",
                "Correct the row in its source or the detector, or leave the row out with `exclude`.",
            ) from None

    def _scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        for document in chain(*cases):
            reject_placeholders(document)
        texts = [[texts_of(document) for document in case] for case in cases]
        canaries = [texts_of(canary.document, is_canary=True) for canary in CANARIES]
        spans, new = self._search([text for fields in (*chain(*texts), *canaries) for text in fields.values()])
        scrubbed = [self._scrub_case(case, fields, spans) for case, fields in zip(cases, texts, strict=True)]
        for canary, fields in zip(CANARIES, canaries, strict=True):
            # A second reading would hide a failure of the first one.
            (after,) = self._scrub_case([canary.document], [fields], spans, reads_again=False).documents
            canary.check(after, self.detector.keeps)
        if self._cache is not None and new:
            self._cache.write(new)
        return scrubbed

    def _search(self, texts: Sequence[Text]) -> tuple[SpansByText, SpansByText]:
        """Return the spans of each text by its key, and those of them that were not cached.

        If any text is searched, the canaries are searched with it instead of being read from the cache.
        """
        by_key = {text.key: text for text in texts}
        cached = self._cache.read(list(by_key.values())) if self._cache is not None else {}
        missing = len(by_key.keys() - cached.keys())
        if not missing:
            return cached, {}
        new = self.detector.find([text for key, text in by_key.items() if text.is_canary or key not in cached])
        self.texts_searched += missing
        return cached | new, new

    def _scrub_case(
        self,
        case: Sequence[Document],
        texts: Sequence[Mapping[str, Text]],
        spans: SpansByText,
        *,
        reads_again: bool = True,
    ) -> ScrubbedCase:
        searched = [
            SearchedDocument(
                document,
                [SearchedText(name, text.normalised, spans[text.key]) for name, text in fields.items()],
                normalise(document.author).text,
            )
            for document, fields in zip(case, texts, strict=True)
        ]
        return CaseScrubber(self._line, self._run, self.detector, reads_again=reads_again).scrub(searched)

    def _where_it_fails(self, cases: Sequence[Sequence[Document]]) -> str:
        """Return the ids of the rows that fail: single rows if they fail alone, otherwise all rows of the case file
        that fails."""
        for case in cases:
            if self._fails(case):
                ids = [document.id for document in case if self._fails([document])] or [each.id for each in case]
                return f"in {'row' if len(ids) == 1 else 'rows of one case file:'} {and_more(ids)}"
        return f"in a batch that begins with row {cases[0][0].id}, and in none of its case files alone"

    def _fails(self, case: Sequence[Document]) -> bool:
        try:
            self._scrub([case])
        except Exception:  # `scrub` reports the exception's class
            return True
        return False


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

    def add(self, before: Sequence[Document], case: ScrubbedCase) -> None:
        """Add the counts of one scrubbed case.

        Args:
            before: the documents of the case before scrubbing.
        """
        self.documents += len(before)
        self.documents_touched += len({row.row for row in case.mapping if row.field != AUTHOR})
        self.cases += 1
        self.characters += sum(len(text) for document in before for text in document.texts.values())
        languages = {document.id: document.language for document in before}
        for entry in case.mapping:
            self.by_language.setdefault(languages[entry.row], Counter())[kind_of(entry.placeholder)] += 1
        self.kept.update(case.kept)
        if case.ambiguous_rows:
            self.ambiguous.append({"case": before[0].case, "rows": case.ambiguous_rows})
        for kind, rows in case.doubtful.items():
            self.doubtful.setdefault(kind, Counter()).update(rows)

    def merge(self, other: "Findings") -> None:
        """Add the counts of another part of the same scrubbing."""
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
