"""A whole matrix, base and adapters by tasks: one evaluation here, a loop that switches in PEFT.

    python -m loadtests.evaluation.matrix [--rows 100] [--adapters 8] [--batch 32]

Both sides answer the same rows, greedily, in the chat form, on as many threads. Prints seconds, how
many answers are the same text, the means of Rouge-L on both sides, and what a mixed batch costs
against the base alone, a token of prompts and a token of answers apart. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from intarsia_client import Client
from intarsia_client.evaluation import Evaluation
from rich.console import Console
from rich.table import Table
from rouge_score.rouge_scorer import RougeScorer

from examples.expert_table import EXPERTS
from examples.processes import INTARSIA, Processes
from examples.task_rows import TaskRows
from loadtests.evaluation.mixed import Costs, costs
from loadtests.servers import running_server

ADAPTERS = Path(__file__).parents[2] / "examples" / "adapters"
DATA_DIR = Path("data")
BASE = "base"
Answers = Mapping[str, Mapping[str, Sequence[str]]]  # by subject and task, in the order of rows


def main() -> None:
    asked = _arguments()
    names = sorted(path.stem for path in ADAPTERS.glob("*.safetensors"))[: asked.adapters]
    rows, targets = _rows(names, asked.rows)
    with tempfile.TemporaryDirectory() as scratch:
        ours, answers, mixed = _ours(Path(scratch), names, rows, asked)
        theirs = _theirs(Path(scratch), names, rows, asked)
    result = {
        "cores": os.cpu_count(),
        "subjects": 1 + len(names),
        "rows": {name: len(each) for name, each in targets.items()},
        "seconds": {"intarsia": ours, "peft": theirs["seconds"]},
        "ratio": theirs["seconds"] / ours,
        "same": _same(answers, theirs["answers"]),
        "rouge_l": {
            "intarsia": _means(answers, targets),
            "peft": _means(theirs["answers"], targets),
        },
        "mixed_over_base": mixed.ratios(),
    }
    _show(result, mixed)
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100, help="of each task")
    parser.add_argument("--adapters", type=int, default=8, help="and as many tasks")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="of the mixed batch")
    return parser.parse_args()


def _rows(names: Sequence[str], most: int) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """The first unseen rows of each adapter's task: files, and the right answers."""
    tasks, kept = [EXPERTS[name].task for name in names], TaskRows(DATA_DIR)
    kept.build(tasks, Processes())
    files = {task: kept.file(task, "test", most) for task in tasks}
    return files, {task: [row.target for row in kept.rows(task, "test", most)] for task in tasks}


def _ours(
    scratch: Path, names: Sequence[str], rows: Mapping[str, Path], asked: argparse.Namespace
) -> tuple[float, Answers, Costs]:
    """Seconds of the evaluation, its answers, and what a mixed batch costs."""
    # An evaluation takes half of the seats.
    flags = ["--publish-dir", str(ADAPTERS), "--max-num-seqs", str(2 * asked.batch)]
    with (
        running_server(scratch / "server.log", *flags) as url,
        Client(url, timeout=3600) as client,
    ):
        found = _evaluated(client, names, rows, asked.max_tokens)
        answers: dict[str, dict[str, list[str]]] = {}
        for row in client.evaluation_rows(found.id, page_size=1000):
            answers.setdefault(row.subject, {}).setdefault(row.task, []).append(row.output or "")
        mixed = costs(url, names, asked.batch, asked.rounds)
    return float(found.raw["seconds"]), answers, mixed


def _evaluated(
    client: Client, names: Sequence[str], rows: Mapping[str, Path], max_tokens: int
) -> Evaluation:
    (base,) = [model.id for model in client.models() if model.parent is None]
    datasets = [{"id": client.upload_dataset(file).id, "name": task} for task, file in rows.items()]
    begun = client.start_evaluation(
        [{"model": base, "name": BASE}, *({"model": name, "name": name} for name in names)],
        datasets,
        ["rouge_l"],
        generation={"max_tokens": max_tokens},
        prompt_mode="chat",
    )
    *_, found = client.watch_evaluation(begun.id)
    assert found.status == "succeeded", found.raw
    return found


def _theirs(
    scratch: Path, names: Sequence[str], rows: Mapping[str, Path], asked: argparse.Namespace
) -> dict[str, Any]:
    """Seconds and answers of PEFT's loop, in a process of its own."""
    for name in names:
        export = [INTARSIA, "export", "--to", "peft-shira", "--out", str(scratch / name)]
        subprocess.run([*export, str(ADAPTERS / f"{name}.safetensors")], check=True)
    out = scratch / "peft.json"
    command = [sys.executable, "-m", "loadtests.rivals.peft_matrix", "--out", str(out)]
    command += ["--base", str(DATA_DIR / "demo-base"), "--batch", str(asked.batch)]
    command += ["--max-tokens", str(asked.max_tokens)]
    command += [word for name in names for word in ("--adapter", f"{name}={scratch / name}")]
    command += [word for task, file in rows.items() for word in ("--rows", f"{task}={file}")]
    subprocess.run(command, check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _same(ours: Answers, theirs: Answers) -> dict[str, float]:
    """The share of each subject's answers that are the same text on both sides."""
    return {subject: _share(_flat(ours[subject]), _flat(theirs[subject])) for subject in theirs}


def _flat(answers: Mapping[str, Sequence[str]]) -> list[str]:
    return [text.strip() for task in sorted(answers) for text in answers[task]]


def _share(ours: Sequence[str], theirs: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _means(answers: Answers, targets: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Mean Rouge-L of each subject, over rows and then over tasks, by the package rouge-score."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def mean(texts: Sequence[str], wanted: Sequence[str]) -> float:
        pairs = zip(texts, wanted, strict=True)
        return fmean(100 * scorer.score(target, text)["rougeL"].fmeasure for text, target in pairs)

    return {
        subject: fmean(mean(texts, targets[task]) for task, texts in tasks.items())
        for subject, tasks in answers.items()
    }


def _show(result: Mapping[str, Any], mixed: Costs) -> None:
    table = Table("subject", "same answers", "Rouge-L here", "Rouge-L, PEFT")
    for subject, share in result["same"].items():
        means = (result["rouge_l"][side][subject] for side in ("intarsia", "peft"))
        table.add_row(subject, f"{share:.1%}", *(f"{mean:.2f}" for mean in means))
    console = Console()
    console.print(table)
    seconds = result["seconds"]
    console.print(
        f"the matrix: {seconds['intarsia']:.0f} s here, {seconds['peft']:.0f} s in PEFT's loop: "
        f"{result['ratio']:.2f} times"
    )
    console.print(mixed.told())


if __name__ == "__main__":
    main()
