"""Run the detectors over texts and columns, search scrubbed texts again, and cache what was found and decided.

Findings depend only on the text and the detectors. The cache contains offsets, kinds and placeholders, never text.
"""

import inspect
import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sovereign_pipeline.base import text as base_text
from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import digest_of, file_sha256, keyed_digest, read_secret
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus import document as corpus_document
from sovereign_pipeline.corpus import languages as corpus_languages
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.corpus.languages import in_script_of
from sovereign_pipeline.policy.corpus import AddedRecognizer, PhoneRegions, Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.corrections import NO_WORDS, Corrections, WordLists, load_word_lists
from sovereign_pipeline.privacy.identifiers.forms import DIGITS_OF_A_NATIONAL_ID, count_of_digits
from sovereign_pipeline.privacy.identifiers.numbers import without_file_numbers
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers, structured_spans, without_placeholders
from sovereign_pipeline.privacy.json_texts import readings_of
from sovereign_pipeline.privacy.names.latin_names import firms
from sovereign_pipeline.privacy.names.lexicon import recased
from sovereign_pipeline.privacy.names.name_models import Entity, NameModel, load_name_model
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns, name_key
from sovereign_pipeline.privacy.normalisation import NormalisedText, normalise
from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps
from sovereign_pipeline.record.stage import KindsIn, library_versions

if TYPE_CHECKING:
    from sovereign_pipeline.privacy.added_recognizers import AddedRecognizers

Place = tuple[int, int]
"""Half-open span of a text."""
SpansByText = dict[bytes, list[Span]]
"""Maps the key of each text to the text's findings, in reading order and without overlaps."""


class Text(NamedTuple):
    """A field of a document, in the form that the detectors need."""

    key: bytes
    """SHA-256 of language, `is_letter`, original text and, for JSON, the searched lines. Equal texts of different
    documents have the same key."""
    language: str
    is_letter: bool
    """True if a user wrote the text. Such a text may end with a signature."""
    normalised: NormalisedText
    is_canary: bool = False

    @classmethod
    def of(cls, language: str, is_letter: bool, text: NormalisedText, is_canary: bool = False) -> "Text":
        lines = "" if text.leaves is None else f"\0{text.text}"
        key = sha256(f"{language}\0{is_letter:d}\0{text.original}{lines}".encode("utf-8", "surrogatepass")).digest()
        return cls(key, language, is_letter, text, is_canary)


def texts_of(document: Document, is_canary: bool = False) -> dict[str, Text]:
    """Return the non-empty texts of a document in reading order, as a dict from field name to text."""
    of_users = [f"message {number}" for number, each in enumerate(document.messages, start=1) if each.role == "user"]
    signed = ["request"] if document.is_letter else of_users
    return {
        name: Text.of(document.language, name in signed, readings_of(document, name, original)[0], is_canary)
        for name, original in document.texts.items()
        if original
    }


class Remaining(NamedTuple):
    """The findings of the second search in a scrubbed text, as spans of the text's normalised form."""

    left: list[Span]
    by_lists: list[Span]
    """Findings that are not personal data according to the word lists of the line of adapters."""


