"""Decoder layers as tables of addresses, for the loop that computes all of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.kernels.cpu import streams
from server.kernels.cpu.layers import (
    IN_BYTES,
    Deltas,
    Places,
    Product,
    Shape,
    run_layers,
)
from server.kernels.cpu.operands import NUM_COLUMNS, SEGMENT, CompiledOperand, window_rows
from server.kernels.interface import AttentionBatch
from server.kernels.stacked import LINEARS, FixedPairs, Layer, LayerAdapter, LayerForm, Meanwhile

Numbers = NDArray[np.int64]


class Described(NamedTuple):
    """An adapter's operands in a stack."""

    rows: Numbers  # [n, NUM_COLUMNS] of the loops' table
    products: Numbers  # [n], whose operands they are


DepthOf = Callable[[Tensor, int], int]


class CpuStack:
    """Layers that are computed in one call. Satisfies `Stack`."""

    def __init__(
        self, layers: Sequence[Layer], form: LayerForm, depth_of: DepthOf, threads: int
    ) -> None:
        """`depth_of(weight, width)` is a product's `depth`."""
        self._layers, self._threads = tuple(layers), threads  # whose memory is to stay
        self._table = np.array([[address_of(tensor) for tensor in layer] for layer in layers])
        self._shape = _shape(layers[0], form)
        self._products = _products(layers[0], self._shape, depth_of)
        names = (f"model.layers.{index}.{own}" for index in range(len(layers)) for own in LINEARS)
        self._numbers = {name: number for number, name in enumerate(names)}
        self._described: WeakKeyDictionary[LayerAdapter, Described | None] = WeakKeyDictionary()

    def _takes(self, rows: int) -> bool:
        depths = {product.depth for product in self._products}
        return depths == {IN_BYTES} or (rows <= streams.FEW and streams.NOT_KNOWN not in depths)

    def run(
        self,
        count: int,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        batch: AttentionBatch,
        pairs: FixedPairs | None,
        meanwhile: Meanwhile,
    ) -> bool:
        deltas = self._deltas(pairs) if self._takes(len(hidden)) else None
        if deltas is None:
            return False
        cos, sin = rope
        places = Places(
            cos.numpy(),
            sin.numpy(),
            batch.slots.numpy(),
            batch.block_tables.numpy(),
            np.array(batch.query_offsets),
            np.array(batch.context_lengths),
        )
        own, shape = self._table[:count], self._shape
        meanwhile()
        run_layers(own, shape, self._products, hidden.numpy(), places, deltas, self._threads)
        return True

    def _deltas(self, pairs: FixedPairs | None) -> Deltas | None:
        """None where an adapter has operands that are not compiled."""
        if pairs is None:
            nothing = np.zeros(0, np.int64)
            starts = np.zeros(len(self._numbers) + 1, np.int64)
            empty = np.zeros((0, NUM_COLUMNS), np.int64)
            return Deltas(empty, starts, nothing, nothing, np.zeros(0, np.float32))
        described = [self._describe(adapter) for adapter in pairs.adapters]
        known = [own for own in described if own is not None]
        if len(known) < len(described):
            return None
        table, starts = self._joined(known)
        tokens, coefficients = pairs.tokens.numpy(), pairs.coefficients.numpy()
        return Deltas(table, starts, np.array(pairs.offsets), tokens, coefficients)

    def _joined(self, described: Sequence[Described]) -> tuple[Numbers, Numbers]:
        """The table of all products, by product and then by segment; and where each begins."""
        table = np.concatenate([own.rows for own in described])
        products = np.concatenate([own.products for own in described])
        counts = [len(own.products) for own in described]
        table[:, SEGMENT] = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(products, kind="stable")
        starts = np.searchsorted(products[order], np.arange(len(self._numbers) + 1))
        return table[order], starts

    def _describe(self, adapter: LayerAdapter) -> Described | None:
        if adapter not in self._described:
            self._described[adapter] = self._made(adapter)
        return self._described[adapter]

    def _made(self, adapter: LayerAdapter) -> Described | None:
        descriptors, products = bytearray(), []
        for name, operands in adapter.operands.items():
            if name not in self._numbers:
                continue
            for operand in operands:
                if not isinstance(operand, CompiledOperand):
                    return None
                descriptors += operand.descriptor
                products.append(self._numbers[name])
        rows = np.frombuffer(bytes(descriptors), np.int64).reshape(-1, NUM_COLUMNS)
        return Described(rows, np.array(products, np.int64))


def address_of(tensor: Tensor) -> int:
    """Where the numbers of a tensor, or of a pack, begin."""
    packed = tensor.is_mkldnn
    address: int = torch.ops.mkldnn.data_ptr(tensor) if packed else tensor.data_ptr()
    return address


def _shape(layer: Layer, form: LayerForm) -> Shape:
    pages, page_size, kv_heads, size = layer.keys.shape
    return Shape(
        hidden=len(layer.input_norm),
        heads=layer.qkv.shape[0] // size - 2 * kv_heads,
        kv_heads=kv_heads,
        size=size,
        inner=layer.gate_up.shape[0] // 2,
        pages=pages,
        page_size=page_size,
        window=form.sliding_window or 0,
        eps=np.float32(form.eps),
        scale=np.float32(form.scale),
    )


def _products(layer: Layer, shape: Shape, depth_of: DepthOf) -> tuple[Product, ...]:
    """In the order of `LINEARS`."""
    widths = (shape.hidden, shape.heads * shape.size, shape.hidden, shape.inner)
    weights = (layer.qkv, layer.o, layer.gate_up, layer.down)
    return tuple(
        Product(depth_of(weight, width), window_rows(weight.shape[0]))
        for weight, width in zip(weights, widths, strict=True)
    )
