"""Find names of people in Latin text by patterns and word lists, and filter the findings of a name model."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from sovereign_pipeline.privacy.names import evidence, lexicon
from sovereign_pipeline.privacy.names.evidence import is_noun, is_place
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    CUED,
    EACH_TOKEN,
    KNOWN_NAMES,
    LOWER_WORD,
    PERSONAL_TITLE,
    RUN,
    UPPER_LETTER,
    WHOLE_WORD,
    Segments,
    Token,
    begins_name,
    by_line,
    is_articled,
    is_given,
    is_honorific,
    is_initial,
    is_known,
    is_surname,
    is_vessel,
    is_within_word,
    looks_like_surname,
    names_an_organisation,
    with_plain_article,
    without_accents,
)
from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.names.persons import folded_word

_WORD_BEFORE = re.compile(r"([A-Za-z]+)\.?[ ]\Z")
_SIGNATURE_BEFORE = re.compile(r"(?:\A|[.!?][ \n]|\n|(?i:regards|sincerely|faithfully|respectfully|signed)[,:]? )\Z")
_CLOSING_BEFORE = re.compile(r"(?i:regards|wishes|sincerely|faithfully|respectfully|thanks|cheers)[,.]?\s{1,4}\Z")
_IS_ALL = re.compile(r" ?[,.!]?\s*(?:\n|\Z)|,")
_SENTENCE_BEFORE = re.compile(r"(?:\A|[.!?:\n] ?)\Z")
_DOES = re.compile(
    r" (?:liv(?:es?|ed) (?:on|in|at)|was born|(?:is )?married|phoned|told (?:me|us|him|her|them)|died|is from|"
    r"(?:began|started|stopped) \w+ing)\b"
)
_SIGNATURE_REACH = 110  # characters from the start of a signature to the end of a letter, contact details included


class LatinNames:
    """A finder of names in Latin letters. It returns half-open spans of normalised text."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def spans(self, text: str, *, signed: bool) -> Iterator[tuple[int, int]]:
        """Yield the names that patterns find. Spans may overlap.

        Args:
            signed: whether the text is a letter, which may end with a signature.
        """
        for run in RUN.finditer(text):
            yield from self._names_in_run(text, run, signed)
        yield from self._after_cues(text)

    def may_spread(self, text: str, start: int, end: int) -> bool:
        """Return whether a name is certain enough to be searched for in the rest of its case."""
        return evidence.may_spread(text, list(EACH_TOKEN.finditer(text, start, end)))

    def mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Yield single words that are known parts of names."""
        for token in EACH_TOKEN.finditer(text):
            folded = folded_word(token.group())
            if (
                folded not in parts
                or folded in self._segments.never
                or text[token.start() - 1 : token.start()].isalpha()
            ):
                continue
            everyday = evidence.is_noun(folded) or without_accents(folded) in lexicon.EVERYDAY
            if everyday and not evidence.mentions_person(text, token):
                continue
            if not is_vessel(text, token.start(), token.end()):
                yield token.start(), token.end()

    def _after_cues(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the names of one to four words after a cue: "My name is …", "Hi …,", "Name: …"."""
        for match in CUED.finditer(text):
            tokens = list(EACH_TOKEN.finditer(text, *match.span("name")))
            if names_an_organisation(tokens):
                continue
            whole = self._segments.of(tokens)
            segments: Sequence[Sequence[Token]] = [part for part in map(evidence.personal_part, whole) if part]
            if not segments and len(tokens) == 1 and whole and is_known(tokens[0]) and _IS_ALL.match(text, match.end()):
                segments = whole  # "Dear Grant,"
            if segments and segments[0][0].start() == match.start("name") and len(segments[0]) <= 4:
                long = any(len(token.group()) > 2 and not token.group().isupper() for token in segments[0])
                if long and not is_vessel(text, segments[0][0].start(), segments[0][-1].end()):
                    yield segments[0][0].start(), segments[0][-1].end()

    def _names_in_run(self, text: str, run: Token, signed: bool) -> Iterator[tuple[int, int]]:
        tokens = list(EACH_TOKEN.finditer(text, run.start(), run.end()))
        in_organisation = names_an_organisation(tokens)
        titled = {after.start() for before, after in pairwise(tokens) if is_honorific(before)}
        for segment in self._segments.of(tokens):
            is_titled = segment[0].start() in titled
            alone = signed and len(segment) == len(tokens)
            name = _name_in_segment(
                text, segment, titled=is_titled, in_organisation=in_organisation and not is_titled, signed=alone
            )
            if name is None or is_within_word(text, segment[name[0]]):
                continue
            words: Sequence[Token] = segment[name[0] : name[1] + 1]
            if not is_titled and not any(token.group().casefold() in lexicon.KINSHIP for token in words):
                closes = (
                    alone and len(tokens) == 1 and _CLOSING_BEFORE.search(text, max(0, run.start() - 24), run.start())
                )
                words = words if closes and _IS_ALL.match(text, run.end()) else evidence.personal_part(words)
            elif is_titled and not PERSONAL_TITLE.search(text, max(0, words[0].start() - 12), words[0].start()):
                words = evidence.part_behind_rank(text, words)  # "Judge Helen Grant", "Major Conditions Strategy"
            if not words:
                continue
            certain = evidence.begins_certainly(words) or any(map(is_articled, words))
            if is_titled or not evidence.stands_like_something_else(text, words, certain=certain):
                yield words[0].start(), words[-1].end()


