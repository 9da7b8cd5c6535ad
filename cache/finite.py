"""Whether numbers are finite, told from their bits: floats that are not have the largest exponents.

Read as a signed integer, +infinity and positive NaNs are the largest; read as an unsigned one, -infinity and negative
NaNs are. Two maxima of integers cost a tenth of a sum of 16-bit floats and allocate nothing.
"""

from __future__ import annotations

import numpy as np
import torch

INFINITY = {
    torch.bfloat16: (np.int16, np.uint16, 0x7F80), torch.float16: (np.int16, np.uint16, 0x7C00),
    torch.float32: (np.int32, np.uint32, 0x7F80_0000), torch.float64: (np.int64, np.uint64, 0x7FF0 << 48),
}  # fmt: skip

largest = np.maximum.reduce  # .max() without its wrapper in Python


def finite(data: np.ndarray, dtype: torch.dtype) -> bool:
    """data (N,) uint8: elements of a dtype, one after the other. Integers always are."""
    if dtype not in INFINITY or not len(data):
        return True
    signed, unsigned, infinity = INFINITY[dtype]
    negative = infinity + (1 << (8 * dtype.itemsize - 1))
    return bool(largest(data.view(signed)) < infinity and largest(data.view(unsigned)) < negative)


def raw(tensor: torch.Tensor) -> np.ndarray:
    """A contiguous tensor's bytes (N,) uint8, not copied."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()
