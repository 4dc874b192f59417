"""`intarsia sign`: its signature opens the door of a server that trusts the key."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as other_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from store_factories import random_adapter

from adapters_store import files
from adapters_store.signatures import TrustedKeys, key_id
from offline.signing import sign

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_signature_is_one_that_the_printed_key_verifies(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(PEM)
    files.write(random_adapter(), tmp_path / "a.safetensors")
    ran = CliRunner().invoke(sign, [f"{tmp_path}/a.safetensors", "--key", f"{tmp_path}/key"])
    trusted = TrustedKeys.parse([ran.stderr.split()[-1]])
    signer = trusted.signer(random_adapter().digest, ran.stdout)
    assert (ran.exit_code, signer) == (0, key_id(KEY.public_key()))


EC = other_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("key", "says"), [(b"", "no PEM private key"), (EC, "no Ed25519 key"), (PEM, "a: file: ")]
)
def test_what_cannot_be_signed_is_told(tmp_path: Path, key: bytes, says: str) -> None:
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "a").write_bytes(b"{}")
    ran = CliRunner().invoke(sign, [f"{tmp_path}/a", "--key", f"{tmp_path}/key"])
    assert ran.exit_code == 1
    assert says in ran.stderr
