"""What the engine is told at start. Frozen; knows nothing of the environment or of flags."""

from dataclasses import dataclass

from server.engine.sequence import Mode


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of the engine. The pages that are never lent hold one sequence of `max_model_len`."""

    max_model_len: int  # tokens of one sequence, prompt and output
    num_pages: int  # pages of the KV cache
    max_lent_pages: int = 0  # of these, what adapters may take the memory of
    page_size: int = 32  # tokens per page
    max_num_seqs: int = 64  # sequences in one step
    max_num_batched_tokens: int = 512  # tokens in one step
    max_queued_requests: int = 1024  # requests that may wait
    rope_boundary: int | None = None  # longest sequence of the short RoPE regime (longrope)
    numerics: str = "fp32"  # numerics class of this server, part of every page's key
    may_fuse: bool = False  # whether weights ever hold a composition
    num_draft_tokens: int = 0  # most guesses of a sequence in one step; 0: no speculation

    def __post_init__(self) -> None:
        assert self.page_size > 0
        assert self.max_num_seqs > 0
        assert self.max_num_batched_tokens > 0
        kept = self.num_pages - self.max_lent_pages
        assert self.max_model_len <= kept * self.page_size, "one sequence must fit"

    def mode_class(self, mode: Mode) -> str:
        """The numerics class of requests in `mode`.

        Where weights may hold a composition, tokens of batched requests are corrected in some steps
        and not in others. Then they are equal to a tolerance only, and no longer to the bit.
        """
        return "corrected" if mode is Mode.BATCHED and self.may_fuse else mode.value

    def rope_regime(self, num_tokens: int) -> int:
        """RoPE regime of a sequence that is `num_tokens` long: 0 short, 1 long."""
        return int(self.rope_boundary is not None and num_tokens > self.rope_boundary)

    def rope_room(self, num_tokens: int) -> int:
        """By how many tokens a sequence that is `num_tokens` long may grow within its regime."""
        if self.rope_boundary is None or num_tokens > self.rope_boundary:
            return self.max_model_len - num_tokens
        return self.rope_boundary - num_tokens
