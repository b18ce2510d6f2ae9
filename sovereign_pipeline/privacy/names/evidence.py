"""Decide whether words in Latin letters are a name, by the words themselves and the words beside them."""

import re
from collections.abc import Sequence

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    KNOWN_NAMES,
    Token,
    begins_name,
    is_articled,
    is_given,
    is_initial,
    is_known,
    is_surname,
    looks_like_surname,
    without_accents,
)

NOUNS = (
    lexicon.BODIES | lexicon.OFFICES | lexicon.LAW_AND_POLICY | lexicon.EVERYDAY_NOUNS | lexicon.SITES | lexicon.PEOPLES
)
PLACES = lexicon.PLACES_WORLD | lexicon.PLACES_OF_TWO_WORDS | lexicon.PLACES

_NO_SURNAMES = lexicon.BODIES | lexicon.SITES | (lexicon.LAW_AND_POLICY - lexicon.SURNAMES_TOO)
_NOUN_ENDING = re.compile(
    r"(?:[ts]ions?|ments|ities|isms?|olog(?:y|ies|ists?)|ograph(?:y|ers?)|ically|iness|ences|[iv]ity|ability|mentary|"
    r"tive)\Z"
)
_BEFORE = 60
_AFTER = 60
_LIVES_AT = r"(?:originally from|grew up in|liv(?:es?|ed|ing) in|born in|moved (?:here )?(?:to|from)|based in)"
_IN_A_PLACE = re.compile(
    r"(?<![\w'])(?:(?i:in|near|around|across|within|throughout|outside|towards|via|into|at)|"
    r"(?i:mov\w+|com(?:es?|ing)|came|flew|flown|went|go(?:es|ing|ne)?|travel\w*|return\w*|flee\w*|fled) "
    r"(?:back )?(?:to|from)|(?i:road|way|trips?|welcome) (?:to|from)|"
    r"(?i:north|south|east|west|city|town|village|state|republic|university|bishop|duke|earl|battle|mayor|people) of|"
    r"(?i:members?|mps?) (?:of parliament )?for(?: [A-Z]\w+,)?)"
    r"(?: the)? \Z"
)
_SURELY_IN_A_PLACE = re.compile(
    rf"(?<![\w'])(?:(?i:{_LIVES_AT})|(?:North|South|East|West|New|Great|Upper|Lower|Port|Fort|Mount|Lake|Cape|San|Santa|"
    r"Saint|St ?\.?)|(?:Rivers|Storms|Counties|Streets|Prisons|Ports)\b[^.;\n]{0,40}) \Z"
)
_DETERMINER = re.compile(
    r"(?<![\w'])(?i:the|this|these|those|each|every|any|another|an|a|our|your|its|no|new|draft) \Z"
)
_ABBREVIATION = re.compile(r"(?<![\w.])(?!RT\b)[A-Z]{2,6} \Z")
_IN_A_LIST = re.compile(r"([A-Z]\w+)(?:, and|,| and| or| &) \Z")
_NOBLE_BEFORE = re.compile(r"(?<!\w)(?i:lord|lady|baron|baroness|viscount|viscountess|dame) \Z")
_BEFORE_RANK = re.compile(r"\b([A-Z][\w-]+) [A-Z][a-z]+\.? \Z")
_SAINT_BEFORE = re.compile(r"(?:[a-z]|[^\w\s]) (?:Saint|St)\.? \Z")  # no street
_NEXT_WORD = re.compile(r"(?:['’]s)? ([A-Za-z-]+)")
_IS_A = re.compile(r" (?:is|was) (?:an?|the) ((?:[\w-]+ ?){1,6})")
_PHRASE_ENDS = re.compile(
    r" (?:[a-z]+ed|about|at|by|for|from|in|made|near|of|on|since|that|to|under|where|which|who|whose|with)\b"
)
_LINE_BEFORE = re.compile(r"(?:\A|\n)[>?* ]*\Z")
_LINE_BEHIND = re.compile(r" *(?:\r?\n|\Z)")
_HEADING_WORD = re.compile(r"[^\W\d_]{4,}")


