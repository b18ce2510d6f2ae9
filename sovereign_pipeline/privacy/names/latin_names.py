"""Find candidates for names in Latin letters, and decide by a fitted linear score of their features which are names."""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, RootModel

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.privacy.names.lexicon import (
    BESIDE,
    EACH_TOKEN,
    LATIN,
    RUN,
    WHOLE_WORD,
    Kinds,
    Token,
    kinds_of,
    without_accents,
)
from sovereign_pipeline.privacy.names.name_models import Entity

PACKAGED = Path(__file__).with_name("weights.json")

Script = Literal["latin", "latin_alone", "arabic", "arabic_alone"]
"""Key of the weights: the script, followed by `_alone` if no name model read the text."""
Favour = Literal["recall", "balanced", "precision"]
FAVOURS: tuple[Favour, ...] = ("recall", "balanced", "precision")


class Candidate(NamedTuple):
    """A half-open span that may be a name, and the names of its features."""

    start: int
    end: int
    features: tuple[str, ...]


class SetRecord(Frozen):
    """A set of texts that were used to fit or to measure the weights."""

    sha256: str
    licence: str = ""
    texts: int
    names: int
    measured: dict[Favour, tuple[float, float]] = {}
    """Precision and recall by value of `favour`, on texts that were not used to fit the weights."""


class Weights(Frozen):
    """The fitted weights of one script, in logits."""

    bias: float
    features: dict[str, float]
    thresholds: dict[Favour, float]
    """Score above which a candidate counts as a name, by value of `favour`."""
    sets: dict[str, SetRecord] = Field(default_factory=dict)

    def score(self, features: Iterable[str]) -> float:
        """Return the score of a candidate. Features without a weight are ignored."""
        weights = self.features
        return self.bias + sum([weights[each] for each in features if each in weights])


class WeightsFile(RootModel[dict[Script, Weights]]):
    """The content of a file of weights, by script."""


