"""Find candidates for names in Latin letters, and describe each by the features that the scorer weighs."""

import re
from collections.abc import Iterator, Sequence

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.latin_words import (
    EACH_TOKEN,
    RUN,
    WHOLE_WORD,
    Kinds,
    Token,
    kinds_of,
    without_accents,
)
from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.names.scorer import Candidate

_LONGEST = 5  # words of a candidate, kinship words not counted
_REACH = 48
_SIGNATURE_REACH = 110  # characters from the start of a signature to the end of a letter, contact details included
_CERTAIN = ("given", "family", "sure ending", "article")
_EVIDENCE = frozenset(
    {"given", "given too", "family", "family too", "sure ending", "ending", "article", "kinship", "unlisted"}
)
_EVIDENCE_BEFORE = frozenset({"after a personal title", "after a cue", "after an office", "after a closing formula"})


def latin_candidates(
    text: str, entities: Sequence[Entity], keep_words: frozenset[str], *, signed: bool
) -> Iterator[Candidate]:
    """Yield the candidates of a normalised text, which may overlap.

    Args:
        entities: the name model's entities in this text.
        keep_words: words that are never part of a name, in lower case.
        signed: whether the text is a letter, which may end with a signature.
    """
    spaced = _with_spaces(text)
    joined = frozenset(at for at, sign in enumerate(text) if sign != spaced[at]) if spaced != text else frozenset()
    facts = _Facts(spaced, entities, len(text) - _SIGNATURE_REACH if signed else len(text), joined)
    for run in RUN.finditer(spaced):
        tokens = list(EACH_TOKEN.finditer(spaced, run.start(), run.end()))
        kinds = [kinds_of(token.group()) for token in tokens]
        beside_firm = any("firm" in each for each in kinds)
        for piece in _pieces(tokens, kinds, keep_words):
            if _may_hold_name(facts, tokens[piece], kinds[piece]):
                yield from _spans_of(facts, tokens[piece], kinds[piece], beside_firm)
    yield from _in_small_letters(facts, keep_words)


_SIGN = re.compile(r"(?<=[^\W_])[_./\\+-](?=[^\W_])")
_WORD = re.compile(r"[^\W\d_]+")


def _with_spaces(text: str) -> str:
    """Return the text with a space for each sign within words with a listed given name, as in names of files and web
    addresses. The length stays the same."""
    if _SIGN.search(text) is None:
        return text
    return re.sub(r"[^\s_./\\+-]+(?:[_./\\+-][^\s_./\\+-]+)+", _spaced, text)


def _spaced(words: Token) -> str:
    if "@" in words[0] or not any("given" in kinds_of(word) for word in _WORD.findall(words[0])):
        return words[0]
    return _SIGN.sub(" ", words[0])


def one_word(text: str, token: Token) -> Candidate:
    """Return the candidate of a single word, without a name model."""
    facts = _Facts(text, (), len(text))
    return facts.candidate([token], [kinds_of(token.group())], ())


def is_certain_alone(text: str, token: Token) -> bool:
    """Return whether a single word is certainly a name, by the lists or by the word before it."""
    before = _Facts(text, (), len(text)).before(token.start())
    return not kinds_of(token.group()).isdisjoint(_CERTAIN) or not _EVIDENCE_BEFORE.isdisjoint(before)


# --- candidates -------------------------------------------------------------------------------------------------------


def _pieces(tokens: Sequence[Token], kinds: Sequence[Kinds], keep_words: frozenset[str]) -> Iterator[slice]:
    """Yield the groups of words that no title, function word or word to keep separates."""
    first = 0
    for place, token in enumerate(tokens):
        before = kinds[place - 1] if place else frozenset()
        family = _may_be_called(before, kinds[place])
        addressed = "title" in before or (place > 0 and tokens[place - 1].group().casefold() in _ADDRESSING)
        held = addressed and "office" in kinds[place] and kinds[place].isdisjoint(_FAMILIES)  # "Mr Speaker"
        if held or "head of a place" in before or (_separates(token.group(), kinds[place], keep_words) and not family):
            if first < place:
                yield slice(first, place)
            first = place + 1
    if first < len(tokens):
        yield slice(first, len(tokens))


