"""`intarsia-adapter/1`: an adapter as one safetensors file, and back.

Owns the file's form: its metadata, the names of its tensors, the agreement of both, the digest.
Whether the adapter fits a base is for `validation.py`. The bytes are written here rather than by
the safetensors library, whose metadata comes out in an order that changes from run to run: the
same adapter must give the same file.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open
from torch import Tensor

from adapters_store.adapter import SparseAdapter, WeightDelta
from adapters_store.canonical import canonical_json
from adapters_store.digest import ADAPTER_FORMAT, DTYPE_NAMES, raw_bytes
from adapters_store.each import Each, in_turn
from adapters_store.errors import AdapterRefused, AdapterTooLarge
from adapters_store.headers import DeclaredDelta, parse_header
from adapters_store.validation import Limits

ALIGNMENT = 8
METADATA_KEYS = ("base", "base_name", "deltas", "digest", "format", "notes")


@dataclass(frozen=True, slots=True)
class Declared:
    """The metadata of a file: an adapter without its tensors."""

    base_name: str
    digest: str
    base: Mapping[str, str]
    notes: Mapping[str, str]
    deltas: Sequence[DeclaredDelta]


def write(adapter: SparseAdapter, path: Path) -> None:
    """Write `adapter` to `path`, overwriting it: equal adapters with equal notes, equal bytes."""
    with path.open("wb") as file:
        file.write(_header(adapter))
        for _, tensor in _named_tensors(adapter):
            file.write(raw_bytes(tensor))


def num_bytes(adapter: SparseAdapter) -> int:
    """Size of the file that `write` makes."""
    return len(_header(adapter)) + adapter.num_bytes


def read(path: Path, each: Each = in_turn) -> SparseAdapter:
    """The adapter in `path`, its digest verified; AdapterRefused if it is not of this form.

    `each` delta is read and hashed, by more than one thread if it has them.
    """
    with _opened(path) as file:
        declared = read_declared(file.metadata() or {})
        check_tensors(declared.deltas, file.keys())
        deltas = tuple(each(partial(_read_delta, file), declared.deltas))
    adapter = SparseAdapter(declared.base_name, declared.base, deltas, declared.notes)
    if adapter.digest != declared.digest:
        stated = declared.digest
        raise AdapterRefused([f"digest: the file says {stated!r}, its content is {adapter.digest}"])
    return adapter


def check_frame(path: Path, limits: Limits) -> None:
    """Raise AdapterTooLarge if the safetensors file's header asks for more than `limits` allow.

    For files from outside, before anything reads them: the header's length is checked before the
    header is, and the header before any tensor. What is malformed otherwise is for `read_tensors`.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        _check_bound("header bytes", length, limits.max_header_bytes)
        header = parse_json("header", file.read(length))
    if not isinstance(header, dict):
        raise AdapterRefused(["header: expected a JSON object"])
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    _check_bound("tensors", len(tensors), limits.max_tensors)
    for name, value in tensors.items():
        _check_bound(f"bytes of {name!r}", _stated_bytes(value), limits.max_tensor_bytes)


def _check_bound(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise AdapterTooLarge(what, found, limit)


def _stated_bytes(entry: Any) -> int:
    """The size that a tensor's entry states; 0 for an entry that says none."""
    match entry:
        case {"data_offsets": [int(start), int(end)]}:
            return end - start
    return 0


def read_declared(metadata: Mapping[str, str]) -> Declared:
    """What a file of ours announces of itself; AdapterRefused if its metadata is not of the form.

    Nothing of it is verified yet.
    """
    _check_metadata(metadata)
    declared = [parse_header(header) for header in _parse_list("deltas", metadata)]
    base, notes = _parse_texts("base", metadata), _parse_texts("notes", metadata)
    return Declared(metadata["base_name"], metadata["digest"], base, notes, declared)


def read_tensors(path: Path) -> tuple[Mapping[str, str], Mapping[str, Tensor]]:
    """Metadata and tensors of any safetensors file, as copies that own their memory."""
    with _opened(path) as file:
        return file.metadata() or {}, _read_tensors(file, file.keys())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The safetensors file in `path`; AdapterRefused for what goes wrong with its form."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise AdapterRefused([f"file: not a whole safetensors file: {error}"]) from error


def _read_tensors(file: Any, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: file.get_tensor(name).clone() for name in names}


def _read_delta(file: Any, declared: DeclaredDelta) -> WeightDelta:
    """One delta, hashed while its numbers are at hand."""
    delta = declared.build(_read_tensors(file, declared.tensors.values()))
    assert delta.digest
    return delta


def _header(adapter: SparseAdapter) -> bytes:
    """The safetensors header: its length, then JSON padded to keep the data aligned."""
    header: dict[str, Any] = {"__metadata__": _metadata(adapter)}
    start = 0
    for name, tensor in _named_tensors(adapter):
        end = start + tensor.nbytes
        dtype, shape = DTYPE_NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = canonical_json(header)
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _metadata(adapter: SparseAdapter) -> dict[str, str]:
    return {
        "format": ADAPTER_FORMAT,
        "digest": adapter.digest,
        "base_name": adapter.base_name,
        "base": canonical_json(dict(adapter.base)).decode(),
        "deltas": canonical_json([delta.header for delta in adapter.deltas]).decode(),
        "notes": canonical_json(dict(adapter.notes)).decode(),
    }


def _named_tensors(adapter: SparseAdapter) -> list[tuple[str, Tensor]]:
    """In the order of the file: wide dtypes first, so that every tensor is aligned."""
    named = [
        (f"{delta.layer}.{suffix}", tensor)
        for delta in adapter.deltas
        for suffix, tensor in delta.tensors.items()
    ]
    return sorted(named, key=lambda item: (-item[1].itemsize, item[0]))


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != ADAPTER_FORMAT:
        found = metadata.get("format", "no format")
        raise AdapterRefused([f"format: {found!r}, expected {ADAPTER_FORMAT!r}"])
    reasons = [f"metadata: {key!r} is missing" for key in METADATA_KEYS if key not in metadata]
    unknown = sorted(set(metadata) - set(METADATA_KEYS))
    reasons += [f"metadata: {key!r} is not a known key" for key in unknown]
    if reasons:
        raise AdapterRefused(reasons)


def check_tensors(declared: Sequence[DeclaredDelta], tensors: Collection[str]) -> None:
    """Raise AdapterRefused unless every declared tensor is there, once, and no other."""
    counts = Counter(name for delta in declared for name in delta.tensors.values())
    reasons = [f"{name}: declared {n} times" for name, n in counts.items() if n > 1]
    reasons += [f"{name}: tensor is missing" for name in counts if name not in tensors]
    reasons += [f"{name}: tensor belongs to no delta" for name in tensors if name not in counts]
    if reasons:
        raise AdapterRefused(reasons)


def _parse_texts(key: str, metadata: Mapping[str, str]) -> dict[str, str]:
    value = parse_json(key, metadata[key])
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise AdapterRefused([f"{key}: expected a JSON object of strings"])
    return value


def _parse_list(key: str, metadata: Mapping[str, str]) -> list[Any]:
    value = parse_json(key, metadata[key])
    if not isinstance(value, list):
        raise AdapterRefused([f"{key}: expected a JSON array"])
    return value


def parse_json(what: str, text: str | bytes) -> Any:
    """The value of a JSON text from outside; AdapterRefused, naming `what`, if it has none."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates cannot be sent on
    except (ValueError, RecursionError) as error:
        raise AdapterRefused([f"{what}: malformed JSON: {error}"]) from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
