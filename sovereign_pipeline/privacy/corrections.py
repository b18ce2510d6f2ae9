"""Correct the detectors' findings with the word lists of a line of adapters, `data/privacy/<line>.yaml`.

The file may contain names of people. Cards and reports quote recipes, so the word lists are not part of the recipe. An
artifact's identity contains the digest of the word lists.
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
    """A word or phrase that is not personal data in this line of adapters."""

    value: str = Field(pattern=r"\w", examples=["Harbour Master"])
    """The whole word or phrase. Letter case and white space are ignored."""

    reason: str = Field(pattern=r"\S", examples=["an office, not a person"])
    """Reason for the entry, for later readers of the list."""


class AlwaysPersonal(RecipeModel):
    """A word or phrase that is always personal data in this line of adapters."""

    value: str = Field(pattern=r"\w", examples=["Blue Lantern"])
    """The whole word or phrase. Letter case and white space are ignored."""

    kind: Kind = Field(examples=["NAME"])
    """Kind of personal data of the word or phrase."""


class WordLists(RecipeModel):
    """Word lists that correct the detectors' findings in one line of adapters."""

    never: tuple[NeverPersonal, ...] = ()
    """Words and phrases that are not personal data. Findings inside such a phrase stay in the text, and the gate
    `no_identifier_left` ignores them."""

    always: tuple[AlwaysPersonal, ...] = ()
    """Words and phrases that are always replaced."""

    same_person: tuple[tuple[str, ...], ...] = Field(default=(), examples=[[["Salma Zadjali", "Umm Idris"]]])
    """Lists of names. All names in one list belong to one person. The names are always detected, and all names of a
    person get the same placeholder in a case file."""

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        never = {folded_words(each.value) for each in self.never}
        names = [folded_words(name) for group in self.same_person for name in group]
        for value in (*(folded_words(each.value) for each in self.always), *names):
            if value in never:
                raise ValueError("a value is in `never` and in another list")
        if any(len(group) < 2 for group in self.same_person):
            raise ValueError("`same_person` needs at least two names in each list")
        if not all(name.strip() for name in names):
            raise ValueError("`same_person` contains an empty name")
        if len(set(names)) < len(names):
            raise ValueError("a name is listed twice in `same_person`")
        return self


NO_WORDS = WordLists()


def word_lists_file(data: Path, line: str) -> Path:
    """Return the path of the word lists of a line of adapters. The file may be missing."""
    return data / "privacy" / f"{line}.yaml"


def load_word_lists(data: Path, line: str) -> WordLists:
    """Return a line's word lists, empty if there is no file. Raises RecipeError if the file is invalid."""
    file = word_lists_file(data, line)
    return read_yaml(WordLists, file) if file.exists() else NO_WORDS


def folded_words(value: str) -> str:
    """Return the folded spelling of a value. List entries are compared with words of a text in this spelling."""
    return " ".join(normalise(value).text.casefold().split())


_ARABIC_PREFIX = "[وفبكل]{0,2}"
"""Arabic prefixes that attach to the next word. They mean "and", "so", "by", "as" and "for"."""
_ARTICLE = "ال"
_LAM = "ل"


class Corrections:
    """The compiled word lists of one line of adapters, which apply to normalised texts."""

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
        """Add the occurrences of "always" entries and of `same_person` names to the findings, drop findings inside a
        "never" entry, and return the result."""
        added = list(self._added(text))
        return self.without_never(text, without_overlaps([*spans, *added]) if added else spans)

    def is_listed(self, value: str) -> bool:
        """Return whether a value is listed as personal data."""
        return folded_words(value) in self._kinds

    def without_never(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """Return the findings that do not lie inside a "never" entry."""
        if self._never is None or not spans:
            return list(spans)
        never = [_place(found) for found in self._never.finditer(text)]
        return [span for span in spans if not any(start <= span.start and span.end <= end for start, end in never)]

    def one_person(self, persons: Mapping[PersonName, PersonName]) -> dict[PersonName, PersonName]:
        """Return a dict from each name to the fullest name of its person. People who have names in the same
        `same_person` list become one person, with the fullest name of the first listed name in `persons`."""
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
    """Return a pattern that finds each value as whole words and tries longer values first. A value such as "Straße" is
    also found in its case-folded spelling. A value that is empty after normalisation is ignored."""
    plain = {way for value in values for way in (normalise(value).text, folded_words(value)) if way.strip()}
    if not plain:
        return None
    behind_lam = _written(way for value in plain for way in _behind_lam(value))
    prefixed = rf"{_ARABIC_PREFIX}({_written(plain)})"
    article = rf"|[وف]?{_LAM}({behind_lam})" if behind_lam else ""
    return re.compile(rf"(?<!\w)(?:{prefixed}{article})(?!\w)", re.IGNORECASE)


def _place(found: re.Match[str]) -> tuple[int, int]:
    """Return the span of a matched value, without an attached Arabic prefix."""
    return found.span(found.lastindex or 0)


def _written(values: Iterable[str]) -> str:
    """Return a pattern that matches any of these values and tries longer values first."""
    words = {r"\s+".join(map(re.escape, value.split())) for value in values}
    return "|".join(sorted(words, key=lambda each: (-len(each), each)))


def _behind_lam(value: str) -> list[str]:
    """Return the spellings, after the preposition lam ("for"), of a value that begins with the article. Return an empty
    list for any other value. Example: "الفانوس" becomes "لفانوس", as in "للفانوس". Arabic drops one of three lams
    ("الليل")."""
    if not value.startswith(_ARTICLE):
        return []
    rest = value.removeprefix(_ARTICLE)
    return [_LAM + rest, *([rest] if rest.startswith(_LAM) else [])]
