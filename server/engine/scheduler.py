"""Who runs next: waiting and running sequences, the token budget, pages, preemption.

Plain data in and out, no tensors. First come, first served: running sequences are served in order
of arrival, then waiting ones are admitted while tokens, seats and pages last. When pages run out
the latest arrival gives its pages back and waits again, to be recomputed (preemption).

Streams come before prompts: of a step that has both, prompts get as much as keeps it short, for
the streams' sake (`pace.py`).

That is so within a priority. What is less urgent has what the more urgent leaves over: it is
admitted where none of those waits, gives seats and pages to any that comes, and has as many tokens
of a step as make it little longer (`pace.py`). So it delays nobody by more than a short step.

A step has one composition in the weights at most. Of sequences in fused mode it computes those
whose turn it is (`turns.py`); the others keep their seats and pages meanwhile.
"""

from collections.abc import Iterable, Iterator
from itertools import count

from server.engine.block_manager import BlockManager
from server.engine.config import EngineConfig
from server.engine.errors import QueueFull
from server.engine.pace import Pace
from server.engine.page_keys import extend_keys
from server.engine.ranks import first_of, of_priority, put
from server.engine.room import Room
from server.engine.scheduled import ScheduledBatch, ScheduledSequence
from server.engine.sequence import LIVE, Sequence
from server.engine.speculation import Speculation
from server.engine.stats import SchedulerCounts
from server.engine.turns import Turns


