"""Counts and times: products are those that torch counts, and more work is never faster."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_workloads import A_CPU, workload, workloads
from torch.utils.flop_counter import FlopCounterMode
from transformers import Phi3Config, Phi3ForCausalLM

from server.engine.turns import QUANTUM
from server.plan.adapters import AdapterShape
from server.plan.devices import GPUS, Device
from server.plan.efficiency import Efficiency
from server.plan.kernels import KernelCost, step_kernels
from server.plan.models import MODELS, ModelShape
from server.plan.plan import CURVE, make_plan
from server.plan.roofline import MODES, TURN_STEPS, Forecast, Mode, forecast, kernel_time
from server.plan.switching import switch_cost
from server.plan.workload import Workload

TINY = ModelShape(64, 32, 48, 3, 4, 2, 8, 128, None, False)


def costs(planned: Workload, distinct: int = 0) -> Mapping[str, KernelCost]:
    return {cost.name: cost for cost in step_kernels(planned, planned.batch, distinct)}


def certain(planned: Workload, mode: Mode) -> Forecast:
    found = forecast(planned, mode)
    assert found is not None
    return found


def torch_flops(shape: ModelShape, batch: int) -> int:
    """Operations of products in transformers' step of `batch` sequences of one token."""
    config = Phi3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        pad_token_id=None,
        attn_implementation="eager",
    )
    model = Phi3ForCausalLM(config).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(batch, 1, dtype=torch.int64), use_cache=False)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("batch", [1, 5])
def test_operations_are_those_that_torch_counts(batch: int) -> None:
    planned = workload(model=TINY, batch=batch, context=1)
    counted = costs(planned)
    products = sum(cost.matrix_flops for cost in counted.values())
    assert products + counted["attention"].vector_flops == torch_flops(TINY, batch)


def test_a_step_of_one_token_reads_every_weight_once() -> None:
    planned = workload(batch=1, context=1)
    model = planned.model
    products = [*model.linears, "lm_head"]
    read = sum(costs(planned)[name].num_bytes for name in products)
    assert read == pytest.approx(2 * model.linear_numbers, rel=1e-3)
    assert read > 2 * model.linear_numbers


def test_attention_reads_the_context_up_to_the_window() -> None:
    read = [costs(workload(context=c))["attention"].num_bytes for c in (1, 2047, 2048, 4096)]
    assert read[0] < read[1] == read[2] == read[3]
    per_token = 2 * 32 * 32 * 96 * 2
    assert read[1] == 32 * per_token * 2047 + 32 * 32 * 2 * 3072 * 2
    flops = [costs(workload(context=c))["attention"].vector_flops for c in (1, 2047, 2048)]
    assert flops == [32 * 4 * 32 * seen * 3072 for seen in (1, 2047, 2047)]


def test_deltas_read_each_distinct_adapter_once_and_compute_for_each_token() -> None:
    few = costs(workload(batch=32), distinct=4)["qkv_proj deltas"]
    many = costs(workload(batch=32), distinct=32)["qkv_proj deltas"]
    shape, model = AdapterShape("element", 0.01), MODELS["phi-3-mini-4k"]
    assert many.num_bytes - few.num_bytes == 28 * shape.num_bytes(model, on_cpu=False)
    inputs_and_outputs = 32 * 32 * (3072 * 2 + 9216 * 8)
    assert many.num_bytes - 32 * shape.num_bytes(model, on_cpu=False) == inputs_and_outputs
    assert many.gathers == few.gathers == 32 * 32 * round(0.01 * 9216 * 3072)
    assert many.vector_flops == 2 * many.gathers


@pytest.mark.parametrize("kind", ["block", "low_rank"])
def test_tiles_are_dense_products_from_eight_tokens_an_adapter_on(kind: Any) -> None:
    planned = workload(adapter=AdapterShape(kind, 0.1))
    for distinct, dense in ((4, True), (5, False)):
        cost = costs(planned, distinct)["qkv_proj deltas"]
        assert (cost.matrix_flops > 0, cost.vector_flops > 0) == (dense, not dense)
        assert cost.gathers == 0


