"""Every kernel of a GPU in each of its forms, compiled without one, and what it takes of one."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from server.kernels.gpu.attention import ATTEND
from server.kernels.gpu.compiled import Kernel
from server.kernels.gpu.places import PUT_PLACES, TAKE_PLACES
from server.kernels.gpu.resources import PROCESSORS, Processor, Resources, sources
from server.kernels.gpu.spread import SPREAD_RUNS, SPREAD_TILES

BY_CAPABILITY = {processor.capability: processor for processor in PROCESSORS}


@pytest.fixture(scope="module")
def compiled() -> list[Resources]:
    """By a process of its own, since here Triton interprets."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "server.kernels.gpu.resources"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return [Resources(**json.loads(line)) for line in made.stdout.splitlines()]


def test_every_form_is_compiled_for_every_processor(compiled: list[Resources]) -> None:
    assert len(compiled) == len(list(sources())) * len(PROCESSORS)
    assert len({(own.kernel, own.capability) for own in compiled}) == len(compiled)


def test_no_form_spills_registers(compiled: list[Resources]) -> None:
    assert [own for own in compiled if own.spilled_bytes] == []


def test_every_form_fits_its_processor(compiled: list[Resources]) -> None:
    assert [own for own in compiled if not fits(own, BY_CAPABILITY[own.capability])] == []


def fits(own: Resources, processor: Processor) -> bool:
    """With another program beside it, so that one waits for memory while the other computes."""
    registers = 2 * own.registers * own.threads <= processor.registers
    return registers and 2 * own.shared_bytes <= processor.shared_bytes


def test_products_in_fp32_lose_no_bits_to_tensor_cores(compiled: list[Resources]) -> None:
    assert [own for own in compiled if own.cut_products] == []


# In 16 bits: of the delta's values alone there are fewer, but for one token of a low-rank delta.
WIDE_READS = {
    "runs {'RUN': 16, 'TOKENS': 1, 'STEPS': 2}": 4,
    "runs {'RUN': 16, 'TOKENS': 4, 'STEPS': 1}": 4,
    "tiles {'DOT': True, 'TOKENS': 16, 'DEPTH': 64}": 6,
    "tiles {'DOT': True, 'TOKENS': 64, 'DEPTH': 32}": 6,
    "low_rank_a {'DOT': False, 'TOKENS': 1, 'PANEL_ROWS': 16, 'DEPTH': 64}": 1,
    "low_rank_a {'DOT': True, 'TOKENS': 64, 'PANEL_ROWS': 32, 'DEPTH': 32}": 6,
}


@pytest.mark.parametrize("name", WIDE_READS)
def test_values_and_inputs_are_read_16_bytes_at_a_time(
    name: str, compiled: list[Resources]
) -> None:
    own = [made for made in compiled if made.kernel == f"{name} bf16 x bf16"]
    assert len(own) == len(PROCESSORS)
    assert [made for made in own if made.wide_reads < WIDE_READS[name]] == []


VARYING = {
    ATTEND: ("table_row",),
    TAKE_PLACES: ("count",),
    PUT_PLACES: ("count",),
    SPREAD_RUNS: ("num_slices",),
    SPREAD_TILES: ("num_rows", "stride"),
}


@pytest.mark.parametrize(("kernel", "names"), VARYING.items(), ids=map(",".join, VARYING.values()))
def test_numbers_that_differ_by_request_have_no_kernel_compiled_for_them(
    kernel: Kernel, names: tuple[str, ...]
) -> None:
    assert {kernel.signature[name] for name in names} == {"i32"}
    assert kernel.function.kwargs["do_not_specialize"] == names
