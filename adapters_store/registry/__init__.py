"""Names, versions, aliases and metadata of adapters, in SQL.

Knows nothing of files: a row is written once the bytes that it names are safe.
"""

from adapters_store.registry import evaluation_tables as evaluation_tables
from adapters_store.registry.guarded import Guarded
from adapters_store.registry.listing import ANY, Filter
from adapters_store.registry.records import (
    AdapterDraft,
    AdapterRecord,
    Change,
    Latest,
    NameState,
    Publication,
)
from adapters_store.registry.registry import Registry

__all__ = [
    "ANY",
    "AdapterDraft",
    "AdapterRecord",
    "Change",
    "Filter",
    "Guarded",
    "Latest",
    "NameState",
    "Publication",
    "Registry",
]
