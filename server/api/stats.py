"""`GET /v1/adapters/{reference}/stats`: the effect report, and its form on the wire."""

from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from adapters_store.effect import Effect, LayerEffect, PartEffect
from server.api.services import ServicesDep

router = APIRouter(prefix="/v1/adapters")


@router.get("/{reference:path}/stats")
async def adapter_stats(reference: str, services: ServicesDep) -> JSONResponse:
    """What a stored adapter changes, layer by layer."""
    record = await run_in_threadpool(services.store.resolve, reference)
    effect = await run_in_threadpool(services.store.effect, record.digest)
    return JSONResponse({"id": record.id, "object": "adapter.stats", **effect_json(effect)})


def effect_json(effect: Effect) -> dict[str, Any]:
    """The report as an upload and the stats route answer it; layers in their order in the model."""
    return {
        "digest": effect.digest,
        "base_matches": not effect.other_base,
        "layers": [_layer_json(layer) for layer in sorted(effect.layers, key=_depth)],
        "nnz": effect.nnz,
        "density": effect.density,
        "norm": effect.norm,
    } | ({"other_base": list(effect.other_base)} if effect.other_base else {})


def _layer_json(layer: LayerEffect) -> dict[str, Any]:
    parts = [{"name": part.name, **_numbers(part)} for part in layer.parts]
    return {"layer": layer.layer, "kind": layer.kind, **_numbers(layer), "parts": parts}


def _numbers(effect: LayerEffect | PartEffect) -> dict[str, Any]:
    return {
        "nnz": effect.nnz,
        "density": effect.density,
        "norm": effect.norm,
        "changed": effect.changed and dict(effect.changed),
    }


def _depth(effect: LayerEffect) -> list[int | str]:
    """Sorts layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in effect.layer.split(".")]
