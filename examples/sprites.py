"""Things that stand or move in a scene: small RGBA pictures with texture inside, so that their motion can be seen.

A shape is a pure function (side) -> list of polygons or discs drawn as a mask uint8 (side, side).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .textures import Image, Rng, colour, fractal


def render_sprite(name: str, rng: Rng, side: int, colour_name: str) -> Image:
    """uint8 (side, side, 4) RGB with premultiplied alpha. `name` is a key of SHAPES. Raises KeyError otherwise."""
    mask = SHAPES[name](side * 4)
    alpha = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    shade = 0.62 + 0.38 * _bands(rng, side)[..., None]
    lines = 0.75 + 0.5 * fractal(rng, side, side, coarsest=6, octaves=3)[..., None]
    rgb = np.clip(colour(colour_name) * shade * lines, 0, 255)
    edge = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=max(1, side // 12))
    inside = cv2.resize(edge, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    rgb = rgb * (0.35 + 0.65 * inside)
    return np.concatenate([rgb * alpha, 255 * alpha], axis=2).astype(np.uint8)


def _bands(rng: Rng, side: int) -> Image:
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    angle = rng.uniform(0, np.pi)
    return (0.5 + 0.5 * np.sin((np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(5, 9))).astype(np.float32)


def _polygon(side: int, points: Image) -> Image:
    """points (N, 2) in [-1, 1], y down -> mask uint8 (side, side)."""
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [((points + 1) / 2 * (side - 1)).round().astype(np.int32)], (255,))
    return mask


def _around(count: int, radii: tuple[float, ...], turn: float = -np.pi / 2) -> Image:
    angles = turn + 2 * np.pi * np.arange(count) / count
    reach = np.array([radii[index % len(radii)] for index in range(count)])
    return np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)


def _disc(side: int) -> Image:
    return _polygon(side, _around(72, (0.97,)))


def _ring(side: int) -> Image:
    return _disc(side) - _polygon(side, _around(72, (0.5,)))


def _square(side: int) -> Image:
    return _polygon(side, _around(4, (1.2,), np.pi / 4).clip(-0.9, 0.9))


def _triangle(side: int) -> Image:
    return _polygon(side, _around(3, (0.98,)))


def _star(side: int) -> Image:
    return _polygon(side, _around(10, (0.98, 0.42)))


def _cross(side: int) -> Image:
    mask = np.zeros((side, side), np.uint8)
    mask[side // 3 : -side // 3, side // 20 : -side // 20] = 255
    mask[side // 20 : -side // 20, side // 3 : -side // 3] = 255
    return mask


def _post(side: int) -> Image:
    mask = np.zeros((side, side), np.uint8)
    mask[:, side * 2 // 5 : side * 3 // 5] = 255
    return mask


def _tree(side: int) -> Image:
    crown = _polygon(side, _around(24, (0.7, 0.55)) * [0.85, 0.75] - [0, 0.3])
    crown[side // 2 :, side * 11 // 24 : side * 13 // 24] = 255
    return crown


SHAPES: dict[str, Callable[[int], Image]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "post": _post,
    "tree": _tree,
}
