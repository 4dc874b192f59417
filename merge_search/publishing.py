"""The best mix as an adapter of the server, with the search's table in its metadata."""

from typing import Any

from intarsia_client import Adapter, AdapterWeight, Client

from adapters_store.canonical import canonical_json
from merge_search.errors import SearchRefused
from merge_search.report import trial_rows
from merge_search.searching import SearchResult
from merge_search.trials import ranked

MAX_BYTES = 32 << 10  # half of what metadata may have: the recipe stands beside it
CORRECT = 6  # significant digits of scores


def publish(client: Client, result: SearchResult, name: str) -> Adapter:
    """Merge the best for keeps as `name`. Raises SearchRefused where it is one adapter alone."""
    if not result.best.mix.merge:
        told = f"the best is {result.best.mix.call} alone, which is stored already"
        raise SearchRefused("publish", told)
    members = [AdapterWeight(*each) for each in result.best.mix.members]
    metadata = {"search": told_in_metadata(result)}
    return client.merge(name, members, merge=result.best.mix.merge, metadata=metadata)


def told_in_metadata(result: SearchResult) -> dict[str, Any]:
    """What was searched, and the table of trials, the best first, as far as there is room."""
    best = ranked(result.trials, higher_is_better=result.config.higher_is_better)
    heading, *rows = trial_rows(best)
    told: dict[str, Any] = {
        "metric": result.config.metric,
        "data": [each.identity for each in result.data],
        "test": [each.identity for each in result.test],
        "seed": result.config.seed,
        "trials": len(result.trials),
        "best": result.best.number,
        "tested": [_short(each.to_json()) for each in result.tested],
        "columns": heading,
        "table": [],
    }
    room = MAX_BYTES - len(canonical_json(told))
    for row in map(_short, rows):
        room -= len(canonical_json(row)) + 1
        if room < 0:
            break
        told["table"].append(row)
    return told


def _short(value: Any) -> Any:
    """With numbers of few digits."""
    if isinstance(value, float):
        return float(f"{value:.{CORRECT}g}")
    if isinstance(value, list):
        return [_short(each) for each in value]
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return value
