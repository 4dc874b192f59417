"""What kernels tell the compiler of their numbers is true, though the interpreter does not use it.

On a GPU a hint that is false reads from another place, and no test here would show that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import SCALE, make_case, placed
from gpu_delta_samples import MAKERS, SHAPE

pytest.importorskip("triton", reason="kernels of a GPU are Triton's")

from triton.runtime.interpreter import TensorHandle

from server.kernels.gpu import attention_list
from server.kernels.gpu.kernels import GpuKernels
from server.kernels.interface import DeltaBatch

KERNELS = GpuKernels("cpu")


class Hints:
    """All numbers of which kernels tell something, for as long as a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._handles: list[TensorHandle] = []
        tell = TensorHandle.set_attr

        def noted(handle: TensorHandle, name: str, value: Any) -> None:
            self._handles.append(handle)
            tell(handle, name, value)

        monkeypatch.setattr(TensorHandle, "set_attr", noted)

    def check(self) -> None:
        assert self._handles
        for handle in self._handles:
            _check(handle)


def _check(handle: TensorHandle) -> None:
    """As Triton means it: what is a multiple of a number is the first one of every run."""
    if (sizes := handle.attr.get("tt.constancy")) is not None:
        runs = _runs(handle, sizes)
        assert (runs == runs[:, :1]).all(), "not one number to a run"
    contiguous = handle.attr.get("tt.contiguity", [1])
    runs = _runs(handle, contiguous)
    assert (runs - runs[:, :1] == np.arange(runs.shape[1])).all(), "a run with gaps"
    if (sizes := handle.attr.get("tt.divisibility")) is not None:
        assert (runs[:, 0] % sizes[-1] == 0).all(), "not a multiple"


def _runs(handle: TensorHandle, sizes: Sequence[int]) -> np.ndarray:
    """Runs of the last dimension, which alone has any here."""
    *others, size = sizes
    assert set(others) <= {1}
    return np.asarray(handle.data).astype(np.int64).reshape(-1, size)


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> Hints:
    return Hints(monkeypatch)


@pytest.mark.parametrize("window", [None, 20, 45])
@pytest.mark.parametrize("sizes", [(24, 8), (16, 16), (96, 64)])
def test_keys_and_values_lie_in_runs_where_kernels_say_so(
    sizes: tuple[int, int], window: int | None, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_list, "LEAST_KEYS", attention_list.KEYS)
    step = placed(make_case([70, 7, 33, 64, 1], [1, 7, 21, 1, 1], 3, 1, sizes))
    KERNELS.attention(*step, scale=SCALE, sliding_window=window)
    hints.check()


@pytest.mark.parametrize("name", MAKERS)
def test_arrays_and_inputs_lie_in_runs_where_kernels_say_so(name: str, hints: Hints) -> None:
    source = torch.Generator().manual_seed(3)
    operand = KERNELS.operand(MAKERS[name](torch.bfloat16, source))
    bounds = [0, 1, 4, 15, 40]
    batch = DeltaBatch(
        operands=[[operand]] * (len(bounds) - 1),
        offsets=bounds,
        tokens=torch.arange(40),
        coefficients=torch.ones(40),
    )
    x, weight = torch.randn(40, SHAPE[1]), torch.zeros(SHAPE)
    KERNELS.linear(x.bfloat16(), weight.bfloat16(), batch)
    hints.check()
