"""Guesses of a sequence's next tokens, without a draft model: what followed the last time.

A sequence whose last tokens were there before may go on as it did then ("prompt lookup", vLLM's
method `ngram`). A guess that is computed costs its share of a step, and gains a token if it is
right. How likely that is, each sequence learns from its own guesses, also from those that were not
computed: one whose guesses are wrong soon has none computed, and has again once they would have
been right. Knows tokens alone; neither steps nor pages.
"""

from collections.abc import Sequence

LOOKED_FOR = (3, 2)  # last tokens that are looked for, the most first
FIRST_CHANCE = 0.5  # of a guess to be right, before any was made
MEMORY = 0.8  # of that chance, what stays after one more guess
WEIGHTS_AS_TOKENS = 16  # a step reads the weights for as long as it computes so many tokens


class Drafter:
    """How one sequence may go on, and how likely that is. Always asked about the same sequence."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # tokens -> where those after them begin
        self._num_read = 0
        self._guess: list[int] = []  # of the tokens from `_num_read` on
        self._chance = FIRST_CHANCE

    def draft(self, tokens: Sequence[int], most: int, num_beside: int) -> tuple[int, ...]:
        """At most `most` guesses of what follows `tokens`, as many as pay in a step.

        `num_beside` tokens are computed in it anyway.
        """
        self._learn(tokens)
        self._read(tokens)
        self._guess = self._continuation(tokens, max(most, 1))
        count = 0
        while count < min(most, len(self._guess)) and self._pays(count, num_beside):
            count += 1
        return tuple(self._guess[:count])

    def _learn(self, tokens: Sequence[int]) -> None:
        """Compare the last guess with what came."""
        for guessed, came in zip(self._guess, tokens[self._num_read :], strict=False):
            self._chance = MEMORY * self._chance + (1 - MEMORY) * (guessed == came)
            if guessed != came:
                break

    def _read(self, tokens: Sequence[int]) -> None:
        for end in range(self._num_read, len(tokens)):
            for size in LOOKED_FOR:
                if end >= size:
                    self._after[tuple(tokens[end - size : end])] = end
        self._num_read = len(tokens)

    def _continuation(self, tokens: Sequence[int], count: int) -> list[int]:
        """What followed the latest earlier occurrence, with itself after it where that overlaps."""
        for size in LOOKED_FOR:
            if (start := self._after.get(tuple(tokens[-size:]))) is not None:
                period = len(tokens) - start
                return [tokens[start + index % period] for index in range(count)]
        return []

    def _pays(self, index: int, num_beside: int) -> bool:
        """Whether guess `index` is right more often than its share of the step's time."""
        num_tokens = num_beside + index
        return self._chance ** (index + 1) >= num_tokens / (num_tokens + WEIGHTS_AS_TOKENS)
