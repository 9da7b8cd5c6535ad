"""What happens to finished frames: exposure, blur, noise, flashes, borders, subtitles, logos.

Frames are uint8 (H, W, 3) RGB. Boxes are (left, top, right, bottom) in px, right and bottom excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from .sprites import render_sprite
from .textures import Image

Box = tuple[int, int, int, int]
FLASH = (0.9, 0.6, 0.25)  # share of white in the frames of a flash


@dataclass(frozen=True)
class Look:
    """The state of one shot's picture."""

    gain: float = 1.0  # light is multiplied by it, then clipped: > 1 burns out, < 1 drowns
    lift: float = 0.0  # grey levels added after that
    blur_px: float = 0.0  # standard deviation of a Gaussian
    noise: float = 0.0  # standard deviation in grey levels, new in every frame
    flashes: tuple[float, ...] = ()  # where in the shot a flash of len(FLASH) frames begins, share of its length
    subtitle: str | None = None  # burnt in at the bottom, all through the shot
    title: str | None = None  # large, in the middle; may have several lines


@dataclass(frozen=True)
class Logo:
    """An emblem that stays in one corner (or, as a watermark, over the middle) of the whole film."""

    corner: str = "top right"  # or "top left", "bottom left", "bottom right", "middle"
    opacity: float = 1.0
    shape: str = "star"
    colour: str = "white"
    size: float = 0.2  # of the short side


@dataclass(frozen=True)
class Border:
    """Uniform bars around the picture, in px, and their colour RGB."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    colour: tuple[int, int, int] = (0, 0, 0)


def expose(frame: Image, look: Look) -> Image:
    if look.gain == 1.0 and look.lift == 0.0:
        return frame
    levels = np.clip(np.arange(256) * look.gain + look.lift, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(frame, levels))


def blur(frame: Image, look: Look) -> Image:
    return cv2.GaussianBlur(frame, (0, 0), look.blur_px) if look.blur_px else frame


def add_noise(frame: Image, look: Look, rng: np.random.Generator) -> Image:
    if not look.noise:
        return frame
    grains = rng.normal(0, look.noise, (frame.shape[0] // 2 + 1, frame.shape[1], 3)).astype(np.int16)
    flipped = np.concatenate([grains, grains[::-1, ::-1]])[: frame.shape[0]]  # half the random numbers do
    return cv2.add(frame, flipped, dtype=cv2.CV_8U)


def flash_share(look: Look, index: int, count: int) -> float:
    """Share of white in frame `index` of a shot of `count` frames."""
    for place in look.flashes:
        since = index - int(place * count)
        if 0 <= since < len(FLASH):
            return FLASH[since]
    return 0.0


def whiten(frame: Image, share: float) -> Image:
    return cv2.addWeighted(frame, 1 - share, np.full_like(frame, 255), share, 0) if share else frame


def add_border(frame: Image, border: Border | None) -> Image:
    if border is None:
        return frame
    sides = (border.top, border.bottom, border.left, border.right)
    return cv2.copyMakeBorder(frame, *sides, cv2.BORDER_CONSTANT, value=border.colour)


def write_texts(frame: Image, look: Look) -> tuple[Image, list[Box]]:
    """The frame with the shot's texts, and where they are."""
    boxes = []
    height, width = frame.shape[:2]
    for text, share, centre in ((look.subtitle, 0.085, 0.9), (look.title, 0.17, 0.5)):
        if text:
            stamp = text_stamp(text, max(13, int(share * min(height, 0.75 * width))), width - 8)
            top = int(centre * height - stamp.shape[0] / 2)
            frame, box = _stamp(frame, stamp, (width - stamp.shape[1]) // 2, top, 1.0)
            boxes.append(box)
    return frame, boxes


def add_logo(frame: Image, logo: Logo | None) -> tuple[Image, list[Box]]:
    if logo is None:
        return frame, []
    height, width = frame.shape[:2]
    side = int(logo.size * min(height, width))
    gap = max(4, side // 5)
    x = {"left": gap, "right": width - side - gap}.get(logo.corner.split()[-1], (width - side) // 2)
    y = {"top": gap, "bottom": height - side - gap}.get(logo.corner.split()[0], (height - side) // 2)
    frame, box = _stamp(frame, _emblem(logo.shape, logo.colour, side), x, y, logo.opacity)
    return frame, [box]


@lru_cache(maxsize=32)
def text_stamp(text: str, size_px: int, widest_px: int) -> Image:
    """White letters with a black outline, uint8 (h, w, 4) premultiplied; smaller letters where it would be too wide."""
    font = ImageFont.load_default(size_px)
    ruler = ImageDraw.Draw(Pillow.new("L", (1, 1)))
    left, top, right, bottom = ruler.multiline_textbbox((0, 0), text, font, stroke_width=2, align="center")
    if right - left > widest_px and size_px > 8:
        return text_stamp(text, size_px - 1, widest_px)
    image = Pillow.new("RGBA", (int(right - left), int(bottom - top)), (0, 0, 0, 0))
    white, black = (255, 255, 255, 255), (0, 0, 0, 255)
    pen = ImageDraw.Draw(image)
    pen.multiline_text((-left, -top), text, white, font, stroke_width=2, stroke_fill=black, align="center")
    rgba = np.array(image)
    rgba[..., :3] = rgba[..., :3] * (rgba[..., 3:] / 255.0)
    return rgba


@lru_cache(maxsize=8)
def _emblem(shape: str, colour: str, side: int) -> Image:
    return render_sprite(shape, np.random.default_rng(0), side, colour)


def _stamp(frame: Image, stamp: Image, x: int, y: int, opacity: float) -> tuple[Image, Box]:
    """Lays a premultiplied RGBA picture over a copy of the frame, cut at its edges."""
    frame = frame.copy()
    x, y = max(0, x), max(0, y)
    under = frame[y : y + stamp.shape[0], x : x + stamp.shape[1]]
    over = stamp[: under.shape[0], : under.shape[1]].astype(np.float32) * opacity
    under[...] = under * (1 - over[..., 3:] / 255) + over[..., :3]
    return frame, (x, y, x + under.shape[1], y + under.shape[0])
