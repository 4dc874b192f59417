"""The command `intarsia`: where its subcommands come from, what they print, how they fail."""

import functools
import io
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from intarsia_client import Client, cli, commands
from rich.console import Console

ROOT = Path(__file__).parents[2]
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}
MODELS = [{"id": "sql@3", "parent": "demo"}, {"id": "demo", "parent": None}]
FREED = {"deleted": ["sql@3"], "state": "gone", "bytes_freed": {"disk": 44232, "device": 9}}

ENTRY_POINTS = EntryPoints(
    [
        EntryPoint("adapters", "intarsia_client.commands:adapters", cli.COMMANDS),
        EntryPoint("chat", "intarsia_client.commands:chat", cli.COMMANDS),
        EntryPoint("broken", "nowhere.at_all:command", cli.COMMANDS),
    ]
)


class Server:
    """Answers every chat with its last message in capitals, a letter at a time."""

    def __init__(self, adapter: dict[str, Any]) -> None:
        self.adapter = adapter
        self.requests: list[httpx.Request] = []
        self.chats: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        match request.method, request.url.path:
            case "POST", "/v1/chat/completions":
                return self._chat(json.loads(request.content))
            case "GET", "/v1/models":
                return httpx.Response(200, json={"data": MODELS})
            case "GET", "/v1/adapters":
                return httpx.Response(200, json={"data": [self.adapter], "next_cursor": None})
            case "DELETE", _:
                return httpx.Response(200, json=FREED)
            case "GET", "/v1/adapters/missing":
                return httpx.Response(404, json={"error": {"message": "no\nsuch adapter"}})
            case "GET", path if path.endswith("/file"):
                return httpx.Response(200, content=b"weights")
            case _:
                return httpx.Response(200, json=self.adapter)

    def _chat(self, body: dict[str, Any]) -> httpx.Response:
        self.chats.append(body)
        text = body["messages"][-1]["content"]
        if text == "fail":
            return httpx.Response(429, json={"error": {"message": "full"}})
        pieces = [self._event(letter) for letter in text.upper()]
        return httpx.Response(200, text="".join([*pieces, "data: [DONE]\n\n"]))

    def _event(self, text: str) -> str:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return f"data: {json.dumps(HEAD | {'choices': [choice]})}\n\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, adapter_json: dict[str, Any]) -> Server:
    server = Server(adapter_json)
    transport = httpx.MockTransport(server)
    monkeypatch.setattr(commands, "Client", functools.partial(Client, transport=transport))
    return server


