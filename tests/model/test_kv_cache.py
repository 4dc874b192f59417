"""The paged cache as memory: there when written to, given back page by page."""

import resource
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import make_tiny_checkpoint

from server.model.checkpoint import open_checkpoint
from server.model.config import ModelConfig
from server.model.kv_cache import allocate, bytes_per_page

NUM_PAGES = 400
PAGE_SIZE = 512  # so that a tiny model's page is larger than the system's


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return open_checkpoint(str(make_tiny_checkpoint(tmp_path_factory.mktemp("base")))).config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forgotten_pages_are_zero_and_the_others_as_they_were(
    config: ModelConfig, dtype: torch.dtype
) -> None:
    cache = allocate(config, 9, PAGE_SIZE, dtype, "cpu")
    tensors = (*cache.keys, *cache.values)
    for number, tensor in enumerate(tensors, 1):
        tensor.fill_(number)
    cache.forget([7, 0, 1, 5])
    for number, tensor in enumerate(tensors, 1):
        gone, kept = tensor[[0, 1, 5, 7]], tensor[[2, 3, 4, 6, 8]]
        assert (kept == number).all()
        if bytes_per_page(config, PAGE_SIZE, dtype) % resource.getpagesize() == 0:
            assert (gone == 0).any()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_unused_and_forgotten_pages_cost_no_memory(config: ModelConfig) -> None:
    page_bytes = bytes_per_page(config, PAGE_SIZE, torch.float32)
    total = page_bytes * NUM_PAGES
    start = _rss()
    cache = allocate(config, NUM_PAGES, PAGE_SIZE, torch.float32, "cpu")
    assert _rss() - start < 0.1 * total
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(1.0)
    assert _rss() - start > 0.9 * total
    cache.forget(range(NUM_PAGES // 2, NUM_PAGES))
    assert _rss() - start < 0.6 * total


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
