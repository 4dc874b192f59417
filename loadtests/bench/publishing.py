"""Puts a table and its plot into a document, between marks that name them."""

import shutil
from pathlib import Path


class NoPlace(Exception):
    """`document` has no place for the figures called `name`."""

    def __init__(self, document: Path, name: str) -> None:
        self.document, self.name = document, name
        super().__init__(f"{document} has no lines {begin(name)!r} and {END!r}")


END = "<!-- end of figures -->"


def begin(name: str) -> str:
    return f"<!-- figures of `make bench`: {name} -->"


def publish(document: Path, name: str, folder: Path) -> None:
    """Replace what stands at the place called `name` by `folder`'s table and plot; NoPlace.

    The plot is copied beside the document, into a directory of the document's name.
    """
    before, mark, rest = document.read_text().partition(begin(name) + "\n")
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise NoPlace(document, name)
    plots = document.with_suffix("")
    plots.mkdir(exist_ok=True)
    shutil.copyfile(folder / f"{name}.svg", plots / f"{name}.svg")
    table = (folder / f"{name}.md").read_text()
    picture = f"![{name}]({plots.name}/{name}.svg)"
    document.write_text(f"{before}{mark}\n{table}\n{picture}\n\n{end}{after}")
