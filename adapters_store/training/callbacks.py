"""What happens between steps: selection, signals, progress.

Each callback owns one of these; the loop itself is transformers'.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from adapters_store.training.loop import AdapterTrainer
from adapters_store.training.measuring import give_back

ENDING = (signal.SIGTERM, signal.SIGINT)


class Hooks(TrainerCallback):  # type: ignore[misc]  # transformers tells mypy no types
    """Tells what is trained of every micro-batch; evaluates the last step; starts the clocks."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        give_back()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.peak.begin()
        self.trainer.step_began = time.perf_counter()

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        self.trainer.trained.after_micro_batch(self.trainer.loss_again)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.trained.after_micro_batch(self.trainer.loss_again)
        if state.global_step == state.max_steps and self.trainer.validation is not None:
            control.should_evaluate = True


class StopSignal(TrainerCallback):  # type: ignore[misc]
    """Ends training at the end of the step in which a signal came, with a checkpoint."""

    def __init__(self) -> None:
        self.requested = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.requested:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within, SIGTERM and SIGINT ask for the end. Only a main thread can listen to them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._request) for each in ENDING}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _request(self, *_: Any) -> None:
        self.requested = True


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """One line on a terminal: steps, phase and loss."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, disable=None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.bar.set_postfix(phase=logs["phase"], loss=f"{logs['loss']:.3f}", refresh=False)
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.bar.close()
