"""Numbers, names and texts as a report shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intarsia_client.report.measures import MEASURES, measure_of, show_p_value
from intarsia_client.report.text import printable, shortened

from adapters_store.evaluation.metrics import METRICS


def test_client_knows_every_metric_as_the_server_has_it() -> None:
    known = {name: (each.unit, each.higher_is_better) for name, each in MEASURES.items()}
    assert known == {
        name: (each.scale.unit, each.higher_is_better) for name, each in METRICS.items()
    }


@pytest.mark.parametrize(
    ("metric", "value", "shown", "as_delta"),
    [
        ("f1", 0.0, "0.0", "0.0"),
        ("f1", -0.04, "0.0", "0.0"),
        ("f1", 0.04, "0.0", "0.0"),
        ("f1", 99.96, "100.0", "+100.0"),
        ("f1", -3.25, "\u22123.2", "\u22123.2"),
        ("loss", 0.0004, "0.000", "0.000"),
        ("loss", 1.23456, "1.235", "+1.235"),
        ("perplexity", 99_999.0, "99999.00", "+99999.00"),
        ("perplexity", 100_000.0, "1.0e05", "+1.0e05"),
        ("perplexity", 1.0142320547350045e304, "1.0e304", "+1.0e304"),
        ("perplexity", -1.0142320547350045e304, "\u22121.0e304", "\u22121.0e304"),
    ],
)
def test_numbers_are_rounded_and_signed(
    metric: str, value: float, shown: str, as_delta: str
) -> None:
    assert measure_of(metric).show(value) == shown
    assert measure_of(metric).show_delta(value) == as_delta


@pytest.mark.parametrize(
    ("p_value", "shown"), [(0.00001, "p < 0.0001"), (1 / 2001, "p = 0.0005"), (1.0, "p = 1.0000")]
)
def test_p_values_are_never_shown_as_nothing(p_value: float, shown: str) -> None:
    assert show_p_value(p_value) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_shown(text: str) -> None:
    shown = printable(text)
    assert shown.encode().decode() == shown
    assert all(char in "\n\t" or ord(char) >= 32 for char in shown)
    assert len(shown) == len(text)
    assert printable(shown) == shown
    assert not {"\u202e", "\u2066"} & {*shown}


@given(st.text(st.characters(exclude_categories=())), st.integers(3, 40))
def test_shortened_names_fit(name: str, columns: int) -> None:
    shown = shortened(name, columns)
    assert len(shown) <= columns
    if name.isascii() and name.isprintable() and len(" ".join(name.split())) <= columns:
        assert shown == " ".join(name.split())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", ""),
        ("dates@12", "dates@12"),
        ("a-long-name@12", "a-lo\u2026@12"),
        ("日本語日本語", "日本\u2026語"),
    ],
)
def test_names_lose_their_middle_and_keep_their_version(name: str, shown: str) -> None:
    assert shortened(name, 8) == shown
