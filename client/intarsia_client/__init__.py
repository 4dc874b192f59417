"""The Intarsia client: text, adapters and errors of an Intarsia server, over HTTP.

Example:
    with Client("http://127.0.0.1:8000") as client:
        print(client.chat("What is the capital of France?", model="sql@3").text)
"""

from intarsia_client.async_client import AsyncClient
from intarsia_client.client import Client
from intarsia_client.diagnosis import Bounds, Diagnosis, Finding, Overlap
from intarsia_client.errors import (
    AdapterRefused,
    APIError,
    BadRequest,
    Conflict,
    ConnectionFailed,
    Forbidden,
    IntarsiaError,
    InvalidArgument,
    NotFound,
    RateLimited,
    ServerError,
    Timeout,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    UnsupportedMedia,
)
from intarsia_client.evaluation import (
    DataSet,
    Evaluation,
    EvaluationOptions,
    EvaluationRow,
    ProgressReader,
    RowPage,
)
from intarsia_client.generation import ChatCompletion, Choice, Chunk, Completion, Served, Usage
from intarsia_client.jobs import Job, MergeMethod, MergeParameter
from intarsia_client.options import AdapterFilter, ChatOptions, CompletionOptions
from intarsia_client.types import (
    Adapter,
    AdapterEffect,
    AdapterName,
    AdapterPage,
    AdapterWeight,
    Deleted,
    LayerEffect,
    Model,
    PartEffect,
    ServerVersion,
)

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "Adapter",
    "AdapterEffect",
    "AdapterFilter",
    "AdapterName",
    "AdapterPage",
    "AdapterRefused",
    "AdapterWeight",
    "AsyncClient",
    "BadRequest",
    "Bounds",
    "ChatCompletion",
    "ChatOptions",
    "Choice",
    "Chunk",
    "Client",
    "Completion",
    "CompletionOptions",
    "Conflict",
    "ConnectionFailed",
    "DataSet",
    "Deleted",
    "Diagnosis",
    "Evaluation",
    "EvaluationOptions",
    "EvaluationRow",
    "Finding",
    "Forbidden",
    "IntarsiaError",
    "InvalidArgument",
    "Job",
    "LayerEffect",
    "MergeMethod",
    "MergeParameter",
    "Model",
    "NotFound",
    "Overlap",
    "PartEffect",
    "ProgressReader",
    "RateLimited",
    "RowPage",
    "Served",
    "ServerError",
    "ServerVersion",
    "Timeout",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMedia",
    "Usage",
    "__version__",
]
