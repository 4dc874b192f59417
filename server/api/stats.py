"""`GET /v1/adapters/{reference}/stats`: the effect report, and its form on the wire."""

from typing import Any

from fastapi import APIRouter

from adapters_store.effect import Effect, LayerEffect

router = APIRouter(prefix="/v1/adapters")


def effect_json(effect: Effect) -> dict[str, Any]:
    """The report as an upload and the stats route answer it; layers in their order in the model."""
    layers = [
        {"layer": e.layer, "kind": e.kind, "nnz": e.nnz, "density": e.density, "norm": e.norm}
        for e in sorted(effect.layers, key=_depth)
    ]
    places = sum(e.nnz / e.density for e in effect.layers)
    density = effect.nnz / places
    return {"layers": layers, "nnz": effect.nnz, "density": density, "norm": effect.norm}


def _depth(effect: LayerEffect) -> list[int | str]:
    """Sorts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in effect.layer.split(".")]
