"""Assign every document to training or held-out: tie related documents, choose groups to hold out, and check every
pair. If related documents are on different sides, tie them and choose again."""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.split.contained_texts import (
    Boilerplate,
    CrossingTexts,
    OwnShingles,
    contained_pairs,
    crossing_texts,
)
from sovereign_pipeline.split.features import ROUNDING, Features, Ties, paraphrase_pairs
from sovereign_pipeline.split.near_duplicates import (
    NearDuplicates,
    crossing_near_duplicates,
    near_duplicates,
)
from sovereign_pipeline.split.pieces import Pieces, in_pieces
from sovereign_pipeline.split.shingles import Rarity

MIN_SHARE = 0.10
NO_PAIRS = np.empty((0, 2), np.int64)
OVERSHOOT = 0.02
"""Share of all rows by which the held-out rows may exceed the requested number. A component that would exceed this
limit is skipped."""


@dataclass(frozen=True)
class CrossingCheck:
    """The result of the exhaustive check for ties between training and held-out documents."""

    found: dict[str, int]
    """Number of ties between the two sides, by kind of tie."""
    near_duplicates: NDArray[np.int64]
    """(n, 2) array of document numbers. Each row is a pair of near-duplicates, one held out and one in training."""
    compared: int
    """Number of near-duplicate candidates that were compared in full."""
    texts: CrossingTexts
    pieces: Pieces
    """Texts of held-out documents whose pieces are in training documents."""


@dataclass(frozen=True)
class Assignment:
    """A choice of documents to hold out, with the ties between documents and the final check of the choice."""

    is_held_out: NDArray[np.bool_]
    """By document number: True if held out."""
    component_of: NDArray[np.int64]
    """By document number: the number of the first document in its component."""
    similar: NearDuplicates
    contained: int
    """Number of document pairs in which one document contains a text of the other. Copies of a long text count as one
    text."""
    is_boilerplate: NDArray[np.bool_]
    """By document number: True if a long text of the document is boilerplate. Such documents are held out last."""
    paraphrases: int
    late_pairs: int
    """Number of near-duplicates or contained texts that only the exhaustive check found."""
    in_pieces: int
    """Number of documents that are tied to others, or held out last, because other documents contain them in pieces."""
    check: CrossingCheck
    """The final check, which found no crossing pair."""
    cut: date | None
    """The cut day: every document from this day on is held out. None unless the split is by date."""


def assign(features: Features, recipe: Split, scratch: Path, progress: Progress) -> Assignment:
    """Tie documents, choose groups to hold out, check the choice, and return the choice. If the check finds a pair that
    MinHash missed, tie the pair and choose again.

    If training documents contain pieces of a held-out document, later rounds hold out the document's component only if
    other components do not suffice. If the document is held out nevertheless, or if the split is by date, it is tied to
    the documents that contain its pieces. The loop ends, because each round joins two components or adds a component
    that is held out last. Raises InputError if one side would get no documents with the role `letters`.
    """
    columns = features.columns
    rarity = Rarity.of(scratch, columns.shingles)
    similar = near_duplicates(columns.shingles, rarity, recipe.near_duplicate_jaccard, scratch, progress)
    progress("looking for texts that other texts contain")
    boilerplate = Boilerplate.of(scratch, columns.texts)
    contained, is_boilerplate = _contained(features, boilerplate)
    tied = ties_by_cause(features, similar.pairs, contained)
    paraphrased = NO_PAIRS
    if recipe.paraphrases and features.vectors is not None:
        paraphrased = paraphrase_pairs(features.vectors, features.vectors, recipe.paraphrases.cosine - ROUNDING)
        tied["paraphrase"] = paraphrased
    tied["text in pieces"] = NO_PAIRS
    paraphrases = int((paraphrased[:, 0] < paraphrased[:, 1]).sum())
    late_pairs = 0
    is_last, pieces = is_boilerplate.copy(), set[int]()
    while True:
        component_of = components(len(columns), (), tied.values())
        share, cut = recipe.held_out_share, None
        group = partial(largest_group, ~columns.is_preference, tied)
        if recipe.by_date:
            is_held_out, cut = hold_out_newest(columns.days, columns.is_preference, component_of, share, group)
        else:
            is_held_out = hold_out(columns.ids, columns.is_preference, component_of, share, recipe.seed, is_last, group)
        progress("checking every pair across the split for near-duplicates and contained texts")
        check = _check_crossing(features, is_held_out, rarity, boilerplate, recipe, scratch)
        late = len(check.near_duplicates) + len(check.texts.documents)
        if not late and not len(check.pieces.documents):
            return Assignment(
                is_held_out,
                component_of,
                similar,
                len(contained),
                is_boilerplate,
                paraphrases,
                late_pairs,
                len(pieces),
                check,
                cut,
            )
        in_training = check.pieces.documents[:, 0]
        pieces.update(in_training.tolist())
        is_tied = is_last[in_training] | recipe.by_date
        is_last |= np.isin(component_of, component_of[in_training])
        for cause, pairs in (
            ("near-duplicate", check.near_duplicates),
            ("contained text", check.texts.documents),
            ("text in pieces", check.pieces.documents[is_tied]),
        ):
            tied[cause] = np.concatenate((tied[cause], pairs))
        late_pairs += late


