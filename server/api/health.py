"""Operations: is it alive, is it ready, what is it, how is it doing."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from server.api.services import ServicesDep
from server.errors import NotReady

router = APIRouter()


@router.get("/health/live")
async def live() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "live"})


@router.get("/health/ready")
async def ready(services: ServicesDep) -> JSONResponse:
    """The engine takes requests; 503 otherwise."""
    if not services.engine.is_running:
        raise NotReady
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(services: ServicesDep) -> Response:
    """Prometheus text."""
    return Response(services.render_metrics(), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def version(services: ServicesDep) -> JSONResponse:
    """Version of the server, its base and the libraries that its numbers depend on."""
    return JSONResponse(services.description)
