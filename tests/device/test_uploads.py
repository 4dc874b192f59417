"""What goes to a device beside its computing arrives whole, and is waited for there, once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded_kernels import LoggingDevice

from server.device.host import HostDevice
from server.device.transfers import ALIGNMENT, Landing, aligned, send
from server.device.uploads import Uploads

DTYPES = (torch.float32, torch.bfloat16, torch.int32, torch.uint16, torch.uint8)


@given(
    shape=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    staged=st.sampled_from([8, 16, 40, 1 << 10]),
)
def test_arrays_arrive_bit_for_bit_in_any_number_of_parts(
    shape: list[int], dtype: torch.dtype, staged: int
) -> None:
    whole = torch.arange(400).to(torch.uint8).view(-1)[: 4 * 7 * 7 * 2]
    size = torch.Size(shape).numel() * dtype.itemsize
    array = whole.repeat(8)[:size].view(dtype).view(shape)
    uploads = Uploads(HostDevice(), staged)
    first, second = uploads.place(array), uploads.place(array)
    for placed in (first, second):
        assert placed.dtype == array.dtype
        assert placed.shape == array.shape
        assert placed.is_contiguous()
        assert torch.equal(placed.view(-1).view(torch.uint8), array.view(-1).view(torch.uint8))
    assert size == 0 or first.data_ptr() not in (array.data_ptr(), second.data_ptr())


def test_what_lies_apart_arrives_side_by_side() -> None:
    array = torch.arange(12.0).view(3, 4).T
    placed = Uploads(HostDevice()).place(array)
    assert placed.is_contiguous()
    assert torch.equal(placed, array)


def test_a_half_is_filled_again_only_when_the_device_has_read_it() -> None:
    device = LoggingDevice()
    uploads = Uploads(device, staged_bytes=8)
    uploads.place(torch.zeros(40, dtype=torch.uint8))
    marks = [each for each in device.log if each.startswith("stream 1 mark")]
    waits = [each for each in device.log if each.startswith("host after")]
    assert len(marks) == 5
    assert waits == [f"host after stream 1 mark {n}" for n in (1, 2, 3)]
    places = [device.log.index(wait) for wait in waits]
    assert [device.log[place + 1] for place in places] == marks[2:]


def test_uploads_have_a_stream_of_their_own_and_an_arrival_is_awaited_once() -> None:
    device = LoggingDevice()
    uploads, computing = Uploads(device), device.stream()
    uploads.place(torch.zeros(4))
    arrival = uploads.arrival()
    arrival.awaited_by(computing)
    arrival.awaited_by(computing)
    assert device.log == [
        "use stream 1",
        "stream 1 mark 1",
        "leave stream 1",
        "stream 1 mark 2",
        "stream 2 after stream 1 mark 2",
    ]


def test_numbers_are_sent_in_their_shapes_each_at_a_line_of_its_own() -> None:
    sent = [torch.arange(3), torch.zeros(0, dtype=torch.int64), torch.arange(34).view(2, 17)]
    found = send(HostDevice(), sent)
    for own, expected in zip(found, sent, strict=True):
        assert torch.equal(own, expected)
    distance = found[2].data_ptr() - found[0].data_ptr()
    assert distance == 8 * ALIGNMENT


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 16), (16, 16), (17, 32)])
def test_lines_are_filled_up(count: int, expected: int) -> None:
    assert aligned(count) == expected


def test_what_lands_is_waited_for_and_the_next_may_be_larger() -> None:
    device = LoggingDevice()
    landing = Landing(device, device.stream())
    assert landing.fetch(torch.arange(3.0)).tolist() == [0, 1, 2]
    assert landing.fetch(torch.arange(5.0)).tolist() == [0, 1, 2, 3, 4]
    assert device.log[-2:] == ["stream 1 mark 2", "host after stream 1 mark 2"]
