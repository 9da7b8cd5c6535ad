"""Structured captions: what is known of a clip, field by field, and the sentences that training sees of it.

The fields are those of HunyuanVideo's captions (arXiv 2412.03603, section 3.2). They come from a sidecar beside the
file, else from what was measured: then they say no more than was measured.

A JSON sidecar may say what is in which part of its file: `shots`, a list of objects with `start_s`, `end_s` and fields.
A clip takes the fields of the shot it lies in for itself, and the file's for what is not said of the shot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

RENDER_VERSION = 2  # part of the fingerprint of the table `captions`: raise it when a rendering changes
KEEP = 0.6  # chance of each field in a varied rendering
FREE_TEXT = ("caption", "text", "prompt", "description", "title")  # names that others give the short description
DESCRIPTIONS = ("short", "dense", "background", *FREE_TEXT)


class Caption(BaseModel):
    """All fields but `short` may be unknown. camera: the movement; tags: metadata such as source and quality."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    short: StrictStr
    dense: StrictStr | None = None
    background: StrictStr | None = None
    style: StrictStr | None = None
    shot_type: StrictStr | None = None
    lighting: StrictStr | None = None
    atmosphere: StrictStr | None = None
    camera: StrictStr | None = None
    tags: tuple[StrictStr, ...] = ()


class Described(NamedTuple):
    """source: sidecar | measured; reason: why a sidecar that is there was not used, else None."""

    caption: Caption
    source: str
    reason: str | None


def sidecar_paths(path: str) -> list[str]:
    """Where the caption of a file may lie, best first: a/x.mp4.json, a/x.json, a/x.mp4.txt, a/x.txt."""
    stem, extension = os.path.splitext(path)
    paths = [f"{path}.json", f"{stem}.json", f"{path}.txt", f"{stem}.txt"]
    return [one for one in dict.fromkeys(paths) if one != path and extension]


def describe(clip: Mapping[str, Any], scores: Mapping[str, Any], sidecar: tuple[str, str] | None = None) -> Described:
    """A row of `clips`, its scores by name, its sidecar (text, suffix) if there is one -> what is known."""
    if sidecar is None:
        return Described(measured(clip, scores), "measured", None)
    try:
        return Described(from_sidecar(*sidecar, _span(clip)), "sidecar", None)
    except ValueError as error:
        return Described(measured(clip, scores), "measured", str(error))


def from_sidecar(text: str, suffix: str, span: tuple[float, float] | None = None) -> Caption:
    """suffix `.txt`: plain text; `.json`: the fields of Caption, other keys are left alone. span: [start_s, end_s) of
    the clip, whose shot is taken; None is the whole file.

    Raises ValueError saying what the sidecar should hold.
    """
    if suffix == ".txt":
        return _from_text(text)
    if suffix != ".json":
        raise ValueError(f"a sidecar must be .txt or .json, got '{suffix}'")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the sidecar is not JSON: {error.msg} in line {error.lineno}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the sidecar must be a JSON object of caption fields, got a {type(found).__name__}")
    return _from_fields(_of_shot(found, span))


def measured(clip: Mapping[str, Any], scores: Mapping[str, Any]) -> Caption:
    """A row of `clips`, its scores by name (None is unknown) and the names of its `colours`, largest share first -> a
    caption of nothing but what was measured."""
    is_video = clip.get("media") != "image"
    look = ", ".join(word for word in (_brightness(scores), _colour(scores)) if word)
    movement = _movement(scores) if is_video else None
    seen = " and ".join(word for word in (_people(scores), _writing(scores)) if word)
    words = [look, {"static": "still", None: ""}.get(movement, movement), "video clip" if is_video else "picture"]
    short = " ".join(word for word in words if word)
    short = f"{'An' if short[0] in 'aeiou' else 'A'} {short}{_colours(scores)}{f' with {seen}' if seen else ''}."
    return Caption(
        short=short,
        dense=_extent(clip, is_video),
        lighting=_lighting(scores),
        camera=_camera(scores) if is_video else None,
        tags=("measured", *_quality(scores)),
    )


def render(caption: Caption, variant: int) -> str:
    """The sentences of a caption, never empty. variant 0: all fields in order; 1: the short description alone; above,
    fields are dropped and permuted, drawn by the caption and the variant, so that no caption style is overfitted; one
    that says what is seen always stays."""
    if variant < 0:
        raise ValueError(f"variant must be 0 or more, got {variant}")
    parts = sentences(caption)
    if variant == 1:
        return parts["short"]
    if variant == 0:
        return " ".join(parts.values())
    draw = np.random.default_rng([variant, *caption.model_dump_json().encode()])
    kept = [name for name in parts if draw.random() < KEEP]
    if not any(name in DESCRIPTIONS for name in kept):
        kept.append("short")
    return " ".join(parts[kept[place]] for place in draw.permutation(len(kept)))


def renderings(caption: Caption, variants: int) -> list[str]:
    return [render(caption, variant) for variant in range(variants)]


def sentences(caption: Caption) -> dict[str, str]:
    """The known fields in canonical order, each as a sentence that stands alone."""
    labels = {"background": "Background", "style": "Style", "shot_type": "Shot type", "lighting": "Lighting",
              "atmosphere": "Atmosphere", "camera": "Camera"}  # fmt: skip
    found = {"short": caption.short}
    if caption.dense and caption.dense != caption.short:
        found["dense"] = caption.dense
    for name, label in labels.items():
        if value := getattr(caption, name):
            found[name] = f"{label}: {value}"
    if caption.tags:
        found["tags"] = f"Tags: {', '.join(caption.tags)}"
    return {name: _sentence(text) for name, text in found.items()}


