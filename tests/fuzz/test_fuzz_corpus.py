"""Every file of the corpus, and mutations of valid ones: an adapter, or refused; never a crash."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.fuzz_files import Read, reader, seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEEDS = seeds()
STARTS = (b"", b"PK\3\4", b"\x1f\x8b", b"\2\0\0\0\0\0\0\0{")
SPECIAL = (b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"-1", b"1e999", b"NaN", b"null", b"[]")
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.fixture(scope="module")
def is_adapter() -> Iterator[Read]:
    with reader() as read:
        yield read


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_file_of_the_corpus_is_read_or_refused(path: Path, is_adapter: Read) -> None:
    is_adapter(path.read_bytes())


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_seed_is_an_adapter(name: str, is_adapter: Read) -> None:
    assert is_adapter(SEEDS[name])


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid file after some cuts, insertions, overwritten and repeated bytes."""
    data = draw(st.sampled_from(sorted(SEEDS.items())))[1]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = draw(st.integers(at, min(len(data), at + 16)))
        new = draw(st.one_of(st.binary(max_size=16), st.sampled_from(SPECIAL), st.just(data[:end])))
        data = data[:at] + new + data[end:]
    return data


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=mutations())
def test_mutated_file_is_read_or_refused(data: bytes, is_adapter: Read) -> None:
    is_adapter(data)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64), start=st.sampled_from(STARTS))
def test_noise_is_refused(data: bytes, start: bytes, is_adapter: Read) -> None:
    assert not is_adapter(start + data)
