"""How near kernels come to a device's limits, and what each of them takes besides.

A CPU's numbers are of the kernels of `server/kernels/cpu`: fitted to decode steps of the demo base,
as docs/planning.md tells. A GPU's kernels are taken to reach its limits, for none was at hand: what
is foretold there is a limit.
"""

from dataclasses import dataclass

US = 1e-6


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of a device's limits, more than 0 and at most 1, and seconds beside them."""

    bandwidth: float
    int8_bandwidth: float  # of weights that are quantized
    products: float
    int8_products: float
    vectors: float
    gathers: float
    overlaps: bool  # whether a kernel reads and computes at once, or one after the other
    start_seconds: float  # of every kernel, with the Python around it
    row_seconds: float  # of every token of a kernel whose tokens are handled one by one
    choice_seconds: float  # of every token that is chosen


LIMIT = Efficiency(
    bandwidth=1.0,
    int8_bandwidth=1.0,
    products=1.0,
    int8_products=1.0,
    vectors=1.0,
    gathers=1.0,
    overlaps=True,
    start_seconds=0.0,
    row_seconds=0.0,
    choice_seconds=0.0,
)
CPU_KERNELS = Efficiency(
    bandwidth=0.95,
    int8_bandwidth=0.68,
    products=1.0,
    int8_products=0.9,
    vectors=1.0,
    gathers=0.5,
    overlaps=False,
    start_seconds=15 * US,
    row_seconds=1 * US,
    choice_seconds=40 * US,
)
