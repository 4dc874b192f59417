"""Deltas that nobody asked for: multiplied before a server is ready, so that no request compiles.

They go the way of a step's, by `linear`, so nothing of it is missed; of every kind, in every dtype
that a file may have, for as many tokens as each form of a kernel is for. Which adapters there will
be is not known at the start. On weights of small stand-ins: Triton compiles for whether a number is
a multiple of 16, not for the number. For one dtype of
activations that is 20 kernels for each dtype of values, and one for all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from adapters_store.adapter import BiasDelta, BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from server.kernels.gpu.compiled import TYPES
from server.kernels.gpu.forms import KERNELS
from server.kernels.gpu.operands import EDGE
from server.kernels.interface import DeltaBatch, Operand

SIDE = 64  # of a stand-in
RANK = 16

Linear = Callable[[Tensor, Tensor, DeltaBatch | None], Tensor]
LayOut = Callable[[WeightDelta], Operand]


def warm_up(linear: Linear, lay_out: LayOut, weights: Iterable[Tensor]) -> None:
    """Have `linear` compile all that it needs for any deltas of any of `weights [out, in]`."""
    stands = {_like(weight.shape): weight for weight in weights}
    for shape, weight in stands.items():
        _multiply(linear, lay_out, weight.new_zeros(shape))


def job_tokens() -> list[int]:
    """The most tokens of a job of each form: for so many, none but this form is taken."""
    forms = (form for kernel in KERNELS.values() for form in kernel.configurations)
    return sorted({int(form.sizes["TOKENS"]) for form in forms})


def _like(shape: Sequence[int]) -> tuple[int, int]:
    out, width = (SIDE + (number % EDGE != 0) for number in shape)
    return out, width


def _multiply(linear: Linear, lay_out: LayOut, weight: Tensor) -> None:
    *fewer, most = job_tokens()
    shape = (weight.shape[0], weight.shape[1])
    for dtype in TYPES:
        operands = [
            lay_out(delta)
            for delta in (*_sparse(shape, dtype, is_full=False), *_others(shape, dtype))
        ]
        for num_tokens in (*fewer, most):
            linear(*_step(weight, operands, num_tokens))
        full = [lay_out(delta) for delta in _sparse(shape, dtype, is_full=True)]
        linear(*_step(weight, full, most))


def _step(
    weight: Tensor, operands: Sequence[Operand], num_tokens: int
) -> tuple[Tensor, Tensor, DeltaBatch]:
    """Activations, weight, and one adapter's `operands` for all tokens."""
    tokens, coefficients = torch.arange(num_tokens), torch.ones(num_tokens)
    deltas = DeltaBatch([operands], [0, num_tokens], tokens, coefficients)
    return weight.new_zeros(num_tokens, weight.shape[1]), weight, deltas


def _sparse(shape: tuple[int, int], dtype: torch.dtype, *, is_full: bool) -> Iterator[WeightDelta]:
    """Entries, and where they divide the shape, runs and tiles: one, or as many as there are rows.

    As many are a matrix to the tokens of the largest job, one is not.
    """
    out, width = shape
    rows, columns = torch.arange(out if is_full else 1), torch.arange(EDGE if is_full else 1)
    places = (rows[:, None] * width + columns).ravel().int()
    values = torch.zeros(len(places), dtype=dtype)
    yield ElementDelta(layer="", shape=shape, indices=places, values=values)
    for edge in (1, EDGE):
        if out % edge == width % EDGE == 0:
            tiles = (rows[: -(-len(rows) // edge)] * (width // EDGE)).int()
            numbers = torch.zeros(len(tiles), edge, EDGE, dtype=dtype)
            block = (edge, EDGE)
            yield BlockDelta(layer="", shape=shape, block=block, block_index=tiles, values=numbers)


def _others(shape: tuple[int, int], dtype: torch.dtype) -> Iterator[WeightDelta]:
    """A dense delta is multiplied as the first factor of a low-rank one is."""
    out, width = shape
    a, b = torch.zeros(RANK, width, dtype=dtype), torch.zeros(out, RANK, dtype=dtype)
    yield LowRankDelta(layer="", shape=shape, a=a, b=b)
    yield BiasDelta(layer="", shape=shape, bias=torch.zeros(out, dtype=dtype))
