"""What every kernel takes of a GPU in each of its forms: compiled ahead of time, without one.

`python -m server.kernels.gpu.resources` prints the table as JSON lines. Triton must not have been
told to interpret, so this is a process of its own. It is how a form that spills registers, or asks
for more shared memory than a processor has, is found before any GPU is.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from server.kernels.gpu.attention import ATTEND, MERGE
from server.kernels.gpu.attention_launches import (
    HEAD_SIZES,
    RUN_NUMBERS,
    forms_of,
    head_constants,
)
from server.kernels.gpu.compiled import TYPES, Configuration, Kernel, is_interpreted
from server.kernels.gpu.forms import KERNELS, Form
from server.kernels.gpu.operands import Work
from server.kernels.gpu.places import PUT_PLACES, TAKE_PLACES
from server.kernels.gpu.rows import GATE_ROWS, NORM_ROWS, PLACE_HEADS
from server.kernels.gpu.spread import SPREAD_RUNS, SPREAD_TILES
from server.kernels.gpu.sums import ADD_PRODUCTS

WARP_THREADS = 32
SPREADS = (SPREAD_RUNS, SPREAD_TILES)
DTYPES = tuple(product(TYPES, repeat=2))  # of activations and of values
WIDE_READ = re.compile(r"\bld\.global\S*\.v4\.b32|\bcp\.async\.cg")
CUT_PRODUCT = re.compile(r"tt\.dot .*inputPrecision = tf32 : tensor<\w+xf32>")
ALIGNED = [["tt.divisibility", 16]]  # what Triton finds out of tensors' addresses when it launches


@dataclass(frozen=True, slots=True)
class Processor:
    """A multiprocessor of a compute capability, as NVIDIA's programming guide has it."""

    capability: int
    registers: int
    shared_bytes: int  # that one program may have


PROCESSORS = (
    Processor(80, registers=65536, shared_bytes=163 << 10),
    Processor(86, registers=65536, shared_bytes=99 << 10),
    Processor(90, registers=65536, shared_bytes=227 << 10),
)


@dataclass(frozen=True, slots=True)
class Source:
    """A kernel with all that its code depends on."""

    name: str
    kernel: Kernel
    configuration: Configuration
    activations: str  # their type, in Triton's words
    constants: dict[str, Any]
    values: str = ""  # the same of a delta's, where they are an argument


@dataclass(frozen=True, slots=True)
class Resources:
    """What one source takes of one processor."""

    kernel: str
    capability: int
    registers: int  # of a thread
    threads: int
    spilled_bytes: int  # of a thread, stack included
    shared_bytes: int  # of a program
    wide_reads: int  # instructions that read 16 bytes of the device's memory at once
    cut_products: int  # of matrices in fp32, whose numbers TF32 cuts to 11 bits


def sources() -> Iterator[Source]:
    """Every kernel in each of its forms, each once."""
    made = (_delta_source(work, n, *own) for work in Work for n in _forms(work) for own in DTYPES)
    yield from {(source.name, source.activations): source for source in made}.values()
    yield from _spread_sources()
    yield from _attention_sources()
    for kernel in (ADD_PRODUCTS, NORM_ROWS, GATE_ROWS, PLACE_HEADS, TAKE_PLACES, PUT_PLACES):
        (configuration,) = kernel.configurations
        rounds = "INTERPRETED" in kernel.function.arg_names
        constants = {"INTERPRETED": is_interpreted()} if rounds else {}
        for activations in TYPES:
            name = kernel.function.__name__
            yield Source(name, kernel, configuration, _type_name(activations), constants)


def _spread_sources() -> Iterator[Source]:
    kernels = [(kernel, own) for kernel in SPREADS for own in kernel.configurations]
    for (kernel, own), (activations, values) in product(kernels, DTYPES):
        name = f"{kernel.function.__name__} {own.sizes} {_type_name(values)}"
        types = _type_name(activations), {"INTERPRETED": is_interpreted()}, _type_name(values)
        yield Source(name, kernel, own, *types)


def _attention_sources() -> Iterator[Source]:
    for size, dtype in product(HEAD_SIZES, TYPES):
        activations, constants = _type_name(dtype), head_constants(size)
        for form in forms_of(dtype):
            own = {**constants, "RUN": RUN_NUMBERS}
            yield Source(f"attend {form.sizes} {size}", ATTEND, form, activations, own)
        (form,) = MERGE.configurations
        yield Source(f"merge {size}", MERGE, form, activations, constants)


def _forms(work: Work) -> range:
    # A dense delta is multiplied as the first factor of a low-rank one is.
    return range(0 if work is Work.DENSE else len(KERNELS[work].configurations))


def _delta_source(work: Work, number: int, activations: torch.dtype, values: torch.dtype) -> Source:
    form = Form(work, values, number)
    # Of activations, a low-rank delta's second factor sees what the first left, a bias nothing.
    read = torch.float32 if work in (Work.LOW_RANK_B, Work.BIAS) else activations
    name = f"{work.value} {form.configuration.sizes} {_type_name(values)}"
    return Source(name, form.kernel, form.configuration, _type_name(read), form.constants)


def _type_name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def resources_of(source: Source, processor: Processor) -> Resources:
    """Compile `source` for `processor`, or read what was compiled before."""
    configuration = source.configuration
    made = triton.compile(
        _ast(source),
        target=GPUTarget("cuda", processor.capability, WARP_THREADS),
        options={
            "num_warps": configuration.num_warps,
            "num_stages": configuration.num_stages,
            "enable_fp_fusion": True,
        },
    )
    used = _dumped(made.asm["cubin"])
    return Resources(
        f"{source.name} x {source.activations}",
        processor.capability,
        used["REG"],
        configuration.num_warps * WARP_THREADS,
        used["LOCAL"] + used["STACK"],
        int(made.metadata.shared),
        len(WIDE_READ.findall(made.asm["ptx"])),
        len(CUT_PRODUCT.findall(made.asm["ttir"])),
    )


def _ast(source: Source) -> Any:
    own = source.kernel.signature
    constants = {**source.configuration.sizes, **source.constants}
    types = {"*x": f"*{source.activations}", "*v": f"*{source.values}"}
    names: Sequence[str] = source.kernel.function.arg_names
    signature = {
        name: types.get(own[name], own[name]) if name in own else "constexpr" for name in names
    }
    aligned = {
        (place,): ALIGNED for place, name in enumerate(names) if signature[name].startswith("*")
    }
    return ASTSource(source.kernel.function, signature, constants, aligned)


def _dumped(cubin: bytes) -> dict[str, int]:
    """What the compiler's report says of a binary's only function."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(program), "--dump-resource-usage", file.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", report)}


def main() -> None:
    for source in sources():
        for processor in PROCESSORS:
            print(json.dumps(asdict(resources_of(source, processor))), flush=True)


if __name__ == "__main__":
    main()