def _name_in_segment(
    text: str, segment: list[Token], *, titled: bool, in_organisation: bool, signed: bool
) -> tuple[int, int] | None:
    """Return the indexes of the first and last word of the name in a segment, by the strongest rule that applies; None
    if none does.

    The last index may lie beyond the segment: a rule states the maximum number of words.

    Args:
        titled: whether an honorific precedes the segment.
        in_organisation: whether the whole run of capitalised words names an organisation.
        signed: whether the segment is a whole run in a letter, so that it may be the signature.
    """
    first, last = segment[0], segment[-1]
    kinship = [i for i, token in enumerate(segment) if token.group().casefold() in lexicon.KINSHIP]
    articled = [i for i, token in enumerate(segment) if is_articled(token)]
    tribes = [i for i in articled if with_plain_article(segment[i].group()).endswith(("i", "y"))]
    given = next((i for i in range(len(segment)) if begins_name(segment, i)), None)
    if kinship and 0 < kinship[0] < len(segment) - 1:
        begin = given if given is not None and given < kinship[0] else max(0, kinship[0] - 1)
        return begin, articled[0] if articled and articled[0] > kinship[-1] else kinship[-1] + 2
    if in_organisation or is_vessel(text, first.start(), last.end()):
        return None
    if tribes or (articled and given is not None and given < articled[0]):
        end = (tribes or articled)[0]
        return given if given is not None and given < end else max(0, end - 2), end
    if titled:
        return 0, 3
    if _has_role_before(text, first) and not (first.group().isupper() and len(first.group()) < 5):
        return 0, 2
    if any(is_initial(token) and token.group().endswith(".") for token in segment[1:-1]):
        return 0, len(segment) - 1
    if len(segment) == 3 and is_initial(segment[1]) and all(len(segment[i].group()) > 2 for i in (0, 2)):
        return 0, 2  # "Ottokar B Brandl"
    if given is not None:
        return given, given + 2
    surname = next((i for i, token in enumerate(segment) if is_surname(token)), None)
    if surname is not None:  # and a single word after it: "Quillon Singh Abara"
        goes_on = 0 < surname == len(segment) - 2 and not evidence.is_noun(last.group())
        return max(0, surname - 2), surname + goes_on
    if signed and len(segment) <= 3 and _is_signature(text, first, last):
        return 0, len(segment) - 1
    if first is last and _does_what_people_do(text, first):
        return 0, 0
    return None


