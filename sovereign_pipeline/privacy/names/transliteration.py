"""Compare two parts of names: an Arabic spelling with a Latin spelling, or two spellings in one script.

Parts are folded as by `persons.person_name`: "said", "al-busaidi", "البوسعيدي".

Consonants follow the tables of ALA-LC (Arabic, 2012) and BGN/PCGN (1956), without diacritics, and, where passports of
Gulf states differ from these tables, the spellings in passports (k for ق, ee and oo for long vowels, -y for the nisba
ending, no h for ة). Arabic does not write short vowels, so any short vowel may be between two consonants. A long vowel
is required.
"""

import re
import tomllib
import unicodedata
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any


class Likeness(IntEnum):
    """A degree of certainty that two parts are one name."""

    NONE = 0
    POSSIBLE = 1
    """The parts match only by a rarer spelling, or are two spellings in one script. A person should check this."""
    CERTAIN = 2
    """One part is a common spelling of exactly the letters of the other."""


_TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
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
    """Return a key for fast comparison: it is equal for any two parts in one script that may be alike."""
    if is_arabic(part):
        return _arabic_skeleton(part)
    return "".join(_consonants_and_vowels(part)[0])


# --- Arabic next to Latin --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 14)
def _pattern(arabic: str, further: bool) -> re.Pattern[str]:
    """Return a pattern that matches the Latin spellings of an Arabic part, in the form of `_plain`. If `further` is
    true, it also matches rarer spellings."""
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
    after_consonant = False  # whether a short vowel may stand before the next consonant
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
    """Return the part without its article, and with one form of its last letter."""
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
    """Return two lists: the consonants, each doubled consonant once; and the vowels before, between and after the
    consonants, so that the second list is longer by one."""
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
