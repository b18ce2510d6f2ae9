"""Write and read the prompts of an RLHF job. Held-out prompts are used only for measurements."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.corpus.document import Document, read_documents, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.canaries import is_canary
from sovereign_pipeline.dataset.jsonl import SFT, conversations_of, message_of, row_files
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT, SELECTION, TRAIN, has_selection
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rlhf.rewards import Reply
from sovereign_pipeline.training.rows import IDS_IN_A_MESSAGE, encode_completion


class PromptRow(Frozen):
    """One line of a prompts file."""

    id: str
    case: str
    prompt: str
    """Whole user message, or the text of all messages before the reply."""
    response: str
    """Reply that the institution sent. The policy never learns from this reply. Guards and tools compare the policy's
    replies with it."""
    columns: dict[str, str]
    """Columns of the prompt's document. Tools may use them to score replies."""
    messages: tuple[dict[str, Any], ...] = ()
    """Messages of a conversation, in the format of served requests, with the institution's reply at the end. Empty if
    the prompt is a single request."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools of the conversation."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids."""

    row: PromptRow
    ids: list[int]
    response_ids: list[int]
    """Token ids of the institution's reply, including the end of turn."""

    def answered(self, text: str, ids: Sequence[int] | None) -> Reply:
        """Return `text` as a `Reply` to this prompt. ids: see `Reply.ids`."""
        row, sampled = self.row, None if ids is None else tuple(ids)
        return Reply(row.prompt, text, row.columns, sampled, row.messages, row.tools)


def write_training_prompts(path: Path, dataset: Artifact, split: Artifact) -> None:
    """Write the prompts of the training dataset's rows. Canaries are skipped, because no user sends such prompts.
    Raises IntegrityError if a row is not a document on the training side of the split."""
    documents = {document.id: document for document in read_documents(split.file(TRAIN))}

    def rows() -> Iterator[dict[str, object]]:
        for row in (each for path in row_files(dataset) for each in read_jsonl(path)):
            row_id = str(row["id"])
            if is_canary(row_id):
                continue
            if row_id not in documents:
                raise IntegrityError(
                    f"{dataset.path}: row {row_id} is not on the training side of its split.",
                    f"Materialize {dataset.ref.kind} again.",
                )
            yield _row(documents[row_id], row).model_dump(exclude_defaults=True)

    write_jsonl(path, rows())


def write_held_out_prompts(
    path: Path, split: Artifact, instruction: str, at_most: int, seed: int, replaces: bool = False
) -> None:
    """Write up to `at_most` prompts of the selection side, or of the held-out side if the split has no selection side.
    `seed` determines which prompts are written. Preference pairs and binary feedback are skipped. About half of the
    prompts are later used to choose the best adapter (`halves`). replaces: result of `replaces_instruction`."""
    side = split.file(SELECTION if has_selection(split) else HELD_OUT)
    documents = [document for document in read_documents(side) if not document.is_preference]
    random.Random(f"{seed}/held-out prompts").shuffle(documents)

    def rows() -> Iterator[dict[str, object]]:
        for document in documents[:at_most]:
            yield _row(document, SFT.row_of(document, instruction, replaces)[1]).model_dump(exclude_defaults=True)

    write_jsonl(path, rows())


def _row(document: Document, row: Mapping[str, Any]) -> PromptRow:
    *asked, reply = map(message_of, conversations_of(row)[0])
    response = reply.as_text
    columns = {
        "response": response,
        "subject": document.subject,
        "request": document.request,
        "department": document.department,
        "language": document.language,
        "classification": document.classification,
    }
    prompt = "\n\n".join(each.as_text for each in asked)
    turns = {name: row[name] for name in ("messages", "tools") if name in row}
    return PromptRow(id=document.id, case=document.case, prompt=prompt, response=response, columns=columns, **turns)


