"""What a client is told when something goes wrong: one table, one error object.

Every error of the store and the engine is a row of TABLE; a test enumerates them. Errors that
exist only on the wire are defined here:

RequestError
├── BadRequest          a field that cannot be served; `param` names it
├── Unauthorized        no key, or not the server's
├── ModelNotFound       `model` (or an adapter's id) names nothing that is served
├── JobNotFound         no job has this id
├── JobCancelled        the job that a request waits for was cancelled
├── NotLoaded           what is to be unloaded was uploaded
├── UnsupportedMedia    the body's content type is not one that the route reads
├── BodyTooLarge        more bytes than the route takes
├── ClientGone          the client hung up; nobody reads the answer
└── NotReady            starting or stopping
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapters_store import errors as store
from adapters_store.evaluation import errors as scoring
from adapters_store.registry import evaluation_errors as evaluations
from server.adapters import errors as memory
from server.engine import errors as engine


class RequestError(Exception):
    """A request that cannot be served; `param` is the field at fault, where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        self.param = param
        super().__init__(message)


class BadRequest(RequestError):
    """The field `param` holds something that cannot be served."""


class Unauthorized(RequestError):
    """No API key, or not the server's."""

    def __init__(self) -> None:
        super().__init__("missing or wrong API key; send it as 'Authorization: Bearer <key>'")


class ModelNotFound(RequestError):
    """`reference` names neither the base nor an adapter."""

    def __init__(self, reference: str, param: str) -> None:
        self.reference = reference
        super().__init__(f"The model `{reference}` does not exist.", param)


class JobNotFound(RequestError):
    """No job has the id `job`."""

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(f"The job {shown(job)} does not exist.", "job")


class JobCancelled(RequestError):
    """Somebody cancelled `job` while this request waited for it."""

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(f"the job {job} was cancelled")


class NotLoaded(RequestError):
    """`name` is to be unloaded, but `uploaded` of its versions did not come by loading."""

    def __init__(self, name: str, uploaded: Sequence[str]) -> None:
        self.name, self.uploaded = name, uploaded
        super().__init__(
            f"{', '.join(uploaded)}: uploaded, not loaded; DELETE /v1/adapters/{name} removes it "
            "for good",
            "lora_name",
        )


