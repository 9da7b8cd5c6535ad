"""What is known of a rendered film: the records of truth.json, whose words examples/footage.py explains."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from . import effects
from .effects import Border, Box
from .films import (
    Film,
    Span,
    crop_window,
    film_seed,
    frame_times,
    kept_frames,
    layout,
    stored_size,
)
from .scenes import Flow, measure_scene
from .textures import COLOURS, PHOTO_CROPS, Image
from .words import describe

CORNERS = {
    "top_left": COLOURS["red"],
    "top_right": COLOURS["green"],
    "bottom_left": COLOURS["blue"],
    "bottom_right": COLOURS["yellow"],
}


def film_record(film: Film, seed: int, stored_s: Image, cut_short: float | None) -> dict[str, Any]:
    """A file's record. stored_s: presentation times (T,) of its frames; cut_short: share of the bytes that stay."""
    width, height = stored_size(film)
    blank = np.zeros((film.height, film.width, 3), np.uint8)
    boxes = [stored_box(film, box, inside=False) for box in effects.add_logo(blank, film.logo)[1]]
    edge = film.border or Border()
    cuts, gradual = _joins(film, stored_s)
    return {
        "media": "video",
        "expect": "partial" if cut_short else "ok",
        "codec": film.coding.codec,
        "fps": film.fps,
        "width": width,
        "height": height,
        "rotation_deg": film.rotation,
        "variable_rate": film.uneven,
        "frames": len(stored_s),
        "start_s": float(stored_s[0]),
        "duration_s": round(float(2 * stored_s[-1] - stored_s[-2] - stored_s[0]), 6),
        "cuts": cuts,
        "gradual": gradual,
        "shots": _shots(film, seed, stored_s),
        "overlay": bool(boxes),
        "overlay_boxes": boxes,
        "overlay_opacity": film.logo.opacity if film.logo else None,
        "borders": {"left": edge.left, "top": edge.top, "right": edge.right, "bottom": edge.bottom},
        "corners": CORNERS if film.shots[0].scene.background == "quadrants" else None,
        "family": film.family,
        "caption": film.caption if film.sidecar else None,
        "sidecar": film.sidecar,
        "duplicate_of": film.variant.of if film.variant else None,
        "how": film.variant.how if film.variant else None,
    }


def duplicate_groups(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, str]] = {}
    for name, record in records.items():
        if record["duplicate_of"]:
            groups.setdefault(record["duplicate_of"], {})[name] = record["how"]
    return [{"original": one, "files": [one, *copies], "variants": copies} for one, copies in sorted(groups.items())]


