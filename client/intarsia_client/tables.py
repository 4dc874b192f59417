"""How adapters look on a terminal. Knows values, nothing of where they come from."""

from collections.abc import Iterable
from datetime import datetime

from rich.console import Console, Group
from rich.filesize import decimal
from rich.table import Table

from intarsia_client.types import Adapter, AdapterEffect, LayerEffect, PartEffect


def console() -> Console:
    """Standard output; names from the server are shown as they are, never taken for markup."""
    return Console(markup=False, emoji=False, highlight=False)


def adapter_list(adapters: Iterable[Adapter]) -> Table:
    table = Table("id", "kinds", "layers", "entries", "size", "created", box=None)
    table.columns[0].overflow = "fold"
    for adapter in adapters:
        kinds, created = ", ".join(adapter.kinds), _date(adapter.created)
        counts = (str(adapter.layers), f"{adapter.nnz:,}", decimal(adapter.bytes))
        table.add_row(adapter.id, kinds, *counts, created)
    return table


def adapter_details(adapter: Adapter) -> Group:
    table = Table.grid("", "", padding=(0, 2))
    for name in ("id", "digest", "base"):
        table.add_row(name, str(getattr(adapter, name)))
    table.add_row("kinds", ", ".join(adapter.kinds))
    table.add_row("layers", str(adapter.layers))
    table.add_row("entries", f"{adapter.nnz:,}")
    table.add_row("size", decimal(adapter.bytes))
    table.add_row("created", _date(adapter.created))
    for name, value in adapter.metadata.items():
        table.add_row(name, str(value))
    return Group(table, *([_effect(adapter.effect)] if adapter.effect else []))


def _effect(effect: AdapterEffect) -> Table:
    is_compared = any(layer.changed for layer in effect.layers)
    columns = ("layer", "kind", "entries", "density", "norm")
    table = Table(*columns, *(["in bf16"] if is_compared else []), box=None)
    for layer in effect.layers:
        table.add_row(layer.layer, layer.kind, *_numbers(layer))
        for part in layer.parts:
            table.add_row(f"  {part.name}", "", *_numbers(part))
    table.add_section()
    table.add_row("all", "", f"{effect.nnz:,}", f"{effect.density:.3%}", f"{effect.norm:.4g}")
    return table


def _numbers(effect: LayerEffect | PartEffect) -> tuple[str, ...]:
    changed = (f"{effect.changed['bfloat16']:.1%}",) if effect.changed else ()
    return (f"{effect.nnz:,}", f"{effect.density:.3%}", f"{effect.norm:.4g}", *changed)


def _date(created: float) -> str:
    return datetime.fromtimestamp(created).astimezone().isoformat(" ", "minutes")
