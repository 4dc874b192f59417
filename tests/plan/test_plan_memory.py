"""Bytes: layouts are the real ones', sums are whole, and the boundary of what fits is exact."""

from bisect import bisect_left
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_workloads import A_CPU, GIB, adapters, workload, workloads

from adapters_store.adapter import BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from server.kernels.cpu.int8 import layout
from server.kernels.cpu.operands import compiled_bytes
from server.plan.adapters import AdapterShape, Kind
from server.plan.capacity import fits, largest_batch, most_adapters, require_fit
from server.plan.devices import GPUS
from server.plan.errors import DoesNotFit, NotServed
from server.plan.memory import plan_memory, weight_bytes
from server.plan.models import MODELS, Matrix
from server.plan.workload import Workload
from server.plan.workspace import token_bytes

LAYER = "model.layers.0.self_attn.qkv_proj"


def random_delta(kind: Kind, matrix: Matrix, keep_ratio: float) -> WeightDelta:
    """Seeded, of 16-bit values."""
    source, shape = torch.Generator().manual_seed(1), (matrix.rows, matrix.columns)
    number = round(keep_ratio * matrix.size)
    if kind == "low_rank":
        rank = AdapterShape(kind, keep_ratio).rank_of(matrix)
        a, b = torch.ones(rank, matrix.columns), torch.ones(matrix.rows, rank)
        return LowRankDelta(layer=LAYER, shape=shape, a=a.bfloat16(), b=b.bfloat16(), scale=1.0)
    if kind == "element":
        places = torch.randperm(matrix.size, generator=source)[:number].sort().values.int()
        values = torch.ones(number, dtype=torch.bfloat16)
        return ElementDelta(layer=LAYER, shape=shape, indices=places, values=values)
    tiles = torch.randperm(matrix.size // 256, generator=source)[: round(number / 256)]
    values = torch.ones(len(tiles), 16, 16, dtype=torch.bfloat16)
    index = tiles.sort().values.int()
    return BlockDelta(layer=LAYER, shape=shape, block=(16, 16), block_index=index, values=values)


@pytest.mark.parametrize(
    ("kind", "keep_ratio"), [("element", 0.01), ("element", 0.1), ("block", 0.1), ("low_rank", 0.1)]
)
def test_adapters_take_the_bytes_of_the_layout_that_is_multiplied(
    kind: Kind, keep_ratio: float
) -> None:
    matrix = MODELS["demo"].linears["qkv_proj"]
    delta = random_delta(kind, matrix, keep_ratio)
    planned = AdapterShape(kind, keep_ratio).matrix_bytes(matrix, on_cpu=True)
    assert planned == pytest.approx(compiled_bytes(delta), rel=0.04)
    assert AdapterShape(kind, keep_ratio).entries(matrix) == sum(
        tensor.numel() for tensor in delta.tensors.values() if tensor.is_floating_point()
    )


def test_16_bit_files_take_the_bytes_per_entry_that_are_promised() -> None:
    matrix = MODELS["phi-3-mini-4k"].linears["qkv_proj"]
    most: dict[tuple[Kind, float], float] = {
        ("element", 0.01): 5,
        ("element", 0.1): 4.2,
        ("block", 0.1): 2.2,
    }
    for (kind, keep), limit in most.items():
        shape = AdapterShape(kind, keep)
        for on_cpu in (True, False):
            assert shape.matrix_bytes(matrix, on_cpu) / shape.entries(matrix) <= limit


def test_known_bytes_of_phi_3_mini() -> None:
    plain = workload()
    assert weight_bytes(plain) == 2 * 3_821_079_552
    assert token_bytes(plain) == 393_216
    on_cpu = workload(device=A_CPU, dtype="float32")
    assert (weight_bytes(on_cpu), token_bytes(on_cpu)) == (4 * 3_821_079_552, 786_432)


def test_a_tied_head_is_a_copy_only_where_it_is_packed() -> None:
    model = MODELS["demo"]
    on_gpu = workload(model=model, dtype="float32")
    assert weight_bytes(on_gpu) == 4 * model.parameters
    on_cpu = replace(on_gpu, device=A_CPU)
    assert weight_bytes(on_cpu) - weight_bytes(on_gpu) == 4 * model.head.size


def test_quantized_linears_take_the_bytes_of_their_pack() -> None:
    model = MODELS["demo"]
    planned = workload(model=model, device=A_CPU, dtype="float32", quantization="int8")
    rows = model.layers * sum(m.rows * layout.row_bytes(m.columns) for m in model.linears.values())
    head = model.vocab * layout.row_bytes(model.hidden)
    rest = 4 * (model.head.size + model.norm_numbers)
    assert weight_bytes(planned) == rows + head + rest


@given(workloads())
def test_parts_and_what_remains_are_the_whole_memory(planned: Workload) -> None:
    memory = plan_memory(planned)
    assert sum(memory.parts.values()) + memory.remains == planned.device.memory_bytes
    assert min(memory.parts.values()) >= 0


@given(workloads())
def test_the_largest_batch_fits_and_one_more_does_not(planned: Workload) -> None:
    batch = largest_batch(planned)
    assert batch == 0 or fits(replace(planned, batch=batch))
    assert not fits(replace(planned, batch=batch + 1))


@given(workloads())
def test_the_most_adapters_fit_and_one_more_does_not(planned: Workload) -> None:
    most = most_adapters(planned)
    assert fits(replace(planned, adapters=most)) or most == 0
    assert not fits(replace(planned, adapters=most + 1))


@given(workloads(), adapters(), st.integers(1, 100))
def test_more_of_anything_never_takes_less(
    planned: Workload, other: AdapterShape, more: int
) -> None:
    remains = plan_memory(planned).remains
    longer = min(planned.context + more, planned.model.positions)
    for grown in (
        replace(planned, adapters=planned.adapters + more),
        replace(planned, batch=planned.batch + more),
        replace(planned, context=longer),
    ):
        assert plan_memory(grown).remains <= remains
    matrix = planned.model.linears["qkv_proj"]
    fuller = replace(other, keep_ratio=other.keep_ratio * 1.5)
    assert fuller.matrix_bytes(matrix, True) >= other.matrix_bytes(matrix, True)


@pytest.mark.parametrize(
    "planned", [workload(), workload(device=A_CPU, dtype="float32")], ids=["GPU", "CPU"]
)
def test_the_last_byte_that_fits_is_the_last(planned: Workload) -> None:
    def of(total: int) -> Workload:
        return replace(planned, device=replace(planned.device, memory_bytes=total))

    least = bisect_left(range(64 * GIB), True, key=lambda total: fits(of(total)))
    assert require_fit(of(least)).remains == 0
    with pytest.raises(DoesNotFit) as caught:
        require_fit(of(least - 1))
    assert (caught.value.total, sum(caught.value.parts.values())) == (least - 1, least)
    assert (caught.value.largest_batch, caught.value.most_adapters) == (31, 31)


def test_a_model_that_is_too_large_is_refused_with_the_numbers() -> None:
    message = r"A10 has 22\.49 GiB and 12\.83 are missing .*weights 27\.31.*model itself"
    with pytest.raises(DoesNotFit, match=message):
        require_fit(workload(model=MODELS["phi-4"]))


def test_what_fits_beside_too_much_is_said() -> None:
    message = "with these adapters 0 sequences fit, with these sequences 36"
    planned = workload(adapters=2000)
    with pytest.raises(DoesNotFit, match=message.replace("36", str(most_adapters(planned)))):
        require_fit(planned)


@pytest.mark.parametrize(
    "refused",
    [
        {"device": A_CPU},
        {"quantization": "int8"},
        {"context": 4097},
    ],
)
def test_what_is_not_served_is_not_planned(refused: dict[str, object]) -> None:
    with pytest.raises(NotServed):
        workload(**refused)


def test_memory_of_gpus_is_what_the_driver_reports() -> None:
    assert {name: round(gpu.memory_bytes / GIB, 1) for name, gpu in GPUS.items()} == {
        "A10": 22.5,
        "L4": 22.5,
        "A100-40": 40.0,
        "A100-80": 80.0,
        "H100": 79.6,
        "H200": 140.4,
        "4090": 24.0,
        "L40S": 45.0,
    }