# ------------------------------------------------------------------------------------------------------------ sidecars


def _from_text(text: str) -> Caption:
    lines = [line.strip() for line in text.replace("\ufeff", "").splitlines() if line.strip()]
    if not lines:
        raise ValueError("the sidecar is empty, it must hold a description")
    return Caption(short=lines[0], dense=" ".join(lines) if len(lines) > 1 else None)


def _span(clip: Mapping[str, Any]) -> tuple[float, float] | None:
    start_s, end_s = clip.get("start_s"), clip.get("end_s")
    return None if start_s is None or end_s is None else (float(start_s), float(end_s))


def _of_shot(found: dict[str, Any], span: tuple[float, float] | None) -> dict[str, Any]:
    """The file's fields with those of the shot that most of the span lies in. Where a shot is described in words, the
    file's descriptions are left out: they tell of the other shots too."""
    if "shots" not in found or span is None:
        return found
    shots = found["shots"]
    if not _is_list(shots) or not all(isinstance(one, dict) and _is_span(one) for one in shots):
        raise ValueError("the sidecar's shots must be a list of objects with numbers start_s < end_s")
    shared = [min(span[1], one["end_s"]) - max(span[0], one["start_s"]) for one in shots]
    best = max(range(len(shots)), key=shared.__getitem__, default=None)
    if best is None or shared[best] < (span[1] - span[0]) / 2:
        return found
    described = any(shots[best].get(name) for name in ("short", "dense", *FREE_TEXT))
    kept = {name: value for name, value in found.items() if not (described and name in DESCRIPTIONS)}
    return kept | shots[best]


def _is_span(shot: dict[str, Any]) -> bool:
    start_s, end_s = shot.get("start_s"), shot.get("end_s")
    return isinstance(start_s, (int, float)) and isinstance(end_s, (int, float)) and start_s < end_s


def _from_fields(found: dict[str, Any]) -> Caption:
    fields = {name: found[name] for name in Caption.model_fields if found.get(name) not in (None, "", [])}
    if "tags" in fields:
        fields["tags"] = _tags(fields["tags"])
    named = next((found[name] for name in FREE_TEXT if isinstance(found.get(name), str) and found[name].strip()), None)
    if "short" not in fields and (start := named or fields.get("dense")):
        fields["short"] = start
    if "short" not in fields:
        raise ValueError(f"the sidecar must hold at least one of short, dense, {', '.join(FREE_TEXT)}")
    try:
        return Caption(**fields)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(f"the sidecar's {'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}") from None


def _tags(tags: Any) -> Any:
    """One text, a list, or an object ({"quality": "high"} is the tag `high quality`)."""
    if isinstance(tags, dict):
        return [f"{value} {name}" for name, value in tags.items()]
    return [tags] if isinstance(tags, str) else [str(tag) for tag in tags] if _is_list(tags) else tags


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?", "。", "！", "？")) else f"{text}."


# ------------------------------------------------------------------------------------------------------------ measured
# Words begin where most people would use them; between the bounds nothing is said.


def _brightness(scores: Mapping[str, Any]) -> str | None:
    value = scores.get("brightness")
    return None if value is None else "dark" if value < 0.2 else "bright" if value > 0.65 else None


def _colour(scores: Mapping[str, Any]) -> str | None:
    value = scores.get("colourfulness")
    return None if value is None else "colourless" if value < 6 else "colourful" if value > 45 else None


def _colours(scores: Mapping[str, Any]) -> str:
    names = scores.get("colours") or []
    return f" in {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}" if names else ""


def _movement(scores: Mapping[str, Any]) -> str | None:
    value = scores.get("motion")
    return (
        None if value is None else "static" if value < 0.3 else "slow" if value < 5 else "fast" if value > 30 else None
    )


def _people(scores: Mapping[str, Any]) -> str | None:
    count = scores.get("people")
    return None if not count else "one person" if count == 1 else f"{int(count)} people"


def _writing(scores: Mapping[str, Any]) -> str | None:
    share = scores.get("text")
    return None if share is None or share < 0.02 else "writing"


def _lighting(scores: Mapping[str, Any]) -> str | None:
    burnt, crushed, contrast = (scores.get(name) for name in ("overexposed", "underexposed", "contrast"))
    said = [
        "overexposed" if burnt is not None and burnt > 0.1 else None,
        "deep shadows" if crushed is not None and crushed > 0.25 else None,
        None
        if contrast is None
        else "low contrast"
        if contrast < 0.1
        else "high contrast"
        if contrast > 0.28
        else None,
    ]
    return ", ".join(word for word in said if word) or None


def _camera(scores: Mapping[str, Any]) -> str | None:
    """A confident class of the camera signal; without one, a clip that does not move at all has a static camera."""
    name, confidence = scores.get("camera"), scores.get("camera_confidence")
    if name and confidence is not None and confidence >= 0.6:
        return str(name).replace("_", " ")
    return "static" if not name and _movement(scores) == "static" else None


def _extent(clip: Mapping[str, Any], is_video: bool) -> str | None:
    width, height = clip.get("width"), clip.get("height")
    if not width or not height:
        return None
    shape = "square" if width == height else "landscape" if width > height else "portrait"
    if not is_video:
        return f"A {shape} picture."
    seconds = float(clip.get("end_s") or 0) - float(clip.get("start_s") or 0)
    return f"A single {shape} shot of {seconds:.1f} seconds." if seconds > 0 else f"A single {shape} shot."


def _quality(scores: Mapping[str, Any]) -> list[str]:
    value = scores.get("quality")
    return [] if value is None else ["high quality"] if value > 0.7 else ["low quality"] if value < 0.3 else []
