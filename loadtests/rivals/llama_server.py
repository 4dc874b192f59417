"""llama.cpp's own HTTP server, as the package xllamacpp ships it; run by that environment's Python.

python loadtests/rivals/llama_server.py --model FILE --port PORT [--slots 32] [--context 1024]
"""

import argparse
import os
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a GGUF file with llama.cpp.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", default="base", help="in requests")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=32, help="sequences at once")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a slot")
    asked = parser.parse_args()
    server = xllamacpp.Server(_parameters(asked))
    print(f"serving at {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def _parameters(asked: argparse.Namespace) -> "xllamacpp.CommonParams":
    """llama.cpp's defaults but for sizes and threads; old prompts are not kept, none comes back."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = asked.model
    parameters.model_alias = {asked.name}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = asked.port
    parameters.n_parallel = asked.slots
    parameters.n_ctx = asked.slots * asked.context
    parameters.cache_ram_mib = 0
    parameters.cpuparams.n_threads = os.cpu_count() or 1
    return parameters


if __name__ == "__main__":
    main()
