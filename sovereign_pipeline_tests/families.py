"""A tiny configuration of each family of models, for tests that must not leave one out."""

from typing import Any

from sovereign_pipeline_tests.tiny_model import EOS_ID

COMMON: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
    "eos_token_id": EOS_ID,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
# Windows far shorter than a row, so that a mask that does not start again with each row would show.
SLIDING: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16}
GEMMA3: dict[str, Any] = {**SLIDING, "query_pre_attn_scalar": 16, "final_logit_softcapping": 2.0}
GEMMA4: dict[str, Any] = {
    **SLIDING,
    "global_head_dim": 32,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 400,
    "num_kv_shared_layers": 0,
    "final_logit_softcapping": 2.0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA = {f"mamba_{name}": size for name, size in {"d_ssm": 64, "n_heads": 4, "d_head": 16, "d_state": 16}.items()}
EYES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
MLP = {f"mlp.{name}_proj" for name in ("gate", "up", "down")}
PER_LAYER = {"per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"}
FUSED = {"experts", "experts.base_layer"}


def configuration(name: str) -> tuple[Any, set[str]]:
    """The configuration, and the ends of the names of the modules that `all-linear` must reach in it."""
    import transformers as t

    if name == "gemma3_with_vision":
        eyes = {**EYES, "image_size": 28, "patch_size": 14}
        both = {"text_config": {**COMMON, **GEMMA3}, "vision_config": eyes, "mm_tokens_per_image": 4}
        return t.Gemma3Config(**both, tie_word_embeddings=True), ATTENTION | MLP
    if name == "gemma4_with_vision":
        eyes = {**EYES, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 4}
        both = {"text_config": {**COMMON, **GEMMA4}, "vision_config": eyes}
        return t.Gemma4Config(**both, audio_config=None, tie_word_embeddings=True), ATTENTION | MLP | PER_LAYER
    if name == "falcon":
        without = {
            key: value for key, value in COMMON.items() if key not in ("num_key_value_heads", "intermediate_size")
        }
        falcon = t.FalconConfig(**without, num_kv_heads=2, new_decoder_architecture=True, alibi=False, bias=False)
        attention = {"self_attention.query_key_value", "self_attention.dense"}
        return falcon, attention | {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}
    kinds: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
        "llama": (t.LlamaConfig, {}, ATTENTION | MLP),
        "mistral": (t.MistralConfig, {"sliding_window": 8}, ATTENTION | MLP),
        "qwen3": (t.Qwen3Config, {"head_dim": 16}, ATTENTION | MLP),
        "gemma3": (t.Gemma3TextConfig, GEMMA3, ATTENTION | MLP),
        "gemma4": (t.Gemma4TextConfig, GEMMA4, ATTENTION | MLP | PER_LAYER),
        "gemma4_moe": (
            t.Gemma4TextConfig,
            {**GEMMA4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
            ATTENTION | MLP | PER_LAYER | FUSED | {"router.proj"},
        ),
        "mixtral": (
            t.MixtralConfig,
            {"num_local_experts": 4, "intermediate_size": 64},
            ATTENTION | {f"mlp.{name}" for name in FUSED} | {"mlp.gate"},
        ),
        "qwen3_moe": (
            t.Qwen3MoeConfig,
            {**EXPERTS, "head_dim": 16},
            ATTENTION | {f"mlp.{name}" for name in FUSED} | {"mlp.gate"},
        ),
        "falcon_h1": (
            t.FalconH1Config,
            {**MAMBA, "mamba_n_groups": 1, "mamba_chunk_size": 16},
            ATTENTION | {f"feed_forward.{name}_proj" for name in ("gate", "up", "down")} | {"mamba.in_proj"},
        ),
    }
    config, changes, reached = kinds[name]
    return config(**{**COMMON, **changes}), reached


PACKED = (
    "llama",
    "mistral",
    "qwen3",
    "gemma3",
    "gemma3_with_vision",
    "gemma4",
    "gemma4_moe",
    "gemma4_with_vision",
    "mixtral",
    "qwen3_moe",
    "falcon",
)
