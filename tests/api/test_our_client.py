"""`intarsia_client` against a running server: adapters there and back."""

import asyncio
import secrets
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from api.conftest import UPLOAD_LIMIT, kind_names
from intarsia_client import (
    Adapter,
    AdapterRefused,
    AdapterWeight,
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    NotFound,
    TooLarge,
)
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model
from servers import BASE_NAME, RunningServer, file_bytes
from tiny_adapters import KINDS, make_adapter
from transformers import AutoModelForCausalLM

from adapters_store import files

GREEDY: Any = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
PEFT_CONFIGS: dict[str, Any] = {
    "shira": lambda: ShiraConfig(r=4, target_modules=["qkv_proj", "down_proj"], random_seed=7),
    "lora": lambda: LoraConfig(r=4, lora_alpha=8, target_modules=["qkv_proj", "gate_up_proj"]),
}


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


@pytest.fixture
def adapter_file(server: RunningServer, tmp_path: Path) -> Callable[..., Path]:
    """`adapter_file(kind, seed)`: a random adapter for the server's base as a file of ours."""

    def make(kind: str = "element", seed: int = 0) -> Path:
        path = tmp_path / f"{kind.replace(' ', '-')}-{seed}.safetensors"
        path.write_bytes(file_bytes(make_adapter(server.base, kind, seed)))
        return path

    return make


@pytest.fixture
def named(client: Client) -> Iterator[str]:
    """A name that no test had before, and none has afterwards."""
    name = f"passing-{secrets.token_hex(4)}"
    yield name
    with suppress(NotFound):
        client.delete(name)


def _listed(client: Client) -> list[str]:
    return [adapter.id for adapter in client.adapters()]


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_comes_back_with_the_same_digest(
    client: Client, adapter_file: Callable[..., Path], named: str, tmp_path: Path, kind: str
) -> None:
    path = adapter_file(kind, 50)
    uploaded = client.upload(path, named, {"note": "é"})
    assert uploaded.version == 1
    assert uploaded.base == BASE_NAME
    assert uploaded.metadata == {"note": "é"}
    assert uploaded.effect is not None
    assert uploaded.effect.norm > 0
    shown = client.adapter(named)
    assert (shown.digest, shown.id, shown.nnz) == (uploaded.digest, uploaded.id, uploaded.nnz)
    back = client.download(named, tmp_path / "back.safetensors")
    assert files.read(back).digest == files.read(path).digest == uploaded.digest
    assert back.read_bytes() == path.read_bytes()


def test_the_list_is_the_same_for_every_page_size(client: Client, server: RunningServer) -> None:
    whole = _listed(client)
    assert whole == sorted(whole)
    assert {f"{name}@1" for name in kind_names().values()} <= set(whole)
    for page_size in (1, 2, len(whole), len(whole) + 1):
        assert [adapter.id for adapter in client.adapters(page_size=page_size)] == whole


def test_deleting_frees_the_bytes_and_forgets_the_name(
    client: Client, adapter_file: Callable[..., Path], named: str
) -> None:
    uploaded = client.upload(adapter_file(seed=51), named)
    client.generate("x", model=named, **GREEDY)
    gone = client.delete(named)
    assert gone.deleted == (uploaded.id,)
    assert gone.bytes_freed["disk"] == uploaded.bytes
    assert gone.bytes_freed["device"] > 0
    for missing in (client.adapter, client.delete):
        with pytest.raises(NotFound):
            missing(named)
    with pytest.raises(NotFound):
        client.generate("x", model=named)


def test_a_dry_run_measures_and_keeps_nothing(
    client: Client, adapter_file: Callable[..., Path], named: str
) -> None:
    before, path = _listed(client), adapter_file(seed=52)
    tried = client.upload(path, named, dry_run=True)
    assert _listed(client) == before
    with pytest.raises(NotFound):
        client.adapter(named)
    real = client.upload(path, named)
    assert (tried.id, tried.digest, tried.effect) == (real.id, real.digest, real.effect)


def test_the_same_content_is_the_same_version_and_new_content_the_next(
    client: Client, server: RunningServer, named: str
) -> None:
    contents = [file_bytes(make_adapter(server.base, "element", seed)) for seed in (53, 54)]

    def post(content: bytes) -> tuple[int, int]:
        with server.http() as http:
            answer = http.post("/v1/adapters", data={"name": named}, files={"file": content})
        return answer.status_code, answer.json()["version"]

    assert post(contents[0]) == (201, 1)
    first = client.generate("setting", model=named, **GREEDY)
    assert post(contents[0]) == (200, 1)
    assert post(contents[1]) == (201, 2)
    second = client.generate("setting", model=named, **GREEDY)
    assert post(contents[0]) == (200, 1)
    assert (first.model, second.model) == (f"{named}@1", f"{named}@2")
    assert first.text != second.text
    assert client.generate("setting", model=f"{named}@1", **GREEDY).text == first.text
    digest = client.adapter(f"{named}@1").digest
    assert client.generate("setting", model=f"{named}@{digest}", **GREEDY).text == first.text
    assert client.adapter(named).version == 2


