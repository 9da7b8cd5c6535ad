"""What the cache tells from bits: infinity and NaN, ids in hex; and positions of an epoch by windows."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from cache.finite import finite, raw
from cache.lookup import numbers
from cache.order import Order


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_finite_is_torchs_isfinite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype)
    plain = torch.tensor([0.0, -0.0, largest.max, largest.min, largest.tiny, -largest.tiny, 1.5, -3], dtype=dtype)
    assert finite(raw(plain), dtype) and finite(raw(plain[:0]), dtype)
    for bad in (float("inf"), -float("inf"), float("nan"), -float("nan")):
        for at in range(len(plain)):
            broken = plain.clone()
            broken[at] = bad
            assert not finite(raw(broken), dtype)


def test_of_16_bit_floats_every_one_is_told() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        one_by_one = [finite(raw(one), dtype) for one in every.view(dtype).split(1)]
        assert one_by_one == every.view(dtype).isfinite().tolist()


def test_ids_are_numbers() -> None:
    wanted = np.random.default_rng(0).integers(0, 2**64, 40_000, np.uint64)
    ids = pa.array([f"{number:016x}" for number in wanted.tolist()])
    assert np.array_equal(numbers(ids), wanted)
    assert np.array_equal(numbers(pa.chunked_array([ids[3:10], ids[:0], ids[7:]])), [*wanted[3:10], *wanted[7:]])
    for other in ("0" * 15, "0" * 17):
        with pytest.raises(ValueError, match="16 hex digits"):
            numbers(pa.array(["0" * 16, other, "0" * 16]))


def test_parts_of_an_order_are_those_of_the_whole() -> None:
    """However it is cut, and whatever windows were asked for before."""
    shards, counts = np.repeat(np.arange(90), 7), np.random.default_rng(1).integers(0, 3, 630)
    whole = Order(shards, counts, np.random.default_rng(2), 8)[:]
    assert np.array_equal(np.bincount(whole, minlength=630), counts)
    parts = Order(shards, counts, np.random.default_rng(2), 8)
    for start in np.random.default_rng(3).integers(0, len(whole), 50):
        assert np.array_equal(parts[start : start + 33], whole[start : start + 33])
    assert not len(parts[5:5])
    with pytest.raises(ValueError, match="shard by shard"):
        Order(shards[::-1], counts, np.random.default_rng(2), 8)