_ADDRESSING = ("dear", "hi", "hello", "hey", "your", "royal", "respected", "honourable")
_FAMILIES = ("given", "given too", "family", "family too", "place")


def _separates(word: str, kinds: Kinds, keep_words: frozenset[str]) -> bool:
    return word.casefold() in keep_words or not kinds.isdisjoint(("title", "head of a place", "stop"))


def _may_be_called(before: Kinds, kinds: Kinds) -> bool:
    """Return whether a word that separates names may be a family name after another word: "Ms Port", "Lubna West"."""
    return not kinds.isdisjoint(("family too", "firm", "head of a place")) and not before.isdisjoint(("title", "given"))


def _may_hold_name(facts: "_Facts", tokens: Sequence[Token], kinds: Sequence[Kinds]) -> bool:
    """Return whether a list, an entity, the word before or the end of a letter speaks for a name among the words."""
    start, end = tokens[0].start(), tokens[-1].end()
    if any(not _EVIDENCE.isdisjoint(each) for each in kinds) or end > facts.signature or facts.beside(start, end):
        return True
    return not _EVIDENCE_BEFORE.isdisjoint(facts.before(start))


def _spans_of(
    facts: "_Facts", tokens: Sequence[Token], kinds: Sequence[Kinds], beside_firm: bool
) -> Iterator[Candidate]:
    further = ("beside a firm's word",) if beside_firm else ()
    longest = _LONGEST + 2 * sum("kinship" in each for each in kinds)
    for first, kinds_first in enumerate(kinds):
        if "small" in kinds_first or "after a vessel's word" in facts.before(tokens[first].start()):
            continue
        for end in range(first + 1, min(len(tokens), first + longest) + 1):
            if "small" not in kinds[end - 1]:
                yield facts.candidate(tokens[first:end], kinds[first:end], further)


_WORDS_TOO = frozenset(["said", "amer", "hind", "jan", "noor", "see", "rich", "art", "grant", "will", "may", "mark"])
_SMALL_GIVEN = frozenset(
    name
    for name in lexicon.GIVEN | (lexicon.GIVEN_WORLD - lexicon.EVERYDAY)
    if len(name) > 2
    and name not in _WORDS_TOO
    and kinds_of(name).isdisjoint(("stop", "noun", "body", "office", "place"))
)
_SMALL_PAIR = re.compile(
    r"(?<![\w@./-])([^\W\d_]{3,})(?![\w@-])(?=(?: ((?:(?:bin|bint|al|el) )?[^\W\d_]{3,})(?![\w@-]))?)"
)
_ANY_WORD = re.compile(r"[^\W\d_]+\.?(?:['’-][^\W\d_]+)*")
_SMALL_CUES = ("name is", "name:", "mr", "ms ", "ms.", "dr ", "dr.")
_SMALL_CUED = re.compile(r"(?:name is|name:|\bmrs?\.?|\bms\.?|\bdr\.?) (([a-z]{3,})(?: [a-z]{3,})?)(?![\w@-])")


def _in_small_letters(facts: "_Facts", keep_words: frozenset[str]) -> Iterator[Candidate]:
    """Yield a model's persons with words in small letters or an initial, and listed given names in small letters with
    the word after them."""
    text = facts.text
    spans = {
        each[:2]
        for each in facts.entities
        if each.label == "PERSON" and RUN.fullmatch(text, each.start, each.end) is None
    }
    if not _SMALL_GIVEN.isdisjoint(text.split()):
        for match in _SMALL_PAIR.finditer(text):
            if match[1] in _SMALL_GIVEN:
                spans |= {match.span(1), (match.start(1), match.end(2) if match[2] else match.end(1))}
    if any(cue in text for cue in _SMALL_CUES):
        spans |= {match.span(group) for match in _SMALL_CUED.finditer(text) for group in (1, 2) if match[group]}
    for start, end in sorted(spans):
        words = list(_ANY_WORD.finditer(text, start, end))
        kinds = [kinds_of(word.group()) for word in words]
        pieces = list(_pieces(words, kinds, keep_words))
        if (
            len(pieces) == 1
            and len(words[pieces[0]]) < 5
            and text[words[0].start() - 1 : words[0].start()] not in ("@", "#", "/")
        ):
            small = words[pieces[0]][0].group().islower()
            case = "in small letters" if small else "partly in small letters"
            yield facts.candidate(words[pieces[0]], kinds[pieces[0]], (case,))


