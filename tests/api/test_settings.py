"""Settings: a bad value stops the start with its key and value; secrets are never shown."""

import subprocess
import sys
from pathlib import Path

import pytest
from api.processes import ROOT, server_command
from click.testing import CliRunner
from pydantic import ValidationError

from server.cli import serve
from server.settings import Settings


def test_every_bad_value_is_named_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {
        "port": "70000",
        "api_key": "",
        "dtype": "int4",
        "device": "tpu",
        "max_model_len": "0",
        "device_cache_bytes": "much",
        "max_num_seqs": "-1",
        "page_size": "1.5",
        "quantization": "int4",
        "speculation": "-1",
    }.items():
        with monkeypatch.context() as patch:
            patch.setenv(f"INTARSIA_{key.upper()}", value)
            with pytest.raises(ValidationError) as caught:
                Settings()
            [fault] = caught.value.errors()
            assert fault["loc"] == (key,)


def test_flags_win_over_variables_and_these_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().port == 8000
    monkeypatch.setenv("INTARSIA_PORT", "9000")
    assert Settings().port == 9000
    assert Settings(_cli_parse_args=["--port", "9001"]).port == 9001


def test_sizes_may_have_units() -> None:
    assert Settings(_cli_parse_args=["--max-upload-bytes", "2MiB"]).max_upload_bytes == 2 << 20


def test_settings_are_frozen_and_hide_the_key() -> None:
    settings = Settings(_cli_parse_args=["--api-key", "sesame"])
    assert "sesame" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(ValidationError):
        setattr(settings, "port", 1)  # noqa: B010


@pytest.mark.parametrize("flags", [["--port", "abc"], ["--prot", "1"]])
def test_a_bad_flag_stops_the_process_at_once(flags: list[str]) -> None:
    ended = subprocess.run(
        server_command(*flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert ("INTARSIA_PORT='abc'" if "--port" in flags else "--prot") in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_needs_no_model_does_not_load_torch() -> None:
    code = "import sys, server.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_lists_every_setting() -> None:
    shown = CliRunner().invoke(serve, ["--help"])
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
        assert field.description.split()[0] in text


def test_a_start_that_cannot_be_served_names_key_and_value(tiny_base: Path, tmp_path: Path) -> None:
    data = ["--data-dir", str(tmp_path)]
    tiny = ["--base-model", str(tiny_base), *data]
    for says, flags in {
        "INTARSIA_MAX_MODEL_LEN=100000": [*tiny, "--max-model-len", "100000"],
        "INTARSIA_DEVICE_CACHE_BYTES=1": [*tiny, "--device-cache-bytes", "1"],
        "INTARSIA_QUANTIZATION=int8": [*tiny, "--quantization=int8", "--dtype=bfloat16"],
        "INTARSIA_QUANTIZATION=int8:": [*tiny, "--quantization=int8", "--kernels=reference"],
        "INTARSIA_PUBLISH_DIR=/no/such/place": [*tiny, "--publish-dir", "/no/such/place"],
        "'/no/such/base'": ["--base-model", "/no/such/base", *data],
    }.items():
        ended = CliRunner().invoke(serve, flags)
        assert isinstance(ended.exception, SystemExit), says
        assert ended.exit_code == 1
        assert says in ended.output
