"""Find names in text: in Latin letters by a fitted score of candidates, in Arabic letters by patterns."""

import re
from collections.abc import Iterable, Iterator, Sequence

from sovereign_pipeline.privacy.names.arabic_names import ARABIC_LETTER, LETTERS, ArabicNames, by_line, is_role
from sovereign_pipeline.privacy.names.latin_names import (
    Candidate,
    Favour,
    Scorer,
    Script,
    explain,
    is_certain_alone,
    latin_candidates,
    load_weights,
    one_word,
)
from sovereign_pipeline.privacy.names.lexicon import EACH_TOKEN, LATIN, kinds_of, recased
from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.names.persons import folded_word
from sovereign_pipeline.privacy.spans import Span, without_overlaps

_ARABIC_ONTO_LATIN = re.compile(rf"(?<=[A-Za-z])[{LETTERS}]+")
_STROKE_BEHIND_WORD = re.compile(rf"(?<![{LETTERS}])([{LETTERS}]+)( ?/ ?)(?=[{LETTERS}])")
_BETWEEN_ARABIC_WORDS = re.compile(rf"(?<=[{LETTERS}])[_./\\+=\n-](?=[{LETTERS}])")
# Greetings and forms of address are not names. After a closing, a label or "Mr", "Eid Mubarak" is a name.
_FORMULA = re.compile(
    r"\b(?:(?:mr|mrs|ms|madam|sir)\b\.? *(?:{})(?= *(?:[,.:;!\n]|$))"
    r"|(?<![,sy]\n)(?<![rs.:] )(?:{})\b)".format(
        *("|".join(sorted(words)) for words in (LATIN["addressed_offices"], LATIN["greetings"]))
    ),
    re.IGNORECASE,
)

_NAMES_TOO = ("given name", "given name or word", "family name", "family name or word")
_LEAST_FOR_MENTION = -3.0  # minimum score of an everyday word to count as a further mention


