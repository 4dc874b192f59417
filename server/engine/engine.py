"""step(): schedule -> run -> collect. Single-threaded; `loop.py` owns the thread.

Every added request ends exactly once, with a SequenceOutput that carries a finish reason.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from server.engine.block_manager import BlockManager
from server.engine.config import EngineConfig
from server.engine.detokenizer import Decode, Detokenizer
from server.engine.endings import Ending, Endings
from server.engine.errors import StepFailed
from server.engine.runner import EntryResult, Runner
from server.engine.sampler import SampledToken
from server.engine.scheduled import ScheduledBatch, ScheduledSequence
from server.engine.scheduler import Scheduler
from server.engine.sequence import FinishReason, GenerationRequest, Sequence, TokenLogprobs
from server.engine.stats import EngineStats
from server.kernels.stacked import Meanwhile


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What is new about one request since its last output."""

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()  # of `token_ids`, where asked for
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()  # of the prompt's, with the first output
    num_cached: int = 0  # prompt tokens found in the prefix cache
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop token or string that ended it
    error: Exception | None = None


@dataclass(slots=True)
class _Tracked:
    """A live sequence with its text."""

    sequence: Sequence
    detokenizer: Detokenizer
    has_output: bool = False  # whether the prompt's own results were given out


@dataclass(slots=True)
class _Totals:
    generation_tokens: int = 0
    finished: Counter[FinishReason] = field(default_factory=Counter)


