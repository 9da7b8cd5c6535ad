"""What is heard in a span of a file, on the clock of its pictures."""

from __future__ import annotations

from typing import Any

import av
import av.error
import numpy as np

from media.decode import Unplayable
from media.probe import open_container

LEAD_S = 0.2  # decoding begins earlier: a codec's first packet after a jump is not whole


def read_sound(path: str, start_s: float, samples: int, rate: int) -> np.ndarray:
    """Mono float32 (samples,) in [-1, 1] from start_s on, of the first sound track; where there is none, silence.

    Raises ValueError, naming the file, when its sound cannot be decoded.
    """
    out = np.zeros(samples, np.float32)
    try:
        container = open_container(path)
    except Unplayable as why:
        raise ValueError(f"{path}: {why}") from why
    with container:
        if not container.streams.audio:
            return out
        try:
            _fill(container, out, start_s, rate)
        except av.error.FFmpegError as error:
            raise ValueError(f"{path}: its sound cannot be decoded: {error}") from error
    return out


def _fill(container: Any, out: np.ndarray, start_s: float, rate: int) -> None:
    stream = container.streams.audio[0]
    if start_s > LEAD_S:
        container.seek(int((start_s - LEAD_S) / stream.time_base), stream=stream, backward=True)
    resampler, at = av.AudioResampler("flt", "mono", rate), None
    for frame in container.decode(stream):
        for piece in resampler.resample(frame):
            if piece.pts is not None and piece.time_base is not None:
                at = round((float(piece.pts * piece.time_base) - start_s) * rate)
            at = _place(out, at or 0, piece.to_ndarray()[0])
        if at is not None and at >= len(out):
            return
    for piece in resampler.resample(None):
        at = _place(out, at or 0, piece.to_ndarray()[0])


def _place(out: np.ndarray, at: int, heard: np.ndarray) -> int:
    """Write what falls into `out`. Returns where the next sample belongs."""
    first, last = max(0, at), min(len(out), at + len(heard))
    if first < last:
        out[first:last] = heard[first - at : last - at]
    return at + len(heard)
