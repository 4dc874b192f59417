"""Signatures: with trusted keys, nothing unsigned gets in; the signer is the server's to name."""

import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from store_factories import BASE, LIMITS, random_adapter

from adapters_store import files
from adapters_store.errors import AdapterRefused, InvalidMetadata, SignatureRefused
from adapters_store.ingest import AdapterStore
from adapters_store.registry import Change
from adapters_store.signatures import SIGNER_KEY, TrustedKeys, key_id, sign

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
DIGEST = random_adapter().digest


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _store(tmp_path: Path, *keys: Ed25519PrivateKey) -> AdapterStore:
    trusted = TrustedKeys.parse(map(_public, keys))
    return AdapterStore.open(tmp_path / "store", BASE, {}, LIMITS, keys=trusted)


def _upload(tmp_path: Path) -> Path:
    files.write(random_adapter(), tmp_path / "upload")
    return tmp_path / "upload"


REFUSED: dict[str, tuple[str | None, str]] = {
    "missing": (None, "missing"),
    "empty": ("", "has 0 bytes"),
    "not base64": ("&&&", "not base64"),
    "not ASCII": ("é", "not base64"),
    "short": (base64.b64encode(b"x" * 63).decode(), "has 63 bytes"),
    "of another key": (sign(DIGEST, OTHER), "no trusted key"),
    "of another digest": (sign(random_adapter(1).digest, KEY), "no trusted key"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("dry_run", [False, True])
def test_upload_without_a_valid_signature_is_refused(
    tmp_path: Path, case: str, dry_run: bool
) -> None:
    signature, reason = REFUSED[case]
    store = _store(tmp_path, KEY)
    with pytest.raises(SignatureRefused, match=reason):
        store.ingest(_upload(tmp_path), "sql", {}, signature=signature, dry_run=dry_run)
    assert store.registry.list_page(10, None)[0] == []


def test_signed_upload_names_its_signer(tmp_path: Path) -> None:
    store = _store(tmp_path, OTHER, KEY)
    signature = f"{sign(DIGEST, KEY)}\n"
    record = store.ingest(_upload(tmp_path), "sql", {"task": "sql"}, signature=signature).record
    assert record.metadata == {"task": "sql", SIGNER_KEY: key_id(KEY.public_key())}


def test_signature_that_nobody_can_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SignatureRefused, match="no trusted keys"):
        _store(tmp_path).ingest(_upload(tmp_path), "sql", {}, signature=sign(DIGEST, KEY))


@pytest.mark.parametrize("metadata", [{SIGNER_KEY: "me"}, {SIGNER_KEY: None}])
def test_no_user_names_a_signer(tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(AdapterRefused, match="for the server to say"):
        _store(tmp_path).ingest(_upload(tmp_path), "sql", metadata)


def test_no_later_change_names_a_signer(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.ingest(_upload(tmp_path), "sql", {})
    with pytest.raises(InvalidMetadata, match="for the server to say"):
        store.registry.change("sql", Change(metadata={SIGNER_KEY: "me"}))


def test_no_file_names_a_signer(tmp_path: Path) -> None:
    adapter = random_adapter()
    adapter.notes[SIGNER_KEY] = "me"  # type: ignore[index]
    files.write(adapter, tmp_path / "upload")
    with pytest.raises(AdapterRefused, match="notes: 'signed_by'"):
        _store(tmp_path).ingest(tmp_path / "upload", "sql", {})


@pytest.mark.parametrize("text", ["", "&", "eA==", base64.b64encode(b"x" * 33).decode()])
def test_what_is_no_public_key_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="32-byte Ed25519 public key"):
        TrustedKeys.parse([text])
