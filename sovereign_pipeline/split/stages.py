"""Define the stage leakage_safe_split, which writes a training, a selection and a held-out file. No document in one
file is related to a document in another file."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.sealing import pipeline_actor
from sovereign_pipeline.record.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN, has_selection, untrained
from sovereign_pipeline.split.assignment import (
    MIN_SHARE,
    OVERSHOOT,
    Assignment,
    assign,
    components,
    largest_group,
    needed,
    ties_by_cause,
)
from sovereign_pipeline.split.contained_texts import (
    BOILERPLATE_TEXTS,
    LEAST_IN_COMMON,
    Boilerplate,
    OwnShingles,
    contained_pairs,
    crossing_texts,
)
from sovereign_pipeline.split.features import (
    ROUNDING,
    Columns,
    Features,
    Ties,
    author_keys_of,
    paraphrase_pairs,
    read_features,
    stop_without_the_model,
)
from sovereign_pipeline.split.near_duplicates import (
    BANDS,
    MINHASH_SEED,
    PERMUTATIONS,
    RECALL,
    ROWS_PER_BAND,
    compared_share,
    crossing_near_duplicates,
    near_duplicates,
)
from sovereign_pipeline.split.pieces import SHARE, Pieces, in_pieces
from sovereign_pipeline.split.shingles import (
    CHARACTERS_PER_SHINGLE,
    WORDS_PER_SHINGLE,
    Rarity,
    Shingles,
    least_digests,
    normal_form,
)

SELECTION_DRAWN = "selection side drawn"
"""Action of the ledger entry with the smallest digests of a selection side's texts. Settings are chosen with these
documents, so no adapter may be evaluated on these documents; see `evaluation/report/looks.py`."""


def build_leakage_safe_split(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write each document unchanged to the file of its side, in the input's order, and write the proof.

    The selection side is chosen last, from the documents that are not held out. It therefore does not change which
    documents are held out. Raises InputError if two documents have the same id, if a side cannot get `letters`
    documents, or if the paraphrase model is not installed.
    """
    recipe = workplace.line.split
    scrubbed = inputs[SCRUBBED_CORPUS.kind]
    if recipe.paraphrases:
        stop_without_the_model()
    author_keys = author_keys_of(workplace, scrubbed)

    def take(documents: Path, rules: Split, side: Path, rest: Path) -> Proof:
        with workplace.store.workspace() as scratch:
            features = read_features(documents, rules, author_keys, scratch, workplace.progress, workplace.line.corpus)
            _check_unique_ids(features.columns, documents)
            workplace.progress(f"{len(features.columns):,} documents read; looking for near-duplicates")
            assignment = assign(features, rules, scratch, workplace.progress)
        _write_sides(documents, assignment.is_held_out, side, rest)
        return proof_of(features.columns, assignment, rules)

    proof = take(scrubbed.file(DOCUMENTS), recipe, workspace / HELD_OUT, workspace / TRAIN)
    if recipe.of_selection is not None:
        with workplace.store.workspace() as scratch:
            rest = (workspace / TRAIN).rename(scratch / TRAIN)
            try:
                of_selection = take(rest, recipe.of_selection, workspace / SELECTION, workspace / TRAIN)
            except InputError as error:
                message = f"Selection from the documents that are not held out: {error.message}"
                raise InputError(message, error.hint) from error
        proof = _with_selection(proof, of_selection)
        texts = least_digests(map(normal_form, read_documents(workspace / SELECTION)))
        with open_registry(workplace.settings).writing() as session:
            subjects = {"line": workplace.line.line, "texts": texts}
            append(session, pipeline_actor(workplace.settings), SELECTION_DRAWN, subjects)
    (workspace / PROOF).write_text(json_of_proof(proof), encoding="utf-8")
    rows, near_duplicate_pairs = proof["rows"], proof["near_duplicates"]["pairs"]
    selection = f"{rows['selection']:,} for selection, " if "selection" in rows else ""
    workplace.progress(
        f"{rows['held_out']:,} documents held out, {selection}{rows['train']:,} for training; "
        f"{near_duplicate_pairs:,} near-duplicate pairs kept together"
    )
    return Built(
        summary={
            **{f"rows_{side}": count for side, count in rows.items()},
            "held_out_share_of_letters": proof["held_out_share_of_letters"],
            "components": proof["components"]["count"],
            "near_duplicate_pairs": near_duplicate_pairs,
        }
    )


