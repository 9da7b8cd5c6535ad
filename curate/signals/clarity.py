"""Clarity: the probability that a clip's pictures are not blurred, from a logistic regression on `sharp_edges`.

It is fitted by scripts/fit_clarity.py on photographs that are in focus and on the same ones out of focus, shaken or enlarged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.pictures import decode_jpegs
from curate.signals.kinds import Signal
from curate.signals.sharp_edges import NAMES, features

WEIGHTS = Path(__file__).parent / "weights" / "clarity.json"
COLUMNS = {"clarity": pa.float64()}


def from_proxies(proxies: pa.Table, settings: Any) -> pa.Table:
    scores = [measure(decode_jpegs(jpegs)) for jpegs in proxies["jpegs"].to_pylist()]
    return pa.table({"clip_id": proxies["clip_id"], "clarity": pa.array(scores, pa.float64())})


def measure(frames: Sequence[np.ndarray]) -> float | None:
    """RGB uint8 (H, W, 3) of one clip -> median probability in [0, 1]; None without frames."""
    if not frames:
        return None
    return float(np.median(probability(np.array([features(frame) for frame in frames]))))


def probability(values: np.ndarray) -> np.ndarray:
    """Features (n, len(NAMES)) -> (n,) in [0, 1]."""
    return 1 / (1 + np.exp(-log_odds(values)))


def log_odds(values: np.ndarray) -> np.ndarray:
    net = weights()
    whitened = np.clip((values - net["mean"]) / net["scale"], -4, 4)
    return whitened @ net["w"] + net["b"]


@lru_cache(maxsize=1)
def weights() -> dict[str, np.ndarray]:
    """Made by scripts/fit_clarity.py. Raises ValueError where they are of other features."""
    data = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    if tuple(data["features"]) != NAMES:
        raise ValueError(f"{WEIGHTS}: fitted on other features, run `python -m scripts.fit_clarity` again")
    return {name: np.array(data[name]) for name in ("mean", "scale", "w", "b")}


SIGNAL = Signal(COLUMNS, 1, "proxies", from_proxies=from_proxies)
