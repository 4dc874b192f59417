"""The kernels that serve on a GPU: what `interface.py` asks for, by Triton where that is faster.

What is not written here is the reference's. The same kernels run in Triton's interpreter on a
CPU, a thousand times slower, for tests.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from adapters_store.adapter import WeightDelta
from server.kernels.gpu.added import AddedDeltas
from server.kernels.gpu.attention_launches import PagedAttention
from server.kernels.gpu.attention_list import has_wide_tiles, list_attention, most_numbers
from server.kernels.gpu.compiled import Kernel, is_interpreted
from server.kernels.gpu.entries import has_entries, operand_entries
from server.kernels.gpu.operands import GpuOperand, can_lay_out, laid_out_bytes, lay_out
from server.kernels.gpu.places import put, take
from server.kernels.gpu.rows import GATE_ROWS, NORM_ROWS, PLACE_HEADS
from server.kernels.gpu.scratch import H100_COSTS, MatrixCosts
from server.kernels.gpu.steps import needs
from server.kernels.gpu.warming import warm_up
from server.kernels.interface import AttentionBatch, DeltaBatch, Entries, Operand
from server.kernels.recorded import (
    AttentionShape,
    Capacity,
    LayerOperands,
    Numbers,
    StepDeltas,
)
from server.kernels.reference import ReferenceKernels, fp32_product

PROGRAMS_OF_PROCESSOR = 16  # small programs; those that cannot be resident take what is left over
INTERPRETED_PROGRAMS = 3  # so that a test's programs have more than one item each, and unlike ones


class GpuKernels(ReferenceKernels):
    """`Kernels` for activations of any floating dtype on a GPU.

    A product without deltas is the library's in the dtype of `x`, one with deltas the library's
    fp32 sums. So a row without pairs is the same to the library's tolerance, beside rows with
    pairs, and not to the bit.
    """

    name = "gpu/2"

    def __init__(
        self,
        device: torch.device | str,
        place: Callable[[Tensor], Tensor] | None = None,
        costs: MatrixCosts = H100_COSTS,
    ) -> None:
        """`place(tensor)` is a copy of its own in the device's memory, contiguous and aligned to 16
        bytes, whose contents may still be on their way when it is made."""
        super().__init__(device)
        self._place = place or self._copied
        num_programs = _num_programs(self.device)
        self._deltas = AddedDeltas(num_programs, costs, self._wide_product, self.device)
        self._attention = PagedAttention(_num_programs(self.device))

    def operand(self, delta: WeightDelta) -> Operand:
        return lay_out(delta, self._place) if can_lay_out(delta) else super().operand(delta)

    def operand_bytes(self, delta: WeightDelta) -> int:
        return laid_out_bytes(delta) if can_lay_out(delta) else super().operand_bytes(delta)

    def can_fuse(self, operand: Operand) -> bool:
        return isinstance(operand, GpuOperand) and has_entries(operand)

    def entries(self, operand: Operand, weight: Tensor) -> Entries:
        assert isinstance(operand, GpuOperand), "asked of what cannot fuse"
        return operand_entries(operand, weight.shape[1])

    def read(self, weight: Tensor, places: Tensor) -> Tensor:
        return take(weight, places)

    def write(self, weight: Tensor, places: Tensor, values: Tensor) -> None:
        put(weight, places, values)

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch | None) -> Tensor:
        if deltas is None:
            return self.product(x, weight)
        return self._deltas.linear(x, weight, deltas)

    def needs(
        self, operands: Sequence[LayerOperands], offsets: Sequence[int], num_tokens: int
    ) -> tuple[Capacity, frozenset[Hashable]]:
        return needs(operands, offsets, num_tokens)

    def step_deltas(
        self, layers: Mapping[str, int], capacity: Capacity, kinds: frozenset[Hashable]
    ) -> StepDeltas:
        return self._deltas.step_deltas(layers, capacity, kinds)

    def warm_up(self, weights: Iterable[Tensor]) -> None:
        """Of deltas too; of all else a runner's steps do it."""
        own = list(weights)
        self._deltas.reserve(own)
        warm_up(self.linear, self.operand, own)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y = torch.empty_like(x)
        self._launch(NORM_ROWS, (len(x),), y, x, weight, x.shape[1], eps)
        return y

    def silu_gate(self, gate_up: Tensor) -> Tensor:
        num_tokens, width = len(gate_up), gate_up.shape[1] // 2
        y = gate_up.new_empty((num_tokens, width), dtype=gate_up.dtype)
        (configuration,) = GATE_ROWS.configurations
        blocks = -(-width // configuration.sizes["BLOCK"])
        self._launch(GATE_ROWS, (num_tokens, blocks), y, gate_up, width)
        return y

    def rotate_and_cache(
        self,
        heads: Tensor,
        cos: Tensor,
        sin: Tensor,
        slots: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
    ) -> Tensor:
        num_tokens, num_rows, size = heads.shape
        _, page_size, num_kv_heads, _ = key_cache.shape
        num_heads = num_rows - 2 * num_kv_heads
        query = heads.new_empty((num_tokens, num_heads, size), dtype=heads.dtype)
        tensors = (query, key_cache, value_cache, heads, cos, sin, slots)
        numbers = (num_heads, num_kv_heads, size, cos.shape[1], page_size)
        strides = (*key_cache.stride(), *value_cache.stride())
        (configuration,) = PLACE_HEADS.configurations
        grid = (num_tokens, -(-num_rows // configuration.sizes["HEADS"]))
        self._launch(PLACE_HEADS, grid, *tensors, *numbers, *strides)
        return query

    def attention_numbers(self, max_tokens: int, shape: AttentionShape) -> int:
        return most_numbers(max_tokens, shape.group)

    def list_attention(
        self,
        numbers: Numbers,
        query_offsets: Sequence[int],
        context_lengths: Sequence[int],
        shape: AttentionShape,
    ) -> None:
        own = list_attention(query_offsets, context_lengths, *shape).ravel()
        numbers[: len(own)] = own

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
        group = query.shape[1] // key_cache.shape[2]
        work = batch.work
        if work is None:
            lengths = (batch.query_offsets, batch.context_lengths)
            own = list_attention(*lengths, group, sliding_window).ravel()
            work = torch.from_numpy(own).to(query.device)
        return self._attention.attend(
            query,
            key_cache,
            value_cache,
            batch.block_tables,
            work,
            scale=scale,
            window=sliding_window,
            has_wide=has_wide_tiles(batch.query_offsets, group),
        )

    def _launch(self, kernel: Kernel, grid: tuple[int, ...], *arguments: Tensor | float) -> None:
        """Of a kernel that has one form."""
        (configuration,) = kernel.configurations
        kernel.launch(grid, configuration, *arguments, INTERPRETED=is_interpreted())

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, copy=True).contiguous()

    def _wide_product(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x @ weight.T` before it is rounded."""
        if x.dtype == torch.float32:
            return self.product(x, weight)
        if x.is_cuda:
            return torch.mm(x, weight.T, out_dtype=torch.float32)
        return fp32_product(x, weight)


def _num_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return PROGRAMS_OF_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
