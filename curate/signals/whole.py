"""The motion of the whole picture: the affine flow that most of its texture follows, from a dense flow and the two pictures.

Dense flow says roughly how the picture moves, and too little where there is hardly any texture. So the fit to it is only where
the fit to the pictures themselves begins (Lucas and Kanade 1981, over the whole picture, outliers weighted down). Every part of
the picture has as much say as its area: a plain ground is not outvoted by textured things before it.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import cv2
import numpy as np

GRID_PX = 4  # of the halved picture: step of the points at which the dense flow is taken
ROBUST_PX = 0.25  # residue of the flow at which such a point counts half
FITS = 4  # rounds of reweighting, from the median on
LOOK_PX = 3  # of the halved picture: step of the points at which the pictures are compared
LOOKS = 3  # rounds of that
CALM_PX = 1.5  # of the halved picture: deviation of the window that the pictures compared are smoothed with
LEAST_PX = 0.15  # residue at which a point counts half, at least
PLAIN, NEIGHBOURS_PX = 1.0, 5  # px of residue are grey levels over the slope around, which is at least PLAIN
STARTS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.15)  # parts of the dense flow's fit that the rounds may begin with
FARTHEST_PX = 1.5  # by which a round may shift the middle of the picture; more is a failure
BETTER, OF_NOISE = 1.25, 0.5  # a px votes where one fits better by this factor and by that share of the noise
MAJORITY, LEAST_VOTES = 2.0, 0.02  # the picture moves if so many times more px say so, and that share of all more
AS_GOOD = 1.15  # a fit that began at a guess is believed unless it fits worse than that of the guess's own pictures by this factor


class Ground:
    """A picture uint8 (h, w), halved, and what fits to it need of it, made once for all pictures it is compared with."""

    def __init__(self, luma: np.ndarray):
        self.halved = halved(luma)
        self._some = np.ascontiguousarray(_every(self.halved, LOOK_PX))

    def motion(self, flow: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, float]:
        """Dense flow (h, w, 2) in px and the picture it leads to -> float32 (3, 2) in px, and how many grey levels it misses by.

        The flow at a px is shift + x growth_x + y growth_y with x and y in widths from the middle (`affine_flow`).
        """
        now = halved(after)
        calm = _calm(now)
        return self._or_still(self._by_pictures(self._start(self._by_flow(halved(flow) / 2), calm), calm), now, calm)

    def motion_near(self, guess: np.ndarray, other: np.ndarray, least: float) -> np.ndarray | None:
        """The same from a guess; None where it misses by more than a fit that misses by `least` lets expect."""
        now = halved(other)
        calm = _calm(now)
        values, misfit = self._or_still(self._by_pictures(guess / 2, calm), now, calm)
        return values if misfit <= AS_GOOD * least else None

    def _or_still(self, found: np.ndarray, now: np.ndarray, calm: np.ndarray) -> tuple[np.ndarray, float]:
        if self._moves(found, calm):
            return found * 2, self._misfit(found, now)
        still = np.zeros_like(found)
        return still, self._misfit(still, now)

    def _moves(self, found: np.ndarray, calm: np.ndarray) -> bool:
        """Whether more of the picture follows the motion found than rests. Things that move may follow it in part, and where the
        ground is plain they are all there is to see; but then as many of them fit worse. Smoothed before: a picture looked up
        between its px has less noise, and would fit better for that alone. In whole grey levels: a burnt-out ground has no vote."""
        here = cv2.convertScaleAbs(self._calm)
        at_rest, in_motion = (
            cv2.absdiff(cv2.convertScaleAbs(self._moved(one, calm)), here).astype(np.float32)
            for one in (np.zeros_like(found), found)
        )
        noise = 0.5 + OF_NOISE * _median(np.minimum(at_rest, in_motion).ravel())
        for_motion, for_rest = (
            cv2.countNonZero((cv2.scaleAdd(one, -BETTER, other) > noise).view(np.uint8))
            for one, other in ((in_motion, at_rest), (at_rest, in_motion))
        )
        return for_motion > MAJORITY * for_rest + LEAST_VOTES * at_rest.size

    def _by_flow(self, flow: np.ndarray) -> np.ndarray:
        """By reweighted squares, textured points first."""
        design, there = _design(*self.halved.shape, GRID_PX), _every(flow, GRID_PX).reshape(-1, 2)
        fitted = np.array([[_median(there[:, 0]), _median(there[:, 1])], (0, 0), (0, 0)], np.float32)
        for _ in range(FITS):
            off = there - design @ fitted
            np.square(off, out=off)
            weight = (self._texture / (1 + (off[:, 0] + off[:, 1]) / ROBUST_PX**2))[:, None] * design
            fitted = _solved(weight.T @ design, weight.T @ there, 1e-3)
        return fitted

    def _start(self, values: np.ndarray, calm: np.ndarray) -> np.ndarray:
        """The part of an affine flow that most of the picture's area follows. Dense flow takes the plain ground along with the
        things near the camera, and what lies between both is where the rounds would stay."""
        off = np.abs([self._off(part * values, calm) for part in STARTS])
        scale = max(LEAST_PX, _median(off.min(axis=0)))
        off *= off
        return STARTS[int((off / (off + scale**2)).mean(axis=1).argmin())] * values

    def _by_pictures(self, values: np.ndarray, calm: np.ndarray) -> np.ndarray:
        """Moves an affine flow to where the second picture, moved back along it, is most like the first one."""
        columns = self._columns
        for _ in range(LOOKS):
            off = self._off(values, calm)
            scale = max(LEAST_PX, _median(np.abs(off)))
            weighted = columns * (1 / (1 + np.square(off / scale)))[:, None]
            step = _solved(weighted.T @ columns, -(off @ weighted)[:, None], 1e-3 * len(columns)).reshape(2, 3).T
            if np.abs(step[0]).max() > FARTHEST_PX:
                break
            values = values + step
        return values

    def _off(self, values: np.ndarray, calm: np.ndarray) -> np.ndarray:
        """float32 (n,): by how many px every LOOK_PX-th px misses, across its slope. In grey levels textured things near the
        camera would outweigh a plain ground several times as large."""
        return (self._moved(values, calm) - self._calm).reshape(-1) * self._per_grey

    def _misfit(self, values: np.ndarray, after: np.ndarray) -> float:
        return cv2.mean(cv2.min(cv2.absdiff(self._moved(values, after), self._some), 20))[0]  # type: ignore[call-overload]

    def _moved(self, values: np.ndarray, after: np.ndarray) -> np.ndarray:
        """(h, w): the second picture, moved back, at every LOOK_PX-th px."""
        return _looked_up(after, values, LOOK_PX, self._some.shape)

    @cached_property
    def _calm(self) -> np.ndarray:
        return np.ascontiguousarray(_every(self._smooth, LOOK_PX))

    @cached_property
    def _smooth(self) -> np.ndarray:
        return _calm(self.halved)

    @cached_property
    def _slopes(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = (cv2.Sobel(self._smooth, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1)))
        return x, y

    @cached_property
    def _per_grey(self) -> np.ndarray:
        """float32 (n,): px of motion for each grey level at every LOOK_PX-th px."""
        x, y = self._slopes
        around = cv2.blur(x * x + y * y, (NEIGHBOURS_PX, NEIGHBOURS_PX))
        return 1 / np.sqrt(_every(around, LOOK_PX).reshape(-1) + np.float32(PLAIN**2))

    @cached_property
    def _texture(self) -> np.ndarray:
        slopes = (cv2.convertScaleAbs(cv2.Sobel(self.halved, cv2.CV_16S, *way)) for way in ((1, 0), (0, 1)))
        texture = cv2.blur(cv2.add(*slopes, dtype=cv2.CV_32F), (5, 5))
        return np.minimum(_every(texture, GRID_PX).reshape(-1), 30.0) + np.float32(0.1)

    @cached_property
    def _columns(self) -> np.ndarray:
        """float32 (n, 6): by how much `_off` changes at every LOOK_PX-th px with each of the six numbers."""
        design = _design(*self.halved.shape, LOOK_PX) * self._per_grey[:, None]
        return np.concatenate([_every(slope, LOOK_PX).reshape(-1, 1) * design for slope in self._slopes], axis=1)


def affine_flow(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """(3, 2) -> float32 (height, width, 2)."""
    x, y = _centred(height, width)
    across = values.astype(np.float32)
    return cv2.merge([np.add.outer(across[2, k] * y, across[0, k] + across[1, k] * x) for k in (0, 1)])


def moved_back(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The picture (h, w) looked up where an affine flow (3, 2) leads."""
    return _looked_up(picture, values, 1, picture.shape)


