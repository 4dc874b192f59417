"""How long steps take by their tokens, learned from those that were; what that leaves for others.

A step takes `a + b * tokens` seconds, about: weights are read once, then each token is computed.
Which share either has depends on the machine, so neither is a setting.
"""

import sys

MEMORY = 0.95  # of what is known, what stays after a step
LEAST = 16  # tokens that prompts, or the less urgent alone, get always: single ones teach nothing
OUTLIER = 2.0  # a step that took more times what was foretold was held up, and counts as so many
SLOWDOWN = 0.25  # the most that less urgent tokens add to the time of a step, as a share
PROMPTS_S = 0.3  # of a step of prompts beside streams, which wait meanwhile: longer ones pay less
ALONE_S = 0.2  # of a step of the less urgent alone: who comes waits for its end
TILE = 32  # products of a multiple of so many rows cost least a row; one more costs up to 35 %

UNBOUNDED = sys.maxsize


class Pace:
    """A line through the latest steps, and through a step of no tokens in no time."""

    def __init__(self) -> None:
        self._steps, self._tokens, self._seconds = 1.0, 0.0, 0.0  # sums, fading
        self._squares, self._products = 0.0, 0.0

    def note(self, num_tokens: int, seconds: float) -> None:
        """A step of `num_tokens` has taken `seconds`."""
        if self._tokens and (foretold := self._predicted(num_tokens)) > 0.0:
            seconds = min(seconds, OUTLIER * foretold)
        self._steps = 1.0 + MEMORY * (self._steps - 1.0) + 1.0
        self._tokens = MEMORY * self._tokens + num_tokens
        self._seconds = MEMORY * self._seconds + seconds
        self._squares = MEMORY * self._squares + num_tokens**2
        self._products = MEMORY * self._products + num_tokens * seconds

    def prompt_room(self, num_streams: int, num_prompts: int) -> int:
        """Tokens that so many waiting prompts have in a step with so many streams.

        The step takes `PROMPTS_S`, or twice as long as the streams alone where that is more. Where
        more prompts wait than there are streams, as many times as long: fewer wait for more. All
        in all they are whole tiles if that leaves the prompts any.
        """
        streams, share = self._predicted(num_streams), max(1.0, num_prompts / num_streams)
        room = max(LEAST, self._within(max(share * PROMPTS_S - streams, streams)))
        tiled = (num_streams + room) // TILE * TILE - num_streams
        return tiled if tiled >= LEAST else room

    def room(self, num_tokens: int) -> int:
        """Less urgent tokens that may join a step of `num_tokens` urgent ones, at least one."""
        if num_tokens:
            return max(1, self._within(SLOWDOWN * self._predicted(num_tokens)))
        return max(LEAST, self._within(ALONE_S - self._predicted(0)))

    def _within(self, seconds: float) -> int:
        slope = self._slope()
        return int(min(seconds / slope, UNBOUNDED)) if slope > 0 else UNBOUNDED

    def _predicted(self, num_tokens: int) -> float:
        mean_tokens, mean_seconds = self._tokens / self._steps, self._seconds / self._steps
        return max(0.0, mean_seconds + self._slope() * (num_tokens - mean_tokens))

    def _slope(self) -> float:
        """Seconds a token; 0 where more tokens took no longer."""
        spread = self._squares - self._tokens**2 / self._steps
        together = self._products - self._tokens * self._seconds / self._steps
        return max(0.0, together / spread) if spread > 0 else 0.0