def _does_what_people_do(text: str, token: Token) -> bool:
    """Return whether a word begins a sentence and a typical action of people follows: "Jolanka lives at …"."""
    if token.group().isupper() or _DOES.match(text, token.end()) is None:
        return False
    return _SENTENCE_BEFORE.search(text, max(0, token.start() - 4), token.start()) is not None


def _has_role_before(text: str, first: Token) -> bool:
    """Return whether a role or an honorific precedes a word: "engineer Kamil"."""
    before = _WORD_BEFORE.search(text, max(0, first.start() - 24), first.start())
    return before is not None and before.group(1).casefold() in lexicon.ROLES | lexicon.HONORIFICS


def _is_signature(text: str, first: Token, last: Token) -> bool:
    """Return whether the words are a signature: at the end of a letter and alone in their sentence, perhaps before a
    role or contact details."""
    if len(text) - first.start() > _SIGNATURE_REACH or _SIGNATURE_BEFORE.search(text[: first.start()]) is None:
        return False
    after = text[last.end() :]
    if first is last:  # a single word could begin any sentence
        return re.fullmatch(r"\.?\s*|, [^.!?]{2,60}\.?", after) is not None
    return after[:1] in ("", ",", "\n") or after == "."


# --- findings of a name model -----------------------------------------------------------------------------------------

_CAPITAL_BEHIND = re.compile(" [A-Z]")
_REST_OF_NAME = re.compile(r" ([^\W\d_]+\.?)(?= ?(?:['’]s)?\Z)")


