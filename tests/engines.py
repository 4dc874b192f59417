"""Engines for tests: a runner that makes up tokens without a model, and small real ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from adapters_store.adapter import BaseIdentity, SparseAdapter
from server.adapters.claims import AdapterLease
from server.adapters.composition import BASE, PROTOTYPES, Composition
from server.adapters.delta import ResidentAdapter, make_resident
from server.adapters.fused import FusedWeights
from server.adapters.prototypes import make_prototypes
from server.engine.batch import LogitRow
from server.engine.config import EngineConfig
from server.engine.engine import Engine, SequenceOutput
from server.engine.fuser import Fuser
from server.engine.runner import EntryResult, ModelRunner
from server.engine.sampler import SampledToken
from server.engine.sampling_params import SamplingParams
from server.engine.scheduled import ScheduledBatch, ScheduledSequence
from server.engine.sequence import GenerationRequest, Mode, TokenLogprobs
from server.kernels.cpu.kernels import CpuKernels
from server.kernels.interface import Kernels
from server.kernels.reference import ReferenceKernels
from server.kernels.stacked import Meanwhile
from server.model.checkpoint import Checkpoint
from server.model.identity import base_identity
from server.model.kv_cache import allocate
from server.model.load import load_model
from server.model.phi3 import Phi3
from server.model.step import Step
from server.model.text import TextCodec

FAKE_VOCABULARY = 97
Following = Callable[[Sequence[int]], int]  # from all tokens of a sequence to the next one


def spell(token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    """A text for made-up tokens: one letter each, so that lengths can be read off."""
    return "".join(chr(0x61 + token_id % 26) for token_id in token_ids)


def next_token(tokens: Sequence[int]) -> int:
    """The made-up continuation: depends on every token before it."""
    return (sum(tokens) * 31 + len(tokens)) % FAKE_VOCABULARY


class FakeRunner:
    """Continues by `following`, from nothing but what it was shown in pages of its own.

    It keeps "keys" per (page, offset) like a model does, so a wrong page table, a lost token or a
    stale page changes its answers.
    """

    def __init__(self, page_size: int, following: Following = next_token) -> None:
        self.page_size = page_size
        self.following = following
        self.memory: dict[tuple[int, int], int] = {}
        self.batches: list[ScheduledBatch] = []

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
        meanwhile()
        self.batches.append(batch)
        results = []
        for entry in batch.entries:
            sequence = entry.sequence
            for position in range(entry.start, entry.end):
                page = sequence.pages[position // self.page_size]
                token = entry.token_ids[position - entry.start]
                self.memory[page, position % self.page_size] = token
            seen = [
                self.memory[sequence.pages[p // self.page_size], p % self.page_size]
                for p in range(entry.end)
            ]
            results.append(EntryResult(self._sampled(entry, seen) if entry.samples else []))
        return results

    def _sampled(self, entry: ScheduledSequence, seen: list[int]) -> list[SampledToken]:
        """What follows the last token, and what follows each draft as long as they are right."""
        sampled: list[SampledToken] = []
        for end in range(entry.known_end, entry.end + 1):
            sampled.append(SampledToken(self.following(seen[:end]), None))
            if seen[end : end + 1] != [sampled[-1].token_id]:
                break
        return sampled


def fake_engine(
    config: EngineConfig, following: Following = next_token
) -> tuple[Engine, FakeRunner]:
    """Its clock stands still: all steps take no time."""
    runner = FakeRunner(config.page_size, following)
    return Engine(config, runner, spell, frozenset(), clock=lambda: 0.0), runner


def expected_tokens(
    prompt: Sequence[int], count: int, following: Following = next_token
) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(following(tokens))
    return tokens[len(prompt) :]


def request(
    request_id: str,
    prompt: Iterable[int],
    composition: Composition = BASE,
    adapter_from: int = 0,
    cache_salt: str = "",
    mode: Mode = Mode.BATCHED,
    **sampling: object,
) -> GenerationRequest:
    params = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return GenerationRequest(
        request_id,
        tuple(prompt),
        params,
        composition,
        adapter_from=adapter_from,
        cache_salt=cache_salt,
        mode=mode,
    )


class Collected:
    """All outputs of a run, by request."""

    def __init__(self) -> None:
        self.outputs: dict[str, list[SequenceOutput]] = {}

    def add(self, outputs: Iterable[SequenceOutput]) -> None:
        for output in outputs:
            earlier = self.outputs.setdefault(output.request_id, [])
            assert not (earlier and earlier[-1].finish_reason), f"{output.request_id} ended before"
            earlier.append(output)

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.outputs[request_id] for token in output.token_ids]

    def text(self, request_id: str) -> str:
        return "".join(output.text for output in self.outputs[request_id])

    def logprobs(self, request_id: str) -> list[TokenLogprobs]:
        return [entry for output in self.outputs[request_id] for entry in output.logprobs]

    def last(self, request_id: str) -> SequenceOutput:
        return self.outputs[request_id][-1]


def run_to_end(
    engine: Engine, requests: Iterable[GenerationRequest] = (), collected: Collected | None = None
) -> Collected:
    """Add `requests`, step until nothing is left, checking the books after every step."""
    collected = collected or Collected()
    for one in requests:
        engine.add(one)
    while engine.has_work:
        collected.add(engine.step())
        engine.check_integrity()
    return collected


# Small real engines


class RecordingRunner(ModelRunner):
    """A model runner that keeps the logits of every row it reads: (request id, position)."""

    def _logits(self, hidden: Tensor, step: Step, rows: Sequence[LogitRow]) -> Tensor:
        logits = super()._logits(hidden, step, rows)
        for row, values in zip(rows, logits, strict=True):
            self.recorded[row.entry.sequence.request_id, row.position] = values.clone()
        return logits

    recorded: dict[tuple[str, int], Tensor]


class RealEngine:
    """A model, adapters by digest, and as many engines over them as a test wants."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype
        fast = dtype == torch.float32
        self.kernels: Kernels = CpuKernels() if fast else ReferenceKernels("cpu")
        self.model: Phi3 = load_model(checkpoint, dtype, "cpu", self.kernels)
        self.identity: BaseIdentity = base_identity("tiny", checkpoint, None)
        self.adapters: dict[str, SparseAdapter] = {}
        self._residents: dict[str, ResidentAdapter] = {}

    def with_kernels(self, kernels: Kernels) -> "RealEngine":
        """The same base and adapters, computed by `kernels`."""
        other = copy(self)
        other.kernels, other._residents = kernels, {}
        other.model = load_model(self.checkpoint, self.dtype, "cpu", kernels)
        return other

    def publish(self, adapter: SparseAdapter) -> str:
        self.adapters[adapter.digest] = adapter
        return adapter.digest

    def resident(self, digest: str) -> ResidentAdapter:
        """A published adapter, or the prototypes of one."""
        if digest not in self._residents:
            adapter = self.adapters[digest.removeprefix(PROTOTYPES)]
            loaded = make_prototypes(adapter) if digest.startswith(PROTOTYPES) else adapter
            self._residents[digest] = make_resident(digest, loaded, self.kernels)
        return self._residents[digest]

    def engine(self, **sizes: int | None) -> tuple[Engine, RecordingRunner]:
        """A fresh engine with its own cache; every published adapter is resident."""
        return self._engine(sizes, may_fuse=False)

    def fusing_engine(self, **sizes: int | None) -> tuple[Engine, RecordingRunner]:
        """One that may fuse. They share their weights: to be used one after the other."""
        return self._engine(sizes, may_fuse=True)

    def _engine(
        self, sizes: Mapping[str, int | None], *, may_fuse: bool
    ) -> tuple[Engine, RecordingRunner]:
        rope = self.checkpoint.config.rope.original_max_positions
        defaults = {"max_model_len": 120, "num_pages": 400, "page_size": 4, "rope_boundary": rope}
        config = EngineConfig(**{**defaults, **sizes}, may_fuse=may_fuse)  # type: ignore[arg-type]
        cache = allocate(
            self.checkpoint.config, config.num_pages, config.page_size, self.dtype, "cpu"
        )
        eos = self.checkpoint.eos_token_ids
        fuser = self.fuser() if may_fuse else None
        runner = RecordingRunner(self.model, cache, config.page_size, self.resident, eos, fuser)
        runner.recorded = {}
        return Engine(config, runner, TextCodec(self.checkpoint.tokenizer).decode, eos), runner

    def fuser(self) -> Fuser:
        """A fuser of the model's weights, that keeps nothing leased."""
        weights = FusedWeights(self.model.fusable_weights(), self.kernels)
        return Fuser(weights, self.resident, lambda digests: AdapterLease(lambda: None))


MakeEngine = Callable[[str], RealEngine]  # from a variation of tiny_models


def weights_with(adapter: SparseAdapter, coefficient: float = 1.0) -> Mapping[str, Tensor]:
    """layer -> dense change, for folding an adapter into transformers' weights."""
    return {delta.layer: coefficient * delta.dense() for delta in adapter.deltas}