class Scorer:
    """Decides which candidates are names, by fitted weights and one policy (`favour`)."""

    def __init__(self, weights: Mapping[Script, Weights], favour: Favour = "balanced") -> None:
        self.weights = weights
        self._favour = favour

    def names(self, script: Script, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Return the candidates that are names. Of overlapping candidates, only the one with the highest score
        counts."""
        return self._above(script, candidates, self._favour)

    def doubtful(self, script: Script, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that count as names only if the policy favours recall, and overlap no name."""
        names, more = self.names(script, candidates), self._above(script, candidates, "recall")
        return [each for each in more if all(each.end <= name.start or name.end <= each.start for name in names)]

    def _above(self, script: Script, candidates: Iterable[Candidate], favour: Favour) -> list[Candidate]:
        weights = self.weights[script]
        return chosen([(weights.score(each.features), each) for each in candidates], weights.thresholds[favour])


def explain(weights: Weights, features: Iterable[str], count: int = 3) -> str:
    """Return the features that contribute most to a candidate's score: "given name +2.1, after a title +1.4"."""
    known = {each: weights.features[each] for each in features if each in weights.features}
    strongest = sorted(known, key=lambda name: (-abs(known[name]), name))[:count]
    return ", ".join(f"{name} {known[name]:+.1f}" for name in strongest)


def chosen(scored: Iterable[tuple[float, Candidate]], threshold: float) -> list[Candidate]:
    """Return the candidates with a score above the threshold, in reading order. Of overlapping candidates, only the one
    with the highest score is returned."""
    found: list[Candidate] = []
    above = [pair for pair in scored if pair[0] > threshold]
    for _, each in sorted(above, key=lambda pair: (-pair[0], pair[1].start, pair[1].end)):
        place = bisect_left(found, each.start, key=lambda other: other.start)
        after_one = place == 0 or found[place - 1].end <= each.start
        if after_one and (place == len(found) or each.end <= found[place].start):
            found.insert(place, each)
    return found


@cache
def load_weights(path: Path = PACKAGED) -> dict[Script, Weights]:
    """Read a file of weights. Raises PrivacyError if the file is missing or invalid."""
    try:
        return WeightsFile.model_validate_json(path.read_bytes()).root
    except (OSError, ValueError) as error:
        raise PrivacyError(
            f"{path}: this is not a file of name weights ({type(error).__name__}).",
            "Fit the weights again, or use the packaged weights.",
        ) from None


_LONGEST = 5  # maximum number of words in a candidate, without kinship words
_REACH = 32
_SIGNATURE_REACH = 110  # characters from the start of a signature to the end of a letter, contact details included
_CERTAIN = ("given name", "family name", "Arabic article")
_LISTED = frozenset({*_CERTAIN, "given name or word", "family name or word", "family name's ending", "kinship"})
_SPEAKS_BEFORE = frozenset({"after a title", "after an office", "after a cue", "after a closing formula"})


def latin_candidates(
    text: str, entities: Sequence[Entity] | None, keep_words: frozenset[str], *, signed: bool
) -> Iterator[Candidate]:
    """Yield the candidates for names in a normalised text. Candidates may overlap.

    Args:
        entities: the name model's entities in the text; None if no model read the text.
        keep_words: words that are never part of a name, in lower case.
        signed: True if the text may end with a signature, as a letter does.
    """
    facts = _Facts(_with_spaces(text), entities, len(text) - _SIGNATURE_REACH if signed else len(text), text)
    for run in RUN.finditer(facts.text):
        tokens = list(EACH_TOKEN.finditer(facts.text, run.start(), run.end()))
        kinds = [kinds_of(token.group()) for token in tokens]
        if len(tokens) > 1 and "title" in kinds[-1] and not kinds[-2].isdisjoint(_LISTED):
            kinds[-1] = frozenset({"family name or word"})  # "Salim Sayyid": a title comes before a name
        further = ("beside a firm's word",) if any("firm" in each for each in kinds) else ()
        for piece in _pieces(tokens, kinds, keep_words):
            if facts.may_hold_name(tokens[piece], kinds[piece]):
                yield from _spans_of(facts, tokens[piece], kinds[piece], further)
    yield from _in_small_letters(facts, keep_words)
    yield from _family_name_first(facts, keep_words)


def one_word(text: str, token: Token) -> Candidate:
    """Return a single word as a candidate, with features that need no name model."""
    return _Facts(text, None, len(text), text).candidate([token], [kinds_of(token.group())], ())


def is_certain_alone(text: str, token: Token) -> bool:
    """Return True if the word lists, or the word before it, show that a single word is certainly a name."""
    before = _before(text[max(0, token.start() - _REACH) : token.start()])
    return not kinds_of(token.group()).isdisjoint(_CERTAIN) or not _SPEAKS_BEFORE.isdisjoint(before)


# --- candidates -------------------------------------------------------------------------------------------------------

_SIGN = re.compile(r"(?<=[^\W_])[_./\\+-](?=[^\W_])")
_JOINED = re.compile(r"[^\s_./\\+-]+(?:[_./\\+-][^\s_./\\+-]+)+")
_EXTENSION = re.compile(
    r"\.(?:pdf|docx?|xlsx?|pptx?|jpe?g|png|tiff?|gif|txt|csv|msg|eml|zip|mp[34]|html?)\b", re.IGNORECASE
)
_WORD = re.compile(r"[^\W\d_]+")
_LINE_END = re.compile(r"(?<![^\W\d_])([^\W\d_]{3,})[ \t]?(\n[>| ]{0,2})((?:A[Ll][ -])?[^\W\d_]{3,})")


def _with_spaces(text: str) -> str:
    """Return the text with spaces in two places: instead of punctuation in a file name or address that contains a
    listed given name, and instead of a line end between a given name and a family name. The length stays the same."""
    if any(sign in text for sign in "_/\\+") or _EXTENSION.search(text) is not None:
        text = _JOINED.sub(_spaced, text)
    return _LINE_END.sub(_on_one_line, text) if "\n" in text else text


def _spaced(words: Token) -> str:
    if "@" in words[0] or not any("given name" in kinds_of(word) for word in _WORD.findall(words[0])):
        return words[0]
    return _SIGN.sub(" ", words[0])


def _on_one_line(words: Token) -> str:
    family = kinds_of(words[3])
    goes_on = "given name" in kinds_of(words[1]) and not family.isdisjoint(("family name", "Arabic article"))
    if not goes_on or "given name" in family or not (words[1][0].isupper() and words[3][0].isupper()):
        return words[0]
    return f"{words[1]}{' ' * (words.start(3) - words.end(1))}{words[3]}"


def _pieces(tokens: Sequence[Token], kinds: Sequence[Kinds], keep_words: frozenset[str]) -> Iterator[slice]:
    """Yield the groups of words between titles, function words, words that begin a place's name, and words to keep."""
    first = 0
    for place, token in enumerate(tokens):
        before = kinds[place - 1] if place else frozenset()
        family = not kinds[place].isdisjoint(
            ("family name or word", "firm", "head of a place")
        ) and not before.isdisjoint(("title", "given name"))  # "Ms Port", "Lubna West"
        separates = token.group().casefold() in keep_words or not kinds[place].isdisjoint(_SEPARATORS)
        if "head of a place" in before or (separates and not family):
            if first < place:
                yield slice(first, place)
            first = place + 1
    if first < len(tokens):
        yield slice(first, len(tokens))


_SEPARATORS = ("title", "head of a place", "stop")
_MONTHS_TOO = frozenset({"april", "june"})  # given names; the other months are stop words


def _spans_of(
    facts: "_Facts", tokens: Sequence[Token], kinds: Sequence[Kinds], further: Sequence[str]
) -> Iterator[Candidate]:
    longest = _LONGEST + 2 * sum("kinship" in each for each in kinds)
    for first, kinds_first in enumerate(kinds):
        if (
            "small" in kinds_first
            or tokens[first].group() in ("A", "I")
            or "after a vessel's word" in facts.before(tokens[first].start())
        ):
            continue
        for end in range(first + 1, min(len(tokens), first + longest) + 1):
            month, firm = end == first + 1 and facts.is_month(tokens[first]), _is_firm(kinds[first:end])
            if "small" not in kinds[end - 1] and not month and not firm:
                yield facts.candidate(tokens[first:end], kinds[first:end], further)


def _is_firm(kinds: Sequence[Kinds]) -> bool:
    """Return True if words are the name of a firm, such as "Noordzand Dredging". "Lubna Dredging" begins with a given
    name, so it counts as a person."""
    return len(kinds) > 1 and "firm" in kinds[-1] and all(each.isdisjoint(_LISTED) for each in kinds)


_WORDS_TOO = frozenset(["said", "amer", "hind", "jan", "noor", "see", "rich", "art", "grant", "will", "may", "mark"])
_SMALL_GIVEN = frozenset(
    name
    for name in LATIN["given"] | (LATIN["given_world"] - LATIN["everyday"])
    if len(name) > 2 and name not in _WORDS_TOO and kinds_of(name).isdisjoint(("stop", "noun", "office", "place"))
)
_SMALL_PAIR = re.compile(
    r"(?<![\w@./-])([^\W\d_]{3,})(?![\w@-])(?=(?: ((?:(?:bin|bint|al|el) )?[^\W\d_]{3,})(?![\w@-]))?)"
)
_ANY_WORD = re.compile(r"[^\W\d_]+\.?(?:['’-][^\W\d_]+)*")
_SMALL_CUES = ("name is", "name:", "mr", "ms ", "ms.", "dr ", "dr.")
_SMALL_CUED = re.compile(r"(?:name is|name:|\bmrs?\.?|\bms\.?|\bdr\.?) (([a-z]{3,})(?: [a-z]{3,})?)(?![\w@-])")


def _in_small_letters(facts: "_Facts", keep_words: frozenset[str]) -> Iterator[Candidate]:
    """Yield candidates without capitals: persons that the name model found, listed given names with and without the
    next word, and words after a cue such as "name is"."""
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
            yield facts.candidate(words[pieces[0]], kinds[pieces[0]], ("in small letters",) if small else ())


_INVERTED = re.compile(
    rf"(?<![\w@./-])(?<!, )({WHOLE_WORD}), (?=([A-Z]\.(?: ?[A-Z]\.)*|{WHOLE_WORD}(?: [A-Z]\b\.?)?)(?![\w@]))"
)

_NEXT = ("; ", " and ", " & ", "\n")


def _family_name_first(facts: "_Facts", keep_words: frozenset[str]) -> Iterator[Candidate]:
    """Yield names such as "Oakes, Tamsin". Their words get the features that they would have in "Tamsin Oakes"."""
    last = -1  # end of the previous name
    for match in _INVERTED.finditer(facts.text) if ", " in facts.text else ():
        words = [*EACH_TOKEN.finditer(facts.text, *match.span(2))][:1] + [*EACH_TOKEN.finditer(match[1])][-1:]
        kinds = [kinds_of(word.group()) for word in words]
        if len(words) < 2 or any(word.group().casefold() in keep_words for word in words):
            continue
        given = not kinds[0].isdisjoint(("given name", "given name or word", "initial"))
        listed = given or "after a cue" in facts.before(match.start()) or facts.text[last : match.start()] in _NEXT
        family = "family name" in kinds[1] or "given name" not in kinds[1]
        if listed and family and all(each.isdisjoint(("stop", "title", "place")) for each in kinds):
            last = match.end(2)
            yield facts.described(match.start(1), last, kinds, ("family name first",))


# --- features ---------------------------------------------------------------------------------------------------------

_PLACES = LATIN["places_world"] | LATIN["places"] | LATIN["places_of_two_words"]
_LINE_BEFORE = re.compile(r"(?:\A|\n)[>?* \t]*\Z")
_SIGNATURE_BEHIND = re.compile(r" *(?:[.,\n]|\Z)")
_SIGNATURE_BEFORE = re.compile(r"(?:\A|[\n.!?:,;] ?)[>?* \t]*\Z")
_TABLES: dict[str, dict[str, list[str]]] = tomllib.loads(Path(__file__).with_name("features.toml").read_text("utf-8"))
_DESCRIBED = _TABLES["described"]
_TOGETHER = {name: frozenset(parts) for name, parts in _TABLES["together"].items()}
_COUNTS = ("one word", "two words", "three words", "four words or more")
_WHOLE = "the whole of the model's person"


class _Facts:
    """A text, the entities in it, and the features at its offsets. The features of an offset are computed only once."""

    def __init__(self, text: str, entities: Sequence[Entity] | None, signature: int, written: str) -> None:
        """
        Args:
            entities: the name model's entities in the text; None if no model read the text.
            signature: offset in the text. Only words that end after this offset may be a signature.
            written: the text before `_with_spaces` changed it.
        """
        self.text = text
        self.entities = entities or ()
        self._is_read = entities is not None
        self._signature = signature
        self._joined = frozenset(at for at, sign in enumerate(written) if sign != text[at]) if text != written else None
        self._before: dict[int, list[str]] = {}
        self._behind: dict[int, list[str]] = {}
        self._lower: frozenset[str] | None = None

    def may_hold_name(self, tokens: Sequence[Token], kinds: Sequence[Kinds]) -> bool:
        """Return True if the words may contain a name: because of word lists, entities or neighbouring words, or
        because they end a letter as a signature does."""
        start, end = tokens[0].start(), tokens[-1].end()
        if any(not _LISTED.isdisjoint(each) for each in kinds) or self._signs(start, end):
            return True
        if any(each.start < end and start < each.end for each in self.entities):
            return True
        speaks = len(tokens) == 1 and "before a verb of people" in self._after(end)
        return speaks or not _SPEAKS_BEFORE.isdisjoint(self.before(start))

    def is_month(self, token: Token) -> bool:
        """Return True if a single word is a month, and neither the name model nor the word before it shows that it is a
        person's name."""
        if token.group().casefold() not in _MONTHS_TOO or not _SPEAKS_BEFORE.isdisjoint(self.before(token.start())):
            return False
        return all(each[:2] != token.span() or each.label != "PERSON" for each in self.entities)

    def candidate(self, tokens: Sequence[Token], kinds: Sequence[Kinds], further: Sequence[str]) -> Candidate:
        """Return adjacent words as a candidate with all its features."""
        found = list(further)
        if len(tokens) > 1 and " ".join(without_accents(token.group()) for token in tokens) in _PLACES:
            found.append("a listed place")
        if self._lower is None:
            self._lower = frozenset(word for word in self.text.split() if word.islower())
        if any(token.group().casefold() in self._lower for token in tokens):
            found.append("in small letters elsewhere")
        return self.described(tokens[0].start(), tokens[-1].end(), kinds, found)

    def described(self, start: int, end: int, kinds: Sequence[Kinds], further: Sequence[str]) -> Candidate:
        """Return text[start:end] as a candidate with the features of its words and of the words around it."""
        found = [*self.before(start), *self._after(end), *_of_words(kinds), *further]
        if "ends a line" in found and _LINE_BEFORE.search(self.text, max(0, start - 8), start) is not None:
            found.append("alone in its line")
        if self._is_read:
            found += self._by_model(start, end, found)
        if "place" not in kinds[0] and self._signs(start, end):
            found.append("a signature")
        if self._joined and not self._joined.isdisjoint(range(start - 1, end + 1)):
            found.append("joined by signs")
        found += [name for name, parts in _TOGETHER.items() if parts.issubset(found)]
        return Candidate(start, end, tuple(found))

    def before(self, start: int) -> list[str]:
        """Return the features of the words before an offset."""
        if start not in self._before:
            self._before[start] = _before(self.text[max(0, start - _REACH) : start])
        return self._before[start]

    def _signs(self, start: int, end: int) -> bool:
        """Return True if text[start:end] is at the end of a letter, in the place of a signature."""
        if end <= self._signature or _SIGNATURE_BEHIND.match(self.text, end) is None:
            return False
        return _SIGNATURE_BEFORE.search(self.text, max(0, start - _REACH), start) is not None

    def _after(self, end: int) -> list[str]:
        if end not in self._behind:
            self._behind[end] = _after(self.text[end : end + _REACH])
        return self._behind[end]

    def _by_model(self, start: int, end: int, features: Sequence[str]) -> list[str]:
        beside = [each for each in self.entities if each.start < end and start < each.end]
        found = [] if beside else ["nothing by the model"]
        for each in beside:
            if each.label == "ORGANISATION":
                found.append("an organisation by the model")
            elif each.label == "PERSON":
                found += [_WHOLE] * (each[:2] == (start, end))
                found += ["ends the model's person"] * (each.start <= start and end == each.end)
                found += ["begins the model's person"] * (each.start == start and end <= each.end)
                found += ["by the model after an office"] * (each.end == end and "after an office" in features)
                found += ["by the model in small letters"] * (each.start == start and "in small letters" in features)
        return found


def _of_words(kinds: Sequence[Kinds]) -> list[str]:
    """Return the features of a candidate's own words."""
    count = len(kinds)
    places = ["only word"] if count == 1 else ["first word", *["inside"] * (count - 2), "last word"]
    found = [_COUNTS[min(count, 4) - 1]]
    for place, word in zip(places, kinds, strict=True):
        found += [f"{place}: {kind}" for kind in _DESCRIBED[place] if kind in word]
    shouted = sum("capitals" in each for each in kinds)
    if shouted:
        found.append("in capitals" if shouted == count else "partly in capitals")
    if all("short" in each for each in kinds):
        found.append("very short")
    return found


# --- the words before a candidate -------------------------------------------------------------------------------------

_WORDS_BEFORE = re.compile(r"(?:([^\W_][\w'’.]*) )?([^\W_][\w'’.]*)([:,]?) {1,12}\Z")
_CLOSING_BEFORE = re.compile(r"(\w+)[,.:]?\s*\n[>?* \t]*\Z")
_CLOSINGS = BESIDE["closing"]
_VESSELS = LATIN["vessels"]
_FEATURE_BEFORE = {
    word: feature for feature, words in BESIDE.items() for word in words if feature.startswith(("after", "on the way"))
}


def _before(before: str) -> list[str]:
    if "\n" in before[-8:] and (closing := _CLOSING_BEFORE.search(before)) is not None:
        return ["after a closing formula"] if closing[1].casefold() in _CLOSINGS else []
    rest = before.rstrip(" ")
    words = _WORDS_BEFORE.search(before, rest.rfind(" ", 0, max(0, rest.rfind(" "))) + 1)  # the last two words
    if words is None:
        return ["after a bracket"] if before.endswith(") ") else []
    two, one, sign = words.groups()
    plain, kinds = one.casefold().rstrip("."), kinds_of(one)
    found = []
    if sign:
        if sign == ":" and plain in BESIDE["label"]:
            found.append("after a cue")
        elif plain in _CLOSINGS:
            found.append("after a closing formula")
    else:
        pair = f"{two.casefold()} {plain}" if two else ""
        found += [_FEATURE_BEFORE[each] for each in (plain, pair) if each in _FEATURE_BEFORE]
        of_a_noun = two is not None and two[0].isupper() and {"noun"} == kinds_of(two)  # "Criminal Justice"
        found += ["after a capitalised noun"] if of_a_noun and "title" in kinds else _after_word(one, kinds)
        if plain in _VESSELS or (plain in ("named", "called") and two and two.casefold() in _VESSELS):
            found.append("after a vessel's word")
    if (sign == "," and "place" in kinds) or (plain in ("and", "or", "&") and "place" in kinds_of(two or "")):
        found.append("beside a place in a list")
    return found


def _after_word(word: str, kinds: Kinds) -> list[str]:
    if word.endswith(".") and kinds.isdisjoint(("title", "initial")):
        return []  # the end of a sentence
    found = ["after an office"] if not kinds.isdisjoint(("title", "office")) else []
    if "small" in kinds:
        found.append("after a kinship word")
    elif word[0].isupper() and kinds.isdisjoint(("stop", "title", "office")):
        if not kinds.isdisjoint(("given name", "given name or word", "initial")):
            found.append("after a given name")
        elif "capitals" in kinds:
            found.append("after an abbreviation")
        elif not kinds.isdisjoint(("noun", "place", "firm")):
            found.append("after a capitalised noun")
        else:
            found.append("after a capitalised word")
    return found


# --- the words after a candidate --------------------------------------------------------------------------------------

_GOES_ON = LATIN["kinship"] | LATIN["particles"] | {"al", "el"}
_WORD_AFTER = re.compile(r"(['’]s)?(,?) ?([A-Za-z][A-Za-z-]*)")


def _after(behind: str) -> list[str]:
    rest = behind.lstrip(" ,.")[:1]
    if rest in ("", "\n", "\r"):
        return ["ends a line"]
    if behind[:1] in " ," and (rest.isdigit() or rest == "#"):
        return ["before a number"]
    word = _WORD_AFTER.match(behind)
    if word is None:
        return []
    possessive, comma, following = word.groups()
    if following[0].islower():
        if following in _GOES_ON:
            return ["before a kinship word"]
        if following in BESIDE["before a verb of people"]:
            return ["before a verb of people"]
        return ["before a thing's word"] if following in LATIN["behind_names_of_things"] else []
    kinds = kinds_of(following)
    if comma or not kinds.isdisjoint(("stop", "title")):
        return []
    noun = not kinds.isdisjoint(("noun", "firm")) and kinds.isdisjoint(("given name", "family name"))
    if possessive:
        return ["before a possessive and a noun"] if noun else []
    if noun:
        return ["before a capitalised noun"]
    family = not kinds.isdisjoint(("family name", "Arabic article", "initial"))
    return ["before a family name" if family else "before a capitalised word"]


# --- firms ------------------------------------------------------------------------------------------------------------

_LEGAL_FORM = (
    r"(?:Inc|Incorporated|Corp|Corporation|Ltd|Limited|LLC|LLP|PLC|plc|GmbH|AG|SAOC|SAOG|S\.A\.|B\.V\.)(?![\w-])\.?"
)
_FIRM = re.compile(rf"(?<![\w@./-])(?!The )(?:{WHOLE_WORD}(?:,? (?:(?:and|&|of) )?)){{1,4}}{_LEGAL_FORM}")


def firms(text: str) -> list[tuple[int, int]]:
    """Return the half-open spans of names of firms in a normalised text. Each name includes the firm's legal form."""
    return [match.span() for match in _FIRM.finditer(text)]
