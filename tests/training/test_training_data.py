"""Rows, their tokens, and the loss of their answers alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHAT_TEMPLATE, END_OF_TEXT, make_tiny_tokenizer
from torch.nn.functional import cross_entropy
from training_runs import ROWS, load, write_rows

from adapters_store.training.answers import answer_loss, answers, mean_loss, rouge_l
from adapters_store.training.data import Encoder, Row, collate, read_rows, rows_digest
from adapters_store.training.failures import DataRefused

TOKENIZER = make_tiny_tokenizer()
END = TOKENIZER.convert_tokens_to_ids(END_OF_TEXT)


def encoder(prompting: Any = "raw", prompt: int = 99, answer: int = 99) -> Encoder:
    return Encoder(TOKENIZER, prompting, prompt, answer)


@pytest.mark.parametrize(
    ("prompt", "target", "answer"),
    [
        ("a", "b", " b"),
        ("a ", "b", "b"),
        ("a\n", "b", "b"),
        ("a", " b", " b"),
        ("a", "\nb", "\nb"),
        ("a\t", "b", " b"),
    ],
)
def test_raw_answer_begins_with_a_space_unless_one_is_there(
    prompt: str, target: str, answer: str
) -> None:
    encoded = encoder()(Row(prompt, target))
    assert TOKENIZER.decode(encoded.prompt) == prompt
    assert TOKENIZER.decode(encoded.answer) == answer + END_OF_TEXT


def test_chat_prompt_is_the_template_and_the_answer_is_bare() -> None:
    encoded = encoder("chat")(Row("a", "b"))
    assert "message" in CHAT_TEMPLATE
    assert TOKENIZER.decode(encoded.prompt) == "<|user|>\na<|end|>\n<|assistant|>\n"
    assert TOKENIZER.decode(encoded.answer) == "b" + END_OF_TEXT


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_prompt_has_the_tokens_that_it_is_served_with(prompt: str, target: str) -> None:
    encoded = encoder()(Row(prompt, target))
    assert encoded.prompt == TOKENIZER.encode(prompt, add_special_tokens=False)
    assert encoded.answer[-1] == END


def test_long_prompts_lose_their_beginning_and_long_answers_their_end() -> None:
    whole = encoder()(Row("0123456789", "abcdefgh"))
    cut = encoder(prompt=3, answer=4)(Row("0123456789", "abcdefgh"))
    assert cut.prompt == whole.prompt[-3:]
    assert cut.answer == whole.answer[:4]
    assert END not in cut.answer


def test_batch_names_the_place_before_each_answer_token() -> None:
    rows = [encoder()(row) for row in (Row("abc ", "d"), Row("e ", "fgh"))]
    batch = collate(rows)
    picked = batch["input_ids"][batch["row"], batch["column"]].tolist()
    expected = [row.prompt[-1:] + row.answer[:-1] for row in rows]
    assert picked == [token for tokens in expected for token in tokens]
    assert batch["target"].tolist() == rows[0].answer + rows[1].answer
    lengths = [len(row.prompt) + len(row.answer) - 1 for row in rows]
    assert batch["attention_mask"].sum(1).tolist() == lengths


def plain_losses(model: Any, row: Any) -> torch.Tensor:
    """A row alone, with logits everywhere."""
    logits = model(torch.tensor([row.prompt + row.answer])).logits[0]
    return cross_entropy(
        logits[len(row.prompt) - 1 : -1], torch.tensor(row.answer), reduction="none"
    )


@pytest.mark.parametrize("count", [1, 5])
def test_loss_is_that_of_each_answer_alone_and_of_all_logits(tiny_base: Path, count: int) -> None:
    model = load(tiny_base).eval()
    rows = [encoder()(Row("ab " * i, "answer" * (i % 3 + 1))) for i in range(1, count + 1)]
    plain = torch.cat([plain_losses(model, row) for row in rows]).mean()
    loss = answer_loss(model, collate(rows))
    torch.testing.assert_close(loss, plain)
    weight = model.model.layers[0].self_attn.qkv_proj.weight
    gradients = [torch.autograd.grad(each, weight)[0] for each in (loss, plain)]
    torch.testing.assert_close(*gradients)
    assert mean_loss(model, rows, 2) == pytest.approx(plain.item(), rel=1e-5)


def test_head_computes_labelled_places_only(tiny_base: Path) -> None:
    model, seen = load(tiny_base), []
    model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    rows = [encoder()(row) for row in ROWS[:3]]
    answer_loss(model, collate(rows))
    assert seen == [(1, sum(len(row.answer) for row in rows), model.config.hidden_size)]
    model(torch.tensor([[1, 2, 3]]))
    assert seen[-1] == (1, 3, model.config.hidden_size)


def test_answers_do_not_depend_on_their_batch(tiny_base: Path) -> None:
    model = load(tiny_base).eval()
    prompts = [encoder()(row).prompt for row in (ROWS[1], Row("a much longer prompt", "b"))]
    together = answers(model, TOKENIZER, prompts, 6, 2)
    assert together == answers(model, TOKENIZER, prompts, 6, 1)


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ("", "a b", 0.0),
        ("a b", "a b", 100.0),
        ("A b!", "a b", 100.0),
        ("runs", "running", 100.0),
        ("a c", "a b", 50.0),
        ("b a", "a b", 50.0),
    ],
)
def test_rouge_l_is_stemmed_and_ordered(answer: str, target: str, score: float) -> None:
    assert rouge_l([(answer, target)]) == pytest.approx(score)


def test_rows_come_from_json_lines_and_from_saved_datasets(tmp_path: Path) -> None:
    lines = read_rows(write_rows(tmp_path / "rows.jsonl"))
    columns = {"prompt": [r.prompt for r in ROWS], "target": [r.target for r in ROWS]}
    Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    assert lines == read_rows(tmp_path / "saved") == ROWS
    assert rows_digest(lines) == rows_digest(ROWS) != rows_digest(ROWS[::-1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ('{"prompt": "a"}', "row 1"),
        ('{"prompt": "a", "target": "b"}\n[]', "row 2"),
        ('{"prompt": "a", "target": ""}', "row 1"),
        ('{"prompt": 1, "target": "b"}', "row 1"),
        ('{"prompt": "a", "target": "b"}\n\n', "row 2"),
        ("{", "row 1"),
        ('{"prompt": "a\u2028b", "target": "b"}\n{', "row 2"),
    ],
)
def test_first_row_that_is_none_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataRefused, match=reason):
        read_rows(path)


def test_directory_that_datasets_did_not_save_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="not saved by datasets"):
        read_rows(tmp_path)
