"""What people corrected in the findings of a line, applied to what the detectors found.

What belongs here: taking findings out, putting values in, and names that are one person. What does not: the lists
(`word_lists.py`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.names.persons import PersonName, person_name
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps
from sovereign_pipeline.privacy.word_lists import NO_WORDS, WordLists, folded_words

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

    @property
    def leave_values(self) -> bool:
        """Whether anything is listed as never personal."""
        return self._never is not None

    def applied(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """The findings of a text without those inside what is never personal, and with what always is."""
        added = list(self._added(text))
        return self.without_never(text, without_overlaps([*spans, *added]) if added else spans)

    def is_listed(self, value: str) -> bool:
        """Whether a value is listed as personal data."""
        return folded_words(value) in self._kinds

    def without_never(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """The findings that do not lie inside what is never personal."""
        if self._never is None or not spans:
            return list(spans)
        never = [_place(found) for found in self._never.finditer(text)]
        return [span for span in spans if not any(start <= span.start and span.end <= end for start, end in never)]

    def left(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """The findings that `without_never` takes out."""
        kept = set(self.without_never(text, spans))
        return [span for span in spans if span not in kept]

    def one_person(self, persons: Mapping[PersonName, PersonName]) -> dict[PersonName, PersonName]:
        """The names of a case with their fullest name, where the listed names of one person have the first's."""
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
    """What finds each of these values as whole words, the longer one first; of a value such as "Straße", both ways to
    write it. A value of signs that normalised text does not have finds nothing."""
    plain = {way for value in values for way in (normalise(value).text, folded_words(value)) if way.strip()}
    if not plain:
        return None
    behind_lam = _written(way for value in plain for way in _behind_lam(value))
    prefixed = rf"{_ARABIC_PREFIX}({_written(plain)})"
    article = rf"|[وف]?{_LAM}({behind_lam})" if behind_lam else ""
    return re.compile(rf"(?<!\w)(?:{prefixed}{article})(?!\w)", re.IGNORECASE)


def _place(found: re.Match[str]) -> tuple[int, int]:
    """Where the value stands, without what is written together with it."""
    return found.span(found.lastindex or 0)


def _written(values: Iterable[str]) -> str:
    """What matches any of them, the longer one first."""
    words = {r"\s+".join(map(re.escape, value.split())) for value in values}
    return "|".join(sorted(words, key=lambda each: (-len(each), each)))


def _behind_lam(value: str) -> list[str]:
    """How Arabic writes a value with the article behind "for": "للفانوس" is "ل" and "لفانوس", of "الفانوس". Of three
    letters lam, as in "الليل", one falls away."""
    if not value.startswith(_ARTICLE):
        return []
    rest = value.removeprefix(_ARTICLE)
    return [_LAM + rest, *([rest] if rest.startswith(_LAM) else [])]


NO_CORRECTIONS = Corrections()
