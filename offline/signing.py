"""`intarsia sign`: vouches for an adapter file with an Ed25519 key, for servers that ask for it.

Signs the digest of what the file holds, computed here: what a file says of itself is no evidence.
"""

import base64
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from adapters_store import files
from adapters_store.errors import AdapterRefused
from adapters_store.signatures import sign as signature_of

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=FILE)
@click.option("--key", "key_file", type=FILE, required=True, help="Private key, PEM, unencrypted.")
def sign(file: Path, key_file: Path) -> None:
    """Print the signature of an adapter FILE, for `adapters upload --signature`."""
    key = _private_key(key_file)
    try:
        digest = files.read(file).digest
    except AdapterRefused as error:
        raise click.ClickException(f"{file}: {error}") from error
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    click.echo(f"{digest}, trusted where INTARSIA_TRUSTED_KEYS has {public}", err=True)
    click.echo(signature_of(digest, key))


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise click.ClickException(f"{path} is no PEM private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise click.ClickException(f"{path} is no Ed25519 key")
    return key
