"""After a name changed: what it stands for is on the device, if it is pinned."""

import logging

from starlette.concurrency import run_in_threadpool

from server.adapters.errors import AdapterMemoryError
from server.api.services import Services

logger = logging.getLogger(__name__)


async def keep_pinned(name: str, services: Services) -> None:
    """Have on the device what `name` now stands for; one that does not fit is served unpinned."""
    try:
        await run_in_threadpool(services.pins.refresh, name)
    except AdapterMemoryError as error:
        logger.warning("%s is pinned, but stays off the device: %s", name, error)
