"""Decide which names in one case file belong to one person: parse names into parts, and map each shorter name to a
fuller name."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product

from sovereign_pipeline.privacy.names.lexicon import ARABIC, LATIN, without_marks
from sovereign_pipeline.privacy.names.transliteration import Likeness, is_arabic, likeness, skeleton


@dataclass(frozen=True)
class PersonName:
    """A parsed name. Each part is folded."""

    given: str | None = None
    fathers: tuple[str, ...] = ()
    """Given names of the father and further ancestors, nearest first."""
    surname: str | None = None
    alone: str | None = None
    """Only word of the name, which may be a given name or a surname."""
    generation: str | None = None
    """Generation suffix: "jr", "sr", "ii", "iii" or "iv"."""

    def is_part_of(self, other: "PersonName") -> bool:
        """Return True if the other name contains every part of this name, and further parts."""
        if self == other or other.alone is not None:
            return False
        if self.alone is not None:
            return self.alone in (other.given, other.surname)
        if self.given is not None and (other.given is None or not _fits(self.given, other.given)):
            return False
        return (
            self.surname in (None, other.surname)
            and self.generation in (None, other.generation)
            and len(self.fathers) <= len(other.fathers)
            and all(map(_fits, self.fathers, other.fathers))
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Return all parts in reading order."""
        return tuple(part for part in (self.given, *self.fathers, self.surname, self.alone) if part is not None)

    def with_parts(self, equal: Mapping[str, str]) -> "PersonName":
        """Return the name with its parts replaced by their spellings in `equal`."""
        if not equal:
            return self
        given, surname, alone = (
            None if part is None else equal.get(part, part) for part in (self.given, self.surname, self.alone)
        )
        fathers = tuple(equal.get(father, father) for father in self.fathers)
        return PersonName(given, fathers, surname, alone, self.generation)

    def may_be(self, other: "PersonName") -> bool:
        """Return True if two names may be spellings of one name: if every part that both have is equal or alike, and at
        least one part is not equal."""
        if self.alone is not None or other.alone is not None:
            short, whole = (self, other) if self.alone is not None else (other, self)
            candidates = (whole.given, whole.surname, whole.alone)
            return any(
                part is not None and short.alone != part and likeness(short.alone or "", part) for part in candidates
            )
        shared = [
            (one, theirs)
            for one, theirs in zip(
                (self.given, self.surname, *self.fathers), (other.given, other.surname, *other.fathers), strict=False
            )
            if one is not None and theirs is not None
        ]
        spelt = [pair for pair in shared if pair[0] != pair[1]]
        return bool(spelt) and all(likeness(*pair) for pair in spelt)


def _fits(part: str, whole: str) -> bool:
    """Return True if the given names `part` and `whole` are equal, or if `part` is the initial of `whole`."""
    return part == whole or (len(part) == 2 and part[1] == "." and whole.startswith(part[0]))


# Spelling variants that do not change the name: (pattern, replacement), applied in order, before and after casefold.
_JOINED_ARTICLE = re.compile(r"(?<!\w)[AE]l(?=[A-Z])")
_LATIN_WRITING = (
    (re.compile(r"(?<!\w)(?:al|el)[ -]"), "al-"),
    (re.compile(r"(?<!\w)a(sh|th|dh|[stdnrz])[ -](?=\1)"), "al-"),  # the article before a sun letter: ash-Shihhi
    (re.compile(r"(?<!\w)al-bu[ -]"), "al-bu"),
    (re.compile(r"(?<!\w)abd(?:[aeu]l[ -]|[ -]?al-|-ul-)(?=\w)"), "abdul"),
    (re.compile(r"(?<!\w)abdu(sh|th|dh|[stdnrz])[ -](?=\1)"), "abdul"),
    (re.compile(r"(?<!\w)abd[ae]l(?=l|\w{3})"), "abdul"),
    (re.compile(r"(?<!\w)(abu|bu)[ -](?=\w)"), r"\1"),
)
_ARABIC_WRITING = (
    (re.compile(r"(?<!\w)آل (?=\w)"), "ال-"),
    (re.compile("[أإآ]"), "ا"),
    (re.compile(r"(?<!\w)عبد ال(?=\w)"), "عبدال"),
    (re.compile(r"(?<!\w)(ابو|بو|البو) (?=\w)"), r"\1"),
)


