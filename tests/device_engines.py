"""Small real engines over the runner of a device, and over the plain one with the same kernels."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from engines import RealEngine
from recorded_kernels import StepKernels
from torch import Tensor

from server.adapters.claims import AdapterLease
from server.adapters.fused import FusedWeights
from server.device.interface import Device
from server.engine.config import EngineConfig
from server.engine.device_runner import DeviceRunner
from server.engine.engine import Engine
from server.engine.fuser import Fuser
from server.engine.runner import ModelRunner
from server.engine.step_inputs import DecodeForm
from server.kernels.recorded import AttentionShape
from server.model.kv_cache import allocate
from server.model.phi3 import Phi3
from server.model.text import TextCodec
from server.model.weights import Weights
from server.plan.steps import spare_pages


@dataclass(frozen=True)
class Served:
    """An engine and what it runs on."""

    engine: Engine
    runner: ModelRunner
    fuser: Fuser | None


def config_of(real: RealEngine, may_fuse: bool, sizes: dict[str, Any]) -> EngineConfig:
    rope = real.checkpoint.config.rope.original_max_positions
    defaults = {"max_model_len": 120, "num_pages": 400, "page_size": 4, "rope_boundary": rope}
    return EngineConfig(**{**defaults, **sizes}, may_fuse=may_fuse)


def plain_engine(real: RealEngine, *, may_fuse: bool = False, **sizes: Any) -> Served:
    """The runner of a CPU."""
    config = config_of(real, may_fuse, sizes)
    shape = (real.checkpoint.config, config.num_pages, config.page_size)
    cache = allocate(*shape, real.dtype, "cpu")
    fuser = _fuser(real, real.model) if may_fuse else None
    eos = real.checkpoint.eos_token_ids
    runner = ModelRunner(real.model, cache, config.page_size, real.resident, eos, fuser)
    return Served(_engine(real, config, runner), runner, fuser)


def device_engine(
    real: RealEngine, device: Device, *, may_fuse: bool = False, **sizes: Any
) -> Served:
    """The runner of `device`; where that is no CPU, a model is moved there."""
    config = config_of(real, may_fuse, sizes)
    kernels = real.kernels
    assert isinstance(kernels, StepKernels)
    shape = real.checkpoint.config
    spare = spare_pages(config.max_num_seqs, config.page_size)
    form = DecodeForm(
        page_size=config.page_size,
        max_pages=-(-config.max_model_len // config.page_size),
        first_spare_page=config.num_pages,
        attention=AttentionShape(1, shape.sliding_window),
    )
    cache = allocate(shape, config.num_pages + spare, config.page_size, real.dtype, device.place)
    model = real.model if device.place.type == "cpu" else moved(real.model, device.place)
    stream = device.stream()
    fuser = _fuser(real, model) if may_fuse else None
    runner = DeviceRunner(
        model,
        kernels,
        cache,
        real.resident,
        real.checkpoint.eos_token_ids,
        fuser,
        device,
        stream,
        form,
        config.max_num_seqs,
    )
    return Served(_engine(real, config, runner), runner, fuser)


def moved(model: Phi3, place: torch.device) -> Phi3:
    return Phi3(model.config, _moved(model.weights, place), model.kernels)


def _moved(weights: Weights, place: torch.device) -> Weights:
    layers = tuple(
        replace(own, **{f.name: getattr(own, f.name).to(place) for f in fields(own)})
        for own in weights.layers
    )

    def at(tensor: Tensor) -> Tensor:
        return tensor.to(place)

    return Weights(at(weights.embed), layers, at(weights.norm), at(weights.lm_head))


def _engine(real: RealEngine, config: EngineConfig, runner: ModelRunner) -> Engine:
    eos = real.checkpoint.eos_token_ids
    return Engine(config, runner, TextCodec(real.checkpoint.tokenizer).decode, eos)


def _fuser(real: RealEngine, model: Phi3) -> Fuser:
    weights = FusedWeights(model.fusable_weights(), real.kernels)
    return Fuser(weights, real.resident, lambda journals: AdapterLease(lambda: None))
