"""Proxies as pictures: JPEG bytes -> RGB arrays."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np


def decode_jpeg(data: bytes) -> np.ndarray:
    """JPEG (or PNG) bytes -> RGB uint8 (H, W, 3). Raises ValueError where they are no picture."""
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise ValueError(f"a proxy must be a JPEG, got {len(data)} bytes that are none")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_jpegs(jpegs: Iterable[bytes]) -> list[np.ndarray]:
    return [decode_jpeg(data) for data in jpegs]


def encode_jpeg(rgb: np.ndarray, quality: int = 80) -> bytes:
    """RGB uint8 (H, W, 3) -> JPEG bytes; quality in 1..100."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"cannot encode a picture of shape {rgb.shape} as JPEG")
    return data.tobytes()


def fitted(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """RGB uint8 (H, W, 3) -> RGB uint8 (height, width, 3): shrunk or grown to fit whole, centred on dark grey."""
    scale = min(width / rgb.shape[1], height / rgb.shape[0])
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.full((height, width, 3), 24, dtype=np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return canvas
