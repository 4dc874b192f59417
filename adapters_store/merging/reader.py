"""Adapters read layer by layer, so that a merge holds one layer of each at a time.

`AdapterReader` is what merging asks for. A stored file is read at offsets rather than mapped: the
pages of a map would count as this process's memory until the whole file is let go.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from adapters_store import files
from adapters_store.adapter import BiasDelta, SparseAdapter, WeightDelta
from adapters_store.delta_rules import form_reasons
from adapters_store.digest import adapter_digest
from adapters_store.errors import AdapterRefused, BlobCorrupt
from adapters_store.headers import DeclaredDelta
from adapters_store.merging.frame import Frame

Deltas = tuple[WeightDelta, ...]  # of one layer: at most one of its weight, one of its bias
Digests = Mapping[str, tuple[str, ...]]  # layer -> the digests of its deltas, in their order


class AdapterReader(Protocol):
    """An adapter whose layers are read when asked for, by any thread."""

    @property
    def digest(self) -> str: ...

    @property
    def base_name(self) -> str: ...

    @property
    def base(self) -> Mapping[str, str]:
        """Layer -> digest of the base weight, for every touched layer."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The touched layers, sorted."""

    def outline(self, layer: str) -> Deltas:
        """The layer's deltas, maybe without their values (on torch's meta device)."""

    def digests(self, layer: str) -> tuple[str, ...] | None:
        """The digests of `deltas(layer)`; None where only reading them could tell."""

    def deltas(self, layer: str) -> Deltas:
        """The layer's deltas; () where the layer is left alone."""

    def verify(self) -> Digests:
        """The digests of all deltas. BlobCorrupt unless they make up the adapter's digest."""


class MemoryReader:
    """An adapter that is in memory already."""

    def __init__(self, adapter: SparseAdapter) -> None:
        self._adapter = adapter
        self.digest, self.base_name, self.base = adapter.digest, adapter.base_name, adapter.base
        self.layers = adapter.layers
        self._deltas: dict[str, list[WeightDelta]] = defaultdict(list)
        for delta in adapter.deltas:
            self._deltas[delta.layer].append(delta)

    def outline(self, layer: str) -> Deltas:
        return self.deltas(layer)

    def digests(self, layer: str) -> tuple[str, ...]:
        return _digests(self.deltas(layer))

    def deltas(self, layer: str) -> Deltas:
        return tuple(self._deltas.get(layer, ()))

    def verify(self) -> Digests:
        return {layer: self.digests(layer) for layer in self.layers}


class Head:
    """What stands before the tensors of an `intarsia-adapter/1` file. Content decides it, so the
    head of a digest may be kept: what no longer lies where it says fails the layer's digest."""

    def __init__(self, file: BinaryIO) -> None:
        """AdapterRefused if `file` is not of the form."""
        self.frame = Frame.of(file)
        declared = files.read_declared(self.frame.metadata)
        files.check_tensors(declared.deltas, self.frame.entries)
        self.digest, self.base_name, self.base = declared.digest, declared.base_name, declared.base
        self.notes = declared.notes
        self.declared: dict[str, list[DeclaredDelta]] = defaultdict(list)
        for delta in declared.deltas:
            self.declared[delta.fields["layer"]].append(delta)
        _check_roles(self.declared)
        self.layers = tuple(sorted(self.declared))
        self._outlines = {layer: self._outline(layer) for layer in self.layers}

    def outline(self, layer: str) -> Deltas:
        """The layer's deltas without their values."""
        return self._outlines.get(layer, ())

    def _outline(self, layer: str) -> Deltas:
        return tuple(
            declared.build({name: self.frame.outline(name) for name in declared.tensors.values()})
            for declared in self.declared[layer]
        )


class FileReader:
    """An adapter in an `intarsia-adapter/1` file, which stays open until `close`.

    With `known` digests, from a reader that was verified, each layer is verified when it is read;
    without them, only `verify` can tell whether what was read is the adapter.
    """

    def __init__(
        self, file: BinaryIO, known: Digests | None = None, head: Head | None = None
    ) -> None:
        """AdapterRefused if `file` is not of the form. Takes `file` over, and its head if known."""
        self._file = file
        self.head = head or Head(file)
        self.digest, self.base_name = self.head.digest, self.head.base_name
        self.base, self.notes = self.head.base, self.head.notes
        self.layers = self.head.layers
        self._known = known
        self._digests: dict[str, tuple[str, ...]] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """A reader of the file at `path`; AdapterRefused, OSError."""
        file = path.open("rb")
        try:
            return cls(file)
        except AdapterRefused:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def outline(self, layer: str) -> Deltas:
        return self.head.outline(layer)

    def digests(self, layer: str) -> tuple[str, ...] | None:
        if layer not in self.head.declared:
            return ()
        return (self._digests if self._known is None else self._known).get(layer)

    def deltas(self, layer: str) -> Deltas:
        """BlobCorrupt, or AdapterRefused for what was not read before."""
        deltas = tuple(self._read(declared) for declared in self.head.declared.get(layer, ()))
        found = _digests(deltas)
        expected = self.digests(layer)
        if expected is None:
            _check_form(deltas)  # before anything computes with it: indices may lead anywhere
            self._digests[layer] = found
        elif found != expected:
            raise BlobCorrupt(self.digest, f"another one, by what {layer} holds")
        return deltas

    def verify(self) -> Digests:
        digests = {layer: digests_of(self, layer) for layer in self.layers}
        kinds = {layer: [delta.kind for delta in self.outline(layer)] for layer in self.layers}
        found = adapter_digest(
            self.base,
            (
                (layer, kind, digest)
                for layer in self.layers
                for kind, digest in zip(kinds[layer], digests[layer], strict=True)
            ),
        )
        if found != self.digest:
            raise BlobCorrupt(self.digest, found)
        return digests

    def _read(self, declared: DeclaredDelta) -> WeightDelta:
        names = declared.tensors.values()
        return declared.build({name: self.head.frame.read(self._file, name) for name in names})


def digests_of(reader: AdapterReader, layer: str) -> tuple[str, ...]:
    """The digests of a layer's deltas, which are read if that must be."""
    known = reader.digests(layer)
    return known if known is not None else _digests(reader.deltas(layer))


def weight_of(deltas: Deltas) -> WeightDelta | None:
    """The change of the weight among a layer's deltas."""
    return next((delta for delta in deltas if not isinstance(delta, BiasDelta)), None)


def bias_of(deltas: Deltas) -> BiasDelta | None:
    """The change of the bias among a layer's deltas."""
    return next((delta for delta in deltas if isinstance(delta, BiasDelta)), None)


def _digests(deltas: Deltas) -> tuple[str, ...]:
    return tuple(delta.digest for delta in deltas)


def _check_roles(declared: Mapping[str, Sequence[DeclaredDelta]]) -> None:
    """Raise AdapterRefused for a layer with two changes of its weight, or of its bias."""
    reasons = []
    for layer, deltas in declared.items():
        biases = sum(delta.make is BiasDelta for delta in deltas)
        if max(biases, len(deltas) - biases) > 1:
            reasons.append(f"{layer}: more than one delta of its weight or of its bias")
    if reasons:
        raise AdapterRefused(reasons)


def _check_form(deltas: Deltas) -> None:
    """Raise AdapterRefused unless every delta is well formed."""
    reasons = [f"{delta.layer}: {reason}" for delta in deltas for reason in form_reasons(delta)]
    if reasons:
        raise AdapterRefused(reasons)
