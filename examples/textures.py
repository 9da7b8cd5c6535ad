"""Pictures for the planes of a scene: procedural textures and crops of the two photographs scikit-learn ships.

A texture is a pure function (rng, height, width, a, b) -> uint8 (height, width, 3) RGB of two colours a, b: uint8 (3,).
All of them carry large shapes and fine grain, so that optical flow has something to hold on to everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

Rng = np.random.Generator
Image = np.ndarray
Texture = Callable[[Rng, int, int, Image, Image], Image]

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (18, 18, 22),
    "grey": (128, 128, 128),
    "white": (238, 238, 232),
    "red": (214, 40, 40),
    "orange": (244, 130, 32),
    "yellow": (246, 208, 48),
    "green": (48, 158, 72),
    "teal": (28, 150, 156),
    "blue": (40, 84, 200),
    "navy": (20, 32, 84),
    "purple": (124, 58, 170),
    "pink": (236, 120, 170),
    "brown": (122, 82, 48),
    "sand": (216, 190, 140),
}


def colour(name: str) -> Image:
    """Name -> uint8 (3,) RGB. Raises KeyError for a name that COLOURS does not hold."""
    return np.array(COLOURS[name], np.uint8)


def render_texture(name: str, rng: Rng, height: int, width: int, colours: tuple[str, str]) -> Image:
    """uint8 (height, width, 3) RGB. `name` is a key of TEXTURES, or of PHOTO_CROPS (colours then do nothing)."""
    if name in PHOTO_CROPS:
        return _photo_crop(name, height, width)
    return TEXTURES[name](rng, height, width, colour(colours[0]), colour(colours[1]))


def fractal(rng: Rng, height: int, width: int, coarsest: int = 3, octaves: int = 6, fall: float = 0.6) -> Image:
    """float32 (height, width) in [0, 1]: octaves of smooth noise, each twice as fine and `fall` times as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = coarsest * 2**octave
        grid = rng.random((cells + 1, max(2, cells * width // height) + 1), np.float32)
        total += fall**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


def _mix(share: Image, a: Image, b: Image) -> Image:
    """float (H, W) in [0, 1] -> uint8 (H, W, 3): a where 0, b where 1."""
    return (a + share[..., None] * (b.astype(np.float32) - a)).clip(0, 255).astype(np.uint8)


def _grain(rng: Rng, image: Image, strength: float = 40.0) -> Image:
    """Adds fixed fine structure (a few px wide) of the given strength in grey levels."""
    height, width = image.shape[:2]
    fine = fractal(rng, height, width, coarsest=max(8, height // 16), octaves=3, fall=0.9) - 0.5
    return (image + strength * 2 * fine[..., None]).clip(0, 255).astype(np.uint8)


def _axes(height: int, width: int) -> tuple[Image, Image]:
    return np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))


def _gradient(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    x, y = _axes(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x / width + np.sin(angle) * y / height
    return _grain(rng, _mix((ramp - ramp.min()) / np.ptp(ramp), a, b))


def _clouds(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    share = fractal(rng, height, width, coarsest=3, octaves=7, fall=0.72)
    return _grain(rng, _mix(np.clip((share - 0.3) * 2.4, 0, 1), a, b), 24)


def _tiles(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    side = int(rng.integers(22, 40))
    cells = rng.random((height // side + 1, width // side + 1)).astype(np.float32)
    share = np.kron(cells, np.ones((side, side), np.float32))[:height, :width]
    image = _mix(share, a, b)
    image[::side] //= 2
    image[:, ::side] //= 2
    return _grain(rng, image, 30)


def _stripes(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    x, y = _axes(height, width)
    angle = rng.uniform(0.2, np.pi - 0.2)
    phase = (np.cos(angle) * x + np.sin(angle) * y) / rng.uniform(18, 34)
    share = 0.5 + 0.5 * np.tanh(4 * np.sin(phase + 3 * fractal(rng, height, width, 2, 2)))
    return _grain(rng, _mix(share, a, b))


def _waves(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    x, y = _axes(height, width)
    total = np.zeros((height, width), np.float32)
    for _ in range(5):
        length, angle = rng.uniform(20, 90), rng.uniform(0, np.pi)
        total += np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / length + rng.uniform(0, 7))
    return _grain(rng, _mix((total + 5) / 10, a, b))


def _bricks(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    tall = int(rng.integers(14, 22))
    x, y = _axes(height, width)
    row = y // tall
    shifted = x + (row % 2) * tall * 1.2
    column = shifted // (tall * 2.4)
    tint = rng.random((int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    image = _mix(0.35 * tint[row.astype(int), column.astype(int)], a, b)
    image[(y % tall < 2) | (shifted % (tall * 2.4) < 2)] = b
    return _grain(rng, image)


def _dots(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    image = np.tile(a, (height, width, 1))
    for _ in range(height * width // 700):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        shade = (a + (b.astype(float) - a) * rng.uniform(0.5, 1)).tolist()
        cv2.circle(image, centre, int(rng.integers(3, 14)), shade, -1, cv2.LINE_AA)
    return _grain(rng, image, 30)


def _city(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    """Sky of colour a, house fronts of shades of colour b with lit windows."""
    image = _mix(np.repeat(np.linspace(0, 0.5, height, dtype=np.float32)[:, None], width, 1), a, b)
    for _ in range(width // 14):
        left, wide, top = (
            int(rng.integers(-20, width)),
            int(rng.integers(24, 60)),
            int(rng.integers(height // 5, height)),
        )
        front = (b * rng.uniform(0.35, 1.0)).tolist()
        cv2.rectangle(image, (left, top), (left + wide, height), front, -1)
        for y in range(top + 4, height - 6, 9):
            for x in range(left + 4, left + wide - 5, 8):
                lit = (250, 226, 140) if rng.random() < 0.5 else (40, 44, 60)
                cv2.rectangle(image, (x, y), (x + 3, y + 4), lit, -1)
    return _grain(rng, image, 20)


def _quadrants(rng: Rng, height: int, width: int, a: Image, b: Image) -> Image:
    """Red top left, green top right, blue bottom left, yellow bottom right: tells which way is up."""
    image = np.empty((height, width, 3), np.uint8)
    half_h, half_w = height // 2, width // 2
    image[:half_h, :half_w], image[:half_h, half_w:] = colour("red"), colour("green")
    image[half_h:, :half_w], image[half_h:, half_w:] = colour("blue"), colour("yellow")
    return _grain(rng, image)


TEXTURES: dict[str, Texture] = {
    "gradient": _gradient,
    "clouds": _clouds,
    "tiles": _tiles,
    "stripes": _stripes,
    "waves": _waves,
    "bricks": _bricks,
    "dots": _dots,
    "city": _city,
    "quadrants": _quadrants,
}

# name -> (photograph, left, top, right, bottom as shares of it, mirrored). But for the two whole ones the crops do not
# overlap, so that scenes made from different ones are no duplicates of each other.
PHOTO_CROPS: dict[str, tuple[str, float, float, float, float, bool]] = {
    "temple": ("china.jpg", 0.0, 0.0, 1.0, 1.0, False),
    "roof": ("china.jpg", 0.0, 0.0, 0.5, 0.4, False),
    "walls": ("china.jpg", 0.0, 0.45, 0.45, 0.9, True),
    "lake": ("china.jpg", 0.55, 0.25, 1.0, 0.6, False),
    "eaves": ("china.jpg", 0.45, 0.62, 0.72, 1.0, True),
    "trees": ("china.jpg", 0.72, 0.62, 1.0, 1.0, False),
    "flower": ("flower.jpg", 0.0, 0.0, 1.0, 1.0, False),
    "petals": ("flower.jpg", 0.45, 0.1, 0.8, 0.6, True),
    "leaves": ("flower.jpg", 0.0, 0.4, 0.4, 0.95, False),
}


@cache
def photograph(name: str) -> Image:
    """uint8 (427, 640, 3) RGB: "china.jpg" (a temple) or "flower.jpg", which scikit-learn carries."""
    from sklearn.datasets import load_sample_image

    return np.array(load_sample_image(name))


def _photo_crop(name: str, height: int, width: int) -> Image:
    source, left, top, right, bottom, mirrored = PHOTO_CROPS[name]
    image = photograph(source)
    tall, wide = image.shape[:2]
    crop = image[int(top * tall) : int(bottom * tall), int(left * wide) : int(right * wide)]
    if mirrored:
        crop = crop[:, ::-1]
    scale = max(height / crop.shape[0], width / crop.shape[1])
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    size = (max(width, round(crop.shape[1] * scale)), max(height, round(crop.shape[0] * scale)))
    big = cv2.resize(np.ascontiguousarray(crop), size, interpolation=method)
    y, x = (big.shape[0] - height) // 2, (big.shape[1] - width) // 2
    return np.ascontiguousarray(big[y : y + height, x : x + width])
