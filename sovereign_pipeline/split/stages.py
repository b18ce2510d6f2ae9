"""The stage leakage_safe_split: two sides of the scrubbed corpus that share no matter, and the proof of it."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.split.crossing import crossing_keys, crossing_near_duplicates
from sovereign_pipeline.split.grouping import Ties, components
from sovereign_pipeline.split.hold_out import MIN_SHARE, hold_out, hold_out_newest, needed
from sovereign_pipeline.split.near_duplicates import (
    BANDS,
    MINHASH_SEED,
    PERMUTATIONS,
    RECALL,
    ROWS_PER_BAND,
    NearDuplicates,
    compared_share,
    near_duplicates,
)
from sovereign_pipeline.split.paraphrases import ROUNDING, embed_documents, paraphrase_pairs, stop_without_the_model
from sovereign_pipeline.split.reading import Columns, read_author_keys, read_columns
from sovereign_pipeline.split.shingles import Rarity
from sovereign_pipeline.split.similarity import CHARACTERS_PER_SHINGLE, WORDS_PER_SHINGLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
PROOF = "proof.json"

_IDS_IN_A_MESSAGE = 10


@dataclass(frozen=True)
class _Corpus:
    """authors: no key where the line does not split by author. vectors: None where it ties no paraphrases."""

    columns: Columns
    authors: Ties
    vectors: "NDArray[np.float32] | None"

    @property
    def ties(self) -> dict[str, Ties]:
        return {"case": self.columns.cases, "link": self.columns.matters, "author": self.authors}


@dataclass(frozen=True)
class _Assignment:
    """is_held_out, component_of: by document number. paraphrases: pairs that were tied. late_pairs: near-duplicates
    that only the exhaustive check found; compared: how many pairs it compared. crossing: kind -> what it found last.
    cut: the day from which on everything is held out, where the line splits by date.
    """

    is_held_out: "NDArray[np.bool_]"
    component_of: "NDArray[np.int64]"
    similar: NearDuplicates
    paraphrases: int
    late_pairs: int
    compared: int
    crossing: dict[str, int]
    cut: date | None


def build_leakage_safe_split(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write each document to one of the two sides, in the order of the input and byte for byte, and the proof.

    Raises InputError when two documents share an id, when the letters cannot be on both sides, or when the model for
    paraphrases is not installed.
    """
    recipe = workplace.line.split
    documents = inputs[SCRUBBED_CORPUS.kind].file(DOCUMENTS)
    if recipe.paraphrases:
        stop_without_the_model()
    with workplace.store.workspace() as scratch:
        corpus = _read(documents, recipe, _author_keys(workplace, inputs[SCRUBBED_CORPUS.kind]), scratch)
        _stop_at_repeated_ids(corpus.columns.ids, documents)
        workplace.progress(f"{len(corpus.columns):,} documents read, looking for near-duplicates")
        assignment = _assign(corpus, recipe, scratch)
    _write_sides(documents, assignment.is_held_out, workspace)
    proof = _proof(corpus.columns, assignment, recipe)
    (workspace / PROOF).write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
    workplace.progress(
        f"{proof['rows']['held_out']:,} documents held out, {proof['rows']['train']:,} for training; "
        f"{proof['near_duplicates']['pairs']:,} near-duplicate pairs kept together"
    )
    return Built(
        summary={
            "rows_train": proof["rows"]["train"],
            "rows_held_out": proof["rows"]["held_out"],
            "held_out_share_of_letters": proof["held_out_share_of_letters"],
            "components": proof["components"]["count"],
            "near_duplicate_pairs": proof["near_duplicates"]["pairs"],
        }
    )


def _author_keys(workplace: Workplace, scrubbed: Artifact) -> dict[str, int]:
    """Id -> key of the author as the institution wrote it; empty unless the line splits by author.

    A scrubbed author is a placeholder that counts anew in every case file, so it cannot tell who wrote what across
    cases. The names are read from what was scrubbed, compared, and never written.
    """
    if not workplace.line.split.by_author:
        return {}
    classified = workplace.store.open_input(scrubbed.manifest, CLASSIFIED_CORPUS.kind)
    return read_author_keys(classified.file(DOCUMENTS))


