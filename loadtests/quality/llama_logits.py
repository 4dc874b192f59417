"""Logits of every token of some texts by llama.cpp, in process.

    python llama_logits.py MODEL.gguf TEXTS.json FOLDER

Runs in the environment of `loadtests.rivals.llama_batch`: the library is that of xllamacpp, the
declarations of its C API are those of llama-cpp-py-sync. TEXTS.json is a list of lists of token
ids; the folder gets 0.npy, 1.npy ..., fp32 `[tokens, vocab]`. Keys and values are cached in fp32.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp.xllamacpp
from llama_cpp_py_sync._cffi_bindings import get_ffi

THREADS = os.cpu_count() or 1
# Some defaults: declarations that do not belong to the library would not find them.
DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "type_k": 1, "no_perf": True, "n_samplers": 0}


def main(model_path: str, texts_path: str, folder: str) -> None:
    ffi = get_ffi()
    lib = ffi.dlopen(xllamacpp.xllamacpp.__file__)
    texts = json.loads(Path(texts_path).read_text())
    lib.llama_backend_init()
    settings = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(model_path.encode(), settings)
    context = _context(ffi, lib, model, max(map(len, texts)))
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    for number, text in enumerate(texts):
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        np.save(Path(folder, f"{number}.npy"), _logits(ffi, lib, context, text, vocab))


def _context(ffi: Any, lib: Any, model: Any, longest: int) -> Any:
    settings = lib.llama_context_default_params()
    if {name: getattr(settings, name) for name in DEFAULTS} != DEFAULTS:
        sys.exit("llama.cpp's settings are not as declared")
    settings.n_ctx = settings.n_batch = settings.n_ubatch = settings.n_outputs_max = longest
    settings.n_threads = settings.n_threads_batch = THREADS
    settings.type_k = settings.type_v = lib.GGML_TYPE_F32
    context = lib.llama_init_from_model(model, settings)
    if context == ffi.NULL:
        sys.exit("llama.cpp made no context")
    return context


def _logits(ffi: Any, lib: Any, context: Any, text: list[int], vocab: int) -> Any:
    batch = lib.llama_batch_init(len(text), 0, 1)
    batch.n_tokens = len(text)
    for at, token in enumerate(text):
        batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, at, 1
        batch.seq_id[at][0], batch.logits[at] = 0, 1
    if lib.llama_decode(context, batch):
        sys.exit("llama.cpp refused a text")
    found = ffi.buffer(lib.llama_get_logits(context), len(text) * vocab * 4)
    lib.llama_batch_free(batch)
    return np.frombuffer(found, np.float32).reshape(len(text), vocab).copy()


if __name__ == "__main__":
    main(*sys.argv[1:])
