"""Where names of people stand in Latin text: by kinship words, honorifics, cues, signatures and word lists; and what of
an entity that a name model found is one.

What belongs here: where a name begins and ends. What does not: what a single word is (`latin_words.py`).
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sovereign_pipeline.privacy.names import evidence
from sovereign_pipeline.privacy.names.entities import Entity
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    CUED,
    EACH_TOKEN,
    KNOWN_NAMES,
    LOWER_WORD,
    RUN,
    Token,
    begins_name,
    is_articled,
    is_given,
    is_initial,
    is_known,
    is_surname,
    looks_like_surname,
    with_plain_article,
    without_accents,
)
from sovereign_pipeline.privacy.names.persons import folded_word
from sovereign_pipeline.privacy.names.words import gazetteer, no_names, world_names

_OF_A_PERSON = frozenset({"mr", "mrs", "ms", "miss", "dr"})
_WORD_BEFORE = re.compile(r"([A-Za-z]+)\.?[ ]\Z")
_SIGNATURE_BEFORE = re.compile(r"(?:\A|[.!?][ \n]|\n|(?i:regards|sincerely|faithfully|respectfully|signed)[,:]? )\Z")
_CLOSING_BEFORE = re.compile(r"(?i:regards|wishes|sincerely|faithfully|respectfully|thanks|cheers)[,.]?\s{1,4}\Z")
_IS_ALL = re.compile(r" ?[,.!]?\s*(?:\n|\Z)|,")
_VESSEL = rf"\b(?:(?i:{gazetteer.VESSELS})|M/?[VTY]|M/?SV|F/?V|S/?S|HMS|RMS|RV)"
_VESSEL_BEFORE = re.compile(rf"{_VESSEL}\.? (?:named |called )?['\"]?\Z")
_VESSEL_IN_SENTENCE = re.compile(rf"{_VESSEL}\b[^.!?;:\n]*\Z")
_CAPITAL_BEHIND = re.compile(" [A-Z]")
_FIGURE_BEHIND = re.compile(r" \d{1,3}(?![\w/:.-]*\d)(?! [a-z])")
_PERSONAL_TITLE = re.compile(r"(?<![\w])(?i:mrs?|ms|miss|dr|mx|prof|sir|sheikha?|shaikh)\.? \Z")
_SENTENCE_BEFORE = re.compile(r"(?:\A|[.!?:\n] ?)\Z")
_DOES = re.compile(
    r" (?:lives? (?:on|in|at)|was born|married|is married|phoned|had given|is from|"
    r"began writing|told me|died (?:in|on|at))\b"
)
_SIGNATURE_REACH = 110  # characters from the start of a signature to the end of a letter, contact details included


class LatinNames:
    """Names in Latin letters, as half-open spans of normalised text."""

    def __init__(self, keep_words: frozenset[str]) -> None:
        self._keep_words = keep_words
        self._never = gazetteer.STOP_WORDS | gazetteer.PLACES | gazetteer.ORGANISATIONS | keep_words

    def spans(self, text: str, *, signed: bool) -> Iterator[tuple[int, int]]:
        """Names by pattern. Two of them may overlap.

        Args:
            signed: the text is a letter, so a name may stand at its end with nothing before it.
        """
        for run in RUN.finditer(text):
            yield from self._names_in_run(text, run, signed)
        yield from self._after_cues(text)

    def in_person(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """What is left of a person that a name model found once places, offices and everyday words are taken off."""
        for line in _by_line(text, self._tokens(text, entity)):
            if _names_an_organisation(line):
                continue
            for segment in self._segments(line, trusted=True):
                name = self._person_in(text, segment)
                if name:
                    yield name[0].start(), name[-1].end()

    def in_other_entity(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """Names that everybody knows where a name model found something else: one to three words that begin with a
        known given name or end with a family name."""
        for line in _by_line(text, self._tokens(text, entity)):
            if _names_an_organisation(line):
                continue
            for segment in self._segments(line):
                name = evidence.personal_part(segment)
                if not name or len(name) > 3:
                    continue
                family = is_surname(name[-1]) or looks_like_surname(name[-1], certainly=len(name) == 1)
                begins = begins_name(name, 0)
                against = evidence.stands_like_something_else(text, name, certain=begins)
                if (begins or family) and not against:
                    yield name[0].start(), name[-1].end()

    def in_small_letters(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """A person that a model found in small letters, if one of its words is a name that everybody knows."""
        words = list(LOWER_WORD.finditer(text, entity.start, entity.end))
        while words and _is_everyday(words[0].group()):
            words = words[1:]
        while words and _is_everyday(words[-1].group()):
            words = words[:-1]
        known = [without_accents(word.group()) in KNOWN_NAMES for word in words]
        common = any(evidence.is_noun(word.group()) for word in words)
        if 0 < len(words) < 5 and not common and any(known) and text[words[0].start() - 1 : words[0].start()] != "@":
            yield words[0].start(), words[-1].end()

    def may_hold_person(self, text: str, entity: Entity) -> bool:
        """Whether any word in Latin letters is left of a person that a name model found."""
        return bool(self._segments(self._tokens(text, entity), trusted=True))

    def may_spread(self, text: str, start: int, end: int) -> bool:
        """Whether a finding is certain enough to be looked for elsewhere in its case."""
        return evidence.may_spread(text, list(EACH_TOKEN.finditer(text, start, end)))

    def mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Single words that are known parts of names."""
        for token in EACH_TOKEN.finditer(text):
            folded = folded_word(token.group())
            if folded not in parts or folded in self._never or text[token.start() - 1 : token.start()].isalpha():
                continue
            everyday = evidence.is_noun(folded) or without_accents(folded) in world_names.EVERYDAY
            if everyday and not evidence.mentions_person(text, token):
                continue
            if not _is_vessel(text, token.start(), token.end()):
                yield token.start(), token.end()

    def _tokens(self, text: str, entity: Entity) -> list[Token]:
        return list(EACH_TOKEN.finditer(text, *self._whole_name(text, entity)))

    def _person_in(self, text: str, segment: Sequence[Token]) -> Sequence[Token]:
        """The person in words that a model took for one; empty when the words or what stands beside them say that it is
        none."""
        if _is_within_word(text, segment[0]) or _is_vessel(text, segment[0].start(), segment[-1].end()):
            return []
        titled = _PERSONAL_TITLE.search(text, max(0, segment[0].start() - 12), segment[0].start()) is not None
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

    def _whole_name(self, text: str, entity: Entity) -> tuple[int, int]:
        """The entity with the given name before its first initial, or the known family name behind a given name."""
        start, end = entity.start, entity.end
        if entity.label != "PERSON":
            return start, end
        before = list(EACH_TOKEN.finditer(text, max(0, start - 30), max(0, start - 1)))
        own = EACH_TOKEN.match(text, start)
        beside = before and before[-1].end() == start - 1 and text[start - 1] == " "
        if beside and own and before[-1].group().casefold() not in self._never:
            family = own.end() == end or "\n" in text[start:end]
            if is_initial(own) or (family and (is_surname(own) or looks_like_surname(own))):
                start = before[-1].start()
        after = EACH_TOKEN.match(text, end + 1)
        alone = own is not None and own.end() == end and is_given(own)
        if alone and after and text[end] == " " and after.group().casefold() not in self._never:
            end = after.end()
        return start, end

    def _after_cues(self, text: str) -> Iterator[tuple[int, int]]:
        """ "My name is …", "Hi …,", "Name: …": one to four words that are no office and no greeting."""
        for match in CUED.finditer(text):
            tokens = list(EACH_TOKEN.finditer(text, *match.span("name")))
            if _names_an_organisation(tokens):
                continue
            whole = self._segments(tokens)
            segments: Sequence[Sequence[Token]] = [part for part in map(evidence.personal_part, whole) if part]
            if not segments and len(tokens) == 1 and whole and is_known(tokens[0]) and _IS_ALL.match(text, match.end()):
                segments = whole  # "Dear Grant,"
            if segments and segments[0][0].start() == match.start("name") and len(segments[0]) <= 4:
                long = any(len(token.group()) > 2 and not token.group().isupper() for token in segments[0])
                if long and not _is_vessel(text, segments[0][0].start(), segments[0][-1].end()):
                    yield segments[0][0].start(), segments[0][-1].end()

    def _names_in_run(self, text: str, run: Token, signed: bool) -> Iterator[tuple[int, int]]:
        tokens = list(EACH_TOKEN.finditer(text, run.start(), run.end()))
        in_organisation = _names_an_organisation(tokens)
        titled = {after.start() for before, after in pairwise(tokens) if _is_honorific(before)}
        for segment in self._segments(tokens):
            is_titled = segment[0].start() in titled
            alone = signed and len(segment) == len(tokens)
            name = _name_in_segment(
                text, segment, titled=is_titled, in_organisation=in_organisation and not is_titled, signed=alone
            )
            if name is None or _is_within_word(text, segment[name[0]]):
                continue
            words: Sequence[Token] = segment[name[0] : name[1] + 1]
            if not is_titled and not any(token.group().casefold() in gazetteer.KINSHIP for token in words):
                closes = (
                    alone and len(tokens) == 1 and _CLOSING_BEFORE.search(text, max(0, run.start() - 24), run.start())
                )
                words = words if closes and _IS_ALL.match(text, run.end()) else evidence.personal_part(words)
            elif is_titled and not _PERSONAL_TITLE.search(text, max(0, words[0].start() - 12), words[0].start()):
                words = evidence.personal_part(words)  # "Major Conditions Strategy"
            if not words:
                continue
            certain = evidence.begins_certainly(words) or any(map(is_articled, words))
            if is_titled or not evidence.stands_like_something_else(text, words, certain=certain):
                yield words[0].start(), words[-1].end()

    def _segments(self, tokens: Sequence[Token], trusted: bool = False) -> list[list[Token]]:
        """Cut a run of capitalised words at titles, places, offices and everyday words.

        Args:
            trusted: a model took it for a person, so an everyday word that is a given name too ("Jan", "Will") is one.
        """
        segments: list[list[Token]] = [[]]
        skip_next = False
        before = ""
        for token in tokens:
            of_a_person, before = before in _OF_A_PERSON, token.group().casefold().strip(".")
            if with_plain_article(token.group()) == "al-bahr":  # "Noor al Bahr" and the like are vessels
                segments[-1] = []
                continue
            word = token.group().casefold().strip(".")
            folded = with_plain_article(token.group())
            place = folded in gazetteer.PLACES or (
                folded.startswith("al-") and (folded[3:] in gazetteer.AL_PLACES or folded[3:] in self._keep_words)
            )
            surname = len(segments[-1]) == 1 and is_given(segments[-1][0])  # "Lubna Sayyid"
            title = word in gazetteer.HONORIFICS and not surname
            initial = is_initial(token) and (token.group().endswith(".") or bool(segments[-1]))
            given = trusted and word in world_names.GIVEN_WORLD and not segments[-1]
            called = of_a_person and word not in gazetteer.STOP_WORDS | no_names.OFFICES  # "Ms Court"
            ends = (word in self._never and not (initial or given or called)) or title or place or skip_next
            skip_next = word in gazetteer.PLACE_HEADS
            if ends or skip_next:
                segments.append([])
            else:
                segments[-1].append(token)
        trimmed = [_without_small_ends(segment) for segment in segments]
        return [segment for segment in trimmed if segment]