def related_files(records: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Pairs of files with shots of one photograph that overlap, other than a film and its variants."""
    shown = {name: _crops(record) for name, record in records.items()}
    origin = {name: record["duplicate_of"] or name for name, record in records.items()}
    pairs = combinations(sorted(records), 2)
    return [[a, b] for a, b in pairs if origin[a] != origin[b] and _any_overlap(shown[a], shown[b])]


def _crops(record: dict[str, Any]) -> set[tuple]:
    shown = {shot["background"] for shot in record.get("shots", [])} | {record.get("background", "")}
    return {PHOTO_CROPS[name] for name in shown & set(PHOTO_CROPS)}


def _any_overlap(a: set[tuple], b: set[tuple]) -> bool:
    return any(
        one[0] == two[0] and max(one[1], two[1]) < min(one[3], two[3]) and max(one[2], two[2]) < min(one[4], two[4])
        for one in a
        for two in b
    )


def stored_box(film: Film, box: Box, inside: bool) -> list[int]:
    """A box of the upright frame (of the picture inside the borders, if so) in px of the stored upright frame."""
    edge = film.border if inside and film.border else Border()
    moved = np.add(box, [edge.left, edge.top, edge.left, edge.top])
    if film.variant is None:
        return [int(value) for value in moved]
    x, y, wide, tall = crop_window(film.variant, film.width, film.height)
    kept = np.clip(moved - [x, y, x, y], 0, [wide, tall, wide, tall])
    return [round(float(value) * film.variant.scale) for value in kept]


def _joins(film: Film, stored_s: Image) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cuts and gradual transitions within the frames that the file keeps."""
    first, stop = kept_frames(film)
    cuts: list[dict[str, Any]] = []
    gradual: list[dict[str, Any]] = []
    for join in layout(film)[1]:
        begin, last = join.first - first, join.last - first
        if not 0 < begin <= last < stop - first:
            continue
        if join.kind == "cut":
            cuts.append({"frame": begin, "time_s": float(stored_s[begin])})
        else:
            gradual.append(_gradual(join.kind, begin, last, stored_s))
    if film.opens:
        gradual.insert(0, _gradual("fade", 0, film.opens - 1, stored_s))
    if film.closes:
        gradual.append(_gradual("fade", len(stored_s) - film.closes, len(stored_s) - 1, stored_s))
    return cuts, gradual


def _gradual(kind: str, first: int, last: int, stored_s: Image) -> dict[str, Any]:
    times = {"start_s": float(stored_s[first]), "end_s": float(stored_s[last])}
    return {"kind": kind, "first_frame": first, "last_frame": last, **times}


def _shots(film: Film, seed: int, stored_s: Image) -> list[dict[str, Any]]:
    """One record for each shot of which the file keeps at least two unmixed frames."""
    first, stop = kept_frames(film)
    records = []
    for number, span in enumerate(layout(film)[0]):
        pure = np.flatnonzero(span.weights == 1.0) + span.first
        begin, end = max(int(pure[0]), first), min(int(pure[-1]) + 1, stop)
        if end - begin >= 2:
            flow = _measured(film, span, film_seed(film, seed, number), begin, end)
            records.append({"shot": number, **_shot(film, span, flow, begin - first, end - first, stored_s)})
    return records


def _measured(film: Film, span: Span, seed: list[int], begin: int, end: int) -> Flow:
    """Flow within frames [begin, end) of the film, in px of the stored file."""
    times = frame_times(film)[span.first : span.stop]
    scene, frames = span.shot.scene, (begin - span.first, end - span.first)
    flow = measure_scene(scene, seed, *film.inner, times - times[0], *frames, _counted(film, span.shot.look))
    return Flow(*(round(value, 3) for value in flow.scaled(film.variant.scale if film.variant else 1.0)))


def _counted(film: Film, look: effects.Look) -> Image:
    """What `measure_scene` wants to know of the picture inside the borders: letters and logos that one cannot see through
    stand still, and what a variant crops is not there."""
    width, height = film.inner
    edge = film.border or Border()
    laid = [_laid_over(np.full((height, width, 3), level, np.uint8), film, look)[..., 1] for level in (255, 0)]
    # What lies below a logo of half opacity can be seen; at exactly half, rounding falls to either side of 127.5.
    through = np.subtract(*laid, dtype=np.float32) >= 127
    shown = np.zeros((film.height, film.width), bool)
    x, y, wide, tall = (
        crop_window(film.variant, film.width, film.height) if film.variant else (0, 0, *shown.shape[::-1])
    )
    shown[y : y + tall, x : x + wide] = True
    inner = np.s_[edge.top : edge.top + height, edge.left : edge.left + width]
    return np.where(shown[inner], through[inner].astype(np.float32), np.nan)


def _laid_over(frame: Image, film: Film, look: effects.Look) -> Image:
    """A picture under the film's texts, borders and logo."""
    return effects.add_logo(effects.add_border(effects.write_texts(frame, look)[0], film.border), film.logo)[0]


def _shot(film: Film, span: Span, flow: Flow, begin: int, end: int, stored_s: Image) -> dict[str, Any]:
    """begin, end: unmixed frames in the stored file."""
    look, scene = span.shot.look, span.shot.scene
    end_s = stored_s[end] if end < len(stored_s) else 2 * stored_s[-1] - stored_s[-2]
    width, height = film.inner
    text_boxes = effects.write_texts(np.zeros((height, width, 3), np.uint8), look)[1]
    return {
        "first_frame": begin,
        "end_frame": end,
        "start_s": float(stored_s[begin]),
        "end_s": round(float(end_s), 6),
        "camera": scene.camera,
        "move": scene.move,
        "motion_px_s": flow.speed_px_s,
        "moving_area": flow.moving_area,
        "flow_px_s": [flow.right_px_s, flow.down_px_s],
        "static": scene.still,
        "blurred": look.blur_px > 1.0,
        "noisy": look.noise > 5,
        "exposure": "over" if look.gain > 1.5 else "under" if look.gain < 0.5 else "right",
        "flash_frames": _flash_frames(film, span),
        "text": bool(text_boxes),
        "text_boxes": [stored_box(film, box, inside=True) for box in text_boxes],
        "background": scene.background,
        "family": film.family,
        "caption": describe(scene),
    }


def _flash_frames(film: Film, span: Span) -> list[int]:
    first, stop = kept_frames(film)
    count = len(span.weights)
    lit = [span.first + index for index in range(count) if effects.flash_share(span.shot.look, index, count)]
    return [frame - first for frame in lit if first <= frame < stop]
