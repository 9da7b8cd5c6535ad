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

NETWORKS, HIDDEN, ALPHA, EPOCHS = 5, 16, 0.05, 60
SHAKE = 0.1  # deviation, in deviations of each number, added to the examples while fitting
COPIES = 3  # of each example, each shaken otherwise


Labelled = tuple[str, list[Fit]]  # kind, fits of a clip


def examples(scenes: int, flows: int, workers: int) -> list[Labelled]:
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        rendered = [(one.kind, one.fits) for one in pool.map(fitted, range(scenes), chunksize=16)]
        return rendered + list(pool.map(flow_example, range(flows), chunksize=16))


def table(found: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, len(NAMES)) and kinds (n,); of a clip also its first half, so that
    short clips are known too, and every second pair: as many as the pass sees."""
    rows, kinds = [], []
    for kind, whole in found:
        for fits in (whole, whole[: max(6, len(whole) // 2)], whole[::2]):
            rows.append(features(fits))
            kinds.append(KINDS.index(kind))
    return np.array(rows), np.array(kinds)


def fit_network(values: np.ndarray, kinds: np.ndarray) -> dict[str, list]:
    """Some networks, fitted alike from different beginnings, side by side: their scores are averaged, their accidents too."""
    from sklearn.neural_network import MLPClassifier

    mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-6
    networks = []
    for seed in range(NETWORKS):
        rng = np.random.default_rng(seed)
        whitened = np.concatenate([(values - mean) / scale] * COPIES)
        whitened += rng.normal(0, SHAKE, whitened.shape)
        network = MLPClassifier((HIDDEN,), activation="tanh", alpha=ALPHA, max_iter=EPOCHS, random_state=seed, tol=1e-5)
        networks.append(network.fit(whitened, np.tile(kinds, COPIES)))
    parts = {"mean": mean, "scale": scale}
    parts["w1"] = np.concatenate([one.coefs_[0] for one in networks], axis=1)
    parts["b1"] = np.concatenate([one.intercepts_[0] for one in networks])
    parts["w2"] = np.concatenate([one.coefs_[1] for one in networks]) / NETWORKS
    parts["b2"] = np.mean([one.intercepts_[1] for one in networks], axis=0)
    return {name: np.round(part, 4).tolist() for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1100)
    parser.add_argument("--flows", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    values, kinds = table(examples(chosen.scenes, chosen.flows, chosen.workers))
    made = {
        "made_by": "scripts/fit_camera.py",
        "scenes": chosen.scenes,
        "flows": chosen.flows,
        "features": NAMES,
        "kinds": KINDS,
    }
    WEIGHTS.parent.mkdir(exist_ok=True)
    WEIGHTS.write_text(json.dumps(made | fit_network(values, kinds)) + "\n", encoding="utf-8")
    print(f"{WEIGHTS}: fitted on {len(kinds)} clips of {chosen.scenes} scenes and {chosen.flows} flows")


if __name__ == "__main__":
    main()
