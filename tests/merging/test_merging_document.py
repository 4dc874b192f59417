"""The table of docs/merging.md is the table of the code."""

import re
from pathlib import Path

from adapters_store.merging.table import MAX_MEMBERS, METHODS, Method

DOCUMENT = Path(__file__).parents[2] / "docs" / "merging.md"
MARKED = re.compile(r"<!-- table: \S+ -->\n(.*?)<!-- end -->", re.DOTALL)
HEAD = "| method | computes | parameters | members | order | folds | seed | exact | paper |"


def table() -> str:
    return "\n".join([HEAD, "|---" * 9 + "|", *map(row, METHODS.values()), ""])


def row(method: Method) -> str:
    parameters = "<br>".join(
        f"`{p.name}` = {'required' if p.default is None else p.default}, {p.range}: {p.meaning}"
        for p in method.parameters
    )
    columns = [
        f"`{method.name}`",
        method.summary,
        parameters,
        members(method),
        "no" if method.sorts else "yes",
        "yes" if method.folds else "no",
        "yes" if method.takes_seed else "no",
        str(method.exactness),
        method.paper,
    ]
    return f"| {' | '.join(columns)} |"


def members(method: Method) -> str:
    if method.min_members == method.max_members:
        return str(method.min_members)
    assert method.max_members == MAX_MEMBERS
    return f"{method.min_members} to {method.max_members}"


def test_document_shows_the_table() -> None:
    shown = MARKED.search(DOCUMENT.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[1] == table(), f"write this between the marks:\n{table()}"


def test_document_explains_every_method() -> None:
    text = MARKED.sub("", DOCUMENT.read_text(encoding="utf-8"))
    simple = {"average", "linear", "task_arithmetic"}  # whose row says all
    assert not [name for name in METHODS if name not in text and name not in simple]
