"""The nouns of the engine: what was asked (frozen), and what is being done (mutable)."""

from dataclasses import dataclass, field
from enum import Enum

from server.adapters.composition import BASE, Composition
from server.engine.drafter import Drafter
from server.engine.sampling_params import SamplingParams

LIVE = 0  # the priority of requests that somebody waits for


class Mode(Enum):
    """How a request's composition is computed. Each is a numerics class of its own."""

    BATCHED = "batched"  # as deltas beside the base's weights
    FUSED = "fused"  # in the weights, at every one of its tokens
    AUTO = "auto"  # as is cheaper, step by step


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One accepted prompt. Tokens from index `adapter_from` on are computed with `composition`,
    those before it with the base."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    composition: Composition = BASE
    adapter_from: int = 0
    adapter_names: tuple[str, ...] = ()  # for metrics only
    cache_salt: str = ""  # requests share cached pages only where their salts are equal
    priority: int = LIVE  # as vLLM has it: lower is served first
    mode: Mode = Mode.BATCHED


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one token and of the most likely alternatives, most likely first."""

    token_id: int
    logprob: float
    rank: int  # 1 is the most likely token
    top: tuple[tuple[int, float], ...]


class FinishReason(Enum):
    """How a request ended; each ends exactly once."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way. Invariant: pages hold the first `num_computed` tokens."""

    request: GenerationRequest
    tokens: list[int]  # prompt, then output
    arrival: int = 0  # how many came before; set by the scheduler
    num_computed: int = 0  # tokens whose keys and values are in pages; set by the scheduler
    rope_regime: int = 0  # set by the scheduler from the sequence's own length
    pages: list[int] = field(default_factory=list)  # page ids in order; set by the scheduler
    page_keys: list[bytes] = field(default_factory=list)  # keys of the full pages; by the scheduler
    num_cached: int | None = None  # prompt tokens found in the prefix cache at first admission
    prompt_logprobs: list[TokenLogprobs] = field(
        default_factory=list
    )  # of tokens from `prompt_logprobs_from` on; by the engine
    drafter: Drafter | None = None  # by the scheduler, where there is speculation

    @classmethod
    def start(cls, request: GenerationRequest) -> "Sequence":
        return cls(request, list(request.prompt_token_ids))

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def priority(self) -> int:
        return self.request.priority

    @property
    def is_fused(self) -> bool:
        """Whether its tokens are to be computed in steps that have its composition fused."""
        return self.request.mode is Mode.FUSED

    @property
    def rank(self) -> tuple[int, int]:
        """Whoever has the smaller one is served first, and preempted last."""
        return self.priority, self.arrival

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of prompt tokens are still to be computed."""
        asked = self.request.sampling.prompt_logprobs is not None
        return asked and self.next_scoring < self.num_prompt - 1

    @property
    def next_scoring(self) -> int:
        """Position of the token whose logits score the next prompt token that is to be scored."""
        return self.request.sampling.prompt_logprobs_from - 1 + len(self.prompt_logprobs)

    @property
    def samples_nothing(self) -> bool:
        """Whether only the prompt is to be computed."""
        return self.request.sampling.max_tokens == 0

    def composition_runs(self, start: int, end: int) -> list[tuple[int, Composition]]:
        """Tokens `[start, end)` as (length, composition) runs, the base before `adapter_from`."""
        composed_from = min(max(self.request.adapter_from, start), end)
        runs = [(composed_from - start, BASE), (end - composed_from, self.request.composition)]
        return [(length, composition) for length, composition in runs if length]
