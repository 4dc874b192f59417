"""Load by hand, with Locust's web page or without it.

    locust -f loadtests/generator/locustfile.py --host http://127.0.0.1:8000

Each user asks one request after another, seeded prompts of a fixed length, until Locust stops it.
"""

from itertools import count

import httpx
from locust import events, task
from locust.argument_parser import LocustArgumentParser

from loadtests.bodies import body
from loadtests.generator.asking import Asker
from loadtests.workload import Length, Workload, asks

MANY = 1000  # requests of a user, then the same again


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_flags(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--model", action="append", help="in requests; if repeated, in turn; else the base")
    add("--prompt-tokens", type=int, default=128)
    add("--new-tokens", type=int, default=128)


class Completions(Asker):
    """Asks for completions, as fast as it gets them."""

    _seeds = count()

    def on_start(self) -> None:
        options = self.environment.parsed_options
        assert options is not None, "Locust read the command line"
        models = options.model or [self._base()]
        workload = Workload(
            MANY,
            Length(options.prompt_tokens),
            Length(options.new_tokens),
            at_once=1,
            adapters=len(models),
        )
        planned = asks(workload, next(self._seeds))
        self._bodies = [body(ask, models[ask.adapter or 0]) for ask in planned]
        self._turns = count()

    def _base(self) -> str:
        """As the server calls it, which lists it first."""
        name: str = httpx.get(f"{self.host}/v1/models").json()["data"][0]["id"]
        return name

    @task
    def complete(self) -> None:
        self.ask(self._bodies[next(self._turns) % MANY])
