"""Jobs of the kind `merge`: a recipe in, a published adapter version out.

A request holds the name, the recipe's text and the metadata. Recipes name adapters by digest, so a
job that is done again makes the same version.
"""

from collections.abc import Callable, Mapping
from typing import Any

from adapters_store.errors import AdapterNotFound, InvalidMerge
from adapters_store.ingest import AdapterStore
from adapters_store.merging.merge import LINEAGE
from adapters_store.merging.merger import Merger, Stored
from adapters_store.merging.recipe import Recipe
from adapters_store.registry.labels import RECIPE_KEY
from server.jobs.store import JobRecord
from server.jobs.worker import Advance

KIND = "merge"


class MergeJobs:
    """The handler: merges and publishes."""

    def __init__(
        self, store: AdapterStore, merger: Merger, published: Callable[[str], None]
    ) -> None:
        """`published` hears of every name that has a version more."""
        self._store, self._merger, self._published = store, merger, published

    def __call__(self, job: JobRecord, advance: Advance) -> dict[str, Any]:
        """The id and digest of the version that holds the merge, and whether it is new."""
        request = job.request
        recipe = Recipe.parse(request["recipe"])
        adapter = self._merger.merge(
            recipe,
            lambda done, total: advance(done / total),
            earlier=self._earlier(request["name"]),
        )
        facts = {RECIPE_KEY: recipe.digest}
        made = self._store.publish(adapter, request["name"], request["metadata"], facts=facts)
        self._published(made.record.name)
        return {"id": made.record.id, "digest": made.record.digest, "created": made.created}

    def _earlier(self, name: str) -> Stored | None:
        """The latest version of `name`, if it is a merge that this server made."""
        try:
            record = self._store.resolve(name)
            recipe = Recipe.parse(str(record.metadata.get(LINEAGE)))
        except (AdapterNotFound, InvalidMerge):
            return None
        # Anybody may write a lineage, but only this server the digest of the recipe it went by.
        is_ours = record.metadata.get(RECIPE_KEY) == recipe.digest
        return Stored(record.digest, recipe) if is_ours else None


def merge_request(name: str, recipe: Recipe, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a merge job."""
    return {"name": name, "recipe": recipe.json(), "metadata": dict(metadata)}
