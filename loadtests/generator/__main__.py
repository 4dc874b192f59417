"""Play one plan without a screen: every answer as JSON, Locust's own table as CSV.

    python -m loadtests.generator PLAN --out DIR

Writes `answers.json` (every answer, and what the generator itself cost) and `stats.csv`.
"""

import argparse
import csv
import json
from pathlib import Path

from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from loadtests.generator.plan import Plan
from loadtests.generator.playing import play


def main() -> None:
    parser = argparse.ArgumentParser(description="Play one plan of requests with Locust.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    plan = Plan.read(asked.plan)
    game, environment = play(plan)
    answers = [answer.to_json(game.start_s) for answer in game.answers]
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "answers.json").write_text(json.dumps({"cpu_s": game.cpu_s, "answers": answers}))
    with (asked.out / "stats.csv").open("w", newline="") as file:
        StatsCSV(environment, PERCENTILES_TO_REPORT).requests_csv(csv.writer(file))


if __name__ == "__main__":
    main()
