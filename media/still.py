"""Image files: the picture the way up that EXIF says, on white where it is transparent."""

from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from media import storage
from media.colour import Colour
from media.decode import Frame
from media.probe import Probe
from media.upright import Upright

MAX_PIXELS = 300_000_000  # a larger one is taken for a decompression bomb
EXIF_ORIENTATION = 0x0112
BROKEN = (OSError, ValueError, SyntaxError, struct.error, UnidentifiedImageError, Image.DecompressionBombError,
          EOFError, IndexError, KeyError, OverflowError)  # fmt: skip  # what Pillow's readers raise for broken files


def probe_still(path: str) -> Probe:
    """The header of an image file; never raises for what is in it."""
    try:
        with storage.open_read(path) as file, Image.open(file) as image:
            turn = image.getexif().get(EXIF_ORIENTATION, 1)
            width, height = image.size[::-1] if turn in (5, 6, 7, 8) else image.size
            degrees = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(turn, 0)
            form = (image.format or "image").lower()
    except BROKEN as error:
        return Probe("image", "failed", f"cannot be opened: {_say(error, path)}")
    if width * height > MAX_PIXELS:
        return Probe("image", "failed", f"{width} x {height} px is more than {MAX_PIXELS} px", form, form)
    return Probe(
        "image", container=form, codec=form, width=width, height=height, rotation_deg=degrees, frames_declared=1
    )


def read_still(path: str) -> np.ndarray:
    """RGB uint8 (H, W, 3), upright. Raises ValueError with the reason when it can't be decoded."""
    try:
        with storage.open_read(path) as file, Image.open(file) as image:
            return _to_rgb(ImageOps.exif_transpose(image))
    except BROKEN as error:
        raise ValueError(f"cannot be decoded: {_say(error, path)}") from error


def still_frame(path: str) -> Frame:
    """The image as the only frame of a video, at time 0. Raises ValueError."""
    rgb = read_still(path)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    colour = Colour(13, 1, 5, True)
    return Frame(0, 0, 0, Fraction(1, 1000), picture, (rgb.shape[1], rgb.shape[0]), Upright(), colour)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.repeat((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        paper = Image.new("RGBA", clear.size, "white")
        paper.alpha_composite(clear)
        image = paper
    return np.asarray(image.convert("RGB"))


def _say(error: BaseException, path: str) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image format is known that starts like this"
    return str(error).replace(path, "the file").strip() or type(error).__name__
