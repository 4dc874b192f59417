"""mttl's sparse adapters, as each of its writers leaves them on disk.

* the sparse-mask branch: `<name>.ckpt` with 1-D values, and their places in `<task>_mask.npz`
  (older ones: a dense weight, and the npz without `mask` and `mask_shape` keys);
* the HF trainer: `mttl_weights.bin` with a dense weight, its mask and a bias. Outside the mask the
  weight holds stale values, which never took part;
* Lightning: the same without the mask, which cannot be interpreted and is refused;
* release 1.0.2: compressed sparse rows (`mttl_rows.py`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters_store.converters.mttl_rows import read_rows
from adapters_store.converters.parts import BiasEntries, Entries, Part, Target, check_shape
from adapters_store.converters.pickles import read_pickled_array, read_state
from adapters_store.errors import AdapterRefused
from adapters_store.importers.peft_source import Place

LAYER = ".sparse_layer"
ROLES = frozenset(
    {"weight", "weight_mask", "bias", "sparse_weights", "binary_mask", "sparse_bias"}
    | {"row_offs", "row_idx", "col_idx"}
)
FROZEN = frozenset({"base_weight", "base_bias"})  # copies of the base
WEIGHT_FILES = ("*.ckpt", "mttl_weights.bin")
MASK_FILES = ("*_mask.npz",)


def read_mttl(source: Path, target: Target, mask_file: Path | None = None) -> Iterator[Part]:
    """The parts of a weight file, or of a directory with one. A mask file stands beside it."""
    weight_file = _only(source, WEIGHT_FILES) if source.is_dir() else source
    if weight_file is None:
        raise AdapterRefused([f"{source}: holds none of {', '.join(WEIGHT_FILES)}"])
    modules = _modules(read_state(weight_file), target)
    mask_file = mask_file or _only(weight_file.parent, MASK_FILES)
    masks = _read_masks(mask_file, target) if mask_file else {}
    unused = masks.keys() - modules.keys()
    if unused:
        raise AdapterRefused([f"{place.layer}: has a mask, but no weight" for place in unused])
    for place, tensors in modules.items():
        yield _entries(place, tensors, masks.get(place))
        bias = tensors.get("bias", tensors.get("sparse_bias"))
        if bias is not None:
            yield BiasEntries(place, bias)


def _only(directory: Path, patterns: tuple[str, ...]) -> Path | None:
    """The one file of these names; with several, which belongs to what cannot be guessed."""
    found = sorted(path for pattern in patterns for path in directory.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise AdapterRefused([f"{directory}: {names}: name the one to use"])
    return found[0] if found else None


def _modules(state: Mapping[str, Tensor], target: Target) -> dict[Place, dict[str, Tensor]]:
    modules: dict[Place, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.items():
        module, layer, rest = name.partition(LAYER)
        role = rest.rpartition(".")[2]
        if not layer or role not in ROLES | FROZEN:
            raise AdapterRefused([f"{name}: is no tensor of a sparse adapter of mttl"])
        if role not in FROZEN:
            modules[target.place(module)][role] = tensor
    return modules


def _entries(place: Place, tensors: Mapping[str, Tensor], places: Tensor | None) -> Entries:
    if "col_idx" in tensors:
        return read_rows(place, tensors)
    weight = tensors.get("weight", tensors.get("sparse_weights"))
    mask = tensors.get("weight_mask", tensors.get("binary_mask"))
    if weight is None:
        raise AdapterRefused([f"{place.layer}: has no weight"])
    if mask is not None:
        return Entries.of_mask(place, weight, mask)
    if places is None:
        raise AdapterRefused([f"{place.layer}: {_without_mask(weight)}"])
    if weight.dim() == 2:
        check_shape(place, "weight", weight, (place.num_rows, place.shape[1]))
        weight = weight[places[:, 0], places[:, 1]]
    if len(places) != len(weight):
        raise AdapterRefused([f"{place.layer}: {len(weight)} values for {len(places)} places"])
    return Entries(place, places[:, 0] * place.shape[1] + places[:, 1], weight)


def _without_mask(weight: Tensor) -> str:
    if weight.dim() == 1:
        return "1-D values, but no *_mask.npz says where they belong"
    return (
        "a dense weight without its mask, as Lightning checkpoints of mttl are: outside the mask it"
        " holds stale values, and nothing tells them apart"
    )


def _read_masks(path: Path, target: Target) -> dict[Place, Tensor]:
    """The places of each module, `[nnz, 2]` int64 (row, column) in row-major order."""
    content = read_pickled_array(path, "arr")
    shapes: Mapping[str, Any] = {}
    if not isinstance(content, dict):
        raise AdapterRefused([f"{path.name}: arr: expected masks by name"])
    if "mask" in content:
        content, shapes = content["mask"], content.get("mask_shape", {})
    masks: dict[Place, Tensor] = {}
    for name, places in content.items():
        place = target.place(name.partition(LAYER)[0])
        shape = (place.num_rows, place.shape[1])
        if tuple(shapes.get(name, shape)) != shape:
            found = tuple(shapes[name])
            raise AdapterRefused([f"{place.layer}: mask_shape {found}, the base has {shape}"])
        masks[place] = _checked_places(place, torch.as_tensor(places))
    return masks


def _checked_places(place: Place, places: Tensor) -> Tensor:
    """Values go with places by their order, so that order must be the one of the writer."""
    if places.dim() != 2 or places.shape[1] != 2 or places.is_floating_point():
        raise AdapterRefused([f"{place.layer}: mask: shape {list(places.shape)}, not [nnz, 2]"])
    places = places.long()
    limits = torch.tensor([place.num_rows, place.shape[1]])
    if ((places < 0) | (places >= limits)).any():
        raise AdapterRefused([f"{place.layer}: mask: places outside {limits.tolist()}"])
    flat = places[:, 0] * place.shape[1] + places[:, 1]
    if (flat[1:] <= flat[:-1]).any():
        raise AdapterRefused([f"{place.layer}: mask: places are not in row-major order"])
    return places
