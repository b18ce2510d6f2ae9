"""From rows to token ids with their supervised part, and the guards on them before anything is trained.

Trainer and gates encode with the same functions, so what a gate judges is what was trained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sovereign_pipeline.dataset.formats import LabelRow, PreferenceRow, SftRow, user_message
from sovereign_pipeline.errors import TrainingFailed

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
IDS_IN_A_MESSAGE = 5
# Below, nearly all work goes into tokens that teach nothing; above, prompts are most likely trained too.
SUPERVISED_SHARE = (0.01, 0.97)


@dataclass(frozen=True)
class Completion:
    """A prompt and one reply to it as token ids. The loss is on the reply's tokens alone, its end of turn included."""

    prompt_ids: list[int]
    reply_ids: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.reply_ids

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * len(self.prompt_ids) + self.reply_ids

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.reply_ids)


@dataclass(frozen=True)
class EncodedRow:
    """completions: one for SFT and KTO; chosen, then rejected, for pairs (both with the same prompt ids).
    desirable: for KTO, whether people found the reply good."""

    id: str
    completions: tuple[Completion, ...]
    desirable: bool | None = None

    @property
    def longest(self) -> int:
        return max(len(completion) for completion in self.completions)

    @property
    def tokens(self) -> int:
        return sum(len(completion) for completion in self.completions)

    @property
    def supervised(self) -> int:
        return sum(len(completion.reply_ids) for completion in self.completions)


@dataclass(frozen=True)
class RowsForTraining:
    """cut: ids of the rows that are longer than the limit. They are left out: a row without its end teaches the model
    not to stop."""

    rows: tuple[EncodedRow, ...]
    cut: tuple[str, ...]


def encode_sft(tokenizer: Any, row: SftRow, eos_ids: Sequence[int]) -> EncodedRow:
    prompt = user_message(row["instruction"], row["input"])
    return EncodedRow(row["id"], (_complete(tokenizer, row["id"], prompt, row["output"], eos_ids),))


def encode_preference(tokenizer: Any, row: PreferenceRow, eos_ids: Sequence[int]) -> EncodedRow:
    return EncodedRow(
        row["id"],
        tuple(
            _complete(tokenizer, row["id"], row["prompt"], reply, eos_ids) for reply in (row["chosen"], row["rejected"])
        ),
    )


def encode_label(tokenizer: Any, row: LabelRow, eos_ids: Sequence[int]) -> EncodedRow:
    completion = _complete(tokenizer, row["id"], row["prompt"], row["completion"], eos_ids)
    return EncodedRow(row["id"], (completion,), row["label"])


def encode(tokenizer: Any, method: str, row: dict[str, object], eos_ids: Sequence[int]) -> EncodedRow:
    if method == "sft":
        return encode_sft(tokenizer, cast(SftRow, row), eos_ids)
    if method == "kto":
        return encode_label(tokenizer, cast(LabelRow, row), eos_ids)
    return encode_preference(tokenizer, cast(PreferenceRow, row), eos_ids)


def exchanged(rows: Sequence[EncodedRow]) -> list[Completion]:
    """Each row's prompt with the reply of the row before it, the first with the last's: pairs that do not belong
    together, from which KTO estimates how far the policy is from the reference (Ethayarajh et al. 2024, section 4.1).
    """
    return [
        Completion(row.completions[0].prompt_ids, before.completions[0].reply_ids)
        for row, before in zip(rows, [rows[-1], *rows[:-1]], strict=True)
    ]


def without_end_of_turn(rows: Iterable[EncodedRow], eos_ids: Sequence[int]) -> list[str]:
    """Ids of the rows with a completion whose last supervised token does not end the turn."""
    return [
        row.id
        for row in rows
        if any(not each.reply_ids or each.reply_ids[-1] not in eos_ids for each in row.completions)
    ]


