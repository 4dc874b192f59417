"""The tensors of a base model in Phi-3's layout, whatever layout its checkpoint has.

Llama-shaped checkpoints hold q, k, v and gate, up as matrices of their own; their rows are laid one
below the other while loading. Every tensor of the files must be known, and of the right shape.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from server.kernels.stacked import Layer
from server.model.config import ModelConfig
from server.model.errors import CheckpointUnsupported
from server.model.tensor_files import TensorFiles, open_tensor_files

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"
LINEAR_FIELDS = {
    "self_attn.qkv_proj": "qkv",
    "self_attn.o_proj": "o",
    "mlp.gate_up_proj": "gate_up",
    "mlp.down_proj": "down",
}
NORM_FIELDS = {"input_layernorm": "input_norm", "post_attention_layernorm": "post_norm"}
DERIVED_SUFFIX = "rotary_emb.inv_freq"  # old checkpoints store these; they follow from the config


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One decoder layer."""

    input_norm: Tensor  # [hidden]
    qkv: Tensor  # [query + key + value sizes, hidden]
    o: Tensor  # [hidden, query size]
    post_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 * intermediate, hidden]
    down: Tensor  # [hidden, intermediate]

    def on(self, keys: Tensor, values: Tensor) -> Layer:
        """The layer, and its part of a cache."""
        return Layer(
            self.input_norm,
            self.qkv,
            self.o,
            self.post_norm,
            self.gate_up,
            self.down,
            keys,
            values,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A whole model. Weights of linear layers are packed, all others as they are stored.

    With tied embeddings `lm_head` is packed of `embed`, which stays beside it.
    """

    embed: Tensor  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [hidden]
    lm_head: Tensor  # [vocab, hidden]

    def linears(self) -> Iterator[tuple[str, Tensor]]:
        """Every linear layer's logical name and weight."""
        for index, layer in enumerate(self.layers):
            for suffix, field in LINEAR_FIELDS.items():
                yield f"model.layers.{index}.{suffix}", getattr(layer, field)
        yield HEAD, self.lm_head


def load_weights(
    checkpoint_dir: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device | str,
    pack: Callable[[Tensor], Tensor],
) -> Weights:
    """The weights in `checkpoint_dir`, in `dtype` on `device`, those of linear layers packed.

    Reads tensor by tensor: beside the result, no more than one stored tensor is in memory. Raises
    CheckpointUnsupported, naming them, for missing, unexpected or misshapen tensors.
    """
    with open_tensor_files(checkpoint_dir) as files:
        parts = _checked_parts(files, config)

        def read(module: str) -> Tensor:
            return files.read_rows(parts[module], dtype, device)

        def layer(index: int) -> LayerWeights:
            prefix = f"model.layers.{index}"
            norms = {field: read(f"{prefix}.{name}") for name, field in NORM_FIELDS.items()}
            linears = {
                field: pack(read(f"{prefix}.{name}")) for name, field in LINEAR_FIELDS.items()
            }
            return LayerWeights(**norms, **linears)

        embed = read(EMBEDDING)
        return Weights(
            embed=embed,
            layers=tuple(layer(index) for index in range(config.num_layers)),
            norm=read(FINAL_NORM),
            lm_head=pack(embed if config.tie_word_embeddings else read(HEAD)),
        )


def stored_parts(checkpoint_dir: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The stored tensors whose rows, one below the other, are each module's weight.

    Raises as `load_weights` does.
    """
    with open_tensor_files(checkpoint_dir) as files:
        return _checked_parts(files, config)


def stored_linears(checkpoint_dir: Path, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Every linear layer's logical name and weight with the values of the files, in fp32.

    Raises as `load_weights` does.
    """
    with open_tensor_files(checkpoint_dir) as files:
        parts = _checked_parts(files, config)
        for name in config.linear_shapes():
            yield name, files.read_rows(parts[name], torch.float32, "cpu")


def _checked_parts(files: TensorFiles, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The stored tensors that make up each module's weight, all of them there and in shape."""
    parts = _stored_parts(config, files.file_of.keys())
    _refuse_misfits(files, {name: shape for own in parts.values() for name, shape in own.items()})
    names = {module: tuple(own) for module, own in parts.items()}
    if config.tie_word_embeddings:
        _refuse_other_head(files)
        names[HEAD] = names[EMBEDDING]
    return names


def _stored_parts(config: ModelConfig, stored: Set[str]) -> dict[str, dict[str, Shape]]:
    """Name and shape of the stored tensors that make up the weight of each module, in order."""
    parts = {module: {f"{module}.weight": s} for module, s in _module_shapes(config).items()}
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}"
        split: dict[str, dict[str, Shape]] = defaultdict(dict)
        for suffix, (fused, _, num_rows) in config.split_parts().items():
            split[f"{prefix}.{fused}"][f"{prefix}.{suffix}.weight"] = (num_rows, config.hidden_size)
        parts.update({fused: own for fused, own in split.items() if own.keys() & stored})
    return parts


def _module_shapes(config: ModelConfig) -> dict[str, Shape]:
    norms = [f"model.layers.{layer}.{n}" for layer in range(config.num_layers) for n in NORM_FIELDS]
    shapes: dict[str, Shape] = {
        EMBEDDING: (config.vocab_size, config.hidden_size),
        **config.linear_shapes(),
        **dict.fromkeys((*norms, FINAL_NORM), (config.hidden_size,)),
    }
    if config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def _refuse_misfits(files: TensorFiles, expected: Mapping[str, Shape]) -> None:
    stored = files.file_of.keys()
    ignored = {name for name in stored if name.endswith(DERIVED_SUFFIX)} | {f"{HEAD}.weight"}
    shapes = {name: files.shape(name) for name in expected.keys() & stored}
    misfits = {
        "missing tensors": expected.keys() - stored,
        "unexpected tensors": stored - expected.keys() - ignored,
        "shapes of tensors": {
            f"{name} {shape} instead of {expected[name]}"
            for name, shape in shapes.items()
            if shape != expected[name]
        },
    }
    for feature, names in misfits.items():
        if names:
            raise CheckpointUnsupported(files.name, feature, sorted(names))


def _refuse_other_head(files: TensorFiles) -> None:
    """A tied head that is stored nevertheless must be the embedding."""
    head, embedding = f"{HEAD}.weight", f"{EMBEDDING}.weight"
    if head in files.file_of and not torch.equal(files.read(head), files.read(embedding)):
        raise CheckpointUnsupported(files.name, head, "tied, but not equal to the embedding")
