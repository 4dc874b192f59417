"""The form and size that a diagnosis predicts are those that the merge takes."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factories import MAKERS, QKV, random

from adapters_store.adapter import BlockDelta, DenseDelta, ElementDelta, WeightDelta
from adapters_store.merging.diagnose import diagnose_layer
from adapters_store.merging.layer import LayerInput, merge_layer

SHAPE = (4, 8)


def elements(count: int) -> ElementDelta:
    """The first entries of a 4 x 8 layer."""
    indices = torch.arange(count, dtype=torch.int32)
    return ElementDelta(layer="x", shape=SHAPE, indices=indices, values=torch.ones(count))


def tiles(ids: Sequence[int], block: tuple[int, int] = (2, 4), row_stride: int = 1) -> BlockDelta:
    """Tiles of a 4 x 8 layer."""
    return BlockDelta(
        layer="x",
        shape=SHAPE,
        block=block,
        block_index=torch.tensor(ids, dtype=torch.int32),
        values=torch.ones(len(ids), *block),
        row_stride=row_stride,
    )


DENSE = DenseDelta(layer="x", shape=SHAPE, delta=torch.ones(SHAPE))
FORMS = [
    pytest.param([elements(0)], "element", 0, 0, id="nothing"),
    pytest.param([elements(16)], "element", 16, 128, id="half-is-still-sparse"),
    pytest.param([elements(17)], "dense", 32, 128, id="more-than-half"),
    pytest.param([elements(1), elements(1)], "element", 1, 8, id="shared"),
    pytest.param([tiles([0, 1]), tiles([1])], "block", 16, 72, id="one-grid"),
    pytest.param([tiles([0, 1, 2]), tiles([3])], "dense", 32, 128, id="every-tile"),
    pytest.param([tiles([0]), tiles([0], (2, 2))], "element", 8, 64, id="two-grids"),
    pytest.param([tiles([0]), tiles([0], row_stride=2)], "element", 12, 96, id="two-strides"),
    pytest.param([tiles([3]), elements(1)], "element", 9, 72, id="kinds-mix"),
    pytest.param([DENSE], "dense", 32, 128, id="dense"),
]


@pytest.mark.parametrize(("deltas", "form", "nnz", "num_bytes"), FORMS)
def test_predicted_form_is_the_smallest(
    deltas: list[WeightDelta], form: str, nnz: int, num_bytes: int
) -> None:
    predicted = diagnose_layer(deltas, [1.0] * len(deltas)).predicted
    assert (predicted.form, predicted.nnz, predicted.num_bytes) == (form, nnz, num_bytes)
    assert predicted.density == nnz / 32


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.sampled_from(["element", "element", "block", "strided block", "dense"]),
        min_size=1,
        max_size=4,
    )
)
def test_merge_takes_the_predicted_form_and_size(kinds: list[str]) -> None:
    deltas = [MAKERS[kind](QKV, torch.float32, random(i)) for i, kind in enumerate(kinds)]
    inputs = [LayerInput(delta.digest, 1.0, delta) for delta in deltas]
    shape = deltas[0].shape
    merged = merge_layer("overlap_average", {}, inputs, layer=QKV, shape=shape)
    predicted = diagnose_layer(deltas, [1.0] * len(deltas)).predicted
    assert merged is not None
    assert (merged.kind, merged.num_bytes) == (predicted.form, predicted.num_bytes)
