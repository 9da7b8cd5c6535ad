"""Things that move otherwise than the whole picture: where they are, to a px, and how fast.

Dense flow smears the motion of a thing over the ground around it, and the ground's over the thing. So what moves is told from three
pictures instead: a px of the middle one that looks, moved with the whole picture, like the one before or like the one after is
ground (the one that a thing covers only now was free before), all others belong to things. Their motion is then looked for among
the px of things alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from curate.signals.whole import halved, length

# All found on the generated footage of seed 0 by the area that is told to move, against the truth.
LEAST_GREY, OF_CONTRAST, OF_NOISE, OF_SLOPE, OF_CHANGE = 0.25, 0.01, 1.5, 0.27, 0.037
STEP_GREY = 0.5  # evidence beyond that says no more: px vote
SMOOTH_PX = 1.0  # deviation of the window that votes
CLOSE_PX, FILL = 7, 0.01  # gaps as narrow as that, and holes up to that share of the picture, belong to the thing
REACH_PX = 4  # of the picture shrunk to a quarter: how far a thing is looked for
PATCH_PX = 7  # of the picture shrunk to a quarter: side of what is compared
ODD_GREY, RIDGE = 8.0, 0.5  # of the step between px: grey levels off at which a px counts half; what holds it where nothing is seen
MOST_GREY = 40  # differences beyond that count no more


def _nearest_first(low: int, high: int) -> list[tuple[int, int]]:
    """All (x, y) in [low, high], those nearest to the middle first: of equally good shifts the least is taken."""
    every = [(x, y) for x in range(low, high + 1) for y in range(low, high + 1)]
    return sorted(every, key=lambda one: (one[0] - (low + high) / 2) ** 2 + (one[1] - (low + high) / 2) ** 2)


SHIFTS, NEXT = _nearest_first(0, 2 * REACH_PX), _nearest_first(-1, 1)
NEAR, FAR = (cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (px, px)) for px in (5, 13))
CROSS, BESIDE = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.ones((3, 3), np.uint8)
WEAKER = 0.35
HALF = 0.5
AROUND = np.ones((13, 13), np.uint8)


def thing_mask(luma: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """uint8 (h, w) three times, before and after moved so that the ground lies on that of luma -> bool (h, w)."""
    differences = cv2.absdiff(luma, before), cv2.absdiff(luma, after)
    least, most = cv2.min(*differences), cv2.max(*differences)
    slope = length(*(cv2.Sobel(luma, cv2.CV_32F, *way, scale=OF_SLOPE / 8) for way in ((1, 0), (0, 1))))
    floor = LEAST_GREY + OF_CONTRAST * min(60.0, float(cv2.meanStdDev(luma)[1][0, 0])) + OF_NOISE * _median(least)
    doubt = cv2.scaleAdd(cv2.dilate(most, AROUND).astype(np.float32), OF_CHANGE, slope)
    sure, likely = (_voted(least, doubt, floor, part) for part in (1.0, WEAKER))
    near = cv2.morphologyEx(sure, cv2.MORPH_CLOSE, FAR)
    told = cv2.bitwise_or(sure, cv2.bitwise_and(likely, near))
    return _trimmed(_filled(cv2.morphologyEx(told, cv2.MORPH_CLOSE, NEAR)), least).view(bool)


def _trimmed(mask: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Without the px of the outline that hold more ground than thing: those that show less than a part of the change beside them."""
    inner = cv2.erode(mask, CROSS, borderType=cv2.BORDER_REPLICATE)
    held = cv2.compare(least, cv2.convertScaleAbs(cv2.dilate(least, BESIDE), alpha=HALF), cv2.CMP_GE)
    return cv2.bitwise_or(inner, cv2.bitwise_and(mask, held))


def _voted(least: np.ndarray, doubt: np.ndarray, floor: float, part: float) -> np.ndarray:
    """uint8 (h, w), 1 where the px around differ by more than this part of what may be doubted."""
    votes = cv2.scaleAdd(doubt, -part, least.astype(np.float32)) - np.float32(part * floor)
    return (cv2.GaussianBlur(cv2.min(cv2.max(votes, -STEP_GREY), STEP_GREY), (0, 0), SMOOTH_PX) > 0).view(np.uint8)  # type: ignore[call-overload]


