"""Things that move otherwise than the whole picture: where they are, to a px, and how fast.

Dense flow smears the motion of a thing over the ground around it, and the ground's over the thing. So what moves is told from three
pictures instead: a px of the middle one that looks, moved with the whole picture, like the one before or like the one after is
ground (the one that a thing covers only now was free before), all others belong to things. Their motion is then looked for among
the px of things alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from curate.signals.whole import places

# All found on the generated footage of seed 0 by the area that is told to move, against the truth.
LEAST_GREY, OF_CONTRAST, OF_NOISE, OF_SLOPE, OF_CHANGE = 0.25, 0.01, 1.5, 0.27, 0.037
STEP_GREY = 0.5  # evidence beyond that says no more: px vote
SMOOTH_PX = 1.0  # deviation of the window that votes
CLOSE_PX, FILL = 7, 0.01  # gaps as narrow as that, and holes up to that share of the picture, belong to the thing
REACH_PX = 4  # of the picture shrunk to a quarter: how far a thing is looked for
PATCH_PX = 7  # of the picture shrunk to a quarter: side of what is compared
MOST_GREY = 40  # differences beyond that count no more


def _nearest_first(low: int, high: int) -> list[tuple[int, int]]:
    """All (x, y) in [low, high], those nearest to the middle first: of equally good shifts the least is taken."""
    every = [(x, y) for x in range(low, high + 1) for y in range(low, high + 1)]
    return sorted(every, key=lambda one: (one[0] - (low + high) / 2) ** 2 + (one[1] - (low + high) / 2) ** 2)


SHIFTS, NEXT = _nearest_first(0, 2 * REACH_PX), _nearest_first(-1, 1)
NEAR, FAR = (cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (px, px)) for px in (5, 13))
WEAKER = 0.35
AROUND = np.ones((13, 13), np.uint8)


def thing_mask(luma: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """uint8 (h, w) three times, before and after moved so that the ground lies on that of luma -> bool (h, w)."""
    differences = cv2.absdiff(luma, before), cv2.absdiff(luma, after)
    least, most = cv2.min(*differences), cv2.max(*differences)
    slope = cv2.magnitude(*(cv2.Sobel(luma, cv2.CV_32F, *way, scale=OF_SLOPE / 8) for way in ((1, 0), (0, 1))))
    floor = LEAST_GREY + OF_CONTRAST * min(60.0, float(cv2.meanStdDev(luma)[1][0, 0])) + OF_NOISE * _median(least)
    doubt = cv2.scaleAdd(cv2.dilate(most, AROUND).astype(np.float32), OF_CHANGE, slope)
    sure, likely = (_voted(least, doubt, floor, part) for part in (1.0, WEAKER))
    near = cv2.morphologyEx(sure, cv2.MORPH_CLOSE, FAR)
    told = cv2.bitwise_or(sure, cv2.bitwise_and(likely, near))
    return _filled(cv2.morphologyEx(told, cv2.MORPH_CLOSE, NEAR)).view(bool)


def _voted(least: np.ndarray, doubt: np.ndarray, floor: float, part: float) -> np.ndarray:
    """uint8 (h, w), 1 where the px around differ by more than this part of what may be doubted."""
    votes = cv2.scaleAdd(doubt, -part, least.astype(np.float32)) - np.float32(part * floor)
    return (cv2.GaussianBlur(cv2.min(cv2.max(votes, -STEP_GREY), STEP_GREY), (0, 0), SMOOTH_PX) > 0).view(np.uint8)  # type: ignore[call-overload]


def _median(values: np.ndarray) -> float:
    """Of uint8, at a grain of 1, less coarse below: the share that lies under the median's level counts too."""
    counts = np.cumsum(np.bincount(values.ravel(), minlength=256))
    level = int(np.searchsorted(counts, values.size / 2))
    under = counts[level - 1] if level else 0
    return max(0.0, level - 0.5 + (values.size / 2 - under) / max(1, counts[level] - under))


