"""Things that move otherwise than the whole picture: where they are, to a px. How fast they are: thing_flow.py.

Dense flow smears the motion of a thing over the ground around it, and the ground's over the thing. So what moves is told from three
pictures instead: a px of the middle one that looks, moved with the whole picture, like the one before or like the one after is
ground (the one that a thing covers only now was free before), all others belong to things. What is told so reaches too far out: to
the px at the outline that hold but a little of the thing, and as far as a blurred outline can be seen.
"""

from __future__ import annotations

import cv2
import numpy as np

from curate.signals.kinds import median_along
from curate.signals.whole import length

# Found on generated footage (seeds 0, 7, 11, 23 and 31) by the area and speed that is told to move, against the truth.
LEAST_GREY, OF_CONTRAST, OF_NOISE, OF_CHANGE, WEAKER = 0.25, 0.01, 1.5, 0.037, 0.35
OF_SLOPE, OF_SLOPE_AT_REST = 0.27, 0.15  # px of error of the ground's motion
STEP_GREY = 0.5  # evidence beyond that says no more: px vote
SMOOTH_PX = 1.0  # deviation of the window that votes
NEAR, FAR = (cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (px, px)) for px in (5, 13))
CROSS, BESIDE, AROUND = (
    cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)),
    np.ones((3, 3), np.uint8),
    np.ones((13, 13), np.uint8),
)
FILL = 0.01  # holes up to that share of the picture belong to the thing; larger ones if they look like it
RIM_PX, ALIKE_GREY = 3, 12.0  # what lies around a hole, and how nearly as grey it is
RIM = np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), np.uint8)
HALF = 0.2  # a px at the outline that shows less than that of the change beside it is ground
DRAWN_SLOPE, DRAWN_GREY = 50, 3  # grey levels per px, grey levels of change
LETTER_PX = 2.0  # deviation of the window from which letters are filled: about as wide as a stroke
LETTER_REACH_PX = 8  # how far that window reaches
WIDE_PX, REACH = 4.0, 1.2  # width of an outline from which it is blurred, and how far out it is told, in widths
CREST = 0.95  # share of the greatest change around from which a px lies on the crest


def thing_mask(
    luma: np.ndarray, before: np.ndarray, after: np.ndarray, at_rest: bool = False, slope: np.ndarray | None = None
) -> np.ndarray:
    """uint8 (h, w) three times, before and after moved so that the ground lies on that of luma -> bool (h, w). at_rest: the ground
    needed no moving, and lies there exactly. slope: of luma, where it is known."""
    differences = cv2.absdiff(luma, before), cv2.absdiff(luma, after)
    least, most = cv2.min(*differences), cv2.max(*differences)
    slope = steepness(luma) if slope is None else slope
    floor = LEAST_GREY + OF_CONTRAST * min(60.0, float(cv2.meanStdDev(luma)[1][0, 0])) + OF_NOISE * _median(least)
    doubt = slope * np.float32(OF_SLOPE_AT_REST if at_rest else OF_SLOPE)
    doubt = cv2.scaleAdd(cv2.dilate(most, AROUND).astype(np.float32), OF_CHANGE, doubt) + np.float32(floor)
    sure, likely = (_voted(least.astype(np.float32), doubt, part) for part in (1.0, WEAKER))
    near = cv2.morphologyEx(sure, cv2.MORPH_CLOSE, FAR)
    told = cv2.bitwise_or(sure, cv2.bitwise_and(likely, near))
    mask = _filled(cv2.morphologyEx(told, cv2.MORPH_CLOSE, NEAR), luma)
    return _trimmed(mask, least, _outline_px(mask, luma, slope)).view(bool)


def drawn(slope: np.ndarray, least: np.ndarray) -> np.ndarray:
    """uint8 (h, w), 1 at edges so steep that do not change: of what is drawn on the picture, which says nothing of what is below."""
    return ((slope > DRAWN_SLOPE) & (least < DRAWN_GREY)).view(np.uint8)


