"""What of a GPU's memory is for what, planned before anything is loaded there, and held.

What is fixed is the plan's (`server/plan/memory.py`), of this model on this device. KV pages and
adapters get what is left, or what the settings say they get.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch

from server.device.interface import Device, Memory
from server.model.config import ModelConfig
from server.model.kv_cache import bytes_per_page
from server.plan.adapters import AdapterShape
from server.plan.devices import Device as PlannedDevice
from server.plan.memory import fixed_parts
from server.plan.models import ModelShape
from server.plan.workload import DTYPE_BYTES, Dtype, Workload
from server.settings import Settings, SettingsConflict

GIB = 1 << 30


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
    planned = _planned(settings, config, dtype, device)
    fixed, total = fixed_parts(planned), planned.device.memory_bytes
    remains = total - sum(fixed.values())
    page = bytes_per_page(config, settings.page_size, dtype)
    if remains < page:
        parts = {**fixed, "a KV page": page}
        way_out = _way_out(settings, dtype)
        raise MemoryTooSmall("device", "cuda", device.name, total, parts, way_out)
    asked = settings.device_cache_bytes
    if asked is not None and asked > remains:
        parts = {**fixed, "KV pages and adapters": int(asked)}
        way_out = f"leave it unset, for the {remains / GIB:.2f} GiB that remain, or set it lower"
        key = "device_cache_bytes"
        raise MemoryTooSmall(key, int(asked), device.name, total, parts, way_out)
    return Budget(device.name, total, MappingProxyType(fixed), asked or remains)


def _planned(
    settings: Settings, config: ModelConfig, dtype: torch.dtype, device: Device
) -> Workload:
    """What is to be served, as far as fixed parts depend on it, on what `device` has now."""
    memory, shape = device.memory(), _shape(config)
    return Workload(
        model=shape,
        device=_planned_device(device.name, memory),
        adapter=AdapterShape("element", 0.0, tuple(shape.linears)),
        adapters=0,
        batch=settings.max_num_seqs,
        context=1,
        dtype=cast("Dtype", str(dtype).removeprefix("torch.")),
        step_tokens=settings.max_num_batched_tokens,
        page_size=settings.page_size,
    )


def _planned_device(name: str, memory: Memory) -> PlannedDevice:
    """With the memory that there is, and any speed: nothing is foretold here."""
    return PlannedDevice(
        name=name,
        memory_bytes=memory.total,
        bandwidth=1.0,
        matrix_flops=dict.fromkeys(DTYPE_BYTES, 1.0),
        vector_flops=1.0,
        gathers=1.0,
        runtime_bytes=memory.total - memory.free,
    )


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
