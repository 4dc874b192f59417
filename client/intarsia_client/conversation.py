"""A conversation at the terminal: its history, its slash commands, its loop."""

from collections.abc import Iterator
from contextlib import closing

import click

from intarsia_client.client import Client
from intarsia_client.errors import IntarsiaError
from intarsia_client.options import ChatOptions
from intarsia_client.types import Json

SLASH_COMMANDS = (
    "/reset forgets what was said, /model NAME changes the model, /quit or Ctrl-D leaves"
)


class Conversation:
    """Mutable. Remembers each turn whose answer came to its end, and sends them with the next."""

    def __init__(
        self, client: Client, model: str, system: str | None, options: ChatOptions
    ) -> None:
        self.model = model
        self._client, self._options = client, options
        self._opening: list[Json] = [{"role": "system", "content": system}] if system else []
        self._messages = self._opening

    def reset(self) -> None:
        """Forgets everything but the system message."""
        self._messages = self._opening

    def ask(self, text: str) -> Iterator[str]:
        """The answer to `text`, piece by piece."""
        messages = [*self._messages, {"role": "user", "content": text}]
        pieces = []
        stream = self._client.stream_chat(messages, model=self.model, **self._options)
        with closing(stream) as chunks:
            for chunk in chunks:
                pieces.append(chunk.text)
                yield chunk.text
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]


def show_answer(conversation: Conversation, text: str) -> None:
    """Writes the answer to standard output as it comes."""
    for piece in conversation.ask(text):
        click.echo(piece, nl=False)
    click.echo()


def talk(conversation: Conversation) -> None:
    """Reads lines from standard input and answers them, until it ends or is told to."""
    click.echo(f"{conversation.model}: {SLASH_COMMANDS}.")
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return click.echo()
        if line.startswith("/"):
            if not _obey(conversation, line):
                return None
        elif line:
            _answer(conversation, line)


def _obey(conversation: Conversation, command: str) -> bool:
    """Whether the conversation goes on."""
    match command.split():
        case ["/quit"]:
            return False
        case ["/reset"]:
            conversation.reset()
        case ["/model", name]:
            conversation.model = name
        case _:
            click.echo(f"{SLASH_COMMANDS}.")
    return True


def _answer(conversation: Conversation, text: str) -> None:
    """Neither an error nor Ctrl-C ends the conversation."""
    try:
        show_answer(conversation, text)
    except IntarsiaError as error:
        click.echo(f"Error: {error.summary}", err=True)
    except KeyboardInterrupt:
        click.echo(" (stopped)")
