"""Adapter files diagnosed, and the diagnosis told: as tables for people, as JSON for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import click
from rich.filesize import decimal
from rich.table import Column, Table

from adapters_store.merging.diagnose import Diagnosis, check_base, diagnose
from adapters_store.merging.diagnostics.counts import Counts
from adapters_store.merging.diagnostics.report import by_depth, report
from adapters_store.merging.diagnostics.thresholds import Finding, findings, verdict
from adapters_store.merging.reader import FileReader
from offline.base import Base
from offline.tables import console

__all__ = ["Examined", "examine", "findings", "say", "say_json", "verdict"]

SHOWN_PAIRS = 20
LAYERS = "model.layers."  # what nearly every layer's name begins with


@dataclass(frozen=True, slots=True)
class Examined:
    """A diagnosis and its members: what they are called here, their digests and weights."""

    diagnosis: Diagnosis
    names: Sequence[str]
    digests: Sequence[str]
    weights: Sequence[float]


def examine(paths: Sequence[Path], weights: Sequence[float], base: Path | None) -> Examined:
    """Diagnose the adapters in `paths`, read layer by layer.

    With a `base` they must be for it, and its split layers are told apart. AdapterRefused,
    BlobCorrupt, BaseMismatch, ModelError.
    """
    with ExitStack() as stack:
        readers = [stack.enter_context(FileReader.open(path)) for path in paths]
        parts = None
        if base is not None:
            checkpoint = Base.open(base)
            check_base(readers, checkpoint.identity)
            parts = checkpoint.layout.parts
        diagnosis = diagnose(readers, weights, parts)
        for reader in readers:
            reader.verify()
        return Examined(diagnosis, _names(paths), [r.digest for r in readers], weights)


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without their ending, or whole paths where those are not unique."""
    stems = Counter(path.stem for path in paths)
    return [path.stem if stems[path.stem] == 1 else str(path) for path in paths]


def say_json(result: Examined, found: Sequence[Finding]) -> None:
    named = zip(result.names, result.digests, result.weights, strict=True)
    members = [{"id": name, "digest": digest, "weight": w} for name, digest, w in named]
    click.echo(json.dumps(report(result.diagnosis, members, found), allow_nan=False))


def say(result: Examined, found: Sequence[Finding]) -> None:
    """The tables, then broken bounds; numbers that are not defined are dashes."""
    diagnosis, screen = result.diagnosis, console()
    screen.print(_members_table(result))
    if len(result.names) > 1:
        screen.print(_pairs_table(result))
    screen.print(_rows_table(diagnosis))
    if diagnosis.unmeasured_biases:
        screen.print(f"Biases, which are not measured: {', '.join(diagnosis.unmeasured_biases)}")
    for finding in found:
        who = " and ".join(result.names[i] for i in finding.members)
        of = f" of {who}" if who else ""
        bound = f"{finding.value:.4g}, bound {finding.bound:.4g}"
        screen.print(f"{finding.level}: {finding.measure}{of} is {bound}")


def _members_table(result: Examined) -> Table:
    table = _table("adapter", "weight", "entries", "norm", "kept mass", "distortion", "elsewhere")
    counts = result.diagnosis.pooled
    for i, name in enumerate(result.names):
        table.add_row(
            name,
            f"{result.weights[i]:g}",
            f"{counts.nnz[i]:,}",
            f"{counts.norm[i]:.4g}",
            _share(counts.kept_mass[i]),
            _share(counts.distortion[i]),
            _share(counts.outside_energy[i]),
        )
    return table


def _pairs_table(result: Examined) -> Table:
    """Pairs with the most entries of opposite signs first."""
    table = _table("pair", "shared", "jaccard", "overlap", "lift", "opposed", "cosine")
    counts, names = result.diagnosis.pooled, result.names
    pairs = sorted(combinations(range(len(names)), 2), key=lambda pair: -int(counts.opposed[pair]))
    for pair in pairs[:SHOWN_PAIRS]:
        table.add_row(
            f"{names[pair[0]]}, {names[pair[1]]}",
            f"{counts.shared[pair]:,}",
            _share(counts.jaccard[pair]),
            _share(counts.overlap[pair]),
            _plain(counts.lift[pair]),
            _share(counts.pair_conflict[pair]),
            _plain(counts.cosine[pair]),
        )
    if len(pairs) > SHOWN_PAIRS:
        table.add_row(f"and {len(pairs) - SHOWN_PAIRS} more, in --json")
    return table


def _rows_table(diagnosis: Diagnosis) -> Table:
    """Layers, rows of split layers, and all together."""
    table = _table("rows", "covered", "masks each", "conflicts", "form", "bytes")
    for layer in by_depth(diagnosis.layers):
        predicted = layer.predicted
        name = layer.layer.removeprefix(LAYERS)
        size = decimal(predicted.num_bytes)
        table.add_row(name, *_numbers(layer.counts), predicted.form, size)
    table.add_section()
    for name, counts in diagnosis.parts.items():
        table.add_row(f"every {name}", *_numbers(counts))
    table.add_row("all", *_numbers(diagnosis.pooled), "", decimal(diagnosis.num_bytes))
    return table


def _numbers(counts: Counts) -> tuple[str, str, str]:
    return _share(counts.coverage), _plain(counts.mean_overlap), _share(counts.sign_conflict)


def _table(first: str, *others: str) -> Table:
    table = Table(Column(first, overflow="fold"), box=None)  # no name is cut
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"


def _plain(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"
