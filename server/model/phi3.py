"""The forward pass of a Phi-3 model over plain tensors.

Symbols: T tokens in the step, H query heads, K key/value heads, D head size. Which tokens belong
together, and where their keys and values lie, comes with the `Step`. The arithmetic of each
operation is the kernels'; this file says in which order they come.
"""

from typing import NamedTuple

from torch import Tensor

from server.kernels.interface import Kernels
from server.kernels.stacked import LayerForm, Meanwhile, Stack, StackingKernels
from server.model.config import ModelConfig
from server.model.kv_cache import KVCache
from server.model.step import Step, StepPairs
from server.model.weights import HEAD, LayerWeights, Weights


class _Stacked(NamedTuple):
    """All layers for steps on one cache."""

    cache: KVCache
    stack: Stack


class Phi3:
    """A frozen model. Callers hold `torch.inference_mode`."""

    def __init__(self, config: ModelConfig, weights: Weights, kernels: Kernels) -> None:
        self.config = config
        self.weights = weights
        self.kernels = kernels
        self._rope = config.rope.on(weights.embed.device)
        self._stacked: _Stacked | None = None

    def fusable_weights(self) -> dict[str, Tensor]:
        """Weights of linear layers that an adapter may be written into, by name: all but a tied
        head, which shares its values with the embedding."""
        linears = dict(self.weights.linears())
        if self.config.tie_word_embeddings:
            del linears[HEAD]
        return linears

    def forward(self, step: Step, cache: KVCache, meanwhile: Meanwhile = lambda: None) -> Tensor:
        """Final normed hidden states `[n, hidden]` of the rows that the step wants.

        The keys and values of all its tokens go to `cache`. `meanwhile` is called once, just before
        the layers are computed.
        """
        hidden, pairs = self.kernels.embed(step.token_ids, self.weights.embed), step.pairs
        rope = self._rope.cos_sin(step.positions, step.rope_regimes, hidden.dtype)
        last = len(self.weights.layers) - 1
        done = self._run_stacked(hidden, rope, step, cache, meanwhile)
        if not done:
            meanwhile()
        for index, layer in enumerate(self.weights.layers[done:], done):
            normed = self._norm(hidden, layer.input_norm)
            mixed = self._attention(index, layer, normed, rope, step, cache)
            if index == last and step.wanted is not None:  # nobody reads the others from here on
                hidden, mixed = hidden[step.wanted], mixed[step.wanted]
                pairs = step.wanted_pairs
            hidden = hidden + self._linear(index, "self_attn.o_proj", layer.o, mixed, pairs)
            normed = self._norm(hidden, layer.post_norm)
            hidden = hidden + self._mlp(index, layer, normed, pairs)
        return self._norm(hidden, self.weights.norm)

    def _run_stacked(
        self,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        step: Step,
        cache: KVCache,
        meanwhile: Meanwhile,
    ) -> int:
        """Put `hidden` through as many layers as are computed in one call; how many those are."""
        stack = self._stack_on(cache)
        count = len(self.weights.layers) - (step.wanted is not None)
        if stack is None or not count or (step.pairs is not None and step.pairs.fixed is None):
            return 0
        pairs = None if step.pairs is None else step.pairs.fixed
        is_done = stack.run(count, hidden, rope, step.attention, pairs, meanwhile)
        return count if is_done else 0

    def _stack_on(self, cache: KVCache) -> Stack | None:
        """All layers with `cache`; those of the latest one are kept."""
        if not isinstance(self.kernels, StackingKernels):
            return None
        if self._stacked is None or self._stacked.cache is not cache:
            parts = zip(self.weights.layers, cache.keys, cache.values, strict=True)
            layers = [own.on(keys, values) for own, keys, values in parts]
            self._stacked = _Stacked(cache, self.kernels.stack(layers, self._form()))
        return self._stacked.stack

    def _form(self) -> LayerForm:
        config = self.config
        return LayerForm(config.rms_norm_eps, config.head_dim**-0.5, config.sliding_window)

    def logits(self, hidden: Tensor, pairs: StepPairs | None) -> Tensor:
        """fp32 logits `[n, vocab]` of `hidden [n, hidden]`; `pairs` are those of these n rows."""
        deltas = None if pairs is None else pairs.for_layer("lm_head", hidden)
        return self.kernels.linear(hidden, self.weights.lm_head, deltas).float()

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        step: Step,
        cache: KVCache,
    ) -> Tensor:
        """What every head of every token saw, `[T, H * D]`, before the output's product."""
        config, kernels = self.config, self.kernels
        qkv = self._linear(index, "self_attn.qkv_proj", layer.qkv, x, step.pairs)
        heads = qkv.view(len(x), -1, config.head_dim)  # [T, H + 2 K, D]
        keys, values = cache.keys[index], cache.values[index]
        query = kernels.rotate_and_cache(heads, *rope, step.attention.slots, keys, values)
        mixed = kernels.attention(
            query,
            keys,
            values,
            step.attention,
            scale=config.head_dim**-0.5,
            sliding_window=config.sliding_window,
        )
        return mixed.flatten(1)

    def _mlp(self, index: int, layer: LayerWeights, x: Tensor, pairs: StepPairs | None) -> Tensor:
        gate_up = self._linear(index, "mlp.gate_up_proj", layer.gate_up, x, pairs)
        gated = self.kernels.silu_gate(gate_up)
        return self._linear(index, "mlp.down_proj", layer.down, gated, pairs)

    def _linear(
        self, index: int, suffix: str, weight: Tensor, x: Tensor, pairs: StepPairs | None
    ) -> Tensor:
        name = f"model.layers.{index}.{suffix}"
        deltas = None if pairs is None else pairs.for_layer(name, x)
        return self.kernels.linear(x, weight, deltas)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, weight, self.config.rms_norm_eps)
