"""The form of a merged layer: element, block or dense, and the writing of it.

The smallest in bytes is chosen. How many places the masks hold together is counted in some of the
panels, evenly spread: the choice depends on the members alone, and never changes a value.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch

from adapters_store.adapter import BlockDelta, DenseDelta, ElementDelta, WeightDelta
from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import take_entries, take_tiles
from adapters_store.merging.panels import Merged
from adapters_store.merging.space import Space

Form = Literal["element", "block", "dense"]
COUNTED_PANELS = 16


def write(
    form: Form, merged: Iterable[Merged], layer: str, space: Space, most: int
) -> WeightDelta | None:
    """The delta of `layer` in `form`; None where no place is held.

    `most` is a bound on the places (element) or tiles (block) held.
    """
    if form == "dense":
        return _dense(merged, layer, space)
    return (
        _block(merged, layer, space, most)
        if form == "block"
        else _element(merged, layer, space, most)
    )


def _dense(merged: Iterable[Merged], layer: str, space: Space) -> WeightDelta | None:
    flat = np.empty(space.rows * space.width, np.float32)
    any_held = False
    for part in merged:
        flat[part.panel.first : part.panel.first + part.panel.size] = part.values
        any_held = any_held or bool(part.held.any())
    delta = torch.from_numpy(flat.reshape(space.shape))
    return DenseDelta(layer=layer, shape=space.shape, delta=delta) if any_held else None


def _element(merged: Iterable[Merged], layer: str, space: Space, most: int) -> WeightDelta | None:
    # Pages of an array that are never written take no memory, and shrinking moves nothing.
    places, values, count = np.empty(most, space.index_dtype), np.empty(most, np.float32), 0
    for part in merged:
        count = compiled(take_entries)(
            part.values, part.held, part.panel.first, places, values, count
        )
    places.resize(count, refcheck=False)
    values.resize(count, refcheck=False)
    indices = torch.from_numpy(places)
    made = ElementDelta(
        layer=layer, shape=space.shape, indices=indices, values=torch.from_numpy(values)
    )
    return made if count else None


def _block(merged: Iterable[Merged], layer: str, space: Space, most: int) -> WeightDelta | None:
    tiles, values = np.empty(most, np.int32), np.empty((most, space.width), np.float32)
    count = 0
    for part in merged:
        count = compiled(take_tiles)(
            part.values, part.held, part.panel.first_row, tiles, values, count
        )
    tiles.resize(count, refcheck=False)
    values.resize((count, *space.block), refcheck=False)
    made = BlockDelta(
        layer=layer,
        shape=space.shape,
        block=space.block,
        block_index=torch.from_numpy(tiles),
        values=torch.from_numpy(values),
        row_stride=space.row_stride,
    )
    return made if count else None


def smallest(places: int, tiles: int | None, space: Space) -> Form:
    """Which form takes the fewest bytes for that many places held, in `tiles` tiles of `space`."""
    index = np.dtype(space.index_dtype).itemsize
    sizes: dict[Form, int] = {"element": places * (index + 4)}
    if tiles is not None:
        sizes = {"block": tiles * (4 * space.width + 4), **sizes}
    sizes["dense"] = space.rows * space.width * 4
    return min(sizes, key=lambda form: sizes[form])


def counted_panels(count: int) -> Iterator[int]:
    """The numbers of the panels that are counted, of `count`."""
    return iter(range(0, count, max(1, count // COUNTED_PANELS)))
