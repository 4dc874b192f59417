"""A checkpoint made ready to compute."""

import torch

from server.kernels.interface import Kernels
from server.model.checkpoint import Checkpoint
from server.model.phi3 import Phi3
from server.model.weights import load_weights


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str, kernels: Kernels
) -> Phi3:
    """The model of `checkpoint`, its weights in `dtype` on `device`. Raises ModelError."""
    weights = load_weights(checkpoint.directory, checkpoint.config, dtype, device, kernels.pack)
    return Phi3(checkpoint.config, weights, kernels)
