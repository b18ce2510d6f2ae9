"""Decide which names of one case file are one person: parse names into parts, join shorter to fuller ones."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.latin_words import without_marks
from sovereign_pipeline.privacy.names.transliteration import Likeness, is_arabic, likeness, skeleton


@dataclass(frozen=True)
class PersonName:
    """The parts of a name, each folded."""

    given: str | None = None
    fathers: tuple[str, ...] = ()
    """Nearest first."""
    surname: str | None = None
    alone: str | None = None
    """A single word that may be a given name or a surname."""
    generation: str | None = None
    """ "jr", "sr", "iii": what tells a son from his father."""

    def is_part_of(self, other: "PersonName") -> bool:
        """Return whether the other name has every part of this one, and more."""
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
        """All parts, in reading order."""
        return tuple(part for part in (self.given, *self.fathers, self.surname, self.alone) if part is not None)

    def with_parts(self, equal: Mapping[str, str]) -> "PersonName":
        """Return the same name, with parts replaced by another spelling of them."""
        if not equal:
            return self
        given, surname, alone = (
            None if part is None else equal.get(part, part) for part in (self.given, self.surname, self.alone)
        )
        fathers = tuple(equal.get(father, father) for father in self.fathers)
        return PersonName(given, fathers, surname, alone, self.generation)

    def may_be(self, other: "PersonName") -> bool:
        """Return whether every part that both names have is the same or may be another spelling, and at least one is
        spelt differently."""
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
    """Return whether a given name is the same, or its initial."""
    return part == whole or (len(part) == 2 and part[1] == "." and whole.startswith(part[0]))


# What differs in writing alone, whoever wrote it: (pattern, replacement), in this order, before and after casefold.
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
    """Return a name, or a part of one, without what differs in writing alone: letter case, hyphens, the spelling of the
    article, forms of alef, compounds written apart, a final ta marbuta without its dots."""
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
    """One word of a name as it stands in a PersonName."""
    return re.sub("ة$", "ه", folded(word))


_GENERATIONS = {"jr": "jr", "junior": "jr", "jnr": "jr", "sr": "sr", "senior": "sr", "snr": "sr"}
_GENERATIONS |= {number: number for number in ("ii", "iii", "iv")}
_BEHIND = lexicon.LETTERS_BEHIND_NAMES | frozenset(_GENERATIONS)
_TITLES = lexicon.HONORIFICS | lexicon.TITLES_AR | lexicon.LETTERS_BEHIND_NAMES


@lru_cache(maxsize=1 << 16)
def person_name(text: str) -> PersonName:
    """Return the parts of a name, without honorifics and letters behind it, each as `folded_word` writes it."""
    words = _in_reading_order(text)
    tokens = [token for token in words if token.strip(".") not in _TITLES] or words
    generation = _GENERATIONS.get(tokens[-1].strip(".")) if len(tokens) > 1 else None
    parts = _parts_of(tokens[:-1] if generation is not None else tokens)
    return replace(parts, generation=generation) if generation is not None and parts.alone is None else parts


def _in_reading_order(text: str) -> list[str]:
    """Return the words of a name, folded: "Oakes, Tamsin J." is Tamsin J. Oakes, and "T.J. Oakes" has two initials."""
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
        while tokens and tokens[-1] in lexicon.PARTICLES:
            surname = f"{tokens.pop()} {surname}"
    if surname is None and len(tokens) == 1:
        return PersonName(alone=folded_word(tokens[0]))
    people = [folded_word(token) for token in tokens if not _is_kinship(token, tokens[0], surname)]
    return PersonName(
        people[0] if people else None, tuple(people[1:]), folded_word(surname) if surname is not None else None
    )


def _is_kinship(token: str, first: str, surname: str | None) -> bool:
    """ "bin", and "b." where it is short for it and no initial."""
    if token == "b." and first not in lexicon.GIVEN and not (surname or "").startswith("al-"):
        return False
    return token in lexicon.KINSHIP or token in lexicon.KINSHIP_AR


def same_person(names: Sequence[PersonName]) -> tuple[dict[PersonName, PersonName], set[PersonName]]:
    """Map each name of one case to the fullest name of that person; and the ambiguous names, for a person to check.

    A part in Arabic letters counts as the part in Latin letters that it is certainly a spelling of, when within the
    case each may be the other and nothing else. Then a shorter name joins a fuller one only when exactly one fuller
    name in the case has all its parts. What remains a person of its own is ambiguous when it could be another: a short
    name that fits several, a part that fits several of the other script, another spelling of the same name.
    """
    distinct = list(dict.fromkeys(names))
    equal = _equal_parts({part for name in distinct for part in name.parts})
    respelt = {name: name.with_parts(equal) for name in distinct}
    owners, ambiguous = _joined(list(dict.fromkeys(respelt.values())))
    persons = {name: owners[respelt[name]] for name in distinct}
    unsure = ambiguous | _perhaps_the_same(owners)
    return persons, {name for name in distinct if respelt[name] in unsure}


def _joined(distinct: Sequence[PersonName]) -> tuple[dict[PersonName, PersonName], set[PersonName]]:
    """Return each name's fullest name, by equal parts alone; and the names that fit several."""
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
    """Return a part that every fuller name of the same person has too."""
    return name.surname or name.given or name.alone or ""


def _equal_parts(parts: Iterable[str]) -> dict[str, str]:
    """Arabic part -> Latin part, where each is the only one of the case that the other may be, and certainly is."""
    alike = _across_scripts(parts)
    times = Counter(part for pair in alike for part in pair)
    return {
        one: other
        for one, other in alike
        if times[one] == times[other] == 1 and likeness(one, other) is Likeness.CERTAIN
    }


def _across_scripts(parts: Iterable[str]) -> list[tuple[str, str]]:
    """Return each Arabic part with each Latin part that it may be."""
    arabic: list[str] = []
    latin: list[str] = []
    for part in parts:
        (arabic if is_arabic(part) else latin).append(part)
    return [(one, other) for one in arabic for other in latin if likeness(one, other)]


def _perhaps_the_same(persons: Mapping[PersonName, PersonName]) -> set[PersonName]:
    """Names of different persons of which each part may be a spelling of the other's, in one script or in two."""
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
    """Return the folded given names and surnames by which people of a case may be mentioned elsewhere in it."""
    parts = {part for name in names for part in (name.given, name.surname, name.alone) if part is not None}
    # "Abdul Rahman" is one part, and two words where it is looked for.
    parts |= {word for part in parts if part.startswith("abdul") and len(part) > 8 for word in ("abdul", part[5:])}
    return frozenset(part for part in parts if len(part) > 2 and not part.endswith("."))


def looks_like_nisba(word: str) -> bool:
    """Return whether an Arabic word has the shape of a family name: the article before it, the ending of belonging."""
    return len(word) > 4 and word.startswith("ال") and word.endswith(("ي", "ية"))
