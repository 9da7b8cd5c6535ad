"""The few small frames that are kept of a clip, and the bounded store of frames that they are chosen from."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from media.decode import Frame

JPEG_QUALITY = 90
PROXY_VERSION = 2


class Candidate(NamedTuple):
    time_s: float
    sharpness: float
    frame: Frame  # shrunk


class Store:
    """Frames of a growing stretch of video, in order: the sharpest of each of at most `capacity` slots of equal length.

    When the slots run out, neighbours are merged and the sharper one stays; so the store is bounded, and depends only
    on the frames and on where the stretch began.
    """

    def __init__(self, start_s: float, slot_s: float, capacity: int):
        self._start_s, self._slot_s, self._capacity = start_s, slot_s, capacity
        self._slots: dict[int, Candidate] = {}

    def add(self, candidate: Candidate) -> None:
        slot = int((candidate.time_s - self._start_s) / self._slot_s + 1e-6)
        while slot >= self._capacity:
            self._halve()
            slot = int((candidate.time_s - self._start_s) / self._slot_s + 1e-6)
        self._keep(self._slots, slot, candidate)

    def all(self) -> list[Candidate]:
        return list(self._slots.values())

    def _halve(self) -> None:
        self._slot_s *= 2
        merged: dict[int, Candidate] = {}
        for slot, candidate in self._slots.items():
            self._keep(merged, slot // 2, candidate)
        self._slots = merged

    @staticmethod
    def _keep(slots: dict[int, Candidate], slot: int, candidate: Candidate) -> None:
        if slot not in slots or candidate.sharpness > slots[slot].sharpness:
            slots[slot] = candidate


def evenly(candidates: Sequence[Candidate], start_s: float, end_s: float, count: int) -> list[Candidate]:
    """Up to `count` different candidates nearest to even times in [start_s, end_s), in order."""
    inside = [one for one in candidates if start_s <= one.time_s < end_s]
    times = [one.time_s for one in inside]
    chosen: list[int] = []
    for k in range(count):
        near = _nearest(times, start_s + (end_s - start_s) * k / count)
        if near is not None and near not in chosen:
            chosen.append(near)
    return [inside[k] for k in sorted(chosen)]


def jpeg(rgb: np.ndarray) -> bytes:
    """RGB uint8 (h, w, 3) -> JPEG bytes."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"a picture of shape {rgb.shape} could not be written as JPEG")
    return data.tobytes()


def _nearest(times: Sequence[float], at: float) -> int | None:
    if not times:
        return None
    k = bisect.bisect_left(times, at)
    return min((j for j in (k - 1, k) if 0 <= j < len(times)), key=lambda j: abs(times[j] - at))