def _looked_up(picture: np.ndarray, values: np.ndarray, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """The same at every step-th px alone, shape (h, w) in all."""
    first, (x, y), (a, b), (c, d) = step // 2, *values.tolist()
    width, height = picture.shape[1], picture.shape[0]
    right, down = (
        (first - width / 2 + 0.5) / width,
        (first - height / 2 + 0.5) / width,
    )  # of the first px, in widths from the middle
    across, along = step / width, float(step)
    there = np.array([
        (along + across * a, across * c, first + x + right * a + down * c),
        (across * b, along + across * d, first + y + right * b + down * d),
    ])  # fmt: skip
    return cv2.warpAffine(
        picture, there, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (picture.shape[1] // 2, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _calm(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), CALM_PX)


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of vectors. cv2.magnitude rounds otherwise where an array happens to begin at another address, and rows would differ."""
    squares = np.square(x)
    squares += np.square(y)
    return np.sqrt(squares, out=squares)


def _solved(square: np.ndarray, right: np.ndarray, ridge: float) -> np.ndarray:
    square.flat[:: len(square) + 1] += ridge
    return cv2.solve(square, right)[1]


def _median(values: np.ndarray) -> float:
    return float(np.partition(values, values.size // 2)[values.size // 2])


def _every(values: np.ndarray, step: int) -> np.ndarray:
    return values[step // 2 :: step, step // 2 :: step]


@lru_cache(maxsize=16)
def _centred(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (w,) and y (h,) of a picture's px, in widths from its middle."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return (x + 0.5) / width - 0.5, (y + 0.5) / width - 0.5 * height / width


@lru_cache(maxsize=16)
def _design(height: int, width: int, step: int) -> np.ndarray:
    """float32 (n, 3): 1, x, y at every step-th px."""
    x, y = (one[step // 2 :: step] for one in _centred(height, width))
    xs, ys = np.meshgrid(x, y)
    return np.stack([np.ones_like(xs), xs, ys], axis=-1).reshape(-1, 3)