class UnsupportedMedia(RequestError):
    """The body is `found`, the route reads `expected`."""

    def __init__(self, found: str | None, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(f"content-type must be {expected}, not {found!r}")


class BodyTooLarge(RequestError):
    """The body has more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the request body has more than {limit} bytes")


class ClientGone(RequestError):
    """The client closed the connection before its answer was ready."""

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


class NotReady(RequestError):
    """The server is starting or stopping."""

    def __init__(self) -> None:
        super().__init__("the server is starting or stopping")


class Row(NamedTuple):
    """How an exception class is shown: HTTP status, OpenAI's `type`, a stable `code`."""

    status: int
    type: str
    code: str
    param: str | None = None  # the field at fault, where the error does not know it


INVALID, NOT_FOUND, SERVER = "invalid_request_error", "not_found_error", "server_error"

TABLE: Mapping[type[Exception], Row] = {
    BadRequest: Row(400, INVALID, "bad_request"),
    engine.InvalidParameter: Row(400, INVALID, "invalid_parameter"),
    store.InvalidName: Row(400, INVALID, "invalid_name"),
    store.InvalidMerge: Row(400, INVALID, "invalid_merge"),
    scoring.RowRefused: Row(400, INVALID, "row_refused"),
    scoring.DataSetRefused: Row(400, INVALID, "dataset_refused", "dataset"),
    scoring.UnknownMetric: Row(400, INVALID, "unknown_metric", "metrics"),
    scoring.InvalidSetting: Row(400, INVALID, "invalid_setting"),
    Unauthorized: Row(401, "authentication_error", "invalid_api_key"),
    store.SignatureRefused: Row(403, "permission_error", "signature_refused", "signature"),
    ModelNotFound: Row(404, NOT_FOUND, "model_not_found"),
    store.AdapterNotFound: Row(404, NOT_FOUND, "adapter_not_found"),
    JobNotFound: Row(404, NOT_FOUND, "job_not_found"),
    evaluations.DataSetNotFound: Row(404, NOT_FOUND, "dataset_not_found", "dataset"),
    evaluations.TaskNotBuilt: Row(404, NOT_FOUND, "task_not_built", "task"),
    evaluations.EvaluationNotFound: Row(404, NOT_FOUND, "evaluation_not_found", "evaluation"),
    store.SourceNotFound: Row(404, NOT_FOUND, "source_not_found", "lora_path"),
    NotLoaded: Row(409, "conflict_error", "not_loaded"),
    store.NameConflict: Row(409, "conflict_error", "name_conflict", "name"),
    store.AdapterInUse: Row(409, "conflict_error", "adapter_in_use"),
    store.NoEarlierTarget: Row(409, "conflict_error", "no_earlier_target", "alias"),
    JobCancelled: Row(409, "conflict_error", "job_cancelled"),
    evaluations.DataSetInUse: Row(409, "conflict_error", "dataset_in_use", "dataset"),
    evaluations.EvaluationNotDone: Row(409, "conflict_error", "evaluation_not_done"),
    evaluations.EvaluationNotEnded: Row(409, "conflict_error", "evaluation_not_ended"),
    evaluations.SubjectGone: Row(409, "conflict_error", "subject_gone", "subjects"),
    evaluations.BaseChanged: Row(409, "conflict_error", "base_changed"),
    store.BaseMismatch: Row(409, "conflict_error", "base_mismatch"),
    BodyTooLarge: Row(413, INVALID, "body_too_large"),
    store.MergeTooLarge: Row(413, INVALID, "merge_too_large", "adapters"),
    store.AdapterTooLarge: Row(413, INVALID, "adapter_too_large", "file"),
    evaluations.DataSetTooLarge: Row(413, INVALID, "dataset_too_large", "file"),
    UnsupportedMedia: Row(415, INVALID, "unsupported_media_type"),
    store.AdapterRefused: Row(422, INVALID, "adapter_refused", "file"),
    store.InvalidMetadata: Row(422, INVALID, "invalid_metadata"),
    engine.QueueFull: Row(429, "rate_limit_error", "queue_full"),
    memory.LeaseQueueFull: Row(429, "rate_limit_error", "adapter_queue_full"),
    ClientGone: Row(499, INVALID, "client_closed_request"),
    engine.StepFailed: Row(500, SERVER, "step_failed"),
    scoring.ScoresRefused: Row(500, SERVER, "scores_refused"),
    store.BlobCorrupt: Row(500, SERVER, "blob_corrupt"),
    engine.EngineStopped: Row(503, SERVER, "stopping"),
    store.BlobsUnavailable: Row(503, SERVER, "blobs_unavailable"),
    store.RegistryUnavailable: Row(503, SERVER, "registry_unavailable"),
    store.SourceUnavailable: Row(503, SERVER, "source_unavailable", "lora_path"),
    NotReady: Row(503, SERVER, "not_ready"),
    memory.AdapterMemoryFull: Row(503, SERVER, "adapter_memory_full"),
}

UNEXPECTED = Row(500, SERVER, "internal_error")

MAX_MESSAGE_CHARS = 10_000
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 100


def shown(value: object) -> str:
    """A value from a request as it is repeated in a message: short, however large or deep it is."""
    return _SHOWN.repr(value)


def row_of(error: Exception) -> Row:
    """The row of the nearest class of `error`; UNEXPECTED for one that has none."""
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), UNEXPECTED)


def status_of(code: str) -> int:
    """The HTTP status of the error object with this `code`."""
    return next((row.status for row in TABLE.values() if row.code == code), UNEXPECTED.status)


def error_body(error: Exception) -> dict[str, Any]:
    """The one error object. An unexpected error's text stays in the log."""
    row = row_of(error)
    param = getattr(error, "param", None) or getattr(error, "field", None) or row.param
    body: dict[str, Any] = {
        "message": "internal error" if row is UNEXPECTED else _sendable(str(error)),
        "type": row.type,
        "param": None if param is None else _sendable(param),
        "code": row.code,
    }
    if isinstance(error, store.AdapterRefused):
        body["reasons"] = list(error.reasons)
    return {"error": body}


def _sendable(text: str) -> str:
    """What fits into an answer: a client's own text may hold halves of characters."""
    return text[:MAX_MESSAGE_CHARS].encode(errors="backslashreplace").decode()


def error_headers(error: Exception) -> dict[str, str]:
    """Headers that go with the status."""
    if isinstance(error, engine.QueueFull | memory.LeaseQueueFull):
        return {"retry-after": str(error.retry_after_s)}
    return {"www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