DEVICE = Device("one", 1, 10.0, {"float32": 100.0}, 20.0, 5.0, 0)


@pytest.mark.parametrize(
    ("cost", "seconds", "bound"),
    [
        (KernelCost("nothing", 0), 0, "memory"),
        (KernelCost("bytes", 30, 100, 20, 5), 3, "memory"),
        (KernelCost("products", 10, 400, 20, 5), 4, "products"),
        (KernelCost("vectors", 10, 100, 100, 5), 5, "vectors"),
        (KernelCost("gathers", 10, 100, 20, 30), 6, "gathers"),
    ],
)
def test_a_kernel_takes_as_long_as_the_scarcest(
    cost: KernelCost, seconds: float, bound: str
) -> None:
    found = kernel_time(DEVICE, cost, "float32")
    assert (found.seconds, found.bound) == (seconds, bound)


REACHED = Efficiency(0.5, 0.25, 0.25, 0.125, 0.5, 0.2, False, 3.0, 0.5, 7.0)


@pytest.mark.parametrize(
    ("cost", "seconds", "bound"),
    [
        (KernelCost("nothing", 0), 0, "memory"),
        (KernelCost("one after the other", 30, 100), 6 + 4, "memory"),
        (KernelCost("the longest computation", 10, 100, 10, 5), 2 + 5, "gathers"),
        (KernelCost("bytes", 10, int8_flops=400), 4 + 8, "products"),
        (KernelCost("beside", 10, starts=2, rows=4, choices=1), 2 + 6 + 2 + 7, "starts"),
    ],
)
def test_kernels_reach_a_share_and_take_something_besides(
    cost: KernelCost, seconds: float, bound: str
) -> None:
    peaks = {"float32": 100.0, "int8": 400.0}
    device = replace(DEVICE, matrix_flops=peaks, efficiency=REACHED)
    found = kernel_time(device, cost, "float32")
    assert found.seconds == pytest.approx(seconds)
    assert found.bound == bound
    limit = kernel_time(device.at_limit, cost, "float32").seconds
    overlapped = replace(device, efficiency=replace(REACHED, overlaps=True))
    assert limit <= kernel_time(overlapped, cost, "float32").seconds <= found.seconds


@given(workloads())
def test_no_forecast_is_faster_than_the_limit(planned: Workload) -> None:
    at_limit = replace(planned, device=planned.device.at_limit)
    for mode in MODES:
        found, limit = forecast(planned, mode), forecast(at_limit, mode)
        assert (found is None) == (limit is None)
        if found and limit:
            assert limit.seconds_per_token <= found.seconds_per_token
            assert planned.device.is_cpu or limit == found, "of GPUs nothing else is known"


def test_every_kernel_of_a_step_is_started() -> None:
    planned = workload(model=MODELS["demo"], device=A_CPU, dtype="float32", batch=3)
    starts = {name: (cost.starts, cost.rows) for name, cost in costs(planned, 2).items()}
    layers, products = 30, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert starts == {
        "embed": (1, 0),
        "norms": (61, 0),
        **dict.fromkeys(products, (layers, 0)),
        "silu gate": (layers, 0),
        **dict.fromkeys(("qkv_proj deltas", "attention", "rope + cache write"), (layers, 90)),
        "lm_head": (1, 0),
        "sampling": (1, 0),
    }


@given(workloads())
def test_a_forecast_is_the_sum_of_its_kernels(planned: Workload) -> None:
    for mode in ("base", "batched"):
        found = certain(planned, mode)
        assert found.seconds_per_token == pytest.approx(sum(k.seconds for k in found.kernels))
        rate = planned.batch / found.seconds_per_token
        assert found.tokens_per_second == pytest.approx(rate)


