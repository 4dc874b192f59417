"""Keys of cached pages: a hash chain over everything that the keys and values in a page depend on.

key = H(parent key, numerics class, token ids, compositions of those tokens); the chain's root holds
the tenant's salt. So the same prompt under another adapter, weight, dtype or RoPE regime never
shares a page, and tokens before `adapter_from` share theirs with the base.
"""

import hashlib
from collections.abc import Sequence as Seq
from itertools import pairwise

from adapters_store.canonical import canonical_json
from server.adapters.composition import Composition
from server.engine.sequence import Sequence


def root_key(salt: str) -> bytes:
    """Parent of every first page of a tenant."""
    return hashlib.sha256(b"intarsia-page/1\0" + salt.encode()).digest()


def page_key(
    parent: bytes, numerics: str, token_ids: Seq[int], runs: Seq[tuple[int, Composition]]
) -> bytes:
    """Key of one full page; `runs` covers its tokens with their compositions."""
    content = {
        "parent": parent.hex(),
        "numerics": numerics,
        "tokens": list(token_ids),
        "compositions": _merge_equal(runs),
    }
    return hashlib.sha256(canonical_json(content)).digest()


def extend_keys(sequence: Sequence, num_pages: int, page_size: int, numerics: str) -> None:
    """Make `sequence.page_keys` hold the keys of its first `num_pages` pages, all full."""
    salt = sequence.request.cache_salt
    parent = sequence.page_keys[-1] if sequence.page_keys else root_key(salt)
    bounds = range(len(sequence.page_keys) * page_size, (num_pages + 1) * page_size, page_size)
    for start, end in pairwise(bounds):
        runs = sequence.composition_runs(start, end)
        parent = page_key(parent, numerics, sequence.tokens[start:end], runs)
        sequence.page_keys.append(parent)


def _merge_equal(runs: Seq[tuple[int, Composition]]) -> list[list[int | str]]:
    """Runs as [length, digest], neighbours of the same composition joined."""
    merged: list[list[int | str]] = []
    for length, composition in runs:
        if merged and merged[-1][1] == composition.digest:
            merged[-1][0] = int(merged[-1][0]) + length
        else:
            merged.append([length, composition.digest])
    return merged
