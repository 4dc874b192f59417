"""Who vouches for an adapter: detached Ed25519 signatures over its digest, and the keys that count.

A signature is of the digest's ASCII text (`sha256:...`), which covers every value of the adapter
and the base it is for. Knows nothing of files.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from adapters_store.errors import SignatureRefused

SIGNER_KEY = "signed_by"  # of a record's metadata; nobody but this server writes it


class TrustedKeys:
    """Public keys by id. Without any, adapters need no signature, and none can be checked."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "TrustedKeys":
        """From base64 of 32 bytes each; ValueError names the one that is none."""
        return cls(dict(map(_parsed, texts)))

    def signer(self, digest: str, signature: str | None) -> str | None:
        """Id of the key that signed `digest`; None where nobody had to.

        Raises SignatureRefused, with the reason, unless `signature` is one of a trusted key.
        """
        if not self._keys:
            if signature is not None:
                raise SignatureRefused("this server has no trusted keys to check it with")
            return None
        if signature is None:
            raise SignatureRefused("it is missing, and this server takes signed adapters only")
        raw = _decoded(signature)
        for name, key in self._keys.items():
            if _is_valid(key, raw, digest):
                return name
        raise SignatureRefused(f"it is of no trusted key over {digest}")


def sign(digest: str, key: Ed25519PrivateKey) -> str:
    """The signature of `digest`, in base64."""
    return base64.b64encode(key.sign(digest.encode("ascii"))).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """`ed25519:` and the first 16 hex digits of the key's sha256."""
    return f"ed25519:{hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]}"


def _parsed(text: str) -> tuple[str, Ed25519PublicKey]:
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise ValueError(f"{text!r} is not the base64 of a 32-byte Ed25519 public key") from error
    return key_id(key), key


def _decoded(signature: str) -> bytes:
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureRefused(f"it is not base64: {error}") from error
    if len(raw) != 64:
        raise SignatureRefused(f"it has {len(raw)} bytes, an Ed25519 signature has 64")
    return raw


def _is_valid(key: Ed25519PublicKey, signature: bytes, digest: str) -> bool:
    try:
        key.verify(signature, digest.encode("ascii"))
    except InvalidSignature:
        return False
    return True