def _contained(features: Features, boilerplate: Boilerplate) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return an (n, 2) array of document pairs in which one document contains a text of the other. Also return a mask
    of the documents with a text that is boilerplate."""
    texts = features.columns.texts.distinct()
    own = OwnShingles.of(texts, boilerplate)
    pairs = texts.documents[contained_pairs(texts, own)]
    is_boilerplate = np.zeros(len(features.columns), np.bool_)
    is_boilerplate[texts.documents[own.are_boilerplate(texts)]] = True
    return np.unique(pairs, axis=0), is_boilerplate


def _check_crossing(
    features: Features,
    is_held_out: NDArray[np.bool_],
    rarity: Rarity,
    boilerplate: Boilerplate,
    recipe: Split,
    scratch: Path,
) -> CrossingCheck:
    shingles, texts = features.columns.shingles, features.columns.texts
    held, train = np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)
    near = crossing_near_duplicates(
        shingles.subset(held), shingles.subset(train), rarity, recipe.near_duplicate_jaccard, scratch
    )
    found = {
        kind: int(np.intersect1d(ties.on(is_held_out), ties.on(~is_held_out)).size)
        for kind, ties in features.ties.items()
        if kind != "author" or recipe.by_author
    }
    found["near_duplicate"] = len(near.pairs)
    is_text_held_out = is_held_out[texts.documents]
    held_texts, other = (texts.subset(np.flatnonzero(mask)) for mask in (is_text_held_out, ~is_text_held_out))
    in_texts = crossing_texts(held_texts, other, boilerplate)
    found["contained_text"] = len(in_texts.documents)
    pieces = in_pieces(held_texts, other, features.memory)
    found["text_in_pieces"] = np.unique(pieces.documents[:, 0]).size
    if recipe.paraphrases and features.vectors is not None:
        vectors = features.vectors
        found["paraphrase"] = len(paraphrase_pairs(vectors[held], vectors[train], recipe.paraphrases.cosine))
    pairs = np.column_stack((held[near.pairs[:, 0]], train[near.pairs[:, 1]]))
    return CrossingCheck(found, pairs, near.compared, in_texts, pieces)


def components(count: int, ties: Iterable[Ties], similar: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return, for each of `count` documents, the number of the first document in its component. `similar`: further
    ties, as (n, 2) arrays of document numbers."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([NO_PAIRS, *map(_chain, ties), *similar])
    graph = coo_array((np.ones(len(edges), np.bool_), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first, number = np.unique(label, return_index=True, return_inverse=True)
    return first[number]


def ties_by_cause(
    features: Features, near_duplicates: NDArray[np.int64], contained: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Return a dict from kind of tie to an (n, 2) array of pairs of tied documents. Equal texts count as contained
    texts."""
    tied = {kind: _chain(each) for kind, each in features.ties.items()}
    contained = np.concatenate((contained, tied.pop("equal_text")))
    return {**tied, "near-duplicate": near_duplicates, "contained text": contained}


