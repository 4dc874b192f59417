"""Which of the server's threads compute on how many cores."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from servers import running_server


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def cores_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.usefixtures("two_cores")
def test_the_engine_alone_computes_on_all_cores(tiny_base: Path) -> None:
    """A thread of the web server that computed on two would slow every step by a third."""
    with running_server(tiny_base) as started:
        seen: list[int] = []
        is_done = threading.Event()

        def errand() -> None:
            seen.append(torch.get_num_threads())
            is_done.set()

        started.services.engine.between_steps(errand)
        assert is_done.wait(60)
        assert seen == [2]
        assert cores_of_a_new_thread() == 1
    assert cores_of_a_new_thread() == 2
