"""From the JSON header of a delta, as a file carries it, to the delta: the inverse of `.header`.

Owns the types of the header's fields. What the values mean for a base is for `validation.py`.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adapters_store.adapter import (
    BiasDelta,
    BlockDelta,
    DenseDelta,
    ElementDelta,
    LowRankDelta,
    WeightDelta,
)
from adapters_store.digest import DTYPE_NAMES
from adapters_store.errors import AdapterRefused


@dataclass(frozen=True, slots=True)
class DeclaredDelta:
    """A delta that a file announces: its kind and fields, and the tensors that it will hold."""

    make: Callable[..., WeightDelta]
    fields: Mapping[str, Any]
    tensors: Mapping[str, str]  # field -> name of the tensor in the file

    def build(self, tensors: Mapping[str, Tensor]) -> WeightDelta:
        """The delta; AdapterRefused where a tensor has a dtype that no delta may have."""
        held = {field: tensors[name] for field, name in self.tensors.items()}
        reasons = [
            f"{self.tensors[field]}: dtype {tensor.dtype} is not one of {[*DTYPE_NAMES.values()]}"
            for field, tensor in held.items()
            if tensor.dtype not in DTYPE_NAMES
        ]
        if reasons:
            raise AdapterRefused(reasons)
        return self.make(**self.fields, **held)


def parse_header(header: Any) -> DeclaredDelta:
    """The delta that `header` announces; AdapterRefused names the field that is wrong."""
    if not isinstance(header, dict):
        raise AdapterRefused([f"deltas: {header!r} is not an object"])
    form = _FORMS.get(_parse_text(header.get("kind")) or "")
    if form is None:
        raise AdapterRefused([f"deltas: kind {header.get('kind')!r} is not one of {[*_FORMS]}"])
    parsers = _COMMON | form.parsers
    keys = {*parsers, "kind"}
    reasons = [f"deltas: {key!r} is not a field of a header" for key in header if key not in keys]
    fields = {key: parse(header.get(key)) for key, parse in parsers.items()}
    reasons += [
        f"deltas: {key} {header.get(key)!r} is malformed"
        for key, value in fields.items()
        if value is None
    ]
    if reasons:
        raise AdapterRefused(reasons)
    names = {field: f"{fields['layer']}.{suffix}" for field, suffix in form.tensors.items()}
    return DeclaredDelta(form.make, fields, names)


def _parse_text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and value else None


def _parse_count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31
    return value if is_count else None


def _parse_pair(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    first, second = map(_parse_count, value)
    return (first, second) if first and second else None


def _parse_scale(value: Any) -> float | None:
    """Eight lower-case hex digits: the big-endian bits of an fp32 number."""
    if not isinstance(value, str) or len(value) != 8 or set(value) - set("0123456789abcdef"):
        return None
    scale: float = struct.unpack(">f", bytes.fromhex(value))[0]
    return scale


@dataclass(frozen=True, slots=True)
class _Form:
    make: type[WeightDelta]
    tensors: Mapping[str, str]  # field -> suffix of the tensor's name
    parsers: dict[str, Callable[[Any], Any]]


_COMMON: dict[str, Callable[[Any], Any]] = {
    "layer": _parse_text,
    "shape": _parse_pair,
    "scale": _parse_scale,
}
_FORMS: dict[str, _Form] = {
    form.make.kind: form
    for form in (
        _Form(ElementDelta, {"indices": "indices", "values": "values"}, {}),
        _Form(
            BlockDelta,
            {"block_index": "block_index", "values": "values"},
            {"block": _parse_pair, "row_stride": _parse_count},
        ),
        _Form(LowRankDelta, {"a": "lora_A", "b": "lora_B"}, {}),
        _Form(DenseDelta, {"delta": "delta"}, {}),
        _Form(BiasDelta, {"bias": "bias_delta"}, {}),
    )
}
