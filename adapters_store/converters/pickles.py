"""Files that are pickles, read without running what their authors put into them.

Only tensors, arrays and plain containers can come out; a file that asks for anything else is
refused by the name of what it asked for.
"""

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from adapters_store.errors import AdapterRefused
from adapters_store.files import read_tensors

_reconstruct = np.empty(0).__reduce__()[0]  # what arrays pickle themselves as
_ARRAY_PARTS: Any = [
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    bytes,  # of arrays without entries
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "bBhHiIlLqQefd?"},
]


def read_torch(path: Path) -> dict[str, Any]:
    """The dict that `torch.save` wrote to `path`; AdapterRefused if it holds other than data."""
    try:
        with torch.serialization.safe_globals(_ARRAY_PARTS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise AdapterRefused([f"{path.name}: is not plain tensors: {_asked_for(error)}"]) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise AdapterRefused([f"{path.name}: expected a dict by name"])
    return dict(content)


def _asked_for(error: Exception) -> str:
    """The class that a pickle wants, or else the first line of torch's text."""
    text = str(error)
    found = re.search(r"Unsupported \w+: GLOBAL (\S+)", text)
    return f"it would run {found[1]}, which is refused" if found else text.partition("\n")[0]


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or of a torch pickle, by name."""
    if path.suffix == ".safetensors":
        return read_tensors(path)[1]
    content = read_torch(path)
    state: dict[str, Any] = content.get("state_dict", content)
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise AdapterRefused([f"{path.name}: {name} is not a tensor" for name in others])
    return state


def read_pickled_array(path: Path, name: str) -> Any:
    """What the 0-dimensional object array `name` of an npz file holds."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return _Unpickler(_after_header(file)).load().item()
    except (OSError, KeyError, zipfile.BadZipFile, EOFError, ValueError, AttributeError) as error:
        raise AdapterRefused([f"{path.name}: no npz file with {name!r}: {error}"]) from error
    except pickle.UnpicklingError as error:
        raise AdapterRefused([f"{path.name}: {error}"]) from error


def _after_header(file: Any) -> io.BytesIO:
    """The data of an npy file."""
    major, _ = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    read_header(file)
    return io.BytesIO(file.read())


def _load_storage(content: bytes) -> Any:
    """torch's own function for this reads any pickle."""
    return torch.load(io.BytesIO(content), weights_only=True)


class _Unpickler(pickle.Unpickler):
    """Knows the classes that arrays, tensors and their containers are made of, and no others."""

    known: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _load_storage,
    }

    def find_class(self, module: str, name: str) -> Any:
        found = self.known.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it would run {module}.{name}, which is refused")
        return found
