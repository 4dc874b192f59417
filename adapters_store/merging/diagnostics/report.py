"""A diagnosis as JSON: what the server answers and `intarsia diagnose --json` prints.

Members are told by position. Numbers that are not defined are null.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from adapters_store.merging.diagnose import Diagnosis, LayerDiagnosis
from adapters_store.merging.diagnostics.counts import Counts, Floats
from adapters_store.merging.diagnostics.thresholds import Finding, verdict

Json = dict[str, Any]

OF_MEMBERS = ("nnz", "density", "norm", "kept_mass", "distortion", "outside_energy")
OF_PAIRS = {
    "shared": "shared",
    "jaccard": "jaccard",
    "overlap": "overlap",
    "lift": "lift",
    "sign_conflict": "pair_conflict",
    "cosine": "cosine",
    "cosine_shared": "cosine_shared",
    "norm_ratio": "norm_ratio",
    "norm_ratio_shared": "norm_ratio_shared",
}


def report(
    diagnosis: Diagnosis, members: Sequence[Mapping[str, Any]], found: Sequence[Finding]
) -> Json:
    """The whole report; `members` says of each what the caller knows it by."""
    return {
        "object": "merge.diagnosis",
        "method": "overlap_average",
        "verdict": verdict(tuple(found)),
        "findings": [_finding_json(finding) for finding in found],
        "members": [dict(member) for member in members],
        "bytes": diagnosis.num_bytes,
        "pooled": counts_json(diagnosis.pooled),
        "parts": _parts_json(diagnosis.parts),
        "layers": [_layer_json(layer) for layer in by_depth(diagnosis.layers)],
        "unmeasured_biases": list(diagnosis.unmeasured_biases),
    }


def counts_json(counts: Counts) -> Json:
    """Counts and ratios of some places: of the merge, of each member, of each pair (i < j)."""
    return {
        "places": counts.places,
        "covered": counts.covered,
        "coverage": _number(counts.coverage),
        "overlap_histogram": counts.held[1:].tolist(),
        "mean_overlap": _number(counts.mean_overlap),
        "contested": counts.contested,
        "sign_conflict": _number(counts.sign_conflict),
        "members": _member_rows(counts),
        "pairs": _pair_rows(counts),
    }


def _member_rows(counts: Counts) -> list[Json]:
    columns = {name: _numbers(getattr(counts, name)) for name in OF_MEMBERS}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _pair_rows(counts: Counts) -> list[Json]:
    columns = {name: _numbers(getattr(counts, field)) for name, field in OF_PAIRS.items()}
    return [
        {"members": [i, j]} | {name: column[i][j] for name, column in columns.items()}
        for i, j in combinations(range(len(counts.nnz)), 2)
    ]


def _layer_json(layer: LayerDiagnosis) -> Json:
    return {
        "layer": layer.layer,
        "shape": list(layer.shape),
        "predicted": {
            "form": layer.predicted.form,
            "nnz": layer.predicted.nnz,
            "density": layer.predicted.density,
            "bytes": layer.predicted.num_bytes,
        },
        **counts_json(layer.counts),
        "parts": _parts_json(layer.parts),
    }


def _parts_json(parts: Mapping[str, Counts]) -> list[Json]:
    return [{"name": name, **counts_json(counts)} for name, counts in parts.items()]


def _finding_json(finding: Finding) -> Json:
    return {
        "level": finding.level,
        "measure": finding.measure,
        "value": _number(finding.value),
        "bound": finding.bound,
        "members": list(finding.members),
    }


def _numbers(values: Floats) -> Any:
    """Nested lists, with None for what is no number."""
    return (
        [_numbers(row) for row in values]
        if values.ndim > 1
        else list(map(_number, values.tolist()))
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def by_depth(layers: Sequence[LayerDiagnosis]) -> list[LayerDiagnosis]:
    """In their order in the model: layer 2 before layer 10."""

    def depth(layer: LayerDiagnosis) -> list[int | str]:
        return [int(part) if part.isdigit() else part for part in layer.layer.split(".")]

    return sorted(layers, key=depth)
