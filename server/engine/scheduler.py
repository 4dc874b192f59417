"""Who runs next: waiting and running sequences, the token budget, pages, preemption.

Plain data in and out, no tensors. First come, first served: running sequences are served in order
of arrival, then waiting ones are admitted while tokens, seats and pages last. When pages run out
the latest arrival gives its pages back and waits again, to be recomputed (preemption).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from server.engine.block_manager import BlockManager
from server.engine.config import EngineConfig
from server.engine.errors import QueueFull
from server.engine.page_keys import extend_keys
from server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """Compute tokens `[start, start + num_tokens)` of `sequence` in this step."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether this chunk reaches the sequence's last token, so that the next one is chosen."""
        return self.end == len(self.sequence.tokens) and not self.sequence.samples_nothing


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The whole contract between scheduler and runner for one step."""

    entries: tuple[ScheduledSequence, ...]

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.entries)


@dataclass(slots=True)
class SchedulerCounts:
    """What happened since the start; only ever grows."""

    preemptions: int = 0
    prompt_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  # prompt tokens found there


class Scheduler:
    """Owns the sequences and their pages; the only writer of a sequence's pages and counters."""

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self.config = config
        self.blocks = blocks
        self.counts = SchedulerCounts()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises QueueFull."""
        if len(self.waiting) >= self.config.max_queued_requests:
            raise QueueFull(self.config.max_queued_requests)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, wherever it is, and free its pages."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        with self.blocks.lock:
            self._release(sequence)

    def schedule(self) -> ScheduledBatch:
        """The next step's work. Pages for it are held when this returns."""
        with self.blocks.lock:
            return self._schedule()

    def _schedule(self) -> ScheduledBatch:
        preemptions = self.counts.preemptions
        entries = list(self._continue_running())
        if self.counts.preemptions == preemptions:
            budget = self.config.max_num_batched_tokens - sum(e.num_tokens for e in entries)
            entries.extend(self._admit_waiting(budget))
        return ScheduledBatch(tuple(entries))

    def computed(self, batch: ScheduledBatch) -> None:
        """The step has run: its tokens are in pages, and full pages can be found by key."""
        with self.blocks.lock:
            for entry in batch.entries:
                entry.sequence.num_computed = entry.end
                self._publish_full_pages(entry)

    def check_integrity(self) -> None:
        """Raise AssertionError unless pages and sequences agree."""
        sequences = [*self.running, *self.waiting]
        with self.blocks.lock:
            self.blocks.check_integrity([sequence.pages for sequence in sequences])
        for sequence in sequences:
            capacity = len(sequence.pages) * self.config.page_size
            assert sequence.num_computed <= capacity, sequence
        assert all(not sequence.pages for sequence in self.waiting), (
            "a waiting sequence holds pages"
        )

    # Running sequences

    def _continue_running(self) -> Iterator[ScheduledSequence]:
        budget = self.config.max_num_batched_tokens
        position = 0
        while position < len(self.running) and budget > 0:
            sequence = self.running[position]
            self._follow_rope_regime(sequence)
            num_tokens = min(sequence.num_uncomputed, budget)
            if not self._hold_pages(sequence, num_tokens):
                break  # it preempted itself, the last one left
            yield ScheduledSequence(sequence, sequence.num_computed, num_tokens)
            budget -= num_tokens
            position += 1

    def _hold_pages(self, sequence: Sequence, num_tokens: int) -> bool:
        """Hold pages for the next tokens, preempting later arrivals; False if it went itself."""
        while not self._grow(sequence, sequence.num_computed + num_tokens):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        missing = self.blocks.pages_for(num_tokens) - len(sequence.pages)
        pages = self.blocks.allocate(max(missing, 0))
        if pages is None:
            return False
        sequence.pages.extend(pages)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.counts.preemptions += 1

    def _follow_rope_regime(self, sequence: Sequence) -> None:
        """Start over where the sequence has outgrown the regime that its pages were made in."""
        regime = self.config.rope_regime(len(sequence.tokens))
        if regime != sequence.rope_regime:
            self._release(sequence)
            sequence.rope_regime = regime

    # Waiting sequences

    def _admit_waiting(self, budget: int) -> Iterator[ScheduledSequence]:
        while self.waiting and budget > 0 and len(self.running) < self.config.max_num_seqs:
            sequence = self.waiting[0]
            if not self._take_cached_prefix(sequence):
                break
            num_tokens = min(sequence.num_uncomputed, budget)
            grown = self._grow(sequence, sequence.num_computed + num_tokens)
            assert grown, "pages for the whole sequence were free"
            self.running.append(self.waiting.popleft())
            yield ScheduledSequence(sequence, sequence.num_computed, num_tokens)
            budget -= num_tokens

    def _take_cached_prefix(self, sequence: Sequence) -> bool:
        """Hold the pages that are known already, if the rest of the sequence fits beside them."""
        sequence.rope_regime = self.config.rope_regime(len(sequence.tokens))
        found = self._find_prefix(sequence)
        missing = self.blocks.pages_for(len(sequence.tokens)) - len(found)
        if not self.blocks.has_room(missing + self.blocks.num_free_among(found)):
            return False
        self.blocks.take(found)
        sequence.pages = found
        sequence.num_computed = len(found) * self.config.page_size
        self._count_prefix(sequence)
        return True

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        """Known pages of the sequence; its last token is always computed, to have logits."""
        if sequence.wants_prompt_logprobs:
            return []
        num_pages = (len(sequence.tokens) - 1) // self.config.page_size
        self._extend_keys(sequence, num_pages)
        return self.blocks.find(sequence.page_keys[:num_pages])

    def _count_prefix(self, sequence: Sequence) -> None:
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
            self.counts.prompt_tokens += sequence.num_prompt
            self.counts.prefix_queries += sequence.num_prompt
            self.counts.prefix_hits += sequence.num_cached

    # Pages

    def _publish_full_pages(self, entry: ScheduledSequence) -> None:
        sequence, page_size = entry.sequence, self.config.page_size
        num_full = entry.end // page_size
        self._extend_keys(sequence, num_full)
        for index in range(entry.start // page_size, num_full):
            self.blocks.publish(sequence.pages[index], sequence.page_keys[index])

    def _extend_keys(self, sequence: Sequence, num_pages: int) -> None:
        numerics = f"{self.config.numerics};rope={sequence.rope_regime}"
        extend_keys(sequence, num_pages, self.config.page_size, numerics)

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.pages)
        sequence.pages = []
        sequence.page_keys = []
        sequence.num_computed = 0