def _read(documents: Path, recipe: Split, author_keys: dict[str, int], scratch: Path) -> _Corpus:
    import numpy as np

    columns = read_columns(documents, scratch)
    named = [number for number, id in enumerate(columns.ids) if id in author_keys]
    keys = [author_keys[columns.ids[number]] for number in named]
    return _Corpus(
        columns=columns,
        authors=Ties(np.array(named, np.int64), np.array(keys, np.uint64)),
        vectors=embed_documents(documents) if recipe.paraphrases else None,
    )


def _stop_at_repeated_ids(ids: Sequence[str], documents: Path) -> None:
    repeated = sorted(id for id, count in Counter(ids).items() if count > 1)
    if repeated:
        raise InputError(
            f"{documents}: {len(repeated)} ids stand for more than one document ({_some(repeated)}). Ids must be "
            f"unique across the sources of a line; correct them there."
        )


def _assign(corpus: _Corpus, recipe: Split, scratch: Path) -> _Assignment:
    """Tie, choose, and measure; what the measurement finds (a pair that MinHash missed) is tied and the choice is made
    again. Ends, because every such pair joins two components."""
    columns = corpus.columns
    rarity = Rarity.of(scratch, columns.shingles)
    similar = near_duplicates(columns.shingles, rarity, recipe.near_duplicate_jaccard)
    tied = [similar.pairs]
    if recipe.paraphrases and corpus.vectors is not None:
        tied.append(paraphrase_pairs(corpus.vectors, corpus.vectors, recipe.paraphrases.cosine - ROUNDING))
    paraphrases = sum(int((pairs[:, 0] < pairs[:, 1]).sum()) for pairs in tied[1:])
    late_pairs = 0
    while True:
        component_of = components(len(columns), corpus.ties.values(), tied)
        cut = None
        if recipe.by_date:
            by_date = hold_out_newest(columns.days, columns.is_preference, component_of, recipe.held_out_share)
            is_held_out, cut = by_date.is_held_out, by_date.day
        else:
            is_held_out = hold_out(columns.ids, columns.is_preference, component_of, recipe.held_out_share, recipe.seed)
        crossing, late, compared = _crossing_now(corpus, is_held_out, rarity, recipe, scratch)
        if not len(late):
            return _Assignment(is_held_out, component_of, similar, paraphrases, late_pairs, compared, crossing, cut)
        tied.append(late)
        late_pairs += len(late)


def _crossing_now(
    corpus: _Corpus, is_held_out: "NDArray[np.bool_]", rarity: Rarity, recipe: Split, scratch: Path
) -> tuple[dict[str, int], "NDArray[np.int64]", int]:
    """How many of each kind cross; the near-duplicate pairs that do (document numbers); and how many were compared."""
    import numpy as np

    shingles = corpus.columns.shingles
    held, train = np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)
    near = crossing_near_duplicates(
        shingles.subset(held), shingles.subset(train), rarity, recipe.near_duplicate_jaccard, scratch
    )
    found = {
        kind: int(crossing_keys(ties.on(is_held_out), ties.on(~is_held_out)).size)
        for kind, ties in corpus.ties.items()
        if kind != "author" or recipe.by_author
    }
    found["near_duplicate"] = len(near.pairs)
    if recipe.paraphrases and corpus.vectors is not None:
        vectors = corpus.vectors
        found["paraphrase"] = len(paraphrase_pairs(vectors[held], vectors[train], recipe.paraphrases.cosine))
    return found, np.column_stack((held[near.pairs[:, 0]], train[near.pairs[:, 1]])), near.compared


