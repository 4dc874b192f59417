"""The form of a merged layer: element, block or dense, and the writing of it.

The smallest in bytes is chosen. How many places the members keep together is counted in some of
the panels, evenly spread: the choice depends on the members alone, and changes no value.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch

from adapters_store.adapter import BlockDelta, DenseDelta, ElementDelta, WeightDelta
from adapters_store.merging.compiled import compiled
from adapters_store.merging.loops import take_entries, take_tiles
from adapters_store.merging.panels import Members, Merged, Plan, count_held
from adapters_store.merging.space import Space

Form = Literal["element", "block", "dense"]
COUNTED_PANELS = 16  # at least, where there are so many


def smallest_form(plan: Plan, members: Members, deltas: Sequence[WeightDelta]) -> Form:
    """The form in which the plan's result takes the fewest bytes, as far as counting tells."""
    space = members.space
    if space.row_major and 2 * most_held("element", deltas, space) <= space.rows * space.width:
        return "element"
    panels = space.panels[:: max(1, len(space.panels) // COUNTED_PANELS)]
    places = tiles = 0
    for held in count_held(plan, members, panels):
        places += int(np.count_nonzero(held))
        tiles += int(np.count_nonzero(held.reshape(-1, space.width).any(axis=1)))
    return _smallest(places, tiles, sum(panel.size for panel in panels), space)


def most_held(form: Form, deltas: Sequence[WeightDelta], space: Space) -> int:
    """A bound on what the result holds: places, or rows of `space` for the block form."""
    places = min(sum(delta.nnz for delta in deltas), space.rows * space.width)
    return places // space.width if form == "block" else places


def write(
    form: Form, merged: Iterable[Merged], layer: str, space: Space, most: int
) -> WeightDelta | None:
    """The delta of `layer` in `form`, which holds at most `most`; None where it holds nothing."""
    if form == "dense":
        return _dense(merged, layer, space)
    if form == "block":
        return _block(merged, layer, space, most)
    return _element(merged, layer, space, most)


def _smallest(places: int, tiles: int, size: int, space: Space) -> Form:
    index = np.dtype(space.index_dtype).itemsize
    sizes: dict[Form, int] = {"element": places * (index + 4), "dense": size * 4}
    if not space.row_major:
        sizes["block"] = tiles * (4 + space.width * 4)
    return min(sizes, key=lambda form: sizes[form])


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
    places, values = np.empty(most + 1, space.index_dtype), np.empty(most + 1, np.float32)
    count = 0
    for part in merged:
        count = compiled(take_entries)(
            part.values, part.held, part.panel.first, places, values, count
        )
    places.resize(count, refcheck=False)
    values.resize(count, refcheck=False)
    if not count:
        return None
    indices, entries = torch.from_numpy(places), torch.from_numpy(values)
    return ElementDelta(layer=layer, shape=space.shape, indices=indices, values=entries)


def _block(merged: Iterable[Merged], layer: str, space: Space, most: int) -> WeightDelta | None:
    tiles, values = np.empty(most, np.int32), np.empty((most, space.width), np.float32)
    count = 0
    for part in merged:
        count = compiled(take_tiles)(
            part.values, part.held, part.panel.first_row, tiles, values, count
        )
    tiles.resize(count, refcheck=False)
    values.resize((count, *space.block), refcheck=False)
    if not count:
        return None
    return BlockDelta(
        layer=layer,
        shape=space.shape,
        block=space.block,
        block_index=torch.from_numpy(tiles),
        values=torch.from_numpy(values),
        row_stride=space.row_stride,
    )