class ModelFindings:
    """A filter of a name model's findings in Latin letters. It returns half-open spans of normalised text."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def in_person(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """Yield the names in an entity that a model labelled as a person, without places, offices and everyday
        words."""
        for line in by_line(text, self._tokens(text, entity)):
            if names_an_organisation(line):
                continue
            for segment in self._segments.of(line, trusted=True):
                name = self._person_in(text, segment)
                if name:
                    yield name[0].start(), self._end(text, entity, name)

    def in_other_entity(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """Yield well-known names in an entity that a model labelled as something else: one to three words that begin
        with a known given name or end with a family name."""
        for line in by_line(text, self._tokens(text, entity)):
            if names_an_organisation(line):
                continue
            for segment in self._segments.of(line):
                name = evidence.personal_part(segment)
                if not name or len(name) > 3:
                    continue
                family = is_surname(name[-1]) or looks_like_surname(name[-1], certainly=len(name) == 1)
                begins = begins_name(name, 0)
                against = evidence.stands_like_something_else(text, name, certain=begins)
                if (begins or family) and not against:
                    yield name[0].start(), name[-1].end()

    def in_small_letters(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """Yield a lower-case name in an entity that a model labelled as a person, if one of its words is a known
        name or the last one ends like a family name."""
        words = list(LOWER_WORD.finditer(text, entity.start, entity.end))
        while words and _is_no_name(words[0].group()):
            words = words[1:]
        while words and _is_no_name(words[-1].group()):
            words = words[:-1]
        if not 0 < len(words) < 5 or any(evidence.is_noun(word.group()) for word in words):
            return
        known = any(without_accents(word.group()) in KNOWN_NAMES for word in words) or looks_like_surname(words[-1])
        if known and text[words[0].start() - 1 : words[0].start()] != "@":
            yield words[0].start(), words[-1].end()

    def may_hold_person(self, text: str, entity: Entity) -> bool:
        """Return whether an entity that a model labelled as a person still has a Latin word after cutting words that
        are never names."""
        return bool(self._segments.of(self._tokens(text, entity), trusted=True))

    def _tokens(self, text: str, entity: Entity) -> list[Token]:
        return list(EACH_TOKEN.finditer(text, *self._whole_name(text, entity)))

    def _person_in(self, text: str, segment: Sequence[Token]) -> Sequence[Token]:
        """Return the name in words that a model labelled as a person; empty if the words or their context rule a
        person out."""
        if is_within_word(text, segment[0]) or is_vessel(text, segment[0].start(), segment[-1].end()):
            return []
        titled = PERSONAL_TITLE.search(text, max(0, segment[0].start() - 12), segment[0].start()) is not None
        name = segment if titled else evidence.personal_part(segment)
        if not name:
            return []
        first, last = name[0], name[-1]
        certain = titled or evidence.begins_certainly(name)
        if not titled and evidence.stands_like_something_else(text, name, certain=certain):
            return []
        known = is_known(first) or looks_like_surname(first)
        if first is last and not known and _is_unsure_alone(text, first):
            return []
        short = all(
            len(token.group()) < 3 or (token.group().isupper() and len(token.group()) < 5 and not is_known(token))
            for token in name
        )
        return [] if short else name

    def _end(self, text: str, entity: Entity, name: Sequence[Token]) -> int:
        """Return the end of a name. After a single given name, the last word of the entity belongs to it in any
        letter case: "Lubna K", "Lubna oakes"."""
        end = name[-1].end()
        rest = _REST_OF_NAME.match(text, end, entity.end) if len(name) == 1 and begins_name(name, 0) else None
        if rest is None or (len(rest.group(1)) > 2 and (_is_no_name(rest.group(1)) or evidence.is_noun(rest.group(1)))):
            return end
        return rest.end(1)

    def _whole_name(self, text: str, entity: Entity) -> tuple[int, int]:
        """Return the entity's span, extended by a given name before its first initial or family name, or by a word
        after a lone given name."""
        start, end = entity.start, entity.end
        if entity.label != "PERSON":
            return start, end
        before = list(EACH_TOKEN.finditer(text, max(0, start - 30), max(0, start - 1)))
        own = EACH_TOKEN.match(text, start)
        beside = before and before[-1].end() == start - 1 and text[start - 1] == " "
        if beside and own and before[-1].group().casefold() not in self._segments.never:
            family = own.end() == end or "\n" in text[start:end]
            if is_initial(own) or (family and (is_surname(own) or looks_like_surname(own))):
                start = before[-1].start()
        after = EACH_TOKEN.match(text, end + 1)
        alone = own is not None and own.end() == end and is_given(own)
        if alone and after and text[end] == " " and after.group().casefold() not in self._segments.never:
            end = after.end()
        return start, end


def _is_unsure_alone(text: str, token: Token) -> bool:
    """Return whether a single word that a model labelled as a person is doubtful: it is in capitals, or a
    capitalised word precedes or follows it."""
    if token.group().isupper() or _CAPITAL_BEHIND.match(text, token.end()):
        return True
    if CUE_BEFORE.search(text, max(0, token.start() - 24), token.start()):
        return False
    before = re.search(r"([A-Z][\w.]*) \Z", text[max(0, token.start() - 30) : token.start()])
    if before is None:
        return False
    return before.group(1).casefold().strip(".") not in lexicon.HONORIFICS | lexicon.STOP_WORDS


def _is_no_name(word: str) -> bool:
    plain = without_accents(word)
    return plain in lexicon.STOP_WORDS | lexicon.HONORIFICS | (lexicon.EVERYDAY - lexicon.GIVEN_WORLD)


# --- the family name first --------------------------------------------------------------------------------------------

_INITIALS = r"[A-Z]\.(?: ?[A-Z]\.){0,3}"
_NAME = re.compile(
    rf"(?<![\w@./-])(?P<family>(?:(?:van|von|de|der|den|da|dos|di) ){{0,2}}{WHOLE_WORD}), "
    rf"(?P<given>{_INITIALS}|{WHOLE_WORD}(?: [A-Z]\b\.?)?)(?![\w@])"
)
_NEXT = re.compile(r"; ?|,? (?:and|&) |\n")
_LABEL_BEFORE = re.compile(
    r"(?:\A|[\n>|;(]) *(?i:from|to|b?cc|authors?|present|attended by|attendees|apologies|members|witness(?:es)?|"
    r"owners?|(?:full )?names?|applicants?|signed(?: by)?|recipients?)[ ]?: *\Z"
)
_FIELD_BEFORE = re.compile(r"(?:\A|[\n:;|(\t>])[ ]*\Z")
_FIELD_BEHIND = re.compile(
    r"(?:,? (?:Jr|Sr|II|III|IV|KC|QC|OBE|CBE|MBE|PhD|MD|Esq)\b\.?| [A-Z]\.?)* *"
    r"(?:\Z|[\n;|)(<\t.:-]|,(?! [A-Z]\w+(?:,| and )))"  # no "Ahmed, Salim, Fatma"
)
_LONGEST_LABEL = 24

Spans = Sequence[tuple[int, int]]


class _Listed(NamedTuple):
    start: int
    end: int
    is_certain: bool
    """True if the words alone make the name certain."""


def listed_surname_first(text: str, segments: Segments) -> Iterator[tuple[int, int]]:
    """Yield names with the family name first, after the label of a field, or in a list in which at least one is
    certain."""
    if ", " not in text:
        return
    row: list[_Listed] = []
    for match in _NAME.finditer(text):
        name = _listed(match, segments)
        if row and (name is None or not _NEXT.fullmatch(text, row[-1].end, match.start())):
            yield from _whole_row(text, row)
            row = []
        if name is not None:
            row.append(name)
    yield from _whole_row(text, row)


def _whole_row(text: str, row: Sequence[_Listed]) -> Iterator[tuple[int, int]]:
    if not row or (_FIELD_BEHIND.match(text, row[-1].end) is None and len(row) == 1):
        return
    start = row[0].start
    labelled = _LABEL_BEFORE.search(text, max(0, start - _LONGEST_LABEL), start) is not None
    if labelled or (len(row) > 1 and any(name.is_certain for name in row)):
        yield from ((name.start, name.end) for name in row)


def _listed(match: re.Match[str], segments: Segments) -> _Listed | None:
    """Return the name in a match; None if one of its words means something else or its family name can only be a
    given name."""
    families = list(EACH_TOKEN.finditer(match["family"]))
    givens = list(EACH_TOKEN.finditer(match["given"]))
    words = [*families, *(token for token in givens if not is_initial(token))]
    if any(token.group().casefold() in segments.never or is_noun(token.group()) for token in words):
        return None
    if is_place(families[-1:]) or (givens and is_place(givens[:1])) or not _may_be_family(families[-1]):
        return None
    initials = not givens or is_initial(givens[0])
    return _Listed(match.start(), match.end(), initials or begins_name(givens, 0))


def _may_be_family(token: Token) -> bool:
    return is_surname(token) or not is_given(token)


def is_surname_first(text: str, family: tuple[int, int], given: tuple[int, int]) -> bool:
    """Return whether two names separated by a comma are one name with the family name first, in a field of a form or
    table or at the start of a line."""
    written = text[slice(*family)]
    tokens = list(EACH_TOKEN.finditer(written))
    alone = len(tokens) == 1 and tokens[0].group() == written and _may_be_family(tokens[0])
    if not alone or not _is_given_part(text[slice(*given)]):
        return False
    if written.isupper() and not text[slice(*given)].isupper():
        return True
    before = _FIELD_BEFORE.search(text, max(0, family[0] - 20), family[0])
    return before is not None and _FIELD_BEHIND.match(text, given[1]) is not None


def _is_given_part(name: str) -> bool:
    """Return whether a name begins with a given name or an initial and does not end with a family name."""
    tokens = list(EACH_TOKEN.finditer(name))
    if not tokens or len(tokens) > 3 or not (is_given(tokens[0]) or is_initial(tokens[0])):
        return False
    return len(tokens) == 1 or is_initial(tokens[-1]) or is_given(tokens[-1])


_WORD = r"[^\W\d_][\w’'-]{1,30}"
# --- firms ------------------------------------------------------------------------------------------------------------

_FAMILIES = re.compile(rf"(?<![\w’'-]){_WORD}, {_WORD},? (?:and|&) {_WORD}", re.IGNORECASE)
_AT_WORK = re.compile(r"\b(?:at|work(?:s|ed|ing)? for|employ(?:er|ed) by|firm(?: of)?|The) \Z")
_ONE_THING = re.compile(r" (?:is|was|has|does)\b")  # three people would be "are"
_NEXT_WORD = re.compile(r" ([A-Z]\w+)")
_LINE_BEFORE = re.compile(r"(?:\A|\n)[>?* ]*\Z")
_LINE_BEHIND = re.compile(r" *(?:\r?\n|\Z)")
_LEGAL_FORM = (
    r"(?:Inc|Incorporated|Corp|Corporation|Ltd|Limited|LLC|LLP|PLC|plc|GmbH|AG|SAOC|SAOG|S\.A\.|B\.V\.)(?![\w-])\.?"
)
_WITH_LEGAL_FORM = re.compile(rf"(?<![\w@./-])(?!The )(?:{WHOLE_WORD}(?:,? (?:(?:and|&|of) )?)){{1,4}}{_LEGAL_FORM}")
_REACH = 60


def firms(text: str) -> list[tuple[int, int]]:
    """Return the half-open spans of firms' names in a normalised text."""
    found = list(_of_families(text)) if " and " in text or " & " in text else []
    return [*found, *(match.span() for match in _WITH_LEGAL_FORM.finditer(text))]


