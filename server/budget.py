"""What of a GPU's memory is for what, planned before anything is loaded there, and held.

Bytes of weights and workspace are the plan's (`server/plan`); the rest is what this server adds to
it. KV pages and adapters get what is left, or what the settings say they get.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch

from server.device.interface import Device
from server.engine.decoding import PRODUCTS_OF_ROW, buckets
from server.engine.runner import LOGIT_ROWS_AT_ONCE
from server.engine.step_inputs import spare_pages
from server.model.config import ModelConfig
from server.model.kv_cache import bytes_per_page
from server.plan.adapters import AdapterShape
from server.plan.devices import Device as PlannedDevice
from server.plan.memory import FP32, weight_bytes, workspace_bytes
from server.plan.models import ModelShape
from server.plan.workload import Dtype, Workload
from server.settings import Settings, SettingsConflict

RESERVED = 0.03  # of all memory: between an allocator's blocks, in libraries and recorded steps
GIB = 1 << 30
PRODUCTS_AT_ONCE = 1 << 24  # fp32 numbers, of the deltas of steps that are not recorded
LIBRARIES = 64 << 20  # of matrix products: 32 MiB for each stream, on the largest GPUs


class MemoryTooSmall(SettingsConflict):
    """The `parts`, in bytes, are more than the `total` bytes of a device called `device`.

    `key` is a setting that `value` is too much for; `way_out` says what may be changed.
    """

    def __init__(
        self,
        key: str,
        value: object,
        device: str,
        total: int,
        parts: Mapping[str, int],
        way_out: str,
    ) -> None:
        self.device, self.total, self.parts, self.way_out = device, total, dict(parts), way_out
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        missing = (sum(parts.values()) - total) / GIB
        reason = f"{device} has {total / GIB:.2f} GiB, and {missing:.2f} are missing ({listed})"
        super().__init__(key, value, f"{reason}; {way_out}")


def out_of_memory(device: Device, error: BaseException) -> SettingsConflict:
    """What was planned and is not there after all: somebody else took it meanwhile."""
    memory = device.memory()
    left = f"{device.name} has {memory.free / GIB:.2f} of {memory.total / GIB:.2f} GiB left"
    way_out = "see who else uses it, or set device_cache_bytes lower than what is planned"
    said = str(error).strip().splitlines()[0]
    return SettingsConflict("device", "cuda", f"{left}, and more was planned ({said}); {way_out}")


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of a device, by what they are for. `fixed` ones are not for KV pages and adapters."""

    device: str
    total: int
    fixed: Mapping[str, int]
    cache: int  # for KV pages and adapters

    def table(self, adapters: int, kv_pages: int) -> str:
        """All of it, a line each: KV pages and adapters as the engine divides the cache."""
        parts = {**self.fixed, "adapters": adapters, "KV pages": kv_pages}
        parts["unused"] = self.total - sum(parts.values())
        lines = [f"  {name:<9} {size / GIB:8.2f} GiB" for name, size in parts.items()]
        return "\n".join((f"memory of {self.device}, {self.total / GIB:.2f} GiB:", *lines))


def plan_budget(
    settings: Settings, config: ModelConfig, dtype: torch.dtype, device: Device
) -> Budget:
    """What `device` has now, divided. Raises MemoryTooSmall."""
    memory = device.memory()
    fixed = {
        "runtime": memory.total - memory.free,
        **_fixed(settings, config, dtype),
        "reserve": round(RESERVED * memory.total),
    }
    remains = memory.total - sum(fixed.values())
    page = bytes_per_page(config, settings.page_size, dtype)
    if remains < page:
        parts = {**fixed, "a KV page": page}
        way_out = _way_out(settings, dtype)
        raise MemoryTooSmall("device", "cuda", device.name, memory.total, parts, way_out)
    asked = settings.device_cache_bytes
    if asked is not None and asked > remains:
        parts = {**fixed, "KV pages and adapters": int(asked)}
        way_out = f"leave it unset, for the {remains / GIB:.2f} GiB that remain, or set it lower"
        key = "device_cache_bytes"
        raise MemoryTooSmall(key, int(asked), device.name, memory.total, parts, way_out)
    return Budget(device.name, memory.total, MappingProxyType(fixed), asked or remains)


