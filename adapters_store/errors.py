"""Everything that can go wrong with an adapter, as types that hold their data.

StoreError
├── AdapterRefused          the bytes cannot be an adapter for this base; `reasons` says why
│   └── AdapterTooLarge     a byte or entry limit was exceeded
├── InvalidName             a name or reference that does not follow the grammar
├── AdapterNotFound         no such name, version or digest
├── InvalidMerge            a merge's method, parameter or members cannot be served
├── InvalidMetadata         a known field of the metadata does not have its form
├── SignatureRefused        an adapter is not signed by a key that this server trusts
├── NameConflict            the name belongs to something else
├── AdapterInUse            aliases point at what would be removed
├── NoEarlierTarget         an alias has nothing to be rolled back to
├── BaseMismatch            adapters that are to be merged change different bases
├── MergeTooLarge           a merge would cost more than is allowed
├── RegistryUnavailable     the registry's database cannot be opened
├── BlobCorrupt             stored bytes do not have the digest that names them
├── BlobsUnavailable        the place where the bytes are stored does not answer
├── SourceNotFound          nothing that the operator allows is there to be loaded
└── SourceUnavailable       an allowed source does not answer, or not as it should
"""

import reprlib
from collections.abc import Mapping, Sequence

MAX_REASONS = 20
MAX_REASON_CHARS = 400


class StoreError(Exception):
    """Base class of every error of this package."""


class AdapterRefused(StoreError):
    """The upload is not an adapter that this base can use. `reasons` names each field and value.

    A hostile file can be wrong in millions of places with endless names: the first `MAX_REASONS`
    reasons are kept, none longer than `MAX_REASON_CHARS`, and the last one counts the rest.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        kept = [reason[:MAX_REASON_CHARS] for reason in reasons[:MAX_REASONS]]
        if len(reasons) > MAX_REASONS:
            kept.append(f"and {len(reasons) - MAX_REASONS} more")
        self.reasons = tuple(kept)
        super().__init__("; ".join(self.reasons))


class AdapterTooLarge(AdapterRefused):
    """`what` (bytes, entries, layers) is `found`, more than `limit`."""

    def __init__(self, what: str, found: int, limit: int) -> None:
        self.what, self.found, self.limit = what, found, limit
        super().__init__([f"{what}: {found} is more than the limit of {limit}"])


class InvalidName(StoreError):
    """`field` holds `value`, which is not of the form `expected`."""

    def __init__(self, field: str, value: str, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field} {value!r} is not of the form {expected}")


class AdapterNotFound(StoreError):
    """No adapter answers to `reference`."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(f"The adapter {reference!r} does not exist.")


class SignatureRefused(StoreError):
    """The upload's signature does not do: `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"signature: {reason}")


class NameConflict(StoreError):
    """`name` cannot be given to an adapter, because it is `owner`."""

    def __init__(self, name: str, owner: str) -> None:
        self.name, self.owner = name, owner
        super().__init__(f"name {name!r} is taken: it is {owner}")


class InvalidMetadata(StoreError):
    """The metadata's field `name`, or without one all of it, cannot be kept: `reason`."""

    def __init__(self, name: str | None, reason: str) -> None:
        self.field, self.reason = f"metadata.{name}" if name else "metadata", reason
        super().__init__(f"{self.field}: {reason}")


class InvalidMerge(StoreError):
    """The merge's `field` holds `value`, which does not do: `reason`."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field, self.value, self.reason = field, value, reason
        super().__init__(f"{field} {reprlib.repr(value)}: {reason}")


class AdapterInUse(StoreError):
    """`aliases` point at versions that `reference` names."""

    def __init__(self, reference: str, aliases: Sequence[str]) -> None:
        self.reference, self.aliases = reference, tuple(aliases)
        super().__init__(f"{reference!r} is in use: aliases {', '.join(aliases)} point there")


class NoEarlierTarget(StoreError):
    """Nothing that `name@alias` stood for before exists any more."""

    def __init__(self, name: str, alias: str) -> None:
        self.name, self.alias = name, alias
        super().__init__(f"{name}@{alias} has no earlier target to return to")


class BaseMismatch(StoreError):
    """The members of a merge change different weights of `layer`.

    `digests` has, by adapter digest, the digest of the weight that it is for.
    """

    def __init__(self, layer: str, digests: Mapping[str, str]) -> None:
        self.layer, self.digests = layer, dict(digests)
        self.field = "adapters"
        told = ", ".join(f"{adapter} is for {base}" for adapter, base in sorted(digests.items()))
        super().__init__(f"adapters: made for different bases: at {layer}, {told}")


class MergeTooLarge(StoreError):
    """The merge would take `predicted` of `what` (bytes, seconds), more than `limit`."""

    def __init__(self, what: str, predicted: float, limit: float) -> None:
        self.what, self.predicted, self.limit = what, predicted, limit
        super().__init__(
            f"the merge is predicted to take {predicted:,.6g} {what}, "
            f"more than the limit of {limit:,.6g}"
        )


class RegistryUnavailable(StoreError):
    """The database at `url` (without its password) cannot be opened: `reason`."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f"registry {url}: {reason}")


class BlobCorrupt(StoreError):
    """The bytes stored for `digest` hash to `found`."""

    def __init__(self, digest: str, found: str) -> None:
        self.digest, self.found = digest, found
        super().__init__(f"stored adapter {digest} is corrupt: its bytes have digest {found}")


class BlobsUnavailable(StoreError):
    """The blobs at `url` cannot be read or written now: `reason`; neither is told to clients."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__("the adapter files cannot be reached now")


class SourceNotFound(StoreError):
    """`path` is neither in the registry nor inside an allowed source, or nothing is there."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path[:400]!r} is no adapter in the registry and none inside an allowed source"
        )


class SourceUnavailable(StoreError):
    """The allowed source at `url` cannot be read now: `reason`; neither is told to clients."""

    def __init__(self, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__("the source of this adapter cannot be read now")
