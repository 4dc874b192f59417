"""The shipped adapters fit the demo base, gain what is said, and learnt from rows without leaks."""

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Phi3ForCausalLM

from adapters_store.adapter import BaseIdentity
from adapters_store.files import read
from adapters_store.validation import Limits, check
from examples.measure import RESULTS, answers, table, with_adapter
from examples.publish import ADAPTERS, MAX_BYTES, identity, notes
from examples.tasks import DATA, NUM_TEST, REVIEWS, TASKS, Row, build, group, jsonl, load
from examples.train_shira import TRAININGS

SOURCES = {  # what a task's recipe reads, and whether it is there
    "sentiment-yelp": (REVIEWS, REVIEWS.exists()),
    "date-iso": ("babel", find_spec("babel") is not None),
    "number-words": ("num2words", find_spec("num2words") is not None),
    "verb-forms": ("lemminflect", find_spec("lemminflect") is not None),
}
LIMITS = Limits(max_file_bytes=MAX_BYTES, max_nnz=MAX_BYTES)
EVERY_TASK = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module")
def base_identity(demo_base: Path) -> BaseIdentity:
    return identity(demo_base)


def test_every_task_has_one_shipped_adapter_and_no_other_is_shipped() -> None:
    assert {path.stem for path in ADAPTERS.iterdir()} == TASKS.keys()


@EVERY_TASK
def test_shipped_file_is_small(name: str) -> None:
    assert (ADAPTERS / f"{name}.safetensors").stat().st_size <= MAX_BYTES


@EVERY_TASK
def test_shipped_file_says_how_the_script_makes_it(name: str) -> None:
    adapter = read(ADAPTERS / f"{name}.safetensors")
    assert adapter.notes == notes(name, asdict(TRAININGS[name]))


@pytest.mark.demo
@EVERY_TASK
def test_shipped_adapter_is_valid_for_the_demo_base(name: str, base_identity: BaseIdentity) -> None:
    check(read(ADAPTERS / f"{name}.safetensors"), base_identity, LIMITS)


@EVERY_TASK
def test_no_group_is_on_both_sides_of_the_split(name: str) -> None:
    split, template = load(name), TASKS[name].template
    start, end = map(len, template.split("{}"))
    train, test = (
        [group(row.prompt[start : len(row.prompt) - end]) for row in rows]
        for rows in (split.train, split.test)
    )
    assert len({*train, *test}) == len(train) + len(test)
    assert len(test) == NUM_TEST


def test_no_date_is_asked_for_on_both_sides_in_two_notations() -> None:
    split = load("date-iso")
    assert {row.target for row in split.train}.isdisjoint(row.target for row in split.test)


@EVERY_TASK
def test_recipe_makes_the_committed_rows_again(name: str) -> None:
    source, is_here = SOURCES[name]
    if not is_here:
        pytest.skip(f"the rows of {name} come from {source}, which is not here")
    split = build(TASKS[name])
    for side, rows in (("train", split.train), ("test", split.test)):
        assert jsonl(rows) == (DATA / f"{name}.{side}.jsonl").read_text(encoding="utf-8")


def test_readme_shows_the_measured_table() -> None:
    readme = (ADAPTERS.parent / "README.md").read_text(encoding="utf-8")
    assert table(json.loads(RESULTS.read_text())) in readme


@EVERY_TASK
def test_published_gain_is_of_the_shipped_file(name: str) -> None:
    result = json.loads(RESULTS.read_text())[name]
    assert result["adapter"] == read(ADAPTERS / f"{name}.safetensors").digest
    assert result["adapter_scores"]["exact_match"] > result["base_scores"]["exact_match"]


def example(name: str) -> Row:
    prompts = json.loads((ADAPTERS.parent / "prompts.json").read_text(encoding="utf-8"))
    return Row(prompts[name]["prompt"], prompts[name]["answer"])


@EVERY_TASK
def test_example_prompt_was_not_trained_on(name: str) -> None:
    assert example(name).prompt not in [row.prompt for row in load(name).train]


@pytest.mark.demo
def test_base_answers_no_example_prompt_as_its_adapter_does(demo_base: Path) -> None:
    base = Phi3ForCausalLM.from_pretrained(demo_base)
    rows = [example(name) for name in TASKS]
    replies = answers(base, AutoTokenizer.from_pretrained(demo_base), rows, "base")
    assert [row for row, reply in zip(rows, replies, strict=True) if reply == row.target] == []


@pytest.mark.demo
@pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:.is_gradient_checkpointing.")
@EVERY_TASK
def test_adapter_answers_its_example_prompt_as_shown(name: str, demo_base: Path) -> None:
    adapter = read(ADAPTERS / f"{name}.safetensors")
    adapted = with_adapter(Phi3ForCausalLM.from_pretrained(demo_base), adapter)
    tokenizer = AutoTokenizer.from_pretrained(demo_base)
    assert [*answers(adapted, tokenizer, [example(name)], name)] == [example(name).target]
