"""PEFT's SHiRA (sparse high rank adapters): single entries with their places, as in PEFT 0.21.

The scale is always 1. Places come from the file; they are drawn again from `random_seed` only
where the file lacks them and PEFT itself would draw the same ones. PEFT wants r * (in + out)
entries in every layer: files from here say in their metadata how many of them, the first, are the
adapter's own. The rest are zeros that pad, and are no part of it.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from adapters_store.adapter import ElementDelta, WeightDelta
from adapters_store.delta_rules import INT32_ENTRIES
from adapters_store.errors import AdapterRefused
from adapters_store.files import parse_json
from adapters_store.importers.peft_source import (
    Layout,
    PeftSource,
    Place,
    check_places,
    refused_setting,
)

WEIGHT, INDICES = "shira_weight", "shira_indices"
OWN_COUNTS = "intarsia_own_entries"  # metadata: JSON of module -> how many entries are its own
KNOWN_SETTINGS = ("mask_type", "random_seed", "init_weights")


def read_shira(source: PeftSource, layout: Layout) -> list[WeightDelta]:
    """One element delta per base layer; AdapterRefused with every reason found."""
    reasons = list(source.unknown_settings(KNOWN_SETTINGS))
    own_counts = _own_counts(source)
    entries: dict[str, list[tuple[Place, Tensor, Tensor]]] = {}
    modules = source.modules((WEIGHT, INDICES), reasons)
    reasons += [f"{OWN_COUNTS}: {module}: unknown" for module in own_counts.keys() - modules.keys()]
    for module, found in modules.items():
        try:
            tensors = _without_padding(found, own_counts.get(module))
            place, flat, values = _entries(module, tensors, source, layout)
            entries.setdefault(place.layer, []).append((place, flat, values))
        except AdapterRefused as error:
            reasons += [f"{module}: {reason}" for reason in error.reasons]
    if reasons:
        raise AdapterRefused(reasons)
    check_places(place for parts in entries.values() for place, _, _ in parts)
    return [_delta(parts) for parts in entries.values()]


def _own_counts(source: PeftSource) -> dict[str, Any]:
    counts = parse_json(OWN_COUNTS, source.metadata.get(OWN_COUNTS, "{}"))
    if not isinstance(counts, dict):
        raise AdapterRefused([f"{OWN_COUNTS}: expected a JSON object"])
    return counts


def _without_padding(tensors: Mapping[str, Tensor], count: object) -> Mapping[str, Tensor]:
    """The first `count` entries, if a count is given; the others must be zeros."""
    if count is None:
        return tensors
    values, indices = tensors.get(WEIGHT), tensors.get(INDICES)
    if values is None or indices is None or values.dim() != 1 or indices.dim() != 2:
        raise AdapterRefused([f"{OWN_COUNTS}: given, but {WEIGHT} or {INDICES} is malformed"])
    if not _is_int(count) or not 0 < count <= len(values) or values[count:].any():
        raise AdapterRefused([f"{OWN_COUNTS}: {count}, but that is not where the zeros begin"])
    return {WEIGHT: values[:count], INDICES: indices[:, :count]}


def _entries(
    module: str, tensors: Mapping[str, Tensor], source: PeftSource, layout: Layout
) -> tuple[Place, Tensor, Tensor]:
    """Where the module lies, its flat indices into the base layer (sorted) and its values."""
    place = layout.place(module)
    if place is None:
        raise AdapterRefused(["is no linear layer of the base"])
    values = tensors.get(WEIGHT)
    if values is None or values.dim() != 1:
        raise AdapterRefused([f"{WEIGHT}: expected one dimension"])
    if INDICES in tensors:
        flat = _stored_places(tensors[INDICES], place, len(values))
    else:
        flat = _drawn_places(source, place, len(values))
    flat, order = flat.sort()
    repeated = flat[1:][flat[1:] == flat[:-1]]
    if len(repeated):
        row, column = divmod(int(repeated[0]), place.shape[1])
        at = f"(row {row - place.first_row}, column {column})"
        raise AdapterRefused([f"{INDICES}: {at} is there twice; PEFT would add both values"])
    return place, flat, values[order]


def _stored_places(indices: Tensor, place: Place, count: int) -> Tensor:
    """Flat places from `[2, nnz]` (row, column), int32, or float32 as written on Windows."""
    if tuple(indices.shape) != (2, count):
        raise AdapterRefused([f"{INDICES}: shape {list(indices.shape)}, expected [2, {count}]"])
    if indices.dtype not in (torch.int32, torch.float32):
        raise AdapterRefused([f"{INDICES}: dtype {indices.dtype}, expected int32 or float32"])
    exact = indices.to(torch.int64)
    if not torch.equal(exact.to(indices.dtype), indices):
        raise AdapterRefused([f"{INDICES}: not all are whole numbers"])
    row, column = exact.unbind()
    for side, axis, length in (("row", row, place.num_rows), ("column", column, place.shape[1])):
        outside = axis[(axis < 0) | (axis >= length)]
        if len(outside):
            raise AdapterRefused([f"{INDICES}: {side} {int(outside[0])} is outside [0, {length})"])
    return (row + place.first_row) * place.shape[1] + column


def _drawn_places(source: PeftSource, place: Place, count: int) -> Tensor:
    """The places of PEFT's random mask, seeded anew for every layer."""
    seed, rank = source.config.get("random_seed"), source.config.get("r")
    mask_type = source.config.get("mask_type")
    if mask_type != "random" or not _is_int(seed):
        drawn = f"mask_type {mask_type!r} with random_seed {seed!r}"
        raise AdapterRefused([f"{INDICES}: missing, and {drawn} cannot be drawn again"])
    if not _is_int(rank):
        raise AdapterRefused([refused_setting("r", rank)])
    rows, columns = place.num_rows, place.shape[1]
    if count != rank * (rows + columns) or count > rows * columns:
        raise AdapterRefused([f"{WEIGHT}: {count} values, not r * (out + in) with r = {rank}"])
    generator = torch.Generator()
    generator.manual_seed(seed)
    flat = torch.randperm(rows * columns, generator=generator)[:count].sort().values
    return flat + place.first_row * columns


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _delta(parts: list[tuple[Place, Tensor, Tensor]]) -> ElementDelta:
    """The parts of one layer, which lie in separate rows, as one delta."""
    parts = sorted(parts, key=lambda part: part[0].first_row)
    place = parts[0][0]
    flat = torch.cat([flat for _, flat, _ in parts])
    is_large = place.shape[0] * place.shape[1] > INT32_ENTRIES
    return ElementDelta(
        layer=place.layer,
        shape=place.shape,
        indices=flat if is_large else flat.to(torch.int32),
        values=torch.cat([values for _, _, values in parts]),
    )
