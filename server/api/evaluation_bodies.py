"""The body of `POST /v1/evaluations`, as it comes over the wire. Forms only."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from adapters_store.evaluation.gate import MIN_ROWS, DeltaOver, Gate
from server.api.members import MAX_MEMBERS, AdapterWeight
from server.api.schemas import MAX_TOP_K, Stop, check_sendable, one_of

MAX_SUBJECTS, MAX_DATASETS, MAX_METRICS = 256, 64, 16
MAX_SEED = 2**63 - 1
LIVE = 0  # the priority of requests that somebody waits for
PRIORITY = 1


def _shows(name: str) -> str:
    if not name.isprintable() or name.isspace():
        raise ValueError("must be printable, and not blank")
    return name


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_shows)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class SubjectBody(Strict):
    """What is evaluated, as requests name it; `name` is what results call it."""

    name: Name | None = None
    model: str | None = None
    adapters: list[AdapterWeight] | None = Field(None, min_length=1, max_length=MAX_MEMBERS)
    merge: dict[str, Any] | None = None


class DataSetBody(Strict):
    """Inline rows, or a kept data set, or one side of a built-in task."""

    name: Name | None = None
    rows: list[Any] | None = None
    id: str | None = None
    task: str | None = None
    split: Literal["train", "validation", "test"] = "test"

    @model_validator(mode="before")
    @classmethod
    def _is_sendable(cls, body: Any) -> Any:
        """Raise BadRequest for text that no UTF-8 can hold; rows are read by themselves."""
        for name, value in body.items() if isinstance(body, dict) else ():
            if name != "rows":
                check_sendable(name, value)
        return body


class GenerationSettings(Strict):
    max_tokens: int = Field(64, ge=1)
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = Field(None, le=MAX_TOP_K)
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: Stop = None
    seed: int | None = Field(None, ge=0, le=MAX_SEED)


class DeltaOverBody(Strict):
    subject: str
    delta: Finite = 0.0


class ConditionBody(Strict):
    """As `Gate` has it, which checks it."""

    metric: str
    task: str | None = None
    min: Finite | None = None
    min_delta_over: DeltaOverBody | None = None
    confidence: Finite = 0.95
    min_rows: int = MIN_ROWS

    def gate(self, alias: str, over: str | None) -> Gate:
        """Raises InvalidSetting, UnknownMetric. `over` is the name of the subject to beat."""
        asked = self.min_delta_over
        delta = DeltaOver(over, asked.delta) if asked is not None and over is not None else None
        return Gate(alias, self.metric, self.task, self.min, delta, self.confidence, self.min_rows)


class PromoteBody(Strict):
    """`alias` as `name@alias`; `subject` where more than one could be meant."""

    alias: str
    subject: str | None = None
    condition: ConditionBody = Field(alias="if")


AnySubject = Annotated[str | SubjectBody, one_of("a reference, or an object with adapters")]


class EvaluationBody(Strict):
    subjects: list[AnySubject] = Field(min_length=1, max_length=MAX_SUBJECTS)
    dataset: DataSetBody | None = None
    datasets: list[DataSetBody] | None = Field(None, min_length=1, max_length=MAX_DATASETS)
    metrics: list[str] = Field(min_length=1, max_length=MAX_METRICS)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    prompt_mode: Literal["raw", "chat"] = "raw"
    limit: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    confidence: Finite = 0.95
    priority: int = Field(PRIORITY, ge=LIVE, le=1000)
    reference: str | None = None
    promote: PromoteBody | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_sendable(cls, body: Any) -> Any:
        """As DataSetBody, whose part it leaves to it."""
        for name, value in body.items() if isinstance(body, dict) else ():
            if name not in ("dataset", "datasets"):
                check_sendable(name, value)
        return body
