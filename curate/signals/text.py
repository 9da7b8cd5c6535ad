"""Text: what an OCR (rapidocr with the models it ships) reads in a few frames of a clip, how much it covers, how long it stays.

A detector alone fires on fences and brick walls: a line counts when it can also be read. What is read is neither kept nor
shown anywhere: text in footage is not ours to trust.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from curate.crop import columns_of
from curate.pictures import decode_jpeg
from curate.signals.crops import Box, covered, crop_around, overlap
from curate.signals.kinds import Scores, Signal

FRAMES = 3  # looked at per clip; reading costs more than all other built-in signals together
LOOK_PX = 512  # long side of the picture that is read; smaller ones are enlarged to it
SURE, UNSURE = 0.75, 0.55  # reading scores: a line counts above the first, or above the second where it stays
STAYS = 0.3  # overlap from which a line of another frame is at the same place
LETTERS = re.compile(r"[^\W_]", re.UNICODE)
STRANGE, LONG = 0.75, 5.0  # detection score and width / height of a line in a script that the reader does not know
HUGE, HUGE_LETTERS = (
    0.3,
    4,
)  # discs and rings read as 0, o, 8: a line higher than this share of the frame needs more letters
BAND_TOP, BAND_OFF = 0.66, 0.1  # subtitles: below this share of the height, centred to this share of the width
CROP = columns_of("text")
COLUMNS = {name: pa.float64() for name in ("text", "text_persistence", "subtitles", *CROP)}


class Line(NamedTuple):
    """A line of text: where it is, as shares of the frame; score: how sure the reading is, in [0, 1]."""

    box: Box
    score: float


def from_proxies(proxies: pa.Table, settings: Any) -> pa.Table:
    rows = [measure(some(jpegs, FRAMES)) for jpegs in proxies["jpegs"].to_pylist()]
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    return pa.table({"clip_id": proxies["clip_id"]} | columns)


def some(jpegs: Sequence[bytes], count: int) -> list[np.ndarray]:
    """Up to `count` of a clip's proxies, spread over it, as RGB uint8 (H, W, 3)."""
    places = sorted({int((k + 0.5) * len(jpegs) / count) for k in range(count)}) if jpegs else []
    return [decode_jpeg(jpegs[place]) for place in places]


def measure(frames: Sequence[np.ndarray]) -> Scores:
    """RGB uint8 (H, W, 3) of one clip -> scores; all None without frames.

    text: mean share of the frame under text; text_persistence: share of the frames in which the most lasting line is there;
    subtitles: share of the frames that have a line where subtitles are; text_crop_*: shares of the sides to cut so that no text
    is seen, None where too little would remain.
    """
    if not frames:
        return dict.fromkeys(COLUMNS)
    return summary([read(frame) for frame in frames])


def summary(frames: Sequence[Sequence[Line]]) -> Scores:
    kept = believable(frames)
    lasting = [_frames_with(line, kept) for lines in kept for line in lines]
    bands = [any(is_subtitle(line.box) for line in lines) for lines in kept]
    crop = crop_around([line.box for lines in kept for line in lines])
    return {
        "text": float(np.mean([covered([line.box for line in lines]) for lines in kept])),
        "text_persistence": max(lasting, default=0) / len(kept),
        "subtitles": float(np.mean(bands)),
    } | dict(zip(CROP, crop or (None,) * 4, strict=True))


def believable(frames: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The lines that are read surely, and those read less surely that stay where they are."""

    def counts(line: Line) -> bool:
        return line.score >= SURE or (len(frames) > 1 and _frames_with(line, frames) > 1)

    return [[line for line in lines if counts(line)] for lines in frames]


def is_subtitle(box: Box) -> bool:
    return box[1] >= BAND_TOP and abs((box[0] + box[2]) / 2 - 0.5) <= BAND_OFF


def _frames_with(line: Line, frames: Sequence[Sequence[Line]]) -> int:
    return sum(any(overlap(line.box, other.box) >= STAYS for other in lines) for lines in frames)


# ---------------------------------------------------------------------------------------------------------------- reader


def read(rgb: np.ndarray) -> list[Line]:
    """RGB uint8 (H, W, 3) -> the lines that can be read, surely or not, and those that look like writing unknown to the reader."""
    scale = LOOK_PX / max(rgb.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = tuple(max(8, round(side * scale)) for side in rgb.shape[1::-1])
    bgr = np.ascontiguousarray(cv2.resize(rgb, size, interpolation=method)[..., ::-1])
    seen, found = _detected_and_read(bgr)
    if seen.boxes is None:
        return []
    read_as = zip(seen.boxes, found.txts or (), found.scores or ())
    known = [(_box(corners, size), words, float(score)) for corners, words, score in read_as if score >= UNSURE]
    lines = [Line(box, score) for box, words, score in known if plausible(words, box)]
    strange = [Line(_box(corners, size), float(score)) for corners, score in zip(seen.boxes, seen.scores, strict=True)]
    return lines + [one for one in strange if _is_strange(one, size, lines)]


def _detected_and_read(bgr: np.ndarray) -> tuple[Any, Any]:
    """What the engine detects and what it reads there, in the same order. Its own call drops boxes in which it reads nothing,
    and those are what other scripts look like."""
    reader = engine()
    reader.update_params(use_det=True, use_cls=False, use_rec=True)  # flags stick from call to call
    picture, record = reader.preprocess_img(bgr)
    seen, _, found, _ = reader.run_ocr_steps(picture, record)
    return seen, found


def _is_strange(line: Line, size: tuple[int, ...], lines: Sequence[Line]) -> bool:
    """A long line that is surely detected but not read: another script."""
    wide, tall = (line.box[2] - line.box[0]) * size[0], (line.box[3] - line.box[1]) * size[1]
    unread = not any(overlap(line.box, other.box) >= STAYS for other in lines)
    return unread and line.score >= STRANGE and wide >= LONG * tall


def plausible(words: str, box: Box) -> bool:
    """Whether it may be writing: two letters at least, not one pattern over and over (a row of windows reads as AAAA)."""
    letters = LETTERS.findall(words)
    if len(letters) < 2 or (len(letters) < HUGE_LETTERS and box[3] - box[1] > HUGE):
        return False
    return len(letters) > 6 or 2 * len(set(letters)) > len(letters)


def _box(corners: np.ndarray, size: tuple[int, ...]) -> Box:
    """Four corners (4, 2) in px -> the upright box around them."""
    (left, top), (right, bottom) = np.clip([corners.min(0), corners.max(0)], 0, size) / np.array(size)
    return float(left), float(top), float(right), float(bottom)


def engine() -> Any:
    """The reader of this thread: its flags are state, so that two threads must not share one."""
    return _engine(threading.get_ident())


@lru_cache(maxsize=8)
def _engine(thread: int) -> Any:
    """rapidocr with its shipped models, as many threads as OpenCV may use; loaded on first use, no network."""
    from rapidocr import RapidOCR

    threads = max(1, cv2.getNumThreads())
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Det.limit_type": "max",
            "Det.limit_side_len": LOOK_PX,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


SIGNAL = Signal(COLUMNS, 2, "proxies", from_proxies=from_proxies)
