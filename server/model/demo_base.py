"""The demo base: a small real model in the Phi-3 layout, made once on this machine.

Owns the finished checkpoint's folder: atomic, idempotent, one writer at a time. What the files
hold is decided in `demo_weights.py` and `demo_tokenizer.py`, their source in `demo_source.py`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock
from gguf import GGUFReader
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import GenerationConfig, Phi3Config

from server.model import demo_source
from server.model.demo_tokenizer import demo_tokenizer
from server.model.demo_weights import phi3_config, phi3_weights

NAME = "smollm2-135m-instruct"  # what requests and adapters call it
FOLDER = "demo-base"
RECORD = "conversion.json"  # written last: source, converter and file sizes
CONVERTER = 1  # raised whenever a conversion would give other files
NOTICE = f"""\
SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache License 2.0 (see LICENSE).
Taken from the Python package {demo_source.PACKAGE} {demo_source.VERSION} by Simon Willison.
Changed: the Q4_1 GGUF weights were dequantized to fp32 and laid out as a Phi-3 checkpoint.
"""


def ensure_demo_base(
    data_dir: Path,
    report: Callable[[str], None] = print,
    *,
    obtain: Callable[[Path], Path] = demo_source.obtain_package,
) -> Path:
    """The folder of the demo base's checkpoint, made first where it is not there yet.

    `obtain` gives a folder with the package's files, and may put them into the folder it is given.
    Raises `DemoBaseUnavailable` or `DemoBaseCorrupt`, and then leaves no checkpoint behind.
    """
    folder = data_dir / FOLDER
    if is_complete(folder):
        return folder
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f"{FOLDER}.lock"):
        if not is_complete(folder):  # another process may have made it meanwhile
            _make(folder, report, obtain)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether `folder` is this converter's work and every file still has its size."""
    try:
        record = json.loads((folder / RECORD).read_text())
        return bool(record == _record(folder, record["sizes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _record(folder: Path, names: Any) -> dict[str, Any]:
    sizes = {name: (folder / name).stat().st_size for name in sorted(names)}
    return {"converter": CONVERTER, "gguf_sha256": demo_source.GGUF_SHA256, "sizes": sizes}


def _make(folder: Path, report: Callable[[str], None], obtain: Callable[[Path], Path]) -> None:
    report(f"Making the demo base in {folder} (once; needs about 750 MB there while it is made)")
    partial = folder.with_name(f"{FOLDER}.partial")
    for leftover in (partial, folder):  # of a killed or damaged conversion
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir()
        with TemporaryDirectory(dir=partial) as download:
            _convert(obtain(Path(download)), partial)
        record = _record(partial, [file.name for file in partial.iterdir()])
        (partial / RECORD).write_text(json.dumps(record, indent=2))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report(f"The demo base is ready in {folder}")


def _convert(package: Path, folder: Path) -> None:
    reader = GGUFReader(package / demo_source.GGUF)
    config = phi3_config(reader)
    demo_tokenizer(reader).save_pretrained(folder)
    config.save_pretrained(folder)
    _generation_config(config).save_pretrained(folder)
    _save_weights(reader, config, folder / "model.safetensors")
    shutil.copyfile(package / demo_source.LICENSE, folder / "LICENSE")
    (folder / "NOTICE").write_text(NOTICE)


def _generation_config(config: Phi3Config) -> GenerationConfig:
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _save_weights(reader: GGUFReader, config: Phi3Config, file: Path) -> None:
    num_weights = 2 + 6 * config.num_hidden_layers
    bar = tqdm(phi3_weights(reader, config), desc="demo base", total=num_weights, unit=" weights")
    save_file(dict(bar), file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes files that only their owner may read
