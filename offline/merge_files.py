"""What `intarsia merge` does: files in, one file out, with progress on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.merging.merge import LINEAGE, OnLayer, merge
from adapters_store.merging.reader import FileReader
from adapters_store.merging.recipe import Recipe
from offline.tables import summary


@dataclass(frozen=True, slots=True)
class Asked:
    """How to merge, as it was typed."""

    method: str
    parameters: Mapping[str, object]
    seed: int | None


def merge_files(
    asked: Asked, members: Sequence[tuple[Path, float | None]], out: Path, threads: int
) -> None:
    """Merge the files; a weight that is None is 1."""
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(path)) for path, _ in members]
        weights = [1.0 if weight is None else weight for _, weight in members]
        pairs = [(reader.digest, weight) for reader, weight in zip(opened, weights, strict=True)]
        recipe = Recipe.build(asked.method, asked.parameters, pairs, asked.seed)
        _write(_merge(recipe, opened, threads), recipe, out)


def replay(source: Path, paths: Sequence[Path], out: Path, threads: int) -> None:
    """Do again the recipe in `source`; AdapterRefused unless `paths` hold just its adapters."""
    recipe = _read_recipe(source)
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(path)) for path in paths]
        found = {reader.digest for reader in opened}
        reasons = [f"no file holds {digest}" for digest in recipe.digests if digest not in found]
        reasons += [f"{digest} is not in the recipe" for digest in found - set(recipe.digests)]
        if reasons:
            raise AdapterRefused(sorted(reasons))
        _write(_merge(recipe, opened, threads), recipe, out)


def _open(path: Path) -> FileReader:
    try:
        return FileReader.open(path)
    except AdapterRefused as error:
        raise AdapterRefused([f"{path}: {reason}" for reason in error.reasons]) from error


def _read_recipe(source: Path) -> Recipe:
    with source.open("rb") as file:
        is_json = file.read(64).lstrip().startswith(b"{")
    if is_json:
        return Recipe.parse(source.read_text())
    with _open(source) as reader:
        if LINEAGE not in reader.notes:
            raise AdapterRefused([f"{source}: carries no recipe"])
        return Recipe.parse(reader.notes[LINEAGE])


def _merge(recipe: Recipe, opened: Sequence[FileReader], threads: int) -> SparseAdapter:
    readers = {reader.digest: reader for reader in opened}
    with _progress() as on_layer:
        return merge(recipe, readers, on_layer=on_layer, threads=threads)


def _write(adapter: SparseAdapter, recipe: Recipe, out: Path) -> None:
    if not adapter.deltas:
        raise AdapterRefused(["nothing is left: the merge changes no layer"])
    files.write(adapter, out)
    click.echo(f"{out}: {summary(adapter)}, {adapter.digest}")
    click.echo(f"recipe {recipe.digest}: {recipe.method} of {len(recipe.members)} adapters")


@contextmanager
def _progress() -> Iterator[OnLayer]:
    """Shows layers as they are done, where somebody sees it."""
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("merging", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
