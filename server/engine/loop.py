"""The thread that steps the engine, and the hand-over between it and asyncio.

Commands go in through a queue; outputs come back through one asyncio queue per request. A request's
adapters are let go in the same breath as its end.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from server.adapters.claims import AdapterLease
from server.engine.engine import Engine, SequenceOutput
from server.engine.errors import EngineStopped
from server.engine.sequence import GenerationRequest
from server.engine.stats import EngineStats

logger = logging.getLogger(__name__)

_Outputs = asyncio.Queue[SequenceOutput | Exception]  # of one request


@dataclass(frozen=True, slots=True)
class _Ticket:
    """Where a request's outputs go, and what it holds."""

    loop: asyncio.AbstractEventLoop
    outputs: _Outputs
    lease: AdapterLease

    def close(self, output: SequenceOutput | Exception) -> None:
        """Deliver the last output and let the adapters go."""
        self.lease.release()
        _hand_over([(self, output)])


_Delivery = tuple[_Ticket, SequenceOutput | Exception]


def _hand_over(deliveries: Sequence[_Delivery]) -> None:
    """Put outputs where their consumers wait; a consumer whose loop is gone needs none.

    A loop is woken once for all of its outputs: each waking may take the interpreter's lock.
    """
    for loop in dict.fromkeys(ticket.loop for ticket, _ in deliveries):
        own = [(ticket.outputs, output) for ticket, output in deliveries if ticket.loop is loop]
        try:
            loop.call_soon_threadsafe(_put_all, own)
        except RuntimeError:
            if not loop.is_closed():
                raise


def _put_all(
    outputs: Sequence[tuple[_Outputs, SequenceOutput | Exception]],
) -> None:
    for waiting, output in outputs:
        waiting.put_nowait(output)


@dataclass(frozen=True, slots=True)
class _Submission:
    """A command to the engine's thread: take up a request."""

    request: GenerationRequest
    ticket: _Ticket


@dataclass(frozen=True, slots=True)
class _Abort:
    """A command to the engine's thread: end a request if it is still live."""

    request_id: str


@dataclass(frozen=True, slots=True)
class _Errand:
    """A command to the engine's thread: something to be done between two steps."""

    run: Callable[[], None]


_Command = _Submission | _Abort | _Errand | None  # None only wakes the thread


class OutputStream:
    """The outputs of one request, as an async iterator. `close` aborts what has not ended.

    Iterating raises QueueFull, EngineStopped, or the error that ended the request.
    """

    def __init__(self, outputs: _Outputs, abort: Callable[[], None]) -> None:
        self._outputs = outputs
        self._abort = abort
        self._is_over = False

    def __aiter__(self) -> "OutputStream":
        return self

    async def __anext__(self) -> SequenceOutput:
        if self._is_over:
            raise StopAsyncIteration
        output = await self._outputs.get()
        self._is_over = isinstance(output, Exception) or output.finish_reason is not None
        return _raise_error(output)

    def abort(self) -> None:
        """End the request before its time; its last output still comes, and says so."""
        if not self._is_over:
            self._abort()

    def close(self) -> None:
        """Let the request go; nothing more is read."""
        if not self._is_over:
            self._is_over = True
            self._abort()


class EngineLoop:
    """Owns the engine's thread. Everything public here may be called from the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._tickets: dict[str, _Ticket] = {}  # only the engine's thread touches these
        self._ready: list[_Delivery] = []  # handed over while the next step computes
        self._is_stopping = threading.Event()
        self._submitting = threading.Lock()  # no request slips in while the thread ends
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Return once the thread has taken torch's number of threads, which stays its own."""
        self._thread.start()
        self._has_begun.wait()

    def stop(self) -> None:
        """End the thread, and every request with EngineStopped, those that come later too."""
        with self._submitting:
            self._is_stopping.set()
        self._commands.put(None)
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping.is_set()

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def submit(self, request: GenerationRequest, lease: AdapterLease) -> OutputStream:
        """Queue `request`; takes over `lease`, which is released with the request's end.

        Raises EngineStopped. To be called from the event loop that reads the stream.
        """
        ticket = _Ticket(asyncio.get_running_loop(), asyncio.Queue(), lease)
        with self._submitting:
            if not self.is_running:
                lease.release()
                raise EngineStopped
            self._commands.put(_Submission(request, ticket))
        return OutputStream(ticket.outputs, lambda: self.abort(request.request_id))

    def abort(self, request_id: str) -> None:
        """End a request if it is still live."""
        self._commands.put(_Abort(request_id))

    def between_steps(self, errand: Callable[[], None]) -> None:
        """Have something done on the engine's thread, soon; it must not raise."""
        self._commands.put(_Errand(errand))

    # The engine's thread

    def _run(self) -> None:
        torch.get_num_threads()  # a thread takes what is told at its first call
        self._has_begun.set()
        try:
            while not self._is_stopping.is_set():
                for command in self._take_commands(wait=not self._engine.has_work):
                    self._obey(command)
                if self._engine.has_work:
                    outputs = self._engine.step(meanwhile=self._hand_over_ready)
                    self._hand_over_ready()
                    self._deliver(outputs)
        except Exception:
            logger.exception("the engine stopped: this is a defect")
        finally:
            self._close()

    def _take_commands(self, *, wait: bool) -> Iterator[_Command]:
        """Every command that is there; with `wait`, at least one."""
        if wait:
            self._hand_over_ready()
        while wait or not self._commands.empty():
            yield self._commands.get()
            wait = False

    def _obey(self, command: _Command) -> None:
        match command:
            case _Submission(request, ticket):
                self._accept(request, ticket)
            case _Abort(request_id):
                if (output := self._engine.abort(request_id)) is not None:
                    self._deliver([output])
            case _Errand(run):
                run()

    def _accept(self, request: GenerationRequest, ticket: _Ticket) -> None:
        try:
            self._engine.add(request)
        except Exception as error:
            ticket.close(error)
        else:
            self._tickets[request.request_id] = ticket

    def _deliver(self, outputs: Iterable[SequenceOutput]) -> None:
        """Have outputs handed over as soon as this thread needs the interpreter no more.

        Else whoever is woken by them would take it, and the next step begin later.
        """
        self._ready += [self._delivery(output) for output in outputs]

    def _hand_over_ready(self) -> None:
        ready, self._ready = self._ready, []
        _hand_over(ready)

    def _delivery(self, output: SequenceOutput) -> _Delivery:
        """Whose an output is. With the last one, adapters are let go."""
        if output.finish_reason is None:
            return self._tickets[output.request_id], output
        ticket = self._tickets.pop(output.request_id)
        ticket.lease.release()
        return ticket, output

    def _close(self) -> None:
        """Nobody waits for an engine that is gone. Asks nothing of it: it may be broken."""
        with self._submitting:
            self._is_stopping.set()
        self._hand_over_ready()
        for command in self._take_commands(wait=False):
            if isinstance(command, _Submission):
                command.ticket.close(EngineStopped())
        for ticket in self._tickets.values():
            ticket.close(EngineStopped())
        self._tickets.clear()


def _raise_error(output: SequenceOutput | Exception) -> SequenceOutput:
    """The output, unless it is or carries an error."""
    if isinstance(output, Exception):
        raise output
    if output.error is not None:
        raise output.error
    return output
