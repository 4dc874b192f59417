"""The shipped dashboard shows what a running server really exports; compose mounts what exists."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from servers import RunningServer, running_server

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "intarsia.json").read_text())
NAME = re.compile(r"\b(?:intarsia|vllm:)[a-z0-9_:]+")
LABELS = re.compile(r"by \(([a-z_, ]+)\)")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
SOURCE = {"type": "prometheus", "uid": "prometheus"}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def exported(tiny_base: Path) -> dict[str, set[str]]:
    """Names of all series of a server that may fuse and has served, with their labels."""
    with running_server(tiny_base, mode="auto") as server:
        _serve_something(server)
        with server.http() as http:
            page = http.get("/metrics").text
    families = list(text_string_to_metric_families(page))
    names = {f.name + suffix: set[str]() for f in families for suffix in SUFFIXES[f.type]}
    for sample in (sample for family in families for sample in family.samples):
        names.setdefault(sample.name, set()).update(sample.labels)
    return names


def _serve_something(server: RunningServer) -> None:
    server.publish("own")
    with server.http() as http:
        body = {"model": "own", "prompt": "x", "max_tokens": 3, "mode": "fused"}
        assert http.post("/v1/completions", json=body).status_code == 200
        merge = {"method": "overlap_average"}
        mix = {"adapters": [{"id": "own", "weight": 0.5}], "merge": merge, "mode": "batched"}
        answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, **mix})
        assert answer.status_code == 200, answer.text


def test_every_metric_of_the_dashboard_is_exported(exported: dict[str, set[str]]) -> None:
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(shown) > 20
    assert shown - exported.keys() == set()


def test_panels_group_by_labels_that_the_series_have(exported: dict[str, set[str]]) -> None:
    grouped = [expression for expression in expressions() if LABELS.search(expression)]
    assert grouped
    for expression in grouped:
        wanted = set(re.split(", ?", LABELS.findall(expression)[0]))
        for name in NAME.findall(expression):
            if exported[name]:  # counted at least once
                assert wanted <= exported[name], expression


def test_counters_are_shown_as_rates() -> None:
    for expression in expressions():
        for name in NAME.findall(expression):
            is_counted = name.endswith(("_total", "_bucket"))
            assert is_counted == (f"rate({name}[$__rate_interval])" in expression), expression


def test_the_dashboard_asks_the_provisioned_source() -> None:
    [source] = _yaml(MONITORING / "grafana" / "datasource.yaml")["datasources"]
    assert {key: source[key] for key in SOURCE} == SOURCE
    asked = [
        own["datasource"] for panel in DASHBOARD["panels"] for own in (panel, *panel["targets"])
    ]
    assert all(own == SOURCE for own in asked)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_compose_mounts_files_that_exist_where_they_are_looked_for() -> None:
    services = _yaml(ROOT / "compose.yaml")["services"]
    volumes = [volume for own in services.values() for volume in own.get("volumes", ())]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in volumes}
    files = [source for source in mounted.values() if source.startswith("./")]
    assert len(files) == 4
    assert [source for source in files if not (ROOT / source).is_file()] == []
    [provider] = _yaml(MONITORING / "grafana" / "dashboards.yaml")["providers"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert mounted[home] == "./monitoring/grafana/intarsia.json"


def test_prometheus_and_grafana_ask_services_of_compose() -> None:
    services = _yaml(ROOT / "compose.yaml")["services"]
    [scrape] = _yaml(MONITORING / "prometheus.yml")["scrape_configs"]
    [source] = _yaml(MONITORING / "grafana" / "datasource.yaml")["datasources"]
    [target] = scrape["static_configs"][0]["targets"]
    for host, port in (target.split(":"), source["url"].removeprefix("http://").split(":")):
        assert any(own.split(":")[-1] == port for own in services[host]["ports"])


def test_the_image_gets_every_folder_that_it_copies() -> None:
    allowed = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sources = [source for line in copied for source in line.split()]
    assert len(sources) > 6
    assert [source for source in sources if f"!{source}" not in allowed] == []


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
