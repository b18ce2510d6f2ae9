"""Where names of people stand in Latin text: by kinship words, honorifics, cues, signatures and word lists.

What belongs here: where a name begins and ends. What does not: what a single word is (`latin_words.py`), what a name
model found (`model_findings.py`).
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sovereign_pipeline.privacy.names import evidence, lexicon
from sovereign_pipeline.privacy.names.latin_words import (
    CUED,
    EACH_TOKEN,
    PERSONAL_TITLE,
    RUN,
    Token,
    begins_name,
    is_articled,
    is_initial,
    is_known,
    is_surname,
    with_plain_article,
    without_accents,
)
from sovereign_pipeline.privacy.names.persons import folded_word
from sovereign_pipeline.privacy.names.segments import (
    Segments,
    is_honorific,
    is_vessel,
    is_within_word,
    names_an_organisation,
)

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
    """Names in Latin letters, as half-open spans of normalised text."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def spans(self, text: str, *, signed: bool) -> Iterator[tuple[int, int]]:
        """Names by pattern. Two of them may overlap.

        Args:
            signed: the text is a letter, so a name may stand at its end with nothing before it.
        """
        for run in RUN.finditer(text):
            yield from self._names_in_run(text, run, signed)
        yield from self._after_cues(text)

    def may_spread(self, text: str, start: int, end: int) -> bool:
        """Whether a finding is certain enough to be looked for elsewhere in its case."""
        return evidence.may_spread(text, list(EACH_TOKEN.finditer(text, start, end)))

    def mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Single words that are known parts of names."""
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
        """ "My name is …", "Hi …,", "Name: …": one to four words that are no office and no greeting."""
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
    """First and last word of the name in a segment of a run of capitalised words, by the strongest rule that holds.

    The last word may lie beyond the segment: a rule says how many words a name has at most.

    Args:
        titled: an honorific stands before it.
        in_organisation: its run names an organisation.
        signed: it is a whole run of a letter, so it may be the name at its end.
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
    if surname is not None:  # and what stands behind it alone: "Quillon Singh Abara"
        goes_on = 0 < surname == len(segment) - 2 and not evidence.is_noun(last.group())
        return max(0, surname - 2), surname + goes_on
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


def _has_role_before(text: str, first: Token) -> bool:
    """Whether a role or an honorific stands before a word: "engineer Kamil"."""
    before = _WORD_BEFORE.search(text, max(0, first.start() - 24), first.start())
    return before is not None and before.group(1).casefold() in lexicon.ROLES | lexicon.HONORIFICS


def _is_signature(text: str, first: Token, last: Token) -> bool:
    """One to three words at the end of a letter, alone in their sentence, perhaps with what the person is or has."""
    if len(text) - first.start() > _SIGNATURE_REACH or _SIGNATURE_BEFORE.search(text[: first.start()]) is None:
        return False
    after = text[last.end() :]
    if first is last:  # a single word could begin any sentence
        return re.fullmatch(r"\.?\s*|, [^.!?]{2,60}\.?", after) is not None
    return after[:1] in ("", ",", "\n") or after == "."
