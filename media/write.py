"""Pictures out: MP4, PNG, and grids of pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from media import storage


def write_mp4(path: str, frames: np.ndarray, fps: float, crf: int = 18) -> None:
    """RGB uint8 (T, H, W, 3) -> H.264 in MP4, BT.709 limited range.

    An odd last row or column is repeated: 4:2:0 is even.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) and not empty, got {frames.dtype} {frames.shape}")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        stream.codec_context.color_primaries, stream.codec_context.color_trc = 1, 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            small = picture.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            container.mux(stream.encode(small))
        container.mux(stream.encode())
    storage.write_bytes(path, buffer.getvalue())


def write_png(path: str, rgb: np.ndarray) -> None:
    """RGB uint8 (H, W, 3) -> PNG, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    storage.write_bytes(path, buffer.getvalue())


def grid(images: Sequence[np.ndarray], columns: int | None = None, gap: int = 4, paper: int = 255) -> np.ndarray:
    """RGB uint8 (h, w, 3) each -> one (H, W, 3), row by row; smaller ones are centred in cells of the largest size.

    columns: about the square root of their number when not given. Raises ValueError without images.
    """
    if not images:
        raise ValueError("a grid needs at least one image")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    cell_h, cell_w = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    out = np.full((rows * (cell_h + gap) + gap, columns * (cell_w + gap) + gap, 3), paper, np.uint8)
    for k, image in enumerate(images):
        y = gap + k // columns * (cell_h + gap) + (cell_h - image.shape[0]) // 2
        x = gap + k % columns * (cell_w + gap) + (cell_w - image.shape[1]) // 2
        out[y : y + image.shape[0], x : x + image.shape[1]] = image
    return out


def sheet(clips: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Contact sheet: each clip uint8 (T, h, w, 3) is a row of its frames. Clips may differ in T, h and w."""
    width = max(len(clip) for clip in clips)
    blank = [np.full((1, 1, 3), 255, np.uint8)]
    cells = [image for clip in clips for image in [*clip, *blank * (width - len(clip))]]
    return grid(cells, width, gap)
