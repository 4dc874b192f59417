"""Merges as bodies write them, as recipes: every complaint names the body's own field."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from adapters_store.errors import AdapterNotFound, InvalidMerge, InvalidName
from adapters_store.ingest import AdapterStore
from adapters_store.merging.recipe import Recipe
from adapters_store.merging.table import DEFAULT_METHOD
from adapters_store.registry import AdapterRecord
from server.errors import ModelNotFound

Fields = Mapping[str, Any]  # of `merge`: method, parameters, and a seed where the method draws


def build_recipe(
    weighted: Iterable[tuple[str, float]],
    merge: Fields,
    *,
    members_field: str = "adapters",
    merge_field: str = "merge",
) -> Recipe:
    """The recipe of (digest, weight) pairs. Raises InvalidMerge."""
    given = {"method": DEFAULT_METHOD, **merge}
    method, seed = given.pop("method"), given.pop("seed", None)
    with named_as_in_body(members_field, merge_field):
        return Recipe.build(method, given, weighted, seed)


@contextmanager
def named_as_in_body(members_field: str, merge_field: str) -> Iterator[None]:
    """What InvalidMerge complains of within, by the names that the body's fields have."""
    try:
        yield
    except InvalidMerge as error:
        first, dot, rest = error.field.partition(".")
        is_member = first == "members"
        field = f"{members_field}{dot}{rest}" if is_member else f"{merge_field}.{error.field}"
        raise InvalidMerge(field, error.value, error.reason) from error


def find_adapter(
    store: AdapterStore, reference: str, param: str, key: str | None = None
) -> AdapterRecord:
    """The version that `reference` names for whoever has the sticky `key`. ModelNotFound."""
    try:
        return store.resolve(reference, key)
    except (AdapterNotFound, InvalidName) as error:
        raise ModelNotFound(reference, param) from error
