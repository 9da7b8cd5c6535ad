"""What the network says about stretches of a film, asked only where somebody wants to know.

Frames are asked about in tiles of `TILE_S` seconds of the film's own time, each with the network's context around it:
so the answer for a frame depends neither on who asked nor on where a pass began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from curate.cuts import BLANK_STD, Boundary, Look, unlike_mixes

TILE_S = 2.0
CONTEXT, CONTEXT_S = 25, 1.2  # frames after a tile that the network should see, or as many as come within this time
REACH_S = TILE_S + CONTEXT_S  # a frame's answer may need frames so much later
LIKELY = 0.5
LONG = 4  # mixed frames from which on a transition is gradual
DOUBT_CONTENT = 15.0  # a jump of the picture that was not taken for a cut, and yet is no small one

Ask = Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]


class Opinion:
    """ask: as `curate.transnet.transitions`. everywhere: about every frame, else only where `boundaries` doubts."""

    def __init__(self, ask: Ask, everywhere: bool):
        self._ask, self._everywhere = ask, everywhere
        self._known: dict[int, dict[int, tuple[float, float]]] = {}  # tile -> stamp -> (middle, part)

    def complete(self, looks: Sequence[Look], found: list[Boundary], ended: bool) -> list[Boundary]:
        """The boundaries found by simple means and those that only the network sees, in order and not overlapping."""
        wanted = range(len(looks)) if self._everywhere else doubts(looks, found)
        tiles = np.array([math.floor(look.time_s / TILE_S) for look in looks])
        for tile in sorted({int(tiles[i]) for i in wanted} - self._known.keys()):
            self._answer(looks, np.flatnonzero(tiles == tile), tile, ended)
        self._known = {tile: known for tile, known in self._known.items() if tile >= tiles[0]}
        nothing = (0.0, 0.0)
        said = np.array(
            [self._known.get(int(t), {}).get(look.pts, nothing) for t, look in zip(tiles, looks, strict=True)]
        )
        return sorted([*found, *_new(looks, said[:, 0], said[:, 1], found)])

    def _answer(self, looks: Sequence[Look], inside: np.ndarray, tile: int, ended: bool) -> None:
        first, end = int(inside[0]), int(inside[-1]) + 1
        after = looks[end : end + CONTEXT]
        whole = ended or len(after) == CONTEXT or (after and after[-1].time_s - looks[end - 1].time_s >= CONTEXT_S)
        if not whole:
            return  # asked again when the frames are there
        before = min(CONTEXT, first)
        pictures = np.stack([look.small for look in (*looks[first - before : end], *after) if look.small is not None])
        middle, part = self._ask(pictures, before, len(after))
        stamps = [look.pts for look in looks[first:end]]
        self._known[tile] = dict(zip(stamps, zip(middle.tolist(), part.tolist(), strict=True), strict=True))


def doubts(looks: Sequence[Look], found: Sequence[Boundary]) -> list[int]:
    """Frames about which the simple detectors are unsure: jumps that were not taken, mixes that hardly stand out."""
    jumps = [i for i, look in enumerate(looks) if i and (look.votes or look.content >= DOUBT_CONTENT)]
    middles = [(first + end) // 2 for first, end in unlike_mixes(looks)]
    return sorted({i for i in (*jumps, *middles) if not _near(i, i, found)})


def _new(looks: Sequence[Look], middle: np.ndarray, part: np.ndarray, found: Sequence[Boundary]) -> list[Boundary]:
    """Stretches that the network holds to be transitions and nobody else has found."""
    out: list[Boundary] = []
    for first, end in _runs((part >= LIKELY) | (middle >= LIKELY)):
        sure = float(middle[first:end].max())
        if sure < LIKELY or _near(first, end, found):
            continue
        if end - first >= LONG:
            blank = min(look.thumb.std() for look in looks[first:end]) < BLANK_STD
            out.append(Boundary(first, end, "fade" if blank else "dissolve", round(sure, 3)))
        else:
            cut = first + int(middle[first:end].argmax()) + 1  # its middle is the last frame of the old shot
            if cut < len(looks):
                out.append(Boundary(cut, cut, "cut", round(sure, 3)))
    return out


def _near(first: int, end: int, found: Iterable[Boundary]) -> bool:
    return any(first <= one.first + 2 and one.last - 2 <= end for one in found)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """[first, end) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
