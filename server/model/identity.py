"""The identity of a base model: the digest of every linear layer, which adapters are bound to.

Digests are of the values in the files, not of those that were loaded, so that a server that
computes an fp32 checkpoint in bf16 takes the same adapters. They are cached, since hashing a model
takes longer than reading its configuration.
"""

import json
import os
from pathlib import Path
from typing import Any

from adapters_store.adapter import BaseIdentity, BaseLayer
from adapters_store.digest import BASE_FORMAT, base_layer_digest
from server.model.checkpoint import Checkpoint
from server.model.tensor_files import tensor_paths
from server.model.weights import stored_linears


def base_identity(name: str, checkpoint: Checkpoint, cache_file: Path | None) -> BaseIdentity:
    """The identity of `checkpoint`, to be known as `name`.

    `cache_file` keeps the digests; one that is damaged, or of files that are not the very same, is
    written anew. Raises ModelError as `load_weights` does.
    """
    key = _cache_key(checkpoint)
    layers = _read_cache(cache_file, key) if cache_file is not None else None
    if layers is None:
        layers = _hash_layers(checkpoint)
        if cache_file is not None:
            _write_cache(cache_file, key, layers)
    return BaseIdentity(name, layers)


Layers = dict[str, BaseLayer]


def _hash_layers(checkpoint: Checkpoint) -> Layers:
    shapes = checkpoint.config.linear_shapes()
    linears = stored_linears(checkpoint.directory, checkpoint.config)
    return {name: BaseLayer(shapes[name], base_layer_digest(weight)) for name, weight in linears}


def _cache_key(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the digests depend on, as JSON."""
    return {
        "format": BASE_FORMAT,
        "files": [_file_key(path) for path in tensor_paths(checkpoint.directory)],
        "shapes": {k: list(shape) for k, shape in checkpoint.config.linear_shapes().items()},
    }


def _file_key(path: Path) -> list[str | int]:
    """Changes with the content: whoever writes may set the time of that, but not of the inode."""
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]


def _read_cache(cache_file: Path, key: dict[str, Any]) -> Layers | None:
    """The cached digests, or None where they are absent, damaged or of something else."""
    try:
        cache = json.loads(cache_file.read_bytes())
        if cache["key"] != key or cache["digests"].keys() != key["shapes"].keys():
            return None
        return {
            name: BaseLayer((shape[0], shape[1]), str(cache["digests"][name]))
            for name, shape in key["shapes"].items()
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_cache(cache_file: Path, key: dict[str, Any], layers: Layers) -> None:
    digests = {name: layer.digest for name, layer in layers.items()}
    cache_file.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache_file.with_name(f"{cache_file.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"key": key, "digests": digests}))
    temporary.replace(cache_file)
