"""Make the shipped adapters from nothing: train, measure on 200 unseen rows, write files and table.

    python -m examples.experts [name ...]

Killed at any time and started again, it goes on. Measured with transformers, greedily; nothing of
the server that serves them takes part.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from tqdm import tqdm

from adapters_store.tasks.table import named
from examples.expert_table import EXPERTS, Expert
from examples.processes import do_all
from examples.runs import Place
from examples.shipping import identity, notes, ship, shipped
from examples.task_rows import TaskRows
from server.model.demo_base import ensure_demo_base

FOLDER = Path(__file__).parent
ADAPTERS, RESULTS, PROMPTS, README = "adapters", "results.json", "prompts.json", "README.md"
BEGIN, END = "<!-- made by examples.experts -->\n", "<!-- end -->\n"
DATA_DIR = Path("data")
TEST_ROWS = 200  # fewer where a task has fewer
Answers = Sequence[Mapping[str, str]]


class Workshop:
    """Makes adapters, several at once; writes one result at a time."""

    def __init__(self, place: Place, out: Path, steps: int | None) -> None:
        """`steps` instead of each expert's own, to try the script."""
        self.place, self.out, self.steps = place, out, steps
        self.base = identity(place.base)
        self._writing = Lock()

    def make(self, name: str) -> None:
        """From rows to the shipped file and what is told of it."""
        training = EXPERTS[name].training
        training = replace(training, steps=self.steps or training.steps)
        result = self.place.trained(name, training)
        scores, answers = self._measure(name, self.place.adapter(name))
        base_scores, base_answers = self._measure(f"{name}.base", None)
        example = choose_example(base_answers, answers)
        with self._writing:
            path = shipped(self.out / ADAPTERS, name)
            adapter = ship(self.place.adapter(name), name, example["prompt"], self.base, path)
            costs = {"bytes": path.stat().st_size, "entries": adapter.nnz}
            told = {"digest": adapter.digest, "form": form(EXPERTS[name]), **costs, **_told(result)}
            _update(self.out / RESULTS, name, told | {"base": base_scores, "adapter": scores})
            _update(self.out / PROMPTS, name, example)

    def write_tables(self) -> None:
        """Into the README between its marks."""
        readme, results = self.out / README, json.loads((self.out / RESULTS).read_text())
        before = readme.read_text(encoding="utf-8") if readme.exists() else ""
        readme.write_text(with_tables(before, results), encoding="utf-8")

    def _measure(self, run: str, adapter: Path | None) -> tuple[Any, Answers]:
        task = EXPERTS[run.partition(".")[0]].task
        scores = self.place.scored(run, (task,), TEST_ROWS, adapter)
        return scores[task], self.place.answers(run, TEST_ROWS)


def choose_example(base: Answers, adapter: Answers) -> dict[str, str]:
    """The first row in test order that the adapter answers rightly and the base does not.

    The first row at all where there is none.
    """
    rows = list(zip(base, adapter, strict=True))
    is_gain = [b["answer"] != b["target"] and a["answer"] == a["target"] for b, a in rows]
    before, after = rows[is_gain.index(True) if any(is_gain) else 0]
    return {
        "prompt": after["prompt"],
        "answer": after["answer"],
        "base_answer": before["answer"],
    }


def _told(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": result["steps"][-1]["step"],
        "rows_trained": result["lineage"]["rows"],
        "rows_digest": result["lineage"]["rows_digest"],
    }


def _update(file: Path, name: str, value: Any) -> None:
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept = {key: known[key] for key in known if key in EXPERTS} | {name: value}
    text = json.dumps(dict(sorted(kept.items())), indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def form(expert: Expert) -> str:
    return f"{expert.method.get('form', 'element')}, {expert.method['keep_ratio']:g}"


def tables(results: Mapping[str, Any]) -> str:
    """What the adapters gain and whose data they are of, as Markdown."""
    gains = [
        "| adapter | form, kept | exact match: base | adapter | answer contained: base | adapter "
        "| rows | steps | bytes |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    data = ["| adapter | prompt | rows trained on | from | licence |", "|---|---|--:|---|---|"]
    for name, result in results.items():
        (task,), said = named([EXPERTS[name].task]), notes(name)
        shares = [
            f"{result[side][metric]:.1%}"
            for metric in ("exact_match", "contains_answer")
            for side in ("base", "adapter")
        ]
        counts = f"{result['adapter']['rows']} | {result['steps']} | {result['bytes']:,}"
        gains.append(f"| `{name}` | {result['form']} | {' | '.join(shares)} | {counts} |")
        prompt = task.templates[0].replace("\n", "⏎") + (", ..." if task.templates[1:] else "")
        cells = (f"`{prompt}`", f"{result['rows_trained']:,}", said["data"], said["data_licence"])
        data.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*gains, "", *data]) + "\n"


def with_tables(readme: str, results: Mapping[str, Any]) -> str:
    """The document, with new tables between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(results)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the example adapters.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERTS)}")
    parser.add_argument("--workers", type=int, default=1, help="processes at once, a core each")
    parser.add_argument("--steps", type=int, help="fewer, to try the script")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where files and tables go")
    parser.add_argument("--work", type=Path, default=DATA_DIR / "experts", help="scratch")
    options = parser.parse_args()
    names = options.names or list(EXPERTS)
    place = Place(ensure_demo_base(DATA_DIR).resolve(), options.work.resolve(), TaskRows(DATA_DIR))
    place.task_rows.build([EXPERTS[name].task for name in names], place.processes)
    workshop = Workshop(place, options.out, options.steps)
    with tqdm(total=len(names), desc="adapters") as bar:

        def make(name: str) -> None:
            workshop.make(name)
            bar.update()

        do_all([partial(make, name) for name in names], place.processes, options.workers)
    workshop.write_tables()


if __name__ == "__main__":
    main()