class Detector:
    """Finds personal data with the detectors of one recipe, corrects the findings with word lists, and knows the
    institution's treatment of each kind.

    A language's name model and added recognizers are loaded for the first text in that language or its script.
    Exceptions raised by detectors propagate. Their messages may quote a text.
    """

    def __init__(self, privacy: Privacy, treatments: Treatments, words: WordLists = NO_WORDS) -> None:
        """
        Args:
            treatments: treatment of each kind. Findings of a missing kind are replaced. Patterns and name models search
                for a kind in `KEPT_BY_DEFAULT` only if its treatment is given and is not "keep".
            words: the word lists that correct the findings.
        """
        self.treatments = treatments
        self.patterns = NamePatterns(privacy.keep_words, privacy.names.favour)
        self.corrections = Corrections(words)
        self.has_added = bool(privacy.recognizers)
        self._regions = privacy.phone_regions
        self._also = frozenset(kind for kind in KEPT_BY_DEFAULT if treatments.get(kind, "keep") != "keep")
        self._privacy = privacy
        self._models: dict[str, NameModel] = {}
        self._added: dict[str, AddedRecognizers] = {}

    def keeps(self, kind: Kind) -> bool:
        """Return whether the policy leaves values of a kind in the text."""
        return self.treatments.get(kind) == "keep"

    def find(self, texts: Sequence[Text]) -> SpansByText:
        """Return a dict from each text's key to the findings in the text.

        Raises PrivacyError if a detector cannot be loaded, if a name model finds no person in the canaries of its
        language among `texts`, or if an added recognizer misses the value in its canary.
        """
        found: SpansByText = {}
        for text, entities in zip(texts, self._entities(texts), strict=True):
            content = text.normalised.text
            spans = without_overlaps(self._spans(text, entities))
            spans = self.corrections.applied(content, spans)
            found[text.key] = [
                replace(span, key=_key(content, span.start, span.end, span.kind))
                for span in spans
                if text.normalised.places(span.start, span.end)
            ]
        return found

    def explained(self, text: Text) -> tuple[dict[Place, Span], dict[Place, str], list[Place]]:
        """Search a text without the other texts of its case. Return three values: a dict from span to finding, a dict
        from the span of a scored name to an explanation of the score, and the spans of doubtful names. A doubtful name
        counts as a name only if `privacy.names.favour` is `recall`. All spans refer to the original text."""
        place = text.normalised.original_span
        spans = {place(span.start, span.end): span for span in self.find([text])[text.key]}
        (entities,) = self._entities([text])
        reasons, doubtful = self.patterns.explained(text.normalised.text, entities, signed=text.is_letter)
        return spans, {place(*name): reason for name, reason in reasons.items()}, [place(*name) for name in doubtful]

    def read_again(self, language: str, content: str | NormalisedText) -> Remaining:
        """Search a scrubbed text with the patterns for identifiers and the added recognizers.

        The scrubber and the gate `no_identifier_left` use this second search. It ignores kinds that the policy keeps.
        If a value is found as a kept kind anywhere in the text, all findings of this value are ignored.
        """
        text = normalise(content) if isinstance(content, str) else content
        spans = leftovers(text.with_tabs, self._regions)
        if self.has_added:
            spans += self._added_spans(language, without_placeholders(text.text))
        kept = {span.key for span in spans if self.keeps(span.kind)}
        counted = [span for span in spans if span.key not in kept]
        left = self.corrections.without_never(text.text, counted)
        return Remaining(left, [span for span in counted if span not in left] if len(left) < len(counted) else [])

    def _entities(self, texts: Sequence[Text]) -> list[list[Entity] | None]:
        """Return for each text the entities that the name models found, or None if no model reads the text."""
        found: list[list[Entity] | None] = [None for _ in texts]
        for language in self._privacy.name_models:
            contents = ((place, self._read_by(language, text)) for place, text in enumerate(texts))
            read = [(place, content) for place, content in contents if content]
            of_canaries: list[list[Entity]] = []
            for (place, _), entities in zip(read, self._entities_in(language, [each for _, each in read]), strict=True):
                of_canaries += [entities] if texts[place].is_canary and texts[place].language == language else []
                found[place] = sorted([*(found[place] or ()), *entities])
            if of_canaries and not any(entity.label == "PERSON" for entities in of_canaries for entity in entities):
                raise PrivacyError(
                    f"The name model of language '{language}' found no person in the canary text. Nothing was written.",
                    "Install the model again, or set another model under privacy.name_models in the recipe.",
                )
        return found

    def _read_by(self, language: str, text: Text) -> str | None:
        """Return the part of a text that the model of `language` reads. If the text has several scripts, this is the
        part in the script of `language`; otherwise, it is the whole text. Return None if there is no such part."""
        whole = text.normalised.text
        if text.language != language:
            return in_script_of(language, whole, text.language)
        is_mixed = any(in_script_of(other, whole, language) for other in self._privacy.detected)
        return in_script_of(language, whole, "") if is_mixed else whole

    def _entities_in(self, language: str, texts: Sequence[str]) -> Iterable[list[Entity]]:
        if not texts:
            return ()
        if language not in self._models:
            digest = self._privacy.name_model_sha256.get(language)
            self._models[language] = load_name_model(language, self._privacy.name_models[language], digest)
        return self._models[language].entities([recased(text) for text in texts])

    def _spans(self, text: Text, entities: Sequence[Entity] | None) -> list[Span]:
        """Return every finding in a text, in any order, perhaps overlapping. The key of each finding is the text in its
        span."""
        content = text.normalised.text
        found = structured_spans(text.normalised.with_tabs, self._also, self._regions)
        found += self.patterns.spans(content, entities, signed=text.is_letter)
        spans = [replace(span, key=content[span.start : span.end]) for span in found]
        spans += [
            Span(start, end, label, content[start:end], labelled=False)
            for start, end, label in entities or ()
            if label != "PERSON" and label in self._also
        ]
        if "ORGANISATION" in self._also:
            spans += [Span(start, end, "ORGANISATION", content[start:end]) for start, end in firms(content)]
        return spans + self._added_spans(text.language, content)

    def _added_spans(self, language: str, content: str) -> list[Span]:
        """Return the findings of the added recognizers for the text's language. If the text contains a second script,
        the recognizers for the languages of that script run too."""
        if not self.has_added:
            return []
        from sovereign_pipeline.privacy.added_recognizers import AddedRecognizers

        spans: list[Span] = []
        for each in {language: None} | {each: None for item in self._privacy.recognizers for each in item.languages}:
            if each != language and in_script_of(each, content, language) is None:
                continue
            if each not in self._added:
                self._added[each] = AddedRecognizers(self._privacy.recognizers, each)
            spans += self._added[each].spans(content)
        return spans


