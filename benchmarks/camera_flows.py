"""Flow written down from geometry, without pictures: what rendered planes lack. Ground that runs to the horizon, corridors,
lenses of other focal lengths, rides that rise or drift, sky and bare walls where the estimate of the flow knows nothing.

Inverse depth D, focal length f, camera velocity (tx, ty, tz), turns (wx, wy, roll), growth g; x, y in frame widths from the middle:
    right = D (x tz - f tx) + wy (f + x x / f) + wx x y / f + g x - roll y,   down alike.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from curate.signals.camera_fit import Fit, fit
from curate.signals.camera_kinds import KINDS

WIDTH, STEP_S = 256, 0.1
Rng = np.random.Generator


class Move(NamedTuple):
    """Velocities of the camera, see above; y down, so ty > 0 sinks and wx > 0 turns so that the picture sinks."""

    tx: float = 0.0
    ty: float = 0.0
    tz: float = 0.0
    wx: float = 0.0
    wy: float = 0.0
    roll: float = 0.0
    g: float = 0.0


def flow_example(seed: int) -> tuple[str, list[Fit]]:
    """Kind and fits of a random clip of 0.8 to 3 s. Equal seeds, equal fits."""
    rng = np.random.default_rng([seed, 3])
    kind = KINDS[seed % len(KINDS)]
    height = int(rng.choice([144, 192, 108, 256]))
    depth = inverse_depth(rng, WIDTH, height, deep=kind in ("pan", "around"))
    while kind == "around" and (depth > 1.25 * np.quantile(depth, 0.5)).mean() < 0.12:
        depth = inverse_depth(rng, WIDTH, height, deep=True)  # a subject to go around
    focal = float(np.exp(rng.uniform(np.log(0.65), np.log(2.0))))
    move, shake = random_move(kind, rng, depth, focal)
    speed = float(np.exp(rng.uniform(np.log(0.025), np.log(0.4))))
    field = velocity(move, depth, focal)
    scale = speed / (np.hypot(*np.moveaxis(field, 2, 0)).mean() + 1e-9) if kind not in ("static", "handheld") else 1.0
    fits = []
    spoil = Spoil(rng, WIDTH, height, busy=kind == "static")
    count = int(rng.integers(8, 30))
    ease = 1 + rng.uniform(0, 0.6) * np.sin(np.linspace(0, rng.uniform(1, 7), count) + rng.uniform(0, 6))
    for k in range(count):
        hand = velocity(shake(k * STEP_S), depth, focal) * (speed if kind != "static" else 1.0)
        flow = (field * scale * ease[k] + hand) * STEP_S * WIDTH
        fits.append(fit(spoil(flow.astype(np.float32)), STEP_S))
    return kind, fits


def inverse_depth(rng: Rng, width: int, height: int, deep: bool) -> np.ndarray:
    """float64 (height, width): a wall, ground under a horizon, or a corridor, with boxes before it."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5 - height / 2) / width)
    shape = rng.choice(["wall", "ground", "corridor"])
    if shape == "wall":
        base = 0.5 + rng.uniform(-0.15, 0.15) * x + rng.uniform(-0.15, 0.15) * y
    elif shape == "ground":
        base = rng.uniform(0.05, 0.5) + rng.uniform(0.8, 3) * np.maximum(0, y - rng.uniform(-0.2, 0.15))
    else:
        sides = np.maximum(
            rng.uniform(0.5, 2.5) * np.abs(x - rng.uniform(-0.2, 0.2)), rng.uniform(0.5, 2.5) * np.abs(y)
        )
        base = np.maximum(rng.uniform(0.1, 0.4), sides)
    boxes = rng.integers(3, 9) if deep and shape == "wall" else rng.integers(0, 6)
    for _ in range(boxes):
        left, top = rng.integers(0, width), rng.integers(0, height)
        wide, tall = rng.integers(width // 12, width // 4), rng.integers(height // 8, height // 2)
        patch = base[top : top + tall, left : left + wide]
        patch[...] = patch.mean() * rng.uniform(1.4, 2.6)
    return base


def random_move(kind: str, rng: Rng, depth: np.ndarray, focal: float):
    """The move of a kind, and the hand that holds the camera: time -> Move in the same units."""
    unsteady = float(rng.choice([0.0, rng.uniform(0.05, 0.4)]))
    hand = _hand(rng, {"handheld": 1.0, "static": 0.004}.get(kind, unsteady))
    sign = float(rng.choice([-1, 1]))
    level = rng.random() < 0.5
    if kind == "zoom":
        if rng.random() < 0.35:
            return Move(g=sign), hand
        drift_x, drift_y, turn = rng.uniform(-0.25, 0.25), rng.uniform(-0.45, 0.45), rng.uniform(-0.06, 0.06, 3)
        return Move(sign * drift_x / focal, sign * drift_y / focal, sign, *turn), hand
    if kind == "pan":
        slip = rng.uniform(-0.1, 0.1)
        return (Move(tx=sign, ty=slip * sign) if level else Move(ty=sign, tx=slip * sign)), hand
    if kind == "tilt":
        slip = rng.uniform(-0.1, 0.1)
        return (Move(wy=sign, wx=slip * sign) if level else Move(wx=sign, wy=slip * sign)), hand
    if kind == "around":
        far, near = np.quantile(depth, 0.3), np.quantile(depth, 0.92)
        pivot = float(far + (near - far) * rng.uniform(0.5, 1.0))
        return Move(tx=sign, wy=sign * pivot), hand
    return Move(), hand


def _hand(rng: Rng, strength: float):
    """Smooth random turns and slides; strength relative to the speed of the clip."""
    turns, phases = rng.uniform(4, 16, (5, 3)), rng.uniform(0, 6.3, (5, 3))

    def at(time_s: float) -> Move:
        wx, wy, roll, tx, ty = (
            strength * np.sin(turns * time_s + phases).sum(axis=1) * np.array([0.5, 0.6, 0.25, 0.4, 0.4])
        )
        return Move(tx=tx, ty=ty, wx=wx, wy=wy, roll=roll)

    return at


def velocity(move: Move, depth: np.ndarray, focal: float) -> np.ndarray:
    """float64 (h, w, 2), frame widths per unit of time, right and down."""
    height, width = depth.shape
    x, y = np.meshgrid((np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5 - height / 2) / width)
    f = focal
    right = (
        depth * (x * move.tz - f * move.tx)
        + move.wy * (f + x * x / f)
        + move.wx * x * y / f
        + move.g * x
        - move.roll * y
    )
    down = (
        depth * (y * move.tz - f * move.ty)
        + move.wy * x * y / f
        + move.wx * (f + y * y / f)
        + move.g * y
        + move.roll * x
    )
    return np.stack([right, down], axis=-1)


class Spoil:
    """What the estimate makes of a true flow: wavering everywhere, guesses where nothing is to be seen, things that move."""

    def __init__(self, rng: Rng, width: int, height: int, busy: bool):
        self._rng, self._size = rng, (width, height)
        self._waver = float(rng.choice([0.05, 0.2, 0.5]))
        bare = cv2.resize(rng.random((4, 6), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        self._bare = bare < rng.choice([-1.0, 0.3, 0.5])
        self._holds = float(rng.uniform(0.0, 0.9))  # how much of the flow is found where it is bare
        count = rng.integers(0, 11) if busy else rng.choice([0, 0, 1, 3])
        self._things = [self._thing() for _ in range(count)]

    def _thing(self) -> tuple[slice, slice, np.ndarray]:
        """Where it is, and the px that it moves by itself from frame to frame."""
        width, height = self._size
        left, top = int(self._rng.integers(0, width * 3 // 4)), int(self._rng.integers(0, height * 3 // 4))
        wide, tall = int(width * self._rng.uniform(0.08, 0.3)), int(height * self._rng.uniform(0.12, 0.4))
        return slice(top, top + tall), slice(left, left + wide), self._rng.normal(0, 4, 2)

    def __call__(self, flow: np.ndarray) -> np.ndarray:
        noise = self._rng.normal(0, self._waver, (9, 16, 2)).astype(np.float32)
        made = flow + cv2.resize(noise, self._size, interpolation=cv2.INTER_LINEAR)
        guess = cv2.resize(self._rng.normal(0, 0.6, (4, 6, 2)).astype(np.float32), self._size)
        made[self._bare] = (self._holds * flow + guess)[self._bare]
        for rows, columns, own in self._things:
            made[rows, columns] += own
        return made.astype(np.float32)
