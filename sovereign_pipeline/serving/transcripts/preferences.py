"""Preferences out of rated answers: rows of a source, with the fields of a document.

Where one question got an answer with the thumb up and one with the thumb down, of one level, they make a pair; else an
answer and its thumb make a row of binary feedback (KTO). The caller's own text is put back, so that rows are scrubbed
as any source is; an answer that holds a placeholder of its own cannot be, and is left out.

What belongs here: these rows. What does not: opening transcripts (`reading.py`), and taking rows in (`taking.py`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import PLACEHOLDER
from sovereign_pipeline.serving.letters import language_of
from sovereign_pipeline.serving.rollout.feedback import Feedback, Thumb
from sovereign_pipeline.serving.scanning.placeholders import PuttingBack
from sovereign_pipeline.serving.transcripts.prompts import prompt_of
from sovereign_pipeline.serving.transcripts.records import Transcript
from sovereign_pipeline.split.similarity import normal_text

Role = Literal["preferences", "labels"]


class RatedRow(Frozen):
    """What both kinds of row have, under the names of a document's fields; the others are constants of the source."""

    id: str
    case: str
    """One question: its rows never cross the split."""
    date: str
    classification: str
    language: str
    request: str
    response: str


class PairRow(RatedRow):
    rejected: str


class LabelRow(RatedRow):
    label: bool


@dataclass
class Made:
    """The rows, and what was left out, by the reason."""

    rows: list[PairRow] | list[LabelRow]
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Rated:
    transcript: Transcript
    prompt: str
    answer: str
    thumb: Thumb


def preferences_of(transcripts: Iterable[Transcript], said: Mapping[str, Feedback], role: Role) -> Made:
    """role: what a source of these rows is."""
    left_out: Counter[str] = Counter()
    by_question: dict[str, list[_Rated]] = {}
    for transcript in transcripts:
        feedback = said.get(transcript.given)
        if feedback is None:
            left_out["not rated"] += 1
            continue
        rated, why = _rated(transcript, feedback)
        if rated is None:
            left_out[why] += 1
            continue
        by_question.setdefault(normal_text(rated.prompt), []).append(rated)
    if role == "labels":
        return Made([_label(each, of[0]) for of in by_question.values() for each in of], left_out)
    pairs: list[PairRow] = []
    for of in by_question.values():
        made = list(_pairs(of))
        pairs += made
        left_out["no answer with the other thumb"] += len(of) - 2 * len(made)
    return Made(pairs, +left_out)


def _rated(transcript: Transcript, feedback: Feedback) -> tuple[_Rated | None, str]:
    prompt = prompt_of(transcript)
    if prompt is None:
        return None, "a conversation of several turns"
    prompt, answer = (_put_back(text, transcript.originals) for text in (prompt, transcript.answer.strip()))
    if not answer:
        return None, "an empty answer"
    if any(PLACEHOLDER.search(normalise(text).text) for text in (prompt, answer)):
        return None, "a placeholder that stands for nobody"
    return _Rated(transcript, prompt, answer, feedback.thumb), ""


def _put_back(text: str, originals: Mapping[str, str]) -> str:
    putting = PuttingBack(dict(originals))
    return putting.feed(text) + putting.end()


def _pairs(of: Sequence[_Rated]) -> Iterator[PairRow]:
    """One good and one bad answer each, in the order in which they were given; two that are equal make none, nor do two
    of adapters of different levels: a row has one level, and here nobody knows which is the higher."""
    for level in dict.fromkeys(each.transcript.classification for each in of):
        at_level = [each for each in of if each.transcript.classification == level]
        good, bad = ([each for each in at_level if each.thumb == thumb] for thumb in ("up", "down"))
        for chosen, rejected in zip(good, bad, strict=False):
            if normal_text(chosen.answer) != normal_text(rejected.answer):
                yield PairRow(**_facts(chosen, of[0]), rejected=rejected.answer)


def _label(rated: _Rated, first: _Rated) -> LabelRow:
    return LabelRow(**_facts(rated, first), label=rated.thumb == "up")


def _facts(rated: _Rated, first: _Rated) -> dict[str, str]:
    """first: of the same question, which names its case. A digest of the question would let it be guessed."""
    transcript = rated.transcript
    return {
        "id": f"rated-{transcript.given[:16]}",
        "case": f"asked-{first.transcript.given[:16]}",
        "date": transcript.at.date().isoformat(),
        "classification": transcript.classification,
        "language": language_of(rated.prompt),
        "request": rated.prompt,
        "response": rated.answer,
    }
