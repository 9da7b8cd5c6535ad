"""Fits the small network of the camera signal: `python -m scripts.fit_camera [--scenes 1600] [--workers 2]`.

Renders scenes with depth (benchmarks/camera_scenes.py), reduces their flow as the pass does, and writes
curate/signals/weights/camera.json. Scenes that no class fits (a flat wall that slides: pan or tilt?) are given to both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from benchmarks.camera_scenes import Example, fitted
from curate.signals.camera_kinds import KINDS, NAMES, WEIGHTS, features

HIDDEN = 24
SHAKE = 0.06  # deviation, in deviations of each number, added to the examples while fitting
COPIES = 6  # of each example, each shaken otherwise


def examples(count: int, workers: int) -> list[Example]:
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return list(pool.map(fitted, range(count), chunksize=16))


def table(found: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, len(NAMES)) and kinds (n,); of a clip also its first half, so that short clips are known too."""
    rows, kinds = [], []
    for one in found:
        for fits in (one.fits, one.fits[: max(6, len(one.fits) // 2)]):
            rows.append(features(fits))
            kinds.append(KINDS.index(one.kind))
    return np.array(rows), np.array(kinds)


def fit_network(values: np.ndarray, kinds: np.ndarray) -> dict[str, list]:
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(0)
    mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-6
    whitened = np.concatenate([(values - mean) / scale] * COPIES)
    whitened[len(values) :] += rng.normal(0, SHAKE, whitened[len(values) :].shape)
    network = MLPClassifier((HIDDEN,), activation="tanh", alpha=2e-2, max_iter=150, random_state=0, tol=1e-5)
    network.fit(whitened, np.tile(kinds, COPIES))
    parts = {"mean": mean, "scale": scale, "w1": network.coefs_[0], "b1": network.intercepts_[0]}
    parts |= {"w2": network.coefs_[1], "b2": network.intercepts_[1]}
    return {name: np.round(part, 5).tolist() for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1600)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    values, kinds = table(examples(chosen.scenes, chosen.workers))
    made = {"made_by": "scripts/fit_camera.py", "scenes": chosen.scenes, "features": NAMES, "kinds": KINDS}
    WEIGHTS.parent.mkdir(exist_ok=True)
    WEIGHTS.write_text(json.dumps(made | fit_network(values, kinds)) + "\n", encoding="utf-8")
    print(f"{WEIGHTS}: fitted on {len(kinds)} clips of {chosen.scenes} scenes")


if __name__ == "__main__":
    main()
