"""From the body of an evaluation to its plan: every name resolved, every row read, all of it
checked before anything is queued."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from starlette.concurrency import run_in_threadpool

from adapters_store.errors import InvalidMerge, InvalidName
from adapters_store.evaluation.errors import InvalidSetting, RowRefused
from adapters_store.evaluation.gate import Gate
from adapters_store.evaluation.metrics import metrics_of
from adapters_store.evaluation.resampling import Bootstrap
from adapters_store.names import parse_reference
from server.adapters.composition import BASE
from server.api.composing import Served, resolve
from server.api.evaluation_bodies import EvaluationBody, GenerationSettings, PromoteBody
from server.api.evaluation_bodies import SubjectBody as SubjectObject
from server.api.evaluation_rows import Found, find_rows
from server.api.prompts import check_token_ids
from server.api.schemas import GenerationBody
from server.api.services import Services
from server.engine.errors import InvalidParameter
from server.engine.sampling_params import SamplingParams
from server.errors import BadRequest, RequestError, shown
from server.evaluation.plan import Plan, Promotion, TaskRows
from server.evaluation.subjects import Subject, pinned_sources

BASE_SUBJECT = "base"
MAX_ROWS = 1_000_000  # of one evaluation


async def make_plan(body: EvaluationBody, services: Services) -> tuple[Plan, Sequence[Found]]:
    """The plan, and its rows, which are still to be kept. Raises what names the field at fault."""
    metrics = metrics_of(body.metrics)
    Bootstrap(body.confidence, seed=body.seed)
    generation = _generation(body.generation, body.seed, services)
    subjects = [await _subject(index, services, body) for index in range(len(body.subjects))]
    _check_distinct("subjects", [subject.name for subject in subjects])
    found = await run_in_threadpool(find_rows, body, services.evaluations)
    _check_distinct("datasets", [each.name for each in found])
    plan = Plan(
        subjects=subjects,
        tasks=[_task(each, body) for each in found],
        metrics=[metric.name for metric in metrics],
        generation=generation,
        prompt_mode=body.prompt_mode,
        seed=body.seed,
        confidence=body.confidence,
        priority=body.priority,
        reference=_reference(body.reference, subjects),
        base=services.evaluations.base,
        promotion=await run_in_threadpool(_promotion, body, subjects, found, services),
    )
    if plan.num_rows > MAX_ROWS:
        told = f"{plan.num_rows:,} rows of all subjects and data sets are more than {MAX_ROWS:,}"
        raise BadRequest(f"limit: {told}", "limit")
    await run_in_threadpool(_check_rows, plan, found, services)
    return plan, found


def _task(found: Found, body: EvaluationBody) -> TaskRows:
    return TaskRows(
        name=found.name,
        dataset=found.id,
        digest=found.digest,
        num_rows=len(found.rows),
        limit=body.limit,
        seed=body.seed,
    )


def _check_rows(plan: Plan, found: Sequence[Found], services: Services) -> None:
    reader = services.evaluations.reader(plan)
    for each, task in zip(found, plan.tasks, strict=True):
        for row in task.rows:
            try:
                reader.questions(each.rows[row], row + 1)
            except RowRefused as error:
                raise each.refused(error) from error


def _generation(given: GenerationSettings, seed: int, services: Services) -> dict[str, Any]:
    """What is not given is the checkpoint's default, as for requests."""
    own = {name: value for name, value in given.model_dump().items() if value is not None}
    if "stop" in own:
        own["stop"] = [own["stop"]] if isinstance(own["stop"], str) else own["stop"]
    merged = {**services.sampling_defaults, "seed": seed, **own}
    try:
        sampling = SamplingParams(**{**merged, "stop": tuple(merged.get("stop", ()))})
        check_token_ids(sampling, services.vocab_size)
    except InvalidParameter as error:
        raise InvalidParameter(f"generation.{error.field}", error.value, error.expected) from error
    return merged


async def _subject(index: int, services: Services, body: EvaluationBody) -> Subject:
    asked = body.subjects[index]
    if asked == BASE_SUBJECT:
        return Subject(BASE_SUBJECT, asked, None, None, BASE, ())
    given = {"model": asked} if isinstance(asked, str) else asked.model_dump(exclude={"name"})
    with _within(f"subjects.{index}", is_plain=isinstance(asked, str)):
        # Of a split alias it is the version of the largest share that is evaluated.
        served = await resolve(GenerationBody.model_validate(given), services, None)
        return _pinned(asked, served)


