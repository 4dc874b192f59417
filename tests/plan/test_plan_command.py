"""`intarsia plan`: what it prints, writes and refuses."""

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from server.plan.command import plan
from server.plan.efficiency import CPU_KERNELS

MINI = ("phi-3-mini-4k", "--context", "512")
CPU = ("--device", "cpu", "--bandwidth", "20", "--gflops", "100", "--memory", "16")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plan, list(arguments))


def printed(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def shape_of(value: Any) -> Any:
    """Types in place of values, one element for a list."""
    if isinstance(value, dict):
        return {key: shape_of(own) for key, own in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return type(value).__name__


KERNEL = {
    "name": "str",
    "bytes": "int",
    "matrix_flops": "float",
    "int8_flops": "float",
    "vector_flops": "float",
    "gathers": "float",
    "seconds": "float",
    "bound": "str",
}
FORECAST = {"tokens_per_second": "float", "seconds_per_token": "float", "kernels": [KERNEL]}
PLAN = {
    "device": "str",
    "parameters": "int",
    "memory": dict.fromkeys(
        ("runtime", "weights", "workspace", "reserve", "kv_pages", "adapters", "remains", "total"),
        "int",
    ),
    "workspace": dict.fromkeys(
        ("activations", "logits", "products", "scratch", "padding", "libraries"), "int"
    ),
    "bytes_per_adapter": "int",
    "largest_batch": "int",
    "most_adapters": "int",
    "settings": dict.fromkeys(
        (
            *("device_cache_bytes", "max_adapter_bytes_device", "max_num_seqs", "max_model_len"),
            *("max_num_batched_tokens", "page_size"),
        ),
        "int",
    ),
    "forecasts": {"base": FORECAST, "batched": FORECAST, "fused": FORECAST},
    "limits": {"base": "float", "batched": "float", "fused": "float"},
    "curve": {"adapters": ["int"], "base": ["float"], "batched": ["float"], "fused": ["float"]},
}


def test_json_has_its_schema() -> None:
    found = printed(*MINI, "--device", "A10", "--device", "H100")
    assert [shape_of(own) for own in found] == [PLAN, PLAN]
    assert [own["device"] for own in found] == ["A10", "H100"]


def test_what_never_fuses_is_null() -> None:
    [found] = printed(*MINI, "--device", "A10", "--kind", "low_rank", "--rank", "32")
    assert found["forecasts"]["fused"] is None
    assert set(found["curve"]["fused"]) == {None}
    assert found["bytes_per_adapter"] == 32 * 32 * (9216 + 3072) * 2


def test_suggested_settings_hold_what_was_planned() -> None:
    [found] = printed(*MINI, "--device", "A10", "--adapters", "7", "--batch", "3")
    memory, settings = found["memory"], found["settings"]
    fixed = sum(memory[part] for part in ("runtime", "weights", "workspace", "reserve"))
    assert settings["device_cache_bytes"] == memory["total"] - fixed
    assert settings["max_adapter_bytes_device"] == 7 * found["bytes_per_adapter"]
    assert (settings["max_num_seqs"], settings["max_model_len"]) == (3, 512)


def test_a_cpu_with_given_numbers_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("measure_bandwidth", "measure_flops", "this_memory"):
        monkeypatch.delattr(f"server.plan.devices.{name}")
    [found] = printed("demo", *CPU)
    assert found["memory"]["total"] == 16 << 30
    head = next(k for k in found["forecasts"]["base"]["kernels"] if k["name"] == "lm_head")
    reading = head["bytes"] / (20e9 * CPU_KERNELS.bandwidth)
    multiplying = head["matrix_flops"] / (100e9 * CPU_KERNELS.products)
    one_start = CPU_KERNELS.start_seconds
    assert head["seconds"] == pytest.approx(reading + multiplying + one_start)
    assert found["limits"]["base"] > found["forecasts"]["base"]["tokens_per_second"]


def test_a_cpu_is_measured_unless_told() -> None:
    [found] = printed("demo", "--device", "cpu", "--batch", "1")
    head = next(k for k in found["forecasts"]["base"]["kernels"] if k["name"] == "lm_head")
    assert 1e8 < head["bytes"] / head["seconds"] < 1e13
    assert found["memory"]["total"] > 1 << 30


def test_tables_say_memory_modes_and_curve() -> None:
    result = run(*MINI, "--device", "A10", "--device", "L4")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["GiB", "A10", "L4"] in lines
    assert ["weights", "7.12", "7.12"] in lines
    assert [line[:2] for line in lines].count(["L4", "fused"]) == 2
    assert "attention" not in result.stdout


def test_kernels_are_listed_when_asked_for() -> None:
    output = run(*MINI, "--device", "A10", "--kernels").stdout
    names = ("qkv_proj deltas", "attention", "rope + cache write", "lm_head", "switch")
    assert [name for name in names if name not in output] == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("phi-5", "--device", "A10"), 1, "no model is called 'phi-5'; there are phi-3-mini-4k"),
        ((*MINI, "--device", "A11"), 1, "no device is called 'A11'; there are A10"),
        (("phi-4", "--device", "A10"), 1, "weights 27.31"),
        ((*MINI, "--device", "A10", "--adapters", "999"), 1, "with these sequences 211 adapters"),
        ((*MINI[:2], "5000", "--device", "A10"), 1, "4096 positions, not 5000"),
        ((*MINI, "--device", "A10", "--quantization", "int8"), 1, "on a CPU only"),
        (("demo", *CPU, "--dtype", "bfloat16"), 1, "only float32"),
        ((*MINI, "--device", "A10", "--rank", "8"), 2, "--rank goes with"),
        ((*MINI, "--device", "A10", "--memory", "8"), 2, "go with --device cpu"),
        ((*MINI, "--device", "A10", "--plot", "x.pdf"), 2, "neither in .png nor in .svg"),
        ((*MINI,), 2, "Missing option '--device'"),
        ((*MINI, "--device", "A10", "--keep", "0"), 2, "--keep"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    arguments: tuple[str, ...], status: int, words: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_plot_is_the_same_bytes(form: str, tmp_path: Path) -> None:
    pictures = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.{form}"
        result = run(*MINI, "--device", "A10", "--device", "H100", "--plot", str(path))
        assert (result.exit_code, result.stderr) == (0, f"{path}: tok/s over adapters\n")
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    if form == "svg":
        ElementTree.fromstring(pictures[0])
    else:
        assert pictures[0].startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "server.plan.plot", raising=False)
    monkeypatch.delattr("server.plan.plot", raising=False)
    result = run(*MINI, "--device", "A10", "--plot", str(tmp_path / "x.png"))
    assert result.exit_code == 1
    assert "install intarsia[plot]" in result.stderr
