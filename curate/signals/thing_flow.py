"""How fast things move: for each px of a thing the shift with which the things around it are found in the next picture.

They are looked for in the picture shrunk to a quarter, then to a half, then between its px. In the end a px must follow its shift
better than it rests: around what moves coding leaves traces that change from picture to picture but go nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from curate.signals.things import drawn, steepness
from curate.signals.whole import halved, length

REACH_PX = 4  # of the picture shrunk to a quarter: how far a thing is looked for
PATCH_PX = 7  # of the picture shrunk to a quarter: side of what is compared
MOST_GREY = 40  # differences beyond that count no more
ODD_GREY = 8.0  # of the step between px: grey levels off at which a px counts half
RIDGE = 0.5  # what holds that step where nothing is seen
FOLLOW_PX, FOLLOW_GREY = 3, 25  # of the halved picture: side of what is compared, and the most that a difference counts
WORSE = 1.1  # a px rests if it is so many times less like what it would come from than like what is there
STEEP = 12.0  # grey levels per px from which an edge is seen
OF_STEEP = 0.2  # share of its steepness by which an edge at rest may change
SAME = 0.4  # share of its slope by which an edge that is drawn on the picture differs from what it was long ago
BESIDE_DRAWN = np.ones((9, 9), np.uint8)  # how far an edge hides what moves, and one that can be seen through
BESIDE_SHEER = np.ones((5, 5), np.uint8)
SPECK = np.ones((3, 3), np.uint8)


def _nearest_first(low: int, high: int) -> list[tuple[int, int]]:
    """All (x, y) in [low, high], those nearest to the middle first: of equally good shifts the least is taken."""
    every = [(x, y) for x in range(low, high + 1) for y in range(low, high + 1)]
    return sorted(every, key=lambda one: (one[0] - (low + high) / 2) ** 2 + (one[1] - (low + high) / 2) ** 2)


def _table(shifts: list[tuple[int, int]]) -> np.ndarray:
    """float32 (2, 256): x and y of each shift by its place."""
    out = np.zeros((2, 256), np.float32)
    out[:, : len(shifts)] = np.array(shifts).T
    return out


SHIFTS, NEXT = _nearest_first(0, 2 * REACH_PX), _nearest_first(-1, 1)
SHIFT_TABLE, NEXT_TABLE = _table(SHIFTS), _table(NEXT)


def thing_flow(
    luma: np.ndarray, before: np.ndarray, after: np.ndarray, mask: np.ndarray, long_ago: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Flow (h, w, 2) in px, against the ground's, of the px of mask bool (h, w): for each the shift with which the things around it
    are found in the picture after. NaN outside the mask, and where the best shift is the farthest. And the mask without the px
    that rest rather than follow their shift. long_ago: a picture whose ground has rested since; edges that have too are
    drawn on the picture (a watermark) and are not looked for."""
    unknown = np.full((*mask.shape, 2), np.nan, np.float32)
    marked = mask.view(np.uint8) * np.uint8(255)
    luma_2, before_2, after_2, mask_2 = (halved(one) for one in (luma, before, after, marked))
    steep = steepness(luma_2)
    over = np.zeros(luma_2.shape, np.uint8)
    if long_ago is not None:
        over = _overlaid(luma_2, steep, _least(luma_2, before_2, after_2), halved(long_ago))
        mask_2 = cv2.bitwise_and(mask_2, 255 - 255 * cv2.dilate(over, SPECK))
    luma_4, after_4, mask_4 = (halved(one) for one in (luma_2, after_2, mask_2))
    x, y, wide, tall = cv2.boundingRect(halved(halved(marked)))
    if not wide:
        return unknown, mask
    inner, corner = np.s_[y : y + tall, x : x + wide], (2 * x, 2 * y)
    box = np.s_[2 * y : 2 * (y + tall), 2 * x : 2 * (x + wide)]
    rough = _search(luma_4[inner], after_4, mask_4[inner], (x, y))
    shifts = 2 * cv2.resize(rough, (2 * wide, 2 * tall), interpolation=cv2.INTER_NEAREST)
    shifts = _refined(shifts, luma_2[box], after_2, mask_2[box], corner)
    shifts = _between(shifts, luma_2[box], after_2, mask_2[box], corner)
    resting = np.zeros(luma_2.shape, np.uint8)
    resting[box] = _resting(shifts, luma_2[box], (before_2, after_2), corner, (steep[box], over[box]))
    farthest = cv2.max(*(cv2.absdiff(way, 0) for way in cv2.split(shifts)))  # type: ignore[call-overload]
    shifts[farthest >= 2 * REACH_PX] = np.nan
    found = np.full((*luma_2.shape, 2), np.nan, np.float32)
    found[box] = 2 * shifts
    size = mask.shape[::-1]
    left = cv2.bitwise_and(marked, 255 - 255 * cv2.resize(resting, size, interpolation=cv2.INTER_NEAREST))
    left = cv2.morphologyEx(left, cv2.MORPH_OPEN, SPECK)
    return cv2.copyTo(cv2.resize(found, size, interpolation=cv2.INTER_NEAREST), left, unknown), left > 0


