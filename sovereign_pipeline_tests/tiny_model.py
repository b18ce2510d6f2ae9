"""A tiny random Llama with a chat template, saved as an ordinary model directory: for tests that need a model, not a
good one."""

from collections.abc import Iterable
from pathlib import Path

EOS_ID = 2

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_model(directory: Path, texts: Iterable[str], max_length: int = 512) -> Path:
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
            num_attention_heads=4,
            num_key_value_heads=2,
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
