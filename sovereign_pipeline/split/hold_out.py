"""Which components are held out: a deterministic choice by seed that counts letters, not components.

What belongs here: the choice. What does not: how components come about (`grouping.py`).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.split.grouping import Member

MIN_SHARE = 0.10
OVERSHOOT = 0.02
"""How far above the asked share (in shares of the rows) a component may lift the held-out side before it is skipped."""


def hold_out(members: Sequence[Member], component_of: Sequence[int], share: float, seed: int) -> set[int]:
    """The components that are held out whole: at least max(share, 10 %) of the letters.

    Preference documents go with their component. Components of preference documents alone are then chosen in the same
    way until the same share of all preference documents is held out, as far as whole components allow while one stays
    for training. Raises InputError when the letters cannot be on both sides.
    """
    letters: Counter[int] = Counter()
    preferences: Counter[int] = Counter()
    key_of: dict[int, str] = {}
    for member, component in zip(members, component_of, strict=True):
        (preferences if member.is_preference else letters)[component] += 1
        key_of[component] = min(key_of.get(component, member.id), member.id)
    if len(letters) < 2:
        raise InputError(_cannot_split(letters))
    order = {component: _position(seed, key) for component, key in key_of.items()}
    share = max(share, MIN_SHARE)
    held = choose(letters, needed(share, letters.total()), order)

    alone = Counter({component: rows for component, rows in preferences.items() if component not in letters})
    missing = needed(share, preferences.total()) - sum(preferences[component] for component in held)
    if alone and missing > 0:
        chosen = choose(alone, min(missing, alone.total()), order)
        if preferences.keys() - held - chosen:
            held |= chosen
    return held


def needed(share: float, rows: int) -> int:
    """The smallest number of rows that is at least this share of them."""
    return math.ceil(share * rows - 1e-9)


def choose(rows: Counter[int], target: int, order: dict[int, str]) -> set[int]:
    """Components that together hold at least `target` rows and, where that can be, little more.

    In the seeded order a component is taken until the target is reached, and skipped when it would lift the total more
    than OVERSHOOT of all rows above the target. Only if those that fit do not suffice, the smallest skipped one is
    taken too, and what has become superfluous is given back, largest first.
    """
    tolerated = target + max(1, math.floor(OVERSHOOT * rows.total()))
    taken: list[int] = []
    skipped: list[int] = []
    total = 0
    for component in sorted(rows, key=order.__getitem__):
        if total >= target:
            return set(taken)
        if total + rows[component] > tolerated:
            skipped.append(component)
            continue
        taken.append(component)
        total += rows[component]
    if total >= target:
        return set(taken)
    smallest = min(skipped, key=lambda component: (rows[component], order[component]))
    taken.append(smallest)
    total += rows[smallest]
    for component in sorted(taken, key=lambda component: (-rows[component], order[component])):
        if total - rows[component] >= target:
            taken.remove(component)
            total -= rows[component]
    return set(taken)


def _position(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _cannot_split(letters: Counter[int]) -> str:
    if not letters:
        return "The corpus holds no letter, so nothing can be held out. Add a source with the role 'letters'."
    return (
        f"All {letters.total()} letters of the corpus are tied together (same case, links, near-duplicates or, where "
        f"asked, author), so no slice can be held out without a leak. Add letters of other matters, correct case "
        f"numbers and links in the sources, or in the recipe's `split` set by_author: false or raise "
        f"near_duplicate_jaccard."
    )
