"""Prometheus names, buckets and units. Reads snapshots; the engine never calls this.

Names that the Kubernetes gateway routes on are exported verbatim under `vllm:`.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from server.adapters.device import DeviceAdapters
from server.adapters.host import HostAdapters
from server.adapters.memory import AdapterMemory
from server.adapters.merged import MergeCounts
from server.engine.engine import SequenceOutput
from server.engine.fuser import Fuser
from server.engine.stats import EngineStats

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5)


class RequestMetrics:
    """What is observed as requests pass: latencies and HTTP answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._first_token = Histogram(
            "intarsia_time_to_first_token_seconds",
            "From submission to a request's first token",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._inter_token = Histogram(
            "intarsia_inter_token_latency_seconds",
            "Between two tokens of one choice",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self._whole = Histogram(
            "intarsia_e2e_request_latency_seconds",
            "From submission to the end of a request's last choice",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._answers = Counter(
            "intarsia_http_responses",
            "HTTP answers",
            ["route", "status"],
            registry=registry,
        )

    async def timed(
        self, outputs: AsyncIterator[tuple[int, SequenceOutput]]
    ) -> AsyncIterator[tuple[int, SequenceOutput]]:
        """`outputs`, with their latencies observed."""
        started = time.perf_counter()
        last_token: dict[int, float] = {}
        async with aclosing(outputs):  # type: ignore[type-var]
            async for index, output in outputs:
                now = time.perf_counter()
                if index in last_token:
                    self._between_tokens(now - last_token[index], len(output.token_ids))
                else:
                    self._first_token.observe(now - started)
                last_token[index] = now
                yield index, output
        self._whole.observe(time.perf_counter() - started)

    def _between_tokens(self, seconds: float, num_tokens: int) -> None:
        """So many tokens have come at once, so long after those before: each took its share."""
        for _ in range(num_tokens):
            self._inter_token.observe(seconds / num_tokens)

    def answered(self, route: str, status: int) -> None:
        self._answers.labels(route, str(status)).inc()


class EngineCollector:
    """The engine's snapshot as metric families, made when the page is asked for."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        memory: AdapterMemory,
        base_name: str,
        max_num_seqs: int,
    ) -> None:
        self._stats = stats
        self._memory = memory
        self._base_name = base_name
        self._max_num_seqs = max_num_seqs

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        yield from self._gateway(stats)
        yield from _counters(stats)
        yield from _tiers(self._memory)
        yield GaugeMetricFamily("intarsia_kv_pages_held", "KV pages in use", stats.pages_held)
        yield GaugeMetricFamily("intarsia_kv_pages", "KV pages", stats.pages_total)
        yield GaugeMetricFamily(
            "intarsia_kv_pages_lent", "KV pages whose memory adapters have", stats.pages_lent
        )

    def _gateway(self, stats: EngineStats) -> Iterable[Metric]:
        """vLLM's names, that Kubernetes' inference gateway reads."""
        values = {
            "vllm:num_requests_running": stats.num_running,
            "vllm:num_requests_waiting": stats.num_waiting,
            "vllm:kv_cache_usage_perc": stats.pages_held / stats.pages_total,
        }
        for name, value in values.items():
            family = GaugeMetricFamily(name, "As vLLM exports it", labels=["model_name"])
            family.add_metric([self._base_name], value)
            yield family
        labels = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
        adapters = GaugeMetricFamily("vllm:lora_requests_info", "As vLLM exports it", labels=labels)
        names = [",".join(stats.running_adapters), ",".join(stats.waiting_adapters)]
        adapters.add_metric([str(self._max_num_seqs), *names], time.time())
        yield adapters


class MergeCollector:
    """What merges of requests cost."""

    def __init__(self, counts: MergeCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        counts = self._counts
        made = CounterMetricFamily("intarsia_merges", "Merges for requests", labels=["method"])
        for method, number in counts.made.copy().items():
            made.add_metric([method], number)
        yield made
        for name, meaning, value in (
            ("failed", "Merges for requests that failed", counts.failed),
            ("seconds", "Time that merges took", counts.seconds),
            ("predicted_seconds", "Time that merges were to take", counts.foretold_seconds),
            ("read_bytes", "Bytes of members that merges read", counts.bytes_read),
        ):
            yield CounterMetricFamily(f"intarsia_merge_{name}", meaning, value)


class FusedCollector:
    """What is in the base's weights, and why it was put there or taken out."""

    def __init__(self, fuser: Fuser) -> None:
        self._fuser = fuser

    def collect(self) -> Iterable[Metric]:
        switches = CounterMetricFamily(
            "intarsia_fused_switches", "Switches of what is fused", labels=["reason"]
        )
        for reason, count in self._fuser.switches.copy().items():
            switches.add_metric([reason], count)
        yield switches
        now = self._fuser.now
        fused = GaugeMetricFamily(
            "intarsia_fused_info", "What is fused now: adapters by digest", labels=["adapters"]
        )
        fused.add_metric(["+".join(now.digests) or "base"], 1)
        yield fused
        yield GaugeMetricFamily(
            "intarsia_fused_journal_bytes",
            "What leads back to the base; its room is part of the device's adapter bytes",
            self._fuser.journal_bytes_held,
        )


@dataclass(slots=True, eq=False)
class EvaluationCounts:
    """What evaluations did since the start; only ever grows."""

    rows: int = 0
    seconds: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One more batch."""
        self.rows += rows
        self.seconds += seconds

    def collect(self) -> Iterable[Metric]:
        for name, meaning, value in (
            ("rows", "Rows that evaluations asked of their subjects", self.rows),
            ("seconds", "Time that evaluations ran", self.seconds),
        ):
            yield CounterMetricFamily(f"intarsia_evaluation_{name}", meaning, value)


def _tiers(memory: AdapterMemory) -> Iterable[Metric]:
    """Adapters in host and device memory."""
    tiers: dict[str, HostAdapters | DeviceAdapters] = {
        "host": memory.host,
        "device": memory.device,
    }
    held = GaugeMetricFamily("intarsia_adapter_bytes", "Adapters held", labels=["tier"])
    events = CounterMetricFamily(
        "intarsia_adapter_events", "Adapters found, loaded, evicted", labels=["tier", "event"]
    )
    for name, tier in tiers.items():
        held.add_metric([name], tier.num_bytes)
        for event, count in asdict(tier.counts).items():
            events.add_metric([name, event], count)
    yield held
    yield events
    yield GaugeMetricFamily(
        "intarsia_adapter_pins", "Adapter leases held by requests", memory.device.num_pins
    )
    yield GaugeMetricFamily(
        "intarsia_adapter_waiting", "Requests that wait for their adapters", memory.num_waiting
    )


def _counters(stats: EngineStats) -> Iterable[Metric]:
    counters = {
        "intarsia_prompt_tokens": ("Prompt tokens of admitted requests", stats.prompt_tokens),
        "intarsia_generation_tokens": ("Tokens generated", stats.generation_tokens),
        "intarsia_prefix_cache_queries": ("Prompt tokens looked up", stats.prefix_queries),
        "intarsia_prefix_cache_hits": ("Prompt tokens found cached", stats.prefix_hits),
        "intarsia_spec_decode_num_draft_tokens": ("Guessed tokens computed", stats.draft_tokens),
        "intarsia_spec_decode_num_accepted_tokens": (
            "Guessed tokens that were right",
            stats.accepted_tokens,
        ),
        "intarsia_preemptions": ("Sequences that had to be recomputed", stats.preemptions),
    }
    for name, (meaning, value) in counters.items():
        yield CounterMetricFamily(name, meaning, value)
    finished = CounterMetricFamily(
        "intarsia_requests_finished", "Ended choices, by how they ended", labels=["reason"]
    )
    for reason, count in stats.finished.items():
        finished.add_metric([reason], count)
    yield finished


def render(registry: CollectorRegistry) -> bytes:
    """The metrics page."""
    return generate_latest(registry)