class Scheduler:
    """Owns the sequences and their pages; the only writer of a sequence's pages and counters."""

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self.config = config
        self.blocks = blocks
        self.counts = SchedulerCounts()
        self.pace = Pace()
        self.waiting: list[Sequence] = []  # this and the next by rank
        self.running: list[Sequence] = []
        self._arrivals = count()
        self._speculation = Speculation(config, blocks)
        self._turns = Turns()
        self._preempted: set[int] = set()  # priorities of what this step preempted

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises QueueFull; those that are less urgent do not count."""
        if first_of(self.waiting, sequence.priority + 1) >= self.config.max_queued_requests:
            raise QueueFull(self.config.max_queued_requests)
        sequence.arrival = next(self._arrivals)
        put(self.waiting, sequence)

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
        entries = self._schedule_turn()
        while not entries and self._preempted:  # those whose turn it was: then it is another's
            entries = self._schedule_turn()
        return ScheduledBatch(self._speculation.extend(entries), self._turns.current)

    def _schedule_turn(self) -> list[ScheduledSequence]:
        self._turns.begin(s.request.composition for s in self.running if s.is_fused)
        self._preempted.clear()
        entries: list[ScheduledSequence] = []
        budget = self.config.max_num_batched_tokens
        for priority in sorted({s.priority for s in (*self.running, *self.waiting)}):
            num_tokens = sum(entry.num_tokens for entry in entries)
            room = budget if priority <= LIVE else self.pace.room(num_tokens)
            entries += self._schedule_priority(priority, min(budget - num_tokens, room))
        return entries

    def _schedule_priority(self, priority: int, budget: int) -> list[ScheduledSequence]:
        room = self._room(priority, budget)
        entries = list(self._continue_running(priority, room))
        if priority not in self._preempted:
            entries.extend(self._admit_waiting(priority, room))
        return entries

    def _room(self, priority: int, budget: int) -> Room:
        running, waiting = (of_priority(each, priority) for each in (self.running, self.waiting))
        for sequence in running:
            self._follow_rope_regime(sequence)
        streams = sum(s.num_uncomputed == 1 and self._turns.include(s) for s in running)
        streams = min(streams, budget)
        seats = self.config.max_num_seqs - len(self.running)
        prompts = len(running) - streams + min(len(waiting), seats)
        room = self.pace.prompt_room(streams, prompts) if streams and priority <= LIVE else budget
        return Room(streams, min(budget - streams, room))

    def computed(self, entries: Iterable[ScheduledSequence]) -> None:
        """Their tokens are in pages, and full pages can be found by key."""
        with self.blocks.lock:
            for entry in entries:
                self._advance(entry.sequence, entry.known_end)

    def settle(self, entry: ScheduledSequence, num_accepted: int) -> None:
        """As many of the entry's drafts have become its sequence's tokens; it had some."""
        self.counts.add_drafts(len(entry.drafts), num_accepted)
        with self.blocks.lock:
            self._advance(entry.sequence, entry.known_end + num_accepted)
            self._speculation.trim(entry.sequence)

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

    def _continue_running(self, priority: int, room: Room) -> Iterator[ScheduledSequence]:
        position = first_of(self.running, priority)
        while position < first_of(self.running, priority + 1):
            sequence = self.running[position]
            num_tokens = room.take(sequence) if self._turns.include(sequence) else 0
            if not self._hold_pages(sequence, num_tokens):
                break  # it preempted itself, the last one left
            if num_tokens:
                yield ScheduledSequence(sequence, sequence.num_computed, num_tokens)
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
        put(self.waiting, sequence)
        self._preempted.add(sequence.priority)
        self.counts.preemptions += 1

    def _preempt_less_urgent(self, priority: int) -> bool:
        """Preempt the last sequence behind `priority`; False if there is none."""
        if not self.running or self.running[-1].priority <= priority:
            return False
        self._preempt(self.running[-1])
        return True

    def _follow_rope_regime(self, sequence: Sequence) -> None:
        """Start over where the sequence has outgrown the regime that its pages were made in."""
        regime = self.config.rope_regime(len(sequence.tokens))
        if regime != sequence.rope_regime:
            self._release(sequence)
            sequence.rope_regime = regime

    # Waiting sequences

    def _admit_waiting(self, priority: int, room: Room) -> Iterator[ScheduledSequence]:
        while self.waiting and self.waiting[0].priority == priority and room.prompts > 0:
            sequence = self.waiting[0]
            if not self._make_room(sequence):
                break
            if not self._turns.include(sequence):
                put(self.running, self.waiting.pop(0))
                continue
            num_tokens = room.take(sequence)
            grown = self._grow(sequence, sequence.num_computed + num_tokens)
            assert grown, "pages for the whole sequence were free"
            put(self.running, self.waiting.pop(0))
            yield ScheduledSequence(sequence, sequence.num_computed, num_tokens)

    def _make_room(self, sequence: Sequence) -> bool:
        """A seat and pages for all of `sequence`, if need be those of less urgent ones."""
        seats = self.config.max_num_seqs
        while len(self.running) >= seats or not self._take_cached_prefix(sequence):
            if not self._preempt_less_urgent(sequence.priority):
                return False
        return True

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
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
            self.counts.add_prompt(sequence.num_prompt, sequence.num_cached)
        return True

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        """Known pages of the sequence before the first token whose logits are needed."""
        is_scored = sequence.wants_prompt_logprobs
        first = sequence.next_scoring if is_scored else len(sequence.tokens) - 1
        num_pages = first // self.config.page_size
        self._extend_keys(sequence, num_pages)
        return self.blocks.find(sequence.page_keys[:num_pages])

    # Pages

    def _advance(self, sequence: Sequence, num_computed: int) -> None:
        """Pages hold so many of the sequence's tokens; those that are full are published."""
        page_size = self.config.page_size
        first, past = sequence.num_computed // page_size, num_computed // page_size
        sequence.num_computed = num_computed
        self._extend_keys(sequence, past)
        for index in range(first, past):
            self.blocks.publish(sequence.pages[index], sequence.page_keys[index])

    def _extend_keys(self, sequence: Sequence, num_pages: int) -> None:
        mode = self.config.mode_class(sequence.request.mode)
        numerics = f"{self.config.numerics};mode={mode};rope={sequence.rope_regime}"
        extend_keys(sequence, num_pages, self.config.page_size, numerics)

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.pages)
        sequence.pages = []
        sequence.page_keys = []
        sequence.num_computed = 0
