"""Plays a plan with Locust and without a screen: users share its asks and keep the answers."""

import time
from collections import deque

import gevent
from gevent.event import AsyncResult, Event
from locust import task
from locust.env import Environment
from locust.exception import StopUser

from loadtests.generator.answers import Answer
from loadtests.generator.asking import Asker
from loadtests.generator.plan import Plan


class Game:
    """A plan under way. Times are of `time.perf_counter`, but for the process's own `cpu_s`."""

    def __init__(self, plan: Plan) -> None:
        self.answers: list[Answer] = []
        self.start_s = self.cpu_s = 0.0
        self._asks = deque(plan.asks)
        self._missing = plan.users
        self._all_here, self._end = Event(), AsyncResult()
        self._playing = plan.users

    def join(self, asker: Asker) -> None:
        """Play until no ask is left; nobody begins before everybody is here.

        A mistake of ours ends the game, and is no answer.
        """
        try:
            self._play(asker)
        except Exception as error:
            self._end.set_exception(error)

    def _play(self, asker: Asker) -> None:
        self._missing -= 1
        if not self._missing:
            self.start_s, self.cpu_s = time.perf_counter(), -time.process_time()
            self._all_here.set()
        self._all_here.wait()
        while self._asks:
            ask = self._asks.popleft()
            gevent.sleep(max(0.0, self.start_s + ask.at_s - time.perf_counter()))
            self.answers.append(asker.ask(ask.body))
        self._playing -= 1
        if not self._playing:
            self.cpu_s += time.process_time()
            self._end.set(None)

    def wait(self) -> None:
        """Until every user has played; raises what went wrong in the generator itself."""
        self._end.get()


def play(plan: Plan) -> tuple[Game, Environment]:
    """The finished game, and Locust's environment with its statistics."""
    game = Game(plan)

    class Player(Asker):
        @task
        def play(self) -> None:
            game.join(self)
            raise StopUser

    environment = Environment(user_classes=[Player], host=plan.url, catch_exceptions=False)
    runner = environment.create_local_runner()
    runner.start(plan.users, spawn_rate=plan.users)
    game.wait()
    runner.quit()
    return game, environment