@pytest.fixture
def intarsia(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `intarsia *args` with the commands of ENTRY_POINTS installed."""

    def installed(**chosen: Any) -> EntryPoints:
        return ENTRY_POINTS.select(**chosen)

    monkeypatch.setattr(cli, "entry_points", installed)
    return lambda *args, **options: CliRunner().invoke(cli.main, args, **options)


Intarsia = Callable[..., Result]


def test_command_is_loaded_only_when_it_runs(intarsia: Intarsia) -> None:
    assert intarsia("chat", "--help").exit_code == 0
    assert isinstance(intarsia("broken").exception, ModuleNotFoundError)


def test_help_lists_the_commands_with_their_summaries(intarsia: Intarsia) -> None:
    *_, adapters, broken, chat = intarsia("--help").stdout.splitlines()
    assert adapters.split(None, 1) == ["adapters", "List, inspect, publish and delete adapters."]
    assert broken.split(None, 1) == ["broken", "(cannot run: there is no module nowhere.at_all)"]
    assert chat.split(None, 1) == ["chat", "Answer a prompt, or hold a conversation."]


HELP_OF_THE_FULL_PROJECT = """
import sys, tomllib
from importlib.metadata import EntryPoint, EntryPoints
from intarsia_client import cli

project = tomllib.loads(sys.stdin.read())["project"]
declared = project["entry-points"][cli.COMMANDS]
found = EntryPoints(EntryPoint(name, value, cli.COMMANDS) for name, value in declared.items())
cli.entry_points = lambda **chosen: found.select(**chosen)
cli.main(["--help"], standalone_mode=False)
assert "server" in sys.modules
assert "torch" not in sys.modules
"""


def test_help_of_the_full_project_does_not_import_torch() -> None:
    output = subprocess.check_output(
        [sys.executable, "-P", "-c", HELP_OF_THE_FULL_PROJECT],
        input=(ROOT / "pyproject.toml").read_text(),
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"},
        text=True,
    )
    assert "serve     Serve a base model" in output


def test_unknown_command_is_a_usage_error(intarsia: Intarsia) -> None:
    result = intarsia("nothing")
    assert (result.exit_code, "No such command" in result.output) == (2, True)


def test_commands_are_listed_by_name() -> None:
    found = cli.main.list_commands(click.Context(cli.main))
    assert found == sorted(set(found))


def test_prompt_is_answered_once_by_the_base(intarsia: Intarsia, server: Server) -> None:
    result = intarsia("chat", "hi")
    assert (result.exit_code, result.stdout) == (0, "HI\n")
    [body] = server.chats
    del body["stream_options"]
    message = {"role": "user", "content": "hi"}
    assert body == {"model": "demo", "messages": [message], "stream": True}


def test_piped_text_is_answered(intarsia: Intarsia, server: Server) -> None:
    assert intarsia("chat", "--model", "sql@3", input="a\nb").stdout == "A\nB\n"
    assert [request.url.path for request in server.requests] == ["/v1/chat/completions"]


def test_nothing_to_answer_is_a_usage_error(intarsia: Intarsia, server: Server) -> None:
    result = intarsia("chat", "--model", "m", input=" \n")
    assert (result.exit_code, server.chats) == (2, [])
    assert "give a PROMPT" in result.stderr


def test_chat_options_are_sent(intarsia: Intarsia, server: Server) -> None:
    adapters = ["--adapter", "sql@3=0.5", "--adapter", "ns/x@sha256:a"]
    limits = ["--max-tokens", "5", "--temperature", "0"]
    intarsia("chat", *adapters, "--system", "Be brief", *limits, "hi")
    [body] = server.chats
    members = [{"id": "sql@3", "weight": 0.5}, {"id": "ns/x@sha256:a", "weight": 1.0}]
    assert (body["adapters"], body["merge"]) == (members, {"method": "linear"})
    assert (body["max_tokens"], body["temperature"]) == (5, 0.0)
    assert body["messages"][0] == {"role": "system", "content": "Be brief"}


def test_one_adapter_needs_no_merge(intarsia: Intarsia, server: Server) -> None:
    intarsia("chat", "--adapter", "sql", "hi")
    [body] = server.chats
    assert body["adapters"] == [{"id": "sql", "weight": 1.0}]
    assert "merge" not in body


WRONG = [
    pytest.param(["--adapter", "a=b"], id="weight-is-no-number"),
    pytest.param(["--max-tokens", "0"], id="no-tokens"),
    pytest.param(["--temperature", "-1"], id="negative-temperature"),
]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_option_is_a_usage_error(
    intarsia: Intarsia, server: Server, options: list[str]
) -> None:
    assert intarsia("chat", *options, "hi").exit_code == 2
    assert server.requests == []


class Terminal(io.StringIO):
    """Standard input typed by a person."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Runs `intarsia chat --system S` where these lines are typed; what it wrote, out and err."""

    def run(*lines: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))
        commands.chat.main(["--system", "S"], standalone_mode=False)
        return capsys.readouterr()

    return run


Typed = Callable[..., tuple[str, str]]


def contents(chat: dict[str, Any]) -> list[str]:
    return [message["content"] for message in chat["messages"]]


def test_conversation_sends_its_history(typed: Typed, server: Server) -> None:
    out, _ = typed("hi", "", "there")
    assert [contents(chat) for chat in server.chats] == [["S", "hi"], ["S", "hi", "HI", "there"]]
    assert [chat["messages"][2]["role"] for chat in server.chats[1:]] == ["assistant"]
    assert "> HI\n> > THERE\n> \n" in out


def test_reset_forgets_all_but_the_system_message(typed: Typed, server: Server) -> None:
    typed("hi", "/reset", "there")
    assert contents(server.chats[1]) == ["S", "there"]


def test_model_can_be_changed_on_the_way(typed: Typed, server: Server) -> None:
    typed("hi", "/model sql@3", "there")
    assert [chat["model"] for chat in server.chats] == ["demo", "sql@3"]
    assert contents(server.chats[1]) == ["S", "hi", "HI", "there"]


def test_quit_ends_the_conversation(typed: Typed, server: Server) -> None:
    typed("/quit", "hi")
    assert server.chats == []


@pytest.mark.parametrize("line", ["/", "/what", "/model", "/model a b"])
def test_unknown_slash_command_explains_the_known_ones(
    typed: Typed, server: Server, line: str
) -> None:
    out, _ = typed(line)
    assert out.count("/reset") == 2
    assert server.chats == []


def test_failed_turn_is_shown_and_forgotten(typed: Typed, server: Server) -> None:
    _, err = typed("fail", "hi")
    assert err == "Error: full (HTTP 429)\n"
    assert contents(server.chats[1]) == ["S", "hi"]


