"""`sovereign lines check FILE`: what it warns of, and the mask view, which must show what the trainer supervises."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.document import Document, Message, read_jsonl
from sovereign_pipeline.dataset.jsonl import row_files
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.dataset.tokens import BaseTokenizer
from sovereign_pipeline.record.stage import Stage
from sovereign_pipeline.training.rows import IGNORED, encode
from sovereign_pipeline_tests.conftest import A_LABEL, DemoInstitution, letter
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.split.chain import Change, materialize, split_stage
from sovereign_pipeline_tests.tiny_model import EOS_ID, write_card

Check = Callable[..., Result]


@pytest.fixture
def check(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setenv("SOVEREIGN_HOME", str(institution.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(institution.settings.data))
    institution.write_items("red_team/judge_labels.jsonl", [A_LABEL])

    def run(*arguments: str) -> Result:
        institution.write()
        file = institution.settings.data / "lines" / "lamps.yaml"
        return CliRunner().invoke(app, ["lines", "check", str(file), *arguments])

    return run


def with_pairs(institution: DemoInstitution) -> None:
    described = {"path": "sources/pairs.jsonl", "licence": "own", "retention": "1 year"}
    institution.recipe["sources"].append({"name": "pairs", "role": "preferences", **described})
    institution.recipe["training"]["preference"] = {}
    pairs = [letter(100 + number, rejected=f"No lamp {number}.") for number in range(30)]
    institution.write_items("sources/pairs.jsonl", pairs)


def made(institution: DemoInstitution, stage: Stage, *changes: Change) -> list[dict[str, Any]]:
    """The rows of the line's current dataset of a stage."""
    artifact, _ = materialize(institution.workplace(), replace(stage, inputs=(split_stage(*changes),)))
    return [row for path in row_files(artifact) for row in read_jsonl(path)]


def test_what_stands_between_the_marks_is_what_has_labels(institution: DemoInstitution, check: Check) -> None:
    rows = made(institution, TRAINING_DATASET)
    tokenizer, _ = BaseTokenizer(institution.workplace()).loaded
    for row, named in ((rows[0], ()), (rows[7], ("--row", str(rows[7]["id"])))):
        shown = check("--show-mask", *named)
        assert shown.exit_code == 0, shown.output
        (completion,) = encode(tokenizer, "sft", row, [EOS_ID]).completions
        supervised = [token for token in completion.labels if token != IGNORED]
        (between,) = re.findall("⟦(.*)⟧", shown.stdout, re.DOTALL)
        assert between == tokenizer.decode(supervised) == f"{row['output']}<|im_end|>"
        before = shown.stdout[: shown.stdout.index("⟦")]
        assert before.endswith(f"{row['instruction']}\n\n{row['input']}<|im_end|>\n<|im_start|>assistant\n")
        assert f"{len(completion.prompt_ids)} prompt tokens, {len(supervised)} supervised tokens" in before
        assert f"ends in an end-of-turn id: yes (id {EOS_ID})" in before
        assert f"Row {row['id']} · train.jsonl of the line's current training_dataset" in before


def with_a_second_reply(document: Document) -> Document:
    first, reply = document.messages
    last = (Message(role="user", content="Which one?"), Message(role="assistant", content="The third."))
    return document.model_copy(update={"messages": (first, reply, *last)})


@pytest.mark.parametrize("stage", [TRAINING_DATASET, PREFERENCE_DATASET])
def test_each_turn_of_a_conversation_is_between_marks(institution: DemoInstitution, check: Check, stage: Stage) -> None:
    with_pairs(institution)
    institution.recipe["training"]["preference"] = {"max_length": 200}
    row = made(institution, stage, with_a_second_reply)[0]
    shown = check("--show-mask", "--row", row["id"]).stdout
    between = re.findall("⟦([^⟧]*)⟧", shown)
    if stage is TRAINING_DATASET:
        assert between == [f"{row['messages'][place]['content']}<|im_end|>" for place in (1, 3)]
        assert f"supervised tokens in 2 turns; ends in an end-of-turn id: yes (id {EOS_ID})" in shown
        assert "user\nWhich one?<|im_end|>" in shown and "conversations.jsonl of the line's current" in shown
        institution.recipe["training"]["sft"] = {"supervise": "last", "max_length": 120}
        shown = check("--show-mask", "--row", row["id"]).stdout
        assert re.findall("⟦([^⟧]*)⟧", shown) == between[1:]
        assert "the first 2 messages are left out, to fit max_length 120" in shown
    else:
        assert between == [f"{row[name][0]['content']}<|im_end|>" for name in ("chosen", "rejected")]
        assert shown.count("Which one?") == 2


