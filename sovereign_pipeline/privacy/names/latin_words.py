"""One word of a name in Latin letters: how it is written, and what the word lists and its ending say of it.

What belongs here: the patterns of single words and of cues before a name, and yes or no about one word. What does not:
where a name begins and ends (`latin_names.py`), the word lists (`lexicon.py`).
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from sovereign_pipeline.privacy.names import lexicon

# A match of TOKEN: one word of a run of capitalised words.
Token = re.Match[str]

# Latin letters with their accents, by case: the regular expressions of the standard library know no such class.
_LATIN = [chr(code) for code in (*range(0x41, 0x250), *range(0x1E00, 0x1F00)) if chr(code).isalpha()]
_UPPER = "[" + "".join(letter for letter in _LATIN if letter.isupper()) + "]"
_LOWER = "[" + "".join(letter for letter in _LATIN if letter.islower()) + "]"
_ARTICLE = (
    rf"(?:(?:Al|al|El|el)[ -](?:(?:Bu|Bani)[ -])?[A-Z]{_LOWER}+|(?:AL|EL)[ -](?:(?:BU|BANI)[ -])?[A-Z]{{3,}}(?!\w))"
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
RUN = re.compile(rf"(?<![\w@./-])(?:{TOKEN})(?: (?:{TOKEN}))*(?![\w@])")
EACH_TOKEN = re.compile(TOKEN)
LOWER_WORD = re.compile(rf"(?<![\w@./-])[{''.join(letter for letter in _LATIN if letter.islower())}]+\.?(?![\w@-])")
UPPER_LETTER = re.compile(_UPPER)
_CUE = (
    r"(?:my name is|name is|name's|(?:(?:first|last|maiden|full|family|given) )?name ?[:?]|surname ?[:?]|called|"
    r"call me|calls me|i am|i'm|this is|signed(?: by)?:?|attn\.?:?|hi|hello|hey|dear)"
)
CUED = re.compile(rf"(?<!\w)(?i:{_CUE})[ \t]+(?P<name>(?:{TOKEN})(?: (?:{TOKEN}))*)(?![\w@])")
PERSONAL_TITLE = re.compile(r"(?<![\w])(?i:mrs?|ms|miss|dr|mx|prof|sir|sheikha?|shaikh)\.? \Z")
CUE_BEFORE = re.compile(rf"(?<!\w)(?i:{_CUE}) \Z")

# Nordic, Slavic, Greek, German, Romanian, Finnish, Caucasian, Romance.
_CERTAIN = "sson|dottir|ovic|evic|vich|vych|skaya|czyk|wicz|enko|chuk|opoulos|akis|idis|shvili|oglu"
_CERTAIN_SURNAME_ENDING = re.compile(f"(?:{_CERTAIN}|[^n]ova)$")
_SURNAME_ENDING = re.compile(
    f"(?:{_CERTAIN}|sen|ova|eva|ski|ska|sky|escu|nen|mann|berg|quist|qvist|strom|gaard|dze|yan|ez|inho|etti|ini|ucci|ov|ev)$"
)
_OF_A_CLAN = re.compile(rf"(?:O['’]|Mc){_UPPER}{_LOWER}{{2,}}")
KNOWN_NAMES = lexicon.GIVEN | lexicon.GIVEN_WORLD | lexicon.SURNAMES_WORLD


@lru_cache(maxsize=1 << 16)
def with_plain_article(token: str) -> str:
    """In small letters, with the article written as `al-`."""
    return re.sub(r"^(?:al|el)[ -]", "al-", token.casefold())


def is_articled(token: Token) -> bool:
    """Whether the article stands before it: "Al Busaidi"."""
    return re.match(r"(?:A[Ll]|al|E[Ll]|el)[ -]", token.group()) is not None


_STROKES = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "đ": "d", "Đ": "D"})


@lru_cache(maxsize=1 << 16)
def without_accents(word: str) -> str:
    """In small letters, without accents."""
    return without_marks(word.casefold())


def without_marks(text: str) -> str:
    """With plain Latin letters for those with accents and strokes."""
    plain = unicodedata.normalize("NFKD", text.translate(_STROKES))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def is_given(token: Token) -> bool:
    """Whether it is a given name, also one that may be something else."""
    return token.group().casefold() in lexicon.GIVEN or without_accents(token.group()) in lexicon.GIVEN_WORLD


def is_surname(token: Token) -> bool:
    """Whether it is a family name and nothing else."""
    plain = without_accents(token.group())
    if plain in lexicon.TRIBES:
        return True
    return plain in lexicon.SURNAMES_WORLD and plain not in lexicon.EVERYDAY and not token.group().isupper()


def is_known(token: Token) -> bool:
    """Whether it is a given or family name of the word lists, also one that may be something else."""
    return token.group().casefold() in lexicon.GIVEN or without_accents(token.group()) in KNOWN_NAMES


def looks_like_surname(token: Token, *, certainly: bool = False) -> bool:
    """Whether it ends as family names do; with `certainly`, as no other word does."""
    if _OF_A_CLAN.match(token.group()):
        return True
    endings = _CERTAIN_SURNAME_ENDING if certainly else _SURNAME_ENDING
    return len(token.group()) > 5 and endings.search(without_accents(token.group())) is not None


def begins_name(segment: Sequence[Token], position: int) -> bool:
    """Whether a given name stands here: one that is nothing else, or one before a family name or an initial."""
    token = segment[position]
    if token.group().casefold() in lexicon.GIVEN:
        return True
    plain = without_accents(token.group())
    if plain not in lexicon.GIVEN_WORLD:
        return False
    following = segment[position + 1] if position + 1 < len(segment) else None
    if token.group().isupper():  # one word in capitals may be anything
        return following is not None and _is_family_name(following) and plain not in lexicon.EVERYDAY
    if plain not in lexicon.EVERYDAY:
        return True
    return following is not None and (is_initial(following) or without_accents(following.group()) in KNOWN_NAMES)


def _is_family_name(token: Token) -> bool:
    plain = without_accents(token.group())
    return plain in lexicon.SURNAMES_WORLD or plain in lexicon.TRIBES or looks_like_surname(token)


def is_initial(token: Token) -> bool:
    return len(token.group().strip(".")) == 1
