"""What the forward pass must know of a model, read from transformers' configuration.

Logical names and shapes of the linear layers are those of Phi-3, whatever the checkpoint's own
layout: q, k and v are one matrix, and so are gate and up. Knows nothing of files.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig

from server.model.errors import CheckpointUnsupported
from server.model.rope import RopeConfig, rope_config

MODEL_TYPES = frozenset({"phi3", "llama", "mistral"})
WINDOWED_MODEL_TYPES = frozenset({"phi3", "mistral"})  # Llama's code ignores `sliding_window`
BIASES = ("attention_bias", "mlp_bias", "lm_head_bias")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one model. `sliding_window` w: a token sees itself and the w - 1 before it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    sliding_window: int | None
    tie_word_embeddings: bool
    max_position_embeddings: int
    rope: RopeConfig

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all keys of one token, and of all values."""
        return self.num_kv_heads * self.head_dim

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every linear layer, by logical name."""
        hidden, intermediate = self.hidden_size, self.intermediate_size
        block = {
            "self_attn.qkv_proj": (self.query_size + 2 * self.kv_size, hidden),
            "self_attn.o_proj": (hidden, self.query_size),
            "mlp.gate_up_proj": (2 * intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate),
        }
        shapes = {
            f"model.layers.{layer}.{suffix}": shape
            for layer in range(self.num_layers)
            for suffix, shape in block.items()
        }
        return {**shapes, "lm_head": (self.vocab_size, hidden)}

    def split_parts(self) -> dict[str, tuple[str, int, int]]:
        """Llama's split layers as rows of the fused ones: (fused suffix, first row, num rows)."""
        query, kv, intermediate = self.query_size, self.kv_size, self.intermediate_size
        return {
            "self_attn.q_proj": ("self_attn.qkv_proj", 0, query),
            "self_attn.k_proj": ("self_attn.qkv_proj", query, kv),
            "self_attn.v_proj": ("self_attn.qkv_proj", query + kv, kv),
            "mlp.gate_proj": ("mlp.gate_up_proj", 0, intermediate),
            "mlp.up_proj": ("mlp.gate_up_proj", intermediate, intermediate),
        }


def from_transformers(config: PretrainedConfig) -> ModelConfig:
    """The sizes in `config`. Raises CheckpointUnsupported for what this server does not compute."""
    _refuse_unsupported(config)
    windowed = config.model_type in WINDOWED_MODEL_TYPES
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=config.rms_norm_eps,
        sliding_window=config.sliding_window if windowed else None,
        tie_word_embeddings=config.tie_word_embeddings,
        max_position_embeddings=config.max_position_embeddings,
        rope=rope_config(config),
    )


def _refuse_unsupported(config: PretrainedConfig) -> None:
    name = config.name_or_path
    if config.model_type not in MODEL_TYPES:
        raise CheckpointUnsupported(name, "model_type", config.model_type)
    if config.hidden_act != "silu":
        raise CheckpointUnsupported(name, "hidden_act", config.hidden_act)
    for feature in (*BIASES, "quantization_config"):
        if value := getattr(config, feature, None):
            raise CheckpointUnsupported(name, feature, value)
