"""MODULE DOCSTRING."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import cast

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import jsonl_line, read_documents, read_jsonl
from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.dataset.card import (
    DatasetCard,
)
from sovereign_pipeline.dataset.files import CARD, CARD_FOR_PEOPLE, IDS_IN_A_MESSAGE, MESSAGES_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.formats import (
    MessagesRow,
    read_label_rows,
    sft_row_of,
)
from sovereign_pipeline.dataset.layouts import LABELS, TRAINING, Layout, Row, preference_layout, writes_messages
from sovereign_pipeline.dataset.measuring import Measured, build_card
from sovereign_pipeline.dataset.tokens import tokenizer_digests
from sovereign_pipeline.split.files import HELD_OUT
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT


def _evaluate_card(layout: Layout, workplace: Workplace, artifact: Artifact, inputs: Inputs) -> list[str]:
    """Make rows and card again from the split, and compare; what the card claims is not believed."""
    split = inputs[LEAKAGE_SAFE_SPLIT.kind]
    if artifact.manifest.external_inputs != tokenizer_digests(workplace):
        return ["the base model's tokenizer is another one than when the dataset was made"]
    file = artifact.file(layout.file)
    card = DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())
    names = {entry.path for entry in artifact.manifest.files}
    own = {layout.file, CARD, CARD_FOR_PEOPLE} | ({MESSAGES_ROWS} if writes_messages(layout, workplace.line) else set())
    if names != own:
        return [f"it holds other files than its own ({_some(sorted(names))})"]
    complaints = []
    measured = Measured(layout, workplace, split)
    with file.open(encoding="utf-8", newline="\n") as stream:
        pairs = enumerate(zip_longest(stream, map(jsonl_line, measured.rows())), start=1)
        wrong = [number for number, (line, right) in pairs if line != right]
    if wrong:
        complaints.append(
            f"row {wrong[0]} is not the one that the training side of the split, or the recipe, gives there"
        )
    if MESSAGES_ROWS in names:
        complaints += _evaluate_messages(artifact, workplace.line.training.instruction)
    right_card = build_card(measured, workplace, split, artifact.path)
    if card.file != right_card.file:
        complaints.append(f"the card states another digest, size or number of rows than {layout.file} has")
    differing = [
        name for name in DatasetCard.model_fields if name != "file" and getattr(card, name) != getattr(right_card, name)
    ]
    if differing:
        complaints.append(f"the card is wrong in {', '.join(differing)}")
    if artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8") != card.to_markdown():
        complaints.append(f"{CARD_FOR_PEOPLE} does not say what {CARD} says")
    held_out = {document.id for document in read_documents(split.file(HELD_OUT))}
    leaked = [str(row["id"]) for row in read_jsonl(file) if row.get("id") in held_out]
    if leaked:
        complaints.append(f"{len(leaked)} held-out documents are in it ({_some(leaked)})")
    return complaints


def _evaluate_messages(artifact: Artifact, instruction: str) -> list[str]:
    """Turned back, the messages must be the rows themselves."""
    messages = cast(Iterator[MessagesRow], read_jsonl(artifact.file(MESSAGES_ROWS)))
    pairs = zip_longest(messages, read_jsonl(artifact.file(TRAINING_ROWS)))
    for number, (turns, row) in enumerate(pairs, start=1):
        if turns is None or row is None or not _is_the_same(turns, row, instruction):
            return [f"row {number} of {MESSAGES_ROWS} is not that of {TRAINING_ROWS}"]
    return []


def _is_the_same(turns: MessagesRow, row: Row, instruction: str) -> bool:
    try:
        return dict(sft_row_of(turns, instruction)) == row
    except (ValueError, KeyError):
        return False


def evaluate_training_dataset(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    return _verdict(TRAINING, artifact, _evaluate_card(TRAINING, workplace, artifact, inputs))


def evaluate_preference_dataset(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As for the training dataset. No pair may be equal or have an empty side, which would teach nothing; labelled
    replies must not be empty, and both labels must be there."""
    layout = preference_layout(workplace.line)
    complaints = _evaluate_card(layout, workplace, artifact, inputs)
    of_rows = _evaluate_labels if layout is LABELS else _evaluate_pairs
    return _verdict(layout, artifact, [*complaints, *of_rows(artifact.file(layout.file))])


def _evaluate_pairs(file: Path) -> list[str]:
    equal = []
    empty = []
    for row in read_jsonl(file):
        chosen, rejected = str(row["chosen"]).strip(), str(row["rejected"]).strip()
        if not chosen or not rejected:
            empty.append(str(row["id"]))
        elif chosen == rejected:
            equal.append(str(row["id"]))
    return [
        *([f"chosen and rejected are the same in {len(equal)} rows ({_some(equal)})"] if equal else []),
        *([f"chosen or rejected is empty in {len(empty)} rows ({_some(empty)})"] if empty else []),
    ]


def _evaluate_labels(file: Path) -> list[str]:
    counts = {True: 0, False: 0}
    empty = []
    for row in read_label_rows(file):
        counts[row["label"]] += 1
        if not row["completion"].strip():
            empty.append(row["id"])
    complaints = [f"the reply is empty in {len(empty)} rows ({_some(empty)})"] if empty else []
    if not all(counts.values()):
        complaints.append(
            f"{counts[True]} replies are labelled good and {counts[False]} bad, and KTO needs both on the training side"
        )
    return complaints


def _verdict(layout: Layout, artifact: Artifact, complaints: Sequence[str]) -> Verdict:
    file = artifact.file(layout.file)
    ids = [str(row["id"]) for row in read_jsonl(file)]
    canaries = sum(map(is_canary, ids))
    evidence = {"rows": len(ids) - canaries, "sha256": file_sha256(file), "complaints": len(complaints)}
    if canaries:
        evidence["canaries"] = canaries
    if complaints:
        return Verdict(False, f"{'; '.join(complaints)}.", evidence)
    planted = f" and {canaries} canaries of the recipe" if canaries else ""
    return Verdict(
        True,
        f"{evidence['rows']} rows are exactly those of the training side{planted}; digests and counts agree.",
        evidence,
    )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - IDS_IN_A_MESSAGE} more" if len(names) > IDS_IN_A_MESSAGE else ""
    return ", ".join(names[:IDS_IN_A_MESSAGE]) + more