def _chain(ties: Ties) -> NDArray[np.int64]:
    """Return an (n, 2) array of pairs of documents. The pairs connect all documents with the same key in a chain."""
    order = np.argsort(ties.keys, kind="stable")
    rows, keys = ties.rows[order], ties.keys[order]
    is_same = keys[1:] == keys[:-1]
    return np.column_stack((rows[:-1][is_same], rows[1:][is_same]))


@dataclass(frozen=True)
class LargestGroup:
    """The largest group of letters that must stay together, with the kinds of ties that join its letters."""

    letters: int
    without: dict[str, int]
    """For each kind of tie in the group, the number of letters that the corpus's largest group would have without this
    kind of tie. The kind whose removal would help most is first."""

    def __str__(self) -> str:
        causes = ", ".join(
            f"{cause} (largest group without it: {letters:,})" for cause, letters in self.without.items()
        )
        return f"The largest group has {counted(self.letters, 'letter')}, joined by {causes or 'nothing'}."

    @property
    def hint(self) -> str:
        """Return advice on the kinds of ties whose removal would make the group smaller. If there are none, return
        advice on all kinds in the group."""
        helping = [cause for cause, left in self.without.items() if left < self.letters] or [*self.without]
        remedies = [_REMEDIES[cause] for cause in helping]
        return f"Add letters about other matters; {'; '.join(dict.fromkeys(remedies)) or 'see the data card'}."


_REMEDIES = {
    "case": "correct the case numbers in the sources, or set case_from_row if they do not distinguish matters",
    "link": "correct the column of links",
    "author": "set split.by_author: false",
    "contained text": "exclude letters that contain another letter's text, and standard letters",
    "near-duplicate": "exclude versions of one letter, or raise split.near_duplicate_jaccard",
    "paraphrase": "raise split.paraphrases.cosine",
    "text in pieces": "exclude letters that consist of standard sentences",
}


def largest_group(is_letter: NDArray[np.bool_], tied: Mapping[str, NDArray[np.int64]]) -> LargestGroup:
    """Return the largest group of letters. `tied`: pairs of tied documents as an (n, 2) array, by kind of tie."""

    def largest(kinds: Iterable[NDArray[np.int64]]) -> tuple[NDArray[np.int64], int]:
        component_of = components(is_letter.size, (), kinds)
        return component_of, int(np.bincount(component_of[is_letter], minlength=1).argmax())

    component_of, group = largest(tied.values())
    without = {}
    for cause, pairs in tied.items():
        if (component_of[pairs[:, 0]] == group).any():
            rest, other = largest(each for kind, each in tied.items() if kind != cause)
            without[cause] = int((rest[is_letter] == other).sum())
    by_strength = dict(sorted(without.items(), key=lambda each: each[1]))
    return LargestGroup(int((component_of[is_letter] == group).sum()), by_strength)


def hold_out(
    ids: Iterable[str],
    is_preference: NDArray[np.bool_],
    component_of: NDArray[np.int64],
    share: float,
    seed: int,
    is_last_choice: NDArray[np.bool_] | None = None,
    group: Callable[[], LargestGroup] | None = None,
) -> NDArray[np.bool_]:
    """Return a mask of held-out documents. Whole components are held out until they contain at least max(share, 10 %)
    of the `letters` documents.

    Preference documents follow their component. If too few of them are then held out, components that consist of
    preference documents are held out too, until the same share of all preference documents is reached. That share may
    be missed, because components stay whole and one preference document must be left for training. Components with a
    document in `is_last_choice` are held out only if other components do not suffice. Raises InputError if one side
    would get no `letters` document. `group`: function that returns the largest group, for the error message.
    """
    of_component, component = np.unique(component_of, return_inverse=True)
    count = of_component.size
    letters, preferences = (np.bincount(component[mask], minlength=count) for mask in (~is_preference, is_preference))
    if np.count_nonzero(letters) < 2:
        raise _cannot_split(int(letters.sum()), group)
    is_last = np.zeros(count, np.bool_)
    if is_last_choice is not None:
        is_last[component[is_last_choice]] = True
    order = _seeded_order(ids, component, is_last, seed)
    share = max(share, MIN_SHARE)
    is_held = np.zeros(count, np.bool_)
    is_held[choose(letters, needed(share, int(letters.sum())), order)] = True

    alone = np.where(letters > 0, 0, preferences)
    missing = needed(share, int(preferences.sum())) - int(preferences[is_held].sum())
    if alone.any() and missing > 0:
        chosen = is_held.copy()
        chosen[choose(alone, min(missing, int(alone.sum())), order)] = True
        if preferences[~chosen].any():
            is_held = chosen
    return is_held[component]


