"""The kernels that serve on a CPU in fp32: what `interface.py` asks for, by the fastest means.

What is not written here is the reference's. Beside the rest, `linear` knows that base weights were
packed by `pack`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from adapters_store.adapter import DenseDelta, WeightDelta
from server.kernels.cpu import attention, glue, packed_numbers, products, streams
from server.kernels.cpu.deltas import add_deltas
from server.kernels.cpu.entries import operand_entries
from server.kernels.cpu.logits import summarize
from server.kernels.cpu.operands import (
    NUM_COLUMNS,
    RUNS,
    SEGMENT,
    TILES,
    CompiledOperand,
    Orders,
    can_compile,
    compile_delta,
    compiled_bytes,
    window_rows,
)
from server.kernels.cpu.stack import CpuStack
from server.kernels.cpu.threads import can_share_threads
from server.kernels.cpu.warming import call_all, multiply_by
from server.kernels.interface import AttentionBatch, DeltaBatch, Entries, LogitSummary, Operand
from server.kernels.reference import ReferenceKernels
from server.kernels.stacked import Layer, LayerForm, Stack

SERIAL_NUMBERS = 8192  # of fewer, no second thread is worth waking


class CpuKernels(ReferenceKernels):
    """`Kernels` for fp32 activations on a CPU."""

    name = "cpu/4"

    def __init__(self) -> None:
        super().__init__("cpu")
        self._threads = torch.get_num_threads() if can_share_threads() else 1
        self._orders = Orders()

    def pack(self, weight: Tensor) -> Tensor:
        return products.pack(weight)

    @torch.inference_mode()
    def warm_up(self, weights: Iterable[Tensor]) -> None:
        call_all(self)
        multiply_by(self, weights)

    def operand(self, delta: WeightDelta) -> Operand:
        if can_compile(delta):
            return compile_delta(delta, self._orders.take)
        if isinstance(delta, DenseDelta):
            return products.PackedDelta.of(delta)
        return super().operand(delta)

    def operand_bytes(self, delta: WeightDelta) -> int:
        if can_compile(delta):
            return compiled_bytes(delta, self._orders.tell)
        if isinstance(delta, DenseDelta):
            return products.packed_bytes(delta)
        return super().operand_bytes(delta)

    def can_fuse(self, operand: Operand) -> bool:
        return isinstance(operand, CompiledOperand) and operand.kind in (RUNS, TILES)

    def entries(self, operand: Operand, weight: Tensor) -> Entries:
        assert isinstance(operand, CompiledOperand), "asked of what cannot fuse"
        return operand_entries(operand, packed_numbers.map_of(weight), self._threads)

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        return packed_numbers.read(weight, places, self._threads)

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        packed_numbers.write(weight, places, values, self._threads)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return streams.product(x, weight, self._threads)

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch | None) -> Tensor:
        if deltas is None:
            return self.product(x, weight)
        segments, compiled, others = _parted(deltas.operands)
        y = super().linear(x, weight, replace(deltas, operands=others) if others else None)
        if compiled:
            descriptors = bytearray().join([own.descriptor for own in compiled])
            table = np.frombuffer(descriptors, np.int64).reshape(-1, NUM_COLUMNS)
            table[:, SEGMENT] = segments
            add_deltas(
                y.numpy(),
                x.numpy(),
                table,
                np.array(deltas.offsets),
                deltas.tokens.numpy(),
                deltas.coefficients.numpy(),
                window_rows(y.shape[1]),
                self._threads,
            )
        return y

    def stack(self, layers: Sequence[Layer], form: LayerForm) -> Stack:
        return CpuStack(layers, form, self._depth, self._threads)

    def _depth(self, weight: Tensor, width: int) -> int:
        """Columns of one part of a product's sums, or what `layers.Product` has instead."""
        return streams.depth_of(weight.shape[0], width) if weight.is_mkldnn else streams.NOT_KNOWN

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        output = torch.empty_like(x)
        threads = self._threads_for(x)
        glue.rms_norm(x.numpy(), weight.numpy(), np.float32(eps), threads, output.numpy())
        return output

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        output = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
        glue.silu_gate(gate_up.numpy(), self._threads_for(output), output.numpy())
        return output

    def rotate_and_cache(
        self,
        heads: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
    ) -> Tensor:
        keys, values = _in_memory_order(key_cache, value_cache)
        num_heads = heads.shape[1] - 2 * key_cache.shape[2]
        query = heads.new_empty(heads.shape[0], num_heads, heads.shape[2])
        glue.rotate_and_cache(
            heads.numpy(),
            cos.numpy(),
            sin.numpy(),
            slots.numpy(),
            keys.numpy(),
            values.numpy(),
            self._threads_for(heads),
            query.numpy(),
        )
        return query

    def attention(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: AttentionBatch,
        *,
        scale: float,
        sliding_window: int | None,
    ) -> Tensor:
        keys, values = _in_memory_order(key_cache, value_cache)
        output = torch.empty_like(query)
        attention.attend(
            query.numpy(),
            keys.numpy(),
            values.numpy(),
            batch.block_tables.numpy(),
            np.array(batch.query_offsets),
            np.array(batch.context_lengths),
            np.float32(scale),
            sliding_window or 0,
            self._threads,
            output.numpy(),
        )
        return output

    def summarize(self, logits: Tensor) -> LogitSummary:
        best = torch.empty(len(logits), dtype=torch.int64)
        highest, log_sums = torch.empty(2, len(logits))
        arrays = (best.numpy(), highest.numpy(), log_sums.numpy())
        summarize(logits.numpy(), self._threads, *arrays)
        return LogitSummary(best, highest, log_sums)

    def _threads_for(self, numbers: Tensor) -> int:
        return self._threads if numbers.numel() > SERIAL_NUMBERS else 1


def _parted(
    operands: Sequence[Sequence[Operand]],
) -> tuple[list[int], list[CompiledOperand], list[list[Operand]]]:
    """Compiled operands and their segments; by segment, what the reference multiplies, if any."""
    segments, compiled, num_operands = [], [], 0
    for segment, own in enumerate(operands):
        for one in own:
            num_operands += 1
            if isinstance(one, CompiledOperand):
                segments.append(segment)
                compiled.append(one)
    if len(compiled) == num_operands:
        return segments, compiled, []
    others = [[one for one in own if not isinstance(one, CompiledOperand)] for own in operands]
    return segments, compiled, others


def _in_memory_order(key_cache: Tensor, value_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Keys `[P, K, D, L]` and values `[P, K, L, D]`, as they lie."""
    return key_cache.permute(0, 2, 3, 1), value_cache.permute(0, 2, 1, 3)
