"""PySceneDetect's detectors, on the content score that `ShotFinder` computes once for all of them.

The content and the adaptive detector decide by the score alone, so their rule is written out here (a test holds both
against the library's own, frame by frame); the library is loaded only by those who ask for its hash detector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

CONTENT, ADAPTIVE_RATIO, ADAPTIVE_FLOOR, HASH = 27.0, 2.0, 15.0, 0.35  # at which they propose, low on purpose
WINDOW = 2  # frames on each side that the adaptive detector compares with


def content_votes(score: float) -> bool:
    """Whether a content score (0-255) is a proposal."""
    return score >= CONTENT


def adaptive_votes(scores: Sequence[float]) -> bool:
    """Whether the middle one of 2 WINDOW + 1 consecutive content scores is a proposal; fewer say nothing."""
    if len(scores) < 2 * WINDOW + 1 or scores[WINDOW] < ADAPTIVE_FLOOR:
        return False
    around = sum(score for k, score in enumerate(scores) if k != WINDOW) / (2.0 * WINDOW)
    return around < 1e-5 or min(scores[WINDOW] / around, 255.0) >= ADAPTIVE_RATIO


def hash_detector(time_base: Fraction) -> Callable[[int, np.ndarray], bool]:
    """PySceneDetect's HashDetector: (pts, BGR uint8 (h, w, 3)) of one frame after another -> whether it proposes a cut there."""
    from scenedetect.common import FrameTimecode, Timecode
    from scenedetect.detectors import HashDetector

    detector = HashDetector(threshold=HASH, min_scene_len=0)

    def votes(pts: int, bgr: np.ndarray) -> bool:
        return bool(detector.process_frame(FrameTimecode(Timecode(pts, time_base), fps=30.0), bgr))

    return votes