def folded(name: str) -> str:
    """Fold a name or a part of a name: spellings become equal that differ only in letter case, hyphens, spelling of the
    article, forms of alef, or compounds written apart."""
    text = _JOINED_ARTICLE.sub("al-", name.strip().replace("’", "'"))
    if not text.isascii() and not is_arabic(text):
        text = without_marks(text)
    if is_arabic(text):
        for pattern, plain in _ARABIC_WRITING:
            text = pattern.sub(plain, text)
    text = text.casefold()
    for pattern, plain in _LATIN_WRITING:
        text = pattern.sub(plain, text)
    return text


@lru_cache(maxsize=1 << 16)
def folded_word(word: str) -> str:
    """Return a word of a name in the form in which a PersonName stores it: folded, with a final ta marbuta written as
    ha."""
    return re.sub("ة$", "ه", folded(word))


_GENERATIONS = {"jr": "jr", "junior": "jr", "jnr": "jr", "sr": "sr", "senior": "sr", "snr": "sr"}
_GENERATIONS |= {number: number for number in ("ii", "iii", "iv")}
_BEHIND = LATIN["letters_behind_names"] | frozenset(_GENERATIONS)
_TITLES = LATIN["honorifics"] | ARABIC["titles"] | LATIN["letters_behind_names"]


@lru_cache(maxsize=1 << 16)
def person_name(text: str) -> PersonName:
    """Parse a name into parts, without honorifics and post-nominal letters. Parts are folded by `folded_word`."""
    words = _in_reading_order(text)
    tokens = [token for token in words if token.strip(".") not in _TITLES] or words
    generation = _GENERATIONS.get(tokens[-1].strip(".")) if len(tokens) > 1 else None
    parts = _parts_of(tokens[:-1] if generation is not None else tokens)
    return replace(parts, generation=generation) if generation is not None and parts.alone is None else parts


def _in_reading_order(text: str) -> list[str]:
    """Return the folded words of a name in reading order: "Oakes, Tamsin J." becomes Tamsin J. Oakes, and "T.J.
    Oakes" has two initials."""
    pieces = [piece for piece in re.split("[,،]", re.sub(r"(?<=\w)\.(?=\w)", ". ", text)) if piece.strip()]
    groups = [[_with_dot(word) for word in folded(piece).split()] for piece in pieces] or [[text]]
    names = [group for group in groups if not all(word.strip(".") in _BEHIND for word in group)] or groups
    behind = [word for group in groups if group not in names for word in group]
    if len(names) == 2:
        first, second = names
        late = [word for word in first if word.strip(".") in _GENERATIONS]
        names = [second, [word for word in first if word not in late], late]
    return [word for group in names for word in group] + behind


def _with_dot(word: str) -> str:
    return f"{word}." if len(word) == 1 and word.isalpha() and word.isascii() else word


def _parts_of(tokens: Sequence[str]) -> PersonName:
    tokens = list(tokens)
    surname: str | None = None
    if len(tokens) > 1 or tokens[0].startswith(("al-", "ال-")) or looks_like_nisba(tokens[0]):
        surname = tokens[-1]
        tokens = tokens[:-1]
        if tokens and _is_kinship(tokens[-1], tokens[0], surname):  # "Amer bin Tannaf": a father, no surname
            tokens, surname = [*tokens, surname], None
        while tokens and tokens[-1] in LATIN["particles"]:
            surname = f"{tokens.pop()} {surname}"
    if surname is None and len(tokens) == 1:
        return PersonName(alone=folded_word(tokens[0]))
    people = [folded_word(token) for token in tokens if not _is_kinship(token, tokens[0], surname)]
    return PersonName(
        people[0] if people else None, tuple(people[1:]), folded_word(surname) if surname is not None else None
    )


def _is_kinship(token: str, first: str, surname: str | None) -> bool:
    """Return whether a token is a kinship word such as "bin". "b." counts only if it is not an initial."""
    if token == "b." and first not in LATIN["given"] and not (surname or "").startswith("al-"):
        return False
    return token in LATIN["kinship"] or token in ARABIC["kinship"]


