"""The stage leakage_safe_split: two sides of the scrubbed corpus that share no matter, and the proof of it."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.policy.line import Line, Split
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.split.crossing import (
    crossing_authors,
    crossing_cases,
    crossing_links,
    crossing_near_duplicates,
)
from sovereign_pipeline.split.grouping import Member, components, member_of
from sovereign_pipeline.split.hold_out import MIN_SHARE, hold_out, needed
from sovereign_pipeline.split.similarity import (
    CHARACTERS_PER_SHINGLE,
    MINHASH_SEED,
    PERMUTATIONS,
    WORDS_PER_SHINGLE,
    NearDuplicates,
    ShingleCollector,
    Shingles,
    bands_for,
    near_duplicates,
)

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
PROOF = "proof.json"

_IDS_IN_A_MESSAGE = 10


@dataclass(frozen=True)
class _Corpus:
    members: list[Member]
    shingles: Shingles


@dataclass(frozen=True)
class _Assignment:
    """is_held_out, component_of: by document number. crossing: kind -> what the final measurement found.
    late_pairs: near-duplicates that only the exhaustive check found.
    """

    is_held_out: list[bool]
    component_of: list[int]
    similar: NearDuplicates
    late_pairs: int
    crossing: dict[str, int]


def build_leakage_safe_split(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write each document to one of the two sides, in the order of the input, and the proof.

    Raises InputError when two documents share an id or when the letters cannot be on both sides.
    """
    recipe = workplace.line.split
    documents = inputs[SCRUBBED_CORPUS.kind].file(DOCUMENTS)
    corpus = _collect(read_documents(documents), _authors(workplace, inputs[SCRUBBED_CORPUS.kind]))
    _stop_at_repeated_ids(corpus.members, documents)
    workplace.progress(f"{len(corpus.members):,} documents read, looking for near-duplicates")
    assignment = _assign(corpus, recipe)

    def side(held_out: bool) -> Iterator[Document]:
        for document, is_held_out in zip(read_documents(documents), assignment.is_held_out, strict=True):
            if is_held_out == held_out:
                yield document

    write_documents(workspace / TRAIN, side(held_out=False))
    write_documents(workspace / HELD_OUT, side(held_out=True))
    proof = _proof(corpus.members, assignment, recipe)
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


def _authors(workplace: Workplace, scrubbed: Artifact) -> dict[str, str]:
    """Id -> author as the institution wrote it; empty unless the line splits by author.

    A scrubbed author is a placeholder that counts anew in every case file, so it cannot tell who wrote what across
    cases. The names are read from what was scrubbed, compared, and never written.
    """
    if not workplace.line.split.by_author:
        return {}
    classified = workplace.store.open_input(scrubbed.manifest, CLASSIFIED_CORPUS.kind)
    return {
        document.id: " ".join(unicodedata.normalize("NFKC", document.author).casefold().split())
        for document in read_documents(classified.file(DOCUMENTS))
    }


def _collect(documents: Iterator[Document], authors: Mapping[str, str]) -> _Corpus:
    members = []
    shingles = ShingleCollector()
    for document in documents:
        members.append(member_of(document, authors.get(document.id, "")))
        shingles.add(document)
    return _Corpus(members, shingles.collected())


def _stop_at_repeated_ids(members: Sequence[Member], documents: Path) -> None:
    repeated = sorted(id for id, count in Counter(member.id for member in members).items() if count > 1)
    if repeated:
        raise InputError(
            f"{documents}: {len(repeated)} ids stand for more than one document ({_some(repeated)}). Ids must be "
            f"unique across the sources of a line; correct them there."
        )