_BY_THEIR_TEXT = ("PLACE", "ORGANISATION", "NATIONALITY")
_value_key = lru_cache(maxsize=65_536)(value_key)  # a value occurs several times in a case


def _key(text: str, start: int, end: int, kind: Kind) -> str:
    if kind == "NAME":
        return name_key(text, start, end)
    value = text[start:end]
    return value if kind in _BY_THEIR_TEXT else _value_key(kind, value)


# --- cached findings --------------------------------------------------------------------------------------------------


def spans_to_json(spans: Sequence[Span]) -> bytes:
    """Return the offsets and kinds of the findings in a text, without the spans' keys, which contain text."""
    rows = [(span.start, span.end, span.kind, span.labelled, span.by_length) for span in spans]
    return json.dumps(rows, separators=(",", ":")).encode()


def spans_from_json(content: bytes, text: str) -> list[Span]:
    """Return the spans that `spans_to_json` wrote. Their keys are computed from the normalised text."""
    return [
        Span(start, end, kind, _key(text, start, end, kind), labelled, by_length)
        for start, end, kind, labelled, by_length in json.loads(content)
    ]


_ALSO_READ = (base_text, corpus_document, corpus_languages)
"""Modules outside this package that determine the texts of a document, how they are folded, and their scripts."""


def detector_digest(
    privacy: Privacy,
    treatments: Treatments,
    name_model_digests: Mapping[str, str],
    libraries: tuple[str, ...],
    words: WordLists = NO_WORDS,
) -> str:
    """Return a digest of everything besides the text that determines findings: the recipe's `privacy`, treatments, word
    lists, name models, libraries and code.

    The digest covers the bytes of this package's code, word lists and canaries, and of the modules in `_ALSO_READ`. A
    change to these files thus invalidates the cache without a new version number.
    """
    package = Path(__file__).parent
    files = sorted(file for file in package.rglob("*") if file.suffix in (".json", ".py", ".toml", ".txt"))
    code = {file.relative_to(package).as_posix(): file_sha256(file) for file in files}
    code |= {module.__name__: file_sha256(Path(inspect.getfile(module))) for module in _ALSO_READ}
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


SECONDS_TO_WAIT = 120.0  # for other processes' writes
KEYS_PER_QUERY = 5_000  # SQLite binds at most 32,766 values in one statement
CHECK_BYTES = 8


class FindingsCache:
    """Caches findings in texts and decisions about case files in one SQLite file for each digest of the detectors.
    Several processes may use a file at once.

    Each entry contains a keyed digest of its key and content. Entries that were truncated, moved or written without the
    installation's secret are ignored.
    """

    def __init__(self, directory: Path, detector: str, secret: bytes) -> None:
        """
        Args:
            detector: digest of the detectors (`detector_digest`).
            secret: the installation's secret for caches.

        Raises PrivacyError if the SQLite file cannot be opened.
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
            self._connection.execute("PRAGMA synchronous = OFF")  # keyed digests detect damage after a power failure
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS finding (key BLOB PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def read(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the valid entries under these keys. Raises PrivacyError if the file cannot be read."""
        found: dict[bytes, bytes] = {}
        listed = list(keys)
        try:
            for start in range(0, len(listed), KEYS_PER_QUERY):
                some = listed[start : start + KEYS_PER_QUERY]
                query = f"SELECT key, content FROM finding WHERE key IN ({','.join('?' * len(some))})"
                for key, entry in self._connection.execute(query, some):
                    if self._is_whole(key, entry):
                        found[key] = entry[CHECK_BYTES:]
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        return found

    def write(self, entries: Mapping[bytes, bytes]) -> None:
        """Write entries in one transaction. Raises PrivacyError if the file cannot be written."""
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
            "Free disk space, or delete the file (the next run only takes longer), and run the line again.",
        )

    def _check(self, key: bytes, content: bytes) -> bytes:
        return keyed_digest(self._secret, "finding", key + content, CHECK_BYTES)

    def _is_whole(self, key: bytes, entry: object) -> bool:
        return isinstance(entry, bytes) and entry[:CHECK_BYTES] == self._check(key, entry[CHECK_BYTES:])