class Engine:
    """Requests in, outputs out. `decode` turns token ids into text; `blocks` are its pages."""

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        decode: Decode,
        eos_token_ids: frozenset[int],
        blocks: BlockManager | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.scheduler = Scheduler(config, blocks or BlockManager.of(config))
        self._runner = runner
        self._decode = decode
        self._endings = Endings(eos_token_ids, config.max_model_len)
        self._clock = clock
        self._live: dict[str, _Tracked] = {}
        self._totals = _Totals()

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: GenerationRequest) -> None:
        """Accept a request. Raises QueueFull; nothing is kept then."""
        prompt = request.prompt_token_ids
        assert request.request_id not in self._live, f"{request.request_id} is live already"
        assert 0 < len(prompt) <= self.config.max_model_len, f"a prompt of {len(prompt)} tokens"
        detokenizer = Detokenizer.start(self._decode, request.sampling, prompt)
        sequence = Sequence.start(request)
        self.scheduler.add(sequence)
        self._live[request.request_id] = _Tracked(sequence, detokenizer)

    def abort(self, request_id: str) -> SequenceOutput | None:
        """End a request now; None where it has ended already."""
        if (tracked := self._live.get(request_id)) is None:
            return None
        return self._end(tracked, SequenceOutput(request_id), FinishReason.ABORT)

    def step(self, meanwhile: Meanwhile = lambda: None) -> list[SequenceOutput]:
        """Compute one batch; the outputs of every request that moved.

        `meanwhile` is called when the long computation begins, if it does.
        """
        batch = self.scheduler.schedule()
        started = self._clock()
        try:
            results = self._runner.run(batch, meanwhile)
        except Exception as error:
            return [self._fail(self._live[e.sequence.request_id], error) for e in batch.entries]
        self.scheduler.pace.note(batch.num_tokens, self._clock() - started)
        pairs = zip(batch.entries, results, strict=True)
        self.scheduler.computed(entry for entry, result in pairs if result.error is None)
        return self._collect(batch, results)

    def stats(self) -> EngineStats:
        """A snapshot for metrics; safe to read from another thread."""
        scheduler = self.scheduler
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            pages_held=scheduler.blocks.num_held,
            pages_total=scheduler.blocks.num_pages,
            pages_lent=scheduler.blocks.num_withdrawn,
            preemptions=scheduler.counts.preemptions,
            prompt_tokens=scheduler.counts.prompt_tokens,
            generation_tokens=self._totals.generation_tokens,
            prefix_queries=scheduler.counts.prefix_queries,
            prefix_hits=scheduler.counts.prefix_hits,
            draft_tokens=scheduler.counts.draft_tokens,
            accepted_tokens=scheduler.counts.accepted_tokens,
            finished={reason.value: self._totals.finished[reason] for reason in FinishReason},
            running_adapters=_adapter_names(scheduler.running),
            waiting_adapters=_adapter_names(scheduler.waiting),
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless every live request is scheduled once and pages agree."""
        self.scheduler.check_integrity()
        scheduled = [s.request_id for s in (*self.scheduler.running, *self.scheduler.waiting)]
        assert sorted(scheduled) == sorted(self._live), "live requests and scheduled ones differ"

    # Collecting

    def _collect(
        self, batch: ScheduledBatch, results: Iterable[EntryResult]
    ) -> list[SequenceOutput]:
        outputs = (
            self._collect_one(self._live[entry.sequence.request_id], entry, result)
            for entry, result in zip(batch.entries, results, strict=True)
        )
        return [output for output in outputs if output is not None]

    def _collect_one(
        self, tracked: _Tracked, entry: ScheduledSequence, result: EntryResult
    ) -> SequenceOutput | None:
        """What the step gave one request. Whatever goes wrong here ends this request alone."""
        if result.error is not None:
            return self._fail(tracked, result.error)
        try:
            return self._read(tracked, entry, result)
        except Exception as error:
            return self._fail(tracked, error)

    def _read(
        self, tracked: _Tracked, entry: ScheduledSequence, result: EntryResult
    ) -> SequenceOutput | None:
        sequence = tracked.sequence
        sequence.prompt_logprobs.extend(result.prompt_logprobs)
        if result.sampled:
            return self._collect_tokens(tracked, entry, result.sampled)
        if sequence.samples_nothing and sequence.num_uncomputed == 0:
            return self._end(tracked, SequenceOutput(sequence.request_id), FinishReason.LENGTH)
        return None

    def _collect_tokens(
        self, tracked: _Tracked, entry: ScheduledSequence, sampled: Iterable[SampledToken]
    ) -> SequenceOutput:
        taken, ending = self._take_to_end(tracked, sampled)
        if entry.drafts:
            self.scheduler.settle(entry, len(taken) - 1)
        output = SequenceOutput(
            tracked.sequence.request_id,
            token_ids=tuple(one.token_id for one in taken),
            logprobs=tuple(one.logprobs for one in taken if one.logprobs),
        )
        if ending is None:
            return _describe(tracked, output, text=tracked.detokenizer.take(final=False))
        if not isinstance(ending.stop_reason, str):
            tracked.detokenizer.finish()
        return self._end(tracked, output, ending.reason, ending.stop_reason)

    def _take_to_end(
        self, tracked: _Tracked, sampled: Iterable[SampledToken]
    ) -> tuple[list[SampledToken], Ending | None]:
        """Add tokens to a sequence and its text, up to one that ends it; those that were added."""
        taken: list[SampledToken] = []
        for one in sampled:
            tracked.sequence.tokens.append(one.token_id)
            taken.append(one)
            self._totals.generation_tokens += 1
            ending = self._endings.read(tracked.sequence, tracked.detokenizer)
            if ending is not None:
                return taken, ending
        return taken, None

    # Ending

    def _fail(self, tracked: _Tracked, error: Exception) -> SequenceOutput:
        request_id = tracked.sequence.request_id
        failed = SequenceOutput(request_id, error=StepFailed(request_id, error))
        return self._end(tracked, failed, FinishReason.ERROR)

    def _end(
        self,
        tracked: _Tracked,
        output: SequenceOutput,
        reason: FinishReason,
        stop_reason: int | str | None = None,
    ) -> SequenceOutput:
        """The last output of a request, which is forgotten. Decodes nothing, so cannot fail."""
        del self._live[tracked.sequence.request_id]
        self.scheduler.remove(tracked.sequence)
        self._totals.finished[reason] += 1
        text = tracked.detokenizer.take(final=True)
        return _describe(tracked, output, text, finish_reason=reason, stop_reason=stop_reason)


def _describe(
    tracked: _Tracked,
    output: SequenceOutput,
    text: str,
    finish_reason: FinishReason | None = None,
    stop_reason: int | str | None = None,
) -> SequenceOutput:
    """`output` with its text, and with what is told once about the prompt."""
    is_first, tracked.has_output = not tracked.has_output, True
    return replace(
        output,
        text=text,
        prompt_logprobs=tuple(tracked.sequence.prompt_logprobs) if is_first else (),
        num_cached=tracked.sequence.num_cached or 0,
        finish_reason=finish_reason,
        stop_reason=stop_reason,
    )


def _adapter_names(sequences: Iterable[Sequence]) -> tuple[str, ...]:
    return tuple(sorted({name for s in list(sequences) for name in s.request.adapter_names}))
