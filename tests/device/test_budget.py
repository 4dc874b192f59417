"""A GPU's memory is planned before it is used: what does not fit is refused with the numbers."""

import dataclasses
from typing import Any

import pytest
import torch
from recorded_kernels import LoggingDevice
from transformers import Phi3Config

from server.budget import GIB, MemoryTooSmall, out_of_memory, plan_budget
from server.device.interface import Memory
from server.model.config import ModelConfig, from_transformers
from server.plan.adapters import AdapterShape
from server.plan.devices import GPUS
from server.plan.models import MODELS
from server.plan.plan import make_plan
from server.plan.report import as_json
from server.plan.workload import PAGE, STEP_TOKENS, Workload
from server.settings import Settings

MINI_BYTES = 2 * 3_821_079_552  # parameters of Phi-3-mini-4k in bf16
TAKEN = GIB // 2  # by the driver and other programs
A10 = 23028 << 20


@pytest.fixture(scope="module")
def mini() -> ModelConfig:
    """Phi-3-mini-4k is the default of its configuration."""
    return from_transformers(
        Phi3Config(rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    )


def gpu(total: int, taken: int = TAKEN) -> LoggingDevice:
    return LoggingDevice(memory=Memory(total=total, free=total - taken))


def settings(**fields: Any) -> Settings:
    return Settings(_cli_parse_args=[], **fields)


def test_kv_pages_and_adapters_get_all_that_remains(mini: ModelConfig) -> None:
    budget = plan_budget(settings(), mini, torch.bfloat16, gpu(A10))
    assert budget.fixed["runtime"] == TAKEN
    assert budget.fixed["weights"] == MINI_BYTES
    assert 0 < budget.fixed["workspace"] < GIB
    assert budget.cache + sum(budget.fixed.values()) == A10
    assert budget.cache > 12 * GIB


def test_more_rows_and_longer_steps_leave_less(mini: ModelConfig) -> None:
    def cache(**fields: int) -> int:
        return plan_budget(settings(**fields), mini, torch.bfloat16, gpu(A10)).cache

    assert cache(max_num_seqs=256) < cache(max_num_seqs=64)
    assert cache(max_num_batched_tokens=8192) < cache(max_num_batched_tokens=512)


def workspace(mini: ModelConfig, **fields: int) -> int:
    sizes = {"max_num_seqs": 8, "page_size": 16, **fields}
    return plan_budget(settings(**sizes), mini, torch.bfloat16, gpu(A10)).fixed["workspace"]


def test_a_token_more_needs_what_gate_and_up_leave_beside_adapters(mini: ModelConfig) -> None:
    found = workspace(mini, max_num_batched_tokens=2001)
    found -= workspace(mini, max_num_batched_tokens=2000)
    assert found == 3 * 3072 * 2 + 16 * 8192


def test_rows_need_their_logits_products_activations_and_page(mini: ModelConfig) -> None:
    found = workspace(mini, max_num_seqs=32) - workspace(mini, max_num_seqs=16)
    logits, products = 16 * (4 + 14) * 32064, 8 * 32 * 32064 * 4  # a bucket of 32 more
    page = 16 * 32 * 2 * 3072 * 2
    assert found == logits + products + 16 * (3 * 3072 * 2 + 16 * 8192) + page


def test_the_heads_changed_copy_is_the_only_one(mini: ModelConfig) -> None:
    """It alone is larger when the vocabulary is, beside numbers of rows."""
    larger = dataclasses.replace(mini, vocab_size=mini.vocab_size + 1)
    found = workspace(larger, max_num_seqs=1) - workspace(mini, max_num_seqs=1)
    rows = 4 + (1 + 64) * 14 + 8 * 4
    assert found == rows + 3072 * 2


@pytest.mark.parametrize(
    ("name", "batch", "context", "adapters"),
    [("A10", 1, 16, 0), ("A10", 32, 512, 32), ("L4", 7, 4096, 3), ("H100", 100, 1000, 128)],
)
def test_a_start_divides_memory_as_the_plan_says(
    mini: ModelConfig, name: str, batch: int, context: int, adapters: int
) -> None:
    planned = make_plan(
        Workload(
            model=MODELS["phi-3-mini-4k"],
            device=GPUS[name],
            adapter=AdapterShape("element", 0.01),
            adapters=adapters,
            batch=batch,
            context=context,
            dtype="bfloat16",
        )
    )
    told, parts = as_json(planned), planned.memory.parts
    there = gpu(GPUS[name].memory_bytes, GPUS[name].runtime_bytes)
    budget = plan_budget(settings(**told["settings"]), mini, torch.bfloat16, there)
    assert budget.fixed == {part: parts[part] for part in budget.fixed}
    assert budget.fixed.keys() == parts.keys() - {"kv_pages", "adapters"}
    assert budget.cache == told["settings"]["device_cache_bytes"]
    assert (
        budget.cache
        == plan_budget(
            settings(**{**told["settings"], "device_cache_bytes": None}),
            mini,
            torch.bfloat16,
            there,
        ).cache
    )
    assert sum(told["workspace"].values()) == budget.fixed["workspace"]


def test_what_is_planned_where_nothing_is_said_is_what_is_served_then() -> None:
    assert (settings().page_size, settings().max_num_batched_tokens) == (PAGE, STEP_TOKENS)


def test_what_the_settings_say_is_kept_to(mini: ModelConfig) -> None:
    asked = settings(device_cache_bytes=4 * GIB)
    budget = plan_budget(asked, mini, torch.bfloat16, gpu(A10))
    assert budget.cache == 4 * GIB


def test_more_than_remains_is_refused_with_what_remains(mini: ModelConfig) -> None:
    asked = settings(device_cache_bytes=20 * GIB)
    with pytest.raises(MemoryTooSmall) as caught:
        plan_budget(asked, mini, torch.bfloat16, gpu(A10))
    error = caught.value
    assert error.key == "device_cache_bytes"
    assert error.parts["KV pages and adapters"] == 20 * GIB
    assert "GiB that remain" in str(error)
    assert "weights 7.12" in str(error)


@pytest.mark.parametrize(
    ("total", "taken", "dtype", "says"),
    [
        (6 * GIB, TAKEN, torch.bfloat16, "other programs"),
        (A10, 20 * GIB, torch.bfloat16, "runtime 20.00"),
        (12 * GIB, TAKEN, torch.float32, "dtype bfloat16"),
    ],
    ids=str,
)
def test_a_base_that_does_not_fit_is_refused_with_the_way_out(
    mini: ModelConfig, total: int, taken: int, dtype: torch.dtype, says: str
) -> None:
    with pytest.raises(MemoryTooSmall) as caught:
        plan_budget(settings(), mini, dtype, gpu(total, taken))
    error = caught.value
    assert error.key == "device"
    assert sum(error.parts.values()) > error.total == total
    assert says in str(error)
    assert "device cpu" in str(error)


def test_the_table_adds_up_to_the_devices_memory(mini: ModelConfig) -> None:
    budget = plan_budget(settings(), mini, torch.bfloat16, gpu(A10))
    table = budget.table(budget.cache // 2, budget.cache // 4)
    title, *lines = table.splitlines()
    assert title == "memory of a fake, 22.49 GiB:"
    names = ["runtime", "weights", "workspace", "reserve", "adapters", "KV", "unused"]
    assert [line.split()[0] for line in lines] == names
    assert sum(float(line.split()[-2]) for line in lines) == pytest.approx(A10 / GIB, abs=0.05)


def test_memory_that_somebody_else_took_meanwhile_is_no_crash() -> None:
    said = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    error = out_of_memory(gpu(A10, A10 - GIB), said)
    assert error.key == "device"
    assert "1.00 of 22.49 GiB left" in str(error)
    assert "Tried to allocate 2.00 GiB" in str(error)