def written(luma: np.ndarray, before: np.ndarray, after: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Of pictures whose ground rests, and the steepness of luma: uint8 (h, w), 1 where letters are drawn. (The ground's own steep
    edges count too; they rest.)"""
    least = cv2.min(cv2.absdiff(luma, before), cv2.absdiff(luma, after))
    return cv2.morphologyEx(drawn(slope, least), cv2.MORPH_CLOSE, BESIDE)


def without(letters: np.ndarray, *pictures: np.ndarray) -> list[np.ndarray]:
    """The pictures with their letters filled from what is around them."""
    hidden = cv2.dilate(letters, CROSS)
    x, y, wide, tall = cv2.boundingRect(hidden)
    box = np.s_[
        max(0, y - LETTER_REACH_PX) : y + tall + LETTER_REACH_PX,
        max(0, x - LETTER_REACH_PX) : x + wide + LETTER_REACH_PX,
    ]
    free = (1 - hidden[box]).astype(np.float32)
    share = cv2.GaussianBlur(free, (0, 0), LETTER_PX) + np.float32(1e-4)
    filled = [one.copy() for one in pictures]
    for one in filled:
        around = cv2.GaussianBlur(one[box] * free, (0, 0), LETTER_PX) / share
        one[box] = cv2.copyTo(cv2.convertScaleAbs(around), hidden[box], one[box])
    return filled


def steepness(luma: np.ndarray) -> np.ndarray:
    """float32 (h, w), grey levels per px."""
    return length(*(cv2.Sobel(luma, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1))))


def _trimmed(mask: np.ndarray, least: np.ndarray, width_px: float) -> np.ndarray:
    """Without the outer side of an outline so wide, where a px holds more ground than thing.

    Across an outline, however blurred, a px that is half of each differs as much from the picture before as from the one after: the
    least of both has its crest there. A sharp outline is one px wide, and its outer px are those far below their neighbours."""
    if width_px < WIDE_PX:
        return _peeled(mask, cv2.compare(least, cv2.convertScaleAbs(cv2.dilate(least, BESIDE), alpha=HALF), cv2.CMP_GE))
    change = cv2.GaussianBlur(least.astype(np.float32), (0, 0), width_px / 4)
    crest = (change >= CREST * cv2.dilate(change, NEAR)).view(np.uint8)
    for _ in range(round(REACH * width_px)):
        mask = _peeled(mask, crest)
    return mask


def _peeled(mask: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Without those px of the outline that are not held (0)."""
    inner = cv2.erode(mask, CROSS, borderType=cv2.BORDER_REPLICATE)
    return cv2.bitwise_or(inner, cv2.bitwise_and(mask, held))


def _outline_px(mask: np.ndarray, luma: np.ndarray, slope: np.ndarray) -> float:
    """How wide the outline of a mask is: the contrast around it over the steepest slope, in px, the median of its px."""
    places = np.flatnonzero(mask - cv2.erode(mask, BESIDE, borderType=cv2.BORDER_REPLICATE))
    if not len(places):
        return 0.0
    steepest = cv2.dilate(cv2.convertScaleAbs(slope, alpha=4), AROUND).ravel()[places]  # in quarters of a grey level
    contrast = cv2.subtract(cv2.dilate(luma, AROUND), cv2.erode(luma, AROUND)).ravel()[places]
    return float(median_along(4.0 * contrast / np.maximum(steepest, 2)))


def _voted(least: np.ndarray, doubt: np.ndarray, part: float) -> np.ndarray:
    """float32 (h, w) twice -> uint8, 1 where the px around differ by more than this part of what may be doubted. Every px has one
    vote: evidence beyond STEP_GREY says no more."""
    step = 127.5 / STEP_GREY
    votes = cv2.addWeighted(least, step, doubt, -part * step, 127.5, dtype=cv2.CV_8U)  # which ends at 0 and 255
    return (cv2.GaussianBlur(votes, (0, 0), SMOOTH_PX) > 127).view(np.uint8)


def _median(values: np.ndarray) -> float:
    """Of uint8, at a grain of 1, less coarse below: the share that lies under the median's level counts too."""
    counts = np.cumsum(cv2.calcHist([values], [0], None, [256], (0, 256)))
    level = int(np.searchsorted(counts, values.size / 2))
    under = counts[level - 1] if level else 0
    return max(0.0, level - 0.5 + (values.size / 2 - under) / max(1, counts[level] - under))


def _filled(mask: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """With the holes that belong to the things: small ones, and those as grey as what is around them."""
    outlines, kin = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for place, outline in enumerate(outlines):
        if kin[0][place][3] < 0:
            continue  # the outer one
        x, y, wide, tall = cv2.boundingRect(outline)
        box = np.s_[max(0, y - RIM_PX) : y + tall + RIM_PX, max(0, x - RIM_PX) : x + wide + RIM_PX]
        filled = np.zeros(mask[box].shape, np.uint8)
        cv2.drawContours(filled, outlines, place, (1,), -1, offset=(-box[1].start, -box[0].start))
        hole = filled & (1 - mask[box])
        if cv2.contourArea(outline) < FILL * mask.size or _alike(hole, mask[box], luma[box]):
            mask[box] |= hole
    return mask


def _alike(hole: np.ndarray, mask: np.ndarray, luma: np.ndarray) -> bool:
    """Whether a hole is about as grey as the px of the mask around it: ground seen through a thing is not."""
    around = cv2.bitwise_and(cv2.dilate(hole, RIM), mask)
    return bool(hole.any()) and abs(_median(luma[hole > 0]) - _median(luma[around > 0])) < ALIKE_GREY
