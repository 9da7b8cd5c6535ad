"""Tensors <-> the bytes of one tar member, in the safetensors format, with nothing believed that the bytes claim.

Loading copies nothing: tensors are views of the buffer, which may be a memory map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cache.fingerprint import CacheError
from cache.finite import finite

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGN = 64  # bytes: the data starts on a cache line, wherever the tar puts the member (a multiple of 512)
MAX_HEADER_BYTES = 1_000_000


def pack(tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str] | None = None) -> bytes:
    """Tensors in the order of their names, and notes, as a safetensors file. Equal input, equal bytes.

    Only the elements are written, never the rest of the storage that a slice is a view of.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(notes.items()))} if notes else {}
    chunks, at = [], 0
    for name in sorted(tensors):
        data = _raw(tensors[name])
        header[name] = {
            "dtype": NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + len(data)],
        }
        chunks.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def unpack(buffer: memoryview, where: object) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (views of the buffer) and notes. Raises CacheError naming `where` for anything malformed."""
    if len(buffer) < 8:
        raise CacheError(f"{where}: {len(buffer)} bytes are no safetensors")
    length = int.from_bytes(buffer[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(buffer) - 8):
        raise CacheError(f"{where}: a header of {length} bytes cannot lie in {len(buffer)} bytes")
    try:
        layout, notes = _layout(bytes(buffer[8 : 8 + length]), len(buffer) - 8 - length)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(f"{where}: not a safetensors header ({error})") from None
    start = 8 + length
    tensors = {
        name: torch.frombuffer(buffer, dtype=dtype, count=count, offset=start + offset).view(shape)
        if count
        else torch.empty(shape, dtype=dtype)
        for name, dtype, shape, count, offset in layout
    }
    return tensors, dict(notes)


def all_finite(data: bytes) -> bool:
    """Of all tensors of a member. What is no member says nothing of its numbers: False."""
    try:
        header = header_of(memoryview(data))
        layout, _ = layout_of(header, len(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    raw, start = np.frombuffer(data, np.uint8), len(header)
    return all(finite(raw[start + at :][: count * dtype.itemsize], dtype) for _, dtype, _, count, at in layout)


def header_of(buffer: memoryview) -> bytes:
    """Everything before the data, of a buffer that unpack() accepted: members of equal headers have equal layouts."""
    return bytes(buffer[: 8 + int.from_bytes(buffer[:8], "little")])


def layout_of(header: bytes, size: int) -> tuple[tuple[tuple[Any, ...], ...], dict[str, str]]:
    """(name, dtype, shape, elements, offset in the data) of each tensor, and notes, of a member of `size` bytes that
    starts with this header. Raises ValueError and its like for anything malformed."""
    if len(header) < 8 or len(header) != 8 + int.from_bytes(header[:8], "little"):
        raise ValueError("its header is cut off")
    layout, notes = _layout(header[8:], size - len(header))
    return layout, dict(notes)


@lru_cache(maxsize=4096)  # the samples of a bucket have one header
def _layout(header: bytes, room: int) -> tuple[tuple[tuple[Any, ...], ...], tuple[tuple[str, str], ...]]:
    """(name, dtype, shape, elements, offset) of each tensor, checked to lie inside `room` bytes of data."""
    parsed = json.loads(header)
    notes = tuple(parsed.pop("__metadata__", {}).items())
    layout = []
    for name, entry in parsed.items():
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
            raise ValueError(f"tensor {name} has shape {shape} and offsets {begin}, {end}")
        count = math.prod(shape)
        if not (begin <= end <= room and end - begin == count * dtype.itemsize):
            raise ValueError(f"tensor {name} of shape {shape} does not fit bytes {begin}-{end} of {room}")
        layout.append((name, dtype, shape, count, begin))
    return tuple(layout), notes


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
