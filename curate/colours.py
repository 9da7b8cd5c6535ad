"""The colours of a clip in words: which names cover most of its proxies' px.

A px has the name whose colour is nearest to it in CIE Lab, where equal distances look about equally different.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

COLOURS_VERSION = 1  # part of the fingerprint of the table `captions`
SIDE = 48  # px; the picture is shrunk to SIDE x SIDE, so grain has no name of its own
SHARE = 0.15  # a colour is named from this share of the picture on
MOST = 3  # names

# sRGB of what people mean by the word: several tones where one word covers several.
NAMES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((0, 0, 0), (30, 30, 32)),
    "grey": ((90, 90, 90), (128, 128, 128), (170, 170, 170)),
    "white": ((255, 255, 255), (232, 232, 228)),
    "red": ((210, 35, 40), (150, 25, 30)),
    "orange": ((244, 130, 32),),
    "yellow": ((246, 210, 50),),
    "green": ((50, 155, 70), (25, 90, 40), (130, 190, 90)),
    "teal": ((30, 150, 155), (20, 95, 100)),
    "blue": ((40, 85, 200), (110, 165, 225)),
    "navy": ((20, 32, 84),),
    "purple": ((125, 60, 170), (80, 40, 110)),
    "pink": ((236, 120, 170), (245, 185, 205)),
    "brown": ((120, 80, 48), (75, 50, 32)),
    "sand": ((216, 190, 140),),
}


def named(frames: Sequence[np.ndarray]) -> list[str]:
    """T >= 1 frames RGB uint8 (H, W, 3) -> up to MOST names, the largest share first; those below SHARE left out."""
    small = [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in frames]
    words, tones, owners = _tones()
    lab = _lab(np.concatenate([one.reshape(-1, 3) for one in small]))
    nearest = owners[np.argmin(((lab[:, None] - tones[None]) ** 2).sum(-1), axis=1)]
    shares = np.bincount(nearest, minlength=len(words)) / len(nearest)
    return [words[k] for k in np.argsort(-shares, kind="stable")[:MOST] if shares[k] >= SHARE]


@cache
def _tones() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names; Lab (N, 3) of every tone; the name (N,) each belongs to."""
    tones = np.array([tone for of_name in NAMES.values() for tone in of_name], np.uint8)
    owners = np.repeat(np.arange(len(NAMES)), [len(of_name) for of_name in NAMES.values()])
    return list(NAMES), _lab(tones), owners


def _lab(rgb: np.ndarray) -> np.ndarray:
    """uint8 (N, 3) -> float32 (N, 3): L in [0, 100]."""
    return cv2.cvtColor(rgb[None].astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab)[0]