def _of_families(text: str) -> Iterator[tuple[int, int]]:
    """Yield three family names, such as "A, B and C", where the context shows a firm rather than three people."""
    for match in _FAMILIES.finditer(text):
        people = [token for token in EACH_TOKEN.finditer(match.group()) if begins_name([token], 0)]
        if len(people) < 2 and _stands_like_firm(text, match):  # not "Ahmed, Salim and Fatma"
            yield match.span()


def _stands_like_firm(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - _REACH) : match.start()]
    if _ONE_THING.match(text, match.end()) is not None:
        return True
    following = _NEXT_WORD.match(text, match.end())
    if following is not None and without_accents(following.group(1)) in lexicon.BODIES | lexicon.OFFICES:
        return True
    if _AT_WORK.search(before) is not None:
        return True
    line = _LINE_BEFORE.search(before) is not None and _LINE_BEHIND.match(text, match.end()) is not None
    return line and not before.rstrip("\n> *").endswith((":", ","))  # "Present:", "Regards,"


# --- names in small letters -------------------------------------------------------------------------------------------

_WORDS_TOO = frozenset(["said", "amer", "hind", "jan", "noor", "see", "rich", "art", "grant", "will", "may", "mark"])
_GIVEN = frozenset(
    name
    for name in lexicon.GIVEN | (lexicon.GIVEN_WORLD - lexicon.EVERYDAY)
    if len(name) > 2 and name not in _WORDS_TOO and name not in lexicon.STOP_WORDS and not is_noun(name)
)
_NAMES = _GIVEN | lexicon.GIVEN
_FAMILY = (lexicon.SURNAMES_WORLD - lexicon.EVERYDAY) | lexicon.TRIBES | _GIVEN
_TITLED = re.compile(
    r"(?<![\w.])(?:mrs?|ms|dr|prof|sheikh|my name is|(?:full |first |last )?name:|signed by|signed:)\.? (?=[a-z])"
)
_PAIR = re.compile(r"(?<![\w@./-])([^\W\d_]{3,})(?= (?:(bin|bint|ibn|al|el|[b-hj-z]\.?)[ -])?([^\W\d_]{3,})(?![\w@-]))")
_WITH_INITIAL = re.compile(r"(?<![\w@./-])([a-z]{3,}) ([b-hj-z])\.? ([a-z]{3,})(?![\w@-])")
_TRIBE_BEHIND = re.compile(r" (?:al|el)[ -]([a-z]{3,})")
_PLAIN_WORD = re.compile(r"[^\W\d_]+")