def is_noun(word: str) -> bool:
    """Return whether a word is a common noun, by the word lists or by its ending. Some such words are names too."""
    plain = without_accents(word.strip("."))
    if plain in NOUNS and plain not in lexicon.PARTICLES:
        return True
    if plain in KNOWN_NAMES:
        return False
    return len(plain) > 5 and _NOUN_ENDING.search(plain) is not None


def is_place(segment: Sequence[Token]) -> bool:
    """Return whether the words, or the first of them, name a place and do not begin with a given name."""
    whole = " ".join(without_accents(token.group()) for token in segment)
    first = without_accents(segment[0].group())
    if whole in PLACES or len(segment) == 1 or first not in lexicon.EVERYDAY:
        return whole in PLACES or (first in PLACES and not is_given(segment[0]))
    second = segment[1].group()  # "Florence Oakes"
    return first in PLACES and (not second.istitle() or is_noun(second) or without_accents(second) in PLACES)


def begins_certainly(segment: Sequence[Token]) -> bool:
    """Return whether the words begin like a name: with an unambiguous given name, with any given name before a word
    that is not a noun, or with any word before a certain family name."""
    if begins_name(segment, 0):
        return True
    if len(segment) > 1 and looks_like_surname(segment[-1], certainly=True):
        return True
    shouted = segment[0].group().isupper()
    return len(segment) > 1 and is_given(segment[0]) and not is_noun(segment[1].group()) and not shouted


def personal_part(segment: Sequence[Token]) -> Sequence[Token]:
    """Return the candidate if it can be a name, otherwise an empty sequence: for an organisation, a law, a place or
    a heading."""
    nouns = [place for place, token in enumerate(segment) if is_noun(token.group())]
    if nouns == [1] and len(segment) == 2 and _is_family_name_too(segment):  # "Helen Baker"
        return segment
    if not segment or (nouns and not _is_name_with_noun(segment, nouns)):
        return []
    two_words = " ".join(without_accents(token.group()) for token in segment[:2])
    if two_words in lexicon.PLACES_OF_TWO_WORDS or (is_place(segment) and not begins_certainly(segment)):
        return []
    return [] if _holds_abbreviation(segment) else segment


def part_behind_rank(text: str, segment: Sequence[Token]) -> Sequence[Token]:
    """Return the name after a rank or an office, or an empty sequence: "Inspector Church", "Judge Helen Grant",
    "Lord Tyne"."""
    part = personal_part(segment)
    if part:
        return part
    last = segment[-1]
    nouns = [token for token in segment if is_noun(token.group())]
    family = len(segment) < 3 and nouns in ([], [last]) and (not nouns or _is_family_too(last))
    before = text[max(0, segment[0].start() - _BEFORE) : segment[0].start()]
    if not family or (is_place(segment) and not _NOBLE_BEFORE.search(before)) or _is_within_title(before):
        return []
    following = _NEXT_WORD.match(text, last.end())
    return [] if following is not None and _is_noun_behind(following.group(1)) else segment


def _is_within_title(before: str) -> bool:
    """Return whether the rank is part of a term: true for "Criminal Justice …", false for "Detective Inspector …"."""
    word = _BEFORE_RANK.search(before)
    return word is not None and is_noun(word.group(1)) and without_accents(word.group(1)) not in lexicon.OFFICES


def _is_family_too(token: Token) -> bool:
    return token.group().istitle() and without_accents(token.group()) in lexicon.FAMILIES_TOO | KNOWN_NAMES


def _is_family_name_too(segment: Sequence[Token]) -> bool:
    """Return whether an unambiguous given name precedes an office or a site that is also a frequent family name, as
    in "Helen Baker"."""
    first, last = (without_accents(token.group()) for token in segment)
    if not begins_name(segment, 0) or not segment[1].group().istitle() or last not in lexicon.MANY_FAMILIES:
        return False
    return last not in lexicon.SITES | lexicon.BODIES or first not in lexicon.NAMES_OF_SITES | lexicon.EVERYDAY


