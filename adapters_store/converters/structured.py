"""Deltas of a fixed structure: DiaBlo's block diagonals, PaCA's columns, NeuroAda's rows.

Tensors are told apart by their module, their number of dimensions and whether they hold integers:
the projects agree on what is stored, and not on what it is called.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from adapters_store.converters.parts import Entries, Part, Target, check_shape
from adapters_store.converters.pickles import read_state
from adapters_store.converters.sparse_fine_tuning import tensor_file
from adapters_store.errors import AdapterRefused
from adapters_store.importers.archive import CONFIG
from adapters_store.importers.peft_source import Place

FILES = ("adapter_model.safetensors", "adapter_model.bin")
PACA_WEIGHTS = "paca_w"  # of the authors' code: replaced columns, not changes


def read_diablo(source: Path, target: Target) -> Iterator[Part]:
    """`D [n, in / n, out / n]` of `y = x W' + x diag(D)`: here its blocks are transposed."""
    for module, tensors in _modules(source, target).items():
        place = target.place(module)
        [blocks] = _of_dims(module, tensors, {"blocks": (3, False)})
        count, rows, columns = len(blocks), place.num_rows, place.shape[1]
        if not count or rows % count or columns % count:
            raise AdapterRefused([f"{module}: {count} blocks do not divide [{rows}, {columns}]"])
        height, width = rows // count, columns // count
        check_shape(place, "blocks", blocks, (count, width, height))
        corner = torch.arange(count)[:, None, None] * (height * columns + width)
        inside = torch.arange(height)[:, None] * columns + torch.arange(width)
        yield Entries(place, (corner + inside).flatten(), blocks.transpose(1, 2).flatten())


def read_paca(source: Path, target: Target) -> Iterator[Part]:
    """Changes `[out, r]` of the input columns `[r]`.

    The authors' own directories store replaced columns divided by alpha / r instead (`paca_w`).
    """
    config = _config(source)
    for module, tensors in _modules(source, target).items():
        place = target.place(module)
        changes, index = _of_dims(module, tensors, {"changes": (2, False), "columns": (1, True)})
        check_shape(place, "changes", changes, (place.num_rows, len(index)))
        _check_columns(place, index)
        if config is not None:
            changes = _replaced_columns(module, tensors, config, target.base_rows(place), index)
        rows = torch.arange(place.num_rows)[:, None] * place.shape[1]
        yield Entries(place, (rows + index.long()).flatten(), changes.flatten())


def read_neuroada(source: Path, target: Target) -> Iterator[Part]:
    """For each row, `k` columns `[out, k]` and the changes there `[out, k]`."""
    for module, tensors in _modules(source, target).items():
        place = target.place(module)
        changes, index = _of_dims(module, tensors, {"changes": (2, False), "columns": (2, True)})
        check_shape(place, "changes", changes, (place.num_rows, changes.shape[1]))
        check_shape(place, "columns", index, tuple(changes.shape))
        _check_columns(place, index)
        rows = torch.arange(place.num_rows)[:, None] * place.shape[1]
        yield Entries(place, (rows + index.long()).flatten(), changes.flatten())


def _modules(source: Path, target: Target) -> dict[str, dict[str, Tensor]]:
    return target.grouped(read_state(tensor_file(source, FILES)))


def _of_dims(
    module: str, tensors: Mapping[str, Tensor], forms: Mapping[str, tuple[int, bool]]
) -> list[Tensor]:
    """The tensors of `forms` (dimensions, holds integers): each once, and no other."""
    by_form = {(t.dim(), not t.is_floating_point()): t for t in tensors.values()}
    if len(tensors) != len(forms) or by_form.keys() != set(forms.values()):
        found = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
        raise AdapterRefused([f"{module}: has {found}; expected {', '.join(forms)}"])
    return [by_form[form] for form in forms.values()]


def _check_columns(place: Place, index: Tensor) -> None:
    if ((index < 0) | (index >= place.shape[1])).any():
        raise AdapterRefused([f"{place.layer}: columns outside [0, {place.shape[1]})"])


def _config(source: Path) -> Mapping[str, object] | None:
    path = source / CONFIG
    return json.loads(path.read_bytes()) if path.is_file() else None


def _replaced_columns(
    module: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object],
    base: Tensor,
    index: Tensor,
) -> Tensor:
    name = next((name for name in tensors if name.startswith(PACA_WEIGHTS)), None)
    alpha, rank = config.get("paca_alpha"), config.get("r")
    if name is None or not isinstance(alpha, int | float) or not isinstance(rank, int):
        wanted = f"{PACA_WEIGHTS}, and {CONFIG} with paca_alpha and r"
        raise AdapterRefused([f"{module}: how it is scaled is unknown: expected {wanted}"])
    return tensors[name].float() * (alpha / rank) - base[:, index.long()]
