"""A tiny random Llama with a chat template, saved as an ordinary model directory: for tests that need a model, not a
good one. And a tokenizer without a model, for tests that only count."""

import json
from collections.abc import Iterable
from pathlib import Path

import yaml

from sovereign_pipeline.base.files import file_sha256

EOS_ID = 2

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_model(directory: Path, texts: Iterable[str], max_length: int = 512, heads: int = 4) -> Path:
    """The tokenizer is trained on the given texts. Vocabulary 400, hidden size 64, 2 layers."""
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
    tokenizer.train_from_iterator(texts, trainer)
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
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=max_length,
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
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def save_byte_tokenizer(directory: Path) -> Path:
    """A tokenizer for which every byte of UTF-8 is one token, written by hand: nothing heavy is imported for it."""
    # GPT-2's printable stand-ins for bytes (Radford et al. 2019), which the ByteLevel pre-tokenizer maps to.
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + place) for place in range(len(others))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for number, token in enumerate(SPECIAL_TOKENS)
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate([*SPECIAL_TOKENS, *letters])},
            "merges": [],
        },
    }
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "chat_template": TEMPLATE,
        },
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "eos_token_id": EOS_ID},
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


def write_card(data: Path, name: str, directory: Path) -> None:
    """A card of a public model in a data root, which names the files of its directory as they are now."""
    card = {
        "name": name,
        "licence": "own",
        "classification": "PUBLIC",
        "source": {"directory": str(directory)},
        "files": {file.name: file_sha256(file) for file in directory.iterdir()},
    }
    (data / "models").mkdir(parents=True, exist_ok=True)
    (data / "models" / f"{name}.yaml").write_text(yaml.safe_dump(card))
