"""Arrow columns <-> numpy, without pandas: Arrow's own conversions import it, which takes longer than a first batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """In one piece: to take rows of many chunks costs a hundred times as much."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Of a column of numbers without nulls: not copied, so not to be written to."""
    one = whole(column)
    return np.from_dlpack(one) if len(one) else np.zeros(0, one.type.to_pandas_dtype())


def to_arrow(numbers: np.ndarray) -> pa.Array:
    """int64, not copied."""
    numbers = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Of a column of codes without nulls: the codes, and the names that they stand for."""
    one = whole(column)
    return to_numpy(one.indices), one.dictionary.to_pylist()
