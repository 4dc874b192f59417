"""An apt that keeps everything in one folder: its configuration, and where its lists lie.

Knows nothing of the tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from adapters_store.tasks.errors import PackageUnavailable
from adapters_store.tasks.packages import Package

ARCHITECTURE = "amd64"  # of the pinned packages and index, whatever machine this is
INDEX_FILES = {
    "Packages": f"*_dists_{{release}}_main_binary-{ARCHITECTURE}_Packages",
    "Translation-en": "*_dists_{release}_main_i18n_Translation-en",
    "Translation-de": "*_dists_{release}_main_i18n_Translation-de",
}
SETTINGS = """\
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "";
Acquire::GzipIndexes "false";
#clear Acquire::Languages;
Acquire::Languages {{ {languages} }};
"""


def apt_config(folder: Path, languages: Sequence[str] = ("none",)) -> Path:
    """The file that makes apt work in `folder`, with descriptions in `languages`."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    file = folder / "apt.conf"
    settings = {"folder": folder.absolute(), "architecture": ARCHITECTURE}
    quoted = "".join(f'"{language}"; ' for language in languages)
    file.write_text(SETTINGS.format(**settings, languages=quoted))
    return file


def index_files(package: Package, folder: Path, said: str) -> Mapping[str, Path]:
    """What apt fetched about the release `package.version`; raises `PackageUnavailable`.

    `said` are apt's warnings: it goes on when one of its sources does not answer.
    """
    found = {}
    for name, pattern in INDEX_FILES.items():
        files = sorted((folder / "lists").glob(pattern.format(release=package.version)))
        if not files:
            reason = f"apt's sources have no {name} of {package.version} main. {said}"
            raise PackageUnavailable(package.name, package.version, "apt-get update", reason)
        found[name] = files[0]
    return found
