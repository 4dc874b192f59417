"""Places outside the registry that an operator allows adapters to be loaded from.

Owns what a client's path may mean and how its bytes are fetched, bounded, into a directory of the
caller's. What they hold is for `ingest` to judge.
"""

from adapters_store.sources.allowed import NO_SOURCES, AdapterSources, Fetched

__all__ = ["NO_SOURCES", "AdapterSources", "Fetched"]