# --- features ---------------------------------------------------------------------------------------------------------

_LABELS = {"PLACE": "place", "ORGANISATION": "organisation", "NATIONALITY": "people", "DATE": "date"}
_PLACES = lexicon.PLACES_WORLD | lexicon.PLACES | lexicon.PLACES_OF_TWO_WORDS
_THREE = re.compile(r"(?<![\w’'-])[^\W\d_][\w’'-]{1,30}, [^\W\d_][\w’'-]{1,30},? (?:and|&) [^\W\d_][\w’'-]{1,30}")
_COUNTS = ("one word", "two words", "three words")
_AT_ENDS = (
    "given", "given too", "family", "family too", "sure ending", "ending", "article", "initial", "body", "noun",
    "office", "place", "people", "everyday", "firm", "unlisted",
)  # fmt: skip
_INSIDE = ("initial", "given", "body", "noun", "office", "place", "firm")


# The kinds of the words count differently beside these.
_WEIGHED_BY_WORD = ("after a personal title", "after an article", "in small letters")


class _Facts:
    """One text, its entities, and the features of its places, each computed once."""

    def __init__(
        self, text: str, entities: Sequence[Entity], signature: int, joined: frozenset[int] = frozenset()
    ) -> None:
        """
        Args:
            signature: the offset from which the text may hold a signature.
            joined: the offsets of signs within words, which are spaces in the text.
        """
        self.text = text
        self._joined = joined
        self.entities = entities
        self.signature = signature
        self._before: dict[int, list[str]] = {}
        self._behind: dict[int, list[str]] = {}
        self._lower: frozenset[str] | None = None
        self._threes = [match.span() for match in _THREE.finditer(text)] if " and " in text or " & " in text else []

    def candidate(self, tokens: Sequence[Token], kinds: Sequence[Kinds], further: Sequence[str]) -> Candidate:
        """Return the candidate of adjacent words, with all its features."""
        start, end = tokens[0].start(), tokens[-1].end()
        found = [*self.before(start), *self._after(end), *self._by_model(start, end), *_of_words(kinds), *further]
        if len(tokens) > 1 and " ".join(without_accents(token.group()) for token in tokens) in _PLACES:
            found.append("a listed place")
        if self._lower is None:
            self._lower = frozenset(word for word in self.text.split() if word.islower())
        if any(token.group().casefold() in self._lower for token in tokens):
            found.append("in small letters elsewhere")
        if any(first <= start and end <= last for first, last in self._threes):
            found.append("in a row of three")
        if end > self.signature and "place" not in kinds[0] and "after 'Saint'" not in found:
            found += [f"at the end of a letter, {each}" for each in found if each.startswith(("begins a", "after a c"))]
            found.append("at the end of a letter")
        if self._joined and not self._joined.isdisjoint(range(start - 1, end + 1)):
            found.append("joined by signs")
        if (
            "after any noun" in found
            and "after a cue" not in found
            and not kinds[0].isdisjoint(("body", "noun", "office"))
        ):
            found.append("a noun after a capitalised noun")
        for beside in _WEIGHED_BY_WORD:
            if beside in found:
                found += [f"{beside}, begins with: {kind}" for kind in _AT_ENDS if kind in kinds[0]]
                found += [f"{beside}, ends with: {kind}" for kind in _AT_ENDS if kind in kinds[-1]]
        if "one word" in found:  # a single word needs other weights
            found += [f"one word, {each}" for each in found if each != "one word"]
        return Candidate(start, end, tuple(found))

    def before(self, start: int) -> list[str]:
        """Return what stands before a place."""
        if start not in self._before:
            self._before[start] = _before(self.text[max(0, start - _REACH) : start])
        return self._before[start]

    def beside(self, start: int, end: int) -> list[Entity]:
        """Return the entities that overlap a span."""
        return [each for each in self.entities if each.start < end and start < each.end]

    def _after(self, end: int) -> list[str]:
        if end not in self._behind:
            self._behind[end] = _after(self.text[end : end + _REACH])
        return self._behind[end]

    def _by_model(self, start: int, end: int) -> list[str]:
        found = []
        for each in self.beside(start, end):
            if each.label != "PERSON":
                found.append(f"the model's {_LABELS[each.label]}")
            elif each.start <= start and end <= each.end:
                found.append("the model's person")
                found += ["begins the model's person"] * (each.start == start)
                found += ["ends the model's person"] * (each.end == end)
            else:
                found.append("beyond the model's person")
                found += ["holds the model's person"] * (start <= each.start and each.end <= end)
        return found or ["nothing by the model"]


