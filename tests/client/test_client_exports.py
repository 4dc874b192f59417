"""What the package offers, and what importing it must not bring along."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import intarsia_client
import pytest

ROOT = Path(__file__).parents[2]
PUBLIC_MODULES = (
    "client",
    "async_client",
    "diagnosis",
    "errors",
    "evaluation",
    "generation",
    "jobs",
    "options",
    "types",
)
FOR_SUBCLASSING_ONLY = {"Answer", "Generation", "GenerationOptions"}


def test_every_public_class_is_exported() -> None:
    defined = set()
    for name in PUBLIC_MODULES:
        module = importlib.import_module(f"intarsia_client.{name}")
        for kind_name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and not kind_name.startswith("_"):
                defined.add(kind_name)
    assert {*intarsia_client.__all__} == defined - FOR_SUBCLASSING_ONLY | {"__version__"}


def test_every_exported_name_exists_once() -> None:
    assert len(set(intarsia_client.__all__)) == len(intarsia_client.__all__)
    for name in intarsia_client.__all__:
        assert hasattr(intarsia_client, name)


@pytest.mark.parametrize("project", ["pyproject.toml", "client/pyproject.toml"])
def test_projects_and_package_have_one_version(project: str) -> None:
    declared = tomllib.loads((ROOT / project).read_text())["project"]["version"]
    assert declared == intarsia_client.__version__


def test_both_projects_declare_the_same_commands_apart_from_the_full_ones() -> None:
    def commands(project: str) -> dict[str, str]:
        declared = tomllib.loads((ROOT / project).read_text())["project"]
        assert declared["scripts"] == {"intarsia": "intarsia_client.cli:main"}
        found: dict[str, str] = declared["entry-points"]["intarsia.commands"]
        return found

    full, light = commands("pyproject.toml"), commands("client/pyproject.toml")
    offline = {"convert", "diagnose", "export", "extract", "merge", "sign", "tasks", "train"}
    assert full.keys() - light.keys() == {*offline, "plan", "search", "serve"}
    assert light.items() <= full.items()


def imported_by(statements: str) -> set[str]:
    """Top-level modules that are in memory after a fresh interpreter ran `statements`."""
    code = f"import sys; {statements}; print(*sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "client")}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in run.stdout.split()}


def test_no_module_of_the_client_imports_server_or_torch() -> None:
    modules = [f"intarsia_client.{m.name}" for m in pkgutil.iter_modules(intarsia_client.__path__)]
    imported = imported_by(f"import {', '.join(modules)}")
    assert "httpx" in imported
    assert not imported & {"torch", "server", "adapters_store", "transformers", "pydantic"}
