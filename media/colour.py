"""From what a decoder gives to 8-bit sRGB-like SDR pictures: matrix, range, and tone mapping of PQ and HLG.

`COLOUR_VERSION` changes when a pixel that this file makes changes: it belongs in the fingerprints of what is made from
pixels. The tone curve is that of ITU-R BT.2390-10 (section 5.4.1, the EETF: a Hermite spline knee in PQ space) from a
1000 cd/m2 master to a 203 cd/m2 screen, with BT.2020 -> BT.709 in linear light and clipping of what is outside.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from media.reduce import reformatted

COLOUR_VERSION = 1
PQ, HLG = 16, 18  # transfer numbers of ITU-T H.273
MASTER_NITS, SCREEN_NITS = 1000.0, 203.0  # BT.2408: diffuse white of HDR programmes is 203 cd/m2
TRANSFERS = {1: "bt709", 4: "gamma22", 5: "gamma28", 6: "bt601", 7: "smpte240m", 8: "linear", 13: "srgb", 14: "bt2020",
             15: "bt2020", 16: "pq", 18: "hlg"}  # fmt: skip
PRIMARIES = {1: "bt709", 5: "bt601-625", 6: "bt601-525", 7: "smpte240m", 9: "bt2020", 11: "dci-p3", 12: "display-p3"}
RANGES = {1: "limited", 2: "full"}
BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)  # ITU-R BT.2087-0, rounded


class Colour(NamedTuple):
    """H.273 numbers of a picture; matrix is one that a decoder's converter knows (1 BT.709, 5 BT.601, 9 BT.2020)."""

    transfer: int
    primaries: int
    matrix: int
    full_range: bool

    @property
    def hdr(self) -> bool:
        return self.transfer in (PQ, HLG)


def colour_of(picture: Any, height: int) -> Colour:
    """Colour of a decoded picture. An unnamed matrix is BT.601 below 720 lines and BT.709 from there on."""
    matrix = {1: 1, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}.get(int(picture.colorspace), 1 if height >= 720 else 5)
    full = int(picture.color_range) == 2 or picture.format.name.startswith("yuvj")
    return Colour(int(picture.color_trc), int(picture.color_primaries), matrix, full)


def to_rgb(picture: Any, colour: Colour, width: int, height: int) -> np.ndarray:
    """A decoded picture -> SDR RGB uint8 (height, width, 3), not turned. Areas are averaged when it shrinks."""
    how = {"src_colorspace": colour.matrix, "src_color_range": 2 if colour.full_range else 1, "dst_color_range": 2,
           "interpolation": "AREA" if width < picture.width else "BICUBIC", "threads": 1}  # fmt: skip
    if picture.format.is_rgb:
        how = {"interpolation": how["interpolation"], "threads": 1}
    if not colour.hdr:
        return reformatted(picture, width, height, "rgb24", **how).to_ndarray()
    wide = reformatted(picture, width, height, "rgb48le", **how).to_ndarray()
    return tone_map(wide.astype(np.float32) / 65535.0, colour.transfer)


def tone_map(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """PQ or HLG coded BT.2020 RGB (..., 3) in [0, 1] -> SDR BT.709 RGB uint8."""
    light = pq_to_nits(rgb) if transfer == PQ else hlg_to_nits(rgb)
    peak = light.max(axis=-1, keepdims=True)
    light = light * (compress(peak) / np.maximum(peak, 1e-6))  # by the largest channel: hues stay
    linear = np.clip(light @ BT2020_TO_BT709.T.astype(light.dtype) / SCREEN_NITS, 0.0, 1.0)
    return np.rint(linear ** (1 / 2.4) * 255.0).astype(np.uint8)  # BT.1886: the screen's gamma


def pq_to_nits(coded: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 EOTF: [0, 1] -> cd/m2 in [0, 10000]."""
    power = np.clip(coded, 0, 1) ** (1 / 78.84375)
    return 10000.0 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)


def nits_to_pq(nits: np.ndarray) -> np.ndarray:
    power = (np.clip(nits, 0, 10000.0) / 10000.0) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg_to_nits(coded: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100 HLG inverse OETF and OOTF (gamma 1.2) for a 1000 cd/m2 display."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    coded = np.clip(coded, 0, 1)
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], scene.dtype)
    return MASTER_NITS * scene * np.maximum(luminance, 1e-6)[..., None] ** 0.2


def compress(nits: np.ndarray) -> np.ndarray:
    """BT.2390 EETF: light of a 1000 cd/m2 master -> light of a 203 cd/m2 screen; what is dark stays as it is."""
    top = nits_to_pq(np.array(MASTER_NITS))
    screen = nits_to_pq(np.array(SCREEN_NITS)) / top
    knee = 1.5 * screen - 0.5
    e = np.minimum(nits_to_pq(nits) / top, 1.0)
    t = (e - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * screen
    return pq_to_nits(np.where(e < knee, e, spline) * top)


def stretched(luma: np.ndarray) -> np.ndarray:
    """Limited-range luma codes, uint8 (h, w) -> full-range luma: 16 becomes 0, 235 becomes 255."""
    return cv2.addWeighted(luma, 255 / 219, luma, 0, -16 * 255 / 219)  # rounds and saturates, in one pass


@lru_cache(maxsize=8)
def luma_table(transfer: int, full_range: bool) -> np.ndarray:
    """256 entries: an 8-bit luma code of an HDR picture (PQ or HLG) -> full-range SDR luma."""
    codes = np.arange(256) / 255.0 if full_range else np.clip((np.arange(256) - 16.0) / 219.0, 0, 1)
    return tone_map(np.repeat(codes[:, None], 3, axis=1), transfer)[:, 1].copy()