def _name_in_segment(
    text: str, segment: list[Token], *, titled: bool, in_organisation: bool, signed: bool
) -> tuple[int, int] | None:
    """First and last word of the name in a segment of a run of capitalised words, by the strongest rule that holds.

    The last word may lie beyond the segment: a rule says how many words a name has at most.

    Args:
        titled: an honorific stands before it.
        in_organisation: its run names an organisation.
        signed: it is a whole run of a letter, so it may be the name at its end.
    """
    first, last = segment[0], segment[-1]
    kinship = [i for i, token in enumerate(segment) if token.group().casefold() in gazetteer.KINSHIP]
    articled = [i for i, token in enumerate(segment) if is_articled(token)]
    tribes = [i for i in articled if with_plain_article(segment[i].group()).endswith(("i", "y"))]
    given = next((i for i in range(len(segment)) if begins_name(segment, i)), None)
    if kinship and 0 < kinship[0] < len(segment) - 1:
        begin = given if given is not None and given < kinship[0] else max(0, kinship[0] - 1)
        return begin, articled[0] if articled and articled[0] > kinship[-1] else kinship[-1] + 2
    if in_organisation or _is_vessel(text, first.start(), last.end()):
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
    if surname is not None:
        return max(0, surname - 2), surname
    if signed and len(segment) <= 3 and _is_signature(text, first, last):
        return 0, len(segment) - 1
    if first is last and _does_what_people_do(text, first):
        return 0, 0
    return None


