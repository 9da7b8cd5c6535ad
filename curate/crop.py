"""The one crop of a clip: what its borders, its marks and its text ask for, put together.

Signals propose crops as shares of the sides, in columns `<signal>_crop_<side>`; unknown where none helps. They become px here and
nowhere else, since here the size of the clip is known. Borders are always cut; a mark or text only where enough remains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

SIDES = ("left", "top", "right", "bottom")
CROPPERS = ("overlay", "text")  # beside the borders; the first has the first say
LEAST_LEFT = 0.5  # share of the picture inside the borders that all crops together have to leave
COLUMNS = tuple(f"crop_{side}" for side in SIDES)


class Crops(NamedTuple):
    """Of N clips. px: int32 (N, 4), cut at left, top, right, bottom of the upright picture; share: float (N,), of the picture that is
    cut away; heeded: signal -> bool (N,), whether what it asks for is part of the crop."""

    px: np.ndarray
    share: np.ndarray
    heeded: dict[str, np.ndarray]


def columns_of(signal: str) -> tuple[str, ...]:
    return tuple(f"{signal}_crop_{side}" for side in SIDES)


def crops(table: pa.Table) -> Crops:
    """A table with width, height in upright px and any of the signals' crop columns -> the crop of each row."""
    cut = np.nan_to_num(_wanted(table, "borders"), nan=0.0)
    room, heeded = _area(cut), {}
    for signal in CROPPERS:
        wanted = _wanted(table, signal)
        both = np.maximum(cut, wanted)
        heeded[signal] = np.isfinite(wanted).all(1) & (_area(both) >= LEAST_LEFT * room)
        cut = np.where(heeded[signal][:, None], both, cut)
    sides = np.stack([_column(table, "width"), _column(table, "height")] * 2, axis=1)
    # Rounded outwards, but for what a share loses as a float: 62 / 426 * 426 is not 62.
    px = np.ceil(np.nan_to_num(cut * sides) - 1e-6).astype(np.int32)
    return Crops(px, 1 - _area(cut), heeded)


def _wanted(table: pa.Table, signal: str) -> np.ndarray:
    """Shares (N, 4), NaN where the signal has no crop to propose or is not measured."""
    return np.stack([_column(table, name) for name in columns_of(signal)], axis=1)


def _column(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    values = table[name].combine_chunks().cast(pa.float64())
    import pyarrow.compute as pc  # slow to load, and a scan has no use for it

    return pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False)


def _area(cut: np.ndarray) -> np.ndarray:
    across, down = 1 - cut[:, 0] - cut[:, 2], 1 - cut[:, 1] - cut[:, 3]
    return np.maximum(across, 0) * np.maximum(down, 0)
