"""How a kernel of this folder is declared and launched, whichever way Triton was told to run it.

A kernel is a function, the types of its arguments, and a short list of configurations. It knows
neither who launches it nor how many processors there are. Every program takes items of work until
none are left (`items`), so a grid is as large as the device and depends on no batch; a launch
needs nothing from the host but addresses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

# Triton's names for dtypes: of a value, and of a pointer to it in a signature.
TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def compiled(function: Callable[..., Any], varying: Sequence[str] = ()) -> Any:
    """`function` as Triton's: a kernel, or a part of kernels.

    Triton compiles a kernel once more where a number is 1 or a multiple of 16, but not for those
    that are `varying`: they differ from request to request, which would wait for it.
    """
    return triton.jit(function, do_not_specialize=varying)


@dataclass(frozen=True, slots=True)
class Configuration:
    """One form in which a kernel is compiled."""

    sizes: Mapping[str, int | bool]  # constants of the kernel
    num_warps: int
    num_stages: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A function with the forms in which it may be compiled, and no others.

    `signature` has the type of every argument that is not a constant, in order, in Triton's words;
    `*x` points to activations and `*v` to a delta's values: no types of Triton's, but a form's own.
    """

    function: Any
    signature: Mapping[str, str]
    configurations: tuple[Configuration, ...]

    def launch(
        self,
        grid: tuple[int, ...],
        configuration: Configuration,
        *arguments: torch.Tensor | int | float,
        **constants: Any,
    ) -> None:
        """Run it once for every place of `grid`, with `arguments` in the signature's order."""
        assert configuration in self.configurations, "a form that nobody compiled ahead"
        self.function[grid](
            *arguments,
            **configuration.sizes,
            **constants,
            num_warps=configuration.num_warps,
            num_stages=configuration.num_stages,
            enable_fp_fusion=True,
        )


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU."""
    return bool(triton.knobs.runtime.interpret)
