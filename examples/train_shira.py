"""Train one example adapter with PEFT's SHiRA on the demo base, and convert it to our format.

    python -m examples.train_shira date-iso

Killed and started again, it goes on from its last save under `data/examples/<task>/`.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftModel,
    ShiraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from tqdm import trange
from transformers import AutoTokenizer, Phi3ForCausalLM

from examples.batches import answer_loss, make_batch
from examples.publish import publish
from examples.shira_mask import snip_mask_fn
from examples.tasks import TASKS, Row, load
from server.model.demo_base import ensure_demo_base

TARGET = "qkv_proj"
DATA_DIR = Path("data")
STEPS_PER_SAVE = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Everything that decides the result, beside the rows and the base."""

    steps: int
    learning_rate: float = 5e-3  # the highest: linear warm-up, then linear decay
    batch_size: int = 8
    warmup_steps: int = 10
    r: int = 4  # r * (in + out) entries per layer: 1.1 % of the demo base's qkv_proj
    calibration_batches: int = 4
    seed: int = 0

    def batch_rows(self, rows: Sequence[Row], step: int) -> list[Row]:
        """The rows of `step`: each epoch is a new shuffle, decided by seed and epoch alone."""
        epoch, place = divmod(step, len(rows) // self.batch_size)
        order = random.Random(f"{self.seed}/{epoch}").sample(range(len(rows)), len(rows))
        first = place * self.batch_size
        return [rows[i] for i in order[first : first + self.batch_size]]

    def learning_rate_at(self, step: int) -> float:
        warmup = (step + 1) / self.warmup_steps
        decay = (self.steps - step) / (self.steps - self.warmup_steps)
        return self.learning_rate * min(1.0, warmup, decay)


TRAININGS = {
    "sentiment-yelp": Training(steps=150),
    "date-iso": Training(steps=100),
    "number-words": Training(steps=300),
    "verb-forms": Training(steps=300),
}


@dataclass
class Trainer:
    """An adapter in training: PEFT's model, its optimizer and how far they are."""

    training: Training
    rows: Sequence[Row]
    tokenizer: Any
    adapted: PeftModel
    step: int = 0
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        weights = [weight for weight in self.adapted.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, weight_decay=0.0)

    def advance(self) -> float:
        """One step; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate_at(self.step)
        batch = make_batch(self.tokenizer, self.training.batch_rows(self.rows, self.step))
        loss = answer_loss(self.adapted.get_base_model(), batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def save(self, path: Path) -> None:
        """Put everything that a later process needs into `path`, whole or not at all."""
        partial = path.with_suffix(".partial")
        state = {
            "training": asdict(self.training),
            "step": self.step,
            "adapter": get_peft_model_state_dict(self.adapted),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from `path` if it is there; ValueError if it is of another training."""
        if not path.exists():
            return
        state = torch.load(path)
        if state["training"] != asdict(self.training):
            raise ValueError(f"{path} is of another training, {state['training']}: remove it")
        set_peft_model_state_dict(self.adapted, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def new_trainer(base: Path, rows: Sequence[Row], training: Training) -> Trainer:
    """PEFT's SHiRA on every qkv_proj, its mask chosen by SNIP on the first batches of rows."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = Phi3ForCausalLM.from_pretrained(base)
    calibration = [
        make_batch(tokenizer, training.batch_rows(rows, step))
        for step in range(training.calibration_batches)
    ]
    config = ShiraConfig(r=training.r, target_modules=[TARGET], task_type="CAUSAL_LM")
    config.mask_fn = snip_mask_fn(model, calibration, TARGET)
    return Trainer(training, rows, tokenizer, get_peft_model(model, config))


def train(trainer: Trainer, progress: Path) -> None:
    """Train to the last step, from the save in `progress` if there is one."""
    trainer.resume(progress)
    last, mean = trainer.training.steps, 0.0
    bar = trange(trainer.step, last, initial=trainer.step, total=last)
    for _ in bar:
        loss = trainer.advance()
        mean = 0.9 * mean + 0.1 * loss if mean else loss
        bar.set_postfix(loss=f"{mean:.3f}")
        if trainer.step % STEPS_PER_SAVE == 0 or trainer.step == last:
            trainer.save(progress)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train one example adapter.")
    parser.add_argument("name", choices=TASKS)
    name = parser.parse_args().name
    folder = DATA_DIR / "examples" / name
    folder.mkdir(parents=True, exist_ok=True)
    base = ensure_demo_base(DATA_DIR)
    trainer = new_trainer(base, load(name).train, TRAININGS[name])
    train(trainer, folder / "progress.pt")
    trainer.adapted.save_pretrained(folder / "peft")
    publish(name, folder / "peft", base, asdict(TRAININGS[name]))


if __name__ == "__main__":
    main()