def same_person(names: Sequence[PersonName]) -> tuple[dict[PersonName, PersonName], set[PersonName]]:
    """Map each name of one case to the fullest name of that person. Return the map, and the ambiguous names for a
    person to check.

    First, an Arabic part and a Latin part become equal if they certainly spell one name, and if neither may also spell
    a third part in the case. Then a shorter name joins a fuller name if exactly one fuller name in the case has all
    parts of the shorter name. Any other name is ambiguous if it fits several fuller names, if one of its parts fits
    several parts in the other script, or if it may be another spelling of another person's name.
    """
    distinct = list(dict.fromkeys(names))
    equal = _equal_parts({part for name in distinct for part in name.parts})
    respelt = {name: name.with_parts(equal) for name in distinct}
    owners, ambiguous = _joined(list(dict.fromkeys(respelt.values())))
    persons = {name: owners[respelt[name]] for name in distinct}
    unsure = ambiguous | _perhaps_the_same(owners)
    return persons, {name for name in distinct if respelt[name] in unsure}


def _joined(distinct: Sequence[PersonName]) -> tuple[dict[PersonName, PersonName], set[PersonName]]:
    """Return a dict from each name to its fullest name, and the names that fit several fuller names. Only equal parts
    are considered."""
    by_part: dict[str, list[PersonName]] = {}
    for name in distinct:
        for part in {name.given, name.surname}:
            if part is not None:
                by_part.setdefault(part, []).append(name)
    fuller = {
        name: [other for other in by_part.get(_shared_part(name), []) if name.is_part_of(other)] for name in distinct
    }
    persons: dict[PersonName, PersonName] = {}
    ambiguous: set[PersonName] = set()
    for name in distinct:
        owners = [other for other in fuller[name] if not fuller[other]]
        persons[name] = owners[0] if len(owners) == 1 else name
        if len(owners) > 1:
            ambiguous.add(name)
    return persons, ambiguous


def _shared_part(name: PersonName) -> str:
    """Return a part that all fuller names of the same person contain."""
    return name.surname or name.given or name.alone or ""


def _equal_parts(parts: Iterable[str]) -> dict[str, str]:
    """Return a dict from Arabic part to Latin part. It has only pairs that are certainly one name, and whose parts
    match no other part in the case."""
    alike = _across_scripts(parts)
    times = Counter(part for pair in alike for part in pair)
    return {
        one: other
        for one, other in alike
        if times[one] == times[other] == 1 and likeness(one, other) is Likeness.CERTAIN
    }


def _across_scripts(parts: Iterable[str]) -> list[tuple[str, str]]:
    """Return each pair of an Arabic part and a Latin part that may be one name."""
    arabic: list[str] = []
    latin: list[str] = []
    for part in parts:
        (arabic if is_arabic(part) else latin).append(part)
    return [(one, other) for one in arabic for other in latin if likeness(one, other)]


def _perhaps_the_same(persons: Mapping[PersonName, PersonName]) -> set[PersonName]:
    """Return the names of different persons that may be spellings of each other, in one script or in two."""
    by_part: dict[str, list[PersonName]] = {}
    for name in persons:
        for part in name.parts:
            by_part.setdefault(part, []).append(name)
    by_skeleton: dict[str, list[str]] = {}
    for part in by_part:
        by_skeleton.setdefault(skeleton(part), []).append(part)
    in_one_script = (pair for parts in by_skeleton.values() for pair in combinations(parts, 2))
    return {
        name
        for one, other in (*in_one_script, *_across_scripts(by_part))
        for pair in product(by_part[one], by_part[other])
        if persons[pair[0]] != persons[pair[1]] and pair[0].may_be(pair[1])
        for name in pair
    }


def known_parts(names: Iterable[PersonName]) -> frozenset[str]:
    """Return the folded given names and surnames with which texts may mention the people of a case."""
    parts = {part for name in names for part in (name.given, name.surname, name.alone) if part is not None}
    # "Abdul Rahman" is one part, and two words in a text.
    parts |= {word for part in parts if part.startswith("abdul") and len(part) > 8 for word in ("abdul", part[5:])}
    return frozenset(part for part in parts if len(part) > 2 and not part.endswith("."))


def looks_like_nisba(word: str) -> bool:
    """Return True if an Arabic word has the shape of a family name: if it has the article and the ending -ي or -ية."""
    return len(word) > 4 and word.startswith("ال") and word.endswith(("ي", "ية"))
