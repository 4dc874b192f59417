"""What the offline commands do: read, work, check, write, report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from adapters_store import files
from adapters_store.adapter import SparseAdapter
from adapters_store.canonical import canonical_json
from adapters_store.converters.convert import convert
from adapters_store.converters.parts import Target
from adapters_store.errors import AdapterRefused, StoreError
from adapters_store.exporters.compeft import compress
from adapters_store.exporters.peft_lora import write_lora
from adapters_store.exporters.peft_shira import write_shira
from adapters_store.validation import Limits, check
from offline.base import Base
from offline.extraction import (
    Change,
    Keeping,
    LayerExtract,
    as_adapter,
    extract_entries,
    extract_low_rank,
)
from offline.merged import write_merged
from offline.tables import (
    compression_table,
    console,
    conversion_table,
    extract_table,
    summary,
)
from server.model.errors import ModelError

UNLIMITED = Limits(max_file_bytes=2**63, max_nnz=2**63)  # limits are the server's that serves it


@contextmanager
def errors_shown() -> Iterator[None]:
    """What can be wrong with files is told without a traceback, each reason in a line."""
    try:
        yield
    except AdapterRefused as error:
        raise click.ClickException("\n  ".join(error.reasons)) from error
    except (StoreError, ModelError) as error:
        raise click.ClickException(str(error)) from error


def convert_file(source: Path, kind: str, base_path: Path, out: Path, mask: Path | None) -> None:
    """Convert `source`, and say what each layer became."""
    base = Base.open(base_path)
    conversion = convert(source, kind, Target(base.layout, base.weight), mask)
    console().print(conversion_table(conversion.adapter, conversion.remarks))
    _write(conversion.adapter, base, out)


def extract_file(
    finetuned: Path,
    base_path: Path,
    out: Path,
    kind: str,
    amount: float | None,
    of_model: bool,
    ends: Sequence[str] | None,
) -> None:
    """Extract an adapter; `amount` is the rank or the share to keep, None for every change."""
    base, tuned = Base.open(base_path), Base.open(finetuned)
    change = Change(base, tuned)
    layers = _chosen_layers(base, ends)
    if kind == "low_rank":
        assert amount is not None
        extracts = extract_low_rank(change, layers, int(amount))
    else:
        extracts = extract_entries(change, layers, Keeping(kind, amount, of_model))
    console().print(extract_table(extracts))
    _tell_what_is_lost(extracts, change.elsewhere())
    notes = {"extracted_from": tuned.directory.resolve().name, "kind": kind, "amount": str(amount)}
    adapter = as_adapter(base, extracts, {"lineage": canonical_json(notes).decode()})
    _write(adapter, base, out)


def _chosen_layers(base: Base, ends: Sequence[str] | None) -> list[str]:
    """Sorted layers whose names end with one of `ends`; AdapterRefused for an end of none."""
    if ends is None:
        return sorted(base.shapes)
    unknown = [end for end in ends if not any(_has_end(name, end) for name in base.shapes)]
    if unknown:
        raise AdapterRefused([f"--targets: no layer is called {end!r}" for end in unknown])
    return sorted(name for name in base.shapes if any(_has_end(name, end) for end in ends))


def _has_end(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _tell_what_is_lost(extracts: Sequence[LayerExtract], elsewhere: Sequence[str]) -> None:
    inexact = sum(extract.inexact for extract in extracts)
    if inexact:
        click.echo(f"{inexact:,} entries come back rounded: base + change has no exact fp32 sum")
    if elsewhere:
        names = ", ".join(elsewhere)
        click.echo(f"Changed too, and part of no adapter: {names}", err=True)


def export_file(
    path: Path, form: str, out: Path, base_path: Path | None, weight: float, per_tensor: bool
) -> None:
    """Export the adapter in `path`."""
    adapter = files.read(path)
    if base_path is not None:
        base = Base.open(base_path)
        check(adapter, base.identity, UNLIMITED)
        write_merged(base, adapter, weight, out)
        click.echo(f"{out}: {base.identity.name} + {weight:g} * {path.stem}")
    elif form == "compeft":
        _compress(adapter, out, per_tensor)
    else:
        _PEFT_WRITERS[form](adapter, out)
        click.echo(f"{out}: {form}, {summary(adapter)}")


def _compress(adapter: SparseAdapter, out: Path, per_tensor: bool) -> None:
    compression = compress(adapter, per_tensor=per_tensor)
    console().print(compression_table(compression.errors, compression.error))
    files.write(compression.adapter, out)
    click.echo(f"before: {summary(adapter)}")
    click.echo(f"{out}: {summary(compression.adapter)}")


_PEFT_WRITERS: Mapping[str, Callable[[SparseAdapter, Path], object]] = {
    "peft-shira": write_shira,
    "peft-lora": write_lora,
}


def _write(adapter: SparseAdapter, base: Base, out: Path) -> None:
    check(adapter, base.identity, UNLIMITED)
    files.write(adapter, out)
    click.echo(f"{out}: {summary(adapter)}, {adapter.digest}")
