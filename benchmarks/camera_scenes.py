"""Random scenes whose camera is known, as fits of their flow: what the camera signal is fitted on, and judged by.

FIT and HELD_OUT share no background and no seed; scenes that are judged use the paths of examples/moves.py alone, those
that are fitted on add faults (tremor, noise, blur, JPEG), rides forward and back, and things that move by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from curate.signals.camera_fit import Fit, fit
from examples import moves
from examples.scenes import Scene, render_scene
from examples.sprites import SHAPES
from examples.textures import COLOURS

FIT_TEXTURES = ("gradient", "clouds", "tiles", "stripes", "waves", "flower", "petals", "leaves")
HELD_OUT_TEXTURES = ("bricks", "dots", "city", "quadrants", "temple", "roof", "walls", "lake", "eaves", "trees")
SIZES = ((320, 180), (320, 240), (256, 256), (180, 320))
SLOWER = {"zoom": 0.6, "around": 0.6, "ride": 0.6}


class Example(NamedTuple):
    scene: Scene
    kind: str  # of camera_kinds.KINDS
    fits: list[Fit]


def judged(seed: int, move: str) -> Example:
    """A clean scene of one of the 14 classes with a background that was not fitted on."""
    rng = np.random.default_rng([seed, 1, moves.CAMERA_CLASSES.index(move)])
    scene = random_scene(rng, move, HELD_OUT_TEXTURES, speed=(0.06, 0.2))
    return Example(scene, kind_of(move), list(flow_fits(scene, rng, clean=True)))


def fitted(seed: int) -> Example:
    """A scene to fit on, of any move, with faults."""
    rng = np.random.default_rng([seed, 2])
    move = MOVES[seed % len(MOVES)]
    _add_paths()
    scene = random_scene(rng, move, FIT_TEXTURES, speed=(0.03, 0.35))
    return Example(scene, kind_of(move), list(flow_fits(scene, rng, clean=False)))


def kind_of(move: str) -> str:
    if move in ("shake", "roll"):
        return "handheld"
    return {"ride": "zoom", "tremor": "static"}.get(move.split()[0], move.split()[0])


def random_scene(rng: np.random.Generator, move: str, textures: tuple[str, ...], speed: tuple[float, float]) -> Scene:
    first, second = rng.choice(list(COLOURS), 2, replace=False)
    deep = move.split()[0] in ("pan", "tilt", "around", "ride") or rng.random() < 0.6
    still = move == "static"
    factor = {"handheld": 1.5, "shake": 4.0, "tremor": 0.05}.get(move.split()[0], SLOWER.get(move.split()[0], 1.0))
    return Scene(
        str(rng.choice(textures)),
        (str(first), str(second)),
        str(rng.choice(list(SHAPES))),
        str(rng.choice(list(COLOURS))),
        standing=int(rng.integers(3, 9)) if deep and not still else 0,
        moving=int(rng.integers(0, 6)) if still else 0,
        thing_size=float(rng.uniform(0.2, 0.42)),
        thing_speed=float(rng.uniform(0.05, 0.3)),
        move=move,
        speed=factor * float(np.exp(rng.uniform(*np.log(speed)))),
    )


def flow_fits(scene: Scene, rng: np.random.Generator, clean: bool) -> Iterator[Fit]:
    """The fits of a scene of 1.2 to 3 s, as the pass would make them."""
    width, height = SIZES[rng.integers(len(SIZES))]
    step_s = float(rng.choice([0.1, 0.125, 2 / 15]))
    times = np.arange(round(rng.uniform(1.2, 3.0) / step_s)) * step_s
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    fault = "none" if clean else str(rng.choice(["none", "noise", "blur", "jpeg", "dark"]))
    before = None
    for frame in render_scene(scene, int(rng.integers(1 << 31)), width, height, times):
        luma = _small(_spoil(frame, fault, rng))
        if before is not None:
            yield fit(dis.calc(before, luma, None), step_s)  # type: ignore[call-overload]
        before = luma


def _small(frame: np.ndarray) -> np.ndarray:
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = 256 / max(luma.shape)
    size = (round(luma.shape[1] * scale), round(luma.shape[0] * scale))
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)


def _spoil(frame: np.ndarray, fault: str, rng: np.random.Generator) -> np.ndarray:
    if fault == "noise":
        return np.clip(frame + rng.normal(0, 12, frame.shape), 0, 255).astype(np.uint8)
    if fault == "blur":
        return cv2.GaussianBlur(frame, (0, 0), 2.0)
    if fault == "jpeg":
        return np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_COLOR)
        )
    return (frame * 0.3).astype(np.uint8) if fault == "dark" else frame


# ------------------------------------------------------------------------------------------------ moves to fit on alone

TREMBLING = tuple(f"{move} trembling" for move in moves.CAMERA_CLASSES if move not in ("static", "handheld"))
MOVES = (
    *moves.CAMERA_CLASSES,
    *TREMBLING,
    "ride in",
    "ride out",
    "tremor",
    "roll",
    "shake",
    "handheld",
    "static",
    "handheld",
)


def _add_paths() -> None:
    """Paths that the generated footage has no name for, known to examples.moves from here on."""
    moves.PATHS["ride in"] = lambda pose, way, *_: pose._replace(z=way * moves.BACKGROUND_DEPTH)
    moves.PATHS["ride out"] = lambda pose, way, *_: pose._replace(z=-way * moves.BACKGROUND_DEPTH)
    moves.PATHS["tremor"] = moves.PATHS["handheld"]
    for name in TREMBLING:
        moves.PATHS[name] = _trembling(moves.PATHS[name.removesuffix(" trembling")])


def _trembling(path: moves.Path) -> moves.Path:
    """The same move by an unsteady hand."""

    def shaky(
        pose: moves.Pose, way: np.ndarray, times_s: np.ndarray, speed: float, rng: np.random.Generator
    ) -> moves.Pose:
        main = path(pose, way, times_s, speed, rng)
        hand = moves.PATHS["handheld"](pose, way, times_s, speed * rng.uniform(0.05, 0.4), rng)
        slides = {name: getattr(main, name) + getattr(hand, name) for name in ("x", "y", "yaw", "pitch", "roll")}
        return main._replace(**slides)

    return shaky
