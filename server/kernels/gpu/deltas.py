"""The launches by which deltas are added to a linear layer's fp32 product. Knows no weights.

Every launch has the same grid, and takes its items from device memory: what it does depends on the
numbers there, and which launches there are on the forms alone. So they can be recorded once.
"""

from dataclasses import dataclass

from torch import Tensor

from server.kernels.gpu.compiled import is_interpreted
from server.kernels.gpu.forms import Form
from server.kernels.gpu.operands import Work
from server.kernels.gpu.sums import ADD_PRODUCTS


@dataclass(frozen=True, slots=True, eq=False)
class LayerWork:
    """A step's work in one layer, in device memory."""

    forms: tuple[Form, ...]  # in the order in which they must run
    tokens: Tensor  # the other tensors: as in `Regions`, of this layer
    starts: Tensor
    sums: Tensor
    slots: Tensor
    jobs: Tensor
    launches: Tensor
    parts: Tensor
    inner: Tensor  # [numbers] fp32, what first factors leave for second ones
    products: Tensor  # [numbers] fp32, what every slot makes of every of its pairs


@dataclass(frozen=True, slots=True)
class DeltaProducts:
    """The kernels of deltas on one device."""

    num_programs: int  # of every grid that takes items from a list

    def make(self, x: Tensor, work: LayerWork) -> None:
        """Fill `work.products` from the activations `x [T, in]`."""
        for form, launch in zip(work.forms, work.launches, strict=True):
            form.kernel.launch(
                (self.num_programs,),
                form.configuration,
                work.inner if form.work is Work.LOW_RANK_A else work.products,
                work.inner if form.work is Work.LOW_RANK_B else x,
                work.tokens,
                work.parts,
                work.slots,
                work.jobs,
                launch,
                **form.constants,
            )

    def add(self, y: Tensor, base: Tensor, work: LayerWork, coefficients: Tensor) -> None:
        """Fill `y [T, out]`: `base`, in fp32, plus every product times its pair's coefficient.

        Rounded once.
        """
        num_tokens, width = base.shape
        (configuration,) = ADD_PRODUCTS.configurations
        grid = (num_tokens, -(-width // configuration.sizes["BLOCK"]))
        numbers = (work.starts, work.sums, work.parts, coefficients)
        arguments = (y, base, work.products, *numbers, width)
        if num_tokens:
            ADD_PRODUCTS.launch(grid, configuration, *arguments, INTERPRETED=is_interpreted())


def scratch_size(num_inner: int, num_products: int, width: int) -> int:
    """fp32 numbers of a scratch that `parted` takes."""
    return _inner_size(num_inner) + num_products * width


def parted(scratch: Tensor, num_inner: int) -> tuple[Tensor, Tensor]:
    """`inner` and `products` in a `scratch` of fp32 numbers."""
    inner, products = scratch.tensor_split([_inner_size(num_inner)])
    return inner, products


def _inner_size(num_inner: int) -> int:
    return -(-num_inner // 4) * 4  # products begin at 16 bytes
