"""Reference kernels whose steps can be recorded, and a device that tells what it was asked for.

A row's numbers are the same bits beside any other rows, so that padding can be shown to do nothing.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from server.device.interface import Event, Memory, Recording, Stream
from server.kernels.interface import AttentionBatch, DeltaBatch
from server.kernels.recorded import (
    AttentionShape,
    BeyondCapacity,
    Capacity,
    LayerOperands,
    Numbers,
)
from server.kernels.reference import ReferenceKernels

UNRECORDED = "an operand that no recording takes"


class StepKernels(ReferenceKernels):
    """The reference, in operations that wait for no device; and the addresses that it was given."""

    name = "steps/1"

    def __init__(self, device: torch.device | str, *, max_pairs: int = 1 << 20) -> None:
        super().__init__(device)
        self.max_pairs = max_pairs
        self.made: list[Capacity] = []  # of all deltas of recorded steps
        self.addresses: set[int] = set()  # of what the steps' numbers were read from

    def embed(self, token_ids: Tensor, weight: Tensor) -> Tensor:
        self._note(token_ids)
        return super().embed(token_ids, weight)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([torch.mv(weight, row) for row in x]) if len(x) else x @ weight.T

    def linear(self, x: Tensor, weight: Tensor, deltas: DeltaBatch | None) -> Tensor:
        y = self.product(x, weight).float()
        if deltas is not None:
            for (start, end), operands in zip(
                pairwise(deltas.offsets), deltas.operands, strict=True
            ):
                rows = deltas.tokens[start:end].to(x.device)
                shares = deltas.coefficients[start:end].to(x.device)
                for operand in operands:
                    made: Tensor = operand.product(x[rows].float())  # type: ignore[attr-defined]
                    y.index_add_(0, rows, shares[:, None] * made)
        return y.to(x.dtype)

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
        self._note(batch.block_tables, batch.slots)
        if batch.work is not None:
            self._note(batch.work)
        how = {"scale": scale, "sliding_window": sliding_window}
        return super().attention(query, key_cache, value_cache, batch, **how)  # type: ignore[arg-type]

    def _note(self, *tensors: Tensor) -> None:
        if self.device.type == "cpu":
            self.addresses |= {tensor.data_ptr() for tensor in tensors}

    # For recorded steps

    def attention_numbers(self, max_tokens: int, shape: AttentionShape) -> int:
        return max_tokens

    def list_attention(
        self,
        numbers: Numbers,
        query_offsets: Sequence[int],
        context_lengths: Sequence[int],
        shape: AttentionShape,
    ) -> None:
        assert len(query_offsets) == len(context_lengths) + 1
        numbers[: len(context_lengths)] = context_lengths

    def needs(
        self, operands: Sequence[LayerOperands], offsets: Sequence[int], num_tokens: int
    ) -> tuple[Capacity, frozenset[Hashable]]:
        if offsets[-1] > self.max_pairs:
            raise BeyondCapacity("pairs", offsets[-1], self.max_pairs)
        return Capacity(num_tokens, offsets[-1], len(operands), offsets[-1], 0), _kinds(operands)

    def step_deltas(
        self, layers: Mapping[str, int], capacity: Capacity, kinds: frozenset[Hashable]
    ) -> "Deltas":
        self.made.append(capacity)
        return Deltas(capacity, kinds)


class Deltas:
    """Operands and offsets as they were written last, rows and coefficients as they were sent."""

    def __init__(self, capacity: Capacity, kinds: frozenset[Hashable]) -> None:
        self._capacity, self._kinds = capacity, kinds
        self._operands: Sequence[LayerOperands] = ()
        self._offsets: Sequence[int] = (0,)
        self._numbers = torch.zeros(0)

    @property
    def num_numbers(self) -> int:
        return 2 * self._capacity.pairs

    def write(
        self,
        numbers: Numbers,
        operands: Sequence[LayerOperands],
        offsets: Sequence[int],
        tokens: Tensor,
        coefficients: Tensor,
    ) -> None:
        count, room = offsets[-1], self._capacity.pairs
        if count > room or not _kinds(operands) <= self._kinds:
            raise BeyondCapacity("pairs", count, room)
        self._operands, self._offsets = operands, offsets
        numbers[:count] = tokens.numpy()
        numbers[room:].view(np.float32)[:count] = coefficients.numpy()

    def place(self, numbers: Tensor) -> None:
        assert len(numbers) == self.num_numbers
        self._numbers = numbers

    def layer(self, name: str) -> DeltaBatch:
        room = self._capacity.pairs
        return DeltaBatch(
            operands=[own.get(name, ()) for own in self._operands],
            offsets=self._offsets,
            tokens=self._numbers[:room],
            coefficients=self._numbers[room:].view(torch.float32),
        )


def _kinds(operands: Sequence[LayerOperands]) -> frozenset[Hashable]:
    layers = (layer for own in operands for layer in own.values())
    return frozenset(type(operand) for operand in chain.from_iterable(layers))


class LoggingDevice:
    """Does at once what it is asked for, where `place` is, and keeps what that was, in order."""

    name = "a fake"
    is_gpu = True

    def __init__(self, place: str = "cpu", memory: Memory | None = None) -> None:
        self.place = torch.device(place)
        self.log: list[str] = []
        self._memory = memory or Memory(1 << 34, 1 << 34)
        self._streams = 0

    def memory(self) -> Memory:
        return self._memory

    def stream(self) -> Stream:
        self._streams += 1
        return LoggingStream(self.log, f"stream {self._streams}")

    def usual(self) -> Stream:
        return LoggingStream(self.log, "usual")

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype)

    def record(self, work: Callable[[], None]) -> Recording:
        self.log.append("record")
        work()
        return LoggingRecording(self.log, work)

    def synchronize(self) -> None:
        self.log.append("synchronize")


class LoggingStream:
    def __init__(self, log: list[str], name: str) -> None:
        self._log, self.name, self._marks = log, name, 0

    def use(self) -> AbstractContextManager[Any]:
        return self._use()

    @contextmanager
    def _use(self) -> Iterator[None]:
        self._log.append(f"use {self.name}")
        try:
            yield
        finally:
            self._log.append(f"leave {self.name}")

    def mark(self) -> Event:
        self._marks += 1
        event = LoggingEvent(self._log, f"{self.name} mark {self._marks}")
        self._log.append(event.name)
        return event

    def wait_for(self, event: Event) -> None:
        assert isinstance(event, LoggingEvent)
        self._log.append(f"{self.name} after {event.name}")


class LoggingEvent:
    def __init__(self, log: list[str], name: str) -> None:
        self._log, self.name = log, name

    def wait(self) -> None:
        self._log.append(f"host after {self.name}")


class LoggingRecording:
    def __init__(self, log: list[str], work: Callable[[], None]) -> None:
        self._log, self._work = log, work

    def replay(self) -> None:
        self._log.append("replay")
        self._work()