def _median(values: np.ndarray) -> float:
    """Of uint8, at a grain of 1, less coarse below: the share that lies under the median's level counts too."""
    counts = np.cumsum(cv2.calcHist([values], [0], None, [256], (0, 256)))
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
    marked = mask.view(np.uint8) * np.uint8(255)
    luma_2, after_2, mask_2 = (halved(one) for one in (luma, after, marked))
    luma_4, after_4, mask_4 = (halved(one) for one in (luma_2, after_2, mask_2))
    x, y, wide, tall = cv2.boundingRect(mask_4)
    if not wide:
        return flow
    inner = np.s_[y : y + tall, x : x + wide]
    rough = _search(luma_4[inner], after_4, mask_4[inner], (x, y))
    box = np.s_[2 * y : 2 * (y + tall), 2 * x : 2 * (x + wide)]
    shifts = 2 * cv2.resize(rough, (2 * wide, 2 * tall), interpolation=cv2.INTER_NEAREST)
    shifts = _refined(shifts, luma_2[box], after_2, mask_2[box], (2 * x, 2 * y))
    shifts = _between(shifts, luma_2[box], after_2, mask_2[box], (2 * x, 2 * y))
    shifts[np.abs(shifts).max(axis=2) >= 2 * REACH_PX] = np.nan
    found = np.full((*luma_2.shape, 2), np.nan, np.float32)
    found[box] = 2 * shifts
    return cv2.copyTo(cv2.resize(found, mask.shape[::-1], interpolation=cv2.INTER_NEAREST), marked, flow)


def _search(luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """float32 (h, w, 2): the best of SHIFTS for each px of luma (h, w), whose corner lies at `corner` in the picture after."""
    (x, y), (tall, wide) = corner, luma.shape
    after = cv2.copyMakeBorder(after, REACH_PX, REACH_PX, REACH_PX, REACH_PX, cv2.BORDER_REPLICATE)
    views = [after[y + b : y + b + tall, x + a : x + a + wide] for a, b in SHIFTS]
    return _smoothed(_best(luma, views, mask, PATCH_PX, SHIFTS)) - REACH_PX


def _refined(
    shifts: np.ndarray, luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """The best shift of each px of luma, whose corner lies at `corner` in the picture after, within 1 px of the one given."""
    edge = 2 * REACH_PX + 1
    padded = cv2.copyMakeBorder(after, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    rows = np.arange(luma.shape[0])[:, None] + (corner[1] + edge)
    columns = np.arange(luma.shape[1]) + (corner[0] + edge)
    x, y = cv2.split(shifts.astype(np.int32))
    there = (y + rows) * padded.shape[1] + x + columns
    views = [padded.ravel()[there + (b * padded.shape[1] + a)] for a, b in NEXT]
    return _smoothed(shifts + _best(luma, views, mask, 2 * PATCH_PX + 1, NEXT))


def _between(
    shifts: np.ndarray, luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """The shifts, moved by up to 1 px to where the things around each px fit best: one step of Lucas and Kanade."""
    columns, rows = np.meshgrid(*(np.arange(n, dtype=np.float32) + c for n, c in zip(luma.shape[::-1], corner)))
    there = cv2.remap(after, columns + shifts[..., 0], rows + shifts[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    off = cv2.subtract(there, luma, dtype=cv2.CV_32F)
    weight = (mask > 0) / (1 + np.square(off / ODD_GREY))
    x, y = (cv2.Sobel(luma, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1)))
    xx, xy, yy, xt, yt = (cv2.blur((a * b * weight).astype(np.float32), (PATCH_PX, PATCH_PX)) for a, b in ((x, x), (x, y), (y, y), (x, off), (y, off)))
    xx, yy = xx + RIDGE, yy + RIDGE
    step = np.stack([xy * yt - yy * xt, xy * xt - xx * yt], axis=-1) / (xx * yy - xy * xy)[..., None]
    return shifts + step / np.maximum(1, np.hypot(step[..., 0], step[..., 1]))[..., None]


def _best(
    luma: np.ndarray, views: list[np.ndarray], mask: np.ndarray, side: int, shifts: list[tuple[int, int]]
) -> np.ndarray:
    """float32 (h, w, 2): the shift of the view that is most like luma around each px, among the px of mask; the first of equals.

    All views lie in one tall picture, with px between them that are in no mask: one call instead of one per shift."""
    tall, wide = luma.shape
    stack = np.zeros((len(views), tall + side // 2, wide), np.uint8)
    for place, view in zip(stack, views, strict=True):
        cv2.absdiff(luma, view, dst=place[:tall])
    inside = stack[:, :tall]
    np.minimum(inside, MOST_GREY, out=inside)
    np.bitwise_and(inside, mask, out=inside)
    costs = cv2.boxFilter(
        stack.reshape(-1, wide), cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    costs = costs.reshape(len(views), -1)
    costs *= 128  # and the place added: exact, below 2 ** 24
    costs += np.arange(len(views), dtype=np.float32)[:, None]
    best = costs.min(axis=0).astype(np.int32) & 127
    return np.array(shifts, np.float32)[best.reshape(-1, wide)[:tall]]


def _smoothed(shifts: np.ndarray) -> np.ndarray:
    return cv2.merge([cv2.medianBlur(way, 5) for way in cv2.split(shifts)])
