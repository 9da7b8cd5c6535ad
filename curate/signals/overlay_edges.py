"""Edges that stay while the scene moves: where a logo or a watermark lies over the picture, opaque or half transparent.

A mark laid over a picture adds the same edges to every frame, weakened when it is transparent; those of the scene come and go. So
the median over frames of the gradient is nearly the mark's own (Dekel et al., On the effectiveness of visible watermarks, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from curate.signals.borders import bars
from curate.signals.camera_fit import FLOOR_PX, background, cells, places
from curate.signals.crops import Box

LOOK_PX = 320  # long side of the pictures that are compared
EDGE = 5.0  # grey levels per px from which on a gradient is an edge
AGREES, ALIGNED = 0.4, 0.6  # part of the common edge that a frame has to show to agree with it, and cosine between them
COHERENT = 0.5  # size of the common edge, relative to what is usual there
DENSE = 0.4  # of the edges that are usual around a mark, how many are its own
SEED, GROWN = 0.87, 0.7  # share of frames that agree: in the middle of a mark, and at its rim
MOVES_PX = 1.2  # from one proxy to the next, across an edge: an edge of the scene does not last then
SHIFTED, VIEWS = 3, 3  # views that a clip counts for where its scene moves across the edge; views that are needed
ALIKE = 0.88  # cosine
REST_PX, RESTS, FOLLOW = 0.4, 0.2, 0.65  # of the picture's cells
SEEN = 0.25  # share of the scene's edges; below it "no mark" is not said
# By the number of clips, one, two, or more: the least share of the frame of a mark's box, and the least of this sum: of its edges the
# share that nearly all frames have, plus the part that they are of all edges around. In rendered scenes marks have 0.85 to 1.9,
# what lasts by chance has up to 1.0, more where two scenes stand still and happen to have an edge at the same place.
DEMANDS = ((0.005, 0.92), (0.01, 1.3), (0.005, 0.75))
GAP_PX = 4  # edges nearer than this belong to one mark
LARGEST = 0.3  # of a mark's box, share of the frame
ACROSS = 0.12  # energy of edges across the main direction, relative to those along it
WINDOWS = (21, 61)  # px, in which edges are to run in more than one direction
STROKES = 10  # edges that a row of letters crosses


class Found(NamedTuple):
    """seen: share of the scene's edges that would have given way where there is no mark, in [0, 1]; boxes: of the marks, None
    where too little of the scene does."""

    seen: float
    boxes: list[Box] | None


def find(clips: Sequence[Sequence[np.ndarray]]) -> Found:
    """Clips of one video, each some frames RGB uint8 (H, W, 3), all alike in size -> the marks that all of them carry."""
    pictures = [np.stack([_small(frame) for frame in frames]) for frames in clips]
    stacks = [np.stack([gradients(picture) for picture in clip]) for clip in pictures]
    inner = _inside(np.concatenate(pictures))
    medians = np.stack([np.median(stack, axis=0) for stack in stacks])
    common = np.median(medians, axis=0)
    views = np.sum([1 + (SHIFTED - 1) * _gives_way(clip, common) for clip in pictures], axis=0)
    views += _alike(medians, common)
    mark = lasting(stacks, common, views)
    weights = mark.usual * inner
    seen = float(weights[views >= VIEWS].sum() / max(1.0, weights.sum()))
    smallest, clear = DEMANDS[min(len(clips), len(DEMANDS)) - 1]
    boxes = _marks(mark, inner, smallest, clear)
    told = seen >= SEEN or (len(clips) > 1 and boxes)
    return Found(seen, boxes if told else None)


def _gives_way(clip: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Pictures (n, h, w, 3) -> bool (h, w): the scene moves across the edge that is found there, so that one of its own would
    not have lasted. One that slides along itself (the rows of a brick wall in a pan) would."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    lumas = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in clip]
    right, down = (common[..., k : k + 3].sum(axis=-1) for k in (0, 3))
    across = np.zeros(common.shape[:2])
    for before, after in pairwise(lumas):
        x, y = scene_flow(dis.calc(before, after, None))  # type: ignore[call-overload]
        across += (x * right + y * down) ** 2
    return np.sqrt(across / max(1, len(lumas) - 1)) >= MOVES_PX * (np.hypot(right, down) + 1e-6)


def _alike(medians: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Medians (clips, h, w, 6) -> bool (h, w): they are so alike that two clips are as good as three."""
    sizes = np.linalg.norm(medians, axis=-1) * np.linalg.norm(common, axis=-1)
    return (len(medians) > 1) & (np.einsum("nhwc,hwc->nhw", medians, common) >= ALIKE * sizes).all(axis=0)


