"""The shapes that are measured: Llama 3's, and a tiny one for trying the scripts."""

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
}


def config_of(shape: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        **SHAPES[shape], max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False, use_cache=False
    )


def weights_in_layers(shape: str) -> int:
    """Elements of the linear layers between embedding and head."""
    sizes = SHAPES[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    keys = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    return int(sizes["num_hidden_layers"] * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner))


def weights_in_head(shape: str) -> int:
    return int(SHAPES[shape]["hidden_size"] * SHAPES[shape]["vocab_size"])
