"""Conversations as token ids: which turns are supervised under which chat template, and what is left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.base_models.tool_form import for_template
from sovereign_pipeline.dataset.tokens import BaseTokenizer
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rows import Completion, EncodedRow, encode, encode_turns, guard, stored_rows
from sovereign_pipeline_tests.base_models.chat_templates import tokenizer_with
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.trainings import learn, log, report

PAGE = PROJECT_ROOT / "docs" / "benchmarks" / "training.md"
TOOL = {
    "type": "function",
    "function": {
        "name": "fee_for_vessel",
        "description": "Return the fee.",
        "parameters": {"type": "object", "properties": {"length": {"type": "number"}}},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "fee_for_vessel", "arguments": {"length": 12}}}
REASONING = "<think>\nThe tariff has it.\n</think>\n\n"
FAMILIES = {
    "chatml-tools": ("ChatML with tools (ours)", "<|im_end|>"),
    "qwen2_5": ("Qwen 2.5", "<|im_end|>"),
    "qwen3": ("Qwen 3", "<|im_end|>"),
    "qwen3_5_think": ("Qwen 3.5, thinking", "<|im_end|>"),
    "llama3": ("Llama 3", "<|eot_id|>"),
    "llama3_1": ("Llama 3.1", "<|eot_id|>"),
    "gemma3": ("Gemma 3", "<end_of_turn>"),
    "phi3": ("Phi 3", "<|end|>"),
    "mistral": ("Mistral 7B v0.3", "<|im_end|>"),
    "granite": ("Granite 4", "<|end_of_text|>"),
}
MARKS = (
    *("<think>", "</think>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|user|>"),
    *("<|assistant|>", "<|start_of_role|>", "<|end_of_role|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def conversation(kind: str) -> dict[str, Any]:
    reasoning = REASONING if kind == "reasoning" else ""
    calls = [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "name": "fee_for_vessel", "content": "40"},
    ]
    return {
        "id": "C-1",
        "messages": [
            {"role": "user", "content": "What is the fee?"},
            {"role": "assistant", "content": f"{reasoning}For which vessel?"},
            {"role": "user", "content": "The tug Nadia."},
            *(calls if kind == "tools" else []),
            {"role": "assistant", "content": f"{reasoning}It is 40."},
        ],
        **({"tools": [TOOL]} if kind == "tools" else {}),
    }


def family(template: str) -> tuple[Any, list[int]]:
    """A tokenizer that splits text as Llama's and Qwen's do, with the family's marks as tokens; its end of turn."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    tokenizer, end = tokenizer_with(template), FAMILIES[template][1]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(SPLIT), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKS, end]})
    return tokenizer, [tokenizer.convert_tokens_to_ids(end)]


def turns_of(rows: Sequence[EncodedRow]) -> list[tuple[list[int], list[int]]]:
    """The tokens before each supervised turn, and its own."""
    return [
        (each.ids[: len(each.prompt_ids) + start], each.ids[len(each.prompt_ids) :][start:end])
        for row in rows
        for each in row.completions
        for start, end in each.turns
    ]


