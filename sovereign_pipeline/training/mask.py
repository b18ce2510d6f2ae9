"""Decode one row as the trainer encodes it, and separate the supervised text from the rest. The text is for display
only, and is not written to a log or artifact."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.files import digest_of, short
from sovereign_pipeline.corpus.document import Document, exchange, read_jsonl
from sovereign_pipeline.dataset.jsonl import CONVERSATION_ROWS, LABEL_ROWS, PREFERENCE_ROWS, TRAINING_ROWS, sft_row
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.dataset.tokens import BaseTokenizer, tokenizer_digests
from sovereign_pipeline.policy.rlhf import Tuning
from sovereign_pipeline.policy.training import Training
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.training.rows import EncodedRow, encode, encode_turns

# Control characters could move the terminal's cursor and hide text. Each is replaced by its Unicode control picture.
_AS_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}

_SAMPLE = Document(
    id="sample",
    source="sample",
    case="",
    department="",
    author="",
    date="2024-01-15",
    classification="",
    language="en",
    subject="Lamp on the pier",
    messages=exchange(
        "Sir, the lamp on the pier has been dark since Monday. When will it be mended?",
        "The lamp will be mended on Thursday. Thank you for your letter.",
    ),
)


@dataclass(frozen=True)
class MaskedCompletion:
    """A completion decoded to text."""

    name: str
    """`reply`, `chosen`, `rejected`, or `message N` if each turn of a conversation is a separate row."""
    parts: tuple[tuple[str, str], ...]
    """For each supervised turn: the text between the previous supervised turn and this turn, and the text of this turn.
    Both include the chat template's special tokens."""
    prompt_tokens: int
    supervised_tokens: int
    end_ids: tuple[int | None, ...]
    """For each supervised turn: its last token id if that is an end-of-turn id, otherwise None."""
    dropped: int
    """Number of messages omitted at the beginning of the conversation."""
    max_length: int
    """Length limit of the stage that trains on the row, in tokens."""

    @property
    def is_cut(self) -> bool:
        return self.prompt_tokens + self.supervised_tokens > self.max_length


@dataclass(frozen=True)
class MaskedRow:
    """A row decoded to text."""

    id: str
    origin: str
    """Text that says which dataset or example the row is from, for display."""
    completions: tuple[MaskedCompletion, ...]
    """One completion for a single reply; two for a pair (chosen, then rejected); or one for each supervised turn."""


def masked_row(workplace: Workplace, row_id: str | None) -> MaskedRow:
    """Encode a row of the line's current datasets as the trainer does, and decode it to text. If `row_id` is None, use
    the first row of training_dataset. If the line has no dataset, use an invented document, and say so in `origin`.
    Raises NotFoundError if no dataset contains the row, and IntegrityError if a dataset or the tokenizer was changed.
    """
    tokenizer_digests(workplace)
    tokenizer, ends = BaseTokenizer(workplace).loaded
    made = []
    for stage, file, method, tuning in _datasets(workplace.line.training):
        ref = workplace.store.current(workplace.line.line, stage.kind)
        if ref is None:
            continue
        made.append(ref.kind)
        artifact = workplace.store.open(ref)
        if file not in {entry.path for entry in artifact.manifest.files}:
            continue  # an earlier recipe had a preference method that uses a different file
        for row in read_jsonl(artifact.file(file)):
            if row_id in (None, row["id"]):
                origin = f"{file} of the line's current {ref.kind} {short(ref.digest)}"
                if artifact.manifest.producer.config_sha256 != digest_of(stage.config_at(workplace)):
                    origin += ", which was built from another recipe; run the line to build it again"
                supervise = workplace.line.training.sft.supervise
                rows = encode_turns(tokenizer, method, row, sorted(ends), tuning.max_length, supervise)
                masked = (each for encoded in rows for each in _masked(tokenizer, ends, encoded, tuning))
                return MaskedRow(rows[0].id, origin, tuple(masked))
    if made or row_id is not None:
        raise NotFoundError(
            f"Line {workplace.line.line}: row '{row_id or ''}' is in none of the trainer's datasets ("
            f"{', '.join(made) or 'none has been built yet'}). Held-out and quarantined rows are never in a dataset.",
            "Run the line to build its datasets." if not made else "Check the id.",
            act="run_line",
            line=workplace.line.line,
        )
    encoded = encode(tokenizer, "sft", sft_row(_SAMPLE, workplace.line.training.instruction), sorted(ends))
    origin = "an invented document with the line's instruction: the line has no training_dataset yet"
    return MaskedRow(encoded.id, origin, tuple(_masked(tokenizer, ends, encoded, workplace.line.training.sft)))


def _datasets(training: Training) -> Iterator[tuple[Stage, str, str, Tuning]]:
    """Yield four values for each file of rows in the line's datasets: the dataset's stage, the file name, the training
    method, and the recipe section of the training on these rows."""
    for file in (TRAINING_ROWS, CONVERSATION_ROWS):
        yield TRAINING_DATASET, file, "sft", training.sft
    if training.preference is not None:
        for file in (LABEL_ROWS if training.preference.method == "kto" else PREFERENCE_ROWS, CONVERSATION_ROWS):
            yield PREFERENCE_DATASET, file, training.preference.method, training.preference
    if training.reward_model is not None:
        for file in (PREFERENCE_ROWS, CONVERSATION_ROWS):
            yield PREFERENCE_DATASET, file, "reward", training.reward_model


def _masked(tokenizer: Any, ends: frozenset[int], row: EncodedRow, tuning: Tuning) -> Iterator[MaskedCompletion]:
    one = "reply" if row.turn is None else f"message {row.turn}"
    names = (one,) if len(row.completions) == 1 else ("chosen", "rejected")

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).translate(_AS_PICTURES)

    for name, completion in zip(names, row.completions, strict=True):
        ids, offset = completion.ids, len(completion.prompt_ids)
        turns = [(offset + start, offset + end) for start, end in completion.turns]
        behind = [0, *(end for _, end in turns[:-1])]
        yield MaskedCompletion(
            name=name,
            parts=tuple(
                (text(ids[at:start]), text(ids[start:end])) for at, (start, end) in zip(behind, turns, strict=True)
            ),
            prompt_tokens=len(completion) - completion.supervised,
            supervised_tokens=completion.supervised,
            end_ids=tuple(ids[end - 1] if start < end and ids[end - 1] in ends else None for start, end in turns),
            dropped=row.dropped,
            max_length=tuning.max_length,
        )