def _of_words(kinds: Sequence[Kinds]) -> list[str]:
    """Return what the words of a candidate are."""
    count, first, last = len(kinds), kinds[0], kinds[-1]
    found = [_COUNTS[count - 1] if count < 4 else "four words or more"]
    found += [f"begins with: {kind}" for kind in _AT_ENDS if kind in first]
    if count > 1:
        found += [f"ends with: {kind}" for kind in _AT_ENDS if kind in last]
        if "given" in first and "family too" in last:
            found.append("a given name and a family name that is a word too")
    for between in kinds[1:-1]:
        found += [f"inside: {kind}" for kind in _INSIDE if kind in between]
        if "kinship" in between:
            found.append("a kinship word")
    shouted = sum("capitals" in each for each in kinds)
    if shouted == count:
        found.append("in capitals")
    elif shouted:
        found.append("an abbreviation inside")
    if all("short" in each for each in kinds):
        found.append("very short")
    return found


# --- what stands before a candidate -----------------------------------------------------------------------------------

_WORDS_BEFORE = re.compile(r"(?:([^\W_][\w'’.]*) )?([^\W_][\w'’.]*)([:,]?) \Z")
_LINE_BEFORE = re.compile(r"(?:\A|\n)[>?* \t]*\Z")
_CLOSINGS = lexicon.BESIDE["closing"]
_VESSELS = lexicon.VESSELS | frozenset(["mv", "m/v", "sv", "fv", "f/v", "ss", "s/s", "hms", "rms", "rv"])
_FEATURE_BEFORE = {
    word.replace("_", " "): feature
    for feature, words in lexicon.BESIDE.items()
    for word in words
    if feature.startswith(("after", "on the way"))
}


def _before(before: str) -> list[str]:
    found = ["begins a line"] if _LINE_BEFORE.search(before) else []
    if found and before.rstrip(" \n,.:").rpartition(" ")[2].rpartition("\n")[2].casefold() in _CLOSINGS:
        return [*found, "after a closing formula"]
    words = _WORDS_BEFORE.search(before)
    if words is None:
        return found or [_after_sign(before.rstrip(" ")[-1:])]
    two, one, sign = words.groups()
    plain, kinds = one.casefold().rstrip("."), kinds_of(one)
    if sign:
        found.append("after a comma" if sign == "," else "begins a sentence")
        if sign == ":" and plain in lexicon.BESIDE["label"]:
            found.append("after a cue")
        elif plain in _CLOSINGS:
            found.append("after a closing formula")
    else:
        pair = f"{two.casefold()} {plain}" if two else ""
        found += [_FEATURE_BEFORE[each] for each in (plain, pair) if each in _FEATURE_BEFORE]
        found += ["after a possessive"] if plain.endswith(("'s", "’s")) else []
        found += _after_word(one, kinds)
        if plain in _VESSELS or (plain in ("named", "called") and two and two.casefold() in _VESSELS):
            found.append("after a vessel's word")
    if sign == "," or plain in ("and", "or", "&"):
        listed = kinds if sign == "," else kinds_of(two or "")
        if "place" in listed:
            found.append("beside a place in a list")
        elif not listed.isdisjoint(_CERTAIN):
            found.append("beside a name in a list")
    return found


