"""Guesses are what followed the last time, as many as pay by how often they were right."""

from collections.abc import Sequence
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.drafter import LOOKED_FOR, Drafter

ALONE = 1  # tokens beside a sequence's drafts, in a step of its own


def guesses(drafter: Drafter, tokens: Sequence[int], most: int) -> list[int]:
    """What a drafter guesses that has always been right."""
    drafter.draft(tokens, most, ALONE)
    drafter._chance = 1.0
    return list(drafter.draft(tokens, most, ALONE))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], []),
        ([1], []),
        ([1, 2], []),
        ([1, 2, 3, 4], []),
        ([7, 7], []),
        ([7, 7, 7], [7, 7, 7]),
        ([1, 2, 5, 1, 2], [5, 1, 2]),  # goes on after itself
        ([1, 2, 5, 1, 2, 6, 1, 2], [6, 1, 2]),  # the latest
        ([3, 1, 2, 5, 8, 1, 2, 6, 3, 1, 2], [5, 8, 1]),  # the longest
        ([1, 2, 5, 6, 7, 8, 1, 2], [5, 6, 7]),
        ([2, 1, 5, 1, 2], []),
    ],
)
def test_guesses_are_what_followed_the_last_time(tokens: list[int], expected: list[int]) -> None:
    assert guesses(Drafter(), tokens, 3) == expected


def continued(tokens: Sequence[int], count: int) -> list[int]:
    """The same, slowly: token by token, from the nearest earlier occurrence."""
    for size in LOOKED_FOR:
        for end in range(len(tokens) - 1, size - 1, -1):
            if list(tokens[end - size : end]) == list(tokens[-size:]):
                made = list(tokens)
                for index in range(count):
                    made.append(made[end + index])
                return made[len(tokens) :]
    return []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(1, 5), max_size=12))
def test_guesses_are_right_however_tokens_come(tokens: list[int], pieces: list[int]) -> None:
    drafter, at = Drafter(), 0
    for piece in pieces:
        at = min(at + piece, len(tokens))
        known = tokens[:at]
        assert guesses(drafter, known, 4) == continued(known, 4)


def test_no_more_are_drafted_than_asked_for() -> None:
    assert guesses(Drafter(), [1] * 20, most=0) == []
    assert guesses(Drafter(), [1] * 20, most=1) == [1]


def drafted(following: Sequence[int], most: int, num_beside: int) -> tuple[int, int]:
    """Guesses that were computed and steps taken while a sequence goes on like this."""
    drafter, tokens, num_drafts, steps = Drafter(), [1] * 8, 0, 0
    whole = [*tokens, *following]
    while len(tokens) < len(whole):
        drafts = drafter.draft(tokens, most, num_beside)
        pairs = zip(drafts, whole[len(tokens) :], strict=False)
        right = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        tokens = whole[: len(tokens) + right + 1]
        num_drafts, steps = num_drafts + len(drafts), steps + 1
    return num_drafts, steps


def test_a_sequence_that_repeats_itself_takes_few_steps() -> None:
    _, steps = drafted([1] * 180, most=8, num_beside=ALONE)
    assert steps <= 180 / 9 + 12


@pytest.mark.parametrize("num_beside", [1, 8, 64])
def test_guesses_that_are_always_wrong_are_soon_computed_no_more(num_beside: int) -> None:
    wrong = [token for new in range(200) for token in (new + 2, 1, 1)]
    num_drafts, steps = drafted(wrong, most=8, num_beside=num_beside)
    assert steps == len(wrong)
    assert num_drafts < 30


def test_a_sequence_that_begins_to_repeat_itself_has_drafts_again() -> None:
    drafter, tokens = Drafter(), [1, 2] * 4
    for token in range(100, 160):
        tokens += [token, 1, 2]
        drafter.draft(tokens, 8, num_beside=16)
    assert drafter.draft(tokens, 8, num_beside=16) == ()
    tokens += [159, 1, 2] * 6
    for end in range(len(tokens) - 17, len(tokens) + 1):
        drafts = drafter.draft(tokens[:end], 8, num_beside=16)
    assert drafts[:3] == (159, 1, 2)


def test_a_full_step_has_drafts_of_sure_sequences_only() -> None:
    drafter = Drafter()
    assert drafter.draft([1] * 8, 8, num_beside=500) == ()
    for length in range(9, 40):
        drafter.draft([1] * length, 8, num_beside=500)
    assert drafter.draft([1] * 40, 8, num_beside=500) != ()