def _seeded_order(
    ids: Iterable[str], component: NDArray[np.int64], is_last: NDArray[np.bool_], seed: int
) -> NDArray[np.int64]:
    """Return all components, sorted by a hash of the seed and the component's smallest id. Components in `is_last`
    follow all other components."""
    least: list[str | None] = [None] * is_last.size
    for id, number in zip(ids, component.tolist(), strict=True):
        known = least[number]
        if known is None or id < known:
            least[number] = id
    hashes = (hashlib.sha256(f"{seed}:{id}".encode()).digest() for id in least)
    return np.lexsort((np.fromiter(hashes, "S32", is_last.size), is_last))


def hold_out_newest(
    days: NDArray[np.int64],
    is_preference: NDArray[np.bool_],
    component_of: NDArray[np.int64],
    share: float,
    group: Callable[[], LargestGroup] | None = None,
) -> tuple[NDArray[np.bool_], date]:
    """Return a mask of held-out documents, and the cut day. A component is held out if it has a document that is dated
    on the cut day or later.

    The cut day is the latest day with which at least max(share, 10 %) of the `letters` documents are held out. Every
    training document is therefore older than the cut day. Older documents of a held-out component are held out, too.
    The same day applies to preference documents. `days`: ordinal of each document's date. Raises InputError if no
    `letters` document would be left for training. `group`: as in `hold_out`.
    """
    newest = np.zeros(component_of.size, np.int64)
    np.maximum.at(newest, component_of, days)
    reaches = newest[component_of]
    of_letters = np.sort(reaches[~is_preference])[::-1]
    if of_letters.size == 0:
        raise _cannot_split(0, group)
    cut = int(of_letters[needed(max(share, MIN_SHARE), of_letters.size) - 1])
    if of_letters[-1] >= cut:
        raise InputError(
            f"By date, all {of_letters.size:,} letters of the corpus would be held out: each is dated "
            f"{date.fromordinal(cut)} or later, or tied to such a letter."
            f"{f' {group()}' if group is not None else ''}",
            "Add older letters about other matters, or set split.by_date: false in the recipe.",
        )
    return reaches >= cut, date.fromordinal(cut)


def needed(share: float, rows: int) -> int:
    """Return the smallest number of rows that is at least the share `share` of `rows`."""
    return math.ceil(share * rows - 1e-9)


def choose(rows: NDArray[np.int64], target: int, order: NDArray[np.int64]) -> list[int]:
    """Choose components that together have at least `target` rows and, if possible, only slightly more.

    Components are taken in the seeded order until the target is reached. A component that would exceed the target by
    more than OVERSHOOT of all rows is skipped. If the target is not reached, the smallest skipped component is added,
    and unnecessary components are dropped again, largest first.

    Args:
        rows: number of rows of each component. A component without rows is never returned.
        order: the components in their seeded order.
    """
    tolerated = target + max(1, math.floor(OVERSHOOT * int(rows.sum())))
    order = order[rows[order] > 0]
    taken: list[int] = []
    skipped: list[tuple[int, int]] = []
    total = 0
    for place, size in enumerate(rows[order].tolist()):
        if total >= target:
            break
        if total + size > tolerated:
            skipped.append((size, place))
            continue
        taken.append(place)
        total += size
    if total < target:
        size, place = min(skipped)
        taken.append(place)
        total += size
        sizes = rows[order].tolist()
        for place in sorted(taken, key=lambda place: (-sizes[place], place)):
            if total - sizes[place] >= target:
                taken.remove(place)
                total -= sizes[place]
    return [int(component) for component in order[taken]]


def _cannot_split(letters: int, group: Callable[[], LargestGroup] | None) -> InputError:
    if not letters:
        return InputError("The corpus has no letter to hold out.", "Add a source with the role 'letters'.")
    message = f"All {letters:,} letters of the corpus are tied together, so none can be held out without a leak."
    if group is None:
        return InputError(message)
    found = group()
    return InputError(f"{message} {found}", found.hint)