def _filled(mask: np.ndarray) -> np.ndarray:
    outlines, kin = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for place, outline in enumerate(outlines):
        if kin[0][place][3] >= 0 and cv2.contourArea(outline) < FILL * mask.size:
            cv2.drawContours(mask, outlines, place, (1,), -1)
    return mask


def thing_flow(luma: np.ndarray, after: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Flow (h, w, 2) in px, against the ground's, of the px of mask bool (h, w): for each the shift, in whole steps of 2 px, with
    which the things around it are found in the picture after. NaN outside the mask, and where the best shift is the farthest."""
    flow = np.full((*mask.shape, 2), np.nan, np.float32)
    marked = mask.astype(np.uint8) * 255
    luma_2, after_2, mask_2 = (_shrunk(one) for one in (luma, after, marked))
    luma_4, after_4, mask_4 = (_shrunk(one) for one in (luma_2, after_2, mask_2))
    x, y, wide, tall = cv2.boundingRect(mask_4)
    if not wide:
        return flow
    rough = _search(luma_4, after_4, mask_4, (x, y, wide, tall))
    box = np.s_[2 * y : 2 * (y + tall), 2 * x : 2 * (x + wide)]
    shifts = 2 * np.repeat(np.repeat(rough, 2, axis=0), 2, axis=1)
    shifts = _refined(shifts, luma_2[box], after_2, mask_2[box], (2 * x, 2 * y))
    found = np.full((*luma_2.shape, 2), np.nan, np.float32)
    found[box] = np.where(np.abs(shifts).max(axis=2, keepdims=True) < 2 * REACH_PX, 2 * shifts, np.nan)
    flow = cv2.resize(found, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    flow[~mask] = np.nan
    return flow


def _shrunk(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _search(luma: np.ndarray, after: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """float32 (h, w, 2): the best of SHIFTS for each px of a box (left, top, width, height)."""
    x, y, wide, tall = box
    inner = np.s_[y : y + tall, x : x + wide]
    after = cv2.copyMakeBorder(after, REACH_PX, REACH_PX, REACH_PX, REACH_PX, cv2.BORDER_REPLICATE)
    costs = [
        _cost(luma[inner], after[y + b : y + b + tall, x + a : x + a + wide], mask[inner], PATCH_PX) for a, b in SHIFTS
    ]
    return _smoothed(_best(costs, SHIFTS)) - REACH_PX


def _refined(
    shifts: np.ndarray, luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """The best shift of each px of luma, whose corner lies at `corner` in the picture after, within 1 px of the one given."""
    there = shifts + places(*luma.shape) + np.array(corner, np.float32)
    costs = []
    for step in NEXT:
        nearby = there + np.array(step, np.float32)
        moved = cv2.remap(after, nearby, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        costs.append(_cost(luma, moved, mask, 2 * PATCH_PX + 1))
    return _smoothed(shifts + _best(costs, NEXT))


def _cost(luma: np.ndarray, there: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray:
    off = cv2.bitwise_and(cv2.min(cv2.absdiff(luma, there), MOST_GREY), mask)  # type: ignore[call-overload]
    return cv2.boxFilter(off, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)


def _best(costs: list[np.ndarray], shifts: list[tuple[int, int]]) -> np.ndarray:
    """float32 (h, w, 2): the shift of the least cost; the first of equals, so the least one."""
    best, place = costs[0], np.zeros(costs[0].shape, np.uint8)
    for k, cost in enumerate(costs[1:], 1):
        np.putmask(place, cost < best, k)
        best = cv2.min(best, cost)
    return np.array(shifts, np.float32)[place]


def _smoothed(shifts: np.ndarray) -> np.ndarray:
    return np.dstack([cv2.medianBlur(np.ascontiguousarray(shifts[..., way]), 5) for way in (0, 1)])
