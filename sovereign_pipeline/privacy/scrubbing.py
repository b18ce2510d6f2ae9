"""From documents to documents with placeholders: a batch of case files at a time, together with the canaries.

What belongs here: what is searched and what is remembered, and the proof that the detectors ran. What does not: what a
detector finds in a text (`detection.py`), the placeholders of one case (`case_files.py`), a whole corpus (`engines/`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.canary import CANARIES
from sovereign_pipeline.privacy.case_files import CaseScrubber, ScrubbedCase, SearchedDocument
from sovereign_pipeline.privacy.detection import Detector, SearchedText, Text, read_findings, texts_of
from sovereign_pipeline.privacy.placeholders import refuse_placeholders
from sovereign_pipeline.privacy.spans import Span
from sovereign_pipeline.privacy.word_lists import NO_WORDS, WordLists

TextsByField = Mapping[str, Text]
SpansByText = dict[bytes, list[Span]]


class Scrubber:
    """The detectors of one line, and what its institution wants done with what they find."""

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
            line: name of the line.
            run: fingerprint under which its originals go to the vault.
            treatments: what is done with each kind; a kind that is not named is replaced.
            cache: what was found in earlier texts.
            words: what people corrected in the line's findings.
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
        self._once = replace(self._cases, reads_again=False)  # a second reading would hide that the first one fails
        self._kept = frozenset(kind for kind, treatment in (treatments or {}).items() if treatment == "keep")
        self._cache = cache

    def keeps(self, kind: Kind) -> bool:
        """Whether values of a kind stay in the text."""
        return kind in self._kept

    def scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        """Scrub whole case files, each with its documents in row order, together with the canaries.

        What was found in new texts is remembered once the canaries came out as they must. Raises PrivacyError when a
        detector raises (naming the row), a canary survives, or a text already holds what looks like a placeholder.
        """
        for case in cases:
            for document in case:
                refuse_placeholders(document)
        texts = [[texts_of(document) for document in case] for case in cases]
        canaries = [texts_of(canary.document, is_canary=True) for canary in CANARIES]
        spans, new = self._search(text for fields in (*chain(*texts), *canaries) for text in fields.values())
        scrubbed = [_scrub_case(self._cases, case, fields, spans) for case, fields in zip(cases, texts, strict=True)]
        self._check_canaries(canaries, spans)
        if self._cache is not None and new:
            self._cache.write(new)
        return scrubbed

    def _search(self, texts: Iterable[Text]) -> tuple[SpansByText, dict[bytes, bytes]]:
        """The spans of each text by its key; and the findings that are new, in their written form.

        Whenever a text is searched, the canaries are searched with it and not taken from the cache.
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
    """The spans behind findings in their written form; one that does not fit its text is left out."""
    read = {key: read_findings(content, texts[key].normalised) for key, content in findings.items()}
    return {key: spans for key, spans in read.items() if spans is not None}


def _searched(field: str, text: Text, spans: SpansByText) -> SearchedText:
    return SearchedText(field, text, spans[text.key] if text.original else [])
