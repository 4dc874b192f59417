"""Drafts for a step's sequences (`drafter.py`), out of tokens and pages that nobody wants in it.

Drafts are computed beside a sequence's last token. The runner then chooses token by token as it
always does, and goes on while the draft was right. So they change how many steps an answer takes,
never the answer; and what others get in a step, and hold after it, is what it is without them.
"""

from collections.abc import Iterable

from server.engine.block_manager import BlockManager
from server.engine.config import EngineConfig
from server.engine.drafter import Drafter
from server.engine.scheduled import ScheduledSequence
from server.engine.sequence import LIVE, Sequence

FEW_TOKENS = 4  # on a CPU a step of so many takes as long as of one, of one more half as long again


class Speculation:
    """Drafts for a step, out of tokens and pages that nobody wants in it."""

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self._config = config
        self._blocks = blocks

    def extend(self, entries: Iterable[ScheduledSequence]) -> tuple[ScheduledSequence, ...]:
        """`entries`, which are all of a step's, with drafts; pages for them are held."""
        extended = tuple(entries)
        if self._config.num_draft_tokens == 0:
            return extended
        num_tokens = sum(entry.num_tokens for entry in extended)
        budget = self._config.max_num_batched_tokens
        past = min(budget, FEW_TOKENS) if num_tokens <= FEW_TOKENS else budget
        with_drafts = []
        for entry in extended:
            drafts = self._draft(entry, num_tokens, past) if _is_decoding(entry) else ()
            num_tokens += len(drafts)
            with_drafts.append(entry.with_drafts(drafts) if drafts else entry)
        return tuple(with_drafts)

    def trim(self, sequence: Sequence) -> None:
        """Let go of pages that wrong drafts were in: everybody has what they would have without."""
        num_pages = self._blocks.pages_for(sequence.num_computed)
        self._blocks.release(sequence.pages[num_pages:])
        del sequence.pages[num_pages:]

    def _draft(self, entry: ScheduledSequence, num_tokens: int, past: int) -> tuple[int, ...]:
        """For a step of `num_tokens` so far, and of `past` at most."""
        sequence, blocks = entry.sequence, self._blocks
        if sequence.drafter is None:
            sequence.drafter = Drafter()
        most = max(0, min(past - num_tokens, self._most(sequence)))
        drafts = sequence.drafter.draft(sequence.tokens, most, num_tokens)
        missing = blocks.pages_for(entry.end + len(drafts)) - len(sequence.pages)
        pages = blocks.allocate(max(missing, 0))
        assert pages is not None, "as many were free"
        sequence.pages.extend(pages)
        return drafts

    def _most(self, sequence: Sequence) -> int:
        """As many as may all be right, each with a token after it, in pages that are free."""
        config, length = self._config, len(sequence.tokens)
        last = min(config.max_model_len, sequence.num_prompt + sequence.request.sampling.max_tokens)
        num_pages = len(sequence.pages) + self._blocks.num_free
        return min(
            config.num_draft_tokens,
            last - length - 1,
            config.rope_room(length),
            num_pages * config.page_size - length,
        )


def _is_decoding(entry: ScheduledSequence) -> bool:
    """Whether it computes its last token alone; and somebody waits for it, who is not delayed."""
    return entry.samples and entry.num_tokens == 1 and entry.sequence.priority <= LIVE