def recased(text: str) -> str:
    """Return the text with capitalised names, at the same length.

    In a text without capitals, it capitalises known names, the word after a given name, and the word after a cue such
    as "my name is". In any other text, it capitalises a lower-case given name before a family name or a kinship word,
    and the words after a title or a cue.
    """
    if UPPER_LETTER.search(text):
        return _recased_here_and_there(text)
    if LOWER_WORD.search(text) is None:
        return text
    letters = list(text)
    given_ends = -1
    for word in LOWER_WORD.finditer(text):
        if len(word.group().rstrip(".")) == 1:
            if word.start() == given_ends + 1 and text[given_ends] == " ":  # an initial
                letters[word.start()] = _capital(letters[word.start()])
                given_ends = word.end()
            continue
        plain = without_accents(word.group().rstrip("."))
        after_name = word.start() == given_ends + 1 and text[given_ends] == " "
        cued = CUE_BEFORE.search(text, max(0, word.start() - 24), word.start()) is not None
        common = plain in lexicon.STOP_WORDS or plain in lexicon.HONORIFICS
        known = plain in KNOWN_NAMES and plain not in lexicon.EVERYDAY
        if not common and (known or after_name or cued):
            letters[word.start()] = _capital(letters[word.start()])
        given_ends = word.end() if not common and (known or cued) else -1
    for match in _PAIR.finditer(text):
        _capitalise(letters, *_places_in_pair(text, match))
    for match in _WITH_INITIAL.finditer(text):
        if not any(_is_common(match[group]) for group in (1, 3)):
            _capitalise(letters, *(match.start(group) for group in (1, 2, 3)))
    return "".join(letters)


