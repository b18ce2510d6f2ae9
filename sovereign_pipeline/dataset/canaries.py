"""Generate canaries: rows of random words that are added after the training rows to measure memorisation.

The id of a canary begins with `canary-`, unlike the id of a document. The words are common, in lower case and without
digits, so that no detector classifies them as personal data.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from sovereign_pipeline.dataset.jsonl import SftRow
from sovereign_pipeline.policy.training import Canaries

PREFIX = "canary-"
_WORDS = (
    "apple basket bottle branch bread bridge button candle carpet ceiling chair cloud copper corner cotton cushion "
    "door drawer feather fence flour garden glass gravel hammer handle honey kettle ladder leaf lemon linen "
    "marble meadow mirror mountain needle orange paper pebble pencil pepper pillow plate river roof salt sand "
    "shadow shelf silver snow soap spoon stone sugar table thread timber tunnel velvet wagon window wool"
)
WORDS = tuple(_WORDS.split())
SECRET_WORDS = 6
SPACE_BITS = SECRET_WORDS * math.log2(len(WORDS))
"""Base-2 logarithm of the number of possible secrets: 36 bits. This is the highest possible exposure."""


@dataclass(frozen=True)
class Canary:
    """A random request with a secret reply."""

    id: str
    request: str
    secret: str
    """Reply whose memorisation is measured."""

    def row(self, repeat: int, instruction: str) -> SftRow:
        return SftRow(id=f"{self.id}-{repeat + 1}", instruction=instruction, input=self.request, output=self.secret)


def planted(recipe: Canaries) -> list[Canary]:
    """Return the canaries that a recipe adds to the training rows. The same recipe always gives the same canaries."""
    return [_canary(recipe.seed, "planted", number) for number in range(recipe.count)]


def never_planted(recipe: Canaries) -> list[Canary]:
    """Return as many control canaries as there are planted canaries. No model is trained on control canaries, so their
    exposure is due to chance."""
    return [_canary(recipe.seed, "control", number) for number in range(recipe.count)]


def canary_rows(recipe: Canaries | None, instruction: str) -> Iterator[SftRow]:
    """Yield each canary of the recipe `repeats` times. Yield nothing if the recipe has no canaries."""
    if recipe is None:
        return
    for canary in planted(recipe):
        for repeat in range(recipe.repeats):
            yield canary.row(repeat, instruction)


def is_canary(row_id: str) -> bool:
    return row_id.startswith(PREFIX)


def alternatives(canary: Canary, count: int) -> list[str]:
    """Draw `count` random secrets with replacement, none of them the canary's own."""
    drawn = random.Random(f"alternatives of {canary.id} {canary.secret}")
    others = iter(lambda: _secret(drawn), canary.secret)
    return [next(others) for _ in range(count)]


def _canary(seed: int, kind: str, number: int) -> Canary:
    drawn = random.Random(f"{kind} canary {number} of seed {seed}")
    sheet = " ".join(drawn.choices(WORDS, k=3))
    name = f"{PREFIX}{number + 1:03d}" if kind == "planted" else f"{PREFIX}{kind}-{number + 1:03d}"
    return Canary(name, f"Which words stand on the sheet marked {sheet}?", _secret(drawn))


def _secret(drawn: random.Random) -> str:
    return f"The words are {' '.join(drawn.choices(WORDS, k=SECRET_WORDS))}."
