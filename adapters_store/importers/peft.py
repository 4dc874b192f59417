"""A PEFT directory as an adapter, by its `peft_type`."""

from pathlib import Path

from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.errors import AdapterRefused
from adapters_store.importers.archive import CONFIG
from adapters_store.importers.peft_lora import read_lora
from adapters_store.importers.peft_shira import read_shira
from adapters_store.importers.peft_source import Layout, Parts, PeftSource

READERS = {"LORA": read_lora, "SHIRA": read_shira}


def read_peft(directory: Path, base: BaseIdentity, parts: Parts) -> SparseAdapter:
    """The adapter in a directory that PEFT saved, bound to `base`.

    `parts` says which rows of a fused layer a split module is (`self_attn.q_proj` -> its fused
    layer, first row, number of rows). AdapterRefused names everything that PEFT can express and
    an adapter here cannot. What is returned has still to pass `validation.check`.
    """
    source = PeftSource.read(directory)
    peft_type = source.config.get("peft_type")
    reader = READERS.get(peft_type) if isinstance(peft_type, str) else None
    if reader is None:
        raise AdapterRefused([f"{CONFIG}: peft_type {peft_type!r} is not one of {[*READERS]}"])
    deltas = sorted(reader(source, Layout(base, parts)), key=lambda delta: delta.layer)
    return SparseAdapter(
        base_name=base.name,
        base={delta.layer: base.layers[delta.layer].digest for delta in deltas},
        deltas=tuple(deltas),
        notes={"lineage": source.lineage},
    )
