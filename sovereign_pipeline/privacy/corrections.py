"""What people corrected in the findings of a line, applied to what the detectors found.

What belongs here: taking findings out, putting values in, and names that are one person. What does not: the lists
(`policy/word_lists.py`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.policy.word_lists import NO_WORDS, WordLists
from sovereign_pipeline.privacy.names.persons import PersonName, person_name
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps

_ARABIC_PREFIX = "[وفبكل]{0,2}"
"""What Arabic writes together with the word behind it: and, so, by, as, for."""


class Corrections:
    """The lists of one line, ready to be looked for in normalised texts."""

    def __init__(self, words: WordLists = NO_WORDS) -> None:
        names = [name for group in words.same_person for name in group]
        kinds: dict[str, Kind] = {_folded(name): "NAME" for name in names}
        kinds |= {_folded(each.value): each.kind for each in words.always}
        self._kinds: Mapping[str, Kind] = kinds
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
        return _folded(value) in self._kinds

    def without_never(self, text: str, spans: Sequence[Span]) -> list[Span]:
        """The findings that do not lie inside what is never personal."""
        if self._never is None or not spans:
            return list(spans)
        never = [found.span(1) for found in self._never.finditer(text)]
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
            kind = self._kinds[_folded(found[1])]
            key = found[1] if kind == "NAME" else value_key(kind, found[1])
            yield Span(*found.span(1), kind, key)


def _pattern(values: Iterable[str]) -> re.Pattern[str] | None:
    """What finds each of these values as whole words, the longer one first; of a value such as "Straße", both ways to
    write it. A value of signs that normalised text does not have finds nothing."""
    plain = {way for value in values for way in (normalise(value).text, _folded(value))}
    written = sorted(
        {r"\s+".join(map(re.escape, value.split())) for value in plain if value.strip()},
        key=lambda each: (-len(each), each),
    )
    if not written:
        return None
    return re.compile(rf"(?<!\w){_ARABIC_PREFIX}({'|'.join(written)})(?!\w)", re.IGNORECASE)


def _folded(value: str) -> str:
    return " ".join(normalise(value).text.casefold().split())


NO_CORRECTIONS = Corrections()