def guard(rows: Sequence[EncodedRow], max_length: int, max_cut_share: float, eos_ids: Sequence[int]) -> RowsForTraining:
    """The rows that may be trained on. Raises TrainingFailed, in one paragraph, when the data cannot be trusted."""
    if not rows:
        raise TrainingFailed("There are no rows to train on. Look at the split and at the sources of the line.")
    unended = without_end_of_turn(rows, eos_ids)
    if unended:
        raise TrainingFailed(
            f"In {len(unended)} of {len(rows)} rows the last supervised token is none of the end-of-turn ids "
            f"{list(eos_ids)} of the base model (rows {_some(unended)}), so the adapter would not learn to stop. "
            f"Correct eos_token_id in the model's generation_config.json, or its chat template."
        )
    empty = [row.id for row in rows if any(len(each.reply_ids) < 2 for each in row.completions)]
    if empty:
        raise TrainingFailed(f"{len(empty)} rows have an empty reply (rows {_some(empty)}). Remove them.")
    share = sum(row.supervised for row in rows) / sum(row.tokens for row in rows)
    if not SUPERVISED_SHARE[0] <= share <= SUPERVISED_SHARE[1]:
        raise TrainingFailed(
            f"{share:.1%} of all tokens are supervised, outside {SUPERVISED_SHARE[0]:.0%} to "
            f"{SUPERVISED_SHARE[1]:.0%}: the replies are next to nothing beside their prompts, or prompts are trained "
            f"as well. Look at a row with `sovereign lines check FILE --show-mask` and correct the sources' columns."
        )
    alike = [row.id for row in rows if len(row.completions) == 2 and _alike(*row.completions)]
    if alike:
        raise TrainingFailed(
            f"In {len(alike)} pairs chosen and rejected are the same tokens (rows {_some(alike)}), so there is nothing "
            f"to prefer. Remove them from the source."
        )
    labels = {row.desirable for row in rows}
    if None not in labels and len(labels) == 1:
        raise TrainingFailed(
            f"All {len(rows)} replies are labelled {'good' if True in labels else 'bad'}; kto needs both. Add the "
            f"other kind to the source, or train on pairs."
        )
    cut = [row.id for row in rows if row.longest > max_length]
    if len(cut) == len(rows) or len(cut) / len(rows) > max_cut_share:
        raise TrainingFailed(
            f"{len(cut)} of {len(rows)} rows are longer than max_length {max_length} tokens (rows {_some(cut)}), more "
            f"than max_cut_share {max_cut_share:.1%} accepts. The longest has {max(row.longest for row in rows)}. "
            f"Raise max_length, or training.sft.max_cut_share to train without them."
        )
    return RowsForTraining(tuple(row for row in rows if row.longest <= max_length), tuple(cut))


def pack(rows: Sequence[EncodedRow], max_length: int) -> list[list[EncodedRow]]:
    """First-fit decreasing: rows together in packs of at most `max_length` tokens. None is cut; ties go by order."""
    packs: list[list[EncodedRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        place = next((index for index, left in enumerate(room) if row.tokens <= left), None)
        if place is None:
            packs.append([])
            room.append(max_length)
            place = len(packs) - 1
        packs[place].append(row)
        room[place] -= row.tokens
    return packs


def _complete(tokenizer: Any, row_id: str, prompt: str, reply: str, eos_ids: Sequence[int]) -> Completion:
    """Encode with the chat template. What a template puts after the end of the turn is not part of the reply."""
    asked = [{"role": "user", "content": prompt}]
    answered = [*asked, {"role": "assistant", "content": reply}]
    prompt_ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(answered, return_dict=False)
    if ids[: len(prompt_ids)] != prompt_ids:
        raise TrainingFailed(
            f"Row {row_id}: the chat template does not show the prompt alike with and without a reply, so training "
            f"would differ from serving. Use a template that does."
        )
    reply_ids = ids[len(prompt_ids) :]
    ends = [place for place, token in enumerate(reply_ids) if token in eos_ids]
    return Completion(prompt_ids, reply_ids[: ends[-1] + 1] if ends else reply_ids)


def _alike(chosen: Completion, rejected: Completion) -> bool:
    return chosen.reply_ids == rejected.reply_ids


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:IDS_IN_A_MESSAGE]) + (", …" if len(ids) > IDS_IN_A_MESSAGE else "")
