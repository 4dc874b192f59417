"""LoRAX's merges in our words, whether or not this server knows the method."""

from typing import Any

import pytest

from server.api.dialects import Asked, translate
from server.api.schemas import CompletionBody


def merge_of(**fields: Any) -> Asked:
    merged = {"ids": ["a", "b"], **fields}
    body = CompletionBody.model_validate({"prompt": "x", "merged_adapters": merged})
    return translate(body, "base", list)


MERGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"density": 0.5}, {"method": "linear"}),
    "ties": (
        {"merge_strategy": "ties", "density": 0.5},
        {"method": "ties", "density": 0.5, "sign": "sum"},
    ),
    "ties by frequency": (
        {"merge_strategy": "ties", "density": 1, "majority_sign_method": "frequency"},
        {"method": "ties", "density": 1.0, "sign": "count"},
    ),
    "dare_linear": (
        {"merge_strategy": "dare_linear", "density": 0.5, "majority_sign_method": "frequency"},
        {"method": "dare_linear", "density": 0.5},
    ),
    "dare_ties": (
        {"merge_strategy": "dare_ties", "density": 0.5},
        {"method": "dare_ties", "density": 0.5, "sign": "sum"},
    ),
}


@pytest.mark.parametrize("case", MERGES)
def test_strategy_becomes_a_method_with_its_parameters(case: str) -> None:
    fields, expected = MERGES[case]
    asked = merge_of(**fields, weights=[2, 0.5])
    assert asked.merge == expected
    assert asked.members == (("a", 2.0), ("b", 0.5))
