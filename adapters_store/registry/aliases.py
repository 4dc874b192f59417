"""Aliases: names of versions that can be moved, split and rolled back. One session, no commits."""

import hashlib
import time
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters_store.errors import AdapterNotFound, NoEarlierTarget
from adapters_store.registry.records import Targets
from adapters_store.registry.tables import Alias, AliasChange, Version


def targets_of(session: Session, name: str, alias: str) -> Targets:
    """The versions that `name@alias` stands for and their shares; else AdapterNotFound."""
    change = _standing(session, name, alias)
    if change is None or not change.targets:
        raise AdapterNotFound(f"{name}@{alias}")
    return dict(change.targets)


def aliases_of(session: Session, name: str) -> dict[str, Targets]:
    """Every alias of `name` in order."""
    query = select(AliasChange).join(Alias, Alias.change_id == AliasChange.id)
    changes = session.scalars(query.where(Alias.name == name).order_by(Alias.alias))
    return {change.alias: dict(change.targets) for change in changes if change.targets}


def point(session: Session, name: str, alias: str, weights: Mapping[int, float] | None) -> None:
    """Move the alias to versions by weight, or remove it: AdapterNotFound if there is none.

    Moving it to where it stands changes nothing, so that a rollback still leads elsewhere.
    """
    before = _standing(session, name, alias)
    if weights is None and (before is None or not before.targets):
        raise AdapterNotFound(f"{name}@{alias}")
    targets = _shares(weights or {})
    if missing := _missing(session, name, targets):
        raise AdapterNotFound(f"{name}@{missing[0]}")
    if before is None or dict(before.targets) != targets:
        _stand_at(session, name, alias, targets, before.id if before else None)


def roll_back(session: Session, name: str, alias: str) -> None:
    """Return the alias to what it stood for before, as far as that exists; else NoEarlierTarget.

    Again and again leads further and further back, never to what was fled from.
    """
    standing = _standing(session, name, alias)
    if standing is None:
        raise AdapterNotFound(f"{name}@{alias}")
    earlier = _before(session, standing)
    while earlier is not None and not _stands(session, earlier):
        earlier = _before(session, earlier)
    if earlier is None:
        raise NoEarlierTarget(name, alias)
    _stand_at(session, name, alias, dict(earlier.targets), earlier.before_id)


def chosen(targets: Targets, name: str, alias: str, key: str | None) -> int:
    """The version for whoever has the sticky `key`; without one, that of the largest share.

    The same key gets the same version as long as the shares stand. Shares are laid end to end in
    the order of versions, so that growing a canary only moves keys to it.
    """
    if key is None:
        return max(targets, key=lambda version: (targets[version], version))
    digest = hashlib.sha256("\0".join((name, alias, key)).encode(errors="surrogatepass")).digest()
    place, reached = int.from_bytes(digest[:7]) / 2**56, 0.0
    for version, share in sorted(targets.items()):
        reached += share
        if place < reached:
            return version
    return max(targets)  # the shares add up to a hair less than 1


def _standing(session: Session, name: str, alias: str) -> AliasChange | None:
    query = select(AliasChange).join(Alias, Alias.change_id == AliasChange.id)
    return session.scalar(query.where(Alias.name == name, Alias.alias == alias))


def _stand_at(
    session: Session, name: str, alias: str, targets: Targets, before_id: int | None
) -> None:
    change = AliasChange(
        name=name,
        alias=alias,
        targets=sorted(targets.items()),
        changed=time.time(),
        before_id=before_id,
    )
    session.add(change)
    session.flush()
    session.merge(Alias(name=name, alias=alias, change_id=change.id))


def _shares(weights: Mapping[int, float]) -> Targets:
    total = sum(weights.values())
    return {version: weight / total for version, weight in sorted(weights.items())}


def _before(session: Session, change: AliasChange) -> AliasChange | None:
    return session.get(AliasChange, change.before_id) if change.before_id else None


def _stands(session: Session, change: AliasChange) -> bool:
    """Whether a change can be returned to: no removal, and its versions exist."""
    return bool(change.targets) and not _missing(session, change.name, dict(change.targets))


def _missing(session: Session, name: str, targets: Targets) -> list[int]:
    known = select(Version.version).where(Version.name == name, Version.version.in_(targets))
    return sorted(set(targets) - set(session.scalars(known)))
