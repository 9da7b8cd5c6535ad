"""Contact sheets: clips as small pictures with a line or two below each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from curate.pictures import decode_jpeg, encode_jpeg, fitted
from media.write import grid

WIDTH, HEIGHT = 192, 120  # px of a picture on a sheet
LINE = 14  # px of a line of text
PAPER = (250, 250, 248)


class Cell(NamedTuple):
    """rgb uint8 (h, w, 3), or None where there is no proxy; lines of text below it."""

    rgb: np.ndarray | None
    lines: tuple[str, ...]


def sheet(cells: Sequence[Cell], columns: int = 6) -> np.ndarray:
    """Cells -> RGB uint8 (H, W, 3); one cell that says so where there are none."""
    shown = list(cells) or [Cell(None, ("none",))]
    rows = max(len(cell.lines) for cell in shown)
    return grid([_drawn(cell, rows) for cell in shown], columns, gap=6, paper=PAPER[0])


def data_uri(rgb: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> str:
    data = encode_jpeg(fitted(rgb, width, height), 75)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def first_picture(jpegs: Sequence[bytes]) -> np.ndarray | None:
    """The start frame of a clip, RGB uint8 (H, W, 3)."""
    return decode_jpeg(jpegs[0]) if jpegs else None


def _drawn(cell: Cell, rows: int) -> np.ndarray:
    image = Image.new("RGB", (WIDTH, HEIGHT + rows * LINE + 2), PAPER)
    if cell.rgb is not None:
        image.paste(Image.fromarray(fitted(cell.rgb, WIDTH, HEIGHT)), (0, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
    for row, line in enumerate(cell.lines):
        draw.text((1, HEIGHT + 1 + row * LINE), _cut(line, font), fill=(40, 40, 40), font=font)
    return np.asarray(image)


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The line, shortened at its end to fit below a picture; what the font lacks as question marks."""
    line = line.encode("latin-1", "replace").decode("latin-1")
    while line and font.getlength(line) > WIDTH - 2:
        line = line[:-2].rstrip(".") + "…" if len(line) > 2 else ""
    return line
