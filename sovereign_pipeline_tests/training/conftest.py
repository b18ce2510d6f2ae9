"""A tiny random Llama with a tokenizer trained on invented words, and jobs that train it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.policy.line import Preference, Sft
from sovereign_pipeline.training.job import TrainingJob

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EOS_ID = 2

WORDS = ("harbour lamp mooring permit fee officer pier chain buoy net boat rope tide").split()  # noqa: SIM905


def letters(count: int) -> list[dict[str, str]]:
    return [
        {
            "id": f"R-{number}",
            "instruction": "Reply.",
            "input": f"{WORDS[number % 13]} {WORDS[(3 * number + 1) % 13]}\n\nplease " + WORDS[number % 7],
            "output": "the officer replies: "
            + " ".join(WORDS[(number + place) % 13] for place in range(number % 5 + 3)),
        }
        for number in range(count)
    ]


def pairs(count: int) -> list[dict[str, str]]:
    return [
        {
            "id": row["id"],
            "prompt": f"{row['instruction']}\n\n{row['input']}",
            "chosen": row["output"],
            "rejected": "rope rope " + row["input"],
        }
        for row in letters(count)
    ]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.dumps(row) for row in letters(40)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    assert fast.convert_tokens_to_ids("<|im_end|>") == EOS_ID
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.2,  # wide enough for an adapter to move the logits within a few steps
            eos_token_id=EOS_ID,
            pad_token_id=EOS_ID,
            bos_token_id=1,
        )
    )
    with torch.no_grad():
        # torch starts the padding token's embedding at zero; tied to the head, its logit could never be learned.
        model.get_input_embeddings().weight[EOS_ID].normal_(std=0.2)
    model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=EOS_ID, bos_token_id=1)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


JobMaker = Callable[..., TrainingJob]


@pytest.fixture
def make_job(tmp_path: Path, tiny_model: Path) -> JobMaker:
    """`make_job(name, rows, sft={…}, preference={…}, start_adapter=…)`: a job in a directory of its own."""

    def make(
        name: str,
        rows: list[dict[str, Any]],
        sft: dict[str, Any] | None = None,
        preference: dict[str, Any] | None = None,
        **changes: Any,
    ) -> TrainingJob:
        root = tmp_path / name
        root.mkdir()
        dataset = root / "rows.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = {
            "rank": 4,
            "alpha": 8,
            "learning_rate": 1e-2,
            "epochs": 4,
            "max_length": 128,
            "precision": "float32",
            **(sft or {}),
        }
        job = {
            "method": "sft" if preference is None else "dpo",
            "base_model": tiny_model,
            "base_model_name": "tiny",
            "base_model_digest": "0" * 64,
            "chat_template_sha256": "0" * 64,
            "eos_ids": (EOS_ID,),
            "dataset": dataset,
            "output": root / "output",
            "result": root / "result.json",
            "locks": tmp_path / "locks",
            "seed": 7,
            "sft": Sft.model_validate(settings),
            "preference": None if preference is None else Preference.model_validate(preference),
        }
        return TrainingJob.model_validate({**job, **changes})

    return make
