"""`train(model, data, config) -> SparseAdapter`: one run, begun or gone on with, to its adapter.

What is trained is in `methods.py`, how in `loop.py`. Knows no checkpoint formats of bases.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, set_seed
from transformers.integrations import TensorBoardCallback

from adapters_store.adapter import BaseIdentity, SparseAdapter
from adapters_store.canonical import canonical_json
from adapters_store.training.answers import answer_loss
from adapters_store.training.callbacks import Hooks, ProgressBar, StopSignal
from adapters_store.training.config import TrainConfig
from adapters_store.training.data import Encoded, Encoder, Row, collate, read_rows, rows_digest
from adapters_store.training.failures import Interrupted, OtherRun
from adapters_store.training.loop import AdapterTrainer, Validation
from adapters_store.training.methods import (
    Method,
    check_start,
    fixed,
    full,
    is_fixed,
    mask_of_start,
    read_start,
    selecting,
    whole_model,
)
from adapters_store.training.schedule import (
    Schedule,
    arguments,
    checkpoints,
    is_over,
    last_checkpoint,
    load_state,
    load_trained,
)
from adapters_store.training.trainable import LossOf

RUN = "run.json"
# Fields that decide nothing of a result, and places of files, whose content is told instead.
FREE = frozenset({"name", "publish", "save_every", "output"})
PLACES = frozenset({"base", "data", "validation", "start_from"})
LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class TrainData:
    """What is learnt, what is watched, and whose token ids."""

    tokenizer: Any
    rows: Sequence[Row]
    validation: Sequence[Row] = ()

    @classmethod
    def read(cls, tokenizer: Any, config: TrainConfig) -> "TrainData":
        """The files of `config`, one after the other. Raises DataRefused."""
        rows = [row for path in config.data for row in read_rows(path)]
        watched = [row for path in config.validation for row in read_rows(path)]
        chosen = random.Random(config.seed).sample(watched, len(watched))
        return cls(tokenizer, rows, chosen[: config.validation_rows])


@dataclass(frozen=True, slots=True)
class Run:
    """A run that came to its end."""

    adapter: SparseAdapter
    history: Sequence[Mapping[str, Any]]  # what was logged, of every step and evaluation
    lineage: Mapping[str, Any]  # also in the adapter's notes
    best_step: int | None = None  # of the state that was kept, None for the last


def train(
    model: Any, data: TrainData, config: TrainConfig, base: BaseIdentity | None = None
) -> SparseAdapter:
    """The adapter that `config` makes of `data`; `model` is a causal LM of transformers.

    Goes on from the last checkpoint under `config.output`, if there is one. `base` is the identity
    that the adapter is bound to; without it, that of the weights as they are loaded. Raises
    TrainingError; Interrupted after SIGTERM or SIGINT, once a checkpoint is written.
    """
    return run(model, data, config, base).adapter


def run(model: Any, data: TrainData, config: TrainConfig, base: BaseIdentity | None = None) -> Run:
    """As `train`, with all that was learnt of the run itself."""
    set_seed(config.seed)
    encoder = Encoder(
        data.tokenizer, config.prompt, config.max_prompt_tokens, config.max_answer_tokens
    )
    rows = [encoder(row) for row in data.rows]
    schedule = Schedule(config, len(rows))
    start = read_start(config.start_from) if config.start_from else None
    method = _method(model, config, schedule, start)
    try:
        known = base or method.loaded_base(config.base.resolve().name)
        if start is not None:
            check_start(start, known)
        lineage = _lineage(data, config, known, start)
        checkpoint = _prepare(config, lineage)
        if checkpoint is None:
            method.start(lambda: _calibration(method.model, rows, config))
        else:
            method.load_state_dict(load_trained(checkpoint))
        trainer = _trainer(method, rows, _watched(data, encoder), config, schedule)
        _loop(trainer, checkpoint, config)
        adapter = method.adapter(known, _notes(config, lineage))
    finally:
        method.detach()
    best = trainer.state.best_global_step if config.best_by != "last" else None
    return Run(adapter, trainer.state.log_history, lineage, best)


def _method(
    model: Any, config: TrainConfig, schedule: Schedule, start: SparseAdapter | None
) -> Method:
    if config.is_selecting:
        return selecting(model, config, schedule.dense_micro_batches)
    if is_fixed(config):
        return fixed(model, config)
    if config.method == "lora":
        from adapters_store.training.low_rank import LowRankMethod

        return LowRankMethod(model, config)
    if config.method == "mask_of_start":
        assert start is not None, "the configuration wants it"
        return mask_of_start(model, start)
    targets = whole_model(model) if config.method == "full_model" else config.targets
    return full(model, targets, start)


def _watched(data: TrainData, encoder: Encoder) -> Validation | None:
    if not data.validation:
        return None
    rows = [encoder(row) for row in data.validation]
    return Validation(data.tokenizer, rows, [row.target for row in data.validation])


def _lineage(
    data: TrainData, config: TrainConfig, base: BaseIdentity, start: SparseAdapter | None
) -> dict[str, Any]:
    """Where the adapter comes from: all that decides its values."""
    return {
        "base": base.name,
        "config": config.model_dump(mode="json", exclude=set(FREE | PLACES)),
        "data": [path.name for path in config.data],
        "rows": len(data.rows),
        "rows_digest": rows_digest(data.rows),
        "start": start.digest if start else None,
        "validation_rows": len(data.validation),
        "validation_digest": rows_digest(data.validation),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _notes(config: TrainConfig, lineage: Mapping[str, Any]) -> dict[str, str]:
    notes = {"lineage": canonical_json(lineage).decode(), "prompting": config.prompt}
    return notes | ({"task": config.name} if config.name else {})


def _prepare(config: TrainConfig, lineage: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from; OtherRun if it is of a run that differs."""
    config.output.mkdir(parents=True, exist_ok=True)
    record, checkpoint = config.output / RUN, last_checkpoint(config)
    if checkpoint is not None:
        before = json.loads(record.read_text())
        if others := sorted(_differences(before, lineage)):
            raise OtherRun(checkpoints(config), others)
    record.write_text(json.dumps(lineage, indent=1, sort_keys=True))
    return checkpoint


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Names of what is different, inside `config` and `versions` too."""
    for key in before.keys() | now.keys():
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new)
        elif old != new:
            yield key


def _calibration(model: Any, rows: Sequence[Encoded], config: TrainConfig) -> Iterable[LossOf]:
    """Losses of the first micro-batches of a shuffle."""
    order = random.Random(config.seed).sample(rows, len(rows))
    for first in range(0, len(rows), config.batch)[: config.calibration_batches]:
        batch = collate(order[first : first + config.batch])
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        yield partial(answer_loss, model, on_device)


def _trainer(
    method: Method,
    rows: Sequence[Encoded],
    watched: Validation | None,
    config: TrainConfig,
    schedule: Schedule,
) -> AdapterTrainer:
    args = arguments(config, schedule, torch.device(method.model.device))
    trainer = AdapterTrainer(method, rows, watched, config, args)
    for unwanted in (PrinterCallback, ProgressCallback):  # they print every step's entry
        trainer.remove_callback(unwanted)
    trainer.add_callback(Hooks(trainer))
    trainer.add_callback(ProgressBar())
    trainer.add_callback(TensorBoardCallback(SummaryWriter(str(config.output / "logs"))))
    if config.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    return trainer


def _loop(trainer: AdapterTrainer, checkpoint: Path | None, config: TrainConfig) -> None:
    """To the end of the run, from `checkpoint` if there is one; nothing if that is the end."""
    if checkpoint is not None and is_over(load_state(checkpoint), config):
        trainer.take_over(load_state(checkpoint))
        return
    stop = StopSignal()
    trainer.add_callback(stop)
    with stop.caught():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.requested and not is_over(trainer.state, config):
        raise Interrupted(config.output, trainer.state.global_step, trainer.state.max_steps)
