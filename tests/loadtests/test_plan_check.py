"""The check of the plan's model against steps: what is compared, and what it takes to hold."""

import pytest

from loadtests.micro.decode_step import Case
from loadtests.micro.plan import CASES, FACTOR, KERNELS, Compared, Measured, compare, predict
from server.plan.devices import cpu_device
from server.plan.models import MODELS
from server.plan.workload import Quantization

DEVICE = cpu_device(bandwidth=38.4e9, flops=205e9, memory_bytes=16 << 30)
DEMO = MODELS["demo"]


def measured(factor: float) -> Measured:
    """Steps that take `factor` times as long as foretold."""
    return {name: {case: _slower(case, name, factor) for case in CASES} for name in KERNELS}


def _slower(case: Case, name: Quantization, factor: float) -> dict[str, float]:
    return {part: factor * ms for part, ms in predict(DEMO, DEVICE, case, name).items()}


@pytest.mark.parametrize(
    ("factor", "holds"),
    [
        (1.0, True),
        (0.99 * FACTOR, True),
        (1.01 / FACTOR, True),
        (1.01 * FACTOR, False),
        (0.7, False),
    ],
)
def test_the_model_holds_within_the_factor_either_way(factor: float, holds: bool) -> None:
    rows = compare(DEMO, DEVICE, measured(factor))
    assert len(rows) == len(KERNELS) * len(CASES) == 12
    assert {row.holds for row in rows} == {holds}
    assert rows[0].ratios == pytest.approx(dict.fromkeys(rows[0].ratios, factor))


def test_parts_are_the_whole_step_and_the_limit_is_below_it() -> None:
    for row in compare(DEMO, DEVICE, measured(1.0)):
        whole, *parts = (row.predicted[name] for name in ("step", "linear", "attention", "rest"))
        assert whole == pytest.approx(sum(parts))
        assert row.limit < whole


# Milliseconds of fp32 steps of the demo base on the machine that DEVICE describes, when quiet.
QUIET = {1: 23.0, 8: 33.0, 32: 65.0}


def test_quiet_steps_are_foretold_within_the_factor() -> None:
    for sequences, ms in QUIET.items():
        case = Case(sequences, 64)
        foretold = predict(DEMO, DEVICE, case, "none")
        assert Compared("none", case, {"step": ms}, {"step": foretold["step"]}, 0.0).holds