def _fixed(settings: Settings, config: ModelConfig, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of what depends on the model and the size of a step."""
    shape = _shape(config)
    planned = Workload(
        model=shape,
        device=_LIMITLESS,
        adapter=AdapterShape("element", 0.0, tuple(shape.linears)),
        adapters=0,
        batch=settings.max_num_seqs,
        context=1,
        dtype=cast("Dtype", str(dtype).removeprefix("torch.")),
        step_tokens=settings.max_num_batched_tokens,
    )
    workspace = workspace_bytes(planned) + LIBRARIES + _beside_adapters(planned)
    workspace += _recorded(settings, config, dtype) + _head(config, dtype, shape)
    return {"weights": weight_bytes(planned), "workspace": workspace}


def _beside_adapters(planned: Workload) -> int:
    """Bytes of a step's activations beyond the plan's, and of its products with deltas.

    The most is there in gate and up: the residual, the normed input and attention's output, the
    base's product in fp32 (2 * intermediate numbers), and either as many of a long prompt's product
    or the rounded sum. A recorded step has its own.
    """
    model, itemsize = planned.model, planned.dtype_bytes
    numbers = 3 * model.hidden * itemsize + 4 * model.intermediate * FP32
    plain = (2 * model.hidden + 3 * model.intermediate) * itemsize
    step = max(planned.step_tokens, planned.batch)
    return step * (numbers - plain) + planned.batch * numbers + PRODUCTS_AT_ONCE * FP32


def _recorded(settings: Settings, config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of recorded steps: logits, products of deltas, pages of padding.

    The plan has logits that are read; where they are made they are in the weights' dtype and in
    fp32, and their summary has two copies more, in recorded steps and in others. Products: 8 of
    each row at most, as wide as the widest layer, for every bucket.
    """
    rows = settings.max_num_seqs
    made = (rows + LOGIT_ROWS_AT_ONCE) * config.vocab_size * (dtype.itemsize + 3 * FP32)
    widest = max(out for out, _ in config.linear_shapes().values())
    products = PRODUCTS_OF_ROW * sum(buckets(rows)) * widest
    spare = spare_pages(rows, settings.page_size)
    pages = spare * bytes_per_page(config, settings.page_size, dtype)
    return made + FP32 * products + pages


def _head(config: ModelConfig, dtype: torch.dtype, shape: ModelShape) -> int:
    """Bytes by which a changed copy of the head is larger than the plan's of a layer's weight."""
    planned = max(own.size for own in shape.linears.values())
    largest = max(out * width for out, width in config.linear_shapes().values())
    return (largest - planned) * dtype.itemsize


def _way_out(settings: Settings, dtype: torch.dtype) -> str:
    ways = ["a smaller base", "less of max_num_batched_tokens and max_num_seqs"]
    ways += ["dtype bfloat16"] if dtype == torch.float32 else []
    ways += ["other programs' memory, which is in runtime", "device cpu"]
    return f"what would help: {', '.join(ways)}"


def _shape(config: ModelConfig) -> ModelShape:
    return ModelShape(
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        positions=config.max_position_embeddings,
        window=config.sliding_window,
        tied=config.tie_word_embeddings,
    )


_LIMITLESS = PlannedDevice(
    name="gpu",
    memory_bytes=0,
    bandwidth=1.0,
    matrix_flops=MappingProxyType(dict.fromkeys(("float32", "bfloat16", "float16"), 1.0)),
    vector_flops=1.0,
    gathers=1.0,
    runtime_bytes=0,
)