# --- columns ----------------------------------------------------------------------------------------------------------

SECRET_FILE = "columns.key"
# The usual form of ids and case numbers: letters, an optional year or date, and a number of at most six digits.
_FILE_NUMBER = re.compile(r"[A-Z]{0,6}[-/]?(?:(?:19[5-9]\d|20[0-3]\d)(?:[01]\d[0-3]\d)?[-/])?\d{1,6}", re.ASCII)
_DATE = re.compile(r"(?<!\d)(?:19[5-9]\d|20[0-3]\d)(?:[-/.]?[01]\d(?:[-/.]?[0-3]\d)?)?(?!\d)")


def kinds_in_columns(config: Mapping[str, Any], words: WordLists = NO_WORDS) -> KindsIn:
    """Return a function that takes a column's value and returns the kinds of personal data in it, except kinds that the
    policy keeps. No name model is used.

    Args:
        config: the configuration of the raw corpus, as in its manifest.
        words: the word lists of the line of adapters. Their `never` entries do not apply to columns.
    """
    columns = config["columns"]
    patterns = NamePatterns(columns["keep_words"])
    regions = PhoneRegions.model_validate(columns.get("phone_regions", {}))
    listed = Corrections(_always_personal(words))
    recognizers = [AddedRecognizer.model_validate(each) for each in columns.get("recognizers", ())]
    treatments: dict[Kind, str] = config["sensitive"]

    @cache
    def added() -> "list[AddedRecognizers]":
        if not recognizers:
            return []
        from sovereign_pipeline.privacy.added_recognizers import AddedRecognizers

        languages = dict.fromkeys(language for each in recognizers for language in each.languages)
        return [AddedRecognizers(recognizers, language) for language in languages]

    @lru_cache(maxsize=1 << 16)
    def begins_with_a_name(file_number: str) -> bool:
        letters = file_number[: next(place for place, each in enumerate(file_number) if not each.isalpha())]
        # Title case is not tried, because `Grant` and `Bill` would be names.
        return any(patterns.spans(each) for each in (letters, letters.lower()))

    @lru_cache(maxsize=1 << 16)
    def kinds_in(value: str) -> frozenset[Kind]:
        if not value:
            return frozenset()
        text = normalise(value).text
        spellings = (text, text.lower())  # a recognizer may be case-sensitive
        spans = [
            *listed.applied(text, ()),
            *(span for each in added() for way in spellings for span in each.spans(way)),
        ]
        kinds = {span.kind for span in spans}
        if _FILE_NUMBER.fullmatch(value.upper()):
            kinds |= {"NAME"} if begins_with_a_name(value.upper()) else set()
        else:
            kinds |= {span.kind for span in (*structured_spans(text, regions=regions), *patterns.spans(text))}
            if count_of_digits(_DATE.sub("", without_file_numbers(text))) >= DIGITS_OF_A_NATIONAL_ID:
                kinds.add("NID")  # with any separators, even if the check digit is wrong
        return frozenset(kind for kind in kinds if treatments[kind] != "keep")

    return kinds_in


def column_parts(data: Path, line: Line) -> dict[str, str]:
    """Return digests of those inputs of `kinds_in_columns` that are not in the configuration. The key
    `recognizer:CLASS` stands for the code version of an added recognizer. The key `column_words` stands for the word
    lists without `never`; it is missing if they are empty."""
    words = _always_personal(load_word_lists(data, line.line))
    lists = {"column_words": digest_of(words.model_dump(mode="json"))} if words != NO_WORDS else {}
    return {**recognizer_digests(line.privacy), **lists}


def recognizer_digests(privacy: Privacy) -> dict[str, str]:
    """Return a dict from `recognizer:CLASS` to the digest of the code version of each added recognizer with a class."""
    classes = {item.recognizer: item for item in privacy.recognizers if item.recognizer is not None}
    if not classes:
        return {}
    from sovereign_pipeline.privacy.added_recognizers import recognizer_parts

    return {f"recognizer:{name}": digest_of(recognizer_parts(item)) for name, item in classes.items()}


def _always_personal(words: WordLists) -> WordLists:
    return words.model_copy(update={"never": ()})


def column_secret(settings: Settings, *, create: bool) -> bytes:
    """Return the secret that determines the pseudonyms for personal data in columns; see `read_secret`."""
    return read_secret(settings.vault / SECRET_FILE, create=create)
