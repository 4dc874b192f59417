"""Decode steps that are recorded: one recording for each bucket of rows, with and without deltas.

Buckets are powers of two, and the most sequences of a step. What a recording with deltas takes
grows with what steps need: then it is made anew, in the memory of the former one. A step that no
recording takes, or that there is no memory to record, runs unrecorded.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from server.adapters.delta import TokenPairs
from server.device.interface import Device, Recording
from server.engine.scheduled import ScheduledBatch
from server.engine.step_inputs import DecodeForm, StepInputs
from server.kernels.interface import DeltaBatch, LogitSummary
from server.kernels.recorded import BeyondCapacity, Capacity, RecordableKernels, StepDeltas
from server.model.kv_cache import KVCache
from server.model.phi3 import Phi3
from server.plan.steps import PRODUCTS_OF_ROW, buckets


class Computed(NamedTuple):
    """What is read of a step's rows, on the device."""

    logits: Tensor  # [n, vocab] fp32
    summary: Tensor  # [3, n] fp32: `LogitSummary`, ids as numbers


def packed(summary: LogitSummary) -> Tensor:
    """A summary as one array: ids below 2 ** 24 are fp32 numbers."""
    return torch.stack((summary.best.float(), summary.highest, summary.log_sums))


@dataclass(frozen=True, slots=True)
class _RecordedPairs:
    """Whatever deltas lie where the device looks for them."""

    deltas: StepDeltas

    def for_layer(self, name: str, x: Tensor) -> DeltaBatch:
        return self.deltas.layer(name)

    @property
    def fixed(self) -> None:
        return None


class _Size(NamedTuple):
    """What a recording with deltas takes."""

    capacity: Capacity
    kinds: frozenset[Hashable]


class _Recorded(NamedTuple):
    inputs: StepInputs
    recording: Recording
    deltas: StepDeltas | None

    def takes(self, pairs: TokenPairs) -> bool:
        """Whether it can compute a step of these, which are then written down."""
        try:
            self.write(pairs)
        except BeyondCapacity:
            return False
        return True

    def write(self, pairs: TokenPairs) -> None:
        assert self.deltas is not None, "recorded without deltas"
        _write(self.deltas, self.inputs, pairs)


class DecodeSteps:
    """The recordings of a model. For one thread, in the stream that it uses."""

    def __init__(
        self,
        model: Phi3,
        kernels: RecordableKernels,
        cache: KVCache,
        device: Device,
        form: DecodeForm,
        max_rows: int,
    ) -> None:
        assert model.config.vocab_size < 1 << 24
        self._model, self._kernels, self._cache = model, kernels, cache
        self._device, self._form, self._max_rows = device, form, max_rows
        self._linears = {name: shape[0] for name, shape in model.config.linear_shapes().items()}
        self._plain: dict[int, _Recorded] = {}
        self._mixed: dict[int, _Recorded] = {}
        self._sizes: dict[int, _Size] = {}  # of mixed ones; where none is, it had no memory
        vocabulary = model.config.vocab_size
        self._logits = torch.zeros(max_rows, vocabulary, device=device.place)
        self._summaries = torch.zeros(3 * max_rows, device=device.place)

    def warm_up(self) -> None:
        """Record all steps without deltas, largest first, so that they share their memory."""
        for bucket in reversed(buckets(self._max_rows)):
            self._plain[bucket] = self._record(bucket)

    def run(self, batch: ScheduledBatch, pairs: TokenPairs | None) -> Computed | None:
        """A row for each entry of `batch`; None where the step is not one to be recorded."""
        if not self._is_decoding(batch) or (pairs is not None and pairs.routed):
            return None
        bucket = next(b for b in buckets(self._max_rows) if b >= len(batch.entries))
        try:
            recorded = self._find(bucket, pairs)
        except (BeyondCapacity, torch.OutOfMemoryError):
            return None
        recorded.inputs.fill(batch.entries)
        recorded.inputs.send()
        recorded.recording.replay()
        return self._computed(bucket)

    def _is_decoding(self, batch: ScheduledBatch) -> bool:
        is_short = len(batch.entries) <= self._max_rows
        return is_short and all(entry.num_tokens == 1 for entry in batch.entries)

    def _find(self, bucket: int, pairs: TokenPairs | None) -> _Recorded:
        """The recording, with the pairs written down. Raises BeyondCapacity, OutOfMemoryError."""
        if pairs is None:
            if bucket not in self._plain:
                self._plain[bucket] = self._record(bucket)
            return self._plain[bucket]
        recorded = self._mixed.get(bucket)
        if recorded is None or not recorded.takes(pairs):
            size = self._size(bucket, pairs)
            recorded = None
            self._mixed.pop(bucket, None)  # its memory is the new one's
            self._sizes[bucket] = size
            recorded = self._mixed[bucket] = self._record(bucket, size)
            recorded.write(pairs)
        return recorded

    def _size(self, bucket: int, pairs: TokenPairs) -> _Size:
        """What a recording needs for these pairs and former ones. Raises BeyondCapacity."""
        former, most = self._sizes.get(bucket), PRODUCTS_OF_ROW * bucket
        if former is not None and bucket not in self._mixed:
            raise BeyondCapacity("memory", former.capacity, None)
        operands = [adapter.operands for adapter in pairs.adapters]
        needed, kinds = self._kernels.needs(operands, pairs.offsets, bucket)
        if needed.products > most:
            raise BeyondCapacity("products", needed.products, most)
        if former is not None:
            needed, kinds = Capacity(*map(max, needed, former.capacity)), kinds | former.kinds
        rounded = (max(bucket, 1 << (count - 1).bit_length()) if count else 0 for count in needed)
        capacity = Capacity(*rounded)
        products = min(capacity.products, most)
        return _Size(capacity._replace(tokens=bucket, products=products), kinds)

    def _record(self, bucket: int, size: _Size | None = None) -> _Recorded:
        """Of a step that is all padding, without any deltas."""
        deltas = None
        if size is not None:
            deltas = self._kernels.step_deltas(self._linears, *size)
        num_numbers = deltas.num_numbers if deltas is not None else 0
        inputs = StepInputs(self._device, self._kernels, self._form, bucket, num_numbers)
        inputs.fill(())
        if deltas is not None:
            deltas.place(inputs.placed_delta_numbers)
            _write(deltas, inputs, None)
        inputs.send()
        step = inputs.step(_RecordedPairs(deltas) if deltas is not None else None)
        target = self._computed(bucket)

        def work() -> None:
            hidden = self._model.forward(step, self._cache)
            logits = self._model.logits(hidden, step.pairs)
            target.logits.copy_(logits)
            target.summary.copy_(packed(self._kernels.summarize(logits)))

        return _Recorded(inputs, self._device.record(work), deltas)

    def _computed(self, bucket: int) -> Computed:
        return Computed(self._logits[:bucket], self._summaries[: 3 * bucket].view(3, bucket))


def _write(deltas: StepDeltas, inputs: StepInputs, pairs: TokenPairs | None) -> None:
    """Raises BeyondCapacity."""
    if pairs is None:
        nothing = torch.empty(0)
        deltas.write(inputs.delta_numbers, [], [0], nothing.long(), nothing)
        return
    operands = [adapter.operands for adapter in pairs.adapters]
    offsets, tokens, coefficients = pairs.offsets, pairs.tokens, pairs.coefficients
    deltas.write(inputs.delta_numbers, operands, offsets, tokens, coefficients)