def _is_name_with_noun(segment: Sequence[Token], nouns: Sequence[int]) -> bool:
    """Return whether words that contain nouns are a name: true for "Grant Oakes", "Tiger Woods", "Brad L Key" and
    "George Parks Hitchcock", false for "Elizabeth Line"."""
    if len(segment) < 2:
        return False
    if nouns == [0]:
        first = without_accents(segment[0].group())
        family = len(segment) == 2 and (is_surname(segment[1]) or looks_like_surname(segment[1]))
        return first in KNOWN_NAMES or (first in lexicon.MANY_FAMILIES and not is_place(segment[1:])) or family
    if not is_given(segment[0]):
        return False
    last = without_accents(segment[-1].group())
    family_name = nouns == [len(segment) - 1] and (len(segment) == 2 or is_initial(segment[1]))
    if family_name:
        surname = last in KNOWN_NAMES or last in lexicon.SURNAMES_TOO
        return surname or (begins_name(segment, 0) and last not in _NO_SURNAMES)
    return len(segment) - 1 not in nouns and len(nouns) == 1 and begins_name(segment, 0)


def _holds_abbreviation(segment: Sequence[Token]) -> bool:
    """Return whether one of the words is an abbreviation: true for "NHS England", false for the initials in "JK
    Rowling"."""
    shouted = [token for token in segment if token.group().isupper() and len(token.group()) > 1]
    return 0 < len(shouted) < len(segment) and any(len(each.group()) > 2 and not is_known(each) for each in shouted)


def stands_like_something_else(text: str, segment: Sequence[Token], *, certain: bool = False) -> bool:
    """Return whether the context shows that the words are a place, an organisation, a law or a thing.

    Args:
        certain: whether the words begin like a name, so that only strong context speaks against it.
    """
    first, last = segment[0], segment[-1]
    before = text[max(0, first.start() - _BEFORE) : first.start()]
    behind = text[last.end() : last.end() + _AFTER]
    if CUE_BEFORE.search(before):
        return False
    place_too = len(segment) == 1 and without_accents(first.group()) in PLACES
    if _is_a_thing(behind):
        return len(segment) == 1 or not certain
    following = _NEXT_WORD.match(behind)
    noun_behind = following is not None and _is_noun_behind(following.group(1))
    if _SAINT_BEFORE.search(before) or (noun_behind and len(segment) == 1 and is_articled(first)):
        return True  # "the St Tamsin Quarshie Catholic Church", "Al Saltow hospital"
    if _SURELY_IN_A_PLACE.search(before) or _in_list_of_places(before, segment):
        return len(segment) == 1 or not certain
    family = len(segment) > 1 or is_surname(first) or looks_like_surname(first)
    attribute = following is not None and _may_be_of_a_person(following.group(1), family=family)
    if _DETERMINER.search(before) and not attribute:
        return noun_behind or not certain
    if certain:  # but "in Chad"
        return place_too and _IN_A_PLACE.search(before) is not None
    if _IN_A_PLACE.search(before) or noun_behind:
        return True
    if len(segment) > 1 or is_surname(first) or looks_like_surname(first):
        return False
    return _in_heading(text) or _stands_between_lines(text, first, before, behind)


def _is_a_thing(behind: str) -> bool:
    """Return whether the text says that the subject is a thing: true for " is an old coastal town in …", false for "
    is a company director"."""
    phrase = _IS_A.match(behind)
    if phrase is None:
        return False
    words = _PHRASE_ENDS.split(f" {phrase.group(1)}")[0].split()
    return bool(words) and words[-1] in lexicon.THINGS


def _in_list_of_places(before: str, segment: Sequence[Token]) -> bool:
    """Return whether the words are a place in a list with another place: "Sudan and Chad"."""
    neighbour = _IN_A_LIST.search(before)
    is_place_too = without_accents(segment[0].group()) in PLACES
    return neighbour is not None and is_place_too and without_accents(neighbour.group(1)) in PLACES


