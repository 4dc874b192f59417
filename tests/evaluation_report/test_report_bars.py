"""Bars of a report: their lengths are the scores', their colours and texts the page's."""

import re

import pytest
from intarsia_client.report.bars import LEFT, RIGHT, WIDTH, Bar, Span, draw
from intarsia_client.report.measures import measure_of
from intarsia_client.report.results import Score
from parsed_pages import Node, parsed

ROOM = WIDTH - LEFT - RIGHT


def drawn(bars: list[Bar], span: Span, metric: str = "f1") -> Node:
    (svg,) = parsed(draw(bars, span, measure_of(metric), "label")).all("svg")
    return svg


def spans(svg: Node, style: str) -> list[tuple[float, float]]:
    """Left and right ends of paths with a style that begins so."""
    found = [path for path in svg.all("path") if path.attributes["style"].startswith(style)]
    numbers = [re.findall(r"[ML] ([\d.]+) ", path.attributes["d"]) for path in found]
    return [(min(map(float, each)), max(map(float, each))) for each in numbers]


def test_bars_and_whiskers_are_as_long_as_their_numbers() -> None:
    bars = [Bar("base", Score(25, 20, 50), True), Bar("a", Score(50, 40, 100), False)]
    svg = drawn(bars, Span(100, False))
    assert spans(svg, "fill:var(--bar-reference)") == [pytest.approx((LEFT, LEFT + ROOM / 4))]
    assert spans(svg, "fill:var(--bar)") == [pytest.approx((LEFT, LEFT + ROOM / 2))]
    (ends,) = spans(svg, "fill:none;stroke:var(--ink)")
    assert ends == pytest.approx((LEFT + ROOM / 5, LEFT + ROOM))


def test_a_logarithmic_axis_begins_at_one() -> None:
    svg = drawn([Bar("a", Score(100, 100, 100), False)], Span(10_000, True), "perplexity")
    (ends,) = spans(svg, "fill:var(--bar)")
    assert ends == pytest.approx((LEFT, LEFT + ROOM / 2))


@pytest.mark.parametrize(
    ("metric", "highs", "span"),
    [
        ("f1", [], Span(1, False)),
        ("f1", [0.0], Span(1, False)),
        ("f1", [99.0, 100.0], Span(100, False)),
        ("loss", [300.0], Span(300, False)),
        ("perplexity", [100.0], Span(100, False)),
        ("perplexity", [101.0], Span(101, True)),
        ("perplexity", [1e304], Span(1e304, True)),
    ],
)
def test_the_axis_holds_every_interval(metric: str, highs: list[float], span: Span) -> None:
    found = Span.of([Score(high, high, high) for high in highs], measure_of(metric))
    assert found == span
    bars = [Bar("a", Score(high, high, high), False) for high in highs]
    svg = drawn([*bars, Bar("b", None, False)], found, metric)
    assert all(LEFT <= left <= right <= LEFT + ROOM + 0.01 for left, right in spans(svg, "fill"))


def test_a_missing_score_has_no_bar() -> None:
    svg = drawn([Bar("a", None, False)], Span(100, False))
    assert not spans(svg, "fill:var(--bar)")
    assert svg.all("text", class_="score")[0].text == "\u2013"


def test_names_are_texts_whatever_they_hold() -> None:
    name = r"$\frac{1}{$ <b>日本</b> and a long way to go@3"
    svg = drawn([Bar(name, Score(1, 1, 1), False)], Span(1, False))
    (text,) = svg.all("text", class_="name")
    (title,) = text.all("title")
    assert title.text == name
    assert text.children[0] == "$\\frac{1}\u2026y to go@3"
    assert not svg.all("b")


def test_all_colours_are_the_page_s() -> None:
    svg = drawn([Bar("a", Score(1, 0.5, 1.5), False)], Span(2, False))
    styles = " ".join(node.attributes.get("style", "") for node in svg.all())
    assert "#" not in styles
    assert not [node for node in svg.all() if "id" in node.attributes]
