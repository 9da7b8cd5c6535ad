"""Camera: which of 14 movements the camera makes in a clip, from the optical flow, with a confidence.

Directions are the camera's: when it moves or turns right, the picture flows left.

| class | what the camera does | how it is told |
|---|---|---|
| zoom in, zoom out | the focal length grows, shrinks, or the camera rides forward, back | flow away from, towards the middle |
| pan left, right, up, down | slides sideways or up and down without turning | one way, near things faster (parallax), no bend |
| tilt left, right, up, down | turns about its own centre and stays where it is | one way, near and far alike, faster towards the edges |
| around left, right | rides to its left, right around the subject and keeps looking at it | near things against far ones |
| static | nothing | no flow but that of things that move themselves |
| handheld | small turns and slides without a direction that lasts; also a turn about the line of sight | flow that keeps changing |

Where nothing near passes before something far, sliding and turning look alike; the confidence is low then. A network of a few
hundred weights (scripts/fit_camera.py) tells the kind; the direction is read off the mean flow of the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from curate.seen import Clip, Glance, Record, Seen
from curate.signals.camera_fit import Fit, fit
from curate.signals.camera_kinds import KINDS, features, mean_move, probabilities
from curate.signals.flow import FlowPairs
from curate.signals.kinds import Scores, Signal

CLASSES = (
    "zoom in", "zoom out", "pan up", "pan down", "pan left", "pan right", "tilt up", "tilt down", "tilt left", "tilt right",
    "around left", "around right", "static", "handheld",
)  # fmt: skip
LEAST_S = 0.4  # from the first pair to the last: less says nothing about a movement
BENDS, SURE = (
    0.5,
    2.0,
)  # least bend of the flow of a ride around, relative to its shift (0.9 or more in rendered ones), and least
# multiple of its own uncertainty
COLUMNS = {"camera": pa.string(), "camera_confidence": pa.float64()}


class Watch:
    def __init__(self) -> None:
        self._pairs = FlowPairs()

    def see(self, seen: Seen | Glance) -> Record | None:
        pair = self._pairs.see(seen)
        return None if pair is None else Record(seen.time_s, pair.since_s, fit(pair.flow, pair.elapsed_s))


def summary(records: Sequence[Record], clip: Clip) -> Scores:
    """camera: one of CLASSES; camera_confidence in [0, 1]; both None for an image and for less than LEAST_S."""
    inside = [record for record in records if record.since_s >= clip.start_s - 1e-6]
    if not inside or inside[-1].time_s - inside[0].since_s < LEAST_S:
        return dict.fromkeys(COLUMNS)
    name, confidence = classify([record.values for record in inside])
    return {"camera": name, "camera_confidence": confidence}  # type: ignore[dict-item]


def classify(fits: Sequence[Fit]) -> tuple[str, float]:
    """Fits of a clip, at least one -> class and confidence in [0, 1]: how likely the kind is, times how clear its direction."""
    values = features(fits)
    shares = probabilities(values)
    if not turns(fits):
        shares[KINDS.index("around")] = 0.0
        shares /= shares.sum()
    kind = KINDS[int(np.argmax(shares))]
    way, clarity = direction(kind, fits)
    return f"{kind} {way}".strip(), round(float(shares.max()) * clarity, 4)


def turns(fits: Sequence[Fit]) -> bool:
    """Whether the camera turns so that the ground flows faster towards the edges than in the middle (see camera_fit.Fit). Who
    rides around something turns against the slide: the shift is what is left of both, the bend is the turn's alone."""
    shift = mean_move(fits).shift
    size = float(np.hypot(*shift)) + 1e-9
    bends = np.array([[one.bend_x, one.bend_y] for one in fits]) @ shift / size
    return bool(bends.mean() >= max(BENDS * size, SURE * bends.std() / np.sqrt(len(bends))))


def direction(kind: str, fits: Sequence[Fit]) -> tuple[str, float]:
    """The direction's word, empty for a kind without one, and how clear it is, in [0.5, 1]."""
    mean = mean_move(fits)
    right, down = (float(value) for value in mean.shift)
    if kind == "zoom":
        return ("in" if mean.growth > 0 else "out"), 1.0
    if kind == "around":
        return ("right" if right > 0 else "left"), 1.0
    if kind not in ("pan", "tilt"):
        return "", 1.0
    level = abs(right) >= abs(down)
    clarity = max(abs(right), abs(down)) / (abs(right) + abs(down) + 1e-9)
    if level:
        return ("left" if right > 0 else "right"), clarity
    return ("up" if down > 0 else "down"), clarity


SIGNAL = Signal(COLUMNS, 4, "pass", Watch, summary, small=True, kinds=(Fit,))
