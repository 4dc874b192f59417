"""A foreign adapter file as an adapter for a base, by the name of its format."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from adapters_store.canonical import canonical_json
from adapters_store.converters.mttl import read_mttl
from adapters_store.converters.parts import Conversion, Part, Target, assemble
from adapters_store.converters.sparse_fine_tuning import read_lt_sft, read_spiel
from adapters_store.converters.structured import read_diablo, read_neuroada, read_paca
from adapters_store.errors import AdapterRefused

READERS: Mapping[str, Callable[[Path, Target], Iterator[Part]]] = {
    "mttl": read_mttl,
    "spiel": read_spiel,
    "lt-sft": read_lt_sft,
    "diablo": read_diablo,
    "paca": read_paca,
    "neuroada": read_neuroada,
}


def convert(source: Path, kind: str, target: Target, mask_file: Path | None = None) -> Conversion:
    """The adapter in `source`, of the format `kind` (a key of READERS), for the base `target`.

    `mask_file` is mttl's, where it cannot be found beside the weights. AdapterRefused says what
    cannot be represented. What is returned has still to pass `validation.check`.
    """
    if mask_file is None:
        parts = READERS[kind](source, target)
    elif kind == "mttl":
        parts = read_mttl(source, target, mask_file)
    else:
        raise AdapterRefused([f"a mask file belongs to mttl's format, not to {kind}"])
    lineage = canonical_json({"converted_from": kind, "source": source.name}).decode()
    return assemble(parts, target, {"lineage": lineage})