def scene_flow(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow (h, w, 2) in px -> what the background does at each pixel, right and down (h, w), also under a mark."""
    height, width = flow.shape[:2]
    grid = places(*cells(width, height))
    small = cv2.resize(flow, (grid.columns, grid.rows), interpolation=cv2.INTER_AREA).reshape(-1, 2)
    values, apart = background(small.astype(np.float64) / width, grid, FLOOR_PX / width)
    size, left = np.hypot(*small.T), np.hypot(*apart.T) * width
    if (size < REST_PX).mean() > RESTS or (left < np.maximum(1.0, 0.25 * size)).mean() < FOLLOW:
        values = np.zeros_like(values)  # things move before a camera that does not
    fields = (basis @ values * width for basis in (grid.x_basis, grid.y_basis))
    right, down = (cv2.resize(field.reshape(grid.rows, grid.columns), (width, height)) for field in fields)
    return right, down


class Lasting(NamedTuple):
    """gradient (h, w, 6): what all frames have in common; edges bool (h, w): where they agree; seeds: where nearly all do though the
    scene moves across;
    usual float (h, w): share of frames with an edge there."""

    gradient: np.ndarray
    edges: np.ndarray
    seeds: np.ndarray
    usual: np.ndarray


def lasting(stacks: Sequence[np.ndarray], common: np.ndarray, views: np.ndarray) -> Lasting:
    """Gradients (n, h, w, 6) of each clip, their median (h, w, 6), different views of the scene (h, w) -> what lasts."""
    agree = np.min([_agreement(stack, common) for stack in stacks], axis=0)
    sizes = [np.linalg.norm(stack, axis=-1) for stack in stacks]
    usual = np.mean([(size >= EDGE).mean(axis=0) for size in sizes], axis=0)
    typical = np.mean([np.median(size, axis=0) for size in sizes], axis=0)
    size = np.linalg.norm(common, axis=-1)
    edges = (size >= np.maximum(EDGE, COHERENT * typical)) & (agree >= GROWN)
    dense = cv2.blur(edges.astype(np.float32), (9, 9)) >= DENSE * cv2.blur(usual.astype(np.float32), (9, 9))
    edges &= dense & _all_ways(common, edges)
    return Lasting(common, edges, edges & (agree >= SEED) & (views >= VIEWS), usual)


def _agreement(stack: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Gradients (n, h, w, 6), common (h, w, 6) -> share of frames (h, w) that have the common edge in them."""
    square = (common**2).sum(axis=-1) + 1e-6
    along = np.einsum("nhwc,hwc->nhw", stack, common)
    aligned = along >= ALIGNED * np.sqrt((stack**2).sum(axis=-1) * square)
    return (aligned & (along >= AGREES * square)).mean(axis=0)


def _all_ways(common: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """bool (h, w): edges around there run in more than one direction. The rows of a brick wall that slides by do not."""
    right, down = ((common[..., k : k + 3] * edges[..., None]) for k in (0, 3))
    parts = [(right**2).sum(axis=-1), (down**2).sum(axis=-1), (right * down).sum(axis=-1)]
    found = np.zeros(edges.shape, bool)
    for window in WINDOWS:
        xx, yy, xy = (cv2.boxFilter(part, -1, (window, window), normalize=False) for part in parts)
        half, spread = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        found |= half - spread >= ACROSS * (half + spread)
    return found


def _small(frame: np.ndarray) -> np.ndarray:
    scale = min(1.0, LOOK_PX / max(frame.shape[:2]))
    size = (max(8, round(frame.shape[1] * scale)), max(8, round(frame.shape[0] * scale)))
    return cv2.GaussianBlur(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), (0, 0), 0.8)


def gradients(picture: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) -> float32 (h, w, 6): grey levels per px of each colour, right and down."""
    right = cv2.Sobel(picture, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(picture, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    return np.concatenate([right, down], axis=-1)


def _inside(pictures: np.ndarray) -> np.ndarray:
    """bool (h, w): inside the borders that all frames have, three px away from them."""
    found = [sides for picture in pictures if (sides := bars(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))) is not None]
    left, top, right, bottom = (min(sides[k] for sides in found) if found else 0 for k in range(4))
    height, width = pictures.shape[1:3]
    mask = np.zeros((height, width), bool)
    rows, columns = (slice(a + 3 * (a > 0), b - 3 * (b < n)) for a, b, n in
                     ((top, height - bottom, height), (left, width - right, width)))  # fmt: skip
    mask[rows, columns] = True
    return mask


def _marks(mark: Lasting, inner: np.ndarray, smallest: float, clear: float) -> list[Box]:
    """Boxes of groups of lasting edges that look like a mark."""
    edges, seeds = mark.edges & inner, mark.seeds & inner
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GAP_PX + 1, 2 * GAP_PX + 1))
    joined = cv2.morphologyEx(edges.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    height, width = edges.shape
    boxes = []
    for label in range(1, count):
        x, y, wide, tall = (int(value) for value in stats[label, :4])
        own = edges & (labels == label)
        if not smallest <= wide * tall / (width * height) <= LARGEST or not own.any():
            continue
        around = mark.usual[cv2.dilate(own.astype(np.uint8), kernel) > 0].sum()
        if (own & seeds).sum() / own.sum() + own.sum() / around < clear:
            continue
        box = (x / width, y / height, (x + wide) / width, (y + tall) / height)
        if not _is_writing(own[y : y + tall, x : x + wide], box):
            boxes.append(box)
    return boxes


def _is_writing(edges: np.ndarray, box: Box) -> bool:
    """A subtitle or a title: many strokes in a row, centred. It is the business of the text signal."""
    crossings = np.abs(np.diff(edges.astype(np.int8), axis=1)).sum(axis=1)
    centred = abs((box[0] + box[2]) / 2 - 0.5) <= 0.06
    return centred and float(np.quantile(crossings, 0.6)) >= STROKES
