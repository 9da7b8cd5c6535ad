"""The flow of one pair of frames -> how the whole picture moves, and how what stands nearer moves against it.

Units: lengths in frame widths, times in seconds, x right, y down, the origin in the middle of the picture. What moves as one is
found by a model of eight values (that of a plane in any position) that is fitted robustly: as a rule the background, the larger part.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from curate.signals.kinds import median_along

CELLS = 28  # cells along the long side: about 9 px of a small picture of 256 px
ROUNDS = 3  # of reweighting
FLOOR_PX = 0.05  # what the estimate of the flow itself wavers by
REST = 4.0  # times that: a cell that moves less stands still
VALUES = 8
RIDGE = np.diag([0.0, 0.0, *[1e-4] * 6])
# Speed of a cell relative to the background's, along the direction of the background: where shares are counted.
# Far things are near 1, nearer ones above in a pan, below (and against it) when the camera rides around.
RELATIVE = (-0.25, 0.2, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 1.8, 2.4)
ASIDE = 0.3  # speed across the direction, relative, from which a cell moves by itself


class Fit(NamedTuple):
    """right, down: shift of the background in frame widths/s; growth 1/s; turn rad/s (clockwise in the picture);
    stretch, shear: growth in width less that in height, and its kin along the diagonals (1/s): ground that lies slant;
    bend_x, bend_y: how much faster the shift is towards the edges, as it is when the camera turns (1/s); spread: typical residual
    of a cell, frame widths/s; rest: share of cells that stand still; apart: share that doesn't follow; aside: share that moves
    across; shares (11,): of cells by relative speed, see RELATIVE; middle: median relative speed of the central cells."""

    right: float
    down: float
    growth: float
    turn: float
    stretch: float
    shear: float
    bend_x: float
    bend_y: float
    spread: float
    rest: float
    apart: float
    aside: float
    shares: tuple[float, ...]
    middle: float


def fit(flow: np.ndarray, elapsed_s: float) -> Fit:
    """Flow float32 (h, w, 2) in px over elapsed_s -> Fit."""
    return fit_cells(shrunk(flow), flow.shape[1], flow.shape[0], elapsed_s)


def shrunk(flow: np.ndarray) -> np.ndarray:
    """Flow (h, w, 2) in px -> its means over cells (rows, columns, 2), in the same px."""
    return cv2.resize(flow, cells(flow.shape[1], flow.shape[0]), interpolation=cv2.INTER_AREA)


def fit_cells(means: np.ndarray, width: int, height: int, elapsed_s: float) -> Fit:
    """Mean flow of cells (rows, columns, 2) in px of a picture of width x height, over elapsed_s -> Fit."""
    grid = places(*cells(width, height))
    velocity = means.reshape(-1, 2).astype(np.float64) / (width * elapsed_s)
    floor = FLOOR_PX / (width * elapsed_s)
    values, residual = background(velocity, grid, floor)
    size = _length(residual[:, 0], residual[:, 1])
    spread = float(median_along(size))
    apart = float((size > max(3 * spread, 6 * floor)).mean())
    rest = float((_length(velocity[:, 0], velocity[:, 1]) < REST * floor).mean())
    shares, aside, middle = relative(values[:2], residual, grid.central)
    fitted = [float(value) for value in values]
    return Fit(*fitted, spread, rest, apart, aside, shares, middle)  # type: ignore[call-arg]


def cells(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the grid that the flow is looked at on."""
    longest = max(width, height)
    return max(4, round(CELLS * width / longest)), max(4, round(CELLS * height / longest))


class Grid(NamedTuple):
    """x_basis, y_basis (n, 8): right and down velocity of each cell for a unit of each value; products (n, 64): their outer
    products, summed; central bool (n,)."""

    columns: int
    rows: int
    x_basis: np.ndarray
    y_basis: np.ndarray
    products: np.ndarray
    central: np.ndarray


@lru_cache(maxsize=8)
def places(columns: int, rows: int) -> Grid:
    x, y = np.meshgrid(np.arange(columns) + 0.5 - columns / 2, np.arange(rows) + 0.5 - rows / 2)
    x, y = x.ravel() / columns, y.ravel() / columns
    one, none = np.ones_like(x), np.zeros_like(x)
    x_basis = np.stack([one, none, x, -y, x, y, x * x, x * y], axis=1)
    y_basis = np.stack([none, one, y, x, -y, x, x * y, y * y], axis=1)
    products = (x_basis[:, :, None] * x_basis[:, None] + y_basis[:, :, None] * y_basis[:, None]).reshape(-1, VALUES**2)
    central = (np.abs(x) < 0.2) & (np.abs(y) < 0.2 * rows / columns)
    return Grid(columns, rows, x_basis, y_basis, products, central)


def background(velocity: np.ndarray, grid: Grid, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Velocities (n, 2) -> the first eight values of Fit and residuals (n, 2).

    Least squares, reweighted (Cauchy), from three beginnings: rest, the median shift and the plain fit; the one that
    more cells follow is taken.
    """
    targets = grid.x_basis * velocity[:, :1] + grid.y_basis * velocity[:, 1:]
    values = np.zeros((3, VALUES))
    values[1, :2] = median_along(velocity.T)
    values[2] = _solved(grid, targets, np.ones((1, len(velocity))))[0]
    for _ in range(ROUNDS):
        size = _size(velocity, grid, values)
        scale = np.maximum(floor, 1.5 * median_along(size)[:, None])
        values = _solved(grid, targets, 1 / (1 + (size / scale) ** 2))
    cost = np.log1p((_size(velocity, grid, values) / (4 * floor)) ** 2).mean(axis=1)
    best = values[int(cost.argmin())]
    return best, velocity - np.stack([grid.x_basis @ best, grid.y_basis @ best], axis=1)


def _size(velocity: np.ndarray, grid: Grid, values: np.ndarray) -> np.ndarray:
    """Values (k, 8) -> residuals of each cell (k, n)."""
    return _length(velocity[:, 0] - values @ grid.x_basis.T, velocity[:, 1] - values @ grid.y_basis.T)


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """np.hypot at a fifth of its cost: nothing here comes near an overflow."""
    return np.sqrt(x * x + y * y)


def _solved(grid: Grid, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights (k, n) -> values (k, 8). A little ridge keeps all but the shift at 0 where the cells don't tell."""
    matrices = (weights @ grid.products).reshape(-1, VALUES, VALUES) + RIDGE * weights.sum(axis=1)[:, None, None]
    return np.linalg.solve(matrices, (weights @ targets)[..., None])[..., 0]


def relative(shift: np.ndarray, residual: np.ndarray, central: np.ndarray) -> tuple[tuple[float, ...], float, float]:
    """Shares of cells by speed along the shift relative to it, share that moves across it, median of the central cells."""
    speed = max(float(np.hypot(*shift)), 1e-9)
    along = 1 + residual @ shift / speed**2
    across = np.abs(residual @ np.array([-shift[1], shift[0]])) / speed**2
    counts = np.bincount(np.searchsorted(RELATIVE, along), minlength=len(RELATIVE) + 1) / len(along)
    middle = min(4.0, max(-2.0, float(median_along(along[central]))))
    return tuple(float(share) for share in counts), float((across > ASIDE).mean()), middle
