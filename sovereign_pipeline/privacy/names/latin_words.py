"""Define patterns and tests of single Latin words, and split runs of capitalised words into names."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sovereign_pipeline.privacy.names import lexicon

# A match of TOKEN: one word of a run of capitalised words.
Token = re.Match[str]

# Latin letters with accents, by case. `re` has no such class.
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


# --- single words -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def with_plain_article(token: str) -> str:
    """Return the word in lower case, with the article written as `al-`."""
    return re.sub(r"^(?:al|el)[ -]", "al-", token.casefold())


def is_articled(token: Token) -> bool:
    """Return whether a word begins with the Arabic article: "Al Busaidi"."""
    return re.match(r"(?:A[Ll]|al|E[Ll]|el)[ -]", token.group()) is not None


_STROKES = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "đ": "d", "Đ": "D"})


@lru_cache(maxsize=1 << 16)
def without_accents(word: str) -> str:
    """Return the word in lower case, without accents."""
    return without_marks(word.casefold())


def without_marks(text: str) -> str:
    """Return the text with accents and strokes removed from its letters."""
    plain = unicodedata.normalize("NFKD", text.translate(_STROKES))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def is_given(token: Token) -> bool:
    """Return whether a word is a given name, ambiguous or not."""
    return token.group().casefold() in lexicon.GIVEN or without_accents(token.group()) in lexicon.GIVEN_WORLD


def is_surname(token: Token) -> bool:
    """Return whether a word is an unambiguous family name."""
    plain = without_accents(token.group())
    if plain in lexicon.TRIBES:
        return True
    return plain in lexicon.SURNAMES_WORLD and plain not in lexicon.EVERYDAY and not token.group().isupper()


def is_known(token: Token) -> bool:
    """Return whether a word is a listed given or family name, ambiguous or not."""
    return token.group().casefold() in lexicon.GIVEN or without_accents(token.group()) in KNOWN_NAMES


def looks_like_surname(token: Token, *, certainly: bool = False) -> bool:
    """Return whether a word ends like a family name; with `certainly`, by an ending that no other words have."""
    if _OF_A_CLAN.match(token.group()):
        return True
    endings = _CERTAIN_SURNAME_ENDING if certainly else _SURNAME_ENDING
    return len(token.group()) > 5 and endings.search(without_accents(token.group())) is not None


def begins_name(segment: Sequence[Token], position: int) -> bool:
    """Return whether a given name is at this position: an unambiguous one, or one before a family name or an
    initial."""
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


# --- cutting runs of words --------------------------------------------------------------------------------------------

_NEVER_CALLED = (lexicon.STOP_WORDS | lexicon.OFFICES) - lexicon.FAMILIES_TOO
_OF_A_PERSON = frozenset({"mr", "mrs", "ms", "miss", "dr"})
_VESSEL = rf"\b(?:(?i:{'|'.join(sorted(lexicon.VESSELS))})|M/?[VTY]|M/?SV|F/?V|S/?S|HMS|RMS|RV)"
_VESSEL_BEFORE = re.compile(rf"{_VESSEL}\.? (?:named |called )?['\"]?\Z")
_VESSEL_IN_SENTENCE = re.compile(rf"{_VESSEL}\b[^.!?;:\n]*\Z")
_FIGURE_BEHIND = re.compile(r" \d{1,3}(?![\w/:.-]*\d)(?! [a-z])")


class Segments:
    """A splitter of runs of capitalised words into segments that may be names."""

    def __init__(self, keep_words: frozenset[str]) -> None:
        """
        Args:
            keep_words: words that are never part of a name, in lower case.
        """
        self._keep_words = keep_words
        self.never = lexicon.STOP_WORDS | lexicon.PLACES | lexicon.ORGANISATIONS | keep_words

    def of(self, tokens: Sequence[Token], trusted: bool = False) -> list[list[Token]]:
        """Return the segments of a run, without particles at their ends.

        Args:
            trusted: whether a model labelled the run as a person. An ambiguous word ("Jan") is then a given name.
        """
        segments: list[list[Token]] = [[]]
        skip_next = False
        before = ""
        for token in tokens:
            of_a_person, before = before in _OF_A_PERSON, token.group().casefold().strip(".")
            if with_plain_article(token.group()) == "al-bahr":  # "Noor al Bahr" and the like are vessels
                segments[-1] = []
                continue
            word = before
            alone = len(segments[-1]) == 1
            title = word in lexicon.HONORIFICS and not (alone and is_given(segments[-1][0]))  # "Lubna Sayyid"
            initial = is_initial(token) and (token.group().endswith(".") or bool(segments[-1]))
            given = trusted and word in lexicon.GIVEN_WORLD and not segments[-1]
            called = of_a_person and word not in _NEVER_CALLED  # "Ms Court"
            named = alone and (begins_name(segments[-1], 0) or (trusted and token is tokens[-1]))
            family = named and token.group().istitle() and word in lexicon.FAMILIES_TOO  # "Lubna West"
            ends = word in self.never and not (initial or given or called or family)
            heads_place = word in lexicon.PLACE_HEADS and not called
            if ends or title or self._is_place(token) or skip_next or heads_place:
                segments.append([])
            else:
                segments[-1].append(token)
            skip_next = heads_place
        trimmed = [_without_small_ends(segment) for segment in segments]
        return [segment for segment in trimmed if segment]

    def _is_place(self, token: Token) -> bool:
        folded = with_plain_article(token.group())
        of_article = folded.startswith("al-") and (folded[3:] in lexicon.AL_PLACES or folded[3:] in self._keep_words)
        return of_article or folded in lexicon.PLACES


def by_line(text: str, tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Yield groups of adjacent tokens with only spaces between them."""
    line: list[Token] = []
    for token in tokens:
        if line and text[line[-1].end() : token.start()].strip(" "):
            yield line
            line = []
        line.append(token)
    if line:
        yield line


def names_an_organisation(tokens: Sequence[Token]) -> bool:
    return any(token.group().casefold().strip(".") in lexicon.ORGANISATIONS for token in tokens)


def is_honorific(token: Token) -> bool:
    return token.group().casefold().strip(".") in lexicon.HONORIFICS


def is_within_word(text: str, token: Token) -> bool:
    """Return whether a word is a part of a longer word, a handle, a tag or an address: "@saltmarsh", "#harbour",
    "t.co/XyAbd"."""
    before = text[token.start() - 1 : token.start()]
    if before.isalnum() or before in ("_", "@", "#"):
        return before != ""
    return before == "/" and "://" in text[max(0, token.start() - 40) : token.start()].rpartition(" ")[2]


def is_vessel(text: str, start: int, end: int) -> bool:
    """Return whether the span is a vessel's name: after a word for a vessel, or before a number in a sentence with
    such a word."""
    if _VESSEL_BEFORE.search(text, max(0, start - 20), start):
        return True
    numbered = _FIGURE_BEHIND.match(text, end) is not None
    return numbered and _VESSEL_IN_SENTENCE.search(text, max(0, start - 80), start) is not None


def _without_small_ends(segment: list[Token]) -> list[Token]:
    def is_small(token: Token) -> bool:
        return token.group().casefold() in lexicon.KINSHIP | lexicon.PARTICLES

    first, end = 0, len(segment)
    while first < end and is_small(segment[first]):
        first += 1
    while first < end and is_small(segment[end - 1]):
        end -= 1
    return segment[first:end]
