"""One pack of a weight serves any number of rows, and gives each of them the same bits."""

import pytest
import torch

from server.kernels.cpu import products, streams
from server.kernels.cpu.kernels import CpuKernels

SHAPES = {"phi3-like": (192, 64), "odd": (67, 35), "wide": (1000, 48), "deep": (64, 1536)}
COUNTS = [1, 2, 3, 7, 16, 31, 33, 64, 65, 129, 255, 257, 300, 321, 449, 512, 513]


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(600, 1536, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SHAPES)
def test_rows_have_the_same_bits_in_any_company(name: str, rows: torch.Tensor) -> None:
    if not products.can_pack():
        pytest.skip("this build of torch has no packed products")
    out, width = SHAPES[name]
    x = rows[:, :width].contiguous()
    packed = products.pack(torch.randn(out, width, generator=torch.Generator().manual_seed(2)))
    together = products.product(x, packed)
    for count in COUNTS:
        for first in {0, (len(x) - count) // 2, len(x) - count}:
            alone = products.product(x[first : first + count], packed)
            assert torch.equal(alone, together[first : first + count]), (count, first)


def test_outlier_changes_no_bit_of_another_row(rows: torch.Tensor) -> None:
    if not products.can_pack():
        pytest.skip("this build of torch has no packed products")
    x = rows[:9].contiguous()
    packed = products.pack(rows[:64])
    outlier = x.clone()
    outlier[4] = torch.inf
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(
        products.product(outlier, packed)[others], products.product(x, packed)[others]
    )


@pytest.mark.parametrize("name", SHAPES)
def test_products_of_few_rows_have_the_bits_of_those_of_many(name: str, rows: torch.Tensor) -> None:
    out, width = SHAPES[name]
    if not products.can_pack() or streams.depth_of(out, width) == streams.NOT_KNOWN:
        pytest.skip("this machine's packs or sums are others")
    x = rows[: streams.FEW + 1, :width].contiguous()
    packed = products.pack(torch.randn(out, width, generator=torch.Generator().manual_seed(4)))
    together = products.product(x, packed)
    for count in (*range(1, 3 * streams.PANEL), 31, 50, streams.FEW):
        for threads in (1, 2, 3, 5):
            alone = streams.product(x[:count], packed, threads)
            assert torch.equal(alone, together[:count]), (count, threads)


def test_where_sums_are_taken_otherwise_onednn_multiplies(
    monkeypatch: pytest.MonkeyPatch, rows: torch.Tensor
) -> None:
    monkeypatch.setattr(streams, "multiply", lambda address, depth, x, y, threads: y.fill(7))
    assert streams.depth_of.__wrapped__(67, 35) == streams.NOT_KNOWN
    monkeypatch.setattr(streams, "depth_of", lambda out, width: streams.NOT_KNOWN)
    x, packed = rows[:2, :35].contiguous(), products.pack(rows[:67, :35].contiguous())
    assert torch.equal(streams.product(x, packed, 1), products.product(x, packed))


@pytest.mark.parametrize("name", SHAPES)
def test_product_is_that_of_the_weight(name: str, rows: torch.Tensor) -> None:
    out, width = SHAPES[name]
    x = rows[:37, :width].contiguous()
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(3))
    product = products.product(x, products.pack(weight))
    torch.testing.assert_close(product.double(), x.double() @ weight.double().T, rtol=0, atol=1e-3)


def test_without_the_operations_weights_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, rows: torch.Tensor
) -> None:
    monkeypatch.setattr(products, "can_pack", lambda: False)
    weight = rows[:8, :16].contiguous()
    assert products.pack(weight) is weight
    assert torch.equal(products.product(weight, weight), weight @ weight.T)


def test_numbers_of_rows_are_few_and_never_fewer_than_asked() -> None:
    filled = [products._filled(rows) for rows in range(1, products.MOST_ROWS + 1)]
    assert all(rows <= made for rows, made in enumerate(filled, 1))
    assert len(set(filled)) <= 28


def test_warming_up_leaves_weights_as_they_are() -> None:
    kernels = CpuKernels()
    weight = kernels.pack(torch.randn(64, 32, generator=torch.Generator().manual_seed(4)))
    x = torch.ones(3, 32)
    before = kernels.linear(x, weight, None)
    kernels.warm_up([weight, weight])
    assert torch.equal(kernels.linear(x, weight, None), before)