def _overlaid(luma: np.ndarray, steep: np.ndarray, least: np.ndarray, long_ago: np.ndarray) -> np.ndarray:
    """uint8 (h, w), 1 at edges that do not change and have the slope that they had long ago. An edge along which a thing
    moves does not change either, but it has not been there long."""
    across, down, was_across, was_down = (
        cv2.Sobel(one, cv2.CV_32F, *way, scale=1 / 8) for one in (luma, long_ago) for way in ((1, 0), (0, 1))
    )
    changed = np.abs(across - was_across) + np.abs(down - was_down)
    same = changed < SAME * (np.abs(across) + np.abs(down))
    return ((steep > STEEP) & (least < OF_STEEP * steep) & same).view(np.uint8)


def _search(luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """float32 (h, w, 2): the best of SHIFTS for each px of luma (h, w), whose corner lies at `corner` in the picture after."""
    (x, y), (tall, wide) = corner, luma.shape
    after = cv2.copyMakeBorder(after, REACH_PX, REACH_PX, REACH_PX, REACH_PX, cv2.BORDER_REPLICATE)
    around = after[y : y + tall + 2 * REACH_PX, x : x + wide + 2 * REACH_PX]
    columns, rows = np.array(SHIFTS).T
    views = np.lib.stride_tricks.sliding_window_view(around, (tall, wide))[rows, columns]
    return _smoothed(_best(luma, views, mask, PATCH_PX, SHIFT_TABLE)) - REACH_PX


def _refined(
    shifts: np.ndarray, luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """The best shift of each px of luma, whose corner lies at `corner` in the picture after, within 1 px of the one given."""
    edge = 2 * REACH_PX + 1
    padded = cv2.copyMakeBorder(after, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    rows = np.arange(luma.shape[0])[:, None] + (corner[1] + edge)
    columns = np.arange(luma.shape[1]) + (corner[0] + edge)
    ways = cv2.split(shifts)
    x, y = (way.astype(np.int32) for way in ways)
    there = (y + rows) * padded.shape[1] + x + columns
    views = padded.ravel()[there + np.array([b * padded.shape[1] + a for a, b in NEXT])[:, None, None]]
    steps = _best(luma, views, mask, 2 * PATCH_PX + 1, NEXT_TABLE)
    return _smoothed([way + step for way, step in zip(ways, steps, strict=True)])


def _between(
    shifts: np.ndarray, luma: np.ndarray, after: np.ndarray, mask: np.ndarray, corner: tuple[int, int]
) -> np.ndarray:
    """The shifts, moved by up to 1 px to where the things around each px fit best: one step of Lucas and Kanade."""
    off = cv2.subtract(_shifted(after, shifts, corner), luma, dtype=cv2.CV_32F)
    weight = (mask > 0) / (1 + np.square(off / ODD_GREY))
    x, y = (cv2.Sobel(luma, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1)))
    products = ((x, x), (x, y), (y, y), (x, off), (y, off))
    xx, xy, yy, xt, yt = (cv2.blur(a * b * weight, (PATCH_PX, PATCH_PX)) for a, b in products)
    xx, yy = xx + RIDGE, yy + RIDGE
    scale = xx * yy - xy * xy
    right, down = (xy * yt - yy * xt) / scale, (xy * xt - xx * yt) / scale
    scale = np.maximum(1, length(right, down))
    return shifts + cv2.merge([right / scale, down / scale])


def _resting(
    shifts: np.ndarray,
    luma: np.ndarray,
    others: tuple[np.ndarray, np.ndarray],
    corner: tuple[int, int],
    edges: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """uint8 (h, w), 1 where the px around are more like those at the same place in the pictures before and after than like those
    that they would come from and go to. Not beside what is drawn on the picture. edges: steepness, and where it is overlaid."""
    before, after = others
    steep, over = edges
    box = np.s_[corner[1] : corner[1] + luma.shape[0], corner[0] : corner[0] + luma.shape[1]]
    least = _least(luma, before[box], after[box])
    follow = _least(luma, _shifted(before, -shifts, corner), _shifted(after, shifts, corner))
    at_rest, moving = (
        cv2.blur(cv2.min(one, FOLLOW_GREY).astype(np.float32), (FOLLOW_PX, FOLLOW_PX))  # type: ignore[call-overload]
        for one in (least, follow)
    )
    hidden = cv2.bitwise_or(cv2.dilate(drawn(steep, least), BESIDE_DRAWN), cv2.dilate(over, BESIDE_SHEER))
    return ((moving > WORSE * at_rest) & (hidden == 0)).view(np.uint8)


def _least(luma: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return cv2.min(cv2.absdiff(luma, one), cv2.absdiff(luma, other))


def _shifted(picture: np.ndarray, shifts: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """The picture looked up where the shifts (h, w, 2) of a box at `corner` lead."""
    columns, rows = (np.arange(n, dtype=np.float32) + c for n, c in zip(shifts.shape[1::-1], corner))
    x, y = columns + shifts[..., 0], rows[:, None] + shifts[..., 1]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _best(luma: np.ndarray, views: np.ndarray, mask: np.ndarray, side: int, table: np.ndarray) -> list[np.ndarray]:
    """float32 (h, w) twice, x and y: the shift of the view (n, h, w) that is most like luma around each px, among the px of mask; the
    first of equals. table: x and y of the shifts.

    All views lie in one tall picture, with px between them that are in no mask: one call instead of one per shift."""
    count, tall, wide = views.shape
    stack, ours = np.zeros((2, count, tall + side // 2, wide), np.uint8)
    stack[:, :tall], ours[:, :tall] = views, luma
    stack, ours = stack.reshape(-1, wide), ours.reshape(-1, wide)
    cv2.absdiff(stack, ours, dst=stack)
    cv2.min(stack, MOST_GREY, dst=stack)  # type: ignore[call-overload]  # several times as quick as NumPy's
    inside = stack.reshape(count, -1, wide)[:, :tall]
    np.bitwise_and(inside, mask, out=inside)
    costs = cv2.boxFilter(stack, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    costs = costs.reshape(count, -1)
    costs *= 128  # and the place added: exact, below 2 ** 24
    costs += np.arange(count, dtype=np.float32)[:, None]
    best = (costs.min(axis=0).astype(np.int32) & 127).astype(np.uint8).reshape(-1, wide)[:tall]
    return [cv2.LUT(best, way) for way in table]


def _smoothed(ways: Sequence[np.ndarray]) -> np.ndarray:
    """float32 (h, w, 2)."""
    return cv2.merge([cv2.medianBlur(way, 5) for way in ways])
