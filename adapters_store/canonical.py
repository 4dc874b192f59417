"""One encoding for everything that is hashed. Knows no tensors: bookkeeping code may use it."""

import hashlib
import json
import struct
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one encoding of `value`: sorted keys, no spaces, ASCII, no NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def fp32_hex(value: float) -> str:
    """`value` rounded to fp32, as the 8 hex digits of its big-endian bits."""
    return struct.pack(">f", value).hex()


def round_to_fp32(value: float) -> float:
    """The fp32 number nearest to `value`, as a Python float."""
    rounded: float = struct.unpack(">f", struct.pack(">f", value))[0]
    return rounded


def sha256_of(value: Any) -> str:
    """`sha256:<hex>` of the canonical JSON of `value`."""
    return f"sha256:{hashlib.sha256(canonical_json(value)).hexdigest()}"
