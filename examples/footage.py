"""Generated footage with known truth: `python -m examples.footage data/footage [--seed 0] [--textures clouds,city]`.

Writes about fifty small files (videos in many codecs and containers, some images, some broken on purpose), sidecar
captions beside them (`x.txt` of the file, `x.json` of each shot too) and `truth.json`. Equal arguments give equal
pictures.

truth.json
    version, seed, textures
    camera_classes   the 14 names, see examples/moves.py
    files            name -> record
    duplicates       list of {"files": [...], "original": name, "variants": {name: how}}
    related          pairs [file, file] that show the same photograph, differently filmed: whether they count as
                     duplicates is a matter of taste, so judge them neither way

A file's record
    media            "video" | "image" | "unsupported"
    expect           "ok" | "partial" (cut off: fewer frames than declared) | "failed" | "unsupported"
    codec, fps (nominal), width, height (upright px), rotation_deg (clockwise turn a player has to apply), variable_rate
    frames           frames in the file (of the cut-off file: before it was cut)
    start_s, duration_s   presentation time of the first frame; until the last frame's end
    cuts             [{"frame": first frame of the new shot, "time_s": its presentation time}]
    gradual          [{"kind": "dissolve" | "fade", "first_frame", "last_frame", "start_s", "end_s"}]: the mixed frames,
                     both included, and their presentation times; fades at the file's very beginning or end too
    shots            list of records, below; a shot is only its unmixed frames
    overlay          bool: a logo or watermark lies over the whole file; overlay_boxes [[left, top, right, bottom]] px,
                     overlay_opacity
    borders          {"left", "top", "right", "bottom"} in px
    corners          null, or upright {"top_left": [r, g, b], ...}: what the corners of the first shot look like
    family           the concept; caption: what the sidecar says, null without one; sidecar "txt" | "json" | null
    duplicate_of     null, or the file it was made from; how: "re-encoded", ...

A shot's record
    shot             its number in the film; of a variant: in the original
    first_frame, end_frame (half open), start_s, end_s (half open)
    camera           one of the 14 classes, or null where none applies (roll, a flat scene that slides)
    move             what was rendered: a class, "roll" or "shake" (a violent handheld)
    motion_px_s      how fast what is seen moves: the speed of what each px shows, averaged over the px inside the borders
                     and over the shot's time, in px per second of the stored size. Letters and opaque logos stand still
    moving_area      share of the px that move: 1 when the camera does (but at the centre of a zoom)
    flow_px_s        [right, down]: their mean velocity
    static           nothing moves at all; blurred, noisy; exposure "right" | "over" | "under"
    flash_frames     frames whitened by a flash: no cuts
    text, text_boxes [[left, top, right, bottom]] px of the upright frame
    background, family, caption (of this shot alone)   what is to be seen, in words
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .catalogue import films
from .encode import cut_short, presentation_times, write_video
from .films import Film, Shot, frame_times, kept_frames, layout, render_film, vary
from .moves import CAMERA_CLASSES
from .scenes import Scene, render_scene
from .textures import PHOTO_CROPS, TEXTURES, Image
from .truth import duplicate_groups, film_record, related_files
from .words import describe, ground, subject

TRUTH_VERSION = 2
CUT_SHORT = {"truncated.mp4": 0.6}  # share of the bytes that stay


def generate(folder: str | os.PathLike[str], seed: int = 0, textures: tuple[str, ...] = (), only: tuple[str, ...] = (),
             workers: int | None = None) -> dict[str, Any]:  # fmt: skip
    """Render everything into `folder` (made when missing) and return what truth.json says. only: these files alone."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    chosen = [film for film in films(textures) if not only or film.file in only]
    records: dict[str, dict[str, Any]] = {}
    heaviest_first = sorted(chosen, key=lambda film: -film.width * film.height * layout(film)[0][-1].stop)
    with ProcessPoolExecutor(workers or min(os.cpu_count() or 1, 8), get_context("spawn"), _quiet) as pool:
        jobs = {film.file: pool.submit(make_film, film, str(target), seed) for film in heaviest_first}
        records |= {film.file: jobs[film.file].result() for film in chosen}
    if not only:
        records |= _images(target, seed) | _no_media(target, seed)
    truth = {
        "version": TRUTH_VERSION,
        "seed": seed,
        "textures": list(textures),
        "camera_classes": list(CAMERA_CLASSES),
        "files": dict(sorted(records.items())),
        "duplicates": duplicate_groups(records),
        "related": related_files(records),
    }
    write_atomic(target / "truth.json", json.dumps(truth, indent=1))
    return truth


def make_film(film: Film, folder: str, seed: int) -> dict[str, Any]:
    """Render, encode and describe one film; its sidecar is written too. Returns its record."""
    path = Path(folder) / film.file
    first, stop = kept_frames(film)
    times = frame_times(film)[first:stop]
    frames = (_turned(frame, film.rotation) for frame in vary(film, render_film(film, seed)))
    rate = Fraction(film.fps).limit_denominator(1001)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as beside:
        made = Path(beside) / film.file
        write_video(made, frames, rate, film.coding, times - times[0] if film.uneven else None, film.rotation)
        stored = presentation_times(made)
        if film.file in CUT_SHORT:
            cut_short(made, CUT_SHORT[film.file])
        os.replace(made, path)
    if len(stored) != stop - first:
        raise RuntimeError(f"{path}: must hold {stop - first} frames, holds {len(stored)}")
    record = film_record(film, seed, stored, CUT_SHORT.get(film.file))
    _write_sidecar(film, record, path)
    return record


