"""Read the word lists of `word_lists/*.txt`, define the patterns of capitalised Latin words, and classify such words.

Each `[section]` of a file is one list. Words of Latin lists are in lower case and without accents. The words of a
two-word entry are joined by an underscore.
"""

import re
import unicodedata
from functools import lru_cache
from pathlib import Path


def _read(file: str) -> dict[str, frozenset[str]]:
    """Return a dict from each section of a file to its words. Lines that begin with `#` are comments."""
    sections: dict[str, set[str]] = {}
    words: set[str] = set()
    for line in Path(__file__).with_name("word_lists").joinpath(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = sections.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            words.update(word.replace("_", " ") for word in line.split())
    return {section: frozenset(words) for section, words in sections.items()}


ARABIC = _read("arabic.txt")
ARABIC["given"] |= ARABIC["given_gulf"]
LATIN = _read("gulf.txt") | _read("world_names.txt") | _read("world_places.txt") | _read("not_names.txt")
BESIDE = _read("beside_names.txt")
"""Words by feature. A candidate next to such a word has the feature."""


# A match of TOKEN: one word of a run of capitalised words.
Token = re.Match[str]
Kinds = frozenset[str]

# Latin letters with accents, by case. `re` has no such class.
_LATIN = [chr(code) for code in (*range(0x41, 0x250), *range(0x1E00, 0x1F00)) if chr(code).isalpha()]
_UPPER = "[" + "".join(letter for letter in _LATIN if letter.isupper()) + "]"
_LOWER = "[" + "".join(letter for letter in _LATIN if letter.islower()) + "]"
_ARTICLE = (
    rf"(?:(?:Al|al|El|el)(?:[ -]|  )(?:(?:Bu|Bani)[ -])?[A-Z]{_LOWER}+"
    r"|(?:AL|EL)[ -](?:(?:BU|BANI)[ -])?[A-Z]{3,}(?!\w))"
)
_CAPITALISED = (
    rf"(?:[OD]['’](?={_UPPER}{_LOWER}))?{_UPPER}{_LOWER}+(?:['’-](?!s\b){_UPPER}?{_LOWER}+|{_UPPER}{_LOWER}+)?"
)
_TITLE_WITH_DOT = r"(?:Mr|Mrs|Ms|Dr|Eng|Capt|Prof)\."
_SMALL = r"(?:bin|bint|ibn|van|von|de|der|den|da|dos|di)(?= )"
_INITIAL = rf"{_UPPER}(?:\.|(?= {_UPPER}))"
_SHOUTED = rf"{_UPPER}{{2,}}(?!\w)"
TOKEN = rf"(?:{_ARTICLE}|{_TITLE_WITH_DOT}|{_SMALL}|Bin(?= )|Bint(?= )|{_CAPITALISED}|{_SHOUTED}|{_INITIAL})"
WHOLE_WORD = rf"(?:{_ARTICLE}|{_CAPITALISED}|{_SHOUTED})"
RUN = re.compile(rf"(?<![\w@./-])(?:{TOKEN})(?: {{1,3}}(?:{TOKEN}))*(?![\w@])")
EACH_TOKEN = re.compile(TOKEN)
LOWER_WORD = re.compile(rf"(?<![\w@./-])[{''.join(letter for letter in _LATIN if letter.islower())}]+\.?(?![\w@-])")
UPPER_LETTER = re.compile(_UPPER)

# Nordic, Slavic, Greek, German, Romanian, Finnish, Caucasian, Romance.
_CERTAIN = "sson|dottir|ovic|evic|vich|vych|skaya|czyk|wicz|enko|chuk|opoulos|akis|idis|shvili|oglu"
_CERTAIN_SURNAME_ENDING = re.compile(f"(?:{_CERTAIN}|[^n]ova)$")
_SURNAME_ENDING = re.compile(
    f"(?:{_CERTAIN}|sen|ova|eva|ski|ska|sky|escu|nen|mann|berg|quist|qvist|strom|gaard|dze|yan|ez|inho|etti|ini|ucci|ov|ev)$"
)
_OF_A_CLAN = re.compile(rf"(?:O['’]|Mc){_UPPER}{_LOWER}{{2,}}")
_ARTICLED = re.compile(r"(?:A[Ll]|al|E[Ll]|el)[ -]")


# --- single words -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def with_plain_article(token: str) -> str:
    """Return the word in lower case, with the article written as `al-`."""
    return re.sub(r"^(?:al|el)[ -]+", "al-", token.casefold())


_STROKES = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "đ": "d", "Đ": "D"})


@lru_cache(maxsize=1 << 16)
def without_accents(word: str) -> str:
    """Return the word in lower case, without accents."""
    return without_marks(word.casefold())