def _write_sides(documents: Path, is_held_out: "NDArray[np.bool_]", workspace: Path) -> None:
    with (
        documents.open("rb") as lines,
        (workspace / TRAIN).open("wb") as train,
        (workspace / HELD_OUT).open("wb") as held_out,
    ):
        for line, is_held in zip(lines, is_held_out.tolist(), strict=True):
            (held_out if is_held else train).write(line)


def _proof(columns: Columns, assignment: _Assignment, recipe: Split) -> dict[str, Any]:
    """Deterministic numbers only. Components and their sizes are counted in documents."""
    import numpy as np

    is_held_out, component_of = assignment.is_held_out, assignment.component_of
    sizes = np.bincount(component_of, minlength=len(columns))
    largest = int(sizes.argmax())
    is_letter = ~columns.is_preference
    letters = {"train": int((is_letter & ~is_held_out).sum()), "held_out": int((is_letter & is_held_out).sum())}
    rows = {"train": int((~is_held_out).sum()), "held_out": int(is_held_out.sum())}
    proof: dict[str, Any] = {
        "parameters": {
            **recipe.model_dump(mode="json"),
            "least_held_out_share": MIN_SHARE,
            "words_per_shingle": WORDS_PER_SHINGLE,
            "characters_per_shingle_arabic": CHARACTERS_PER_SHINGLE,
            "minhash": {
                "permutations": PERMUTATIONS,
                "seed": MINHASH_SEED,
                "bands": BANDS,
                "rows_per_band": ROWS_PER_BAND,
                "compared_share": round(compared_share(recipe.near_duplicate_jaccard), 6),
                "recall_at_threshold": round(RECALL, 6),
            },
        },
        "rows": rows,
        "letters": letters,
        "preferences": {side: rows[side] - letters[side] for side in rows},
        "held_out_share_of_letters": round(letters["held_out"] / (letters["train"] + letters["held_out"]), 6),
        "components": {
            "count": int((sizes > 0).sum()),
            "held_out": int(np.unique(component_of[is_held_out]).size),
            "largest": {
                "rows": int(sizes[largest]),
                "first_id": columns.ids[largest],
                "side": "held_out" if is_held_out[largest] else "train",
            },
        },
        "near_duplicates": {
            "pairs": len(assignment.similar.pairs) + assignment.late_pairs,
            "copies": assignment.similar.copies,
            "candidates_compared": assignment.similar.candidates,
            "rows_in_large_buckets": assignment.similar.rows_in_large_buckets,
            "found_by_exhaustive_check_only": assignment.late_pairs,
        },
        "crossing": assignment.crossing,
        "crossing_check": {
            "near_duplicates": "every pair across the sides that prefix, size and position do not rule out, exactly",
            "recall": 1.0,
            "pairs_compared": assignment.compared,
        },
    }
    if recipe.paraphrases:
        proof["paraphrases"] = {"pairs": assignment.paraphrases}
    if assignment.cut:
        is_older = columns.days < assignment.cut.toordinal()
        proof["date_cut"] = {
            "first_day_held_out": assignment.cut.isoformat(),
            "newest_training_day": date.fromordinal(int(columns.days[~is_held_out].max())).isoformat(),
            "older_documents_held_out_with_their_group": int((is_held_out & is_older).sum()),
        }
    return proof


