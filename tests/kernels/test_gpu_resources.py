"""Every kernel of a GPU in each of its forms, compiled without one, and what it takes of one."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from server.kernels.gpu.resources import PROCESSORS, Processor, Resources, sources

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
