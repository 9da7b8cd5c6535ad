"""What the fits of a clip say of its camera: numbers that don't depend on the direction, and the small network on them.

Directions are left out on purpose: a scene and its mirror image have the same kind of movement, so the network is asked for the
kind alone and the direction is read off the mean shift.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from curate.signals.camera_fit import RELATIVE, Fit

KINDS = ("zoom", "pan", "tilt", "around", "static", "handheld")
WEIGHTS = Path(__file__).parent / "weights" / "camera.json"
NAMES = (
    "shift", "steady_shift", "growth", "steady_growth", "turn", "steady_turn",
    "steady_stretch", "shift_lasts", "growth_lasts", "turn_lasts", "growth_rules", "turn_rules", "jerk", "level",
    "bend", "spread", "rest", "apart", "aside", "middle", *(f"share_{k}" for k in range(len(RELATIVE) + 1)),
)  # fmt: skip
STILL = 0.003  # frame widths/s: shifts below this are as good as none
EDGE = 0.3  # frame widths from the middle at which a growth or a turn is compared with a shift


class Mean(NamedTuple):
    """Means over a clip: shift (2,) in frame widths/s, growth and turn in 1/s."""

    shift: np.ndarray
    growth: float
    turn: float


def mean_move(fits: Sequence[Fit]) -> Mean:
    return Mean(
        np.array([[one.right, one.down] for one in fits]).mean(axis=0),
        float(np.mean([one.growth for one in fits])),
        float(np.mean([one.turn for one in fits])),
    )


def features(fits: Sequence[Fit]) -> np.ndarray:
    """Fits of a clip in order, at least one -> float64 (len(NAMES),), the same for mirrored pictures."""
    mean = mean_move(fits)
    shifts = np.array([[one.right, one.down] for one in fits])
    sizes = np.hypot(*shifts.T)
    weights = (sizes**2 + 1e-8) / (sizes**2 + 1e-8).sum()  # where little is shifted, ratios to the shift say little
    steady, shift = float(np.hypot(*mean.shift)), float(sizes.mean())
    growth, turn = (float(np.mean([abs(value) for value in values])) * EDGE for values in _growth_turn(fits))
    steady_growth, steady_turn = abs(mean.growth) * EDGE, abs(mean.turn) * EDGE
    steady_stretch = EDGE * float(np.hypot(*np.array([[one.stretch, one.shear] for one in fits]).mean(axis=0)))
    total = steady + steady_growth + steady_turn + STILL
    bends = np.array([[one.bend_x, one.bend_y] for one in fits]).mean(axis=0)
    ratios = np.array([[one.aside, one.middle, *one.shares] for one in fits])
    aside, middle, *shares = weights @ ratios
    return np.array(
        [
            *np.log(np.array([shift, steady, growth, steady_growth, turn, steady_turn, steady_stretch]) + STILL),
            steady / (shift + STILL), steady_growth / (growth + STILL), steady_turn / (turn + STILL),
            steady_growth / total, steady_turn / total,
            float(np.hypot(*np.diff(shifts, axis=0).T).mean()) / (2 * shift + STILL) if len(fits) > 1 else 0.0,
            abs(mean.shift[0]) / (np.abs(mean.shift).sum() + STILL),
            float(np.clip(mean.shift @ bends / (steady**2 + STILL**2), -4, 4)),
            float(np.log(np.mean([one.spread for one in fits]) + 1e-4)),
            float(np.mean([one.rest for one in fits])), float(np.mean([one.apart for one in fits])), aside, middle, *shares,
        ]
    )  # fmt: skip


def _growth_turn(fits: Sequence[Fit]) -> tuple[list[float], list[float]]:
    return [one.growth for one in fits], [one.turn for one in fits]


def probabilities(values: np.ndarray) -> np.ndarray:
    """Features (..., len(NAMES)) -> (..., len(KINDS)) that add up to 1."""
    net = weights()
    hidden = np.tanh((values - net["mean"]) / net["scale"] @ net["w1"] + net["b1"])
    scores = hidden @ net["w2"] + net["b2"]
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=1)
def weights() -> dict[str, np.ndarray]:
    """Made by scripts/fit_camera.py. Raises ValueError where they are of other features or kinds."""
    data = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    if tuple(data["features"]) != NAMES or tuple(data["kinds"]) != KINDS:
        raise ValueError(f"{WEIGHTS}: fitted on other features or kinds, run `python -m scripts.fit_camera` again")
    return {name: np.array(data[name]) for name in ("mean", "scale", "w1", "b1", "w2", "b2")}