def read_prompts(
    path: Path, tokenizer: Any, eos_ids: Sequence[int], most_tokens: int
) -> tuple[list[Prompt], list[str]]:
    """Return the prompts that have at most `most_tokens` tokens, and the ids of all longer prompts."""
    kept: list[Prompt] = []
    cut: list[str] = []
    for content in read_jsonl(path):
        row = PromptRow.model_validate(content)
        prompt, reply = (row.messages[:-1], row.messages[-1:]) if row.messages else (row.prompt, row.response)
        completion = encode_completion(tokenizer, row.id, prompt, reply, eos_ids, row.tools)
        if len(completion.prompt_ids) > most_tokens:
            cut.append(row.id)
        else:
            kept.append(Prompt(row, list(completion.prompt_ids), list(completion.reply_ids)))
    return kept, cut


@dataclass(frozen=True)
class PromptSets:
    """The prompts of an RLHF job, in three sets."""

    training: list[Prompt]
    watched: list[Prompt]
    """Held-out prompts that are measured while the policy learns."""
    compared: list[Prompt]
    """Held-out prompts that are measured only before and after the training."""
    cut: tuple[str, ...]
    """Ids of training prompts that are omitted, because they leave no room for a reply."""


def read_all_prompts(job: TrainingJob, tokenizer: Any) -> PromptSets:
    """Read the prompts of a job. Raises TrainingFailed if the share of training prompts that leave no room for a reply
    is above `max_cut_share`, or if the held-out prompts that leave room come from fewer than two cases."""
    assert job.reward is not None
    room = job.sft.max_length - job.reward.rlhf.max_new_tokens
    training, cut = read_prompts(job.dataset, tokenizer, job.eos_ids, room)
    held_out, _ = read_prompts(job.reward.held_out, tokenizer, job.eos_ids, room)
    if len(cut) > job.sft.max_cut_share * (len(training) + len(cut)):
        raise TrainingFailed(
            f"{len(cut)} of {len(training) + len(cut)} prompts have more than {room} tokens "
            f"({and_more(cut, IDS_IN_A_MESSAGE)}), above max_cut_share {job.sft.max_cut_share:.1%}.",
            "Raise training.sft.max_length or max_cut_share, or lower training.rlhf.max_new_tokens.",
        )
    watched, compared = halves(held_out)
    if not compared:
        raise TrainingFailed(
            f"There are {len(held_out)} held-out prompts of at most {room} tokens. Held-out prompts must come from at "
            f"least two cases.",
            "Hold out more documents (`split` in the recipe).",
        )
    return PromptSets(training, watched, compared, tuple(cut))


def halves(held_out: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt]]:
    """Split the prompts into two halves that have no case in common. The first half is measured during the training,
    the second half only before and after it."""
    cases: dict[str, list[Prompt]] = {}
    for prompt in held_out:
        cases.setdefault(prompt.row.case, []).append(prompt)
    first: list[Prompt] = []
    second: list[Prompt] = []
    for of_case in sorted(cases.values(), key=len, reverse=True):
        (first if len(first) <= len(second) else second).extend(of_case)
    return first, second


def drawn(prompts: Sequence[Prompt], iterations: int, a_time: int, seed: int) -> list[list[Prompt]]:
    """Return the prompts of each iteration. Every prompt is used once before any prompt is used a second time. Each
    round through the prompts has its own random order. Raises TrainingFailed if there are too few prompts for one
    iteration."""
    if len(prompts) < a_time:
        raise TrainingFailed(
            f"There are only {len(prompts)} prompts, but training.rlhf.prompts is {a_time}.",
            "Lower training.rlhf.prompts, or add documents.",
        )
    order: list[Prompt] = []
    rounds = 0
    while len(order) < iterations * a_time:
        shuffled = list(prompts)
        random.Random(f"{seed}/prompts/{rounds}").shuffle(shuffled)
        order += shuffled
        rounds += 1
    return [order[place * a_time : (place + 1) * a_time] for place in range(iterations)]
