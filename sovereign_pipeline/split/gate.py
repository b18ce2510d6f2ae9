"""Evaluate the gate no_crossing_groups: compare a split's files again, without using the proof."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN, has_selection, untrained
from sovereign_pipeline.split.assignment import MIN_SHARE, OVERSHOOT, components, largest_group, needed, ties_by_cause
from sovereign_pipeline.split.contained_texts import Boilerplate, OwnShingles, contained_pairs, crossing_texts
from sovereign_pipeline.split.features import (
    ROUNDING,
    Features,
    Ties,
    author_keys_of,
    paraphrase_pairs,
    read_features,
)
from sovereign_pipeline.split.near_duplicates import crossing_near_duplicates, near_duplicates
from sovereign_pipeline.split.pieces import Pieces, in_pieces
from sovereign_pipeline.split.shingles import Rarity


def evaluate_no_crossing_groups(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Evaluate whether no group crosses between two of the files, and whether enough documents are held out.

    The held-out side is compared with all others, then the selection side with training by the same rules.
    """
    recipe, scrubbed = workplace.line.split, inputs[SCRUBBED_CORPUS.kind]
    rules = {"held_out": recipe} | ({"selection": recipe.of_selection} if recipe.of_selection else {})
    differences = _differences_from_input(scrubbed.file(DOCUMENTS), artifact)
    author_keys, proof = author_keys_of(workplace, scrubbed), json.loads(artifact.file(PROOF).read_bytes())
    with workplace.store.workspace() as scratch:
        sides = {name: (side, others) for name, side, others in untrained(artifact, scratch)}
        if sides.keys() != rules.keys():
            return Verdict(False, f"The recipe has the sides {', '.join(rules)}, and the split {', '.join(sides)}.")
        held_out = _evaluate_side(workplace, recipe, author_keys, sides["held_out"], proof, differences)
        if "selection" not in rules:
            return held_out
        selection = _evaluate_side(
            workplace, rules["selection"], author_keys, sides["selection"], proof["selection"], []
        )
    return Verdict(
        held_out.passed and selection.passed,
        f"{held_out.message} Selection side, taken from the others: {selection.message}",
        {**held_out.evidence, "rows_train": selection.evidence["rows_train"], "selection": selection.evidence},
    )


def _evaluate_side(
    workplace: Workplace,
    recipe: Split,
    author_keys: Mapping[str, int],
    files: tuple[Path, Path],
    proof: Mapping[str, Any],
    differences: Sequence[str],
) -> Verdict:
    """Compare two files that must share nothing: the untrained side, then the other. `proof`: the proof of the
    untrained side."""
    with workplace.store.workspace() as scratch:
        held, train = (
            read_features(file, recipe, author_keys, scratch, workplace.progress, workplace.line.corpus)
            for file in files
        )
        rarity = Rarity.of(scratch, held.columns.shingles, train.columns.shingles)
        boilerplate = Boilerplate.of(scratch, held.columns.texts, train.columns.texts)
        workplace.progress("checking every pair across the split for near-duplicates and contained texts")
        overlap = overlap_of(held, train, rarity, boilerplate, recipe, scratch)
        not_newest = (
            _held_out_without_a_newer(held, train, rarity, boilerplate, recipe, scratch) if recipe.by_date else []
        )
        too_many = _more_than_asked(held, train, rarity, boilerplate, recipe, scratch)
    if too_many and (pieces := proof["pieces"]["documents"]):
        too_many.append(
            f"{counted(pieces, 'document was', 'documents were')} tied or held out last for texts in pieces"
        )
    problems = [*differences, *overlap.problems]
    if not_newest:
        problems.append(
            f"{len(not_newest):,} held-out documents are neither newer than all training documents nor tied to one "
            f"that is ({and_more(not_newest)})"
        )
    held_letters, letters = _letters(held), _letters(held) + _letters(train)
    least = max(MIN_SHARE, recipe.held_out_share)
    if not 0 < held_letters < letters or held_letters < needed(least, letters):
        problems.append(f"{held_letters:,} of {letters:,} letters are held out; the recipe asks for {least:.0%}")
    problems += too_many
    evidence: dict[str, Any] = {
        "rows_train": len(train.columns),
        "rows_held_out": len(held.columns),
        "letters": letters,
        "letters_held_out": held_letters,
        "crossing_near_duplicate_pairs": overlap.near_duplicates,
        "crossing_contained_texts": overlap.contained_texts,
        "largest_share_in_pieces": overlap.pieces.largest_share,
        "letters_of_a_piece": overlap.pieces.letters,
        "complaints": len(problems),
    }
    by_date = ""
    if recipe.by_date and len(train.columns):
        newest = date.fromordinal(int(train.columns.days.max())).isoformat()
        evidence["newest_training_day"] = newest
        by_date = f" No training document is newer than {newest}; every held-out one is, or is tied to one that is."
    if problems:
        return Verdict(False, f"{'; '.join(problems)}.", evidence)
    kinds = ["case", "link", *(["author"] if recipe.by_author else []), *(["paraphrase"] if recipe.paraphrases else [])]
    return Verdict(
        True,
        f"No {', '.join(kinds)}, near-duplicate or contained text crosses; {held_letters:,} of {letters:,} letters are "
        f"held out ({held_letters / letters:.1%}).{by_date}{overlap.pieces.remark}",
        evidence,
    )


