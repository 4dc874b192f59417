"""Processes that work for the examples end together, and answers are scored as they should be."""

import signal
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch

from adapters_store.adapter import BlockDelta, ElementDelta, SparseAdapter
from adapters_store.training.data import Row
from examples.processes import Processes, ProcessFailed, Stopped, do_all
from examples.scoring import add_to, scores

FOREVER = "import signal; signal.pause()"


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_process_that_fails_tells_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"status 3(?s:.*)why"):
        Processes().run(python("import sys; print('why'); sys.exit(3)"), tmp_path / "run")


def test_a_failure_stops_the_other_processes(tmp_path: Path) -> None:
    processes = Processes()
    stopped: list[str] = []

    def waits() -> None:
        try:
            processes.run(python(FOREVER), tmp_path / "forever")
        except Stopped as reason:
            stopped.append(str(reason))
            raise

    def fails() -> None:
        processes.run(python("raise SystemExit(1)"), tmp_path / "failing")

    with pytest.raises((ProcessFailed, Stopped)):
        do_all([waits, fails], processes, workers=2)
    assert len(stopped) == 1
    with pytest.raises(Stopped):
        processes.run(python("pass"), tmp_path / "later")


def test_two_processes_never_work_in_one_folder(tmp_path: Path) -> None:
    file = tmp_path / "alone"
    program = python(f"import os; open({str(file)!r}, 'x').close(); os.remove({str(file)!r})")
    threads = [Thread(target=Processes().run, args=(program, tmp_path / "run")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "run" / "process.log").read_text() == ""


def test_signals_are_as_they_were_after_the_work() -> None:
    before = signal.getsignal(signal.SIGTERM)
    do_all([lambda: None], Processes(), workers=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_adapter_is_added_to_the_weights() -> None:
    layers = [torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 2)]
    before = [layer.weight.detach().clone() for layer in layers]
    places = torch.tensor([5], dtype=torch.int32)
    element = ElementDelta(layer="0", shape=(4, 4), indices=places, values=torch.ones(1))
    block = BlockDelta(
        layer="1",
        shape=(2, 4),
        block=(2, 2),
        block_index=torch.tensor([1], dtype=torch.int32),
        values=torch.ones(1, 2, 2),
    )
    add_to(
        torch.nn.Sequential(*layers), SparseAdapter("base", {"0": "x", "1": "y"}, (element, block))
    )
    first, second = [layer.weight - old for layer, old in zip(layers, before, strict=True)]
    assert first.nonzero().tolist() == [[1, 1]]
    assert second.nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


@pytest.mark.parametrize(
    ("answer", "exact", "contained"),
    [("", 0, 0), ("Paris", 1, 1), ("It is PARIS.", 0, 1), ("paris", 0, 1), ("Rome", 0, 0)],
)
def test_scores_want_the_very_target_or_the_target_somewhere(
    answer: str, exact: int, contained: int
) -> None:
    found = scores([answer], [Row("q", "Paris")])
    assert (found["exact_match"], found["contains_answer"]) == (exact, contained)
