"""The report as a page: whole, of the right numbers, and deaf to what others wrote into it."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_samples import CREATED, SUBJECTS, TASKS, rows_of, sample, with_texts
from intarsia_client import InvalidArgument, UnexpectedAnswer
from intarsia_client.report.page import evaluation_report
from parsed_pages import Node, parsed, skeleton

ROOT = Path(__file__).parents[2]
ATTACKS = (
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    "</style></title><img src=x onerror=alert(1)>",
    "</text></svg><svg/onload=alert(1)>",
    "]]><!-- --!><?php",
    "{{ 7 * 7 }}{% include 'report.css' %}{#",
    r"$\frac{1}{$ &lt;b&gt; &#x3c;",
    "javascript:alert(1)",
    "@import url(//evil.example/x.css)",
    "\x00\x1b[31m\x7f\x85\u202e\ufffe\U0010ffff\ud800",
    "日本語" * 60,
)
NAMED = [attack[:12].encode("ascii", "replace").decode() for attack in ATTACKS]


@pytest.fixture(scope="module")
def page() -> str:
    evaluation = sample()
    return evaluation_report(evaluation, rows_of(evaluation))


@pytest.fixture(scope="module")
def document(page: str) -> Node:
    return parsed(page)


def cells(table: Node) -> dict[tuple[str, str], Node]:
    """(text of the row's head, of the column's) -> cell."""
    (head,) = table.all("thead")[0].all("tr")
    names = [each.text.strip() for each in head.all("th")]
    return {
        (row.all("th")[0].all("bdi")[0].text, name): cell
        for row in table.all("tbody")[0].all("tr")
        for name, cell in zip(names[1:], row.all("td"), strict=True)
    }


def values(cell: Node) -> list[float]:
    return [float(each.attributes["value"]) for each in cell.all("data")]


def test_page_is_well_formed_and_its_links_lead_somewhere(document: Node) -> None:
    assert [each.tag for each in document.children if isinstance(each, Node)] == ["html"]
    assert len(document.all("h1")) == 1
    ids = [node.attributes["id"] for node in document.all() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    assert {link.attributes["href"] for link in document.all("a")} <= {f"#{name}" for name in ids}


def test_scores_are_those_of_the_json(document: Node) -> None:
    evaluation = sample()
    tables = [cells(table) for table in document.all("table", class_="scores")]
    assert len(tables) == len(evaluation["metrics"])
    compared = {(each["subject"], each["task"]): each for each in evaluation["comparisons"]}
    for metric, table in zip(evaluation["metrics"], tables, strict=True):
        for each in (*evaluation["results"], *evaluation["overall"]):
            told = each["metrics"][metric]
            expected = [told["mean"], told["low"], told["high"]]
            difference = compared.get((each["subject"], each["task"]))
            if difference and difference["metrics"][metric]["p_value"] < 0.05:
                found = difference["metrics"][metric]
                expected += [found["delta"], found["p_value"]]
            assert values(table[each["subject"], each["task"] or "all tasks"]) == expected


def test_what_is_shown_is_the_number_rounded(document: Node) -> None:
    for each in document.all("data"):
        shown = re.search(r"[\d.]+(e\d+)?", each.text.replace(",", ""))
        assert shown, each.text
        value = float(each.attributes["value"])
        assert float(shown[0]) == pytest.approx(abs(value), abs=0.051)
        assert ("\u2212" in each.text) == (value < 0 and float(shown[0]) > 0)


def test_heat_maps_are_those_of_the_json(document: Node) -> None:
    evaluation = sample()
    tables = [cells(table) for table in document.all("table", class_="heat")]
    assert len(tables) == 2 * len(evaluation["metrics"])
    for index, metric in enumerate(evaluation["metrics"]):
        scores, deltas = tables[2 * index : 2 * index + 2]
        for each in (*evaluation["results"], *evaluation["overall"]):
            place = each["subject"], each["task"] or "all tasks"
            assert values(scores[place]) == [each["metrics"][metric]["mean"]]
        for each in evaluation["comparisons"]:
            cell = deltas[each["subject"], each["task"] or "all tasks"]
            told = each["metrics"][metric]
            assert values(cell) == [told["delta"]]
            assert ("*" in cell.text) == (told["p_value"] < 0.05)


@pytest.mark.parametrize(("metric", "is_higher"), [("f1", True), ("loss", False)])
def test_the_best_of_a_column_is_marked_unless_all_are_alike(metric: str, is_higher: bool) -> None:
    evaluation = sample(metrics=[metric])
    for each in evaluation["results"]:
        if each["task"] == TASKS[0]:
            each["metrics"][metric]["mean"] = 3.0
        else:
            each["metrics"][metric]["mean"] = float(SUBJECTS.index(each["subject"]))
    (table,) = parsed(evaluation_report(evaluation)).all("table", class_="scores")
    best = {place for place, cell in cells(table).items() if "★" in cell.text}
    chosen = SUBJECTS[-1] if is_higher else SUBJECTS[0]
    assert {place for place in best if place[1] in TASKS} == {(chosen, TASKS[1])}


def test_a_score_that_is_missing_is_a_dash_and_not_a_number() -> None:
    evaluation = sample(metrics=["f1"])
    evaluation["results"] = evaluation["results"][1:]
    evaluation["overall"] = evaluation["overall"][1:]
    evaluation["comparisons"] = []
    document = parsed(evaluation_report(evaluation))
    for kind in ("scores", "heat"):
        (table,) = document.all("table", class_=kind)
        missing = {place for place, cell in cells(table).items() if not values(cell)}
        assert missing == {("base", "dates"), ("base", "all tasks")}
        assert {cells(table)[place].text.strip() for place in missing} == {"\u2013"}


def test_one_task_has_no_column_for_all_and_no_reference_no_differences() -> None:
    evaluation = sample(["base"], ["dates"], ["f1"], reference=None)
    evaluation["promotion"] = None
    document = parsed(evaluation_report(evaluation))
    (table,) = document.all("table", class_="scores")
    assert {*cells(table)} == {("base", "dates")}
    assert len(document.all("table", class_="heat")) == 1
    assert len(document.all("svg")) == 1
    assert not document.all("section", id="gate")


def test_what_was_asked_is_told(document: Node) -> None:
    (settings,) = document.all("section", id="settings")
    for told in ("sha256:aa", "sha256:bb", "data-dates", '{"method": "ties"}', "raw", "0.95"):
        assert told in settings.text
    (time,) = document.all("time")
    assert (time.attributes["datetime"], time.text) == (
        "2026-11-22T09:33:20+00:00",
        "2026-11-22 09:33 UTC",
    )
    assert int(CREATED) == 1_795_340_000
    (gate,) = document.all("section", id="gate")
    assert "Not promoted" in gate.text
    assert values(gate.all("tbody")[0].all("tr")[1]) == [40.0, 44.1, 41.2]


def test_examples_show_prompt_targets_and_answers(document: Node) -> None:
    (examples,) = document.all("section", id="examples")
    for told in ("the prompt of row 0", "another", "dates@3 answers row 0", "likeliest: choice 2"):
        assert told in examples.text
    assert len(examples.all("article")) == 2 * 3


def test_the_same_evaluation_is_the_same_bytes(page: str) -> None:
    evaluation = sample()
    again = evaluation_report(copy.deepcopy(evaluation), iter(rows_of(evaluation)))
    assert again.encode() == page.encode()


def test_page_takes_nothing_from_elsewhere_and_runs_nothing(page: str, document: Node) -> None:
    (policy,) = (node for node in document.all("meta") if "http-equiv" in node.attributes)
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.strip().split(" ", 1) for rule in policy.attributes["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert "script-src" not in rules
    tags = {node.tag for node in document.all()}
    assert not tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form", "use"}
    names = {name for node in document.all() for name in node.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "srcset"}
    for outside in ("http://", "https://", "//", "url(", "@import"):
        assert outside not in page


def test_tables_say_what_they_are_and_what_their_heads_stand_for(document: Node) -> None:
    for table in document.all("table"):
        assert table.all("caption")[0].text.strip()
        assert {head.attributes["scope"] for head in table.all("th")} == {"row", "col"}
    for svg in document.all("svg"):
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-label"]


def report_with(suffix: str) -> str:
    """A report in which every text of others ends so."""
    evaluation = sample(SUBJECTS, ["dates"], ["perplexity"])
    told = {"evaluation": evaluation, "rows": rows_of(evaluation, 1)}
    told = with_texts(told, lambda text: text + suffix)
    return evaluation_report(told["evaluation"], told["rows"])


@pytest.fixture(scope="module")
def harmless() -> str:
    return report_with("x")


@pytest.mark.parametrize("attack", ATTACKS, ids=NAMED)
def test_texts_of_others_change_nothing_but_texts(attack: str, harmless: str) -> None:
    page = report_with(attack)
    page.encode()
    document = parsed(page)
    assert skeleton(document) == skeleton(parsed(harmless))
    if attack.isprintable():
        for told in ("job-1", "dates@3", "one target", "the prompt of row 0", "raw", "dates@prod"):
            assert told + attack in document.text


def test_generation_settings_may_be_named_anything() -> None:
    evaluation = sample(metrics=["f1"])
    evaluation["generation"] = {"<b>": None}
    assert "generation: <b>" in parsed(evaluation_report(evaluation)).text


def test_an_unknown_metric_is_refused_by_name() -> None:
    with pytest.raises(UnexpectedAnswer, match="'bleu'"):
        evaluation_report(sample(metrics=["bleu"]))


def test_an_evaluation_without_results_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="running"):
        evaluation_report({**sample(), "status": "running", "results": None})


def test_nothing_of_it_is_imported_before_a_report_is_asked_for() -> None:
    code = "import sys, intarsia_client, intarsia_client.evaluating; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"matplotlib", "numpy", "jinja2"} & {*run.stdout.split()}
