"""The loop: transformers' Trainer, taught answers, phases, and checkpoints of adapters alone.

Whatever is trained is a `Trained`; what that is, `methods.py` knows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerState, TrainingArguments

from adapters_store.training.answers import answer_loss, answers, mean_loss, rouge_l
from adapters_store.training.config import TrainConfig
from adapters_store.training.data import Encoded, collate
from adapters_store.training.measuring import PeakMemory, give_back
from adapters_store.training.schedule import load_trained, save_trained

LossOf = Callable[[], Tensor]


class Trained(Protocol):
    """What the loop needs of what it trains."""

    @property
    def model(self) -> Any:
        """A causal LM of transformers, with what is trained attached."""

    @property
    def phase(self) -> str:
        """A name for what is in memory now."""

    @property
    def num_bytes(self) -> int:
        """Bytes of what is trained, with masks and places, without gradients."""

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer steps, in an order that stays."""

    def before_micro_batch(self, loss_of: LossOf, optimizer: torch.optim.Optimizer) -> bool:
        """A micro-batch comes. Tells whether a phase began, in which what is trained may be less,
        in the optimizer too.
        """

    def after_micro_batch(self, loss_of: LossOf) -> None:
        """A micro-batch was computed, and the optimizer stepped if it was the last of a step."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Validation:
    """Rows to watch, and the answers they should have as texts."""

    tokenizer: Any
    rows: Sequence[Encoded]
    targets: Sequence[str]


class AdapterTrainer(Trainer):  # type: ignore[misc]  # transformers tells mypy no types
    """Minimizes the loss of answers, and keeps what is trained only."""

    def __init__(
        self,
        trained: Trained,
        rows: Sequence[Encoded],
        validation: Validation | None,
        config: TrainConfig,
        args: TrainingArguments,
    ) -> None:
        self.trained, self.config, self.validation = trained, config, validation
        self.last_batch: Mapping[str, Tensor] = {}
        self.step_began = time.perf_counter()
        optimizer = torch.optim.AdamW(
            trained.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        super().__init__(
            model=trained.model,
            args=args,
            data_collator=collate,
            train_dataset=rows,
            eval_dataset=validation.rows if validation else None,
            optimizers=(optimizer, None),
        )
        self.peak = PeakMemory(self.args.device)
        self.model_accepts_loss_kwargs = False  # a loss is its micro-batch's own mean

    def training_step(self, model: Any, inputs: Mapping[str, Tensor], *rest: Any) -> Tensor:
        """A new phase begins before the micro-batch that it is due for."""
        self.last_batch = self._prepare_inputs(inputs)
        if self.trained.before_micro_batch(self.loss_again, self.plain_optimizer()):
            give_back()
            self.peak.begin()
        loss: Tensor = super().training_step(model, inputs, *rest)
        return loss

    def compute_loss(self, model: Any, inputs: Mapping[str, Tensor], **_: Any) -> Tensor:
        return answer_loss(model, inputs)

    def loss_again(self) -> Tensor:
        """The loss of the last micro-batch, computed anew."""
        return answer_loss(self.model, self.last_batch)

    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer itself, without accelerate's wrapper."""
        wrapped: Any = self.optimizer
        inner: torch.optim.Optimizer = getattr(wrapped, "optimizer", wrapped)
        return inner

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds to a step's entry what it cost."""
        if "loss" in logs:
            logs |= {
                "phase": self.trained.phase,
                "seconds": time.perf_counter() - self.step_began,
                "peak_bytes": self.peak.bytes(),
                "state_bytes": self._state_bytes(),
            }
        super().log(logs)

    def _state_bytes(self) -> int:
        """Bytes of what is trained, of its gradients and of the optimizer's state."""
        gradients = sum(weight.nbytes for weight in self.trained.parameters())
        states = [
            entry.nbytes
            for state in self.plain_optimizer().state.values()
            for entry in state.values()
            if isinstance(entry, Tensor)
        ]
        return self.trained.num_bytes + gradients + sum(states)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss of validation's answer tokens, and Rouge-L where the best is by it."""
        assert self.validation is not None, "evaluation is off without rows"
        self.model.eval()
        rows = self.validation.rows
        metrics = {"eval_loss": mean_loss(self.model, rows, self.config.batch)}
        if self.config.best_by == "rouge_l":
            metrics["eval_rouge_l"] = self._rouge_l(self.validation)
        self.model.train()
        self.log(dict(metrics))
        told = (self.args, self.state, self.control, metrics)
        self.control: Any = self.callback_handler.on_evaluate(*told)
        return metrics

    def _rouge_l(self, validation: Validation) -> float:
        prompts = [row.prompt for row in validation.rows]
        limits = (self.config.max_answer_tokens, self.config.batch)
        texts = answers(self.model, validation.tokenizer, prompts, *limits)
        return rouge_l(zip(texts, validation.targets, strict=True))

    def take_over(self, state: TrainerState) -> None:
        """Be where a run ended that was loaded, with its best state if that is what is kept."""
        self.state = state
        if self.config.best_by != "last" and state.best_model_checkpoint is not None:
            self._load_best_model()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The adapter's state, instead of a whole model."""
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        save_trained(directory, self.trained.state_dict())

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """Nothing: the state was loaded before the optimizer was made."""

    def _load_best_model(self) -> None:
        self.trained.load_state_dict(load_trained(Path(self.state.best_model_checkpoint)))
