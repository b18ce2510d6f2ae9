"""Decide which names in one case file belong to one person: parse names into parts, compare the parts in Arabic and
Latin spellings, and map each shorter name to a fuller name.

`person_name` folds the parts, for example to "said", "al-busaidi" or "البوسعيدي".

Latin spellings of Arabic consonants follow the tables of ALA-LC (Arabic, 2012) and BGN/PCGN (1956), without diacritics.
Where passports of Gulf states differ from these tables, the spelling in the passports is used: k for ق, ee and oo for
long vowels, -y for the nisba ending, no h for ة. Arabic does not write short vowels, so the Latin spelling may have any
short vowel between two consonants. A long vowel must be spelled.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

from sovereign_pipeline.privacy.names.lexicon import ARABIC, LATIN, without_marks


@dataclass(frozen=True)
class PersonName:
    """A parsed name. Each part is folded."""

    given: str | None = None
    fathers: tuple[str, ...] = ()
    """Given names of the father and further ancestors, nearest first."""
    surname: str | None = None
    alone: str | None = None
    """The word of a one-word name, which may be a given name or a surname."""
    generation: str | None = None
    """Generation suffix: "jr", "sr", "ii", "iii" or "iv"."""

    def is_part_of(self, other: "PersonName") -> bool:
        """Return True if the names differ and the other has every part of this one. An initial fits a given name."""
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
        """Return all parts in reading order, except the generation suffix."""
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
        """Return True if two names may be spellings of one name. Every part that both have must be equal or alike, and
        at least one must not be equal. A one-word name must be alike, but not equal, to one part of the other name."""
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
    """Fold a name or a part of a name. Two spellings become equal if they differ only in letter case, hyphens, spelling
    of the article, forms of alef, or the space within a compound."""
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
    """Return a word of a name as a PersonName stores it: folded, with a final ta marbuta written as ha."""
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
    """Map each name in one case to the fullest name of the same person. Return the map, and the ambiguous names, which
    someone should check.

    First, an Arabic part and a Latin part count as equal if they certainly spell one name, and if neither of the two
    may also spell a third part in the case. Then a shorter name is mapped to a fuller name if exactly one fuller name
    in the case has all parts of the shorter name. Any other name is ambiguous in three cases: it fits several fuller
    names; one of its parts fits several parts in the other script; or it may be another spelling of another person's
    name.
    """
    distinct = list(dict.fromkeys(names))
    equal = _equal_parts({part for name in distinct for part in name.parts})
    respelt = {name: name.with_parts(equal) for name in distinct}
    owners, ambiguous = _joined(list(dict.fromkeys(respelt.values())))
    persons = {name: owners[respelt[name]] for name in distinct}
    unsure = ambiguous | _perhaps_the_same(owners)
    return persons, {name for name in distinct if respelt[name] in unsure}


def _joined(distinct: Sequence[PersonName]) -> tuple[dict[PersonName, PersonName], set[PersonName]]:
    """Return a dict from each name to its fullest name, and the names that fit several fuller names. Parts are compared
    without other spellings, but an initial fits a given name."""
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
    """Return a dict from Arabic part to Latin part. The two parts of a pair are certainly one name, and neither part
    matches a third part in the case."""
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
    """Return True if an Arabic word has the shape of a family name: the article, and the ending -ي or -ية."""
    return len(word) > 4 and word.startswith("ال") and word.endswith(("ي", "ية"))


class Likeness(IntEnum):
    """A degree of certainty that two parts are one name."""

    NONE = 0
    POSSIBLE = 1
    """The parts match only by a rarer spelling, or are two spellings in one script. A person should check this."""
    CERTAIN = 2
    """One part is a common spelling of exactly the letters of the other part."""


_TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("transliteration.toml").read_text(encoding="utf-8"))
_CONSONANTS, _LONG, _LAST = (_TABLES[name] for name in ("consonants", "long", "last"))
_FIXED: dict[str, str] = _TABLES["fixed"]
_ANY = ("[a-z]{1,2}", "")
"""Spelling of a letter that the table lacks."""
_SHORT = "[aeiou]?"
_WEAK = "اويى"
_VOWELS_AND_Y = re.compile("[aeiouy]+")
_ARTICLE = "al-"
_ARABIC = re.compile("[ء-يٮٯٱ-ۓەۮۯۺ-ۼݐ-ݿ]")


def is_arabic(part: str) -> bool:
    """Return whether a part of a name is written in Arabic letters."""
    return _ARABIC.search(part) is not None


@lru_cache(maxsize=1 << 16)
def likeness(one: str, other: str) -> Likeness:
    """Return the likeness of two different folded parts. Two spellings in one script are never CERTAIN."""
    if is_arabic(one) and is_arabic(other):
        return Likeness.POSSIBLE if _arabic_skeleton(one) == _arabic_skeleton(other) else Likeness.NONE
    if not is_arabic(one) and not is_arabic(other):
        return Likeness.POSSIBLE if _spelt_alike(one, other) else Likeness.NONE
    arabic, latin = (one, other) if is_arabic(one) else (other, one)
    latin = _plain(latin)
    if _pattern(arabic, further=False).fullmatch(latin):
        return Likeness.CERTAIN
    return Likeness.POSSIBLE if _pattern(arabic, further=True).fullmatch(latin) else Likeness.NONE


@lru_cache(maxsize=1 << 16)
def skeleton(part: str) -> str:
    """Return a key for fast comparison. Any two parts in one script that may be alike have equal keys."""
    if is_arabic(part):
        return _arabic_skeleton(part)
    return "".join(_consonants_and_vowels(part)[0])


# --- Arabic next to Latin --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)
def _pattern(arabic: str, further: bool) -> re.Pattern[str]:
    """Return a pattern that matches the Latin spellings of an Arabic part, in the form of `_plain`. If `further` is
    true, the pattern also matches rarer spellings."""
    if arabic.startswith("ال-"):  # "آل سعيد", which is written "Al Said"
        return re.compile(_ARTICLE + _word(arabic[3:], further))
    choices = [_word(arabic, further)]
    if arabic.startswith("ال") and len(arabic) > 4:
        bare = arabic[2:]
        article = f"(?:{_ARTICLE})?" if further else _ARTICLE
        choices.append(article + _word(bare, further))
        if bare.endswith("يه"):  # Latin documents mostly give a woman the masculine form of her family name
            choices.append(article + _word(bare[:-1], further))
    return re.compile("|".join(f"(?:{choice})" for choice in choices))


def _word(word: str, further: bool) -> str:
    if word in _FIXED:
        return f"(?:{_FIXED[word]})"
    if word == "عبدالله":
        return "abdull?ah?"
    if word.startswith("عبدال") and len(word) > 6:
        return "abdul?" + _letters(word[5:], further)
    if len(word) == 3 and not further and word[0] in _CONSONANTS and word[2] in _CONSONANTS:
        if word[1] in "وي":  # "زيد" is not Ziyad
            return "".join(
                _one_of(pair, further) for pair in (_CONSONANTS[word[0]], _LONG[word[1]], _CONSONANTS[word[2]])
            )
        if not set(word) & set(_WEAK + "عءئؤه"):
            return _of_three(word)
    return _letters(word, further)


def _letters(word: str, further: bool) -> str:
    letters = list(word)
    pieces: list[str] = []
    after_consonant = False  # whether a short vowel may precede the next consonant
    for place, letter in enumerate(letters):
        first, last = place == 0, place == len(letters) - 1
        following = "" if last else letters[place + 1]
        piece, after_consonant = _letter(letter, first, last, following, after_consonant, further)
        if last and not further and _is_active_participle(word):
            piece = "[ei]?" + _one_of(_CONSONANTS.get(letter, _ANY), further)
        pieces.append(piece)
    return "".join(pieces)


def _letter(
    letter: str, first: bool, last: bool, following: str, after_consonant: bool, further: bool
) -> tuple[str, bool]:
    """Return the pattern of one letter, and whether a short vowel may follow it."""
    before = _SHORT if after_consonant else ""
    if first and letter == "ا":
        return ("(?:[aeiou]|aa|ee|oo)" + ("?" if following in ("و", "ي") else "")), False
    if first and letter == "ع":
        return ("[aeiou]?" if following in ("ا", "و", "ي") else "(?:[aeiou]|aa)"), False
    if first or (letter in _CONSONANTS and letter not in "وي" and not (last and letter == "ه")):
        return before + _one_of(_CONSONANTS.get(letter, ("", "")), further), True
    if last and letter in _LAST:
        return _one_of(_LAST[letter], further), False
    if letter in "وي":
        long = _one_of(_LONG[letter], further)
        if following == "ه" or following in "اوى" or not last:
            glide = _one_of(_CONSONANTS.get(letter, _ANY), further)
            return f"(?:{long}|{_SHORT}{glide}(?:[aeiou]|oo|ou|ee)?|i[ae])", False
        return long, False
    match letter:
        case "ا":
            return _one_of(_LONG["ا"], further), False
        case "ع":
            return ("(?:[aeiou]|aa|[ou]a)?" if further else "(?:[aeiou]|aa)?"), False
        case "ئ":
            return f"{before}(?:[aei]|y[aei]?)?", False
        case "ؤ":
            return f"{before}(?:[aou]|w[aou]?)?", False
        case _:  # ء, and ى inside a word
            return before, False


def _one_of(spellings: tuple[str, str], further: bool) -> str:
    common, rarer = spellings
    return f"(?:{common}|{rarer})" if further and rarer else f"(?:{common})"


def _of_three(word: str) -> str:
    """Return the pattern for a word of three letters. Example: "حمد" is spelled Hamad or Hamed, never Hamid. Only an s
    before an a may be doubled: Hassan, but not Nasser."""
    one, two, three = (_one_of(_CONSONANTS.get(letter, _ANY), False) for letter in word)
    if word[1] in "سص":
        return f"{one}[aeiou]?(?:s[aeou]?|ssa){three}"
    single = "(?:" + re.sub(r"(\w)\1\?", r"\1", two.removeprefix("(?:"))
    return f"{one}[aeiou]?{single}[aeou]?{three}"


def _is_active_participle(word: str) -> bool:
    """Return True if a word is an active participle, such as "سالم" (Salim) or "راشد" (Rashid). Its second vowel is i
    or e, so Rashad and Salah are other names."""
    return len(word) == 4 and word[1] == "ا" and not set(word[2:]) & set(_WEAK + "عءئؤه")


# --- two spellings in one script -------------------------------------------------------------------------------------


def _arabic_skeleton(part: str) -> str:
    """Return the part without its article, and with a final ى written as ي."""
    bare = part.removeprefix("ال-") if part.startswith("ال-") else part
    if bare == part and len(part) > 4:
        bare = part.removeprefix("ال")
    return re.sub("ى$", "ي", bare)


def _spelt_alike(one: str, other: str) -> bool:
    consonants, vowels = _consonants_and_vowels(one)
    others, other_vowels = _consonants_and_vowels(other)
    if consonants != others or (vowels[-1] == "") != (other_vowels[-1] == ""):
        return False
    return all(map(_vowels_alike, vowels, other_vowels))


@lru_cache(maxsize=1 << 14)
def _consonants_and_vowels(latin: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return two tuples: the consonants, each doubled consonant once; and the vowels before, between and after the
    consonants, so that the second tuple is longer by one."""
    plain = _plain(latin).removeprefix(_ARTICLE)
    plain = re.sub(r"^al(?=[^aeiouy]{1,2}[aeiouy])(?!l)", "", plain) if len(plain) > 6 else plain
    plain = re.sub(r"(?<=[aeiou])h$", "", plain.replace("ph", "f").replace("q", "k"))
    consonants: list[str] = []
    vowels = [""]
    for piece in re.findall(r"[aeiouy]+|kh|gh|sh|th|dh|ch|[^aeiouy]", plain):
        if _VOWELS_AND_Y.fullmatch(piece):
            vowels[-1] += piece
        elif not (consonants and consonants[-1] == piece and vowels[-1] == ""):
            consonants.append(piece)
            vowels.append("")
    return tuple(consonants), tuple(vowels)


def _vowels_alike(one: str, other: str) -> bool:
    """Return True if vowels sound alike: ai, ee and i are one sound, and au, oo and u are one sound. A single e may be
    any short vowel."""
    if one == other:
        return True
    if len(one) < 2 and len(other) < 2 and ("e" in (one, other) or "" in (one, other)):
        return True
    return _sound(one) == _sound(other) != ""


def _sound(vowels: str) -> str:
    if set(vowels) & set("ou"):
        return "u"
    if set(vowels) & set("iey"):
        return "ia" if vowels.endswith("a") else "i"
    return "a" if vowels else ""


def _plain(latin: str) -> str:
    """Return a Latin spelling without diacritics, apostrophes and hyphens, except for the hyphen of the article."""
    article = _ARTICLE if latin.startswith(_ARTICLE) else ""
    letters = unicodedata.normalize("NFKD", latin[len(article) :])
    return article + "".join(letter for letter in letters if letter.isalpha() and letter not in "ʿʾʼ")
