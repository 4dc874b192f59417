"""Any load on any small engine: right answers, from right pages, in a bounded number of steps."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import reduce

from engines import Collected, request, spell
from hypothesis import given, settings
from hypothesis import strategies as st

from server.adapters.composition import BASE, Composition
from server.engine.batch import LogitRow, logit_rows
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.runner import EntryResult
from server.engine.sampler import SampledToken
from server.engine.scheduled import ScheduledBatch, ScheduledSequence
from server.engine.sequence import FinishReason, GenerationRequest, TokenLogprobs
from server.kernels.stacked import Meanwhile

VOCABULARY = 50
COMPOSITIONS = (
    BASE,
    Composition.linear([("sha256:" + "1" * 64, 1.0)]),
    Composition.linear([("sha256:" + "1" * 64, 0.5)]),
)
ROOT = 0


def contents(before: int, one: GenerationRequest, regime: int, position: int, token: int) -> int:
    """What a cache place holds: like keys and values, it follows from all that came before.

    The tenant's salt is in it too, so that reading another tenant's page shows.
    """
    composition = one.composition if position >= one.adapter_from else BASE
    return hash((before, one.cache_salt, regime, composition.members, position, token))


def whole_contents(one: GenerationRequest, regime: int, tokens: Seq[int]) -> int:
    """What the place of the last of `tokens` must hold."""
    places = enumerate(tokens)
    return reduce(lambda before, place: contents(before, one, regime, *place), places, ROOT)


def token_of(value: int) -> int:
    """The token that contents lead to: mostly one of two, so that guesses are right at times."""
    return value % 2 if value % 3 else value % VOCABULARY


class ChainRunner:
    """A model whose answers are wrong if any page, regime, adapter or token of theirs is."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.memory: dict[tuple[int, int], int] = {}

    def run(self, batch: ScheduledBatch, meanwhile: Meanwhile = lambda: None) -> list[EntryResult]:
        assert 0 < batch.num_tokens <= self.config.max_num_batched_tokens
        assert 0 < len(batch.entries) <= self.config.max_num_seqs
        for entry in batch.entries:
            self._compute(entry)
        results = {id(entry): EntryResult() for entry in batch.entries}
        for row in logit_rows(batch):
            value = self.memory[self._place(row.entry, row.position)]
            if row.samples:
                self._choose(row, token_of(value), results[id(row.entry)])
            else:
                scored = TokenLogprobs(row.position, float(value), 1, ())
                results[id(row.entry)].prompt_logprobs.append(scored)
        return list(results.values())

    def _compute(self, entry: ScheduledSequence) -> None:
        sequence = entry.sequence
        before = ROOT if entry.start == 0 else self.memory[self._place(entry, entry.start - 1)]
        for position in range(entry.start, entry.end):
            one, regime = sequence.request, sequence.rope_regime
            token = entry.token_ids[position - entry.start]
            before = contents(before, one, regime, position, token)
            self.memory[self._place(entry, position)] = before

    def _choose(self, row: LogitRow, token: int, result: EntryResult) -> None:
        before = row.entry.drafts[: row.position + 1 - row.entry.known_end]
        if [earlier.token_id for earlier in result.sampled] == list(before):
            result.sampled.append(SampledToken(token, None))

    def _place(self, entry: ScheduledSequence, position: int) -> tuple[int, int]:
        page = entry.sequence.pages[position // self.config.page_size]
        return page, position % self.config.page_size


@dataclass(frozen=True)
class Visit:
    """A request with the steps at which it comes and is aborted."""

    request: GenerationRequest
    arrives: int
    aborted: int | None


@st.composite
def configs(draw: st.DrawFn) -> EngineConfig:
    page_size = draw(st.integers(1, 8))
    max_model_len = draw(st.integers(4, 48))
    least = -(-max_model_len // page_size)
    return EngineConfig(
        max_model_len=max_model_len,
        num_pages=least + draw(st.integers(0, 2 * least)),
        page_size=page_size,
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.one_of(st.just(1), st.integers(1, 40))),
        rope_boundary=draw(st.one_of(st.none(), st.integers(1, max_model_len))),
        num_draft_tokens=draw(st.sampled_from([0, 0, 1, 4, 9])),
    )


@st.composite
def loads(draw: st.DrawFn) -> tuple[EngineConfig, list[Visit]]:
    """Requests that share beginnings, so that pages are found, and crowd a small cache."""
    config = draw(configs())
    visits = []
    for index in range(draw(st.integers(1, 14))):
        length = draw(st.integers(1, config.max_model_len - 1))
        changed = draw(st.integers(0, 4 * length))
        prompt = [VOCABULARY - 1 if at == changed else at % 5 for at in range(length)]
        one = request(
            str(index),
            prompt,
            draw(st.sampled_from((BASE, BASE, BASE, *COMPOSITIONS))),
            draw(st.integers(0, config.max_model_len)),
            draw(st.sampled_from(["", "", "", "tenant"])),
            max_tokens=draw(st.integers(0, config.max_model_len - length)),
            prompt_logprobs=draw(st.sampled_from([None, None, 0])),
            prompt_logprobs_from=draw(st.one_of(st.just(1), st.integers(1, length + 1))),
        )
        aborted = draw(st.one_of(st.none(), st.none(), st.integers(0, 60)))
        visits.append(Visit(one, draw(st.integers(0, 60)), aborted))
    return config, visits


def most_steps(config: EngineConfig, visits: Seq[Visit]) -> int:
    """Steps until the last request has ended.

    The oldest request is served first in every step and loses its pages to nobody, so from the
    moment that it is the oldest it computes its tokens at most twice (once for each RoPE regime).
    """
    chunks = -(-config.max_model_len // config.max_num_batched_tokens)
    own = sum(2 * chunks + visit.request.sampling.max_tokens + 1 for visit in visits)
    return max(visit.arrives for visit in visits) + own


def simulate(config: EngineConfig, visits: Seq[Visit]) -> tuple[Engine, Collected]:
    engine, collected, step = (
        Engine(config, ChainRunner(config), spell, frozenset()),
        Collected(),
        0,
    )
    while engine.has_work or any(visit.arrives >= step for visit in visits):
        assert step <= most_steps(config, visits), "no progress"
        for visit in visits:
            if visit.arrives == step:
                engine.add(visit.request)
            if visit.aborted == step and (output := engine.abort(visit.request.request_id)):
                collected.add([output])
        if engine.has_work:
            collected.add(engine.step())
        engine.check_integrity()
        step += 1
    return engine, collected


def expected_output(config: EngineConfig, one: GenerationRequest) -> list[int]:
    tokens = list(one.prompt_token_ids)
    for _ in range(one.sampling.max_tokens):
        regime = config.rope_regime(len(tokens))
        tokens.append(token_of(whole_contents(one, regime, tokens)))
    return tokens[len(one.prompt_token_ids) :]


def expected_scores(config: EngineConfig, one: GenerationRequest) -> list[TokenLogprobs]:
    prompt = one.prompt_token_ids
    if one.sampling.prompt_logprobs is None:
        return []
    regime = config.rope_regime(len(prompt))
    scoring = range(one.sampling.prompt_logprobs_from - 1, len(prompt) - 1)
    values = {end: whole_contents(one, regime, prompt[: end + 1]) for end in scoring}
    return [TokenLogprobs(end, float(value), 1, ()) for end, value in values.items()]


@settings(max_examples=250, deadline=None)
@given(loads())
def test_every_request_ends_once_in_time_with_what_it_gets_alone(
    load: tuple[EngineConfig, list[Visit]],
) -> None:
    config, visits = load
    engine, collected = simulate(config, visits)
    assert engine.scheduler.blocks.num_held == 0
    for visit in visits:
        one = visit.request
        last, made = collected.last(one.request_id), collected.tokens(one.request_id)
        expected = expected_output(config, one)
        if last.finish_reason is FinishReason.ABORT:
            assert visit.aborted is not None
            assert made == expected[: len(made)]
        else:
            assert last.finish_reason is FinishReason.LENGTH
            assert made == expected
            [scores] = {o.prompt_logprobs for o in collected.outputs[one.request_id]} - {()} or [()]
            assert list(scores) == expected_scores(config, one)
        assert last.num_cached < len(one.prompt_token_ids)
