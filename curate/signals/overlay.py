"""Overlay: logos and watermarks that stay where they are while the picture moves; opaque or half transparent.

Without weights by the edges that last (`overlay_edges`): across the clips of a video, whose scenes differ, what lasts
through all of them; of a clip alone, what lasts while its scene moves. Where nothing moves and there is no other clip, a
mark cannot be told from the scene, and the score is unknown; so it is for images. With `weights` an ONNX detector of the
YOLOX kind looks at single frames instead; all its classes are overlays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curate.crop import columns_of
from curate.pictures import decode_jpegs
from curate.signals.crops import Box, covered, crop_around
from curate.signals.detector import detect
from curate.signals.kinds import Scores, Signal
from curate.signals.overlay_edges import Found, find

LEAST = 4  # frames of a clip from which on what lasts says something
PER_CLIP, CLIPS = 4, 6  # frames and clips that a video is judged by
DETECTOR_FRAMES = 3
CROP = columns_of("overlay")
COLUMNS = {name: pa.float64() for name in ("overlay", "overlay_seen", *CROP)}


def from_proxies(proxies: pa.Table, settings: Any) -> pa.Table:
    """Rows that have a `video_id` are judged with the other clips of their video in the table, others alone."""
    videos = proxies["video_id"].to_pylist() if "video_id" in proxies.column_names else proxies["clip_id"].to_pylist()
    jpegs = proxies["jpegs"].to_pylist()
    groups = defaultdict(list)
    for row, video in enumerate(videos):
        groups[video].append(row)
    scores: list[Scores] = [{}] * len(jpegs)
    for rows in groups.values():
        clips = _Clips([jpegs[row] for row in rows])
        measured = detected(clips, settings.weights) if settings.weights else measure(clips)
        for row, one in zip(rows, measured, strict=True):
            scores[row] = one
    columns = {name: pa.array([one[name] for one in scores], kind) for name, kind in COLUMNS.items()}
    return pa.table({"clip_id": proxies["clip_id"]} | columns)


class _Clips(Sequence[Sequence[np.ndarray]]):
    """Clips as JPEGs, decoded when they are looked at: a long video's don't fit into memory."""

    def __init__(self, jpegs: Sequence[Sequence[bytes]]):
        self.jpegs = jpegs

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitem__(self, place: Any) -> Any:
        return decode_jpegs(self.jpegs[place])


def measure(clips: Sequence[Sequence[np.ndarray]]) -> list[Scores]:
    """Clips of one video, each RGB uint8 (H, W, 3) frames -> scores of each.

    overlay: share of the frame under marks, None where it cannot be told; overlay_seen: share of the scene's edges that moved
    or changed, so that a mark would have stood out; overlay_crop_*: shares of the sides to cut, None where too little would remain.
    """
    together = _together(clips)
    if together.boxes is not None:
        return [_scores(together)] * len(clips)
    return [_scores(_find([frames])) for frames in clips]


def _find(clips: Sequence[Sequence[np.ndarray]]) -> Found:
    alike = len({frame.shape for frames in clips for frame in frames}) == 1
    if not alike or sum(len(frames) for frames in clips) < LEAST:
        return Found(0.0, None)
    return find(clips)


def _together(clips: Sequence[Sequence[np.ndarray]]) -> Found:
    """The marks that all clips of a video carry (of many, some spread over it)."""
    places = sorted({int(k * len(clips) / CLIPS) for k in range(CLIPS)})
    chosen = [frames for frames in (clips[place] for place in places) if len(frames) >= LEAST]
    if len(chosen) < 2:
        return Found(0.0, None)
    return _find([[frames[int(k * len(frames) / PER_CLIP)] for k in range(PER_CLIP)] for frames in chosen])


def _scores(found: Found) -> Scores:
    if found.boxes is None:
        return dict.fromkeys(COLUMNS) | {"overlay_seen": found.seen}
    return _told(found.boxes, found.seen)


def _told(boxes: Sequence[Box], seen: float) -> Scores:
    crop = crop_around(boxes) or (None,) * 4
    return {"overlay": covered(boxes), "overlay_seen": seen} | dict(zip(CROP, crop, strict=True))


def detected(clips: Sequence[Sequence[np.ndarray]], weights: str) -> list[Scores]:
    """The same scores from a detector network, frame by frame; all None for a clip without frames."""
    scores: list[Scores] = []
    for frames in clips:
        looked = frames[:: max(1, len(frames) // DETECTOR_FRAMES)][:DETECTOR_FRAMES]
        boxes = [one.box for frame in looked for one in detect(weights, frame)]
        scores.append(_told(boxes, 1.0) if looked else dict.fromkeys(COLUMNS))
    return scores


SIGNAL = Signal(COLUMNS, 2, "proxies", from_proxies=from_proxies)