def evaluate_no_crossing_groups(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Read the two files alone and measure; what the proof claims is not looked at."""
    recipe = workplace.line.split
    scrubbed = inputs[SCRUBBED_CORPUS.kind]
    author_keys = _author_keys(workplace, scrubbed)
    with workplace.store.workspace() as scratch:
        train = _read(artifact.file(TRAIN), recipe, author_keys, scratch)
        held = _read(artifact.file(HELD_OUT), recipe, author_keys, scratch)
        rarity = Rarity.of(scratch, held.columns.shingles, train.columns.shingles)
        similar = crossing_near_duplicates(
            held.columns.shingles, train.columns.shingles, rarity, recipe.near_duplicate_jaccard, scratch
        ).pairs
        stragglers = _held_out_without_a_newer(held, train, rarity, recipe, scratch) if recipe.by_date else []
    complaints = _not_the_input(scrubbed.file(DOCUMENTS), artifact) + _complaints(held, train, similar, recipe)
    if stragglers:
        complaints.append(
            f"{len(stragglers)} held-out documents are neither newer than all training documents nor tied to one that "
            f"is ({_some(stragglers)})"
        )
    held_letters = int((~held.columns.is_preference).sum())
    letters = held_letters + int((~train.columns.is_preference).sum())
    least = max(MIN_SHARE, recipe.held_out_share)
    if not 0 < held_letters < letters or held_letters < needed(least, letters):
        complaints.append(f"{held_letters} of {letters} letters are held out, {least:.0%} are asked")
    evidence: dict[str, Any] = {
        "rows_train": len(train.columns),
        "rows_held_out": len(held.columns),
        "letters": letters,
        "letters_held_out": held_letters,
        "crossing_near_duplicate_pairs": len(similar),
        "complaints": len(complaints),
    }
    by_date = ""
    if recipe.by_date and len(train.columns):
        newest = date.fromordinal(int(train.columns.days.max())).isoformat()
        evidence["newest_training_day"] = newest
        by_date = f" No training document is newer than {newest}; every held-out one is, or is tied to one that is."
    if complaints:
        return Verdict(False, f"{'; '.join(complaints)}.", evidence)
    kinds = ["case", "link", *(["author"] if recipe.by_author else []), *(["paraphrase"] if recipe.paraphrases else [])]
    return Verdict(
        True,
        f"No {', '.join(kinds)} or near-duplicate crosses; {held_letters} of {letters} letters are held out "
        f"({held_letters / letters:.1%}).{by_date}",
        evidence,
    )


def shared_with_held_out(workplace: Workplace, split: Artifact, earlier: Artifact) -> list[str]:
    """What the held-out side of one split shares with the training side of another, as complaints; empty for nothing.

    Compared is what the gate of a split compares, under the recipe of the workplace's line. Raises IntegrityError or
    NotFoundError when an ancestor of either that is needed for it cannot be opened.
    """
    recipe = workplace.line.split

    def side(of: Artifact, name: str, scratch: Path) -> _Corpus:
        scrubbed = workplace.store.open_input(of.manifest, SCRUBBED_CORPUS.kind)
        return _read(of.file(name), recipe, _author_keys(workplace, scrubbed), scratch)

    with workplace.store.workspace() as scratch:
        held, train = side(split, HELD_OUT, scratch), side(earlier, TRAIN, scratch)
        rarity = Rarity.of(scratch, held.columns.shingles, train.columns.shingles)
        similar = crossing_near_duplicates(
            held.columns.shingles, train.columns.shingles, rarity, recipe.near_duplicate_jaccard, scratch
        ).pairs
        return _complaints(held, train, similar, recipe)


def _complaints(held: _Corpus, train: _Corpus, similar: "NDArray[np.int64]", recipe: Split) -> list[str]:
    """Whatever held-out and training documents have in common. similar: (n, 2) near-duplicates of the two."""
    ids = set(train.columns.ids) & set(held.columns.ids)
    complaints = _crossing_complaint("id", len(ids), sorted(ids))
    for kind, ties in held.ties.items():
        keys = crossing_keys(ties.keys, train.ties[kind].keys)
        complaints += _crossing_complaint(kind, keys.size, _ids_with(held, ties, keys))
    complaints += _crossing_complaint("near-duplicate pair", len(similar), _ids_of_pairs(held, train, similar))
    if recipe.paraphrases and held.vectors is not None and train.vectors is not None:
        pairs = paraphrase_pairs(held.vectors, train.vectors, recipe.paraphrases.cosine)
        complaints += _crossing_complaint("paraphrase pair", len(pairs), _ids_of_pairs(held, train, pairs))
    return complaints


def _held_out_without_a_newer(held: _Corpus, train: _Corpus, rarity: Rarity, recipe: Split, scratch: Path) -> list[str]:
    """Ids of held-out documents in whose group none is newer than every training document.

    The groups are found as in the build; those that seem to have none are then compared with all others exactly.
    """
    import numpy as np

    if not len(train.columns):
        return []
    shingles, days = held.columns.shingles, held.columns.days
    tied = [near_duplicates(shingles, rarity, recipe.near_duplicate_jaccard).pairs]
    if recipe.paraphrases and held.vectors is not None:
        tied.append(paraphrase_pairs(held.vectors, held.vectors, recipe.paraphrases.cosine - 2 * ROUNDING))

    def without() -> "NDArray[np.int64]":
        component_of = components(len(held.columns), held.ties.values(), tied)
        reaching = component_of[days > train.columns.days.max()]
        return np.flatnonzero(~np.isin(component_of, reaching))

    rows = without()
    if rows.size:
        missed = crossing_near_duplicates(
            shingles.subset(rows), shingles, rarity, recipe.near_duplicate_jaccard, scratch
        ).pairs
        tied.append(np.column_stack((rows[missed[:, 0]], missed[:, 1])))
        rows = without()
    return [held.columns.ids[row] for row in rows.tolist()]


def _not_the_input(documents: Path, artifact: Artifact) -> list[str]:
    """The lines of the sides, read side by side, must be exactly those of the input in their order."""
    with (
        documents.open("rb") as lines,
        artifact.file(TRAIN).open("rb") as train,
        artifact.file(HELD_OUT).open("rb") as held_out,
    ):
        sides: list[Iterator[bytes]] = [iter(train), iter(held_out)]
        heads = [next(side, None) for side in sides]
        for number, line in enumerate(lines, start=1):
            if line not in heads:
                return [f"line {number} of the scrubbed corpus is missing, changed or out of order"]
            side = heads.index(line)
            heads[side] = next(sides[side], None)
        left = [name for name, head in zip((TRAIN, HELD_OUT), heads, strict=True) if head is not None]
    return [f"{name} holds lines that are not in the scrubbed corpus, or are there twice" for name in left]


def _ids_with(side: _Corpus, ties: Ties, keys: "NDArray[np.uint64]") -> list[str]:
    import numpy as np

    return [side.columns.ids[row] for row in np.unique(ties.rows[np.isin(ties.keys, keys)]).tolist()]


def _ids_of_pairs(held: _Corpus, train: _Corpus, pairs: "NDArray[np.int64]") -> list[str]:
    return [f"{held.columns.ids[one]} ~ {train.columns.ids[other]}" for one, other in pairs.tolist()]


def _crossing_complaint(kind: str, count: int, row_ids: Sequence[str]) -> list[str]:
    if not count:
        return []
    return [f"{count} {kind}{'s cross' if count > 1 else ' crosses'} ({_some(row_ids)})"]


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _IDS_IN_A_MESSAGE} more" if len(ids) > _IDS_IN_A_MESSAGE else ""
    return ", ".join(ids[:_IDS_IN_A_MESSAGE]) + more


def _config(line: Line) -> Config:
    return line.split.model_dump(mode="json")


NO_CROSSING_GROUPS = Gate(
    name="no_crossing_groups",
    question="Do the two sides share no case, link, author (where asked) or near-duplicate, and is enough held out?",
    code_version="2",
    evaluate=evaluate_no_crossing_groups,
    config=lambda line: {**_config(line), "least_held_out_share": MIN_SHARE},
)

LEAKAGE_SAFE_SPLIT = Stage(
    kind="leakage_safe_split",
    code_version="2",
    build=build_leakage_safe_split,
    inputs=(SCRUBBED_CORPUS,),
    config=_config,
    libraries=("numpy", "rensa", "scipy"),
    gates=(NO_CROSSING_GROUPS,),
)