@given(workloads(), st.integers(1, 64))
def test_more_work_is_never_faster(planned: Workload, more: int) -> None:
    base, batched = certain(planned, "base"), certain(planned, "batched")
    assert base.seconds_per_token <= batched.seconds_per_token
    longer = min(planned.context + more, planned.model.positions)
    for grown in (
        replace(planned, adapters=planned.adapters + more),
        replace(planned, batch=planned.batch + more, adapters=0),
        replace(planned, context=longer),
    ):
        own = replace(grown, adapters=grown.adapters)
        before = batched if grown.adapters else base
        assert certain(own, "batched").seconds_per_token >= before.seconds_per_token * (1 - 1e-12)


@given(workloads())
def test_another_adapter_never_makes_fused_mode_faster(planned: Workload) -> None:
    rates = [forecast(replace(planned, adapters=n), "fused") for n in (1, 2, 3, 50, 51)]
    if not planned.can_fuse:
        assert rates == [None] * len(rates)
        return
    found = [rate.tokens_per_second for rate in rates if rate]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(found))


def test_one_fused_adapter_costs_nothing() -> None:
    planned = workload(adapters=1)
    fused, base = certain(planned, "fused"), certain(planned, "base")
    assert (fused.kernels, fused.tokens_per_second) == (base.kernels, base.tokens_per_second)
    assert certain(planned, "batched").tokens_per_second < base.tokens_per_second


def test_fused_adapters_take_turns_that_are_the_engines() -> None:
    assert TURN_STEPS == QUANTUM
    planned = workload(adapters=2, batch=3)
    one, two = (certain(workload(batch=n), "base").seconds_per_token for n in (1, 2))
    switch = switch_cost(planned).num_bytes / planned.device.bandwidth
    cycle = 16 * (one + two) + 2 * switch
    found = certain(planned, "fused")
    assert found.seconds_per_token == pytest.approx(cycle / 16)
    assert found.tokens_per_second == pytest.approx(3 * 16 / cycle)


def test_a_switch_touches_each_line_at_most_once() -> None:
    lines = {}
    for keep in (1e-4, 0.01, 0.5):
        planned = workload(adapter=AdapterShape("element", keep))
        entries = planned.adapter.entries(planned.model.linears["qkv_proj"])
        journal = 32 * entries * (2 * (8 + 2) + 4)
        lines[keep] = (switch_cost(planned).num_bytes - journal) / 32 / (4 * 32)
        assert lines[keep] <= min(entries, 9216 * 3072 / 16)
    assert lines[1e-4] == pytest.approx(2831, rel=0.002)  # nearly all apart
    assert lines[0.5] == pytest.approx(9216 * 3072 / 16, rel=1e-4)  # all of them


def test_quantized_weights_are_not_fused_and_read_faster() -> None:
    plain = workload(model=MODELS["demo"], device=A_CPU, dtype="float32", batch=1)
    small = replace(plain, quantization="int8")
    assert forecast(small, "fused") is None
    limits = [replace(own, device=A_CPU.at_limit) for own in (plain, small)]
    rates = [certain(own, "base").tokens_per_second for own in (*limits, plain, small)]
    assert 2.5 < rates[1] / rates[0] < 4
    assert 1.5 < rates[3] / rates[2] < rates[1] / rates[0], "what is beside memory stays"


def test_the_curve_has_no_points_for_adapters_that_do_not_fit() -> None:
    plan = make_plan(workload(adapter=AdapterShape("element", 0.1), adapters=8))
    assert plan.most_adapters in range(16, 32)
    fitting = [n <= plan.most_adapters for n in CURVE]
    assert [rate is not None for rate in plan.curve["batched"]] == fitting
    assert [rate is not None for rate in plan.curve["fused"]] == fitting
    assert None not in plan.curve["base"]


def test_phi_3_mini_is_bound_by_the_bandwidth_of_every_gpu() -> None:
    for gpu in GPUS.values():
        plan = workload(device=gpu, batch=1, context=128)
        bound = 2 * plan.model.linear_numbers / gpu.bandwidth
        assert 1 < certain(plan, "base").seconds_per_token / bound < 1.05
