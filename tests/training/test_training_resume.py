"""Going on after SIGTERM: the same adapter, bit for bit, wherever the signal came."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_runs import run_small, small_config, write_rows

from adapters_store.training.config import TrainConfig
from adapters_store.training.failures import Interrupted
from adapters_store.training.loop import AdapterTrainer
from adapters_store.training.schedule import last_checkpoint
from adapters_store.training.train import Run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing."),
]


def interrupt(config: TrainConfig, at: int, patch: pytest.MonkeyPatch) -> int:
    """Runs until a signal in micro-batch `at`; the step it stopped after."""
    original, seen = AdapterTrainer.compute_loss, [0]

    def signalled(trainer: AdapterTrainer, *args: Any, **rest: Any) -> Any:
        seen[0] += 1
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer, *args, **rest)

    with patch.context() as patched:
        patched.setattr(AdapterTrainer, "compute_loss", signalled)
        with pytest.raises(Interrupted) as stopped:
            run_small(config)
    return stopped.value.step


def values(run: Run) -> list[tuple[float, float]]:
    return [(entry["loss"], entry["grad_norm"]) for entry in run.history if "loss" in entry]


@pytest.mark.parametrize("at", [1, 4, 5, 6, 9, 13])
def test_interrupted_run_ends_in_the_same_adapter(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = run_small(small_config(tiny_base, tmp_path, output=tmp_path / "whole"))
    config = small_config(tiny_base, tmp_path)
    step = interrupt(config, at, monkeypatch)
    assert step == {1: 1, 4: 2, 5: 3, 6: 4, 9: 5, 13: 8}[at]
    resumed = run_small(config)
    assert resumed.adapter.digest == whole.adapter.digest
    assert values(resumed) == values(whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "grow_and_drop"},
        {"one_shot": True},
        {"selecting_epochs": 0.5, "reselect_every": 1},
        {"method": "cs", "form": "16x16", "keep_ratio": 0.2},
        {"method": "random"},
        {"method": "lora"},
        {"method": "full_targets"},
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [3, 8])
def test_every_method_goes_on(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    at: int,
) -> None:
    whole = run_small(small_config(tiny_base, tmp_path, output=tmp_path / "whole", **changes))
    config = small_config(tiny_base, tmp_path, **changes)
    interrupt(config, at, monkeypatch)
    assert run_small(config).adapter.digest == whole.adapter.digest


@pytest.mark.parametrize("after", [1, 2])
def test_patience_and_best_state_survive(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    watched = write_rows(tmp_path / "watched.jsonl")
    watching = {"validation": [watched], "evaluate_every": 1, "best_by": "loss", "patience": 3}
    settings = {"lr": 2.0, "clip": 0, "epochs": 9, **watching}
    whole = run_small(small_config(tiny_base, tmp_path, "snip", output=tmp_path / "w", **settings))
    config = small_config(tiny_base, tmp_path, "snip", **settings)
    assert whole.best_step is not None
    epochs, rest = divmod(whole.best_step + after, 3)  # of three steps and five micro-batches
    interrupt(config, 5 * epochs + 2 * rest, monkeypatch)
    resumed = run_small(config)
    assert resumed.best_step == whole.best_step
    assert values(resumed) == values(whole)
    assert resumed.adapter.digest == whole.adapter.digest


def test_half_written_checkpoint_is_passed_over(tiny_base: Path, tmp_path: Path) -> None:
    config = small_config(tiny_base, tmp_path, "snip", save_every=4)
    whole = run_small(config)
    directory = config.output / "checkpoints"
    (directory / "checkpoint-9" / "trainer_state.json").write_text('{"global')
    (directory / "checkpoint-12").mkdir()
    assert last_checkpoint(config) == directory / "checkpoint-8"
    assert run_small(config).adapter.digest == whole.adapter.digest
    shutil.rmtree(directory)
    assert last_checkpoint(config) is None


def test_process_that_is_terminated_goes_on(tiny_base: Path, tmp_path: Path) -> None:
    whole = run_small(small_config(tiny_base, tmp_path, output=tmp_path / "whole"))
    config = small_config(tiny_base, tmp_path)
    file = tmp_path / "run.json"
    file.write_text(config.model_dump_json())
    script = Path(__file__).with_name("interrupted_run.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(file), "7"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 143, ended.stderr
    assert "stopped after step 4 of 9" in ended.stderr
    assert run_small(config).adapter.digest == whole.adapter.digest
