"""One small call of everything compiled, so that no request waits for the compiler.

Code that an earlier start left on disk is read in well under a second.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, WeightDelta
from server.kernels.interface import AttentionBatch, DeltaBatch, Kernels
from server.kernels.stacked import Layer, LayerForm, StackingKernels

ROWS = (2, 4, 8, 16, 32, 64, 256, 512)  # for which oneDNN makes its kernels ahead
HEADS, KV_HEADS, SIZE, PAGE = 2, 1, 32, 32


def call_all(kernels: Kernels) -> None:
    """Call every operation once, on numbers of its own."""
    place = torch.zeros(1, dtype=torch.int64)
    weight = kernels.pack(torch.zeros(2 * SIZE, SIZE))
    bias = BiasDelta(layer="any", shape=(2 * SIZE, SIZE), bias=torch.zeros(2 * SIZE))
    deltas = DeltaBatch([[kernels.operand(bias)]], [0, 1], place, torch.ones(1))
    x = kernels.rms_norm(torch.ones(1, SIZE), torch.ones(SIZE), 1e-5)
    kernels.summarize(kernels.silu_gate(kernels.linear(x, weight, deltas)))
    keys = torch.zeros(1, KV_HEADS, SIZE, PAGE).permute(0, 3, 1, 2)
    values = torch.zeros(1, KV_HEADS, PAGE, SIZE).permute(0, 2, 1, 3)
    heads, turn = torch.zeros(1, HEADS + 2 * KV_HEADS, SIZE), torch.zeros(1, SIZE)
    query = kernels.rotate_and_cache(heads, turn, turn, place, keys, values)
    batch = AttentionBatch([0, 1], [1], torch.zeros(1, 1, dtype=torch.int64), place)
    kernels.attention(query, keys, values, batch, scale=1.0, sliding_window=None)
    if isinstance(kernels, StackingKernels):
        stack = kernels.stack([_layer(kernels, keys, values)], LayerForm(1e-5, 1.0, None))
        stack.run(1, x, (turn, turn), batch, None, lambda: None)
    for dtype in (torch.float32, torch.bfloat16):  # as many bytes as a number may have
        one = torch.ones(1, dtype=dtype)
        for delta in _sparse(one, torch.zeros(1, dtype=torch.int32)):
            kernels.operand(delta)


def _layer(kernels: Kernels, keys: Tensor, values: Tensor) -> Layer:
    """A decoder layer of `SIZE` numbers."""
    norm, rows = torch.ones(SIZE), (HEADS + 2 * KV_HEADS) * SIZE
    shapes = ((rows, SIZE), (SIZE, HEADS * SIZE), (2 * SIZE, SIZE), (SIZE, SIZE))
    qkv, o, gate_up, down = (kernels.pack(torch.zeros(shape)) for shape in shapes)
    return Layer(norm, qkv, o, norm, gate_up, down, keys, values)


def _sparse(one: Tensor, first: Tensor) -> tuple[WeightDelta, ...]:
    """A delta of each sparse kind, with one number at the first place."""
    shape, tile = (2 * SIZE, SIZE), one[:, None, None]
    return (
        ElementDelta(layer="any", shape=shape, indices=first, values=one),
        BlockDelta(layer="any", shape=shape, block=(1, 1), block_index=first, values=tile),
    )


def multiply_by(kernels: Kernels, weights: Iterable[Tensor]) -> None:
    """Multiply by one of the packed `weights` of every shape."""
    shapes = {weight.shape: weight for weight in weights}
    for shape, weight in shapes.items():
        for rows in ROWS:
            kernels.linear(torch.zeros(rows, shape[1]), weight, None)
