"""Quality: how a clip looks, technically (blur, noise, blockiness, exposure) and as a picture (colour, contrast, composition).

The built-in combination is free and modest: defects that are measured, each with a weight, and a few old rules of picture making
on a tiny, smoothed picture, which no grain or block reaches. With `weights` a DOVER network (TorchScript or ONNX, by path) judges
instead. DOVER's licence (S-Lab 1.0) allows non-commercial use only: it is never a default and nothing of it is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from curate.pictures import decode_jpegs
from curate.signals.defects import defects
from curate.signals.kinds import Scores, Signal

FRAMES = 4
COLUMNS = {name: pa.float64() for name in ("quality", "aesthetic", "technical")}
# What one unit of a defect costs: set so that over five levels of each fault on real clips the score falls although the other
# measures move the other way (noise looks sharp, blocks have no noise); benchmarks/signals.py prints the rank correlations.
COST = {"blur": 0.2, "noise": 0.1, "blockiness": 1.6, "exposure": 0.4}
GRAIN = 1.5  # grey levels of noise that nobody minds
TINY = (48, 27)  # columns, rows of the picture that composition is judged on
LEAST_AESTHETIC = 0.6  # of technical quality that is left to the plainest picture


def from_proxies(proxies: pa.Table, settings: Any) -> pa.Table:
    rows = []
    for jpegs in proxies["jpegs"].to_pylist():
        if settings.weights:
            from curate.signals.dover import judge

            rows.append(judge(settings.weights, decode_jpegs(jpegs)))
        else:
            rows.append(measure(decode_jpegs(jpegs[:: max(1, len(jpegs) // FRAMES)][:FRAMES])))
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    return pa.table({"clip_id": proxies["clip_id"]} | columns)


def measure(frames: Sequence[np.ndarray]) -> Scores:
    """RGB uint8 (H, W, 3) of one clip -> medians over them, each in [0, 1]; None without frames."""
    if not frames:
        return dict.fromkeys(COLUMNS)
    good = [technical(frame) for frame in frames]
    fair = [aesthetic(frame) for frame in frames]
    both = [one * (LEAST_AESTHETIC + (1 - LEAST_AESTHETIC) * other) for one, other in zip(good, fair)]
    return {name: float(np.median(values)) for name, values in zip(COLUMNS, (both, fair, good))}


def technical(rgb: np.ndarray) -> float:
    """uint8 (H, W, 3) -> 1 without a defect .. 0."""
    found = defects(rgb)
    found["noise"] = max(0.0, found["noise"] - GRAIN)
    return float(np.exp(-sum(COST[name] * found[name] for name in COST)))


def aesthetic(rgb: np.ndarray) -> float:
    """uint8 (H, W, 3) -> mean of how colourful, how rich in tones, how well placed, each in [0, 1]."""
    tiny = cv2.resize(cv2.GaussianBlur(rgb, (0, 0), max(rgb.shape[:2]) / 128), TINY, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(tiny.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    colour = float(
        np.hypot(lab[..., 1].std(), lab[..., 2].std()) + 0.3 * np.hypot(lab[..., 1].mean(), lab[..., 2].mean())
    )
    low, high = np.quantile(lab[..., 0], [0.05, 0.95])
    return float(np.mean([1 - np.exp(-colour / 15), np.clip((high - low) / 70, 0, 1), placed(lab)]))


def placed(lab: np.ndarray) -> float:
    """float (h, w, 3) -> 1 where what stands out lies together, on a line of thirds or in the middle, .. 0 all over."""
    apart = np.linalg.norm(lab - np.median(lab.reshape(-1, 3), axis=0), axis=-1) ** 2
    total = float(apart.sum())
    if total < 1.0:
        return 0.0
    y, x = np.meshgrid(*(np.linspace(0, 1, side) for side in apart.shape), indexing="ij")
    centre = np.array([(apart * axis).sum() for axis in (x, y)]) / total
    reach = float(np.sqrt((apart * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2)).sum() / total))
    off = [min(abs(at - line) for line in (1 / 3, 1 / 2, 2 / 3)) for at in centre]
    return float(np.clip(1.4 - 2 * reach, 0, 1) * (1 - 2 * max(off)))


SIGNAL = Signal(COLUMNS, 1, "proxies", from_proxies=from_proxies)
