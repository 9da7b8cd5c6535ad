"""Tensors as bytes: the safetensors library reads ours, and nothing malformed gives data."""

import json
import random

import pytest
import safetensors.torch
import torch

from cache.fingerprint import CacheError
from cache.members import ALIGN, DTYPES, pack, unpack


def view(data: bytes) -> memoryview:
    return memoryview(bytearray(data))


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_the_library_reads_what_we_write_and_we_read_it_too(dtype: torch.dtype) -> None:
    tensors = {"b": torch.arange(24).reshape(2, 3, 4).to(dtype), "a": torch.ones(5).to(dtype), "none": torch.empty(0, 3).to(dtype)}  # fmt: skip
    data = pack(tensors, {"note": "x"})
    theirs = safetensors.torch.load(data)
    ours, notes = unpack(view(data), "here")
    assert notes == {"note": "x"}
    for name, tensor in tensors.items():
        assert torch.equal(theirs[name], tensor) and torch.equal(ours[name], tensor)
        assert ours[name].dtype == dtype and ours[name].shape == tensor.shape


def test_we_read_what_the_library_writes() -> None:
    tensors = {"x": torch.randn(3, 4).bfloat16(), "y": torch.arange(3)}
    ours, _ = unpack(view(safetensors.torch.save(tensors)), "here")
    assert all(torch.equal(ours[name], tensors[name]) for name in tensors)


def test_a_slice_is_written_alone_and_order_does_not_matter() -> None:
    """A slice of a batch is a view of the whole batch's storage; caches have grown by the batch size from that."""
    batch = torch.randn(100, 8)
    assert len(pack({"x": batch[3]})) < 400
    assert pack({"x": batch[3]}) == pack({"x": batch[3].clone()})
    one, other = {"x": batch[0], "y": batch[1]}, {"y": batch[1], "x": batch[0]}
    assert pack(one) == pack(other)


def test_a_transposed_tensor_keeps_its_values() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(unpack(view(pack({"x": tensor})), "here")[0]["x"], tensor)


def test_data_starts_on_a_cache_line_and_is_not_copied() -> None:
    data = bytearray(pack({"x": torch.zeros(4)}))
    assert (8 + int.from_bytes(data[:8], "little")) % ALIGN == 0
    tensor = unpack(memoryview(data), "here")[0]["x"]
    data[-4:] = torch.tensor([2.5]).numpy().tobytes()
    assert tensor[3] == 2.5


def edited(data: bytes, **fields: object) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["x"] |= fields
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "fields",
    [{"data_offsets": [0, 4096]}, {"data_offsets": [-4, 12]}, {"data_offsets": [8, 4]}, {"shape": [2]}, {"shape": [-2, -2]},
     {"dtype": "F64"}, {"dtype": "F8"}, {"data_offsets": 3}, {"shape": [1 << 62, 4]}],
)  # fmt: skip
def test_headers_that_lie_are_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(CacheError, match="clip42"):
        unpack(view(edited(pack({"x": torch.zeros(4)}), **fields)), "clip42")


@pytest.mark.parametrize("data", [b"", b"1234567", (1 << 40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(CacheError, match="here"):
        unpack(view(data), "here")


def test_no_damaged_header_reads_outside_its_bytes() -> None:
    """Flip every bit of the header: an error or tensors that lie inside the buffer, never a crash."""
    data = pack({"x": torch.arange(4.0), "y": torch.arange(3)})
    header = 8 + int.from_bytes(data[:8], "little")
    spots = random.Random(0).sample(range(header * 8), min(600, header * 8))
    for spot in spots:
        broken = bytearray(data)
        broken[spot // 8] ^= 1 << spot % 8
        try:
            tensors, _ = unpack(memoryview(broken), "here")
        except CacheError:
            continue
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) <= len(data)