def _letters(side: Features) -> int:
    return int((~side.columns.is_preference).sum())


def _more_than_asked(
    held: Features, train: Features, rarity: Rarity, boilerplate: Boilerplate, recipe: Split, scratch: Path
) -> list[str]:
    """Return a problem if too many letters are held out: more than are left for training, or more than twice the
    requested number plus the largest group."""
    letters, held_letters = _letters(held) + _letters(train), _letters(held)
    least = max(MIN_SHARE, recipe.held_out_share)
    asked = needed(least, letters)
    leaves_fewer = held_letters > letters - held_letters and held_letters > asked + max(1, OVERSHOOT * letters)
    if held_letters <= 2 * asked and not leaves_fewer:
        return []
    group = largest_group(~held.columns.is_preference, _ties_of(held, train, rarity, boilerplate, recipe, scratch))
    if held_letters <= 2 * asked + group.letters and not leaves_fewer:
        return []
    return [
        f"{held_letters:,} of {letters:,} letters are held out ({held_letters / letters:.0%}) where the recipe asks "
        f"for {least:.0%}, and {letters - held_letters:,} are left for training. {group} {group.hint.rstrip('.')}"
    ]


def _ties_of(
    held: Features, train: Features, rarity: Rarity, boilerplate: Boilerplate, recipe: Split, scratch: Path
) -> dict[str, NDArray[np.int64]]:
    """Return kind of tie -> (n, 2) tied held-out documents, found with the functions of the build."""
    texts = held.columns.texts.distinct()
    near = near_duplicates(held.columns.shingles, rarity, recipe.near_duplicate_jaccard, scratch).pairs
    tied = ties_by_cause(held, near, texts.documents[contained_pairs(texts, OwnShingles.of(texts, boilerplate))])
    if recipe.paraphrases and held.vectors is not None:
        tied["paraphrase"] = paraphrase_pairs(held.vectors, held.vectors, recipe.paraphrases.cosine - 2 * ROUNDING)
    if recipe.by_date and len(train.columns):
        tied["text in pieces"] = _pieces_of_newer(held, train, tied.values())
    return tied


