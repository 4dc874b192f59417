"""A stored merge as the beginning of another one: the layers that need not be merged again.

Only for `overlap_average`: a place is the sum over the members that hold it, in the order of their
digests, over their number, so what a member does not hold is the same bits without it. A layer
that the changed members leave alone is therefore taken over. One that they touch is merged anew:
every other member's values at their places are needed, and to read and verify those takes longer
than to add them up. Biases are divided by the number of members, so they are merged anew too.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from adapters_store.merging.reader import AdapterReader, Deltas, bias_of
from adapters_store.merging.recipe import Recipe

METHOD = "overlap_average"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The adapter that an earlier merge made, and those of its layers that stay as they are."""

    reader: AdapterReader
    layers: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        reader: AdapterReader,
        made_by: Recipe,
        recipe: Recipe,
        readers: Mapping[str, AdapterReader],
    ) -> Self:
        """What of the adapter that `made_by` made is the same by `recipe`.

        `readers` are of all members of both recipes.
        """
        if not made_by.method == recipe.method == METHOD:
            return cls(reader)
        before, now = Counter(made_by.members), Counter(recipe.members)
        changed = (before - now) + (now - before)
        touched = {layer for member in changed for layer in readers[member.digest].layers}
        same = [layer for layer in reader.layers if layer not in touched]
        return cls(reader, frozenset(layer for layer in same if not _has_bias(reader, layer)))

    def deltas(self, layer: str) -> Deltas | None:
        """The layer as it was merged; None if it has to be merged anew."""
        return self.reader.deltas(layer) if layer in self.layers else None


def _has_bias(reader: AdapterReader, layer: str) -> bool:
    return bias_of(reader.outline(layer)) is not None
