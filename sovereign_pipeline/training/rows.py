"""Encode rows as token ids with their supervised parts, check and pack the rows, and store them in a memory-mapped
file.

The trainer and the gates encode with the same functions. The mapped file contains document text as tokens. It is
unlinked once it is mapped, so it does not outlive the process.
"""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, overload

from sovereign_pipeline.base.errors import TrainingFailed, WorkerKilled
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.processes import WorkerPool, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import Countdown, and_more
from sovereign_pipeline.base_models.chat_text import chat_text, encode_text
from sovereign_pipeline.base_models.tool_form import ToolForm, tool_form_of
from sovereign_pipeline.dataset.jsonl import is_letter, user_message
from sovereign_pipeline.training.devices import on_this_machine
from sovereign_pipeline.training.job import TrainingJob

IGNORED = -100
"""Label that PyTorch's cross entropy ignores."""
IDS_IN_A_MESSAGE = 5
PAIR = ("chosen", "rejected")
"""Columns of a preference pair that contain its replies."""
SUPERVISED_SHARE = (0.01, 0.97)
"""Allowed range of the supervised share of tokens. Below this range, nearly all computation is spent on unsupervised
tokens. Above this range, prompts are most likely supervised too."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and a reply as token ids. The loss is computed over the reply's tokens only, end of turn included.

    In a conversation, the reply runs from the first supervised turn to the last. Unsupervised messages between
    supervised turns are gaps. In the rows of a dataset, only the number of ids is in memory; the ids are read from a
    file on each use (`StoredIds`).
    """

    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    gaps: Sequence[int] = ()
    """Start and end index of each unsupervised part of `reply_ids`, as a flat sequence: start, end, start, end, …"""

    @property
    def ids(self) -> list[int]:
        return [*self.prompt_ids, *self.reply_ids]

    @property
    def labels(self) -> list[int]:
        labels = [IGNORED] * len(self.prompt_ids) + list(self.reply_ids)
        for start, end in zip(self.gaps[::2], self.gaps[1::2], strict=True):
            labels[len(self.prompt_ids) + start : len(self.prompt_ids) + end] = [IGNORED] * (end - start)
        return labels

    @property
    def turns(self) -> list[tuple[int, int]]:
        """Start and end index of each supervised turn in `reply_ids`."""
        edges = [0, *self.gaps, len(self.reply_ids)]
        return [*zip(edges[::2], edges[1::2], strict=True)]

    @property
    def supervised(self) -> int:
        return sum(end - start for start, end in self.turns)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.reply_ids)


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row of a dataset as token ids."""

    id: str
    completions: tuple[Completion, ...]
    """One completion for SFT and KTO. For a pair two completions with the same prompt ids: chosen, then rejected."""
    desirable: bool | None = None
    """Binary feedback on the reply, for KTO; None for all other methods."""
    turn: int | None = None
    """Position of this row's reply among the conversation's messages, counted from 1. None unless each turn is a
    separate row."""
    dropped: int = 0
    """Number of messages that were omitted at the beginning of the conversation to fit `max_length`."""

    @property
    def longest(self) -> int:
        return max(len(completion) for completion in self.completions)

    @property
    def tokens(self) -> int:
        return sum(len(completion) for completion in self.completions)

    @property
    def supervised(self) -> int:
        return sum(completion.supervised for completion in self.completions)


@dataclass(frozen=True)
class RowsForTraining:
    """The rows to train on, as selected by `guard`, and the rows that are too long."""

    rows: tuple[EncodedRow, ...]
    cut: tuple[str, ...]
    """Ids of rows above the length limit. These rows are skipped instead of truncated, because a row without its end
    teaches the model not to stop."""


def encode(
    tokenizer: Any, method: str, row: Mapping[str, Any], eos_ids: Sequence[int], max_length: int | None = None
) -> EncodedRow:
    """Encode a row: a prompt with one reply, or with a pair of replies. `method` decides the expected type of the row:
    SftRow (sft), LabelRow (kto), or PreferenceRow. If the row exceeds `max_length`, the earliest messages of the prompt
    are omitted. If no shorter prompt fits either, nothing is omitted. Raises the errors of `encode_completion`."""
    if method == "sft":
        prompt, replies = user_message(row["instruction"], row["input"]), [row["output"]]
    else:
        prompt, replies = row["prompt"], [row[name] for name in (["completion"] if method == "kto" else PAIR)]
    prompts = [(0, prompt)] if isinstance(prompt, str) else _shorter_and_shorter(prompt, row.get("instruction", ""))

    def attempts() -> Iterator[EncodedRow]:
        for dropped, asked in prompts:
            encoded = (
                encode_completion(tokenizer, row["id"], asked, reply, eos_ids, row.get("tools", ()))
                for reply in replies
            )
            yield EncodedRow(row["id"], tuple(encoded), row.get("label"), dropped=dropped)

    return _first_that_fits(attempts(), max_length)


def encode_turns(
    tokenizer: Any,
    method: str,
    row: Mapping[str, Any],
    eos_ids: Sequence[int],
    max_length: int | None = None,
    supervise: Literal["all", "last"] = "all",
) -> list[EncodedRow]:
    """Encode a row of any type. A conversation becomes one row if, for each supervised turn, the tokens of the turn's
    prompt are a prefix of the conversation's tokens. Otherwise each supervised turn becomes a row with its own prompt.

    supervise: `last` trains on the last message only. Raises TrainingFailed if no turn is supervised, and the errors of
    `encode_completion`.
    """
    if "messages" not in row:
        return [encode(tokenizer, method, row, eos_ids, max_length)]
    messages, last = row["messages"], len(row["messages"]) - 1
    supervised = [
        place
        for place, each in enumerate(messages)
        if each["role"] == "assistant" and each.get("weight", 1) and (supervise == "all" or place == last)
    ]
    if not supervised:
        raise TrainingFailed(
            f"Row {row['id']}: none of the assistant's messages would be trained on.",
            "Remove the row, give its last message the weight 1, or set training.sft.supervise: all.",
        )

    def encoded(replies: Sequence[int]) -> EncodedRow | None:
        marked = [{**each, "weight": int(place in replies)} for place, each in enumerate(messages[: replies[-1] + 1])]

        def attempts() -> Iterator[EncodedRow | None]:
            for dropped, left in _shorter_and_shorter(marked, row.get("instruction", "")):
                completion = _encode_marked(tokenizer, row["id"], left, eos_ids, row.get("tools", ()))
                yield None if completion is None else EncodedRow(row["id"], (completion,), dropped=dropped)

        return _first_that_fits(attempts(), max_length)

    if (whole := encoded(supervised)) is not None:
        return [whole]
    apart = []
    for place in supervised:
        if (row_of_turn := encoded([place])) is None:
            raise _formats_differ(row["id"])
        apart.append(replace(row_of_turn, turn=place + 1))
    return apart


def exchanged(rows: Sequence[EncodedRow]) -> list[Completion]:
    """Combine each row's prompt with the reply of the previous row, and the first prompt with the last reply. KTO uses
    these mismatched completions to estimate the KL divergence between policy and reference (Ethayarajh et al. 2024,
    section 4.1)."""
    return [
        Completion(row.completions[0].prompt_ids, before.completions[0].reply_ids)
        for row, before in zip(rows, [rows[-1], *rows[:-1]], strict=True)
    ]


def without_end_of_turn(rows: Iterable[EncodedRow], eos_ids: Sequence[int]) -> list[str]:
    """Return the ids of the rows in which the last token of a supervised turn is not an end-of-turn id."""

    def is_unended(completion: Completion) -> bool:
        ids = completion.reply_ids if len(completion.turns) == 1 else list(completion.reply_ids)
        return any(start == end or ids[end - 1] not in eos_ids for start, end in completion.turns)

    return [row.id for row in rows if any(map(is_unended, row.completions))]


def guard(rows: Sequence[EncodedRow], max_length: int, max_cut_share: float, eos_ids: Sequence[int]) -> RowsForTraining:
    """Select the rows of at most `max_length` tokens. Raises TrainingFailed if there are no rows, a supervised turn
    does not end in one of `eos_ids`, a reply is empty, the supervised share is outside `SUPERVISED_SHARE`, the replies
    of a pair are equal, all labels (KTO) are equal, or all rows or more than `max_cut_share` of them are too long."""
    if not rows:
        raise TrainingFailed("The dataset has no rows.", "Check the split and the sources of the line.")
    unended = without_end_of_turn(rows, eos_ids)
    if unended:
        raise TrainingFailed(
            f"In {len(unended)} of {len(rows)} rows a turn's last supervised token is not one of the base model's "
            f"end-of-turn ids {list(eos_ids)} (rows {_some(unended)}). The adapter would not learn to stop.",
            "Correct eos_token_id in the model's generation_config.json, or correct the model's chat template.",
        )
    turns = ((row.id, turn) for row in rows for each in row.completions for turn in each.turns)
    empty = list(dict.fromkeys(row_id for row_id, (start, end) in turns if end - start < 2))
    if empty:
        raise TrainingFailed(f"{len(empty)} rows have an empty reply (rows {_some(empty)}).", "Remove these rows.")
    share = sum(row.supervised for row in rows) / sum(row.tokens for row in rows)
    if not SUPERVISED_SHARE[0] <= share <= SUPERVISED_SHARE[1]:
        raise TrainingFailed(
            f"{share:.1%} of all tokens are supervised, outside {SUPERVISED_SHARE[0]:.0%} to "
            f"{SUPERVISED_SHARE[1]:.0%}. Replies are much shorter than prompts, or prompts are supervised too.",
            "Look at the supervised part of a row, and correct the sources' columns.",
            act="show_mask",
            file="RECIPE",
        )
    pairs = ((row.id, *row.completions) for row in rows if len(row.completions) == 2)
    alike = [row_id for row_id, chosen, rejected in pairs if chosen.reply_ids == rejected.reply_ids]
    if alike:
        raise TrainingFailed(
            f"In {len(alike)} pairs the chosen and the rejected reply have the same tokens (rows {_some(alike)}).",
            "Remove these rows from the source.",
        )
    labels = {row.desirable for row in rows}
    if None not in labels and len(labels) == 1:
        raise TrainingFailed(
            f"All {len(rows)} replies are labelled {'good' if True in labels else 'bad'}, but kto needs both labels.",
            "Add replies with the other label to the source, or train on pairs.",
        )
    cut = [row.id for row in rows if row.longest > max_length]
    if len(cut) == len(rows) or len(cut) / len(rows) > max_cut_share:
        raise TrainingFailed(
            f"{len(cut)} of {len(rows)} rows are longer than max_length {max_length} tokens (rows {_some(cut)}), above "
            f"max_cut_share {max_cut_share:.1%}. The longest row has {max(row.longest for row in rows)} tokens.",
            "Raise max_length, or raise training.sft.max_cut_share to train without these rows.",
        )
    return RowsForTraining(tuple(row for row in rows if row.longest <= max_length), tuple(cut))


def pack(rows: Sequence[EncodedRow], max_length: int) -> list[list[EncodedRow]]:
    """Pack rows into packs of at most `max_length` tokens, with the first-fit decreasing algorithm. A longer row is not
    truncated but gets its own pack. Rows of equal length keep their order.

    This function is for forward passes without a backward pass. Training uses `plan.packs_alike`.
    """
    # A tree finds the first pack with enough room, even among a million. Its leaves are packs, including empty packs,
    # and node n has the larger room of nodes 2n and 2n+1.
    leaves = 1 << max(0, len(rows) - 1).bit_length()
    room = [max_length] * (2 * leaves)
    packs: list[list[EncodedRow]] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        needed = min(row.tokens, max_length)
        node = 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= needed else 2 * node + 1
        if node - leaves == len(packs):
            packs.append([])
        packs[node - leaves].append(row)
        room[node] -= needed
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return packs


def encode_completion(
    tokenizer: Any,
    row_id: str,
    prompt: str | Sequence[Mapping[str, Any]],
    reply: str | Sequence[Mapping[str, Any]],
    eos_ids: Sequence[int],
    tools: Sequence[Mapping[str, Any]] = (),
) -> Completion:
    """Encode a prompt and a reply with the chat template. Tokens that the template adds after the reply's end of turn
    are not part of the reply. Raises TrainingFailed if the template rejects the messages, does not render their tools,
    or formats the prompt differently with and without the reply.

    Args:
        prompt: text of the user, or messages.
        reply: text of the assistant, or a list of one message.
    """
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answered = [{"role": "assistant", "content": reply}] if isinstance(reply, str) else reply
    marked = [*({**each, "weight": 0} for each in asked), *({**each, "weight": 1} for each in answered)]
    completion = _encode_marked(tokenizer, row_id, marked, eos_ids, tools)
    if completion is None:
        raise _formats_differ(row_id)
    return completion


def _formats_differ(row_id: str) -> TrainingFailed:
    return TrainingFailed(
        f"Row {row_id}: the chat template formats the prompt differently with and without a reply. Training would "
        f"differ from serving.",
        "Use a chat template that formats the prompt the same way in both cases.",
    )


def _encode_marked(
    tokenizer: Any,
    row_id: str,
    messages: Sequence[Mapping[str, Any]],
    eos_ids: Sequence[int],
    tools: Sequence[Mapping[str, Any]],
) -> Completion | None:
    """Encode a conversation. Turns with weight 1 are trained on, and the last turn must be one of them. For each such
    turn, two token sequences must be prefixes of the conversation's tokens: the turn's prompt, and the conversation up
    to and including that turn. Otherwise training would differ from serving, and the result is None."""

    def ids_of(end: int, add_generation_prompt: bool = False) -> list[int]:
        return _rendered(tokenizer, row_id, messages[:end], tools, add_generation_prompt)

    whole = ids_of(len(messages))
    edges: list[int] = []
    for place, message in enumerate(messages):
        if not message["weight"]:
            continue
        asked = ids_of(place, add_generation_prompt=True)
        answered = whole if place == len(messages) - 1 else ids_of(place + 1)
        if whole[: len(answered)] != answered or answered[: len(asked)] != asked:
            return None
        ends = [end for end in range(len(asked), len(answered)) if answered[end] in eos_ids]
        edges += [len(asked), ends[-1] + 1 if ends else len(answered)]
    gaps = [edge - edges[0] for edge in edges[1:-1]]
    return Completion(whole[: edges[0]], whole[edges[0] : edges[-1]], gaps)


def _rendered(
    tokenizer: Any,
    row_id: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
) -> list[int]:
    from jinja2 import TemplateError

    has_tools = bool(tools) or any(each["role"] == "tool" or each.get("tool_calls") for each in messages)
    if has_tools and _tool_form(tokenizer, str(tokenizer.chat_template)) is None:
        raise TrainingFailed(
            f"Row {row_id}: the row has tools, but the base model's chat template does not render tools, calls with "
            f"JSON arguments, and results.",
            "Choose a base model whose chat template renders tools, or remove such rows.",
        )
    try:
        text = chat_text(tokenizer, messages, tools, add_generation_prompt)
    except (TemplateError, TypeError) as error:
        # The error may quote the row. Its text is shown only if it is part of the template itself.
        reason = f" ({error})" if str(error) and str(error) in str(tokenizer.chat_template) else ""
        raise TrainingFailed(
            f"Row {row_id}: the base model's chat template rejects the row's messages{reason}.",
            "Remove such rows, or choose a base model whose chat template formats them.",
        ) from None
    return encode_text(tokenizer, text)


@lru_cache(maxsize=1)
def _tool_form(tokenizer: Any, template: str) -> ToolForm | None:
    return tool_form_of(tokenizer)


def _shorter_and_shorter(
    messages: Sequence[Mapping[str, Any]], instruction: str
) -> Iterator[tuple[int, Sequence[Mapping[str, Any]]]]:
    """Yield ever shorter versions of the conversation, each with the number of omitted messages: first the whole
    conversation, then versions that start at a later user message. The system message stays. The first user message of
    the whole conversation begins with `instruction`, so each shorter version gets `instruction` in its first user
    message."""
    yield 0, messages
    head = next((place for place, each in enumerate(messages) if each["role"] != "system"), 0)
    for place, message in enumerate(messages):
        if place > head and message["role"] == "user":
            first = {**message, "content": user_message(instruction, message["content"])}
            yield place - head, [*messages[:head], first, *messages[place + 1 :]]


@overload
def _first_that_fits(attempts: Iterator[EncodedRow], max_length: int | None) -> EncodedRow: ...


@overload
def _first_that_fits(attempts: Iterator[EncodedRow | None], max_length: int | None) -> EncodedRow | None: ...


def _first_that_fits(attempts: Iterator[EncodedRow | None], max_length: int | None) -> EncodedRow | None:
    """Return the first row that fits into `max_length`. If no row fits, return the first row; `guard` then counts it as
    too long. If the first attempt is None, return None."""
    whole = next(attempts)
    if whole is None or max_length is None or whole.longest <= max_length:
        return whole
    return next((each for each in attempts if each is not None and each.longest <= max_length), whole)


def _some(ids: Sequence[str]) -> str:
    return and_more(ids, IDS_IN_A_MESSAGE)


ROWS_A_BATCH = 256
"""Number of rows that are encoded and written together."""
ROWS_WORTH_A_WORKER = 10_000
"""Number of rows that justify one worker. A worker needs four seconds of CPU time to start, and encodes about 500 rows
of 600 tokens per second."""
MOST_WORKERS = 8
"""Maximum number of workers. One process writes all results, and each worker loads its own tokenizer."""
REPLIES = ("reply_ids", "rejected_ids")
"""Columns of a row's replies. The second column exists for pairs only."""
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True, eq=False)
class StoredIds(Sequence[int]):
    """The token ids of one prompt or reply in the mapped file. Only the number of ids is in memory; the ids are read on
    each access."""

    column: Any = field(repr=False)
    """Column of the mapped file. The field is not in the repr, because the column contains document text."""
    place: int
    """Index of the row in the column."""
    length: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(self._read())

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> list[int]: ...

    def __getitem__(self, place: int | slice) -> int | list[int]:
        return self._read()[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def _read(self) -> list[int]:
        ids: list[int] = self.column[self.place].values.to_numpy().tolist()
        return ids


def stored_rows(
    job: TrainingJob,
    dataset: Path,
    tokenizer: Any,
    progress: Callable[[str], None],
    check_stop: Callable[[], None],
) -> list[EncodedRow]:
    """Encode a dataset of the job. Returns the rows in the order of its file.

    check_stop: function that is called between two batches, and raises after a stop request. Raises TrainingFailed for
    a row that `encode_turns` rejects, WorkerKilled if a worker was killed, and the errors of `mapped`.
    """
    with dataset.open("rb") as lines:
        count = sum(1 for _ in lines)
    if count == 0:
        return []
    countdown = Countdown(progress, "encoding the dataset", count, "row")

    def encoded() -> Iterator[Any]:
        done = 0
        try:
            for batch in _encoded_batches(job, dataset, tokenizer, count):
                yield batch
                done += batch.num_rows
                countdown.reached(min(done, count))  # a conversation may be several rows
                check_stop()
        except WorkerKilled:
            check_stop()  # the same SIGTERM may have killed a worker that had just started
            raise

    stored = mapped(job, encoded())
    return list(_rows(stored.data))


def mapped(job: TrainingJob, batches: Iterable[Any], dataset_class: Any = None) -> Any:
    """Write the Arrow tables (at least one) to a file beside the job's output, memory-map the file, and unlink it.
    Returns the mapped tables as a `datasets.Dataset`. dataset_class: a subclass of `datasets.Dataset` to return
    instead. Raises TrainingFailed if the disk is full."""
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    directory = job.output.parent
    try:
        with NamedTemporaryFile(dir=directory, suffix=".arrow") as file:
            # Without this fingerprint, datasets would hash the data in memory. Nothing is cached by fingerprint here.
            with ArrowWriter(path=file.name, fingerprint=digest_of([job.identity, job.dataset.name])) as writer:
                for batch in batches:
                    writer.write_table(batch)
                writer.finalize()
            return (dataset_class or Dataset).from_file(file.name)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        raise TrainingFailed(
            f"{directory}: the encoded rows were not written ({error.strerror}; "
            f"{shutil.disk_usage(directory).free / 1e6:,.0f} MB free). The rows need 4 bytes per token while the "
            f"trainer runs; TRL's trainers store them twice.",
            "Free disk space, and run again.",
        ) from error


def in_tables(rows: Iterable[dict[str, list[int]]]) -> Iterator[Any]:
    """Yield the rows as Arrow tables, for `mapped`. All rows must have the same columns."""
    import pyarrow

    left = iter(rows)
    while batch := list(islice(left, ROWS_A_BATCH)):
        token_ids = pyarrow.list_(pyarrow.int32())
        yield pyarrow.Table.from_pylist(batch, pyarrow.schema([(name, token_ids) for name in batch[0]]))


def _rows(table: Any) -> Iterator[EncodedRow]:
    """Yield the rows of a mapped file. table: the file's columns, as a table of the library `datasets`."""
    from pyarrow import compute

    replies = [name for name in REPLIES if name in table.column_names]
    columns = {name: table.column(name) for name in ("prompt_ids", *replies)}
    lengths = {name: compute.list_value_length(column).to_pylist() for name, column in columns.items()}
    facts = zip(table.column("id").to_pylist(), table.column("desirable").to_pylist(), strict=True)
    further = [table.column(name).to_pylist() for name in ("gaps", "turn", "dropped") if name in table.column_names]
    for place, (row_id, desirable) in enumerate(facts):
        ids = {name: StoredIds(column, place, lengths[name][place]) for name, column in columns.items()}
        gaps, *others = [column[place] for column in further] or [()]
        completions = tuple(Completion(ids["prompt_ids"], ids[name], gaps) for name in replies)
        yield EncodedRow(row_id, completions, desirable, *others)


def _encoded_batches(job: TrainingJob, dataset: Path, tokenizer: Any, count: int) -> Iterator[Any]:
    """Yield Arrow tables of the rows. Several processes encode a large dataset, and this process writes their
    results."""
    cores = len(os.sched_getaffinity(0)) // on_this_machine(job)
    workers = min(cores, count // ROWS_WORTH_A_WORKER, MOST_WORKERS)
    with dataset.open(encoding="utf-8", newline="\n") as lines:
        batches = iter(lambda: list(islice(lines, ROWS_A_BATCH)), [])
        first = next(batches)
        batches = chain([first], batches)
        settings = (
            job.method,
            job.eos_ids,
            job.tuning.max_length,
            job.sft.supervise,
            not is_letter(json.loads(first[0])),
        )
        if workers < 2:
            yield from map(partial(_table, tokenizer, *settings), batches)
            return
        # Workers are spawned. datasets would fork, and forked workers that outlive this process would keep its locks.
        with WorkerPool(workers, _begin_worker, job.base_model, settings) as pool:
            yield from pool.over(batches, _encode_in_worker)


def _table(
    tokenizer: Any,
    method: str,
    eos_ids: tuple[int, ...],
    max_length: int,
    supervise: Literal["all", "last"],
    of_conversations: bool,
    lines: list[str],
) -> Any:
    """Encode one or more lines of a dataset file as an Arrow table."""
    import pyarrow

    contents = [json.loads(line) for line in lines]
    rows = [each for row in contents for each in encode_turns(tokenizer, method, row, eos_ids, max_length, supervise)]
    if not of_conversations and any(each.turn or each.completions[0].gaps for each in rows):
        raise ValueError("a file of single-turn documents contains a conversation with several turns")
    token_ids = pyarrow.list_(pyarrow.int32())
    columns = {
        "id": pyarrow.array([row.id for row in rows], pyarrow.string()),
        "desirable": pyarrow.array([row.desirable for row in rows], pyarrow.bool_()),
        "prompt_ids": pyarrow.array([row.completions[0].prompt_ids for row in rows], token_ids),
    }
    for place, name in enumerate(REPLIES[: len(rows[0].completions)]):
        columns[name] = pyarrow.array([row.completions[place].reply_ids for row in rows], token_ids)
    if of_conversations:
        columns["gaps"] = pyarrow.array([row.completions[0].gaps for row in rows], token_ids)
        columns["turn"] = pyarrow.array([row.turn for row in rows], pyarrow.int32())
        columns["dropped"] = pyarrow.array([row.dropped for row in rows], pyarrow.int32())
    return pyarrow.table(columns)


# --- in a worker process ---------------------------------------------------------------------------------------------

_encoder: Callable[[list[str]], Any]  # set by `_begin_worker`, once in each process


def _begin_worker(base_model: Path, settings: tuple[Any, ...]) -> None:
    global _encoder
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the trainer ends its workers, also after a stop request
    go_offline()
    silence()
    from transformers import AutoTokenizer

    _encoder = partial(_table, AutoTokenizer.from_pretrained(base_model), *settings)


def _encode_in_worker(lines: list[str]) -> Any:
    return _encoder(lines)
