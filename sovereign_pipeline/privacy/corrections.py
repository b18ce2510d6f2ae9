"""Apply the word lists of a line, `data/privacy/<line>.yaml`: what people corrected in its findings.

The file may hold names of persons, so it is no part of the recipe, which cards and reports quote. An artifact's
identity holds its digest.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml
from sovereign_pipeline.privacy.names.persons import PersonName, person_name
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps


class NeverPersonal(RecipeModel):
    """A word or phrase that is no personal data in this line."""

    value: str = Field(pattern=r"\w", examples=["Harbour Master"])
    """The word or phrase, whole; letter case and white space do not matter."""

    reason: str = Field(pattern=r"\S", examples=["an office, not a person"])
    """Why, for whoever reads the list later."""


class AlwaysPersonal(RecipeModel):
    """A word or phrase that is personal data wherever it stands in this line."""

    value: str = Field(pattern=r"\w", examples=["Blue Lantern"])
    """The word or phrase, whole; letter case and white space do not matter."""

    kind: Kind = Field(examples=["NAME"])
    """What it counts as."""


class WordLists(RecipeModel):
    """What people corrected in the findings of one line."""

    never: tuple[NeverPersonal, ...] = ()
    """Words and phrases that are no personal data. What is found inside one of them is left as it is, and the second
    reading does not count it."""

    always: tuple[AlwaysPersonal, ...] = ()
    """Words and phrases that are replaced wherever they stand."""

    same_person: tuple[tuple[str, ...], ...] = Field(default=(), examples=[[["Salma Zadjali", "Umm Idris"]]])
    """Names of one person in each list: they get one placeholder in a case file, and are always names."""

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        never = {folded_words(each.value) for each in self.never}
        names = [folded_words(name) for group in self.same_person for name in group]
        for value in (*(folded_words(each.value) for each in self.always), *names):
            if value in never:
                raise ValueError("a value stands in `never` and in another list")
        if any(len(group) < 2 for group in self.same_person):
            raise ValueError("`same_person` needs at least two names in each list")
        if not all(name.strip() for name in names):
            raise ValueError("`same_person` holds an empty name")
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice in `same_person`")
        return self


NO_WORDS = WordLists()


def word_lists_file(data: Path, line: str) -> Path:
    """Return the path of a line's word lists; the file may be missing."""
    return data / "privacy" / f"{line}.yaml"


def load_word_lists(data: Path, line: str) -> WordLists:
    """Return the lists of a line; empty ones where there is no file. Raises RecipeError."""
    file = word_lists_file(data, line)
    return read_yaml(WordLists, file) if file.exists() else NO_WORDS


def folded_words(value: str) -> str:
    """Return the spelling by which words of the lists are compared, with each other and with texts."""
    return " ".join(normalise(value).text.casefold().split())


_ARABIC_PREFIX = "[وفبكل]{0,2}"
"""What Arabic writes together with the word behind it: and, so, by, as, for."""
_ARTICLE = "ال"
_LAM = "ل"


class Corrections:
    """The lists of one line, ready to be looked for in normalised texts."""

    def __init__(self, words: WordLists = NO_WORDS) -> None:
        names = [name for group in words.same_person for name in group]
        kinds: dict[str, Kind] = {folded_words(name): "NAME" for name in names}
        kinds |= {folded_words(each.value): each.kind for each in words.always}
        self._behind_lam: Mapping[str, str] = {way: value for value in kinds for way in _behind_lam(value)}
        self._kinds: Mapping[str, Kind] = {way: kinds[value] for way, value in self._behind_lam.items()} | kinds
        self._never = _pattern(each.value for each in words.never)
        self._always = _pattern([*names, *(each.value for each in words.always)])
        self._groups = [[person_name(normalise(name).text) for name in group] for group in words.same_person]

    def applied(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """Remove the findings inside what is never personal, and add what always is."""
        added = list(self._added(text))
        return self.without_never(text, without_overlaps([*spans, *added]) if added else spans)

    def is_listed(self, value: str) -> bool:
        """Return whether a value is listed as personal data."""
        return folded_words(value) in self._kinds

    def without_never(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """Return the findings that do not lie inside what is never personal."""
        if self._never is None or not spans:
            return list(spans)
        never = [_place(found) for found in self._never.finditer(text)]
        return [span for span in spans if not any(start <= span.start and span.end <= end for start, end in never)]

    def left(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """Return the findings that `without_never` takes out."""
        kept = set(self.without_never(text, spans))
        return [span for span in spans if span not in kept]

    def one_person(self, persons: Mapping[PersonName, PersonName]) -> dict[PersonName, PersonName]:
        """Return the names of a case with their fullest name, where the listed names of one person have the first's."""
        joined = dict(persons)
        for group in self._groups:
            owners = list(dict.fromkeys(persons[name] for name in group if name in persons))
            joined |= {name: owners[0] for name, owner in persons.items() if owner in owners}
        return joined

    def _added(self, text: str) -> Iterator[Span]:
        for found in self._always.finditer(text) if self._always is not None else ():
            start, end = _place(found)
            written = folded_words(text[start:end])
            kind = self._kinds[written]
            value = self._behind_lam.get(written, text[start:end])
            yield Span(start, end, kind, value if kind == "NAME" else value_key(kind, value))


def _pattern(values: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds each of these values as whole words, the longer one first; of a value such as "Straße", both
    ways to write it. A value of signs that normalised text does not have finds nothing."""
    plain = {way for value in values for way in (normalise(value).text, folded_words(value)) if way.strip()}
    if not plain:
        return None
    behind_lam = _written(way for value in plain for way in _behind_lam(value))
    prefixed = rf"{_ARABIC_PREFIX}({_written(plain)})"
    article = rf"|[وف]?{_LAM}({behind_lam})" if behind_lam else ""
    return re.compile(rf"(?<!\w)(?:{prefixed}{article})(?!\w)", re.IGNORECASE)


def _place(found: re.Match[str]) -> tuple[int, int]:
    """Return the span of a value without what is written together with it."""
    return found.span(found.lastindex or 0)


def _written(values: Iterable[str]) -> str:
    """Return a pattern that matches any of these values, the longer one first."""
    words = {r"\s+".join(map(re.escape, value.split())) for value in values}
    return "|".join(sorted(words, key=lambda each: (-len(each), each)))


def _behind_lam(value: str) -> list[str]:
    """Return how Arabic writes a value with the article behind "for": "للفانوس" is "ل" and "لفانوس", of "الفانوس". Of
    three letters lam, as in "الليل", one falls away."""
    if not value.startswith(_ARTICLE):
        return []
    rest = value.removeprefix(_ARTICLE)
    return [_LAM + rest, *([rest] if rest.startswith(_LAM) else [])]


NO_CORRECTIONS = Corrections()
