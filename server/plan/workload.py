"""What is to be planned: a model on a device, with so many adapters, sequences and tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from server.plan.adapters import AdapterShape
from server.plan.devices import Device
from server.plan.errors import NotServed
from server.plan.models import ModelShape

Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8"]
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})
INT8_BYTES = 36 / 32  # of a weight: groups of 32 bytes with one fp32 scale
PAGE = 32  # tokens, unless the server is told otherwise
STEP_TOKENS = 512  # most of one step, when prompts are computed; likewise


@dataclass(frozen=True, slots=True)
class Workload:
    """`batch` sequences, each of `context` tokens with the one being computed.

    `adapters` are resident; every sequence names one, and as many different ones as there can be
    are in a step: min(adapters, batch).
    """

    model: ModelShape
    device: Device
    adapter: AdapterShape
    adapters: int
    batch: int
    context: int
    dtype: Dtype
    quantization: Quantization = "none"
    step_tokens: int = STEP_TOKENS  # most of one step
    page_size: int = PAGE  # tokens of a KV page

    def __post_init__(self) -> None:
        """Raises NotServed for what the server would refuse."""
        if self.dtype not in self.device.matrix_flops:
            raise NotServed(f"{self.device.name} is not planned with {self.dtype}, only float32")
        if self.quantization == "int8" and not self.device.is_cpu:
            raise NotServed("int8 is served on a CPU only")
        if self.context > self.model.positions:
            raise NotServed(f"the model has {self.model.positions} positions, not {self.context}")

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a number of activations, KV pages and weights that are not quantized."""
        return DTYPE_BYTES[self.dtype]

    @property
    def weight_bytes(self) -> float:
        """Bytes of a number of a linear layer."""
        return INT8_BYTES if self.quantization == "int8" else self.dtype_bytes

    @property
    def can_fuse(self) -> bool:
        """Whether these adapters can be written into these weights."""
        return self.adapter.can_fuse and self.quantization == "none"

    @property
    def distinct(self) -> int:
        """Different adapters in one step."""
        return min(self.adapters, self.batch)
