"""Run the detectors over texts, and cache the findings by the text's digest.

Findings depend only on the text and the detectors. The cache contains offsets and kinds, never text.
"""

import sqlite3
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import digest_of, file_sha256, keyed_digest
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline.privacy.corrections import NO_WORDS, Corrections, WordLists
from sovereign_pipeline.privacy.identifiers.phones import Regions
from sovereign_pipeline.privacy.names.name_models import load_name_model
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns, name_key
from sovereign_pipeline.privacy.normalisation import NormalisedText, normalise
from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps
from sovereign_pipeline.record.stage import library_versions

if TYPE_CHECKING:
    from sovereign_pipeline.privacy.analysis import Analysis, TextArtifacts

LETTER = "request"
"""Name of the document field that may end with a signature."""

_SPAN = struct.Struct("<IIBB")  # start, end, index of the kind, flags
_LABELLED, _BY_LENGTH = 1, 2

Found = TypeVar("Found")


class Text(NamedTuple):
    """A field of a document, as input of the detectors."""

    key: bytes
    """SHA-256 of language, `is_letter` and original text. Equal texts of different documents share it."""
    row: str
    """The document's id."""
    language: str
    is_letter: bool
    """True if the text may end with a signature."""
    normalised: NormalisedText
    is_canary: bool = False

    @classmethod
    def of(cls, row: str, language: str, is_letter: bool, original: str, is_canary: bool = False) -> "Text":
        key = sha256(f"{language}\0{is_letter:d}\0{original}".encode("utf-8", "surrogatepass")).digest()
        return cls(key, row, language, is_letter, normalise(original), is_canary)

    @property
    def original(self) -> str:
        return self.normalised.original


@dataclass(frozen=True)
class SearchedText:
    """A text, the name of its field, and its findings in reading order, without overlaps."""

    field: str
    text: Text
    spans: Sequence[Span]

    @property
    def content(self) -> str:
        """Return the normalised text, which the spans index."""
        return self.text.normalised.text


def texts_of(document: Document, is_canary: bool = False) -> dict[str, Text]:
    """Return field name -> text of a document, in reading order, including empty texts."""
    return {
        field: Text.of(document.id, document.language, field == LETTER, original, is_canary)
        for field, original in document.texts.items()
    }


class Detector:
    """The detectors of one recipe. The detectors of a language are loaded when its first text is searched."""

    def __init__(self, privacy: Privacy, treatments: Treatments, words: WordLists = NO_WORDS) -> None:
        """
        Args:
            treatments: treatment of each kind. A kind of `KEPT_BY_DEFAULT` is detected only if listed and not "keep".
            words: the word lists that correct the findings.
        """
        self.patterns = NamePatterns(privacy.keep_words)
        self.corrections = Corrections(words)
        self.regions = Regions.of(privacy.phone_regions)
        self._also = frozenset(kind for kind in KEPT_BY_DEFAULT if treatments.get(kind, "keep") != "keep")
        self._privacy = privacy
        self._analyses: dict[str, Analysis] = {}

    def find(self, texts: Sequence[Text]) -> list[bytes]:
        """Return the findings in each text, in binary form (see `read_findings`).

        Raises PrivacyError in three cases: a detector raises (the error names the row), a name model finds no person in
        its language's canary, or an added recognizer misses its canary.
        """
        found: dict[Text, bytes] = {}
        for language in dict.fromkeys(text.language for text in texts):
            analysis = self._analysis(language)
            of_language = [text for text in texts if text.language == language]
            for text, artifacts in self._artifacts(analysis, language, of_language).items():
                artifacts.is_letter = text.is_letter
                artifacts.with_tabs = text.normalised.with_tabs
                find = partial(analysis.spans, text.normalised.text, artifacts)
                spans = without_overlaps(guarded("a recognizer", text.row, find))
                found[text] = _written(self.corrections.applied(text.normalised.text, spans))
        return [found[text] for text in texts]

    @property
    def has_added(self) -> bool:
        """Return whether the recipe adds recognizers."""
        return bool(self._privacy.recognizers)

    def added_spans(self, language: str, content: str) -> list[Span]:
        """Run the recipe's own recognizers over a normalised text. Raises PrivacyError; exceptions of a recognizer
        propagate."""
        return self._analysis(language).added_spans(content) if self.has_added else []

    def _artifacts(self, analysis: "Analysis", language: str, texts: Sequence[Text]) -> dict[Text, "TextArtifacts"]:
        found = _read_by_model(analysis, texts)
        persons_in_canaries = [
            entity.label == "PERSON"
            for text, artifacts in found.items()
            if text.is_canary
            for entity in artifacts.entities
        ]
        canaries = any(text.is_canary for text in texts)
        if language in self._privacy.name_models and canaries and not any(persons_in_canaries):
            raise PrivacyError(
                f"The name model of language '{language}' found no person in the canary text. Nothing was written.",
                "Install the model again, or name another one in the recipe.",
            )
        return found

    def _analysis(self, language: str) -> "Analysis":
        if language not in self._analyses:
            from sovereign_pipeline.privacy.analysis import Analysis

            models = self._privacy.name_models
            model = load_name_model(language, models[language]) if language in models else None
            self._analyses[language] = Analysis(
                language, model, self.patterns, self._also, self._privacy.recognizers, self.regions
            )
        return self._analyses[language]


def guarded(detector: str, row: str, find: Callable[[], Found]) -> Found:
    """Run a detector. Convert any exception to a PrivacyError that names the row and drops the cause, which may
    quote text."""
    try:
        return find()
    except Exception as error:
        raise PrivacyError(
            f"Row {row}: {detector} raised {type(error).__name__}, so the row was not searched. Nothing was written.",
            "Correct the row or the detector, and run again.",
        ) from None


