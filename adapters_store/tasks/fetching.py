"""How packages reach the cache: by pip, npm and apt, each with the registries it is set up for.

Owns the commands and the checks of digests. A package is fetched into a scratch folder and moved
into the cache when whole, so that what was interrupted goes on where it stopped. Knows nothing of
what packages hold.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from adapters_store.tasks.apt_config import apt_config, index_files
from adapters_store.tasks.archives import Joined, open_archive
from adapters_store.tasks.errors import PackageCorrupt, PackageUnavailable
from adapters_store.tasks.packages import Package, Registry

PIP = (sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet")
NPM = ("npm", "pack", "--ignore-scripts", "--silent")
REASON_LINES = 6  # of a failed command's last words


class Cache:
    """A folder of packages, fetched when first asked for. Safe for several processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # commands run elsewhere

    def members(self, packages: Sequence[Package]) -> Mapping[str, bytes]:
        """The files of all `packages` that have some, by name.

        Raises `PackageUnavailable` or `PackageCorrupt`.
        """
        paths = [self.obtain(package) for package in packages]
        return Joined(open_archive(path) for path in paths if path is not None)

    def obtain(self, package: Package) -> Path | None:
        """Where the checked package lies; None for an installed library of the right version."""
        if package.registry == "installed":
            check_installed(package)
            return None
        kept = self._folder / package.file
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / f"{package.file}.lock"):
            if not kept.exists():
                with TemporaryDirectory(dir=self._folder) as scratch:
                    file = FETCHERS[package.registry](package, Path(scratch))
                    check(package, file).rename(kept)
        return check(package, kept)


def digest(path: Path) -> str:
    """The sha256 of a file; of a folder, that of its files' names and digests."""
    if path.is_dir():
        files = sorted(path.iterdir())
        listing = "".join(f"{digest(file)}  {file.name}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(package: Package, path: Path) -> Path:
    """`path` itself, once it is known to hold what is pinned."""
    if package.sha256 is not None and (found := digest(path)) != package.sha256:
        raise PackageCorrupt(path, found, package.sha256)
    return path


def check_installed(package: Package) -> None:
    """Other versions of a library may write other text."""
    try:
        found = version(package.name)
    except PackageNotFoundError:
        found = "not installed"
    if found != package.version:
        reason = f"{found}: install intarsia[tasks]"
        raise PackageUnavailable(package.name, package.version, "import", reason)


def pip_download(package: Package, scratch: Path) -> Path:
    """pip looks at nothing whose digest is not the pinned one."""
    pinned = scratch / "requirements.txt"
    pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    return run(package, [*PIP, f"--dest={scratch}", f"--requirement={pinned}"], scratch)


def npm_pack(package: Package, scratch: Path) -> Path:
    return run(package, [*NPM, f"{package.name}@{package.version}"], scratch)


def apt_download(package: Package, scratch: Path) -> Path:
    """apt reads its own sources but keeps its lists here, so that no root is needed."""
    apt = ("apt-get", f"--config-file={apt_config(scratch)}", "--quiet=2")
    answer(package, [*apt, "update"], scratch)
    return run(package, [*apt, "download", f"{package.name}={package.version}"], scratch)


def apt_index(package: Package, scratch: Path) -> Path:
    """The three files of the release's index, in a folder of their own."""
    config = apt_config(scratch, languages=("en", "de"))
    said = answer(package, ["apt-get", f"--config-file={config}", "--quiet=2", "update"], scratch)
    folder = scratch / package.file
    folder.mkdir()
    for name, file in index_files(package, scratch, said).items():
        file.rename(folder / name)
    return folder


def run(package: Package, command: Sequence[str], scratch: Path) -> Path:
    """The file that `command`, run in `scratch`, is to leave there."""
    said = answer(package, command, scratch)
    if not (scratch / package.file).exists():
        reason = said or f"no file {package.file}"
        raise PackageUnavailable(package.name, package.version, " ".join(command), reason)
    return scratch / package.file


def answer(package: Package, command: Sequence[str], folder: Path) -> str:
    """The last lines that `command` wrote; raises `PackageUnavailable` if it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PackageUnavailable(
            package.name, package.version, command[0], "is not installed here"
        ) from error
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    said = "\n".join(lines[-REASON_LINES:])
    if done.returncode != 0:
        reason = said or f"exit status {done.returncode}"
        raise PackageUnavailable(package.name, package.version, " ".join(command), reason)
    return said


FETCHERS: Mapping[Registry, Callable[[Package, Path], Path]] = {
    "pip": pip_download,
    "npm": npm_pack,
    "apt": apt_download,
    "apt-index": apt_index,
}
