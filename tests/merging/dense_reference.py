"""Every merge method on whole dense matrices in fp64, written from the definitions alone.

Shares no code with the package: masks are rebuilt from the files' tensors, draws are made with
Python's integers, ranks with `sorted`. Slow, and obviously right.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters_store.adapter import BlockDelta, ElementDelta, LowRankDelta, WeightDelta
from adapters_store.canonical import round_to_fp32

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Member(NamedTuple):
    """A member's delta in one layer, dense: `values [out, in]`, 0 outside `mask [out, in]`."""

    digest: str
    weight: float
    values: Floats
    mask: Bools


class Merged(NamedTuple):
    values: Floats
    mask: Bools  # places that some member keeps


def dense_member(digest: str, weight: float, delta: WeightDelta | None, shape: Any) -> Member:
    if delta is None:
        return Member(digest, weight, np.zeros(shape), np.zeros(shape, bool))
    return Member(digest, weight, _values(delta).astype(np.float32).astype(float), _mask(delta))


def _values(delta: WeightDelta) -> Floats:
    """The delta before its one rounding to fp32: products of factors in fp64."""
    if isinstance(delta, LowRankDelta):
        product = delta.b.double() @ delta.a.double() * round_to_fp32(delta.scale)
        return np.asarray(product.numpy())
    return np.asarray(delta.dense().double().numpy())


