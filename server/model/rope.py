"""Rotary position embedding: which frequencies a token turns by.

Frequencies come from transformers' own formulas. Longrope has two regimes, short and long factors.
transformers chooses between them by the longest position of the batch; here the choice belongs to
the sequence, by its own length, so that no answer depends on batch mates. The caller recomputes a
sequence whose regime changes. Rotating vectors is the kernels' business.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from server.model.errors import CheckpointUnsupported

SHORT, LONG = 0, 1
LENGTH_DEPENDENT_TYPES = frozenset({"dynamic"})  # frequencies change with every new length


@dataclass(frozen=True, slots=True, eq=False)
class RopeRegime:
    """One set of frequencies."""

    inv_freq: Tensor  # [rotary_dim / 2] fp32
    scaling: float  # multiplies cos and sin


@dataclass(frozen=True, slots=True, eq=False)
class RopeConfig:
    """The regimes of a model: one, or short and long with the length that parts them."""

    regimes: tuple[RopeRegime, ...]
    original_max_positions: int | None  # None with one regime

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that are rotated."""
        return 2 * self.regimes[SHORT].inv_freq.numel()

    def regime(self, num_tokens: int) -> int:
        """The regime of a sequence of `num_tokens` tokens."""
        if self.original_max_positions is None or num_tokens <= self.original_max_positions:
            return SHORT
        return LONG

    def on(self, device: torch.device | str) -> "RopeTable":
        """The regimes in the memory of a device."""
        inv_freq = torch.stack([regime.inv_freq for regime in self.regimes])
        scaling = torch.tensor([regime.scaling for regime in self.regimes])
        return RopeTable(inv_freq.to(device), scaling.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class RopeTable:
    """The frequencies of R regimes, where positions are."""

    inv_freq: Tensor  # [R, rotary_dim / 2] fp32
    scaling: Tensor  # [R] fp32

    def cos_sin(
        self, positions: Tensor, regimes: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """cos and sin `[T, rotary_dim]` of each token, from its position and regime, both `[T]`."""
        angles = positions[:, None].float() * self.inv_freq[regimes]
        angles = torch.cat((angles, angles), dim=-1)
        factor = self.scaling[regimes][:, None]
        return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rope_config(config: PretrainedConfig) -> RopeConfig:
    """The regimes that `config.rope_parameters` describes. Raises CheckpointUnsupported."""
    parameters: dict[str, Any] = config.rope_parameters
    rope_type = parameters["rope_type"]
    _refuse_unsupported(config, rope_type, parameters)
    if rope_type == "default":
        return RopeConfig((RopeRegime(_default_inv_freq(config), 1.0),), None)
    formula = ROPE_INIT_FUNCTIONS[rope_type]
    if rope_type != "longrope":
        return RopeConfig((RopeRegime(*formula(config)),), None)
    boundary: int = parameters["original_max_position_embeddings"]
    lengths = (boundary, boundary + 1)
    regimes = tuple(RopeRegime(*formula(config, seq_len=length)) for length in lengths)
    return RopeConfig(regimes, boundary)


def _refuse_unsupported(
    config: PretrainedConfig, rope_type: str, parameters: dict[str, Any]
) -> None:
    known = {"default", *ROPE_INIT_FUNCTIONS} - LENGTH_DEPENDENT_TYPES
    if rope_type not in known:
        raise CheckpointUnsupported(config.name_or_path, "rope_type", rope_type)
    partial = parameters.get("partial_rotary_factor", 1.0)
    if config.model_type != "phi3" and partial != 1.0:
        raise CheckpointUnsupported(config.name_or_path, "partial_rotary_factor", partial)


def _default_inv_freq(config: PretrainedConfig) -> Tensor:
    # transformers writes this formula into each model's file, so there is none to call.
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    theta: float = config.rope_parameters["rope_theta"]
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float) / dim))
