"""A page's key changes with all that its keys and values depend on, and with nothing else."""

import pytest
from engines import request
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.composition import BASE, Composition
from server.engine.page_keys import extend_keys
from server.engine.sequence import Sequence

SQL = Composition.linear([("sha256:" + "1" * 64, 1.0)])
HALF = Composition.linear([("sha256:" + "1" * 64, 0.5)])
OTHER = Composition.linear([("sha256:" + "2" * 64, 1.0)])
PROMPT = range(12)


def keys(composition: Composition = BASE, numerics: str = "fp32", **fields: object) -> list[bytes]:
    prompt = fields.pop("prompt", PROMPT)
    sequence = Sequence.start(request("r", prompt, composition, **fields))  # type: ignore[arg-type]
    extend_keys(sequence, 3, 4, numerics)
    return sequence.page_keys


@pytest.mark.parametrize(
    "other",
    [
        keys(SQL),
        keys(HALF),
        keys(OTHER),
        keys(numerics="bf16"),
        keys(cache_salt="tenant"),
        keys(prompt=[9, *range(1, 12)]),
    ],
    ids=["adapter", "weight", "other adapter", "numerics", "salt", "token"],
)
def test_any_difference_changes_every_key(other: list[bytes]) -> None:
    assert len({*keys(), *keys(SQL), *other}) >= 6
    assert not set(keys()) & set(other)


def test_weights_and_adapters_make_different_keys() -> None:
    assert len({key for c in (BASE, SQL, HALF, OTHER) for key in keys(c)}) == 12


def test_tokens_before_the_adapter_share_the_bases_pages() -> None:
    composed = keys(SQL, adapter_from=8)
    assert composed[:2] == keys()[:2]
    assert composed[2] != keys()[2]


def test_adapter_that_starts_inside_a_page_makes_that_page_its_own() -> None:
    composed = keys(SQL, adapter_from=5)
    assert composed[0] == keys()[0]
    assert len({composed[1], keys()[1], keys(SQL)[1], keys(SQL, adapter_from=6)[1]}) == 4


def test_weight_zero_is_the_base() -> None:
    assert keys(Composition.linear([("sha256:" + "1" * 64, 0.0)])) == keys()


def test_a_later_token_changes_no_earlier_key() -> None:
    assert keys(prompt=[*range(11), 99])[:2] == keys()[:2]


@given(st.permutations([("sha256:" + "1" * 64, 0.25), ("sha256:" + "2" * 64, -1.5)]))
def test_order_of_members_changes_nothing(members: list[tuple[str, float]]) -> None:
    assert keys(Composition.linear(members)) == keys(Composition.linear(sorted(members)))


@given(st.integers(0, 3), st.integers(0, 3))
def test_keys_do_not_depend_on_when_they_are_made(first: int, second: int) -> None:
    sequence = Sequence.start(request("r", PROMPT, SQL, adapter_from=3))
    for count in (first, max(first, second), 3):
        extend_keys(sequence, count, 4, "fp32")
    assert sequence.page_keys == keys(SQL, adapter_from=3)
