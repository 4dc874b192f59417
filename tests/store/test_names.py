"""Names, references and digests: what follows the grammar and what does not."""

import pytest

from adapters_store.errors import InvalidName
from adapters_store.names import (
    Reference,
    check_alias,
    check_digest,
    check_name,
    parse_reference,
)

DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize("name", ["a", "0", "a" * 64, "sql", "team/sql-v1.2_b", f"{'n' * 64}/a"])
def test_name_of_the_grammar_is_accepted(name: str) -> None:
    check_name(name)
    assert parse_reference(name) == Reference(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "A",
        ".",
        "..",
        "-a",
        "_a",
        "a b",
        "a\n",
        "é",
        "a/b/c",
        "/a",
        "a/",
        "a/../b",
        "٣",
    ],
)
def test_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match=r"^name ") as caught:
        check_name(name)
    assert caught.value.value == name


def test_reference_selects_version_alias_or_digest() -> None:
    assert parse_reference("sql@prod") == Reference("sql", alias="prod")
    assert parse_reference("sql@3") == Reference("sql", version=3)
    assert parse_reference(f"ns/sql@{DIGEST}") == Reference("ns/sql", digest=DIGEST)


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "sql@", "@3", "sql@0", "sql@03", "sql@-1", "sql@3@3", "sql@٣", "SQL@1"),
        *("sql@1234567890", f"sql@{DIGEST}0", f"sql@{DIGEST.upper()}", "sql@sha256:", "sql@3\n"),
    ],
)
def test_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="reference"):
        parse_reference(text)


@pytest.mark.parametrize("text", ["", "sha256:", DIGEST[:-1], DIGEST + "0", DIGEST.upper()])
def test_malformed_digest_is_refused(text: str) -> None:
    check_digest(DIGEST)
    with pytest.raises(InvalidName, match="digest"):
        check_digest(text)


@pytest.mark.parametrize("text", ["a", "prod", "a" * 64, "3x", "1.5", "v3", "sha-256", "a.b_c-d"])
def test_alias_of_the_grammar_is_accepted(text: str) -> None:
    check_alias(text)
    assert parse_reference(f"ns/sql@{text}") == Reference("ns/sql", alias=text)


@pytest.mark.parametrize(
    "text", ["", "3", "007", "a" * 65, "sha256", "sha256x", "Prod", "a/b", "a@b", "-a", "a\n", "٣"]
)
def test_alias_that_could_be_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="alias") as caught:
        check_alias(text)
    assert caught.value.value == text


@pytest.mark.parametrize("text", ["sql", "ns/sql@3", "sql@prod", f"sql@{DIGEST}"])
def test_reference_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_reference(text)) == text