def _assign(corpus: _Corpus, recipe: Split) -> _Assignment:
    """Tie, choose, and measure; what the measurement finds (a pair that MinHash missed) is tied and the choice is made
    again. Ends, because every such pair joins two components."""
    similar = near_duplicates(corpus.shingles, recipe.near_duplicate_jaccard)
    pairs = list(similar.pairs)
    while True:
        component_of = components(corpus.members, pairs, recipe.by_author)
        chosen = hold_out(corpus.members, component_of, recipe.held_out_share, recipe.seed)
        is_held_out = [component in chosen for component in component_of]
        crossing, crossing_pairs = _crossing(corpus, is_held_out, recipe)
        if not crossing_pairs:
            late = len(pairs) - len(similar.pairs)
            return _Assignment(is_held_out, component_of, similar, late, crossing)
        pairs += crossing_pairs


def _crossing(
    corpus: _Corpus, is_held_out: Sequence[bool], recipe: Split
) -> tuple[dict[str, int], list[tuple[int, int]]]:
    """How many of each kind cross, and the near-duplicate pairs that do (document numbers)."""
    import numpy as np

    flags = np.array(is_held_out)
    held_rows, train_rows = np.flatnonzero(flags), np.flatnonzero(~flags)
    held = [corpus.members[row] for row in held_rows]
    train = [corpus.members[row] for row in train_rows]
    pairs = [
        (int(held_rows[one]), int(train_rows[other]))
        for one, other in crossing_near_duplicates(
            corpus.shingles.rows(held_rows), corpus.shingles.rows(train_rows), recipe.near_duplicate_jaccard
        )
    ]
    return {
        "case": len(crossing_cases(train, held)),
        "link": len(crossing_links(train, held)),
        **({"author": len(crossing_authors(train, held))} if recipe.by_author else {}),
        "near_duplicate": len(pairs),
    }, pairs


def _proof(members: Sequence[Member], assignment: _Assignment, recipe: Split) -> dict[str, Any]:
    """Deterministic numbers only. Components and their sizes are counted in documents."""
    bands = bands_for(recipe.near_duplicate_jaccard)
    sizes = Counter(assignment.component_of)
    largest = max(sizes, key=lambda component: (sizes[component], -component))
    rows = Counter(
        ("held_out" if held else "train", "preferences" if member.is_preference else "letters")
        for member, held in zip(members, assignment.is_held_out, strict=True)
    )
    letters = rows["train", "letters"] + rows["held_out", "letters"]
    return {
        "parameters": {
            **recipe.model_dump(mode="json"),
            "least_held_out_share": MIN_SHARE,
            "words_per_shingle": WORDS_PER_SHINGLE,
            "characters_per_shingle_arabic": CHARACTERS_PER_SHINGLE,
            "minhash": {
                "permutations": PERMUTATIONS,
                "seed": MINHASH_SEED,
                "bands": bands.count,
                "rows_per_band": bands.rows,
                "recall_at_threshold": round(bands.recall, 6),
            },
        },
        "rows": {side: rows[side, "letters"] + rows[side, "preferences"] for side in ("train", "held_out")},
        "letters": {side: rows[side, "letters"] for side in ("train", "held_out")},
        "preferences": {side: rows[side, "preferences"] for side in ("train", "held_out")},
        "held_out_share_of_letters": round(rows["held_out", "letters"] / letters, 6),
        "components": {
            "count": len(sizes),
            "held_out": len(
                {c for c, held in zip(assignment.component_of, assignment.is_held_out, strict=True) if held}
            ),
            "largest": {
                "rows": sizes[largest],
                "first_id": members[largest].id,
                "side": "held_out" if assignment.is_held_out[largest] else "train",
            },
        },
        "near_duplicates": {
            "pairs": len(assignment.similar.pairs) + assignment.late_pairs,
            "copies": assignment.similar.copies,
            "candidates_compared": assignment.similar.candidates,
            "found_by_exhaustive_check_only": assignment.late_pairs,
        },
        "crossing": assignment.crossing,
    }