def _mask(delta: WeightDelta) -> Bools:
    mask = np.zeros(delta.shape, bool)
    if isinstance(delta, ElementDelta):
        for place in delta.indices.tolist():
            mask[place // delta.shape[1], place % delta.shape[1]] = True
    elif isinstance(delta, BlockDelta):
        for tile in delta.block_index.tolist():
            _mark_tile(mask, delta, tile)
    else:
        mask[:] = True
    return mask


def _mark_tile(mask: Bools, delta: BlockDelta, tile: int) -> None:
    (out, columns), (block_rows, block_columns) = delta.shape, delta.block
    tile_row, tile_column = divmod(tile, columns // block_columns)
    for permuted in range(tile_row * block_rows, (tile_row + 1) * block_rows):
        group = out // delta.row_stride
        row = (permuted % group) * delta.row_stride + permuted // group
        mask[row, tile_column * block_columns : (tile_column + 1) * block_columns] = True


def merge(
    method: str,
    parameters: Mapping[str, Any],
    members: Sequence[Member],
    layer: str = "layer",
    seed: int = 0,
) -> Merged:
    return METHODS[method](members, parameters, layer, seed)


def _weighted(members: Sequence[Member]) -> list[Floats]:
    return [member.weight * member.values for member in members]


def _total(arrays: Sequence[Floats]) -> Floats:
    total = np.zeros_like(arrays[0])
    for array in arrays:
        total = total + array
    return total


def _union(members: Sequence[Member]) -> Bools:
    return np.asarray(np.stack([member.mask for member in members]).any(axis=0))


def _over(total: Floats, divisor: Floats) -> Floats:
    return total / np.where(divisor == 0, 1.0, divisor)


# The definitions. Each takes members, parameters, layer, seed.


def overlap_average(members: Sequence[Member], *_: Any) -> Merged:
    masks = _total([member.mask.astype(float) for member in members])
    return Merged(_total(_weighted(members)) / np.maximum(masks, 1), _union(members))


def average(members: Sequence[Member], *_: Any) -> Merged:
    return Merged(_total(_weighted(members)) / len(members), _union(members))


def linear(members: Sequence[Member], *_: Any) -> Merged:
    return Merged(_total(_weighted(members)), _union(members))


def task_arithmetic(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    return Merged(parameters["lambda"] * _total(_weighted(members)), _union(members))


def magnitude_prune(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    return linear([trimmed(member, parameters) for member in members])


def breadcrumbs(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    return task_arithmetic([trimmed(member, parameters) for member in members], parameters)


def ties(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    return elected([trimmed(member, parameters) for member in members], parameters)


def dare_linear(members: Sequence[Member], parameters: Any, layer: str, seed: int) -> Merged:
    return task_arithmetic(_dropped(members, parameters, layer, seed), parameters)


def dare_ties(members: Sequence[Member], parameters: Any, layer: str, seed: int) -> Merged:
    return elected(_dropped(members, parameters, layer, seed), parameters)


def della(members: Sequence[Member], parameters: Any, layer: str, seed: int) -> Merged:
    if parameters["density"] == 1:
        return elected(members, parameters)
    return elected([_ranked(m, parameters, layer, seed) for m in members], parameters)


def metrics_weighted(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    power = parameters["penalty"] if parameters["metric"] == "steps" else -parameters["penalty"]
    raw = [value**power for value in parameters["values"]]
    shares = [value / sum(raw) for value in raw]
    terms = [share * x for share, x in zip(shares, _weighted(members), strict=True)]
    held = [share * member.mask for share, member in zip(shares, members, strict=True)]
    return Merged(_over(_total(terms), _total(held)), _union(members))


def slerp(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    a, b = _weighted(members)
    t = parameters["t"]
    factors = [1 - t, t]
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if min(norms) > 0:
        cosine = float((a * b).sum()) / (norms[0] * norms[1])
        if abs(cosine) <= 0.9995:
            theta = math.acos(cosine)
            factors = [math.sin(f * theta) / math.sin(theta) for f in factors]
    return Merged(factors[0] * a + factors[1] * b, _union(members))


def sce(members: Sequence[Member], parameters: Any, *_: Any) -> Merged:
    x = np.stack(_weighted(members))
    masks = np.stack([member.mask for member in members])
    if parameters["select_topk"] < 1:
        selected = _varied(x, parameters["select_topk"])
        x, masks = x * selected, masks & selected
    energy = np.array([float((row * row).sum()) for row in x])
    shares = energy / energy.sum() if energy.sum() else np.ones(len(x))
    sign = np.where(_total(list(x)) >= 0, 1.0, -1.0)
    agree = np.sign(x) == sign
    shares = shares[:, None, None] * agree
    merged = _over(_total(list(shares * x)), _total(list(shares)))
    held: Bools = np.asarray(masks.any(axis=0))
    return Merged(merged, held)


def _varied(x: Floats, share: float) -> Bools:
    """The int(share * nonzero) places of largest variance."""
    mean = _total(list(x)) / len(x)
    variance = (_total([(row - mean) ** 2 for row in x]) / len(x)).astype(np.float32)
    count = int(int(np.count_nonzero(variance)) * share)
    return _first(variance, np.ones(variance.shape, bool), 0, count)


def elected(members: Sequence[Member], parameters: Any) -> Merged:
    x = _weighted(members)
    votes = _total(x if parameters["sign"] == "sum" else [np.sign(row) for row in x])
    sign = np.where(votes >= 0, 1.0, -1.0)
    agree = [(np.sign(row) == sign).astype(float) for row in x]
    divisors = {
        "count": agree,
        "weights": [m.weight * a for m, a in zip(members, agree, strict=True)],
        "none": [np.zeros_like(a) for a in agree],
    }
    total = _total([row * a for row, a in zip(x, agree, strict=True)])
    merged = _over(total, _total(divisors[parameters["divisor"]]))
    return Merged(parameters["lambda"] * merged, _union(members))


# Trimming and drawing.


def trimmed(member: Member, parameters: Any) -> Member:
    """Magnitude pruning, or outlier pruning where there is a gamma."""
    entries = int(member.mask.sum())
    size = entries if parameters["density_of"] == "nnz" else member.mask.size
    target = int(parameters["density"] * size)
    if "gamma" not in parameters:
        return _masked(member, _first(member.values, member.mask, 0, max(1, target)))
    smallest = max(0, size - target - int(parameters["gamma"] * size))
    outliers = size - smallest - target
    return _masked(member, _first(member.values, member.mask, outliers, outliers + target))


def _first(values: Any, mask: Bools, begin: int, end: int) -> Bools:
    """The places `begin` to `end` in the order of falling magnitude, ties by place."""
    flat = np.abs(values).reshape(-1)
    order = sorted(np.flatnonzero(mask), key=lambda place: (-flat[place], place))
    chosen = np.zeros(mask.size, bool)
    chosen[order[begin:end]] = True
    return chosen.reshape(mask.shape)


def _masked(member: Member, mask: Bools) -> Member:
    return member._replace(values=member.values * mask, mask=mask)


def draw(seed: int, digest: str, layer: str, place: int) -> int:
    """SplitMix64 at `place` of the stream of (seed, digest, layer): 53 bits."""
    words = {"adapter": digest, "draws": 1, "layer": layer, "seed": seed}
    text = json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    key = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)
    z = (key + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) >> 11


def _dropped(members: Sequence[Member], parameters: Any, layer: str, seed: int) -> list[Member]:
    return [_drop(member, parameters["density"], layer, seed) for member in members]


def _drop(member: Member, density: float, layer: str, seed: int) -> Member:
    kept = np.zeros(member.mask.size, bool)
    for place in np.flatnonzero(member.mask):
        kept[place] = draw(seed, member.digest, layer, int(place)) / 2**53 < density
    dropped = _masked(member, kept.reshape(member.mask.shape))
    return dropped._replace(values=dropped.values / density)


def _ranked(member: Member, parameters: Any, layer: str, seed: int) -> Member:
    """Keep by rank in the row; restore the l1 norm."""
    density, epsilon = parameters["density"], parameters["epsilon"]
    kept = np.zeros(member.mask.shape, bool)
    columns = member.mask.shape[1]
    for row in range(member.mask.shape[0]):
        held = np.flatnonzero(member.mask[row])
        order = sorted(held, key=lambda column: (abs(member.values[row, column]), column))
        for rank, column in enumerate(order):
            share = rank / (len(order) - 1) if len(order) > 1 else 0.5
            probability = density - epsilon + share * 2 * epsilon
            place = row * columns + int(column)
            kept[row, column] = draw(seed, member.digest, layer, place) / 2**53 < probability
    before, after = np.abs(member.values).sum(), np.abs(member.values * kept).sum()
    rescaled = _masked(member, kept)
    factor = before / after if min(before, after) >= 1e-7 else 1.0
    return rescaled._replace(values=rescaled.values * factor)


METHODS: dict[str, Callable[..., Merged]] = {
    "overlap_average": overlap_average,
    "average": average,
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "magnitude_prune": magnitude_prune,
    "metrics_weighted": metrics_weighted,
    "slerp": slerp,
    "sce": sce,
}