def test_answers_say_what_served_them(client: Client) -> None:
    names = [kind_names()["element"], kind_names()["bias"]]
    members = [AdapterWeight(names[0]), AdapterWeight(names[1], 0.5)]
    served = client.generate(
        "x", model=BASE_NAME, adapters=members, merge={"method": "linear"}, **GREEDY
    ).served
    assert served.composition == f"{names[0]}@1+{names[1]}@1*0.5"
    assert served.request_id


def test_streamed_text_is_the_whole_text(client: Client) -> None:
    whole = client.generate("setting", model=BASE_NAME, **GREEDY)
    pieces = [chunk.text for chunk in client.stream("setting", model=BASE_NAME, **GREEDY)]
    assert "".join(pieces) == whole.text


@pytest.fixture(scope="module")
def peft_directories(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[int]]]:
    """By kind: a directory that PEFT saved on the tiny base, and PEFT's own greedy tokens."""

    def make(config: Callable[[], Any]) -> tuple[Path, list[int]]:
        torch.manual_seed(3)
        directory = tmp_path_factory.mktemp("peft")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3)
        model.save_pretrained(directory)
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        return directory, _greedy(PeftModel.from_pretrained(base, directory))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT and transformers, about themselves
        return {kind: make(config) for kind, config in PEFT_CONFIGS.items()}


PROMPT_IDS = [50, 60, 70]


@torch.inference_mode()
def _greedy(model: Any) -> list[int]:
    ids = list(PROMPT_IDS)
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(PROMPT_IDS) :]


def _packed(directory: Path, into: Path, form: str) -> Path:
    path = into / f"adapter.{form}"
    members = sorted(directory.iterdir())
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.write(member, f"saved/{member.name}")
    else:
        with tarfile.open(path, "w:gz") as archive:
            for member in members:
                archive.add(member, f"saved/{member.name}")
    return path


@pytest.mark.parametrize("form", ["directory", "zip", "tar.gz"])
@pytest.mark.parametrize("kind", PEFT_CONFIGS)
def test_what_peft_saved_is_served_as_peft_computes_it(
    client: Client,
    server: RunningServer,
    peft_directories: dict[str, tuple[Path, list[int]]],
    named: str,
    tmp_path: Path,
    kind: str,
    form: str,
) -> None:
    directory, expected = peft_directories[kind]
    path = directory if form == "directory" else _packed(directory, tmp_path, form)
    uploaded = client.upload(path, named)
    assert uploaded.kinds == ("element",) if kind == "shira" else ("low_rank",)
    options: Any = {**GREEDY, "max_tokens": len(expected)}
    text = client.generate(PROMPT_IDS, model=named, **options).text
    assert text == server.services.codec.decode(expected, True)


def test_refusals_are_the_clients_own_errors(
    client: Client, adapter_file: Callable[..., Path], tmp_path: Path
) -> None:
    noise, large = tmp_path / "noise.safetensors", tmp_path / "large.safetensors"
    noise.write_bytes(b"noise")
    large.write_bytes(bytes(UPLOAD_LIMIT + 1))
    with pytest.raises(AdapterRefused) as refused:
        client.upload(noise, "noise")
    assert refused.value.reasons
    with pytest.raises(TooLarge):
        client.upload(large, "large")
    with pytest.raises(Conflict):
        client.upload(adapter_file(), BASE_NAME)
    with pytest.raises(BadRequest) as bad:
        client.upload(adapter_file(), "Not a name")
    assert bad.value.param == "name"


def test_the_asynchronous_client_does_the_same(
    client: Client,
    server: RunningServer,
    adapter_file: Callable[..., Path],
    named: str,
    tmp_path: Path,
) -> None:
    async def round_trip() -> tuple[Adapter, list[str], str]:
        async with AsyncClient(server.url) as asking:
            uploaded = await asking.upload(adapter_file(seed=55), named)
            await asking.download(named, tmp_path / "async.safetensors")
            text = (await asking.generate("setting", model=named, **GREEDY)).text
            return uploaded, [adapter.id async for adapter in asking.adapters(page_size=2)], text

    uploaded, listed, text = asyncio.run(round_trip())
    assert listed == _listed(client)
    assert files.read(tmp_path / "async.safetensors").digest == uploaded.digest
    assert text == client.generate("setting", model=named, **GREEDY).text


def test_the_server_says_that_it_is_ready_and_what_it_is(client: Client) -> None:
    assert client.ready()
    assert client.version().raw["base"] == BASE_NAME
