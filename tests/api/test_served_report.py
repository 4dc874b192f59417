"""`intarsia evaluate --report` of what a running server really answers."""

import json
from pathlib import Path

from click.testing import CliRunner
from evaluation_runs import jsonl, rows_of
from intarsia_client import Client
from intarsia_client.evaluating import evaluate
from parsed_pages import parsed
from servers import RunningServer

MIX = json.dumps({"adapters": [{"id": "kinds/element"}, {"id": "kinds/bias"}], "name": "mix"})
METRICS = ("accuracy", "f1")
BAR = ("--promote", "kinds/element@reported", "--candidate", "kinds/element@1", "--min", "-1")


def test_report_has_every_score_and_is_the_same_later(
    server: RunningServer, tmp_path: Path
) -> None:
    for name, count in (("small", 4), ("smaller", 2)):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(rows_of(count)))
    data = [f"--data={tmp_path / name}.jsonl" for name in ("small", "smaller")]
    asked = ["base", "kinds/element", MIX, *data, *(f"--metric={name}" for name in METRICS)]
    first, later = tmp_path / "first.html", tmp_path / "later.html"
    to_server = ["--url", server.url, "--json"]
    begun = [*asked, "--max-tokens", "4", *BAR, "--min-rows", "1", "--report", str(first)]
    result = CliRunner().invoke(evaluate, [*to_server, *begun])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    page = parsed(first.read_text("utf-8"))
    shown = {float(each.attributes["value"]) for each in page.all("data")}
    for each in (*found["results"], *found["overall"]):
        for score in each["metrics"].values():
            assert {score["mean"], score["low"], score["high"]} <= shown
    with Client(server.url) as client:
        examples = page.all("section", id="examples")[0].text
        prompts = {row.prompt for row in client.evaluation_rows(found["id"])}
        assert any(prompt and prompt in examples for prompt in prompts)
    result = CliRunner().invoke(
        evaluate, [*to_server, "--from", found["id"], "--report", str(later)]
    )
    assert result.exit_code == 0, result.output
    assert later.read_bytes() == first.read_bytes()
