"""Which kernel does a part of a product, in which of its forms, for how many tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from server.kernels.gpu.compiled import TYPES, Configuration, Kernel, is_interpreted
from server.kernels.gpu.operands import EDGE, Kind, Work
from server.kernels.gpu.panels import MULTIPLY_PANELS
from server.kernels.gpu.runs import MULTIPLY_ENTRIES, MULTIPLY_RUNS
from server.kernels.gpu.slices import LANES
from server.kernels.gpu.sums import SPREAD_BIAS
from server.kernels.gpu.tiles import MULTIPLY_TILES

KERNELS = {
    Work.ENTRIES: MULTIPLY_ENTRIES,
    Work.RUNS: MULTIPLY_RUNS,
    Work.TILES: MULTIPLY_TILES,
    Work.LOW_RANK_A: MULTIPLY_PANELS,
    Work.LOW_RANK_B: MULTIPLY_PANELS,
    Work.DENSE: MULTIPLY_PANELS,
    Work.BIAS: SPREAD_BIAS,
}
ORDER = {work: place for place, work in enumerate(Work)}
ROWS_OF_ITEM = {Work.ENTRIES: LANES, Work.RUNS: LANES, Work.TILES: EDGE}  # else, a panel's


@dataclass(frozen=True, slots=True)
class Form:
    """One of the kernels of deltas as it is compiled for one dtype of values."""

    work: Work
    dtype: torch.dtype
    number: int  # of the configuration

    @property
    def kernel(self) -> Kernel:
        return KERNELS[self.work]

    @property
    def configuration(self) -> Configuration:
        return self.kernel.configurations[self.number]

    @property
    def num_tokens(self) -> int:
        """Pairs of a segment that a job is for, at most."""
        return self.configuration.sizes["TOKENS"]

    @property
    def constants(self) -> dict[str, Any]:
        """The kernel's constants that are no sizes."""
        constants: dict[str, Any] = {"VALUES": TYPES[self.dtype]}
        if self.kernel in (MULTIPLY_TILES, MULTIPLY_PANELS):
            constants["INTERPRETED"] = is_interpreted()
        if self.kernel is MULTIPLY_PANELS:
            constants["BY_TOKEN"] = self.work is not Work.LOW_RANK_B
        return constants

    def num_items(self, num_rows: int) -> int:
        """Items of work that each job on `num_rows` rows is."""
        rows = ROWS_OF_ITEM.get(self.work) or self.configuration.sizes["PANEL_ROWS"]
        return -(-num_rows // rows)


def form_of(kind: Kind, num_pairs: int) -> Form:
    """The form that multiplies a part for a segment: the smallest that takes it in one job."""
    configurations = KERNELS[kind.work].configurations
    last = len(configurations) - 1
    fitting = (n for n, c in enumerate(configurations) if c.sizes["TOKENS"] >= num_pairs)
    return Form(*kind, next(fitting, last))


def forms_of(kinds: Iterable[Kind], num_pairs: int) -> tuple[Form, ...]:
    """Every form that may multiply parts of `kinds` for segments of at most `num_pairs`.

    In the order in which they must run: first factors come before second ones.
    """
    ordered = sorted(kinds, key=lambda kind: (ORDER[kind.work], str(kind.dtype)))
    return tuple(
        Form(*kind, number)
        for kind in ordered
        for number in range(form_of(kind, num_pairs).number + 1)
    )
