"""The configuration: what it refuses, where its values come from, its flags."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapters_store.training.config import FIXED, SELECTED, TrainConfig, build, read_fields
from adapters_store.training.failures import ConfigRefused
from offline import training

NEEDED: dict[str, Any] = {"base": "b", "data": ["d"], "output": "o"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"keep_ratio": 0.0}, "keep_ratio"),
        ({"keep_ratio": 1.5}, "keep_ratio"),
        ({"form": "0x16"}, "form"),
        ({"form": "block"}, "form"),
        ({"targets": "("}, "targets: no regular expression"),
        ({"data": []}, "data"),
        ({"epoch": 1}, "epoch: Extra inputs"),
        ({"method": "lora", "form": "16x16"}, "form goes with a method that selects"),
        ({"method": "lora", "one_shot": True}, "one_shot goes with a score of Algorithm 1"),
        ({"method": "snip", "reselect_every": 3}, "reselect_every goes with"),
        ({"method": "snip", "disjoint_task": 1}, "disjoint_task goes with method wm"),
        ({"lora_rank": 4}, "lora_rank goes with method lora"),
        ({"start_from": "a"}, "start_from goes with method mask_of_start or full_targets"),
        ({"method": "mask_of_start"}, "mask_of_start wants start_from"),
        ({"method": "full_model", "targets": "x"}, "targets goes with other methods"),
        ({"best_by": "loss"}, "best_by loss wants validation rows"),
        ({"patience": 2}, "patience goes with best_by"),
        ({"publish": "http://x"}, "publish goes with a name"),
    ],
)
def test_what_cannot_be_or_would_decide_nothing_is_refused(
    fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigRefused) as refused:
        build(NEEDED | fields)
    assert told in str(refused.value)


def test_every_reason_is_told_at_once() -> None:
    with pytest.raises(ConfigRefused) as refused:
        build({"keep_ratio": 2, "batch": 0})
    told = " ".join(refused.value.reasons)
    assert all(field in told for field in ("base", "data", "output", "keep_ratio", "batch"))


@pytest.mark.parametrize("method", [*SELECTED, *FIXED, "lora", "full_targets", "full_model"])
def test_configuration_comes_back_from_its_json(method: str) -> None:
    config = build(NEEDED | {"method": method})
    assert build(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("form", "block"), [("element", None), ("16x16", (16, 16)), ("1x8", (1, 8))]
)
def test_form_is_an_entry_or_a_tile(form: str, block: tuple[int, int] | None) -> None:
    assert build(NEEDED | {"form": form}).block == block


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", 'base = "b"\ndata = ["d"]\noutput = "o"\nkeep_ratio = 0.01\n'),
        ("run.json", '{"base": "b", "data": ["d"], "output": "o", "keep_ratio": 0.01}'),
    ],
)
def test_paths_of_a_file_are_relative_to_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    config = build(read_fields(tmp_path / name))
    assert (config.base, config.data) == (tmp_path / "b", (tmp_path / "d",))
    assert config.keep_ratio == 0.01


@pytest.mark.parametrize(("name", "text"), [("a.toml", "= 1"), ("a.json", "{"), ("b.json", "[]")])
def test_unreadable_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigRefused, match=name):
        read_fields(tmp_path / name)


def test_every_field_has_a_flag_with_its_meaning() -> None:
    options = {option.name: option for option in training.train.params}
    assert TrainConfig.model_fields.keys() <= options.keys()
    for name, field in TrainConfig.model_fields.items():
        assert field.description
        assert getattr(options[name], "help", "").startswith(field.description)


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(NEEDED | {"keep_ratio": 0.5, "method": "lora"}))
    said = CliRunner().invoke(
        training.train, ["--config", str(file), "--keep-ratio", "7", "--one-shot"]
    )
    assert said.exit_code == 1
    assert "keep_ratio: Input should be less than or equal to 1" in said.output


def test_missing_packages_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "EXTRA", ("json", "no_such_package"))
    said = CliRunner().invoke(training.train, ["--base", "b", "--data", "d", "--output", "o"])
    assert said.exit_code == 1
    assert "no_such_package: pip install 'intarsia[train]'" in said.output
    assert "json" not in said.output


def test_help_does_not_load_torch() -> None:
    code = "import sys, offline.training; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