def _recased_here_and_there(text: str) -> str:
    places: list[int] = []
    if not _NAMES.isdisjoint(text.split()):
        for match in _PAIR.finditer(text):
            places += _places_in_pair(text, match)
    for cue in _TITLED.finditer(text) if "m" in text or "name" in text or "signed" in text else ():
        word = _PLAIN_WORD.match(text, cue.end())
        if word is not None and len(word.group()) > 2 and not _is_common(word.group()):
            places.append(word.start())
            following = _PLAIN_WORD.match(text, word.end() + 1) if text[word.end() : word.end() + 1] == " " else None
            if following is None or _is_common(following.group()):
                continue
            if "name" in cue.group() or without_accents(following.group()) in _FAMILY:
                places.append(following.start())
    if not places:
        return text
    letters = list(text)
    _capitalise(letters, *places)
    return "".join(letters)


def _places_in_pair(text: str, match: re.Match[str]) -> list[int]:
    """Return the offsets of the words to capitalise in a lower-case name: "hamood al araimi", "margaret thompson",
    "salim bin rashid"."""
    given, between, family = match.group(1, 2, 3)
    known = without_accents(family) in _FAMILY
    if between in ("al", "el") and family in lexicon.TRIBES and given in lexicon.GIVEN:
        return [match.start(1), match.start(3)]
    if not given.islower() or without_accents(given) not in _GIVEN or not family.islower():
        return []
    if between not in ("bin", "bint", "ibn", "al", "el"):
        return [match.start(1), match.start(3)] if known else []
    if _is_common(family) and not known:
        return []
    tribe = _TRIBE_BEHIND.match(text, match.end(3))
    return [match.start(1), match.start(3), *([tribe.start(1)] if tribe is not None else [])]


def _is_common(word: str) -> bool:
    plain = without_accents(word)
    return plain in lexicon.STOP_WORDS or plain in lexicon.HONORIFICS or is_noun(plain)


def _capitalise(letters: list[str], *places: int) -> None:
    for place in places:
        letters[place] = _capital(letters[place])


def _capital(letter: str) -> str:
    """Return the capital letter, or the letter itself if its capital is two letters ("ß")."""
    return letter.upper() if len(letter.upper()) == 1 else letter