def _does_what_people_do(text: str, token: Token) -> bool:
    """ "Jolanka lives at …" at the beginning of a sentence."""
    if token.group().isupper() or _DOES.match(text, token.end()) is None:
        return False
    return _SENTENCE_BEFORE.search(text, max(0, token.start() - 4), token.start()) is not None


def _is_honorific(token: Token) -> bool:
    return token.group().casefold().strip(".") in gazetteer.HONORIFICS


def _has_role_before(text: str, first: Token) -> bool:
    """Whether a role or an honorific stands before a word: "engineer Kamil"."""
    before = _WORD_BEFORE.search(text, max(0, first.start() - 24), first.start())
    return before is not None and before.group(1).casefold() in gazetteer.ROLES | gazetteer.HONORIFICS


def _is_within_word(text: str, token: Token) -> bool:
    """Whether a word is of a longer one, of a handle, a tag or an address: "@saltmarsh", "#harbour", "t.co/XyAbd"."""
    before = text[token.start() - 1 : token.start()]
    if before.isalnum() or before in ("_", "@", "#"):
        return before != ""
    return before == "/" and "://" in text[max(0, token.start() - 40) : token.start()].rpartition(" ")[2]


def is_one_family_name(name: str) -> bool:
    """Whether it is a single word, perhaps with its article, that is no given name."""
    tokens = list(EACH_TOKEN.finditer(name))
    return len(tokens) == 1 and tokens[0].group() == name and (is_surname(tokens[0]) or not is_given(tokens[0]))