def _check_unique_ids(columns: Columns, documents: Path) -> None:
    keys, counts = np.unique(columns.own_keys, return_counts=True)
    ids = Counter(columns.ids_with(keys[counts > 1]))
    repeated = sorted(id for id, count in ids.items() if count > 1)
    if repeated:
        raise InputError(
            f"{documents}: {counted(len(repeated), 'id belongs', 'ids belong')} to more than one document "
            f"({and_more(repeated)}).",
            "Make ids unique across the sources of the line.",
        )


def _write_sides(documents: Path, is_taken: NDArray[np.bool_], side: Path, rest: Path) -> None:
    with documents.open("rb") as lines, rest.open("wb") as others, side.open("wb") as taken:
        for line, is_of_side in zip(lines, is_taken.tolist(), strict=True):
            (taken if is_of_side else others).write(line)


def _config(line: Line) -> Config:
    return line.split.model_dump(mode="json")


# --- the gate ---------------------------------------------------------------------------------------------------------


def evaluate_no_crossing_groups(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Verify that the split's files together have exactly the input's lines, that no group of related documents is in
    two files, and that neither too few nor too many letters are held out.

    The held-out side is compared with all other documents. Then the selection side is compared with the training side
    by the same rules.
    """
    recipe, scrubbed = workplace.line.split, inputs[SCRUBBED_CORPUS.kind]
    rules = {"held_out": recipe} | ({"selection": recipe.of_selection} if recipe.of_selection else {})
    differences = _differences_from_input(scrubbed.file(DOCUMENTS), artifact)
    author_keys, proof = author_keys_of(workplace, scrubbed), json.loads(artifact.file(PROOF).read_bytes())
    with workplace.store.workspace() as scratch:
        sides = {name: (side, others) for name, side, others in untrained(artifact, scratch)}
        if sides.keys() != rules.keys():
            return Verdict(False, f"The recipe has the sides {', '.join(rules)}; the split has {', '.join(sides)}.")
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
    """Compare two files. No document in one file may be related to a document in the other file. `files`: the file of
    the untrained side, and the file of the documents that it must not overlap. `proof`: the proof of the untrained
    side."""
    with workplace.store.workspace() as scratch:
        held, train = (
            read_features(file, recipe, author_keys, scratch, workplace.progress, workplace.line.corpus)
            for file in files
        )
        sides = Sides.of(held, train, recipe, scratch)
        workplace.progress("checking every pair across the split for near-duplicates and contained texts")
        overlap = overlap_of(sides)
        not_newest = _held_out_without_a_newer(sides) if recipe.by_date else []
        too_many = _more_than_asked(sides)
    if too_many and (pieces := proof["pieces"]["documents"]):
        too_many.append(
            f"{counted(pieces, 'document was', 'documents were')} tied or held out last for texts in pieces"
        )
    problems = [*differences, *overlap.problems]
    if not_newest:
        problems.append(
            f"{len(not_newest):,} held-out documents are neither newer than all training documents nor tied to such a "
            f"document ({and_more(not_newest)})"
        )
    held_letters, letters, least = sides.held_letters, sides.letters, sides.least_share
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
        by_date = (
            f" No training document is newer than {newest}. Every held-out document is newer, or is tied to a newer "
            f"document."
        )
    if problems:
        return Verdict(False, f"{'; '.join(problems)}.", evidence)
    kinds = ["case", "link", *(["author"] if recipe.by_author else []), *(["paraphrase"] if recipe.paraphrases else [])]
    return Verdict(
        True,
        f"No {', '.join(kinds)}, near-duplicate or contained text crosses; {held_letters:,} of {letters:,} letters are "
        f"held out ({held_letters / letters:.1%}).{by_date}{overlap.pieces.remark}",
        evidence,
    )


@dataclass(frozen=True)
class Sides:
    """The held-out and the training side of a split. The rarity and the boilerplate are computed from both sides
    together."""

    held: Features
    train: Features
    recipe: Split
    scratch: Path
    """Directory for shingles while they are sorted."""
    rarity: Rarity
    boilerplate: Boilerplate

    @staticmethod
    def of(held: Features, train: Features, recipe: Split, scratch: Path) -> "Sides":
        rarity = Rarity.of(scratch, held.columns.shingles, train.columns.shingles)
        boilerplate = Boilerplate.of(scratch, held.columns.texts, train.columns.texts)
        return Sides(held, train, recipe, scratch, rarity, boilerplate)

    @property
    def held_letters(self) -> int:
        return int((~self.held.columns.is_preference).sum())

    @property
    def letters(self) -> int:
        return self.held_letters + int((~self.train.columns.is_preference).sum())

    @property
    def least_share(self) -> float:
        """Return the share of letters that must be held out."""
        return max(MIN_SHARE, self.recipe.held_out_share)

    def near_duplicates_across(self, held: Shingles, other: Shingles) -> NDArray[np.int64]:
        jaccard = self.recipe.near_duplicate_jaccard
        return crossing_near_duplicates(held, other, self.rarity, jaccard, self.scratch).pairs


def _more_than_asked(sides: Sides) -> list[str]:
    """Return a list with one problem if too many letters are held out, otherwise an empty list. There are two cases:
    more letters are held out than left for training, and the requested number is exceeded by more than OVERSHOOT; or
    more are held out than twice the requested number plus the size of the largest held-out group."""
    letters, held_letters, least = sides.letters, sides.held_letters, sides.least_share
    asked = needed(least, letters)
    leaves_fewer = held_letters > letters - held_letters and held_letters > asked + max(1, OVERSHOOT * letters)
    if held_letters <= 2 * asked and not leaves_fewer:
        return []
    group = largest_group(~sides.held.columns.is_preference, _ties_of(sides))
    if held_letters <= 2 * asked + group.letters and not leaves_fewer:
        return []
    return [
        f"{held_letters:,} of {letters:,} letters are held out ({held_letters / letters:.0%}) where the recipe asks "
        f"for {least:.0%}, and {letters - held_letters:,} are left for training. {group} {group.hint.rstrip('.')}"
    ]


def _ties_of(sides: Sides) -> dict[str, NDArray[np.int64]]:
    """Return a dict from kind of tie to an (n, 2) array of pairs of tied held-out documents. The ties are found as in
    the build."""
    held, train, recipe = sides.held, sides.train, sides.recipe
    texts = held.columns.texts.distinct()
    near = near_duplicates(held.columns.shingles, sides.rarity, recipe.near_duplicate_jaccard, sides.scratch).pairs
    own = OwnShingles.of(texts, sides.boilerplate)
    tied = ties_by_cause(held, near, texts.documents[contained_pairs(texts, own)])
    if recipe.paraphrases and held.vectors is not None:
        tied["paraphrase"] = paraphrase_pairs(held.vectors, held.vectors, recipe.paraphrases.cosine - 2 * ROUNDING)
    if recipe.by_date and len(train.columns):
        tied["text in pieces"] = _pieces_of_newer(held, train, tied.values())
    return tied


def _pieces_of_newer(held: Features, train: Features, tied: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return an (n, 2) array of pairs of held-out documents. The second document contains a piece of the first. The
    first is newer than all training documents, or tied to a document that is; the second is neither."""
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


def _held_out_without_a_newer(sides: Sides) -> list[str]:
    """Return the ids of the held-out documents whose group has no document that is newer than every training document.
    Groups are found as in the build. Groups without a newer document are then compared with all held-out documents
    exhaustively."""
    held, train = sides.held.columns, sides.train.columns
    if not len(train):
        return []
    tied = [*_ties_of(sides).values()]

    def rows_without() -> NDArray[np.int64]:
        component_of = components(len(held), (), tied)
        reaching = component_of[held.days > train.days.max()]
        return np.flatnonzero(~np.isin(component_of, reaching))

    rows = rows_without()
    if rows.size:
        missed = sides.near_duplicates_across(held.shingles.subset(rows), held.shingles)
        tied.append(np.column_stack((rows[missed[:, 0]], missed[:, 1])))
        rows = rows_without()
    return [held.ids[row] for row in rows.tolist()]


def _differences_from_input(documents: Path, artifact: Artifact) -> list[str]:
    """Return the problems if the files together do not have exactly the lines of the input, in the same order."""
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
    """The ties and texts that the two sides of a split share."""

    near_duplicates: int
    contained_texts: dict[str, int]
    """Number of pairs in which one text contains the other, by the fields of the two texts."""
    pieces: Pieces
    problems: tuple[str, ...]
    """For each kind of tie between the sides, a clause with the number of ties and with ids."""


def overlap_of(sides: Sides) -> Overlap:
    """Return the ties and texts that held-out and training documents share."""
    held, train, recipe = sides.held, sides.train, sides.recipe
    possible = np.intersect1d(train.columns.own_keys, held.columns.own_keys)
    ids = {*train.columns.ids_with(possible)} & {*held.columns.ids_with(possible)}
    problems = _problem("id", len(ids), sorted(ids))
    for kind, ties in held.ties.items():
        keys = np.intersect1d(ties.keys, train.ties[kind].keys)
        problems += _problem(kind.replace("_", " "), keys.size, _ids_with(held, ties, keys))

    def crossing(kind: str, pairs: NDArray[np.int64], count: int | None = None) -> list[str]:
        ids = [f"{held.columns.ids[one]} ~ {train.columns.ids[other]}" for one, other in pairs.tolist()]
        return _problem(kind, len(pairs) if count is None else count, ids)

    similar = sides.near_duplicates_across(held.columns.shingles, train.columns.shingles)
    problems += crossing("near-duplicate pair", similar)
    texts = crossing_texts(held.columns.texts, train.columns.texts, sides.boilerplate)
    fields = ", ".join(f"{count:,} {name}" for name, count in texts.by_fields.items() if count)
    problems += [f"{problem}, by field: {fields}" for problem in crossing("contained text", texts.documents)]
    pieces = in_pieces(held.columns.texts, train.columns.texts, held.memory)
    problems += crossing("text in pieces", pieces.documents, np.unique(pieces.documents[:, 0]).size)
    if recipe.paraphrases and held.vectors is not None and train.vectors is not None:
        pairs = paraphrase_pairs(held.vectors, train.vectors, recipe.paraphrases.cosine)
        problems += crossing("paraphrase pair", pairs)
    return Overlap(len(similar), texts.by_fields, pieces, tuple(problems))


def shared_with_held_out(workplace: Workplace, split: Artifact, earlier: Artifact) -> list[str]:
    """Return a clause for each kind of tie between the held-out or selection side of one split and the training side of
    an earlier split. The sides are compared as in the gate, with the recipe of the workplace's line. Raises
    IntegrityError or NotFoundError if a necessary ancestor of either split cannot be opened.
    """
    recipe = workplace.line.split

    def read(of: Artifact, file: Path, scratch: Path) -> Features:
        author_keys = author_keys_of(workplace, workplace.store.open_input(of.manifest, SCRUBBED_CORPUS.kind))
        return read_features(file, recipe, author_keys, scratch, workplace.progress, workplace.line.corpus)

    problems: list[str] = []
    with workplace.store.workspace() as scratch:
        train = read(earlier, earlier.file(TRAIN), scratch)
        for _, file, _ in untrained(split, scratch):
            problems += overlap_of(Sides.of(read(split, file, scratch), train, recipe, scratch)).problems
    return problems


def _ids_with(side: Features, ties: Ties, keys: NDArray[np.uint64]) -> list[str]:
    return [side.columns.ids[row] for row in np.unique(ties.rows[np.isin(ties.keys, keys)]).tolist()]


def _problem(kind: str, count: int, ids: Sequence[str]) -> list[str]:
    return [f"{count:,} {kind}{' crosses' if count == 1 else 's cross'} ({and_more(ids)})"] if count else []


# --- the proof --------------------------------------------------------------------------------------------------------

Proof = dict[str, Any]
"""The content of `proof.json`. It contains no text of documents. The keys have the same order as in the file.

`selection` is the proof of a second split, which divides the documents that are not held out. In that proof, `held_out`
means the selection side.
"""


def proof_of(columns: Columns, assignment: Assignment, recipe: Split) -> Proof:
    """Return the parameters and counts of a split, and the evidence that no group is on two sides. A component's size
    is its number of documents. Only pairs of documents on the same side are counted."""
    is_held_out, is_letter = assignment.is_held_out, ~columns.is_preference
    rows, letters = _side_counts(is_held_out), _side_counts(is_held_out[is_letter])
    similar, texts = assignment.similar, assignment.check.texts
    sizes = np.bincount(assignment.component_of, minlength=len(columns))
    largest = int(sizes.argmax())  # a component is identified by the number of its first document
    proof = {
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
        "preferences": {side: count - letters[side] for side, count in rows.items()},
        "held_out_share_of_letters": round(letters["held_out"] / sum(letters.values()), 6),
        "components": {
            "count": int((sizes > 0).sum()),
            "held_out": int(np.unique(assignment.component_of[is_held_out]).size),
            "largest": {
                "rows": int(sizes[largest]),
                "first_id": columns.ids[largest],
                "side": "held_out" if is_held_out[largest] else "train",
            },
        },
        "near_duplicates": {
            "pairs": len(similar.pairs) + assignment.late_pairs,
            "copies": similar.copies,
            "candidates_compared": similar.candidates,
            "rows_in_large_buckets": similar.rows_in_large_buckets,
            "found_by_exhaustive_check_only": assignment.late_pairs,
        },
        "crossing": assignment.check.found,
        "crossing_check": {
            "near_duplicates": "every pair across the sides that prefix, size and position do not rule out, exactly",
            "recall": 1.0,
            "pairs_compared": assignment.check.compared,
        },
        "contained_texts": {
            "pairs": assignment.contained,
            "boilerplate_above_texts": BOILERPLATE_TEXTS,
            "least_shingles_in_common": LEAST_IN_COMMON,
            # Documents with a long text of mostly boilerplate, for which contained texts cannot be determined.
            "boilerplate_documents": int(assignment.is_boilerplate.sum()),
            "boilerplate_documents_held_out": int((assignment.is_boilerplate & is_held_out).sum()),
            "crossing_by_fields": texts.by_fields,
        },
        "pieces": {
            # Documents that were tied or are held out last, because others contain half of a text in pieces.
            "documents": assignment.in_pieces,
            "least_share": SHARE,
            "letters_of_a_run": assignment.check.pieces.letters,
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


def _side_counts(is_held_out: NDArray[np.bool_]) -> dict[str, int]:
    return {"train": int((~is_held_out).sum()), "held_out": int(is_held_out.sum())}


def _with_selection(proof: Proof, inner: Proof) -> Proof:
    """Return a proof with the proof of the selection side added. The counts in the result cover three sides."""
    sides = {
        name: {
            "train": inner[name]["train"],
            **({"selection": taken} if (taken := inner[name]["held_out"]) else {}),
            "held_out": proof[name]["held_out"],
        }
        for name in ("rows", "letters", "preferences")
    }
    return {**proof, **sides, "selection": inner}


def json_of_proof(proof: Proof) -> str:
    return json.dumps(proof, indent=2) + "\n"


NO_CROSSING_GROUPS = Gate(
    name="no_crossing_groups",
    question=(
        "Do the sides share no case, link, author (where asked), near-duplicate or contained text, whole or in "
        "pieces, and is enough held out?"
    ),
    code_version="4",
    evaluate=evaluate_no_crossing_groups,
    config=lambda line: {**_config(line), "least_held_out_share": MIN_SHARE},
)
LEAKAGE_SAFE_SPLIT = Stage(
    kind="leakage_safe_split",
    code_version="4",
    build=build_leakage_safe_split,
    inputs=(SCRUBBED_CORPUS,),
    reads_corpus=lambda line: True,
    config=_config,
    libraries=("numpy", "rensa", "scipy"),
    gates=(NO_CROSSING_GROUPS,),
)