def _after_sign(sign: str) -> str:
    if sign and sign in "@#_":
        return "after '@' or '#'"
    if sign == ")":
        return "after a bracket"
    return "begins a sentence" if sign and sign in '.!?:"“•' else "after a sign"


def _after_word(word: str, kinds: Kinds) -> list[str]:
    found = []
    if word[0].isdigit():
        found.append("after a number")
    elif not kinds.isdisjoint(("title", "office", "role")):
        found.append("after an office")
    if word[0].isupper() and not kinds.isdisjoint(("body", "noun", "stop", "firm", "place", "people")):
        found.append("after any noun")
    if word.endswith(".") and kinds.isdisjoint(("title", "initial")):
        found.append("begins a sentence")
    elif "small" in kinds:
        found.append("after a kinship word")
    elif word[0].isupper() and kinds.isdisjoint(("stop", "title", "office")):
        found.append("after a capitalised word")
        if not kinds.isdisjoint(("given", "given too")):
            found.append("after a given name")
        elif not kinds.isdisjoint(("body", "noun", "place", "people", "firm")):
            found.append("after a capitalised noun")
        if "capitals" in kinds:
            found.append("after an abbreviation")
    return found


# --- what stands after a candidate ------------------------------------------------------------------------------------

_WORD_AFTER = re.compile(r"(['’]s)?,? ?([A-Za-z-]+)")


def _after(behind: str) -> list[str]:
    sign = behind[:1]
    found = []
    if sign and sign in ".!?":
        found.append("ends a sentence")
    elif sign == ",":
        found.append("before a comma")
    elif sign and (sign in ":/|(–-" or (sign == " " and behind[1:2] and behind[1] in ":/|(–-")):
        found.append("before a sign")
    rest = behind.lstrip(" ,.")[:1]
    if rest in ("", "\n", "\r"):
        return [*found, "ends a line"]
    if sign in " ," and (rest.isdigit() or rest == "#"):
        found.append("before a number")
    word = _WORD_AFTER.match(behind)
    return found if word is None or sign == "-" else [*found, *_before_word(word[2], sign, word[1] is not None)]


def _before_word(word: str, sign: str, possessive: bool) -> list[str]:
    noun = possessive and word[0].isupper() and not kinds_of(word).isdisjoint(("body", "noun", "firm"))
    found = ["before a possessive and a noun" if noun else "before a possessive"] if possessive else []
    if word[0].islower():
        if word in lexicon.KINSHIP | lexicon.PARTICLES:
            found.append("before a kinship word")
        elif word in lexicon.BESIDE["before a verb of people"]:
            found.append("before a verb of people")
        elif word in lexicon.BEHIND_NAMES_OF_THINGS:
            found.append("before a thing's word")
        elif sign == " " and word not in ("and", "or"):
            found.append("before a lower-case word")
    elif sign != ",":
        kinds = kinds_of(word)
        if kinds.isdisjoint(("stop", "title")) and not possessive:
            found.append("before a capitalised word")
        if not kinds.isdisjoint(("body", "noun", "people", "firm")) and kinds.isdisjoint(("given", "family")):
            found.append("before a capitalised noun")
        elif not kinds.isdisjoint(("family", "sure ending", "article")):
            found.append("before a family name")
    return found


# --- firms ------------------------------------------------------------------------------------------------------------

_LEGAL_FORM = (
    r"(?:Inc|Incorporated|Corp|Corporation|Ltd|Limited|LLC|LLP|PLC|plc|GmbH|AG|SAOC|SAOG|S\.A\.|B\.V\.)(?![\w-])\.?"
)
_FIRM = re.compile(rf"(?<![\w@./-])(?!The )(?:{WHOLE_WORD}(?:,? (?:(?:and|&|of) )?)){{1,4}}{_LEGAL_FORM}")


def firms(text: str) -> list[tuple[int, int]]:
    """Return the half-open spans of firms' names with their legal form in a normalised text."""
    return [match.span() for match in _FIRM.finditer(text)]
