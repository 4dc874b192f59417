"""Where interpreted kernels read and write: nowhere but inside the tensors that they were given.

Addresses are checked one by one, so an access that happens to change no result fails too. Tensors
that kernels fill are NaN first, so that a place which is not written shows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from server.kernels.gpu.compiled import Kernel


class Memory:
    """The tensors that kernels may touch, for as long as a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_checked = 0
        self._ends: dict[int, int] = {}  # by address of the first byte
        self._sorted = np.zeros((2, 0), np.int64)  # firsts and ends; none: to be sorted again
        self._kept: list[Tensor] = []  # alive, so that their addresses stay theirs
        for name, mask_at in (("create_masked_load", 0), ("create_masked_store", 1)):
            access = getattr(InterpreterBuilder, name)
            monkeypatch.setattr(InterpreterBuilder, name, self._checking(access, mask_at))
        monkeypatch.setattr(Kernel, "launch", self._noting_arguments(Kernel.launch))
        monkeypatch.setattr(Tensor, "new_empty", _new_of_nans(Tensor.new_empty))

    def note(self, *tensors: Tensor) -> None:
        """Let kernels touch `tensors`."""
        for tensor in tensors:
            first = tensor.data_ptr()
            if self._ends.get(first, 0) < first + tensor.nbytes:
                self._ends[first] = first + tensor.nbytes
                self._sorted = np.zeros((2, 0), np.int64)
            self._kept.append(tensor)

    def placed(self, tensor: Tensor) -> Tensor:
        """A copy that kernels may touch."""
        copy = tensor.clone()
        self.note(copy)
        return copy

    def _noting_arguments(self, launch: Callable[..., None]) -> Callable[..., None]:
        def noted(kernel: Kernel, *arguments: Any, **constants: Any) -> None:
            self.note(*(own for own in arguments if isinstance(own, Tensor)))
            launch(kernel, *arguments, **constants)

        return noted

    def _checking(self, access: Callable[..., Any], mask_at: int) -> Callable[..., Any]:
        def checked(builder: Any, pointers: Any, *rest: Any) -> Any:
            size = pointers.get_element_ty().primitive_bitwidth // 8
            is_done = np.broadcast_to(rest[mask_at].data, pointers.data.shape)
            self._check(pointers.data[is_done].astype(np.int64), size)
            return access(builder, pointers, *rest)

        return checked

    def _check(self, addresses: np.ndarray, size: int) -> None:
        if not self._sorted.size:
            self._sorted = np.array(sorted(self._ends.items()), np.int64).T
        firsts, ends = self._sorted
        at = np.searchsorted(firsts, addresses, side="right") - 1
        is_inside = (at >= 0) & (addresses + size <= ends[at])
        assert is_inside.all(), "a kernel went outside of what it was given"
        self.num_checked += len(addresses)


def _new_of_nans(new_empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def filled(self: Tensor, *sizes: Any, **of: Any) -> Tensor:
        made = new_empty(self, *sizes, **of)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    return filled