def _pieces_of_newer(held: Features, train: Features, tied: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return (n, 2) held-out documents: a document that is newer than all training documents or tied to a newer one,
    and an older document with a piece of it."""
    texts, is_newer = held.columns.texts, held.columns.days > train.columns.days.max()

    def pieces_of(are_whole: NDArray[np.bool_]) -> NDArray[np.int64]:
        of_whole = are_whole[texts.documents]
        whole, others = texts.subset(np.flatnonzero(of_whole)), texts.subset(np.flatnonzero(~of_whole))
        return in_pieces(whole, others, held.memory, counted=train.columns.texts).documents

    pairs = pieces_of(is_newer)
    while True:
        component_of = components(len(held.columns), (), [*tied, pairs])
        found = pieces_of(np.isin(component_of, component_of[is_newer]))
        if not len(found):
            return pairs
        pairs = np.concatenate((pairs, found))


def _held_out_without_a_newer(
    held: Features, train: Features, rarity: Rarity, boilerplate: Boilerplate, recipe: Split, scratch: Path
) -> list[str]:
    """Return the ids of held-out documents in groups without a document that is newer than every training document.
    Groups are found as in the build; groups without such a document are then compared exactly with all others."""
    if not len(train.columns):
        return []
    shingles, days = held.columns.shingles, held.columns.days
    tied = [*_ties_of(held, train, rarity, boilerplate, recipe, scratch).values()]

    def rows_without() -> NDArray[np.int64]:
        component_of = components(len(held.columns), (), tied)
        reaching = component_of[days > train.columns.days.max()]
        return np.flatnonzero(~np.isin(component_of, reaching))

    rows = rows_without()
    if rows.size:
        missed = crossing_near_duplicates(
            shingles.subset(rows), shingles, rarity, recipe.near_duplicate_jaccard, scratch
        ).pairs
        tied.append(np.column_stack((rows[missed[:, 0]], missed[:, 1])))
        rows = rows_without()
    return [held.columns.ids[row] for row in rows.tolist()]


def _differences_from_input(documents: Path, artifact: Artifact) -> list[str]:
    """Return problems unless the files together have exactly the input's lines, in order."""
    names = (TRAIN, HELD_OUT, *([SELECTION] if has_selection(artifact) else []))
    with ExitStack() as opened:
        lines, *files = [opened.enter_context(each.open("rb")) for each in (documents, *map(artifact.file, names))]
        sides: list[Iterator[bytes]] = [*map(iter, files)]
        heads = [next(side, None) for side in sides]
        for number, line in enumerate(lines, start=1):
            if line not in heads:
                return [f"line {number:,} of the scrubbed corpus is missing, changed or out of order"]
            side = heads.index(line)
            heads[side] = next(sides[side], None)
        left = [name for name, head in zip(names, heads, strict=True) if head is not None]
    return [f"{name} holds lines that are not in the scrubbed corpus, or are there twice" for name in left]


@dataclass(frozen=True)
class Overlap:
    """Everything that the two sides share."""

    near_duplicates: int
    """Number of near-duplicate pairs."""
    contained_texts: dict[str, int]
    """Fields of the two documents -> number of pairs in which one text contains the other."""
    pieces: Pieces
    problems: tuple[str, ...]
    """Clause with counts and ids for each kind of crossing tie."""


def overlap_of(
    held: Features, train: Features, rarity: Rarity, boilerplate: Boilerplate, recipe: Split, scratch: Path
) -> Overlap:
    """Return everything that held-out and training documents share. `rarity` and `boilerplate` must cover both."""
    possible = np.intersect1d(train.columns.own_keys, held.columns.own_keys)
    ids = {*train.columns.ids_with(possible)} & {*held.columns.ids_with(possible)}
    problems = _problem("id", len(ids), sorted(ids))
    for kind, ties in held.ties.items():
        keys = np.intersect1d(ties.keys, train.ties[kind].keys)
        problems += _problem(kind.replace("_", " "), keys.size, _ids_with(held, ties, keys))
    similar = crossing_near_duplicates(
        held.columns.shingles, train.columns.shingles, rarity, recipe.near_duplicate_jaccard, scratch
    ).pairs
    problems += _problem("near-duplicate pair", len(similar), _ids_of_pairs(held, train, similar))
    texts = crossing_texts(held.columns.texts, train.columns.texts, boilerplate)
    fields = ", ".join(f"{count:,} {name}" for name, count in texts.by_fields.items() if count)
    problems += [
        f"{problem}, by field: {fields}"
        for problem in _problem("contained text", len(texts.documents), _ids_of_pairs(held, train, texts.documents))
    ]
    pieces = in_pieces(held.columns.texts, train.columns.texts, held.memory)
    documents = np.unique(pieces.documents[:, 0]).size
    problems += _problem("text in pieces", documents, _ids_of_pairs(held, train, pieces.documents))
    if recipe.paraphrases and held.vectors is not None and train.vectors is not None:
        pairs = paraphrase_pairs(held.vectors, train.vectors, recipe.paraphrases.cosine)
        problems += _problem("paraphrase pair", len(pairs), _ids_of_pairs(held, train, pairs))
    return Overlap(len(similar), texts.by_fields, pieces, tuple(problems))


def shared_with_held_out(workplace: Workplace, split: Artifact, earlier: Artifact) -> list[str]:
    """Describe what the held-out and selection sides of one split share with the training side of an earlier split.
    Compares as the gate does, under the recipe of the workplace's line. Raises IntegrityError or NotFoundError if a
    necessary ancestor of either split cannot be opened.
    """
    recipe = workplace.line.split

    def read(of: Artifact, file: Path, scratch: Path) -> Features:
        author_keys = author_keys_of(workplace, workplace.store.open_input(of.manifest, SCRUBBED_CORPUS.kind))
        corpus = workplace.line.corpus
        return read_features(file, recipe, author_keys, scratch, workplace.progress, corpus)

    problems: list[str] = []
    with workplace.store.workspace() as scratch:
        train = read(earlier, earlier.file(TRAIN), scratch)
        for _, file, _ in untrained(split, scratch):
            held = read(split, file, scratch)
            rarity = Rarity.of(scratch, held.columns.shingles, train.columns.shingles)
            boilerplate = Boilerplate.of(scratch, held.columns.texts, train.columns.texts)
            problems += overlap_of(held, train, rarity, boilerplate, recipe, scratch).problems
    return problems


def _ids_with(side: Features, ties: Ties, keys: NDArray[np.uint64]) -> list[str]:
    return [side.columns.ids[row] for row in np.unique(ties.rows[np.isin(ties.keys, keys)]).tolist()]


def _ids_of_pairs(held: Features, train: Features, pairs: NDArray[np.int64]) -> list[str]:
    return [f"{held.columns.ids[one]} ~ {train.columns.ids[other]}" for one, other in pairs.tolist()]


def _problem(kind: str, count: int, ids: Sequence[str]) -> list[str]:
    return [f"{count:,} {kind}{' crosses' if count == 1 else 's cross'} ({and_more(ids)})"] if count else []
