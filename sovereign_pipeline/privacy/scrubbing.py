"""Scrub batches of case files, and count the findings. Canaries verify that the detectors work."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path

from sovereign_pipeline.base.errors import PrivacyError, SovereignError, place_of
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.case_files import (
    CaseScrubber,
    Decision,
    ScrubbedCase,
    SearchedDocument,
    SearchedText,
    apply_decisions,
    decisions_from_json,
    decisions_to_json,
)
from sovereign_pipeline.privacy.corrections import NO_WORDS, WordLists
from sovereign_pipeline.privacy.detection import (
    Detector,
    FindingsCache,
    SpansByText,
    Text,
    spans_from_json,
    spans_to_json,
    texts_of,
)
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import reject_placeholders


@dataclass(frozen=True)
class Canary:
    """A document with invented personal data, which scrubbing must replace."""

    document: Document
    planted: tuple[tuple[Kind, str], ...]
    """Pairs (kind, value) of the values that scrubbing must remove."""

    @property
    def language(self) -> str:
        return self.document.language

    def check(self, scrubbed: Document, keeps: Callable[[Kind], bool]) -> None:
        """Raise PrivacyError unless every planted value is gone and each kind outside `KEPT_BY_DEFAULT` has a
        placeholder.

        Args:
            keeps: returns whether the policy leaves a kind in the text. Such kinds are not checked.
        """
        text = "\n".join((*scrubbed.texts.values(), scrubbed.author))
        missed = sum(value in text for kind, value in self.planted if not keeps(kind))
        expected = [kind for kind in KINDS if kind not in KEPT_BY_DEFAULT and not keeps(kind)]
        absent = [kind for kind in expected if f"{kind}_1" not in text]
        if missed or absent:
            raise PrivacyError(
                f"The scrubbed {self.language} canary has {missed} planted values left, and no placeholder for "
                f"{len(absent)} kinds ({', '.join(absent) or 'none'}). Nothing was written.",
                "Reinstall the detectors, or undo the change in the recipe's `privacy` that made them miss the canary.",
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
"""Canary documents. Each language has two: a letter, and a conversation with a tool call and the call's result. The
IBANs and the card number in them have valid check digits and belong to nobody."""


class Scrubber:
    """Scrubs case files with the detectors of one line of adapters and the institution's treatment of each kind."""

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
            run: fingerprint of the scrubbing run, which is stored in each of the run's rows in the vault.
            treatments: treatment of each kind, as in `Detector`.
            cache: cache of findings and decisions; None to search every text.
            words: the word lists that correct the findings.
        """
        self.detector = Detector(privacy, treatments or {}, words)
        self.texts_searched = 0
        self._line, self._run = line, run
        self._cache = cache

    def scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        """Scrub whole case files. The documents of a case file are in row order.

        Case files whose decisions are cached are not searched. The others are searched together with the canaries.
        Their findings and decisions are cached only if the canaries pass.

        Raises PrivacyError if a detector raises (the error names rows), a canary is not scrubbed completely, two keys
        of a JSON object become equal, or a text already contains what looks like a placeholder.
        """
        try:
            return self._scrub(cases)
        except SovereignError:
            raise
        except Exception as error:  # its message may quote a text
            raise PrivacyError(
                f"Scrubbing failed with {place_of(error)}, {self._where_it_fails(cases)}. Nothing was written.",
                "Correct the row in its source, correct the detector, or leave the row out with `exclude`.",
            ) from None

    def _scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        keys = [_key_of(case) for case in cases]
        decided = {key: decisions_from_json(entry) for key, entry in self._cached(keys).items()}
        missing = {key: case for key, case in zip(keys, cases, strict=True) if key not in decided}
        if missing:
            decided |= self._decide(missing)
        return [self._apply(case, decided[key]) for key, case in zip(keys, cases, strict=True)]

    def _apply(self, case: Sequence[Document], decisions: Sequence[Decision]) -> ScrubbedCase:
        return apply_decisions(self._line, self._run, self.detector.treatments, case, decisions)

    def _cached(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        return self._cache.read(keys) if self._cache is not None else {}

    def _decide(self, cases: Mapping[bytes, Sequence[Document]]) -> dict[bytes, list[Decision]]:
        """Return the decisions about case files, by the key of the case file, and cache them."""
        for document in chain(*cases.values()):
            reject_placeholders(document)
        texts = [[texts_of(document) for document in case] for case in cases.values()]
        canaries = [texts_of(canary.document, is_canary=True) for canary in CANARIES]
        spans, new = self._search([text for fields in (*chain(*texts), *canaries) for text in fields.values()])
        decided = {
            key: self._decide_on_case(case, fields, spans)
            for (key, case), fields in zip(cases.items(), texts, strict=True)
        }
        for canary, fields in zip(CANARIES, canaries, strict=True):
            # A second search would hide a failure of the first one.
            decisions = self._decide_on_case([canary.document], [fields], spans, reads_again=False)
            (after,) = self._apply([canary.document], decisions).documents
            canary.check(after, self.detector.keeps)
        if self._cache is not None:
            entries = {key: spans_to_json(found) for key, found in new.items()}
            self._cache.write(entries | {key: decisions_to_json(decisions) for key, decisions in decided.items()})
        return decided

    def _search(self, texts: Sequence[Text]) -> tuple[SpansByText, SpansByText]:
        """Return two dicts from text key to findings: one for all texts, and one for the texts that were searched.

        A text is searched if its findings are not cached. If any text is searched, so are all canaries.
        """
        by_key = {text.key: text for text in texts}
        entries = self._cached(by_key.keys())
        cached = {key: spans_from_json(entry, by_key[key].normalised.text) for key, entry in entries.items()}
        missing = len(by_key.keys() - cached.keys())
        if not missing:
            return cached, {}
        new = self.detector.find([text for key, text in by_key.items() if text.is_canary or key not in cached])
        self.texts_searched += missing
        return cached | new, new

    def _decide_on_case(
        self,
        case: Sequence[Document],
        texts: Sequence[Mapping[str, Text]],
        spans: SpansByText,
        *,
        reads_again: bool = True,
    ) -> list[Decision]:
        searched = [
            SearchedDocument(
                document,
                [SearchedText(name, text.normalised, spans[text.key]) for name, text in fields.items()],
                normalise(document.author).text,
            )
            for document, fields in zip(case, texts, strict=True)
        ]
        return CaseScrubber(self.detector, reads_again=reads_again).decide(searched)

    def _where_it_fails(self, cases: Sequence[Sequence[Document]]) -> str:
        """Return a phrase that names the rows on which scrubbing fails. If no row fails on its own, the phrase names
        all rows of the failing case file."""
        for case in cases:
            if self._fails(case):
                ids = [document.id for document in case if self._fails([document])] or [each.id for each in case]
                return f"in {'row' if len(ids) == 1 else 'rows of one case file:'} {and_more(ids)}"
        return f"in the batch that begins with row {cases[0][0].id}; no case file of the batch fails on its own"

    def _fails(self, case: Sequence[Document]) -> bool:
        try:
            self._scrub([case])
        except Exception:  # `scrub` reports the exception's class
            return True
        return False


def _key_of(case: Sequence[Document]) -> bytes:
    """Return the key of a case file's decisions in the cache: a SHA-256 of all columns of its documents."""
    return sha256("\n".join(["case file", *(document.model_dump_json() for document in case)]).encode()).digest()