def test_a_pair_of_a_reward_model_is_shown(institution: DemoInstitution, check: Check) -> None:
    """The line learns by reward, so that only its reward model is trained on pairs."""
    with_pairs(institution)
    training = institution.recipe["training"]
    del training["preference"]
    training["reward_model"] = {"max_length": 300}
    training["rlhf"] = {"algorithm": "ppo", "reward": [{"name": "preferred", "reward_model": True}]}
    pair = made(institution, PREFERENCE_DATASET)[0]
    shown = check("--show-mask", "--row", str(pair["id"])).stdout
    assert re.findall("⟦(.*?)⟧", shown, re.DOTALL) == [f"{pair[side]}<|im_end|>" for side in ("chosen", "rejected")]


def test_before_any_dataset_is_made_an_invented_letter_shows_instruction_and_template(
    institution: DemoInstitution, check: Check
) -> None:
    institution.recipe["training"]["instruction"] = "Answer in one sentence."
    shown = check("--show-mask").stdout
    assert "an invented document" in shown and "no training_dataset yet" in shown
    assert "<|im_start|>user\nAnswer in one sentence.\n\nLamp on the pier" in shown
    with pytest.raises(NotFoundError, match="none has been built yet"):
        raise check("--show-mask", "--row", "R-00001").exception or AssertionError("it was shown")


def test_a_row_that_is_not_trained_on_too_long_does_not_end_or_is_of_another_recipe_says_so(
    institution: DemoInstitution, check: Check
) -> None:
    trained = {row["id"] for row in made(institution, TRAINING_DATASET)}
    held_out = next(row["id"] for row in institution.rows if row["id"] not in trained)
    answer = check("--show-mask", "--row", held_out)
    assert isinstance(answer.exception, NotFoundError) and held_out in str(answer.exception)
    assert isinstance(check("--row", "R-00001").exception, InputError)
    assert "another recipe" not in check("--show-mask").stdout
    institution.recipe["training"]["instruction"] = "Answer in one sentence."
    assert "built from another recipe" in check("--show-mask").stdout
    institution.recipe["training"]["sft"] = {"max_length": 64}
    assert "longer than max_length 64, so the trainer skips it" in check("--show-mask").stdout
    config = institution.settings.data / "models" / "tiny" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_bytes()), "eos_token_id": 7}))
    write_card(institution.settings.data, "tiny", config.parent)
    assert "ends in an end-of-turn id: no, so the trainer rejects the row" in check("--show-mask").stdout


def test_no_control_character_of_a_row_reaches_the_terminal(institution: DemoInstitution, check: Check) -> None:
    from sovereign_pipeline.training.mask import masked_row

    workplace = institution.workplace()
    recipe = workplace.line.model_copy(
        update={"training": workplace.line.training.model_copy(update={"instruction": "Answer.\x1b[2J"})}
    )
    (completion,) = masked_row(replace(workplace, line=recipe), None).completions
    ((prompt, _),) = completion.parts
    assert "Answer.␛[2J" in prompt and "\x1b" not in prompt


def test_what_is_mostly_a_mistake_is_warned_of_and_accepted(institution: DemoInstitution, check: Check) -> None:
    plain = institution.recipe["training"]
    for training, says in examples(__file__, "what_is_mostly_a_mistake_is_warned_of_and_accepted"):
        institution.recipe["training"] = plain | training
        answer = check()
        assert answer.exit_code == 0, answer.output
        warned = [line for line in answer.stdout.splitlines() if line.startswith("• training")]
        assert len(warned) == (0 if says is None else 1) and (says or "") in "".join(warned), training


def test_a_precision_that_another_machine_would_decide_is_warned_of(institution: DemoInstitution, check: Check) -> None:
    institution.rules["trainer"] = {"where": "ray", "address": "http://ray:8265", "python": "/opt/venv/bin/python"}
    (warned,) = (line for line in check().stdout.splitlines() if line.startswith("• training"))
    assert warned.startswith("• training.sft.precision: the pipeline's machine decides")
    institution.recipe["training"]["sft"] = {"precision": "bfloat16"}
    assert "• training" not in check().stdout


def test_the_preference_stage_is_warned_of_too(institution: DemoInstitution, check: Check) -> None:
    with_pairs(institution)
    institution.recipe["training"]["preference"] = {"gradient_accumulation": 40, "learning_rate": 1e-3}
    warned = [line for line in check().stdout.splitlines() if line.startswith("• training")]
    assert [line.split(":")[0] for line in warned] == [
        "• training.preference",
        "• training.preference.learning_rate",
    ]
