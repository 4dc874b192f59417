"""A GPU by CUDA: torch's own streams, events and graphs, under the names of `interface.py`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from server.device.interface import Event, Memory, Recording, Stream


class CudaDevice:
    """The GPU at `place`. All of its recordings share one pool, so no two may run at a time."""

    is_gpu = True

    def __init__(self, name: str, place: torch.device) -> None:
        self.name = name
        self.place = place
        self._pool: Any = None

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info(self.place)
        return Memory(total=total, free=free)

    def stream(self) -> Stream:
        return _CudaStream(torch.cuda.Stream(self.place))

    def usual(self) -> Stream:
        return _CudaStream(torch.cuda.default_stream(self.place))

    def pinned(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype, pin_memory=True)

    def record(self, work: Callable[[], None]) -> Recording:
        work()  # compiles kernels and makes libraries' workspaces, which a graph cannot
        stream = torch.cuda.current_stream(self.place)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Uploads in other threads may ask for memory meanwhile, which would end a global capture.
        mode = "thread_local"
        with torch.cuda.graph(graph, self._pool, stream, capture_error_mode=mode):
            work()
        self._pool = graph.pool()
        return graph

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.place)


class _CudaStream:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def use(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def mark(self) -> Event:
        return _CudaEvent(self._stream.record_event())

    def wait_for(self, event: Event) -> None:
        assert isinstance(event, _CudaEvent), "an event of another device"
        self._stream.wait_event(event.event)


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def wait(self) -> None:
        self.event.synchronize()
