"""Metrics against scores worked out by hand, and Rouge-L against torchmetrics and rouge-score."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from adapters_store.evaluation import texts
from adapters_store.evaluation.errors import RowRefused, ScoresRefused, UnknownMetric
from adapters_store.evaluation.metrics import (
    MAX_NATS,
    METRICS,
    Evidence,
    Likelihood,
    check_row,
    metrics_of,
)
from adapters_store.evaluation.rows import EvalRow
from adapters_store.evaluation.scores import Sample, Score

NUMBERS = json.loads(Path(__file__).with_name("torchmetrics_numbers.json").read_text("utf-8"))
ANSWERED = [name for name, metric in METRICS.items() if metric.needs == "answer"]
WORDS = st.lists(st.sampled_from(["the", "cat", "Cats", "sat,", "on", "A", "mat.", "-", "3.5"]))
TEXTS = st.text() | WORDS.map(" ".join)


def of_answer(metric: str, answer: str, *targets: str) -> float:
    return METRICS[metric].measure(EvalRow("?", targets), Evidence(answer=answer)).value


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row["answer"])
def test_rouge_l_is_torchmetrics(row: dict[str, Any]) -> None:
    found = of_answer("rouge_l", row["answer"], *row["targets"])
    assert found == pytest.approx(100 * row["rouge_l"], abs=1e-4)  # theirs is in fp32


@given(TEXTS, TEXTS)
def test_rouge_l_is_that_of_rouge_score(answer: str, target: str) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    theirs = scorer.score(target, answer)["rougeL"].fmeasure
    assert texts.rouge_l(answer, target) == pytest.approx(theirs, abs=1e-12)


def test_rouge_l_of_long_texts_needs_no_table_of_pairs() -> None:
    answer, target = "0 1 " * 2_000, "1 0 " * 50_000  # a table would have 4e8 entries
    assert texts.rouge_l(answer, target) == pytest.approx(2 * 4_000 / 104_000)


BY_HAND = [
    # metric, answer, targets, percent
    ("exact_match", "", ["x"], 0),
    ("exact_match", " Paris.\n", ["paris"], 100),
    ("exact_match", "Paris, France", ["Paris"], 0),
    ("exact_match", "the  cat", ["The cat!"], 100),
    ("exact_match", "the cat", ["cat"], 0),  # articles count
    ("exact_match", "-5", ["5"], 100),  # Natural Instructions' normalisation, signs and all
    ("exact_match", "two", ["one", "two"], 100),
    ("exact_match", " + ", ["+"], 100),  # bare punctuation is compared as it stands
    ("exact_match", "-", ["+"], 0),
    ("exact_match", "", ["+"], 0),
    ("contains", "", ["x"], 0),
    ("contains", "The capital is Paris.", ["paris"], 100),
    ("contains", "concatenate", ["cat"], 0),  # whole words
    ("contains", "a black cat", ["cat black"], 0),  # in their order
    ("contains", "a black, cat", ["black cat"], 100),
    ("contains", "it is two", ["one", "two"], 100),
    ("contains", "a + b", ["+"], 100),
    ("contains", "a b", ["+"], 0),
    ("f1", "", ["x"], 0),
    ("f1", "the cat", ["a cat"], 100),  # articles do not count
    ("f1", "the", ["an"], 100),  # of neither is anything left
    ("f1", "the", ["cat"], 0),
    ("f1", "black cat sat", ["cat"], 50),  # precision 1/3, recall 1
    ("f1", "cat cat", ["cat dog"], 50),  # a word counts as often as it stands in both
    ("f1", "red dog", ["cat", "a dog"], 200 / 3),
    ("rouge_l", "the cat sat on the mat", ["the cat on a mat"], 100 * 8 / 11),
]


@pytest.mark.parametrize(("metric", "answer", "targets", "percent"), BY_HAND)
def test_answers_score_as_by_hand(
    metric: str, answer: str, targets: list[str], percent: float
) -> None:
    assert of_answer(metric, answer, *targets) == pytest.approx(percent)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from(ANSWERED))
def test_scores_are_percentages_of_the_best_target(
    answer: str, targets: list[str], metric: str
) -> None:
    found = of_answer(metric, answer, *targets)
    assert 0 <= found <= 100
    assert found == max(of_answer(metric, answer, each) for each in targets)


@given(TEXTS.filter(lambda text: any(c.isascii() and c.isalnum() for c in text)))
def test_the_target_itself_is_wholly_right(target: str) -> None:
    assert [of_answer(metric, target, target) for metric in ANSWERED] == [100] * len(ANSWERED)


def of_choices(metric: str, logprobs: list[float], target: str = "yes") -> float:
    row = EvalRow("?", (target,), ("yes", "certainly not"))
    evidence = Evidence(choices=tuple(Likelihood(each, 1) for each in logprobs))
    return METRICS[metric].measure(row, evidence).value


@pytest.mark.parametrize(
    ("logprobs", "target", "accuracy", "accuracy_norm"),
    [
        ([-1.0, -2.0], "yes", 100, 0),  # per character -1/3 and -2/13
        ([-1.0, -2.0], "certainly not", 0, 100),
        ([-2.0, -1.0], "yes", 0, 0),
        ([-3.0, -13.0], "yes", 100, 100),  # equal per character: the first counts
        ([-3.0, -3.0], "certainly not", 0, 100),
    ],
)
def test_the_likeliest_choice_counts(
    logprobs: list[float], target: str, accuracy: float, accuracy_norm: float
) -> None:
    assert of_choices("accuracy", logprobs, target) == accuracy
    assert of_choices("accuracy_norm", logprobs, target) == accuracy_norm


def test_any_of_several_right_choices_will_do() -> None:
    row = EvalRow("?", ("a", "c"), ("a", "b", "c"))
    right = Evidence(choices=(Likelihood(-3, 1), Likelihood(-2, 1), Likelihood(-1, 1)))
    assert METRICS["accuracy"].measure(row, right).value == 100


def test_accuracy_norm_divides_by_characters_as_lm_eval_does() -> None:
    row = EvalRow("?", ("éé",), ("éé", "abc"))  # 2 characters of 4 bytes
    even = Evidence(choices=(Likelihood(-2.1, 1), Likelihood(-3, 1)))
    assert METRICS["accuracy_norm"].measure(row, even).value == 0


def of_target(metric: str, *likelihoods: tuple[float, int]) -> float:
    scores = [
        METRICS[metric].measure(EvalRow("?", ("x",)), Evidence(target=Likelihood(*each)))
        for each in likelihoods
    ]
    return METRICS[metric].scale.score(Sample.of(scores))


def test_loss_and_perplexity_are_of_tokens_not_of_rows() -> None:
    likelihoods = (-1.0, 1), (-2.0, 4)  # 3 nats over 5 tokens
    assert of_target("loss", *likelihoods) == pytest.approx(0.6)
    assert of_target("perplexity", *likelihoods) == pytest.approx(1.8221188003905089)  # e^0.6


def test_rows_of_loss_are_weighed_by_their_tokens() -> None:
    evidence = Evidence(target=Likelihood(-2.0, 4))
    for metric in ("loss", "perplexity"):
        assert METRICS[metric].measure(EvalRow("?", ("x",)), evidence) == Score(0.5, 4.0)


def test_perplexity_beyond_floating_point_is_shown_as_the_largest() -> None:
    assert of_target("perplexity", (-1e9, 1)) == of_target("perplexity", (-MAX_NATS, 1)) < 1e305


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_refused(logprob: float) -> None:
    with pytest.raises(ScoresRefused, match="loss of a row is"):
        of_target("loss", (logprob, 1))
    with pytest.raises(ScoresRefused, match="accuracy of a row is nan"):
        of_choices("accuracy", [-1.0, logprob])


def test_metrics_are_found_by_name_once_and_in_order() -> None:
    assert [each.name for each in metrics_of(["f1", "loss", "f1"])] == ["f1", "loss"]
    assert metrics_of([]) == ()


@pytest.mark.parametrize("name", ["", "bleu", "Rouge_L", "x" * 10**6])
def test_unknown_metric_names_the_known(name: str) -> None:
    with pytest.raises(UnknownMetric, match="rouge_l, exact_match, contains, f1") as caught:
        metrics_of(["f1", name])
    assert caught.value.known == tuple(METRICS)
    assert len(str(caught.value)) < 300


def test_a_row_without_choices_cannot_be_scored_by_choice() -> None:
    row = EvalRow("?", ("yes",))
    check_row(row, 3, metrics_of(["rouge_l", "loss"]))
    with pytest.raises(RowRefused, match="row 3, field choices: is missing, and metric accuracy"):
        check_row(row, 3, metrics_of(["rouge_l", "accuracy"]))
    check_row(EvalRow("?", ("a",), ("a", "b")), 3, metrics_of(["accuracy"]))
