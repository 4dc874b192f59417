"""Which token takes how much of which adapter: grouped by digest, per layer, for any rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from server.adapters.delta import ResidentAdapter, TokenPairs, pair_tokens


class NoOperand:
    """Stands for a delta; nothing multiplies it here."""

    num_bytes = 0


def adapter(digest: str, *layers: str) -> ResidentAdapter:
    return ResidentAdapter(digest, {layer: (NoOperand(),) for layer in layers}, 0)


A, B, C = adapter("a", "qkv"), adapter("b", "qkv", "o"), adapter("c", "o")


def listed(pairs: TokenPairs | None) -> list[tuple[str, int, float]]:
    """(digest, token, coefficient) in the order of the pairs."""
    if pairs is None:
        return []
    segments = zip(pairs.adapters, pairs.offsets, pairs.offsets[1:], strict=False)
    return [
        (adapter.digest, int(pairs.tokens[i]), float(pairs.coefficients[i]))
        for adapter, start, end in segments
        for i in range(start, end)
    ]


def test_base_tokens_alone_make_no_pairs() -> None:
    assert pair_tokens([]) is None
    assert pair_tokens([(0, 5, []), (5, 1, [])]) is None


def test_pairs_are_grouped_by_digest_with_tokens_ascending() -> None:
    pairs = pair_tokens([(0, 2, [(C, 0.5), (A, 1.0)]), (2, 3, []), (5, 1, [(A, -2.0)])])
    assert listed(pairs) == [
        ("a", 0, 1.0),
        ("a", 1, 1.0),
        ("a", 5, -2.0),
        ("c", 0, 0.5),
        ("c", 1, 0.5),
    ]
    assert pairs is not None
    assert (pairs.tokens.dtype, pairs.coefficients.dtype) == (torch.int64, torch.float32)


def test_layer_that_no_adapter_touches_has_no_deltas() -> None:
    pairs = pair_tokens([(0, 1, [(A, 1.0)]), (1, 1, [(B, 1.0)])])
    assert pairs is not None
    x = torch.zeros(2, 8)
    assert pairs.for_layer("down", x) is None
    batch = pairs.for_layer("o", x)
    assert batch is not None
    assert [len(operands) for operands in batch.operands] == [0, 1]


COMPOSITIONS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sampled_from([-1.0, 0.0, 0.5])),
        max_size=3,
        unique_by=lambda member: member[0].digest,
    ),
    max_size=8,
)


@given(compositions=COMPOSITIONS, rows=st.sets(st.integers(0, 8)))
def test_selected_rows_keep_their_pairs_under_their_new_numbers(
    compositions: list[list[tuple[ResidentAdapter, float]]], rows: set[int]
) -> None:
    pairs = pair_tokens([(row, 1, own) for row, own in enumerate(compositions)])
    chosen = sorted(rows)
    selected = None if pairs is None else pairs.select(as_tensor(chosen))
    expected = [(d, chosen.index(t), c) for d, t, c in listed(pairs) if t in rows]
    assert listed(selected) == expected
    assert (selected is None) == (not expected)


def as_tensor(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)
