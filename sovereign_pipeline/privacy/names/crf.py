"""Train and run a conditional random field (CRF) that finds names by features of words and of the words beside them."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline.privacy.names.lexicon import ARABIC, kinds_of

Found = tuple[int, int, str]
"""Half-open span of a text, and the label of the entity there."""
OUTSIDE = "O"
PERSON = "PERS"

# --- features ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile("[^\\W\\d_](?:[^\\W\\d_]|[\u0640\u064b-\u065f\u0670]|['’-](?=[^\\W\\d_]))*|\\d+|\\S")
_ENDS = ".!?؟\n"
_MARKS = re.compile("[\u0640\u064b-\u065f\u0670]")
_ONE_FORM = str.maketrans("أإآٱىةؤئ", "اااايهوي")
_PREFIXES = re.compile("(?:[وف]?(?:[بك]?ال|لل|ل|ب|ك)|[وف])(?=[ء-ي]{2})")
_ARABIC = re.compile("[ء-ي]")
_WINDOW = 2
LONGEST = 200  # words in one sequence


def folded(word: str) -> str:
    """Return a word in lower case. An Arabic word loses its vowel marks, all forms of alef become one letter, and
    letters that writers often confuse at the end of a word become equal."""
    return _MARKS.sub("", word).translate(_ONE_FORM).casefold()


_LISTS = {
    name: frozenset(map(folded, ARABIC[name]))
    for name in (
        *("given", "everyday_given", "surely_given", "tribes", "kinship", "titles", "roles", "offices", "cues"),
        *("reporting", "meeting", "place_heads", "nouns", "stop_words", "keep"),
    )
}


@lru_cache(maxsize=1 << 16)
def _features_of(word: str) -> tuple[str, ...]:
    """Return the features of a single word: the word, its stem, its first and last letters, its groups of three
    letters, its shape, and the word lists that contain it with or without its prefix. The features are hashed, so that
    a model's file contains no words of the texts that it was trained on."""
    whole = folded(word)
    found = [f"word {whole}", "shape " + re.sub(r"(.)\1+", r"\1", "".join(map(_shape, word)))[:6]]
    found += [f"first {whole[:size]}" for size in range(1, min(len(whole), 4) + 1)]
    found += [f"last {whole[-size:]}" for size in range(1, min(len(whole), 4) + 1)]
    padded = f" {whole} "
    found += [f"three {padded[at : at + 3]}" for at in range(len(padded) - 2)]
    if not _ARABIC.match(whole):
        found += [f"kind {kind}" for kind in kinds_of(word)]
    else:
        stem = _PREFIXES.sub("", whole, count=1)
        found += [f"stem {stem}", f"prefix {whole[: len(whole) - len(stem)]}"]
        forms = {"": whole, "-": whole[1:] if whole[0] in "وفبلك" else "", "*": stem if stem != whole else ""}
        found += [f"list {name}{mark}" for mark, form in forms.items() for name in _LISTS if form in _LISTS[name]]
    return tuple(sorted({blake2b(each.encode(), digest_size=6).hexdigest() for each in found}))


def _shape(letter: str) -> str:
    if letter.isdigit():
        return "0"
    return "X" if letter.isupper() else "x" if letter.isalpha() else letter


def _sequences(text: str) -> Iterator[list[re.Match[str]]]:
    """Yield the words and signs of each sentence of a text."""
    words: list[re.Match[str]] = []
    behind = 0
    for word in _TOKEN.finditer(text):
        if words and ("\n" in text[behind : word.start()] or len(words) == LONGEST):
            yield words
            words = []
        words.append(word)
        behind = word.end()
        if word.group() in _ENDS:
            yield words
            words = []
    if words:
        yield words


def _features(words: Sequence[re.Match[str]]) -> list[list[str]]:
    """Return the features of each word: its own, and those of the _WINDOW words before and behind."""
    own = [_features_of(word.group()) for word in words]
    found = []
    for place in range(len(words)):
        here = list(own[place])
        for step in (*range(-_WINDOW, 0), *range(1, _WINDOW + 1)):
            at = place + step
            here += [f"{step}{each}" for each in own[at]] if 0 <= at < len(words) else [f"{step} none"]
        found.append(here)
    return found


# --- training ---------------------------------------------------------------------------------------------------------

PASSES = 100
_L1, _L2 = 0.1, 0.2  # penalties; about the best of six pairs on ANERcorp's second half


def train_crf(
    sentences: Iterable[tuple[str, Sequence[Found]]], file: Path, report: Callable[[int, int, float], None]
) -> None:
    """Train a CRF by L-BFGS and write it to a file. The same sentences always give the same file.

    Args:
        sentences: each text with its entities, which do not overlap.
        report: called after each pass with the pass's number, the maximum of passes, and the loss.
    """
    import pycrfsuite

    class Trainer(pycrfsuite.Trainer):  # type: ignore[misc]
        def message(self, log: str) -> None:
            if self.logparser.feed(log) == "iteration":
                done = self.logparser.last_iteration
                report(done["num"], PASSES, done["loss"])

    trainer = Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": _L1, "c2": _L2, "max_iterations": PASSES, "feature.possible_transitions": True})
    for text, entities in sentences:
        for words in _sequences(text):
            trainer.append(_features(words), [_label(word, entities) for word in words])
    trainer.train(str(file))


def _label(word: re.Match[str], entities: Sequence[Found]) -> str:
    for start, end, label in entities:
        if start < word.end() and word.start() < end:
            return f"{'B' if word.start() <= start else 'I'}-{label}"
    return OUTSIDE


# --- running ----------------------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """A word or sign of a text, and the probabilities that it belongs to a person's name."""

    start: int
    end: int
    person: float
    begins: float
    """Probability that the word begins a name."""
    other: str
    """The most probable label, such as B-LOC, if that is not a person's; "" otherwise."""


class ConditionalRandomField:
    """A trained CRF."""

    def __init__(self, file: Path) -> None:
        """Raises ValueError or OSError if the file is no CRF."""
        import pycrfsuite

        self._tagger: Any = pycrfsuite.Tagger()
        self._tagger.open(str(file))
        self.labels = tuple(self._tagger.labels())

    def scored(self, text: str) -> list[list[Scored]]:
        """Return the words of each sentence of a text."""
        return [self._scored(words) for words in _sequences(text)]

    def _scored(self, words: Sequence[re.Match[str]]) -> list[Scored]:
        best = self._tagger.tag(_features(words))
        found = []
        for place, word in enumerate(words):
            begins, inside = (
                self._tagger.marginal(label, place) if label in self.labels else 0.0
                for label in (f"B-{PERSON}", f"I-{PERSON}")
            )
            other = "" if best[place].endswith(PERSON) or best[place] == OUTSIDE else best[place]
            found.append(Scored(*word.span(), begins + inside, begins, other))
        return found


def entities_in(sentences: Iterable[Sequence[Scored]], least: float) -> list[Found]:
    """Return the entities of a scored text, in reading order.

    Args:
        least: minimum probability of a word of a person's name.
    """
    found: list[Found] = []
    for words in sentences:
        before = ""
        for word in words:
            is_person = word.person >= least
            label = PERSON if is_person else word.other[2:]
            begins = word.begins > word.person / 2 if is_person else word.other.startswith("B")
            if label and label == before and not begins:
                found[-1] = (found[-1][0], word.end, label)
            elif label:
                found.append((word.start, word.end, label))
            before = label
    return found
