"""Where names of people stand in Latin text: by kinship words, honorifics, cues, signatures and word lists; and what of
an entity that a name model found is one.

What belongs here: where a name begins and ends. What does not: what a single word is (`latin_words.py`).
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sovereign_pipeline.privacy.names import gazetteer, world_names
from sovereign_pipeline.privacy.names.entities import Entity
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    CUED,
    EACH_TOKEN,
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
)
from sovereign_pipeline.privacy.names.persons import folded_word

_WORD_BEFORE = re.compile(r"([A-Za-z]+)\.?[ ]\Z")
_SIGNATURE_BEFORE = re.compile(r"(?:\A|[.!?)][ \n]|\n|(?i:regards|sincerely|faithfully|respectfully|signed)[,:]? )\Z")
_VESSEL_BEFORE = re.compile(rf"\b(?:{gazetteer.VESSELS}) (?:named |called )?['\"]?\Z", re.IGNORECASE)
_CAPITAL_BEHIND = re.compile(" [A-Z]")
_FIGURE_BEHIND = re.compile(r" \d")
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
                if self._is_person(text, segment):
                    yield segment[0].start(), segment[-1].end()

    def in_other_entity(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """Names that everybody knows where a name model found something else: one to three words that begin with a
        known given name or end with a family name."""
        for line in _by_line(text, self._tokens(text, entity)):
            if _names_an_organisation(line):
                continue
            for segment in self._segments(line):
                family = is_surname(segment[-1]) or looks_like_surname(segment[-1], certainly=len(segment) == 1)
                if len(segment) < 4 and (family or begins_name(segment, 0)):
                    yield segment[0].start(), segment[-1].end()

    def may_hold_person(self, text: str, entity: Entity) -> bool:
        """Whether any word in Latin letters is left of a person that a name model found."""
        return bool(self._segments(self._tokens(text, entity), trusted=True))

    def mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Single words that are known parts of names."""
        for token in EACH_TOKEN.finditer(text):
            folded = folded_word(token.group())
            if folded not in parts or folded in self._never or text[token.start() - 1 : token.start()].isalpha():
                continue
            if not _is_vessel(text, token.start(), token.end()):
                yield token.start(), token.end()

    def _tokens(self, text: str, entity: Entity) -> list[Token]:
        return list(EACH_TOKEN.finditer(text, *self._whole_name(text, entity)))

    def _is_person(self, text: str, segment: Sequence[Token]) -> bool:
        first, last = segment[0], segment[-1]
        if _is_vessel(text, first.start(), last.end()):
            return False
        known = is_known(first) or looks_like_surname(first)
        if first is last and not known and _is_unsure_alone(text, first):
            return False
        return not all(
            len(token.group()) < 3 or (token.group().isupper() and len(token.group()) < 5) for token in segment
        )

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
            segments = self._segments(tokens)
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
            if name is not None:
                first, last = name
                yield segment[first].start(), segment[min(last, len(segment) - 1)].end()

    def _segments(self, tokens: Sequence[Token], trusted: bool = False) -> list[list[Token]]:
        """Cut a run of capitalised words at titles, places, offices and everyday words.

        Args:
            trusted: a model took it for a person, so an everyday word that is a given name too ("Jan", "Will") is one.
        """
        segments: list[list[Token]] = [[]]
        skip_next = False
        for token in tokens:
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
            ends = (word in self._never and not initial and not given) or title or place or skip_next
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
    if _has_role_before(text, first):
        return 0, 2
    if any(is_initial(token) and token.group().endswith(".") for token in segment[1:-1]):
        return 0, len(segment) - 1
    if given is not None:
        return given, given + 2
    surname = next((i for i, token in enumerate(segment) if is_surname(token)), None)
    if surname is not None:
        return max(0, surname - 2), surname
    if signed and len(segment) <= 3 and _is_signature(text, first, last):
        return 0, len(segment) - 1
    return None


def _is_honorific(token: Token) -> bool:
    return token.group().casefold().strip(".") in gazetteer.HONORIFICS


def _has_role_before(text: str, first: Token) -> bool:
    """Whether a role or an honorific stands before a word: "engineer Kamil"."""
    before = _WORD_BEFORE.search(text, max(0, first.start() - 24), first.start())
    return before is not None and before.group(1).casefold() in gazetteer.ROLES | gazetteer.HONORIFICS


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


def is_part_of_organisation(text: str, span: tuple[int, int], entities: Sequence[Entity]) -> bool:
    """A single word inside a longer name that a model took for an organisation: "Davis, Reynolds and Williams"."""
    start, end = span
    if " " in text[start:end]:
        return False
    return any(
        entity.label == "ORGANISATION"
        and entity.start <= start
        and end <= entity.end
        and " " in text[entity.start : entity.end].strip()
        for entity in entities
    )


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
    return (
        _VESSEL_BEFORE.search(text[max(0, start - 20) : start]) is not None
        or _FIGURE_BEHIND.match(text, end) is not None
    )


def _without_small_ends(segment: list[Token]) -> list[Token]:
    def is_small(token: Token) -> bool:
        return token.group().casefold() in gazetteer.KINSHIP | gazetteer.PARTICLES

    while segment and is_small(segment[0]):
        segment = segment[1:]
    while segment and is_small(segment[-1]):
        segment = segment[:-1]
    return segment