def _turned(frame: Image, rotation: int) -> Image:
    """The picture as it is stored, so that a turn by `rotation` degrees clockwise makes it upright."""
    return np.ascontiguousarray(np.rot90(frame, rotation // 90)) if rotation else frame


def _write_sidecar(film: Film, record: dict[str, Any], path: Path) -> None:
    if film.sidecar == "txt":
        write_atomic(path.with_suffix(".txt"), film.caption + "\n")
    elif film.sidecar == "json":
        write_atomic(path.with_suffix(".json"), json.dumps(structured_caption(film, record), indent=1))


def structured_caption(film: Film, record: dict[str, Any]) -> dict[str, Any]:
    """The structured fields of a caption, as a captioning model would fill them: of the film, and of each shot."""
    shown = [describe(shot.scene) for shot in film.shots]
    return {
        "short": film.caption,
        "dense": " ".join([film.caption, *dict.fromkeys(shown)]),
        "tags": {"source": "generated"},
        "shots": [_shot_caption(film.shots[one["shot"]], one) for one in record["shots"]],
    }


def _shot_caption(shot: Shot, record: dict[str, Any]) -> dict[str, Any]:
    photograph = shot.scene.background in PHOTO_CROPS
    return {
        "start_s": record["start_s"],
        "end_s": record["end_s"],
        "short": f"{subject(shot.scene)}.",
        "background": ground(shot.scene),
        "style": "photograph" if photograph else "computer animation",
        "lighting": {"right": "even light", "over": "overexposed", "under": "dim light"}[record["exposure"]],
        "camera": shot.scene.move,
    }


# name -> background, colours, thing, its colour, width, height, quality
IMAGES: dict[str, tuple[str, tuple[str, str], str, str, int, int, int]] = {
    "picture_temple.png": ("temple", ("red", "red"), "disc", "red", 640, 427, 0),
    "picture_flower.jpg": ("flower", ("red", "red"), "disc", "red", 640, 427, 92),
    "picture_flower_small.jpg": ("flower", ("red", "red"), "disc", "red", 320, 214, 60),
    "picture_discs.jpg": ("clouds", ("teal", "white"), "disc", "red", 384, 288, 90),
    "picture_stars.png": ("stripes", ("navy", "purple"), "star", "yellow", 256, 256, 0),
}


def _images(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    return {name: _image(folder / name, seed, index) for index, name in enumerate(IMAGES)}


def _image(path: Path, seed: int, index: int) -> dict[str, Any]:
    background, colours, thing, colour, width, height, quality = IMAGES[path.name]
    photo = background not in TEXTURES
    scene = Scene(background, colours, thing, colour, moving=0 if photo else 6)
    pixels = next(render_scene(scene, [seed, 10_000 + index], width, height, np.zeros(1)))
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if quality else []
    ok, data = cv2.imencode(path.suffix, pixels[..., ::-1], options)
    assert ok, f"{path}: OpenCV could not encode it"
    write_atomic(path, data.tobytes())
    caption = f"{subject(scene)}."
    write_atomic(path.with_suffix(".txt"), caption + "\n")
    family = "photograph" if photo else f"{thing}s"
    small = path.name == "picture_flower_small.jpg"
    return {"media": "image", "expect": "ok", "background": background, "codec": path.suffix[1:],
            "width": width, "height": height, "frames": 1, "family": family, "caption": caption, "sidecar": "txt",
            "overlay": False, "overlay_boxes": [], "borders": {"left": 0, "top": 0, "right": 0, "bottom": 0},
            "duplicate_of": "picture_flower.jpg" if small else None, "how": "half size" if small else None}  # fmt: skip


def _no_media(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """What only looks like footage: nothing at all, a letter, random bytes."""
    noise = np.random.default_rng([seed, 99]).integers(0, 256, 20_000, np.uint8).tobytes()
    letter = b"Dear editor,\nthe reels are in the mail.\n"
    made = {
        "empty.mp4": (b"", "failed"),
        "letter.mp4": (letter, "failed"),
        "garbage.mkv": (noise, "failed"),
        "notes.md": (letter, "unsupported"),
    }
    for name, (data, _) in made.items():
        write_atomic(folder / name, data)
    return {
        name: {"media": "unsupported", "expect": expect, "frames": 0, "duplicate_of": None}
        for name, (_, expect) in made.items()
    }


def write_atomic(path: Path, data: str | bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(beside, path)


def _quiet() -> None:
    """Settings of a worker: one thread each (two workers on two cores), an encoder that keeps its banner to itself."""
    cv2.setNumThreads(1)
    os.environ["SVT_LOG"] = "1"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.footage", description="Render footage with known truth.")
    parser.add_argument("folder", help="where the files go, for example data/footage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--textures", default="", help=f"backgrounds to use, of {', '.join(TEXTURES)}; comma-separated")
    chosen = parser.parse_args(arguments)
    textures = tuple(name for name in chosen.textures.split(",") if name)
    if unknown := [name for name in textures if name not in TEXTURES]:
        parser.error(f"--textures: no texture {', '.join(unknown)}; there are {', '.join(TEXTURES)}")
    began = time.monotonic()
    truth = generate(chosen.folder, chosen.seed, textures)
    videos = [record for record in truth["files"].values() if record["media"] == "video"]
    seconds = sum(record["duration_s"] for record in videos)
    shots = sum(len(record["shots"]) for record in videos)
    print(f"{len(truth['files'])} files, {len(videos)} videos of {seconds:.0f} s with {shots} shots in "
          f"{time.monotonic() - began:.0f} s: {chosen.folder}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
