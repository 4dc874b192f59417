"""The base's linear weights as its files hold them, a few rows at a time.

For reports on adapters: neither loads the model nor reads the loaded one, which may be rounded,
quantized, or fused with an adapter at the time. The files stay open: opening them takes longer than
reading a few rows.
"""

from contextlib import ExitStack

import torch
from torch import Tensor

from server.model.checkpoint import Checkpoint
from server.model.tensor_files import TensorFiles, open_tensor_files
from server.model.weights import stored_parts


class StoredRows:
    """Satisfies `adapters_store.effect.BaseWeights`. Safe for many threads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises ModelError as `load_weights` does."""
        self._parts = stored_parts(checkpoint.directory, checkpoint.config)
        self._open = ExitStack()
        self._files = self._open.enter_context(open_tensor_files(checkpoint.directory, mapped=True))

    def entries(self, layer: str, rows: slice) -> Tensor:
        """Rows `[start, stop)` of a linear layer's weight in the Phi-3 layout, as fp32."""
        return torch.cat(_pieces(self._files, self._parts[layer], rows.start, rows.stop))


def _pieces(files: TensorFiles, tensors: tuple[str, ...], start: int, stop: int) -> list[Tensor]:
    """What each of the stored tensors, laid one below the other, has of these rows."""
    pieces, first = [], 0
    for tensor in tensors:
        end = first + files.shape(tensor)[0]
        low, high = max(start, first), min(stop, end)
        if low < high:
            stored = files.file_of[tensor].get_slice(tensor)
            pieces.append(stored[low - first : high - first].float())
        first = end
    return pieces
