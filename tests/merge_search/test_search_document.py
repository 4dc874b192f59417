"""docs/search.md names every field of a search with its default, and the ranges that are usual."""

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from merge_search.config import SearchConfig, read_config
from merge_search.parameters import USUAL

TEXT = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
IN_WORDS = {"weights": "low 0, high 1.5", "parameters": "none", "limit": "all", "test_limit": "all"}
SERVERS = dict.fromkeys(("generation", "priority"), "the server's")


def default_of(name: str, field: FieldInfo) -> str:
    """As the table writes it."""
    if field.is_required():
        return "required"
    if words := {**IN_WORDS, **SERVERS}.get(name):
        return words
    default = field.default
    if default in (None, ()):
        return "none"
    first = default[0] if isinstance(default, tuple) else default
    return f"`{first}`" if isinstance(first, str) else str(first)


def test_the_table_has_every_field_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", TEXT, re.MULTILINE)
    fields = SearchConfig.model_fields
    assert rows == [(name, default_of(name, field)) for name, field in fields.items()]


def test_the_usual_ranges_are_told() -> None:
    told = re.findall(r"`(\w+)`\s+([\d.]+) to ([\d.]+)", TEXT)
    assert {name: (float(low), float(high)) for name, low, high in told} == USUAL


def test_the_file_that_is_shown_is_a_search(tmp_path: Path) -> None:
    (block,) = [part for part in re.findall(r"(?:^    .*\n)+", TEXT, re.M) if "candidates" in part]
    file = tmp_path / "search.toml"
    file.write_text(re.sub(r"^    ", "", block, flags=re.M))
    found = read_config(file, {})
    assert set(found.space(("a@1", "b@1", "c@1")).methods) == {"ties", "della"}