def _pinned(asked: str | SubjectObject, served: Served) -> Subject:
    members = served.members
    is_version = len(members) == 1 and served.merge is None and members[0].weight == 1.0
    wanted = None if isinstance(asked, str) else asked.name
    found = served.model if members else BASE_SUBJECT
    if wanted == BASE_SUBJECT and members:  # for results are compared with what is called so
        raise BadRequest(f"name: {BASE_SUBJECT!r} is what the base is called", "name")
    return Subject(
        name=wanted or found,
        asked=asked if isinstance(asked, str) else asked.model_dump(exclude_none=True),
        id=members[0].id if is_version else None,
        digest=members[0].digest if is_version else None,
        composition=served.composition,
        sources=pinned_sources(served.sources),
        merge=served.merge,
    )


@contextmanager
def _within(place: str, *, is_plain: bool) -> Iterator[None]:
    """What is complained of within, by its path in the body."""
    try:
        yield
    except RequestError as error:
        error.param = place if is_plain or error.param is None else f"{place}.{error.param}"
        raise
    except InvalidMerge as error:
        raise InvalidMerge(f"{place}.{error.field}", error.value, error.reason) from error


def _check_distinct(field: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise BadRequest(
                f"{field}: {shown(name)} is there {count} times; tell them apart by 'name'", field
            )


def _named(name: str, subjects: Sequence[Subject], field: str) -> Subject:
    """The subject that is called so, or was asked for by this reference."""
    by_asked = {each.asked: each for each in subjects if isinstance(each.asked, str)}
    found = {**by_asked, **{each.name: each for each in subjects}}.get(name)
    if found is not None:
        return found
    raise BadRequest(f"{field}: {shown(name)} is none of the subjects", field)


def _reference(name: str | None, subjects: Sequence[Subject]) -> str | None:
    """What the others are compared with: as told, else the base, if it is a subject."""
    if name is not None:
        return _named(name, subjects, "reference").name
    return next((BASE_SUBJECT for each in subjects if each.name == BASE_SUBJECT), None)


# The gate


def _promotion(
    body: EvaluationBody, subjects: Sequence[Subject], found: Sequence[Found], services: Services
) -> Promotion | None:
    if body.promote is None:
        return None
    condition = body.promote.condition
    name, alias = _alias(body.promote.alias)
    over = condition.min_delta_over
    beaten = _beaten(over.subject, subjects) if over is not None else None
    _check_known("promote.if.metric", condition.metric, body.metrics)
    if condition.task is not None:
        _check_known("promote.if.task", condition.task, [each.name for each in found])
    subject = _candidate(body.promote, name, subjects)
    assert subject.id is not None
    return Promotion(
        name=name,
        alias=alias,
        version=int(subject.id.rpartition("@")[2]),
        subject=subject.name,
        stood=_shares(services.store.registry.state(name).aliases.get(alias)),
        gate=_gate(body.promote, beaten),
    )


def _alias(text: str) -> tuple[str, str]:
    """The name and the alias of `name@alias`."""
    with suppress(InvalidName):
        reference = parse_reference(text)
        if reference.alias is not None:
            return reference.name, reference.alias
    raise BadRequest("promote.alias: must be of the form name@alias", "promote.alias")


def _gate(promote: PromoteBody, beaten: str | None) -> Gate:
    try:
        return promote.condition.gate(promote.alias, beaten)
    except InvalidSetting as error:
        raise InvalidSetting(f"promote.if.{error.field}", error.value, error.reason) from error


def _beaten(name: str, subjects: Sequence[Subject]) -> str:
    return _named(name, subjects, "promote.if.min_delta_over.subject").name


def _shares(targets: Mapping[int, float] | None) -> dict[int, float] | None:
    return None if targets is None else dict(targets)


def _check_known(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BadRequest(f"{field}: {shown(value)} is none of {', '.join(known)}", field)


def _candidate(promote: PromoteBody, name: str, subjects: Sequence[Subject]) -> Subject:
    """The version of the alias's name that is to have it; an alias stands for nothing else."""
    fits = [each for each in subjects if each.id and each.id.rpartition("@")[0] == name]
    if promote.subject is not None:
        chosen = _named(promote.subject, subjects, "promote.subject")
        if chosen not in fits:
            raise BadRequest(
                f"promote.subject: {chosen.name} is no version of {name}, which alone the alias "
                "can stand for",
                "promote.subject",
            )
        return chosen
    if len(fits) != 1:
        raise BadRequest(
            f"promote.subject: {len(fits)} subjects are versions of {name}; name one",
            "promote.subject",
        )
    return fits[0]