def _read_by_model(analysis: "Analysis", texts: Sequence[Text]) -> dict[Text, "TextArtifacts"]:
    """Run the name model. If it raises, retry the texts one by one, so that the error names the row."""
    try:
        return _artifacts_of(analysis, texts)
    except Exception:
        for text in texts:
            guarded("the name model", text.row, partial(_artifacts_of, analysis, [text]))
        raise PrivacyError(
            f"The name model raised in a batch that begins with row {texts[0].row}, and in none of its texts alone. "
            f"Nothing was written.",
            "Run again. If the error persists, reinstall the model.",
        ) from None


def _artifacts_of(analysis: "Analysis", texts: Sequence[Text]) -> dict[Text, "TextArtifacts"]:
    return dict(zip(texts, analysis.artifacts_of([text.normalised.text for text in texts]), strict=True))


# --- the written form ------------------------------------------------------------------------------------------------


def _written(spans: Sequence[Span]) -> bytes:
    return b"".join(
        _SPAN.pack(
            span.start, span.end, KINDS.index(span.kind), _LABELLED * span.labelled | _BY_LENGTH * span.by_length
        )
        for span in spans
    )


def read_findings(content: bytes, text: NormalisedText) -> list[Span] | None:
    """Return the spans of findings in binary form, or None if they do not fit the text. Keys are computed from the
    text."""
    if len(content) % _SPAN.size:
        return None
    spans: list[Span] = []
    position = 0
    for start, end, kind, flags in _SPAN.iter_unpack(content):
        if not position <= start < end <= len(text.text) or kind >= len(KINDS):
            return None
        key = _key(text.text, start, end, kind)
        spans.append(Span(start, end, KINDS[kind], key, bool(flags & _LABELLED), bool(flags & _BY_LENGTH)))
        position = end
    return spans


_NAME = KINDS.index("NAME")
_BY_THEIR_TEXT = frozenset(KINDS.index(kind) for kind in ("PLACE", "ORGANISATION", "NATIONALITY"))
_value_key = lru_cache(maxsize=65_536)(value_key)  # a value occurs several times in a case


def _key(text: str, start: int, end: int, kind: int) -> str:
    if kind == _NAME:
        return name_key(text, start, end)
    value = text[start:end]
    return value if kind in _BY_THEIR_TEXT else _value_key(KINDS[kind], value)


def detector_digest(
    privacy: Privacy,
    treatments: Treatments,
    name_model_digests: Mapping[str, str],
    libraries: tuple[str, ...],
    words: WordLists = NO_WORDS,
) -> str:
    """Return a digest of everything that the cached findings depend on: recipe, policy, word lists, models, libraries,
    code.

    The digest covers the bytes of this package's code, word lists and canaries, so nobody has to raise a version
    number.
    """
    package = Path(__file__).parent
    files = sorted(file for file in package.rglob("*") if file.suffix in (".json", ".py", ".txt"))
    code = {file.relative_to(package).as_posix(): file_sha256(file) for file in files}
    return digest_of(
        {
            "privacy": privacy.model_dump(mode="json", exclude={"officer_may"}),
            "treatments": dict(treatments),
            "words": words.model_dump(mode="json"),
            "models": dict(name_model_digests),
            "libraries": library_versions(libraries),
            "kinds": KINDS,
            "kept_by_default": sorted(KEPT_BY_DEFAULT),
            "code": code,
        }
    )


SECONDS_TO_WAIT = 120.0  # for other processes that write
KEYS_PER_QUERY = 5_000  # SQLite binds at most 32,766 values in one statement
CHECK_BYTES = 8


class FindingsCache:
    """A cache of findings: one SQLite file per detector digest, which many processes read and write.

    Each entry has a keyed digest of its key and content. An entry that was truncated, moved or written by someone
    without the installation's secret is ignored.
    """

    def __init__(self, directory: Path, detector: str, secret: bytes) -> None:
        """
        Args:
            detector: digest of the detectors (`detector_digest`).
            secret: the installation's secret of caches.

        Raises PrivacyError if the file cannot be used.
        """
        self._path = directory / f"{detector}.sqlite"
        self._secret = keyed_digest(secret, "detector", detector.encode())
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            # Ray creates an actor in one thread and uses it in another.
            self._connection = sqlite3.connect(
                self._path, timeout=SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")  # the checksums find what a loss of power damaged
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS finding (key BLOB PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the valid cached entries for these keys. Raises PrivacyError if the file is not a database."""
        found: dict[bytes, bytes] = {}
        try:
            for start in range(0, len(keys), KEYS_PER_QUERY):
                some = keys[start : start + KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                found.update(self._connection.execute(f"SELECT key, content FROM finding WHERE key IN ({marks})", some))
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        return {key: entry[CHECK_BYTES:] for key, entry in found.items() if self._is_whole(key, entry)}

    def write(self, entries: Mapping[bytes, bytes]) -> None:
        """Write entries in one transaction. Raises PrivacyError if they cannot be written."""
        rows = [(key, self._check(key, content) + content) for key, content in entries.items()]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO finding VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        self._connection.close()

    def _unusable(self, error: sqlite3.Error) -> PrivacyError:
        return PrivacyError(
            f"{self._path}: the cache of earlier findings cannot be read or written ({error}).",
            "Delete the file, which only costs time, or make room for it, and run the line again.",
        )

    def _check(self, key: bytes, content: bytes) -> bytes:
        return keyed_digest(self._secret, "finding", key + content, CHECK_BYTES)

    def _is_whole(self, key: bytes, entry: object) -> bool:
        return isinstance(entry, bytes) and entry[:CHECK_BYTES] == self._check(key, entry[CHECK_BYTES:])
