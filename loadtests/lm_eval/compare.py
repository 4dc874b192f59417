"""lm-evaluation-harness over HTTP against the harness with transformers on the same weights.

    python -m venv /tmp/lm-eval && /tmp/lm-eval/bin/pip install 'lm_eval[api,hf]'
    python -m loadtests.lm_eval.compare --lm-eval /tmp/lm-eval/bin/lm_eval [--rows 100]

The harness stays unmodified, in an environment of its own: `local-completions` asks our server,
`hf` loads the demo base, or a copy of it with the adapter's values added. Four tasks, with their
rows in files: generation, choices of one token and of many, and whole texts. The adapter is then
asked in the other ways that the harness has: its own tokenizer or ours, ids or text, several
at once. The last line is JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from intarsia_client import Client
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.lm_eval.fused import fuse
from loadtests.lm_eval.harness import Answers, Harness, read_answers, score, task_names
from loadtests.servers import running_server

ADAPTER = Path(__file__).parents[2] / "examples" / "adapters" / "number-words.safetensors"
MODEL, TRUTH = "local-completions", "hf"
DEFAULT_WAY = "as it comes"


@dataclass(frozen=True, slots=True)
class Line:
    """One task of one model: the harness over transformers, and over HTTP."""

    model: str
    way: str
    task: str
    rows: int
    transformers: float
    served: float
    same_answers: int  # rows with the same texts and greedy flags
    largest_gap: float  # between the log-likelihoods of one row


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.keep or Path(scratch)
        harness = Harness(options.lm_eval.absolute(), directory)
        lines = list(tqdm(_lines(harness, options), unit="task"))
    _show(lines)
    print(json.dumps([asdict(line) for line in lines]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    add = parser.add_argument
    add("--lm-eval", type=Path, required=True, help="the command of its environment")
    add("--rows", type=int, default=100, help="of each task, at most 100")
    add("--way-rows", type=int, default=20, help="of each task in the other ways of asking")
    add("--adapter", type=Path, default=ADAPTER, help="the file of an adapter of single entries")
    add("--base-model", type=Path, default=Path("data/demo-base"))
    add(
        "--keep", type=Path, help="folder for the harness's results; those in it are not made again"
    )
    return parser.parse_args()


def _lines(harness: Harness, options: argparse.Namespace) -> Iterator[Line]:
    base, adapter, rows = options.base_model.absolute(), options.adapter.stem, options.rows
    fused = fuse(base, options.adapter, harness.directory / "fused")
    with _server(base, options.adapter, harness.directory) as url:
        for name, checkpoint in ((base.name, base), (adapter, fused)):
            truth = _truth(harness, name, checkpoint, rows)
            yield from _asked(harness, name, DEFAULT_WAY, [], url, truth, rows)
        for way, arguments in _ways(base).items():
            yield from _asked(harness, adapter, way, arguments, url, truth, options.way_rows)


@contextmanager
def _server(base: Path, adapter: Path, directory: Path) -> Iterator[str]:
    """A server of `base` with `adapter` published by its stem."""
    flags = ["--base-model", str(base), "--data-dir", str(directory / "store")]
    with running_server(directory / "server.log", *flags) as url, Client(url) as client:
        client.upload(adapter, name=adapter.stem)
        yield url


def _truth(harness: Harness, name: str, checkpoint: Path, rows: int) -> Path:
    where = ["--model_args", f"pretrained={checkpoint}", "dtype=float32", "--device", "cpu"]
    return harness.run(f"hf {name}", TRUTH, *where, "--batch_size", "8", limit=rows)


def _ways(base: Path) -> Mapping[str, list[str]]:
    """Other ways of asking: whose tokenizer, and what is sent."""
    own = ["tokenizer_backend=huggingface", f"tokenizer={base}"]
    ours = ["tokenizer_backend=remote"]
    as_text, at_once = "tokenized_requests=False", "num_concurrent=4"
    return {
        "own tokenizer, ids, 4 at once": [*own, at_once],
        "own tokenizer, text, 4 at once": [*own, as_text, at_once],
        "our tokenizer, text": [*ours, as_text],
        "our tokenizer, ids, lists of 8": [*ours, "--batch_size", "8"],
    }


def _asked(
    harness: Harness,
    name: str,
    way: str,
    arguments: list[str],
    url: str,
    truth: Path,
    rows: int,
) -> Iterator[Line]:
    where = ["--model_args", f"model={name}", f"base_url={url}/v1/completions", *arguments]
    served = harness.run(f"{name} {way}", MODEL, *where, limit=rows)
    for task in task_names():
        yield _line(name, way, task, read_answers(truth, task), read_answers(served, task))


def _line(name: str, way: str, task: str, truth: Answers, served: Answers) -> Line:
    pairs = [(truth[row], answer) for row, answer in served.items()]
    gaps = (
        abs(a - b) for true, ours in pairs for a, b in zip(true.numbers, ours.numbers, strict=True)
    )
    return Line(
        model=name,
        way=way,
        task=task,
        rows=len(pairs),
        transformers=score(true for true, _ in pairs),
        served=score(ours for _, ours in pairs),
        same_answers=sum(true.texts == ours.texts for true, ours in pairs),
        largest_gap=max(gaps, default=0.0),
    )


def _show(lines: list[Line]) -> None:
    table = Table(title="lm-evaluation-harness: transformers and our server")
    for heading in ("model", "asked", "task", "rows", "transformers", "served", "same", "gap"):
        table.add_column(heading)
    for line in lines:
        scores = [f"{line.transformers:.2f}", f"{line.served:.2f}"]
        same, gap = f"{line.same_answers}/{line.rows}", f"{line.largest_gap:.1e}"
        table.add_row(line.model, line.way, line.task, str(line.rows), *scores, same, gap)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
