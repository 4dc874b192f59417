"""Identity: digests of base weights, of deltas and of whole adapters.

A digest is the string `sha256:<64 hex digits>`. Every hashed frame is a canonical JSON header, one
NUL byte, then raw little-endian tensor bytes, so that no two different things share a frame.
Digests depend on values and layout only: never on file names, metadata, devices or load order.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from adapters_store.canonical import canonical_json as canonical_json
from adapters_store.canonical import fp32_hex as fp32_hex
from adapters_store.canonical import sha256_of

ADAPTER_FORMAT = "intarsia-adapter/1"
BASE_FORMAT = "intarsia-base/1"
ROWS_PER_CHUNK = 1024

DTYPE_NAMES: Mapping[torch.dtype, str] = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int64: "I64",
}


def base_layer_digest(weight: Tensor) -> str:
    """Digest of one base matrix `[out, in]`, over its values widened to fp32.

    bf16 and fp32 copies of the same values agree, as do fused and concatenated q/k/v.
    """
    hasher = _frame({"format": BASE_FORMAT, "shape": list(weight.shape)})
    for rows in weight.split(ROWS_PER_CHUNK):
        hasher.update(raw_bytes(rows.to(torch.float32)))
    return _finish(hasher)


def delta_digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Digest of one delta: its header with the tensors' dtypes and shapes, then their bytes."""
    described = {
        name: [DTYPE_NAMES[tensor.dtype], list(tensor.shape)] for name, tensor in tensors.items()
    }
    hasher = _frame({**header, "format": ADAPTER_FORMAT, "tensors": described})
    for name in sorted(tensors):
        hasher.update(raw_bytes(tensors[name]))
    return _finish(hasher)


def adapter_digest(base: Mapping[str, str], deltas: Iterable[tuple[str, str, str]]) -> str:
    """Root digest: the base digest of every touched layer and (layer, kind, digest) per delta."""
    root = {"format": ADAPTER_FORMAT, "base": dict(base), "deltas": sorted(map(list, deltas))}
    return sha256_of(root)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's values, row-major, as bytes."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data


def _frame(header: Mapping[str, Any]) -> "hashlib._Hash":
    return hashlib.sha256(canonical_json(header) + b"\0")


def _finish(hasher: "hashlib._Hash") -> str:
    return f"sha256:{hasher.hexdigest()}"
