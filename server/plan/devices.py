"""What computes: memory, bandwidth, arithmetic. Owns the table of GPUs and the measuring of a CPU.

Numbers of GPUs are their makers' for dense products at boost clock, memory is what the driver
reports. Bytes and operations per second; a multiply-add is two operations.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from server.plan.efficiency import CPU_KERNELS, LIMIT, Efficiency
from server.plan.errors import NameUnknown

MIB = 1 << 20
CPU = "cpu"
READ_NUMBERS = 1 << 25  # 128 MiB of fp32, more than any cache
SIDE = 1024  # of the square matrices whose product gives the arithmetic limit
REPEATS = 5
BANK_CONFLICTS = 3.5  # expected most of 32 random columns in one of 32 banks
LANES_PER_CYCLE = 32  # 4-byte words that a GPU's multiprocessor reads of its shared memory
CPU_FLOPS_PER_GATHER = 32.0  # a vector of 16 gathered numbers takes the time of 16 multiply-adds
BYTES_PER_FP32 = 4  # products of bytes in place of one of fp32, in an instruction of AVX-512 VNNI


@dataclass(frozen=True, slots=True)
class Device:
    """Limits of one device, and how near kernels come to them.

    `matrix_flops` by dtype are of dense products ("int8" where bytes are multiplied),
    `vector_flops` of fp32 outside of them, and `gathers` the numbers per second that can be read by
    index from nearest memory. `runtime_bytes` are what the driver and libraries keep.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    matrix_flops: Mapping[str, float]
    vector_flops: float
    gathers: float
    runtime_bytes: int
    efficiency: Efficiency = LIMIT

    @property
    def at_limit(self) -> "Device":
        """With kernels that reach its limits."""
        return replace(self, efficiency=LIMIT)

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU


def _gpu(
    name: str,
    mib: int,
    gb_per_s: float,
    tensor_tflops: float,
    fp32_tflops: float,
    cores: int,
    gigahertz: float,
) -> Device:
    """`gathers` = multiprocessors * 32 words * clock / bank conflicts."""
    matrix = {
        "bfloat16": tensor_tflops * 1e12,
        "float16": tensor_tflops * 1e12,
        "float32": fp32_tflops * 1e12,
    }
    return Device(
        name=name,
        memory_bytes=mib * MIB,
        bandwidth=gb_per_s * 1e9,
        matrix_flops=MappingProxyType(matrix),
        vector_flops=fp32_tflops * 1e12,
        gathers=cores * LANES_PER_CYCLE * gigahertz * 1e9 / BANK_CONFLICTS,
        runtime_bytes=600 * MIB,
    )


GPUS: Mapping[str, Device] = MappingProxyType(
    {
        device.name: device
        for device in (
            _gpu("A10", 23028, 600, 125, 31.2, 72, 1.695),
            _gpu("L4", 23034, 300, 121, 30.3, 58, 2.040),
            _gpu("A100-40", 40960, 1555, 312, 19.5, 108, 1.410),
            _gpu("A100-80", 81920, 2039, 312, 19.5, 108, 1.410),
            _gpu("H100", 81559, 3350, 989, 66.9, 132, 1.980),
            _gpu("H200", 143771, 4800, 989, 66.9, 132, 1.980),
            _gpu("4090", 24564, 1008, 165, 82.6, 128, 2.520),
            _gpu("L40S", 46068, 864, 362, 91.6, 142, 2.520),
        )
    }
)


def find_device(name: str) -> Device:
    """A GPU of the table. Raises NameUnknown."""
    if name not in GPUS:
        raise NameUnknown("device", name, [*GPUS, CPU])
    return GPUS[name]


def cpu_device(bandwidth: float, flops: float, memory_bytes: int) -> Device:
    """A CPU with so many bytes and fp32 operations per second.

    It computes in fp32, or multiplies bytes; loops of vectors have the same arithmetic as fp32
    products, and read by index one number in the time of `CPU_FLOPS_PER_GATHER` operations.
    """
    return Device(
        name=CPU,
        memory_bytes=memory_bytes,
        bandwidth=bandwidth,
        matrix_flops=MappingProxyType({"float32": flops, "int8": BYTES_PER_FP32 * flops}),
        vector_flops=flops,
        gathers=flops / CPU_FLOPS_PER_GATHER,
        runtime_bytes=500 * MIB,
        efficiency=CPU_KERNELS,
    )


def this_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measure_bandwidth() -> float:
    """Bytes per second that all of this machine's cores read together."""
    cores = len(os.sched_getaffinity(0))
    parts = np.array_split(np.ones(READ_NUMBERS, np.float32), cores)
    with ThreadPoolExecutor(cores) as pool:
        return READ_NUMBERS * 4 / min(_seconds(lambda: list(pool.map(np.max, parts))))


def measure_flops() -> float:
    """fp32 operations per second of this machine's dense products, by NumPy."""
    square = np.ones((SIDE, SIDE), np.float32)
    return 2 * SIDE**3 / min(_seconds(lambda: square @ square))


def _seconds(call: Callable[[], object]) -> Iterator[float]:
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start