def test_interrupted_turn_is_forgotten(
    typed: Typed, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(text: str) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(server, "_event", interrupt)
        out, _ = typed("hi", "/quit")
    assert "(stopped)" in out


def test_adapters_are_listed_in_a_table(intarsia: Intarsia, server: Server) -> None:
    result = intarsia("adapters", "list")
    header, row = result.stdout.splitlines()
    assert header.split() == ["id", "kinds", "layers", "entries", "size", "created"]
    assert row.split()[:6] == ["sql@3", "element", "1", "5,529", "44.2", "kB"]


def test_adapter_is_shown_with_its_effect(intarsia: Intarsia, server: Server) -> None:
    server.adapter["metadata"] = {"note": "[bold]:smile:"}
    lines = [line.split() for line in intarsia("adapters", "show", "sql").stdout.splitlines()]
    assert ["digest", "sha256:aa"] in lines
    assert ["note", "[bold]:smile:"] in lines
    layer = ["model.layers.0.self_attn.qkv_proj", "element", "5,529", "1.000%", "1.25"]
    assert layer in lines
    assert ["all", "5,529", "1.000%", "1.25"] in lines


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list"], lambda adapter: [adapter]),
        (["show", "sql"], lambda adapter: adapter),
        (["upload", "a.zip", "--name", "sql"], lambda adapter: adapter),
        (["delete", "sql", "--yes"], lambda _: FREED),
    ],
    ids=["list", "show", "upload", "delete"],
)
def test_json_is_what_the_server_answered(
    intarsia: Intarsia, server: Server, tmp_path: Path, arguments: list[str], expected: Any
) -> None:
    (tmp_path / "a.zip").write_bytes(b"x")
    given = [str(tmp_path / a) if a == "a.zip" else a for a in arguments]
    result = intarsia("adapters", *given, "--json")
    assert json.loads(result.stdout) == expected(server.adapter)


@pytest.mark.parametrize(("flags", "query"), [([], ""), (["--dry-run"], "dry_run=true")])
def test_upload_publishes_and_shows(
    intarsia: Intarsia, server: Server, tmp_path: Path, flags: list[str], query: str
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x")
    result = intarsia("adapters", "upload", str(path), "--name", "sql", *flags)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "sha256:aa" in result.stdout
    assert server.requests[0].url.query.decode() == query


def test_upload_on_a_terminal_draws_its_progress(
    intarsia: Intarsia, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x" * 200_000)
    monkeypatch.setattr(commands, "Console", functools.partial(Console, force_terminal=True))
    result = intarsia("adapters", "upload", str(path), "--name", "sql")
    assert result.exit_code == 0
    assert "200.0/200.0 kB" in result.stderr


@pytest.mark.parametrize(
    ("flags", "answer", "is_deleted"),
    [([], "", False), ([], "n\n", False), ([], "y\n", True), (["--yes"], "", True)],
)
def test_delete_asks_first(
    intarsia: Intarsia, server: Server, flags: list[str], answer: str, is_deleted: bool
) -> None:
    result = intarsia("adapters", "delete", "sql@3", *flags, input=answer)
    assert (result.exit_code == 0, bool(server.requests)) == (is_deleted, is_deleted)
    freed = "Deleted sql@3: 44,232 bytes of disk, 9 bytes of device freed.\n"
    assert (freed in result.stdout) is is_deleted


def test_download_writes_the_file(intarsia: Intarsia, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    result = intarsia("adapters", "download", "sql@3", str(path))
    assert (path.read_bytes(), result.exit_code) == (b"weights", 0)
    assert "7 bytes" in result.stdout


def test_download_into_a_missing_directory_is_a_usage_error(
    intarsia: Intarsia, server: Server, tmp_path: Path
) -> None:
    result = intarsia("adapters", "download", "sql@3", str(tmp_path / "no" / "a"))
    assert (result.exit_code, server.requests) == (2, [])


FAILURES = [
    pytest.param(["adapters", "show", "missing"], "no such adapter (HTTP 404)", id="server"),
    pytest.param(["adapters", "list", "--url", "nowhere"], "base_url: 'nowhere'", id="url"),
    pytest.param(["adapters", "show", ".."], "reference: '..' does not name", id="reference"),
]


@pytest.mark.parametrize(("arguments", "message"), FAILURES)
def test_error_is_one_line_and_exit_code_1(
    intarsia: Intarsia, server: Server, arguments: list[str], message: str
) -> None:
    result = intarsia(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


def test_server_and_key_come_from_the_environment(intarsia: Intarsia, server: Server) -> None:
    environment = {"INTARSIA_URL": "http://far:1", "INTARSIA_API_KEY": "secret"}
    result = intarsia("adapters", "list", env=environment)
    assert result.exit_code == 0
    [request] = server.requests
    assert (request.url.host, request.headers["authorization"]) == ("far", "Bearer secret")


def test_key_is_never_shown_in_the_help(intarsia: Intarsia) -> None:
    result = intarsia("adapters", "list", "--help", env={"INTARSIA_API_KEY": "secret"})
    assert result.exit_code == 0
    assert "secret" not in result.output
