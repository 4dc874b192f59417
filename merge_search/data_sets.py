"""The rows that a search asks: files on this machine, kept data sets, or the server's tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intarsia_client import Client

from merge_search.errors import SearchRefused

KEPT = "data-"  # how ids of data sets begin
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Rows:
    """A data set: how requests name it, and what tells it from others."""

    request: dict[str, Any]
    identity: str


def find_rows(client: Client, field: str, texts: Sequence[str], split: str) -> list[Rows]:
    """FILE, ID or TASK[:SPLIT], each once; files are uploaded. Raises SearchRefused."""
    found = [_find(client, field, text, split) for text in texts]
    if len({each.identity for each in found}) < len(found):
        raise SearchRefused(field, "names the same rows twice")
    return found


def check_apart(validation: Sequence[Rows], test: Sequence[Rows]) -> None:
    """Raise SearchRefused where both hold the same set: its score would be chosen for."""
    shared = {each.identity for each in validation} & {each.identity for each in test}
    if shared:
        told = f"{', '.join(sorted(shared))} is searched on, so it cannot tell how good the best is"
        raise SearchRefused("test", told)


def _find(client: Client, field: str, text: str, split: str) -> Rows:
    if (path := Path(text)).is_file():
        kept = client.upload_dataset(path)
        return Rows({"id": kept.id, "name": path.stem}, kept.digest)
    if text.startswith(KEPT):
        return Rows({"id": text}, client.dataset(text).digest)
    task, _, asked = text.partition(":")
    if asked and asked not in SPLITS:
        raise SearchRefused(field, f"{asked!r} is none of {', '.join(SPLITS)}")
    chosen = asked or split
    return Rows({"task": task, "split": chosen}, f"{task}:{chosen}")