def begins_with_given(name: str) -> bool:
    """Whether a given name or an initial begins it, and no family name ends it."""
    tokens = list(EACH_TOKEN.finditer(name))
    if not tokens or len(tokens) > 3 or not (is_given(tokens[0]) or is_initial(tokens[0])):
        return False
    return len(tokens) == 1 or is_initial(tokens[-1]) or is_given(tokens[-1])


def _by_line(text: str, tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Tokens that stand side by side, with nothing but spaces between them."""
    line: list[Token] = []
    for token in tokens:
        if line and text[line[-1].end() : token.start()].strip(" "):
            yield line
            line = []
        line.append(token)
    if line:
        yield line


def _names_an_organisation(tokens: Sequence[Token]) -> bool:
    return any(token.group().casefold().strip(".") in gazetteer.ORGANISATIONS for token in tokens)


def _is_signature(text: str, first: Token, last: Token) -> bool:
    """One to three words at the end of a letter, alone in their sentence, perhaps with what the person is or has."""
    if len(text) - first.start() > _SIGNATURE_REACH or _SIGNATURE_BEFORE.search(text[: first.start()]) is None:
        return False
    after = text[last.end() :]
    if first is last:  # a single word could begin any sentence
        return re.fullmatch(r"\.?\s*|, [^.!?]{2,60}\.?", after) is not None
    return after[:1] in ("", ",", "\n") or after == "."


def _is_unsure_alone(text: str, token: Token) -> bool:
    """A single capitalised word that a model took for a person, where every word has a capital or more words follow."""
    if token.group().isupper() or _CAPITAL_BEHIND.match(text, token.end()):
        return True
    if CUE_BEFORE.search(text, max(0, token.start() - 24), token.start()):
        return False
    before = re.search(r"([A-Z][\w.]*) \Z", text[max(0, token.start() - 30) : token.start()])
    return before is not None and before.group(1).casefold().strip(".") not in gazetteer.HONORIFICS


def _is_vessel(text: str, start: int, end: int) -> bool:
    """Whether a vessel's name stands there: after a word for one, or with a number and such a word in its sentence."""
    if _VESSEL_BEFORE.search(text, max(0, start - 20), start):
        return True
    numbered = _FIGURE_BEHIND.match(text, end) is not None
    return numbered and _VESSEL_IN_SENTENCE.search(text, max(0, start - 80), start) is not None


def _is_everyday(word: str) -> bool:
    plain = without_accents(word)
    return plain in gazetteer.STOP_WORDS or plain in gazetteer.HONORIFICS or plain in world_names.EVERYDAY


def _without_small_ends(segment: list[Token]) -> list[Token]:
    def is_small(token: Token) -> bool:
        return token.group().casefold() in gazetteer.KINSHIP | gazetteer.PARTICLES

    while segment and is_small(segment[0]):
        segment = segment[1:]
    while segment and is_small(segment[-1]):
        segment = segment[:-1]
    return segment
