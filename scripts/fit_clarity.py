"""Fits the blur classifier: `python -m scripts.fit_clarity`. Writes curate/signals/weights/clarity.json.

Good pictures: crops, at several sizes, of the two photographs that scikit-learn ships and of the one that matplotlib ships, and
rendered scenes; each with light, contrast, noise and JPEG as pictures have them. Blurred ones: the same, with a fault.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from benchmarks.blurs import BLURS
from curate.signals.clarity import WEIGHTS
from curate.signals.sharp_edges import NAMES, features
from examples.scenes import Scene, render_scene
from examples.sprites import SHAPES
from examples.textures import COLOURS, TEXTURES, photograph

SAMPLES = 900
L2 = 0.05


def photographs() -> list[np.ndarray]:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    hopper = np.ascontiguousarray(np.asarray(cv2.imread(str(path)))[..., ::-1])
    return [photograph("china.jpg"), photograph("flower.jpg"), hopper]


def good_picture(rng: np.random.Generator, sources: list[np.ndarray]) -> np.ndarray:
    if rng.random() < 0.3:
        first, second, third = (str(name) for name in rng.choice(list(COLOURS), 3))
        scene = Scene(str(rng.choice(list(TEXTURES))), (first, second), str(rng.choice(list(SHAPES))), third, moving=4)
        return next(iter(render_scene(scene, int(rng.integers(1 << 30)), 384, 216, np.arange(2) / 10)))
    source = sources[rng.integers(len(sources))]
    scale = rng.uniform(0.45, 0.95)
    small = cv2.resize(source, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tall, wide = (int(side * rng.uniform(0.55, 1.0)) for side in small.shape[:2])
    top, left = rng.integers(0, small.shape[0] - tall + 1), rng.integers(0, small.shape[1] - wide + 1)
    return np.ascontiguousarray(small[top : top + tall, left : left + wide])


def as_filmed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, contrast, grain and compression of ordinary footage."""
    lit = np.clip(picture * rng.uniform(0.5, 1.15) + rng.uniform(-10, 25), 0, 255)
    grain = rng.normal(0, rng.choice([0.0, 1.0, 3.0]), picture.shape[:2])[..., None]
    made = np.clip(lit + grain, 0, 255).astype(np.uint8)
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", made, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))])[1], 1)
    )


def table(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (2 count, len(NAMES)) and whether each is sharp (2 count,)."""
    sources = photographs()
    rows, sharp = [], []
    for seed in range(count):
        rng = np.random.default_rng([seed, 7])
        picture = good_picture(rng, sources)
        fault = BLURS[str(rng.choice(list(BLURS)))]
        blurred = fault(picture, int(rng.integers(1, 6)), rng)
        for one, label in ((picture, 1), (blurred, 0)):
            rows.append(features(as_filmed(one, rng)))
            sharp.append(label)
    return np.array(rows), np.array(sharp)


def main() -> None:
    from sklearn.linear_model import LogisticRegression

    values, sharp = table(SAMPLES)
    mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-6
    model = LogisticRegression(C=1 / L2 / 10, max_iter=2000).fit(np.clip((values - mean) / scale, -4, 4), sharp)
    made = {"made_by": "scripts/fit_clarity.py", "samples": SAMPLES, "features": NAMES}
    made |= {"mean": mean.round(5).tolist(), "scale": scale.round(5).tolist()}
    made |= {"w": model.coef_[0].round(5).tolist(), "b": round(float(model.intercept_[0]), 5)}
    WEIGHTS.write_text(json.dumps(made) + "\n", encoding="utf-8")
    print(
        f"{WEIGHTS}: right on {model.score(np.clip((values - mean) / scale, -4, 4), sharp):.1%} of what it was fitted on"
    )


if __name__ == "__main__":
    main()
