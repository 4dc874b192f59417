"""A run's numbers of steps, its settings in Trainer's words, and where its checkpoints are.

A checkpoint holds no base weight, and is whole once it has its `trainer_state.json`, which is
written last.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, TrainingArguments

from adapters_store.training.config import TrainConfig
from adapters_store.training.failures import ConfigRefused

STATE, TRAINED = "trainer_state.json", "trained.pt"


class Schedule:
    """Numbers of steps that follow from a configuration and `num_rows`.

    Raises ConfigRefused where the run would end in its selecting phase.
    """

    def __init__(self, config: TrainConfig, num_rows: int) -> None:
        micro_batches = math.ceil(num_rows / config.batch)
        steps = math.ceil(micro_batches / config.accumulation)
        self.total = config.max_steps or math.ceil(config.epochs * steps)
        self.warmup = math.ceil(config.warmup * self.total)
        self.dense_micro_batches = self.dense_steps = 0
        if config.is_selecting:
            self.dense_micro_batches = math.ceil(config.selecting_epochs * micro_batches)
            self.dense_steps = math.ceil(config.selecting_epochs * steps)
            self._check(config)

    def _check(self, config: TrainConfig) -> None:
        if self.dense_steps >= self.total:
            among = f"{self.dense_steps} of {self.total} steps"
            raise ConfigRefused([f"selecting_epochs: {among} select, which leaves none to train"])


def arguments(config: TrainConfig, schedule: Schedule, device: torch.device) -> TrainingArguments:
    """The configuration in Trainer's words."""
    keeps_best = config.best_by != "last"
    return TrainingArguments(
        output_dir=str(checkpoints(config)),
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        max_steps=schedule.total,
        learning_rate=config.lr,
        lr_scheduler_type="linear",
        warmup_steps=schedule.warmup,
        max_grad_norm=config.clip,
        logging_steps=1,
        save_steps=config.evaluate_every if keeps_best else config.save_every,
        save_total_limit=2,
        eval_strategy="steps" if config.validation else "no",
        eval_steps=config.evaluate_every,
        eval_delay=schedule.dense_steps + 1,
        load_best_model_at_end=keeps_best,
        metric_for_best_model=f"eval_{config.best_by}" if keeps_best else None,
        greater_is_better=config.best_by == "rouge_l" if keeps_best else None,
        restore_callback_states_from_checkpoint=True,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        remove_unused_columns=False,
        report_to=[],
    )


def is_over(state: TrainerState, config: TrainConfig) -> bool:
    """Whether a run has come to its end, by its steps or by its patience."""
    best = state.best_global_step or 0
    later = [e for e in state.log_history if "eval_loss" in e and e["step"] > best]
    out_of_patience = config.patience is not None and len(later) >= config.patience
    return out_of_patience or state.global_step >= state.max_steps


def load_state(directory: Path) -> TrainerState:
    """How far the run of a checkpoint had come."""
    return TrainerState.load_from_json(str(directory / STATE))


def checkpoints(config: TrainConfig) -> Path:
    return config.output / "checkpoints"


def last_checkpoint(config: TrainConfig) -> Path | None:
    """The latest whole checkpoint of earlier runs with this output."""
    found = (path.parent for path in checkpoints(config).glob(f"checkpoint-*/{STATE}"))
    whole = [directory for directory in found if _is_whole(directory)]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def _is_whole(directory: Path) -> bool:
    try:
        json.loads((directory / STATE).read_text())
    except ValueError:
        return False
    return True


def save_trained(directory: Path, state: dict[str, Any]) -> None:
    torch.save(state, directory / TRAINED)


def load_trained(directory: Path) -> dict[str, Any]:
    """The state of what is trained."""
    state: dict[str, Any] = torch.load(directory / TRAINED, weights_only=True)
    return state
