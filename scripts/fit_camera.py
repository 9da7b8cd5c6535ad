"""Fits the small network of the camera signal: `python -m scripts.fit_camera [--scenes 1100] [--flows 1500] [--workers 2]`.

Renders scenes with depth (benchmarks/camera_scenes.py) and reduces their flow as the pass does; adds flow that is written down
from geometry (benchmarks/camera_flows.py), for what the scenes lack. Writes curate/signals/weights/camera.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from benchmarks.camera_flows import flow_example
from benchmarks.camera_scenes import fitted
from curate.signals.camera_fit import Fit
from curate.signals.camera_kinds import KINDS, NAMES, WEIGHTS, features

HIDDEN = 24
SHAKE = 0.06  # deviation, in deviations of each number, added to the examples while fitting
COPIES = 6  # of each example, each shaken otherwise


Labelled = tuple[str, list[Fit]]  # kind, fits of a clip


def examples(scenes: int, flows: int, workers: int) -> list[Labelled]:
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        rendered = [(one.kind, one.fits) for one in pool.map(fitted, range(scenes), chunksize=16)]
        return rendered + list(pool.map(flow_example, range(flows), chunksize=16))


def table(found: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, len(NAMES)) and kinds (n,); of a clip also its first half, so that short clips are known too."""
    rows, kinds = [], []
    for kind, whole in found:
        for fits in (whole, whole[: max(6, len(whole) // 2)]):
            rows.append(features(fits))
            kinds.append(KINDS.index(kind))
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
    parser.add_argument("--scenes", type=int, default=1100)
    parser.add_argument("--flows", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    values, kinds = table(examples(chosen.scenes, chosen.flows, chosen.workers))
    made = {"made_by": "scripts/fit_camera.py", "scenes": chosen.scenes, "flows": chosen.flows, "features": NAMES, "kinds": KINDS}
    WEIGHTS.parent.mkdir(exist_ok=True)
    WEIGHTS.write_text(json.dumps(made | fit_network(values, kinds)) + "\n", encoding="utf-8")
    print(f"{WEIGHTS}: fitted on {len(kinds)} clips of {chosen.scenes} scenes and {chosen.flows} flows")


if __name__ == "__main__":
    main()