def judge_no_crossing_groups(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Read the two files alone and measure; what the proof claims is not looked at."""
    recipe = workplace.line.split
    authors = _authors(workplace, inputs[SCRUBBED_CORPUS.kind])
    train = _collect(read_documents(artifact.file(TRAIN)), authors)
    held = _collect(read_documents(artifact.file(HELD_OUT)), authors)
    cases = crossing_cases(train.members, held.members)
    complaints = [
        *_not_the_input(inputs[SCRUBBED_CORPUS.kind].file(DOCUMENTS), artifact),
        *_crossing_complaint("id", {m.id for m in train.members} & {m.id for m in held.members}),
        *_crossing_complaint("case", cases, [m.id for m in held.members if m.case in cases]),
        *_crossing_complaint("link", crossing_links(train.members, held.members)),
    ]
    if recipe.by_author:
        crossing = len(crossing_authors(train.members, held.members))  # counted, never named
        complaints += [f"{crossing} authors are on both sides"] if crossing else []
    similar = crossing_near_duplicates(held.shingles, train.shingles, recipe.near_duplicate_jaccard)
    complaints += _crossing_complaint(
        "near-duplicate pair", {f"{held.members[one].id} ~ {train.members[other].id}" for one, other in similar}
    )
    held_letters = sum(not member.is_preference for member in held.members)
    letters = held_letters + sum(not member.is_preference for member in train.members)
    least = max(MIN_SHARE, recipe.held_out_share)
    if not 0 < held_letters < letters or held_letters < needed(least, letters):
        complaints.append(f"{held_letters} of {letters} letters are held out, {least:.0%} are asked")
    evidence = {
        "rows_train": len(train.members),
        "rows_held_out": len(held.members),
        "letters": letters,
        "letters_held_out": held_letters,
        "crossing_near_duplicate_pairs": len(similar),
        "complaints": len(complaints),
    }
    if complaints:
        return Verdict(False, f"{'; '.join(complaints)}.", evidence)
    return Verdict(
        True,
        f"No case, link{', author' if recipe.by_author else ''} or near-duplicate crosses; {held_letters} of {letters} "
        f"letters are held out ({held_letters / letters:.1%}).",
        evidence,
    )


def _not_the_input(documents: Path, artifact: Artifact) -> list[str]:
    """The sides, read side by side, must give exactly the documents of the input in their order."""
    sides = [read_documents(artifact.file(TRAIN)), read_documents(artifact.file(HELD_OUT))]
    heads = [next(side, None) for side in sides]
    for document in read_documents(documents):
        if document not in heads:
            return [f"document {document.id} of the scrubbed corpus is missing, changed or out of order"]
        number = heads.index(document)
        heads[number] = next(sides[number], None)
    return [
        f"document {head.id} is not in the scrubbed corpus, or is there twice" for head in heads if head is not None
    ]


def _crossing_complaint(kind: str, crossing: set[str], row_ids: Sequence[str] | None = None) -> list[str]:
    """row_ids: what to show where `crossing` itself does not hold row ids."""
    if not crossing:
        return []
    shown = _some(sorted(crossing) if row_ids is None else row_ids)
    return [f"{len(crossing)} {kind}{'s cross' if len(crossing) > 1 else ' crosses'} ({shown})"]


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _IDS_IN_A_MESSAGE} more" if len(ids) > _IDS_IN_A_MESSAGE else ""
    return ", ".join(ids[:_IDS_IN_A_MESSAGE]) + more


def _config(line: Line) -> Config:
    return line.split.model_dump(mode="json")


NO_CROSSING_GROUPS = Gate(
    name="no_crossing_groups",
    question="Do the two sides share no case, link, author (where asked) or near-duplicate, and is enough held out?",
    code_version="1",
    judge=judge_no_crossing_groups,
    config=lambda line: {**_config(line), "least_held_out_share": MIN_SHARE},
)

LEAKAGE_SAFE_SPLIT = Stage(
    kind="leakage_safe_split",
    code_version="1",
    build=build_leakage_safe_split,
    inputs=(SCRUBBED_CORPUS,),
    config=_config,
    libraries=("numpy", "rensa"),
    gates=(NO_CROSSING_GROUPS,),
)