class NamePatterns:
    """Finds names: in Latin letters among candidates by a fitted score, in Arabic letters by patterns and entities."""

    def __init__(self, keep_words: Iterable[str] = (), favour: Favour = "balanced") -> None:
        """
        Args:
            keep_words: words and phrases of the recipe. None of their words is ever part of a name.
        """
        self._keep_words = frozenset(word for phrase in keep_words for word in phrase.casefold().split())
        self._scorer = Scorer(load_weights(), favour)
        self._arabic = ArabicNames(self._keep_words)

    def spans(self, text: str, entities: Sequence[Entity] | None = None, *, signed: bool = False) -> list[Span]:
        """Return the names in a text, without overlaps.

        Args:
            text: normalised text.
            entities: the name model's entities in the text; None if no model read the text.
            signed: True if the text may end with a signature, as a letter does.
        """
        script: Script = "latin_alone" if entities is None else "latin"
        found = [each[:2] for each in self._scorer.names(script, self.candidates(text, entities, signed=signed))]
        if ARABIC_LETTER.search(text):
            titled = _with_titles_beside_names(text)
            found += self._arabic.spans(titled)
            if (spaced := _with_single_spaces(titled)) != titled:
                found += [line for span in self._arabic.spans(spaced) for line in by_line(text, *span)]
            for each in entities or ():
                if each.label == "PERSON" and ARABIC_LETTER.search(text, each.start, each.end):
                    found += [each[:2]] if self._arabic.may_be_name(text[each.start : each.end]) else []
        spans = without_overlaps(_name_span(text, *_whole_words(text, *span)) for span in found)
        return [_with_generation(text, span) for span in spans]

    def candidates(
        self, text: str, entities: Sequence[Entity] | None = None, *, signed: bool = False
    ) -> list[Candidate]:
        """Return the candidates in Latin letters that `spans` scores."""
        cased = _with_plain_endings(recased(text))
        formulas = [formula.span() for formula in _FORMULA.finditer(text)]
        found = latin_candidates(cased, entities, self._keep_words, signed=signed)
        return [each for each in found if not _is_within(each[:2], formulas)]

    def explained(
        self, text: str, entities: Sequence[Entity] | None, *, signed: bool
    ) -> tuple[dict[tuple[int, int], str], list[tuple[int, int]]]:
        """Return a dict from the span of each name in Latin letters to an explanation, and the spans of doubtful names.
        A doubtful name counts as a name only if `privacy.names.favour` is `recall`."""
        script: Script = "latin_alone" if entities is None else "latin"
        found = self.candidates(text, entities, signed=signed)
        weights = self._scorer.weights[script]
        names = {each[:2]: explain(weights, each.features) for each in self._scorer.names(script, found)}
        return names, [each[:2] for each in self._scorer.doubtful(script, found)]

    def mentions(self, text: str, parts: frozenset[str]) -> list[Span]:
        """Return further mentions of the people of a case file, in reading order within each script.

        Args:
            text: normalised text.
            parts: the folded parts of the names of these people (`persons.known_parts`).
        """
        found = list(self._latin_mentions(text, parts))
        if ARABIC_LETTER.search(text):
            found += self._arabic.mentions(text, parts)
        return [_name_span(text, *span) for span in _joined_neighbours(text, found)]

    def may_spread(self, text: str, span: Span) -> bool:
        """Return True if a name is so certain that the rest of the case should be searched for the name."""
        tokens = list(EACH_TOKEN.finditer(text, span.start, span.end))
        if ARABIC_LETTER.search(text, span.start, span.end) or len(tokens) != 1:
            return True
        return is_certain_alone(text, tokens[0])

    def _latin_mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Yield single words that are known parts of names. If such a word is also an everyday word, it must have a
        high enough score."""
        for token in EACH_TOKEN.finditer(text):
            folded = folded_word(token.group())
            if folded not in parts or folded in self._keep_words or text[token.start() - 1 : token.start()].isalpha():
                continue
            kinds = kinds_of(token.group())
            if "stop" in kinds and kinds.isdisjoint(_NAMES_TOO):
                continue
            candidate = one_word(text, token)
            if "after a vessel's word" in candidate.features:
                continue
            everyday = not kinds.isdisjoint(("noun", "office", "everyday word", "stop"))
            if not everyday or self._scorer.weights["latin_alone"].score(candidate.features) > _LEAST_FOR_MENTION:
                yield token.span()


def _with_plain_endings(text: str) -> str:
    """Return the text with "a" in place of each Arabic letter attached to a Latin word. The length stays the same."""
    if ARABIC_LETTER.search(text) is None:
        return text
    return _ARABIC_ONTO_LATIN.sub(lambda letters: "a" * len(letters.group()), text)


def _is_within(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(first <= span[0] and span[1] <= last for first, last in others)


def _with_titles_beside_names(text: str) -> str:
    """Return the text without the slash in "السيد/ …", so that the title is next to the name. The length stays the
    same."""
    if "/" not in text:
        return text
    return _STROKE_BEHIND_WORD.sub(
        lambda found: f"{' ' * (len(found[2]) - 1)}{found[1]} " if is_role(found[1]) else found[0], text
    )


def _with_single_spaces(text: str) -> str:
    """Return the text with a space in place of each single punctuation sign between Arabic words. The text's length
    stays the same."""
    return _BETWEEN_ARABIC_WORDS.sub(" ", text)


def name_key(text: str, start: int, end: int) -> str:
    """Return the name in text[start:end]. Arabic drops the first letter of the article after the preposition "ل". In
    that case, the letter is restored."""
    name = text[start:end]
    return f"ا{name}" if text[start - 1 : start + 1] == "لل" else name


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span, extended to whole words. A name in two scripts or with rare letters may end inside a word."""
    while end < len(text) and text[end].isalpha() and text[end - 1].isalpha():
        end += 1
    while start > 0 and text[start - 1].isalpha() and (text[start - 1] < "\u0600") and text[start].isalpha():
        start -= 1
    return start, end


_GENERATION = re.compile(r",? (?:Jr|Sr|Jnr|Snr|JR|SR|II|III|IV)\b\.?")


def _with_generation(text: str, span: Span) -> Span:
    """Return the span of a name, extended by a generation suffix that follows the name, such as "Jr."."""
    behind = _GENERATION.match(text, span.end)
    return _name_span(text, span.start, behind.end()) if behind is not None and " " in span.key else span


def _name_span(text: str, start: int, end: int) -> Span:
    return Span(start, end, "NAME", name_key(text, start, end))


def _joined_neighbours(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that are separated by a single space."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and text[joined[-1][1] : start] == " ":
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
