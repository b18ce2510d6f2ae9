"""What is counted of shadow answers: the staged adapter's, which nobody sees, beside those that callers were given.

Numbers alone, by comparison and gateway process, apart from what a hold counts of users: no judgement rests on them.
What belongs here: counting, the files, and the figures. What does not: computing shadow answers (`shadow.py`).
"""

import math
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.ledger.log.checkpoints import write_atomically
from sovereign_pipeline.serving.flags.flag import Flag
from sovereign_pipeline.serving.rollout.output_checks import check

Outcome = Literal["compared", "lost", "dropped"]
"""`dropped`: callers needed the engine, or too many waited."""


class Sums(Frozen):
    """Numbers that add up."""

    def plus(self, other: Self) -> Self:
        others = dict(other)
        return type(self)(**{name: _sum(mine, others[name]) for name, mine in self})


class Checked(Sums):
    """What was counted of one arm's answers, of requests that both answered."""

    answers: int = 0
    empty: int = 0
    looping: int = 0
    other_script: int = 0
    """In another script than the request."""
    log_tokens: float = 0.0
    log_seconds: float = 0.0


class ShadowTally(Sums):
    """What was counted of a staged adapter's shadow answers."""

    drawn: int = 0
    """Requests that it was to answer, too."""
    lost: int = 0
    dropped: int = 0
    shadow: Checked = Checked()
    given: Checked = Checked()
    likeliest: int = 0
    """Pairs that were drawn without chance (temperature 0): only these can be alike."""
    equal: int = 0
    alike: float = 0.0
    """Sum over them: the share of words before the first that differs."""


@dataclass(frozen=True)
class AnswerOf:
    """A complete answer of either arm."""

    text: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Figure:
    """One thing that is counted of both."""

    name: str
    """A field of `Checked`, without `log_`."""
    shadow: str
    given: str

    @property
    def in_words(self) -> str:
        return self.name.replace("_", " ")


def compared(request: str, shadow: AnswerOf, given: AnswerOf, *, is_likeliest: bool) -> ShadowTally:
    """What a pair of answers adds; no text is kept. request: the newest message of the conversation."""
    words = (shadow.text.split(), given.text.split())
    longer = max(1, *map(len, words))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*words, strict=False)))
    return ShadowTally(
        shadow=_checked(request, shadow),
        given=_checked(request, given),
        likeliest=int(is_likeliest),
        equal=int(is_likeliest and shadow.text == given.text),
        alike=(same / longer if any(words) else 1.0) if is_likeliest else 0.0,
    )


class ShadowCounts:
    """Counts for one gateway process."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._tallies: dict[Path, ShadowTally] = {}
        self._changing = threading.Lock()

    def add(self, comparison: Path, more: ShadowTally) -> None:
        """comparison: where the counts of its hold lie."""
        path = shadow_directory(comparison) / f"{self._process}.json"
        with self._changing:
            self._tallies[path] = self._tallies.get(path, ShadowTally()).plus(more)

    def write(self) -> None:
        """Put what was counted on disk."""
        with self._changing:
            tallies = dict(self._tallies)
        for path, tally in tallies.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, tally.model_dump_json() + "\n")


def shadow_directory(comparison: Path) -> Path:
    """Where shadow answers are counted: beside what the hold counts of users, and never among it."""
    return comparison.with_name(f"{comparison.name}.shadow")


def read_shadow(comparison: Path, flag: Flag) -> ShadowTally | None:
    """What every gateway counted; None where the flag asks for no shadow and there was none.

    Raises IntegrityError for a file that is none of theirs.
    """
    total, files = ShadowTally(), sorted(shadow_directory(comparison).glob("*.json"))
    for path in files:
        try:
            total = total.plus(ShadowTally.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            raise IntegrityError(f"{path}: these counts of a shadow cannot be read.", "Remove the file.") from None
    return total if files or flag.is_shadowed else None


def likeness(tally: ShadowTally) -> str:
    """How alike the answers are."""
    if not tally.likeliest:
        return "no answer was drawn without chance"
    return f"{tally.equal} of {tally.likeliest} equal; {tally.alike / tally.likeliest:.0%} before the first other word"


def figures(tally: ShadowTally) -> Sequence[Figure]:
    """What is counted of both; empty where nothing was compared yet."""
    both = (tally.shadow, tally.given)
    if not tally.shadow.answers:
        return ()
    shares = ("empty", "looping", "other_script")
    found = [Figure(name, *(f"{getattr(each, name) / each.answers:.1%}" for each in both)) for name in shares]
    for name, form in (("tokens", ".0f"), ("seconds", ".2f")):
        means = [math.exp(getattr(each, f"log_{name}") / each.answers) for each in both]
        found.append(Figure(name, *(format(each, form) for each in means)))
    return found


def numbers(tally: ShadowTally) -> str:
    """How many, in words."""
    return f"{tally.shadow.answers} of {tally.drawn} requests compared, {tally.lost} lost, {tally.dropped} dropped"


def _checked(request: str, answer: AnswerOf) -> Checked:
    checks = check(request, answer.text)
    return Checked(
        answers=1,
        empty=int(checks.empty),
        looping=int(checks.looping),
        other_script=int(checks.other_script),
        log_tokens=math.log(max(answer.tokens, 1)),
        log_seconds=math.log(max(answer.seconds, 1e-3)),
    )


def _sum(one: object, other: object) -> object:
    return one.plus(other) if isinstance(one, Sums) and isinstance(other, Sums) else one + other  # type: ignore[operator]
