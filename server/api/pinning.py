"""After a name changed: what it stands for is on the device, if it is pinned."""

import logging

from adapters_store.errors import StoreError
from server.adapters.errors import AdapterMemoryError
from server.api.services import Services

logger = logging.getLogger(__name__)


async def keep_pinned(name: str, services: Services) -> None:
    """Have on the device what `name` now stands for; one that does not fit, or that
    cannot be loaded, is served unpinned."""
    try:
        await services.pins.refresh(name)
    except (AdapterMemoryError, StoreError) as error:
        logger.warning("%s is pinned, but stays off the device: %s", name, error)