def of_trl(tokenizer: Any, row: dict[str, Any]) -> list[list[int]] | None:
    """The runs of tokens that `assistant_only_loss` trains; None for a template that TRL cannot mask."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        template = get_training_chat_template(tokenizer)
    except ValueError:
        return None
    found = tokenizer.apply_chat_template(
        for_template(row["messages"]),
        tools=row.get("tools"),
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    runs: list[list[int]] = [[]]
    for token, is_trained in zip(found["input_ids"], found["assistant_masks"], strict=True):
        if is_trained:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def cell(template: str, kind: str) -> str:
    """What the page says of a kind of conversation; compared with TRL on the way."""
    tokenizer, ends = family(template)
    row = conversation(kind)
    try:
        rows = encode_turns(tokenizer, "sft", row, ends)
    except TrainingFailed:
        return "refused"
    ours, theirs = turns_of(rows), of_trl(tokenizer, row)
    assert len(ours) == sum(each["role"] == "assistant" for each in row["messages"])
    assert all(turn[-1] in ends for _, turn in ours)
    count = f"{sum(len(turn) for _, turn in ours)}{'' if len(rows) == 1 else ' by turn'}"
    if theirs is None:
        return count
    for (before, turn), run in zip(ours, theirs, strict=True):
        (place,) = [place for place in range(len(run)) if run[place : place + len(turn)] == turn]
        assert run[:place] == before[len(before) - place :]  # the prompt has given it already
        assert not tokenizer.decode(
            run[place + len(turn) :], skip_special_tokens=True
        ).strip()  # behind the end of turn
    return f"{count} = TRL"


@pytest.mark.parametrize("template", FAMILIES)
def test_the_supervised_tokens_of_each_family_are_those_of_trl(template: str) -> None:
    cells = (cell(template, kind) for kind in ("plain", "reasoning", "tools"))
    assert f"| {FAMILIES[template][0]} | {' | '.join(cells)} |" in PAGE.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def ours() -> tuple[Any, list[int]]:
    return family("chatml-tools")


def texts(tokenizer: Any, rows: Sequence[EncodedRow]) -> list[str]:
    return [tokenizer.decode(turn) for _, turn in turns_of(rows)]


@pytest.mark.parametrize(
    ("supervise", "weights", "trained"),
    [
        ("all", {}, ["For which vessel?", "It is 40."]),
        ("last", {}, ["It is 40."]),
        ("all", {1: 0}, ["It is 40."]),
        ("all", {3: 0}, ["For which vessel?"]),
    ],
)
def test_the_recipe_and_weights_decide_which_turns_are_trained(
    ours: tuple[Any, list[int]], supervise: Any, weights: dict[int, int], trained: list[str]
) -> None:
    tokenizer, ends = ours
    row = conversation("plain")
    for place, weight in weights.items():
        row["messages"][place]["weight"] = weight
    rows = encode_turns(tokenizer, "sft", row, ends, supervise=supervise)
    assert texts(tokenizer, rows) == [f"{each}<|im_end|>" for each in trained]
    (completion,) = rows[0].completions
    assert [label for label in completion.labels if label >= 0] == [i for _, turn in turns_of(rows) for i in turn]
    assert rows[0].supervised == sum(label >= 0 for label in completion.labels)


@pytest.mark.parametrize(
    ("template", "change", "match"),
    [
        ("llama3", {"kind": "tools"}, "C-1: the row has tools"),
        ("chatml-tools", {"weight": 0}, "C-1: none of the assistant's messages"),
        ("gemma3", {"role": "user"}, "C-1: .*alternate user/assistant"),
    ],
)
def test_a_conversation_that_cannot_be_trained_is_named(template: str, change: dict[str, Any], match: str) -> None:
    tokenizer, ends = family(template)
    row = conversation(change.pop("kind", "plain"))
    for message in row["messages"][1:-1] if "role" in change else row["messages"]:
        message |= change
    with pytest.raises(TrainingFailed, match=match):
        encode_turns(tokenizer, "sft", row, ends)


def test_a_long_conversation_loses_whole_turns_at_its_front(ours: tuple[Any, list[int]]) -> None:
    tokenizer, ends = ours
    row = conversation("tools")
    row["messages"][:0] = [{"role": "system", "content": "The tariff of 2026."}]
    row["messages"] += [{"role": "user", "content": "Thanks."}, {"role": "assistant", "content": "Good day."}]
    row |= {"instruction": "Answer briefly."}
    (whole,) = encode_turns(tokenizer, "sft", row, ends)
    dropped = []
    for limit in range(whole.longest, 40, -1):
        (cut,) = encode_turns(tokenizer, "sft", row, ends, limit)
        if cut.longest > limit:
            break
        dropped.append(cut.dropped)
        text = tokenizer.decode(cut.completions[0].ids)
        assert "The tariff of 2026." in text and "Return the fee." in text and text.endswith("Good day.<|im_end|>")
        first = text.split("<|im_start|>")[2]
        assert first.startswith(f"user\n{'Answer briefly.' if cut.dropped else 'What is the fee?'}")
    assert [*dict.fromkeys(dropped)] == [0, 2, 6] and cut.dropped == 0
    assert guard([cut, whole, cut], whole.longest, 0.5, ends).cut == ()
    assert guard([cut, cut, *[encode(tokenizer, "sft", letters(1)[0], ends)] * 4], limit, 0.5, ends).cut == ("C-1",) * 2


def test_every_supervised_turn_must_end(ours: tuple[Any, list[int]]) -> None:
    tokenizer, ends = ours
    (row,) = encode_turns(tokenizer, "sft", conversation("plain"), ends)
    (each,) = row.completions
    start, end = each.turns[0]
    reply = [*each.reply_ids]
    for gaps in ([end - 1, each.gaps[1]], [start, each.gaps[1]]):
        with pytest.raises(TrainingFailed, match="would not learn to stop"):
            guard([EncodedRow("C-1", (Completion(each.prompt_ids, reply, gaps),))], 512, 0.0, ends)
    with pytest.raises(TrainingFailed, match="empty reply"):
        guard([EncodedRow("C-1", (Completion(each.prompt_ids, reply, [end, len(reply) - 1]),))], 512, 0.0, ends)


@pytest.mark.parametrize("template", ["chatml-tools", "qwen3", "llama3_1", "mistral"])
def test_the_dataset_counts_the_tokens_of_the_trainer(template: str) -> None:
    tokenizer, ends = family(template)
    counting = BaseTokenizer(cast(Any, None))
    vars(counting)["loaded"] = tokenizer, frozenset(ends)
    row = conversation("tools")
    rows = encode_turns(tokenizer, "sft", row, ends)
    assert counting.lengths([row]) == [max(each.longest for each in rows)]


@pytest.mark.parametrize("template", ["chatml-tools", "qwen3", "mistral"])
def test_the_prompt_of_a_pair_is_what_both_replies_share(template: str) -> None:
    tokenizer, ends = family(template)
    *prompt, chosen = conversation("tools")["messages"]
    row = {"id": "P-1", "prompt": prompt, "chosen": [chosen], "tools": [TOOL], "label": True}
    row |= {"rejected": [{"role": "assistant", "tool_calls": [CALL]}], "completion": row["chosen"]}
    pair = encode(tokenizer, "dpo", row, ends)
    asked = tokenizer.apply_chat_template(
        for_template(prompt), tools=[TOOL], add_generation_prompt=True, return_dict=False
    )
    assert [each.prompt_ids for each in pair.completions] == [asked, asked]
    good, bad = (tokenizer.decode(each.reply_ids) for each in pair.completions)
    assert good.strip().endswith(f"It is 40.{FAMILIES[template][1]}") and '"fee_for_vessel"' in bad
    assert encode(tokenizer, "kto", row, ends).completions == pair.completions[:1]
    cut = encode(tokenizer, "dpo", row, ends, pair.longest - 1)
    assert cut.dropped == 2 and cut.longest < pair.longest


def chats(count: int) -> list[dict[str, Any]]:
    """Conversations of two letters each, for the tiny model."""
    both = zip(letters(count), reversed(letters(count)), strict=True)
    return [
        {
            "id": f"C-{number}",
            "messages": [
                {"role": role, "content": each[key]}
                for each in pair
                for role, key in (("user", "input"), ("assistant", "output"))
            ],
        }
        for number, pair in enumerate(both)
    ]


@pytest.fixture
def job(make_job: JobMaker, tmp_path: Path) -> TrainingJob:
    path = tmp_path / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chats(12)), encoding="utf-8")
    return make_job("both", letters(10), conversations=path, sft={"epochs": 2, "max_length": 64})


def test_stored_conversations_are_the_encoded_ones(job: TrainingJob, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert job.conversations is not None
    found = stored_rows(job, job.conversations, tokenizer, lambda message: None, lambda: None)
    expected = [each for row in chats(12) for each in encode_turns(tokenizer, "sft", row, [EOS_ID], 64)]
    assert [(each.id, each.turn, each.dropped, each.completions[0].labels) for each in found] == [
        (each.id, each.turn, each.dropped, each.completions[0].labels) for each in expected
    ]
    assert all(each.completions[0].gaps for each in found if not each.dropped)
    assert any(each.dropped for each in found)


def test_letters_and_conversations_are_trained_together(job: TrainingJob) -> None:
    learn(job)
    found = report(job)
    assert found["rows"] == 22 and found["rows_cut"] == 0
    assert found["rows_shortened_ids"] and set(found["rows_shortened_ids"]) < {row["id"] for row in chats(12)}
    assert "rows_by_turn_ids" not in found and 0 < found["supervised_share"] < 0.9
    assert log(job)[-1]["loss"] < log(job)[0]["loss"]
