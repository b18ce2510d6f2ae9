"""Which mentions of one case file are one person: what a name is made of, and which names may be joined.

What belongs here: names as parts, and the rule by which a shorter one joins a fuller one. What does not: finding names
in a text (`name_patterns.py`, `name_models.py`), the numbers of placeholders (`scrubbing.py`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sovereign_pipeline.privacy import gazetteer


@dataclass(frozen=True)
class PersonName:
    """given, fathers (nearest first), surname, all folded; `alone`: one word of which it is not known what it is."""

    given: str | None = None
    fathers: tuple[str, ...] = ()
    surname: str | None = None
    alone: str | None = None

    def says_less_than(self, other: "PersonName") -> bool:
        """Whether everything this name says is said by the other, and the other says more."""
        if self == other or other.alone is not None:
            return False
        if self.alone is not None:
            return self.alone in (other.given, other.surname)
        return (
            self.given in (None, other.given)
            and self.surname in (None, other.surname)
            and self.fathers == other.fathers[: len(self.fathers)]
        )


def person_name(text: str) -> PersonName:
    """Honorifics, letter case, hyphens and the spelling of the article drop out."""
    folded = re.sub(r"(?i)(?<!\w)(?:al|el)[ -]", "al-", text.strip()).casefold()
    folded = re.sub("[أإآ]", "ا", folded).replace("عبد ال", "عبدال")
    titles = gazetteer.HONORIFICS | gazetteer.TITLES_AR
    tokens = [token for token in folded.split() if token.strip(".") not in titles]
    tokens = tokens or folded.split()
    surname = None
    if len(tokens) > 1 or tokens[0].startswith("al-") or looks_like_nisba(tokens[0]):
        surname = tokens[-1]
        tokens = tokens[:-1]
        if tokens and tokens[-1] in gazetteer.KINSHIP | gazetteer.KINSHIP_AR:  # "Amer bin Tannaf": a father, no surname
            tokens, surname = [*tokens, surname], None
        while tokens and tokens[-1] in gazetteer.PARTICLES:
            surname = f"{tokens.pop()} {surname}"
    if surname is None and len(tokens) == 1:
        return PersonName(alone=tokens[0])
    people = [token for token in tokens if token not in gazetteer.KINSHIP | gazetteer.KINSHIP_AR]
    return PersonName(people[0] if people else None, tuple(people[1:]), surname)


def same_person(names: Sequence[PersonName]) -> tuple[dict[PersonName, PersonName], set[PersonName]]:
    """Map each name of one case to the fullest name of that person, and tell which names could be several people.

    A shorter name joins a fuller one only when exactly one fuller name in the case says all it says. An ambiguous name
    stays a person of its own.
    """
    distinct = list(dict.fromkeys(names))
    by_part: dict[str, list[PersonName]] = {}
    for name in distinct:
        for part in {name.given, name.surname}:
            if part is not None:
                by_part.setdefault(part, []).append(name)
    fuller = {
        name: [other for other in by_part.get(_telling_part(name), []) if name.says_less_than(other)]
        for name in distinct
    }
    persons: dict[PersonName, PersonName] = {}
    ambiguous: set[PersonName] = set()
    for name in distinct:
        owners = [other for other in fuller[name] if not fuller[other]]
        persons[name] = owners[0] if len(owners) == 1 else name
        if len(owners) > 1:
            ambiguous.add(name)
    return persons, ambiguous


def _telling_part(name: PersonName) -> str:
    """A part that every fuller name of the same person has too."""
    return name.surname or name.given or name.alone or ""


def known_parts(names: Iterable[PersonName]) -> frozenset[str]:
    """The folded given names and surnames by which people of a case may be mentioned elsewhere in it."""
    return frozenset(
        part
        for name in names
        for part in (name.given, name.surname, name.alone)
        if part is not None and len(part) > 2 and not part.endswith(".")
    )


def looks_like_nisba(word: str) -> bool:
    """Whether an Arabic word has the shape of a family name: the article before it, the ending of belonging."""
    return len(word) > 4 and word.startswith("ال") and word.endswith(("ي", "ية"))
