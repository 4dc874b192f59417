"""How the offline commands report, on a terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from adapters_store.adapter import SparseAdapter, WeightDelta
from adapters_store.files import num_bytes
from offline.extraction import LayerExtract


def console() -> Console:
    """Standard output; names from files are shown as they are, never taken for markup."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def conversion_table(adapter: SparseAdapter, remarks: Mapping[str, str]) -> Table:
    """What each layer of the source became, and why."""
    kinds = {_key(delta): (delta.kind, f"{delta.nnz:,}") for delta in adapter.deltas}
    table = Table("layer", "kind", "entries", "why", box=None)
    for column in table.columns[:3]:
        column.no_wrap = True
    for key, remark in sorted(remarks.items()):
        table.add_row(key, *kinds.get(key, ("-", "0")), remark)
    return table


def _key(delta: WeightDelta) -> str:
    return f"{delta.layer} (bias)" if delta.kind == "bias" else delta.layer


def extract_table(extracts: Sequence[LayerExtract]) -> Table:
    """What was kept of each layer's change: values stored, and share of the energy."""
    table = Table("layer", "kind", "values", "kept energy", box=None)
    for extract in extracts:
        kind = extract.delta.kind if extract.delta else "-"
        count = _num_values(extract.delta) if extract.delta else 0
        table.add_row(extract.layer, kind, f"{count:,}", _share(extract.kept, extract.energy))
    table.add_section()
    total = sum(_num_values(extract.delta) for extract in extracts if extract.delta)
    kept, energy = sum(x.kept for x in extracts), sum(x.energy for x in extracts)
    table.add_row("all", "", f"{total:,}", _share(kept, energy))
    return table


def _num_values(delta: WeightDelta) -> int:
    """Values that are stored, without their places."""
    return sum(t.numel() for t in delta.tensors.values() if t.is_floating_point())


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.3%}" if whole else "unchanged"


def compression_table(errors: Iterable[tuple[WeightDelta, float]], error: float) -> Table:
    """The relative error of each delta and of the whole."""
    table = Table("layer", "kind", "relative error", box=None)
    for delta, own in errors:
        table.add_row(delta.layer, delta.kind, f"{own:.4f}")
    table.add_section()
    table.add_row("all", "", f"{error:.4f}")
    return table


def summary(adapter: SparseAdapter) -> str:
    kinds = ", ".join(adapter.kinds)
    size = decimal(num_bytes(adapter))
    return f"{len(adapter.layers)} layers ({kinds}), {adapter.nnz:,} entries, {size}"