def without_marks(text: str) -> str:
    """Return the text with accents and strokes removed from its letters."""
    plain = unicodedata.normalize("NFKD", text.translate(_STROKES))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


_NOUN_ENDING = re.compile(
    r"(?:[ts]ions?|ments|ities|isms?|olog(?:y|ies|ists?)|ograph(?:y|ers?)|ically|iness|ences|[iv]ity|ability|mentary|"
    r"tive)\Z"
)
_GIVEN_TOO = LATIN["given_world"] & LATIN["everyday"]
_KINDS: dict[str, frozenset[str]] = {
    "given name or word": _GIVEN_TOO,
    "given name": LATIN["given_world"] - _GIVEN_TOO,
    "family name": LATIN["tribes"] | (LATIN["surnames_world"] - LATIN["everyday"]),
    "family name or word": ((LATIN["surnames_world"] & LATIN["everyday"]) | LATIN["families_too"]) - LATIN["tribes"],
    "title": LATIN["honorifics"],
    "office": LATIN["offices"] | LATIN["roles"],
    "firm": LATIN["organisations"],
    "place": LATIN["places_world"] | LATIN["places"],
    "noun": LATIN["bodies"] | LATIN["law_and_policy"] | LATIN["sites"] | LATIN["everyday_nouns"] | LATIN["peoples"],
    "everyday word": LATIN["everyday"],
    "stop": (LATIN["stop_words"] - {"april", "jan", "june"}) | LATIN["places"],
    "head of a place": LATIN["place_heads"],
    "small": LATIN["kinship"] | LATIN["particles"],
    "kinship": LATIN["kinship"],
}
_SHAPES = frozenset({"capitals", "short", "family name's ending"})


@lru_cache(maxsize=1 << 16)
def kinds_of(word: str) -> Kinds:
    """Return the kinds of a word, such as "given name". The kinds follow from the word lists, the word's ending and the
    word's shape."""
    plain = without_accents(word).strip(".")
    found = {kind for kind, words in _KINDS.items() if plain in words}
    if not found and plain.endswith("s") and len(plain) > 3:  # "Sirs", "Inspectors"
        found = {kind for kind in ("title", "office", "noun") if plain[:-1] in _KINDS[kind]}
    if word.casefold() in LATIN["given"]:
        found = (found | {"given name"}) - {"given name or word"}
    if _OF_A_CLAN.match(word) or (len(word) > 5 and _CERTAIN_SURNAME_ENDING.search(plain)):
        found.add("family name")
    elif len(word) > 5 and _SURNAME_ENDING.search(plain):
        found.add("family name's ending")
    if _ARTICLED.match(word):
        found |= {"place", "stop"} if with_plain_article(word)[3:] in LATIN["al_places"] else {"Arabic article"}
    if len(plain) == 1:
        found = {"initial"}
    elif sum(letter.isupper() for letter in word) * 2 > len(word):
        found.add("capitals")
    if len(word) < (5 if "capitals" in found else 3):
        found.add("short")
    if not found - _SHAPES and len(plain) > 5 and _NOUN_ENDING.search(plain):
        found.add("noun")
    if not found.isdisjoint(("given name or word", "family name or word")):
        found -= {"noun"}
    return frozenset(found if found - _SHAPES else found | {"unlisted word"})


_CUE_BEFORE = re.compile(
    r"(?<!\w)(?:name is|name:|i am|i'm|dear|hi|hello|signed(?: by)?:?|mrs?|ms|dr|prof|sheikh)\.? \Z"
)


def recased(text: str) -> str:
    """In a text without capitals, capitalise known names, words after a name, and words after a cue such as "dear".
    Return any other text unchanged. The text's length stays the same."""
    if UPPER_LETTER.search(text) is not None:
        return text
    letters = list(text)
    follows = -1  # end of the previous name
    for word in LOWER_WORD.finditer(text):
        kinds = kinds_of(word.group().rstrip("."))
        after_name = word.start() == follows + 1 and text[follows] == " "
        if after_name and ("small" in kinds or word.group() in ("al", "el")):
            follows = word.end()
            continue
        known = not kinds.isdisjoint(("given name", "family name")) or (after_name and "initial" in kinds)
        cued = _CUE_BEFORE.search(text, max(0, word.start() - 24), word.start()) is not None
        verb = not known and word.group() in BESIDE["before a verb of people"]
        if not verb and kinds.isdisjoint(("stop", "title", "noun")) and (known or after_name or cued):
            letters[word.start()] = _capital(letters[word.start()])
            follows = word.end() if known or cued else -1
        else:
            follows = -1
    return "".join(letters)


def _capital(letter: str) -> str:
    """Return the capital form of a letter. Return the letter unchanged if its capital form has two letters ("ß")."""
    return letter.upper() if len(letter.upper()) == 1 else letter
