"""Loops as machine code: compiled by Numba when first called, kept on disk, good for their sources.

Code lies where Numba finds a place it may write: `NUMBA_CACHE_DIR`, beside the source, or the
user's cache. Numba keys it by its own version, the processor and the file of the loop; but a loop
holds the code of what it calls, and that may be in another file. So here it is keyed by the texts
of all files of its package that it imports, directly or not: never by times, so that a copied or
moved checkout compiles nothing anew.
"""

import ast
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from numba import njit
from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile

Loop = TypeVar("Loop", bound=Callable[..., Any])
PLACE = "NUMBA_CACHE_DIR"


def compile_and_keep(loop: Loop, package: str, **settings: Any) -> Loop:
    """`loop`, of a module in `package`, as machine code, run without the interpreter's lock."""
    made = njit(nogil=True, **settings)(loop)
    try:
        made._cache = _KeptCode(loop, package)
    except RuntimeError as error:  # no place to keep code: slower to start, nothing else
        logging.getLogger(__name__).info("compiled code is not kept: %s", error)
    compiled: Loop = made
    return compiled


def keep_in_need(place: Path) -> None:
    """Have code kept in `place` if Numba finds no other; to be said before loops are imported."""
    try:
        FunctionCache(keep_in_need)
    except RuntimeError:
        os.environ[PLACE] = str(place.absolute())
        config.reload_config()


class _KeptCode(FunctionCache):  # type: ignore[misc]
    """Numba's own, with another idea of what code is out of date."""

    def __init__(self, loop: Callable[..., Any], package: str) -> None:
        super().__init__(loop)
        sources = digest_of_sources(Path(loop.__code__.co_filename), loop.__module__, package)
        self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, sources)

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        """Around all reading and writing: what cannot be read or kept is compiled, no worse."""
        try:
            yield
        except (OSError, EOFError, UnpicklingError) as error:
            logging.getLogger(__name__).warning("compiled code at %s: %s", self._cache_path, error)
            with suppress(OSError):
                self._cache_file.flush()  # a damaged index would be as damaged next time


@cache
def digest_of_sources(file: Path, module: str, package: str) -> str:
    """Of `file`, which is `module` of `package`, and of what it imports from that package."""
    root = file.resolve().parents[module.count(".")]
    found, new = set[Path](), {file.resolve()}
    while new:
        found |= new
        new = {each for known in new for each in _imports(known, root, package)} - found
    texts = ((str(each.relative_to(root)), each.read_bytes()) for each in sorted(found))
    named = (f"{name}:{hashlib.sha256(text).hexdigest()}" for name, text in texts)
    return hashlib.sha256("\n".join(named).encode()).hexdigest()


@cache
def _imports(file: Path, root: Path, package: str) -> frozenset[Path]:
    """The files under `root` of the modules of `package` that `file` imports names from."""
    named = (root.joinpath(*name.split(".")) for name in _imported_names(file.read_text(), package))
    return frozenset(path for name in named if (path := name.with_suffix(".py")).is_file())


def _imported_names(source: str, package: str) -> Iterator[str]:
    """Modules of `package` that `source` imports from, and what might be modules of theirs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