def _is_noun_behind(word: str) -> bool:
    plain = without_accents(word)
    return word in lexicon.BEHIND_NAMES_OF_THINGS or (word[0].isupper() and is_noun(word) and plain not in KNOWN_NAMES)


def _may_be_of_a_person(word: str, *, family: bool) -> bool:
    """Return whether a word after a name with an article may belong to a person: "the Tamsin Oakes concert", "the
    Oakes family", but not "the Kelpwick Bay scheme"."""
    if word in lexicon.BEHIND_NAMES_OF_PEOPLE:
        return True
    return family and word.islower() and word not in lexicon.BEHIND_NAMES_OF_THINGS | lexicon.STOP_WORDS


def _in_heading(text: str) -> bool:
    """Return whether the text is a heading: short, with several words, all capitalised."""
    if len(text) > 90 or "\n" in text or text.rstrip().endswith((".", "!", "?", ",")):
        return False
    words = _HEADING_WORD.findall(text)
    return len(words) > 1 and all(word[0].isupper() for word in words)


def _stands_between_lines(text: str, first: Token, before: str, behind: str) -> bool:
    """Return whether a word is alone in its line within a block of lines, like a firm or a town below a person's
    name."""
    if _LINE_BEFORE.search(before) is None or _LINE_BEHIND.match(behind) is None:
        return False
    above, below = text[max(0, first.start() - _BEFORE) : first.start()].strip(), behind.strip()
    return bool(above) and bool(below)


def may_spread(text: str, segment: Sequence[Token]) -> bool:
    """Return whether a name is certain enough to be searched for in the rest of its case, by its words or by the
    text before it."""
    if not segment or len(segment) > 1 or is_articled(segment[0]):
        return True
    alone = segment[0]
    if is_surname(alone) or begins_name(segment, 0) or looks_like_surname(alone, certainly=True):
        return True
    before = text[max(0, alone.start() - _BEFORE) : alone.start()]
    title = _WORD_BEFORE.search(before)
    titled = title is not None and title.group(1).casefold() in lexicon.HONORIFICS | lexicon.ROLES
    return titled or CUE_BEFORE.search(before) is not None


def mentions_person(text: str, token: Token) -> bool:
    """Return whether an everyday word that is also a part of a known name ("Grant", "Mark") means the person here."""
    before = text[max(0, token.start() - _BEFORE) : token.start()]
    if token.group().isupper() and len(token.group()) < 6:
        return False
    if CUE_BEFORE.search(before):
        return True
    if _DETERMINER.search(before) or _ABBREVIATION.search(before) or _CAPITALISED_BEFORE.search(before):
        title = _WORD_BEFORE.search(before)
        word = title.group(1).casefold() if title is not None else ""
        return word in lexicon.HONORIFICS or without_accents(word) in KNOWN_NAMES
    behind = text[token.end() : token.end() + _AFTER]
    following = _NEXT_WORD.match(behind)
    if following is not None and (following.group(1)[0].isupper() and is_noun(following.group(1))):
        return False
    if _SENTENCE_BEFORE.search(before):
        return _DOES_SOMETHING.match(behind) is not None
    return not _in_heading(text)


_WORD_BEFORE = re.compile(r"([A-Za-z]+)\.? \Z")
_CAPITALISED_BEFORE = re.compile(r"(?<![.!?:,] )(?<!\w)[A-Z]\w*[.,]? \Z")
_SENTENCE_BEFORE = re.compile(r"(?:\A|[.!?:\n]\s*|[\"'(•-] ?)\Z")
_DOES_SOMETHING = re.compile(
    r"(?:['’]s|,)?(?: (?:\w+ed|said|says|wrote|writes|told|has|had|was|is|will|would|can|could|came|went|paid|asks|"
    r"called|lives|works|and (?:I|he|she|they|we|my)|met|sent|got|did|does|also|never)\b|\s*(?:\Z|\n|[.!?]))"
)
