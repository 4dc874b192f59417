"""One request in Locust: sends it, reads its stream, fires what was measured as Locust's events.

The client is geventhttpclient, which Locust's own FastHttpUser stands on: reading a stream line by
line through it costs the generator the least (docs/performance.md has the figures).
"""

import json
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from geventhttpclient import HTTPClient
from locust import User

from loadtests.generator.answers import Answer

PATH = "/v1/completions"
CONNECT_S, SILENCE_S = 60.0, 900.0  # longest waits, for a seat and for the next byte
HTTP_OK = 200


class Asker(User):
    """A user with a connection of its own; subclasses say what it asks."""

    abstract = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert self.host is not None, "Locust knows the host"
        self._http = HTTPClient.from_url(
            self.host, connection_timeout=CONNECT_S, network_timeout=SILENCE_S
        )

    def ask(self, body: Mapping[str, Any]) -> Answer:
        """Send `body`, whose answer is a stream, and read to its end; the events are fired."""
        answer = Answer(time.perf_counter(), len(body["prompt"]), body["max_tokens"])
        try:
            self._read(body, answer)
        except (OSError, HTTPException, ValueError) as error:  # the last: what is no JSON
            answer.error = type(error).__name__
        answer.end()
        self._fire(answer)
        return answer

    def _read(self, body: Mapping[str, Any], answer: Answer) -> None:
        headers = {"Content-Type": "application/json"}
        with self._http.post(PATH, body=json.dumps(body), headers=headers) as response:
            if response.status_code != HTTP_OK:
                answer.error = f"HTTP {response.status_code}"
                response.read()
                return
            while line := response.readline(b"\n"):
                answer.read(line, time.perf_counter())

    def _fire(self, answer: Answer) -> None:
        """A failure is one failed answer, and no time of it counts."""
        if answer.error is not None:
            self._event("whole answer", 0.0, 0, RuntimeError(answer.error))
            return
        self._event("first token", answer.first_token_ms)
        for gap in answer.gaps_ms:
            self._event("between tokens", gap)
        self._event("whole answer", answer.total_ms, answer.tokens)
        self._event("tokens/s of an answer", 1e3 * answer.tokens / answer.total_ms)

    def _event(
        self, name: str, value: float, tokens: int = 0, error: Exception | None = None
    ) -> None:
        """Locust's columns: a time in ms (or a rate), and tokens where it has content sizes."""
        self.environment.events.request.fire(
            request_type="stream",
            name=name,
            response_time=value,
            response_length=tokens,
            exception=error,
            context={},
        )
