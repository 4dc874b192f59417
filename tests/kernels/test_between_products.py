"""Norms, gates and rotations, against their formulas in fp64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.kernels.interface import Kernels
from server.model.kv_cache import paged

SHAPES = st.tuples(st.integers(0, 40), st.sampled_from([1, 8, 33, 576]))
SEEDS = st.integers(0, 99)


@given(shape=SHAPES, seed=SEEDS)
def test_norm_has_a_mean_square_of_one_before_its_weight(
    kernels: Kernels, shape: tuple[int, int], seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(shape, generator=source), torch.randn(shape[1], generator=source)
    wide = x.double()
    expected = weight.double() * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = kernels.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(normed.double(), expected, rtol=2e-6, atol=1e-6)


@given(shape=SHAPES, seed=SEEDS, size=st.sampled_from([1.0, 30.0, 1000.0]))
def test_gate_is_silu_times_up(
    kernels: Kernels, shape: tuple[int, int], seed: int, size: float
) -> None:
    source = torch.Generator().manual_seed(seed)
    gate, up = size * torch.randn(2, *shape, generator=source)
    gated = kernels.silu_gate(torch.cat((gate, up), dim=-1))
    expected = torch.nn.functional.silu(gate.double()) * up.double()
    torch.testing.assert_close(gated.double(), expected, rtol=1e-6, atol=1e-30)


def test_what_is_no_number_stays_none(kernels: Kernels) -> None:
    x = torch.tensor([[torch.nan, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert kernels.rms_norm(x, torch.ones(4), 1e-5).isnan().all(dim=1).tolist() == [True, False]
    assert kernels.silu_gate(x).isnan().tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("rotary_dim", [0, 4, 12, 16])
@pytest.mark.parametrize("num_tokens", [0, 1, 19])
def test_rotation_turns_pairs_of_halves_and_fills_slots(
    kernels: Kernels, num_tokens: int, rotary_dim: int
) -> None:
    source = torch.Generator().manual_seed(num_tokens)
    heads = torch.randn(num_tokens, 4 + 2 * 2, 16, generator=source)
    angles = torch.randn(num_tokens, rotary_dim // 2, generator=source).repeat(1, 2)
    storage = torch.zeros(2, 6, 2, 4 * 16)
    (keys,), (values,) = paged(storage, page_size=4)
    slots = torch.randperm(24, generator=source)[:num_tokens]
    queries = kernels.rotate_and_cache(heads, angles.cos(), angles.sin(), slots, keys, values)
    turned = _turned(heads, angles)
    torch.testing.assert_close(queries, turned[:, :4], rtol=1e-6, atol=1e-6)
    places = (slots // 4, slots % 4)
    torch.testing.assert_close(keys[places], turned[:, 4:6], rtol=1e-6, atol=1e-6)
    assert torch.equal(values[places], heads[:, 6:])
    assert storage.count_nonzero() == 2 * num_tokens * 2 * 16


def _turned(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    half = angles.shape[1] // 2
    first, second, rest = heads.split([half, half, heads.shape[2] - 2 * half], dim=-1)
    turn = torch.polar(torch.ones(len(heads), 1, half), angles[:, None, :half])
    whole = torch.complex(first, second) * turn
    return torch.cat((whole.real, whole.imag, rest), dim=-1)
