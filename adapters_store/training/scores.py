"""How much each entry of a weight matters: scores, each a pure function of tensors.

`delta` is Ŵ, the dense delta in training; `gradient` is dL/dŴ at `W + Ŵ` with no mask; `weight` is
the frozen base W. All are `[out, in]`, and so is a score: larger is kept. "The paper" is
arXiv 2507.07140, section 3.1; SHiRA is arXiv 2406.13175, section 3.1 and appendix B.
"""

import torch
from torch import Tensor


def max_connection_sensitivity(delta: Tensor, gradient: Tensor) -> Tensor:
    """MCS, `Ŵ * g`, signed (the paper, eq. 2): a positive entry would lower the loss if shrunk."""
    return delta * gradient


def connection_sensitivity(delta: Tensor, gradient: Tensor) -> Tensor:
    """CS, `|Ŵ * g|` (the paper's Table 2; SNIP on the delta)."""
    return (delta * gradient).abs()


def gradient_magnitude(gradient: Tensor) -> Tensor:
    """GM, `|g|` (the paper's Table 2); of a gradient summed over batches, SHiRA's Grad."""
    return gradient.abs()


def weight_magnitude(delta: Tensor) -> Tensor:
    """WM, `|Ŵ|` of the delta (the paper's Table 2)."""
    return delta.abs()


def base_magnitude(weight: Tensor) -> Tensor:
    """SHiRA's WM, `|W|` of the base."""
    return weight.abs()


def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """SHiRA's SNIP, `|W * g|`, the gradient summed over a few batches."""
    return (weight * gradient).abs()


def uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """SHiRA's Rand: fp64 draws of [0, 1), so that the top k are k random places. On the CPU."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def structure(shape: tuple[int, int], count: int) -> Tensor:
    """SHiRA's Struct: the diagonal, then every f-th row; the top `count` are that mask.

    f gives as few rows as, with the diagonal, hold `count` entries, evenly spaced. The diagonal of
    a matrix that is not square has min(out, in) entries. The last row is cut to an exact count.
    """
    rows, columns = shape
    fitting = (f for f in range(1, rows + 1) if _held(rows, columns, f) >= count)
    stride = min(fitting, key=lambda f: (-(-rows // f), f))
    score = torch.zeros(shape, dtype=torch.float64)
    score[::stride] = 1.0
    score.fill_diagonal_(2.0)
    return score


def _held(rows: int, columns: int, stride: int) -> int:
    """Entries of every `stride`-th row and of the diagonal."""
    kept, diagonal = -(-rows // stride), min(rows, columns)
    return kept * columns + diagonal - -(-diagonal // stride)
