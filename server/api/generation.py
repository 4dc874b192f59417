"""From prompts to running requests: adapters made resident, sequences submitted, all or none."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from server.adapters.claims import AdapterLease, given
from server.adapters.sources import Source
from server.api.composing import Served
from server.api.services import Services
from server.engine.loop import OutputStream
from server.engine.sampling_params import SamplingParams
from server.engine.sequence import GenerationRequest, Mode
from server.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Job:
    """One choice to generate."""

    prompt: list[int]
    sampling: SamplingParams
    adapter_from: int


async def submit(
    services: Services, served: Served, jobs: Sequence[Job], request_id: str, cache_salt: str
) -> list[OutputStream]:
    """Start every job, or none: an error or a cancellation on the way ends those that started."""
    streams: list[OutputStream] = []
    try:
        for index, job in enumerate(jobs):
            request = GenerationRequest(
                request_id=f"{request_id}-{index}",
                adapter_names=tuple(member.id for member in served.members),
                prompt_token_ids=tuple(job.prompt),
                sampling=job.sampling,
                composition=served.composition,
                adapter_from=job.adapter_from,
                cache_salt=cache_salt,
                mode=served.mode,
            )
            lease = await given(services.memory.lease(_sources(services, served)))
            _check_mode(services, served, lease)
            streams.append(services.engine.submit(request, lease))
    except BaseException:
        for stream in streams:
            stream.close()
        raise
    return streams


def _sources(services: Services, served: Served) -> Sequence[Source]:
    """What is leased: adapters, and where they are to be fused, room for what undoes it."""
    if served.mode is not Mode.FUSED:
        return served.sources
    return (*served.sources, *services.journals(served.sources))


def _check_mode(services: Services, served: Served, lease: AdapterLease) -> None:
    """Raise BadRequest, and let the adapters go, where they are to be fused and cannot be."""
    if served.mode is Mode.FUSED and (reason := services.refusal(served.composition)) is not None:
        lease.release()
        raise BadRequest(f"mode: fused cannot serve {served.model}: {reason}", "mode")


def choice_seeds(seed: int | None, count: int) -> list[int]:
    """Seeds of a request's choices: consecutive from the given one, else fresh."""
    first = secrets.randbits(63) if seed is None else seed
    return [first + index for index in range(count)]
