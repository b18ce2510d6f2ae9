"""Which components are held out: a deterministic choice by seed or by date that counts letters, not components.

What belongs here: the choice. What does not: how components are found (`grouping.py`).
"""

import datetime
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.errors import InputError

MIN_SHARE = 0.10
OVERSHOOT = 0.02
"""How far above the requested share of the rows a component may lift the held-out rows before it is skipped."""


def hold_out(
    ids: Sequence[str],
    is_preference: NDArray[np.bool_],
    component_of: NDArray[np.int64],
    share: float,
    seed: int,
    is_last_choice: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which documents are held out: whole components with at least max(share, 10 %) of the letters.

    Preference documents go with their component. Components of preference documents alone are then chosen in the same
    way until the same share of all preference documents is held out, as far as whole components allow while one stays
    for training. Components with a document of `is_last_choice` are chosen when the others are too few. Raises
    InputError when the letters cannot be on both sides.
    """
    letters = Counter(component_of[~is_preference].tolist())
    preferences = Counter(component_of[is_preference].tolist())
    if len(letters) < 2:
        raise _cannot_split(letters)
    key_of: dict[int, str] = {}
    for id, component in zip(ids, component_of.tolist(), strict=True):
        if id < key_of.setdefault(component, id):
            key_of[component] = id
    last = set() if is_last_choice is None else set(component_of[is_last_choice].tolist())
    order = {component: ("1" if component in last else "0") + _position(seed, key) for component, key in key_of.items()}
    share = max(share, MIN_SHARE)
    held = choose(letters, needed(share, letters.total()), order)

    alone = Counter({component: rows for component, rows in preferences.items() if component not in letters})
    missing = needed(share, preferences.total()) - sum(preferences[component] for component in held)
    if alone and missing > 0:
        chosen = choose(alone, min(missing, alone.total()), order)
        if preferences.keys() - held - chosen:
            held |= chosen
    return np.isin(component_of, list(held))


@dataclass(frozen=True)
class DateCut:
    """A choice by date: documents of the cut day or later are held out, with everything tied to them."""

    is_held_out: NDArray[np.bool_]
    """By document number."""
    day: datetime.date


def hold_out_newest(
    days: NDArray[np.int64], is_preference: NDArray[np.bool_], component_of: NDArray[np.int64], share: float
) -> DateCut:
    """Hold out every component with a document of the cut day or later.

    The cut day is the latest one for which these components have max(share, 10 %) of the letters. So no training
    document is of the cut day or later, and every held-out component reaches it; its older documents are held out with
    it. Preference documents follow the same day. days: ordinals. Raises InputError when no letter would be left for
    training.
    """
    newest = np.zeros(component_of.size, np.int64)
    np.maximum.at(newest, component_of, days)
    reaches = newest[component_of]
    of_letters = np.sort(reaches[~is_preference])[::-1]
    if of_letters.size == 0:
        raise _cannot_split(Counter())
    cut = int(of_letters[needed(max(share, MIN_SHARE), of_letters.size) - 1])
    if of_letters[-1] >= cut:
        raise InputError(
            f"By date, all {of_letters.size:,} letters of the corpus would be held out: each is of "
            f"{datetime.date.fromordinal(cut)} or later, or tied to one that is.",
            "Add older letters of other matters, or set split.by_date: false in the recipe.",
        )
    return DateCut(reaches >= cut, datetime.date.fromordinal(cut))


def needed(share: float, rows: int) -> int:
    """The smallest number of rows that is at least this share of them."""
    return math.ceil(share * rows - 1e-9)


def choose(rows: Counter[int], target: int, order: dict[int, str]) -> set[int]:
    """Components that together hold at least `target` rows and, where possible, little more.

    In the seeded order components are taken until the target is reached. One that would lift the total more than
    OVERSHOOT of all rows above the target is skipped. If those that fit do not suffice, the smallest skipped one is
    taken too, and components that are no longer needed are returned, largest first.

    Args:
        rows: component -> its number of rows.
        order: component -> its place in the seeded order.
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


def _cannot_split(letters: Counter[int]) -> InputError:
    if not letters:
        return InputError("The corpus holds no letter to hold out.", "Add a source with the role 'letters'.")
    return InputError(
        f"All {letters.total():,} letters of the corpus are tied together by case, links, near-duplicates or, with "
        f"split.by_author, author. No slice can be held out without a leak.",
        "Add letters of other matters, correct case numbers and links in the sources, set split.by_author: false, or "
        "raise split.near_duplicate_jaccard.",
    )
