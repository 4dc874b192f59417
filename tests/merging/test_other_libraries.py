"""Where definitions coincide, our numbers are those of PEFT 0.21 and mergekit 0.1.5.

Where they differ, and what is done about it here (also in docs/merging.md):

* Both know no masks: their members are dense, so ours are here. Nothing of theirs divides by the
  number of masks, as `overlap_average` does.
* PEFT elects signs before it applies weights, mergekit and we after: equal weights are compared.
* PEFT keeps int(density * n) entries, mergekit and we at least one.
* DARE: PEFT and we divide by density; mergekit restores the l1 norm instead (compared without).
* mergekit's TIES and DELLA divide by the agreeing weights (`divisor: weights`), its DARE-TIES and
  Breadcrumbs-TIES by nothing (`none`); the paper, PEFT and our default by their number (`count`).
* mergekit's SCE weighs members alike when their mean squares sum to less than 1e-6, as those of
  small deltas do; ours keep their proportion. Its SLERP is of whole weights, ours of deltas.
* Random draws: every library has its own; ours replaced theirs when their numbers were made.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merge_members import LAYER
from peft.utils import merge_utils
from torch import Tensor

from adapters_store.adapter import DenseDelta
from adapters_store.merging.layer import LayerInput, merge_layer
from adapters_store.merging.table import resolve_parameters

NUMBERS = json.loads(Path(__file__).with_name("mergekit_numbers.json").read_text("utf-8"))
WEIGHTS, EQUAL = NUMBERS["weights"], [0.5, 0.5, 0.5]
SHAPE = tuple(NUMBERS["shape"])


def merged(method: str, given: dict[str, Any], weights: list[float]) -> Tensor:
    deltas = [torch.tensor(values) for values in NUMBERS["inputs"]][: len(weights)]
    inputs = [
        LayerInput(digest, weight, DenseDelta(layer=LAYER, shape=SHAPE, delta=delta))
        for digest, weight, delta in zip(NUMBERS["digests"], weights, deltas, strict=False)
    ]
    parameters = resolve_parameters(method, given)
    result = merge_layer(method, parameters, inputs, layer=LAYER, shape=SHAPE, seed=NUMBERS["seed"])
    assert result is not None
    return result.dense()


@pytest.mark.parametrize("row", NUMBERS["rows"], ids=lambda row: row["method"])
def test_numbers_are_mergekits(row: dict[str, Any]) -> None:
    weights = {"sce": [1.0, 1.0, 1.0], "slerp": [1.0, 1.0]}.get(row["method"], WEIGHTS)
    found = merged(row["method"], row["parameters"], weights)
    np.testing.assert_allclose(found, row["values"], rtol=1e-5, atol=1e-6)  # theirs sum in fp32


PEFT_RULES: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    ("linear", {}, merge_utils.task_arithmetic, {}),
    ("magnitude_prune", {"density": 0.5}, merge_utils.magnitude_prune, {"density": 0.5}),
    ("ties", {"density": 0.5}, merge_utils.ties, {"density": 0.5}),
    (
        "ties",
        {"density": 0.3, "sign": "count"},
        merge_utils.ties,
        {"density": 0.3, "majority_sign_method": "frequency"},
    ),
    ("dare_linear", {"density": 1.0}, merge_utils.dare_linear, {"density": 1.0}),
    ("dare_ties", {"density": 1.0}, merge_utils.dare_ties, {"density": 1.0}),
]


@pytest.mark.filterwarnings("ignore:The density 1.0 is greater than or equal to 1")
@pytest.mark.parametrize(("method", "ours", "rule", "theirs"), PEFT_RULES)
def test_numbers_are_pefts(
    method: str, ours: dict[str, Any], rule: Any, theirs: dict[str, Any]
) -> None:
    deltas = [torch.tensor(values) for values in NUMBERS["inputs"]]
    expected = rule(deltas, torch.tensor(EQUAL), **theirs)
    np.testing.assert_allclose(merged(method, ours, EQUAL), expected, rtol=1e-5, atol=1e-6)
