"""How the camera moves: the 14 classes, their definitions, and exact camera paths for each.

World: x right, y down, z forward, in units in which the focal length is 1 frame width at zoom 1. The camera looks
along z from the origin. Directions are the camera's: when it moves or turns right, the picture flows left.

zoom in, zoom out       The focal length grows, shrinks (or the camera rides forward, back).
                        Flow away from the centre, towards it.
pan left, right,        The camera slides sideways, or up and down, without turning (truck, pedestal).
up, down                All flow one way, near things faster than far ones: parallax.
tilt left, right,       The camera turns about its own centre and stays where it is.
up, down                All flow one way, near and far alike: no parallax.
around left, right      The camera rides to its left, right around the subject and keeps looking at it (orbit).
                        What is nearer than the subject flows against what is behind it; the subject stays.
static                  The camera does nothing. No flow but of things that move themselves.
handheld                Small irregular turns and slides. Flow that keeps changing its direction.

A turn about the line of sight ("roll") is none of the 14. In a scene without depth (one flat plane far away) pan and
tilt cannot be told apart; such a scene has no class in the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .textures import Image, Rng

CAMERA_CLASSES: tuple[str, ...] = (
    "zoom in",
    "zoom out",
    "pan up",
    "pan down",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "tilt left",
    "tilt right",
    "around left",
    "around right",
    "static",
    "handheld",
)
BACKGROUND_DEPTH = 2.0
PIVOT_DEPTH = 1.25  # what "around" rides around: behind the near things, before the background


class Pose(NamedTuple):
    """Arrays (T,), one entry per moment. x, y, z in world units; yaw, pitch, roll in radians; zoom >= 0."""

    x: Image
    y: Image
    z: Image
    yaw: Image  # > 0 turns right
    pitch: Image  # > 0 turns up
    roll: Image  # > 0 turns the camera clockwise, the picture counter-clockwise
    zoom: Image  # focal length in frame widths


def camera_path(move: str, times_s: Image, speed: float, rng: Rng) -> Pose:
    """Poses at times_s (T,), centred so that the middle of the path is the origin.

    speed: how fast the background flows, in frame widths per second (of zooms: at the left and right edge).
    Raises KeyError when `move` is neither one of CAMERA_CLASSES nor of EXTRA_MOVES.
    """
    way = speed * (times_s - (times_s[0] + times_s[-1]) / 2)
    still = np.zeros_like(way)
    pose = Pose(still, still, still, still, still, still, np.ones_like(way))
    return PATHS[move](pose, way, times_s, speed, rng)


def plane_to_image(pose: Pose, index: int, depth: float, width: int, height: int) -> Image:
    """Matrix float64 (3, 3): point of the plane z = depth -> pixel of frame `index`.

    Points of the plane are counted in px from its centre, such that the camera at rest shows them 1:1.
    """
    scale = depth / width
    x, y, z, zoom = pose.x[index], pose.y[index], pose.z[index], pose.zoom[index]
    plane = np.array([[scale, 0, -x], [0, scale, -y], [0, 0, depth - z]])
    focal = zoom * width
    lens = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return lens @ _turn(pose.yaw[index], pose.pitch[index], pose.roll[index]) @ plane


def _turn(yaw: float, pitch: float, roll: float) -> Image:
    """World -> camera rotation."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


Path = Callable[[Pose, Image, Image, float, Rng], Pose]


def _slide(x: float, y: float) -> Path:
    return lambda pose, way, *_: pose._replace(x=x * way * BACKGROUND_DEPTH, y=y * way * BACKGROUND_DEPTH)


def _rotate(yaw: float, pitch: float) -> Path:
    return lambda pose, way, *_: pose._replace(yaw=yaw * way, pitch=pitch * way)


def _zoom(sign: float) -> Path:
    return lambda pose, way, *_: pose._replace(zoom=np.exp(sign * 2 * way))


def _orbit(sign: float) -> Path:
    """Angle such that the background flows at the given speed."""

    def path(pose: Pose, way: Image, *_: object) -> Pose:
        angle = sign * way / (1 - PIVOT_DEPTH / BACKGROUND_DEPTH)
        return pose._replace(x=PIVOT_DEPTH * np.sin(angle), z=PIVOT_DEPTH * (1 - np.cos(angle)), yaw=-angle)

    return path


def _static(pose: Pose, *_: object) -> Pose:
    return pose


def _roll(sign: float) -> Path:
    return lambda pose, way, *_: pose._replace(roll=sign * 2 * way)


def _wobble(rng: Rng, times_s: Image, slowest_hz: float, fastest_hz: float) -> Image:
    """(T,) smooth noise with mean speed about 1 per second: five sines of random pitch and phase."""
    total = np.zeros_like(times_s)
    for _ in range(5):
        turn = 2 * np.pi * rng.uniform(slowest_hz, fastest_hz)
        total += np.sin(turn * times_s + rng.uniform(0, 2 * np.pi)) / turn
    return total / 1.5


def _shaken(slowest_hz: float, fastest_hz: float) -> Path:
    def path(pose: Pose, way: Image, times_s: Image, speed: float, rng: Rng) -> Pose:
        yaw, pitch, roll, x, y = (speed * _wobble(rng, times_s, slowest_hz, fastest_hz) for _ in range(5))
        return pose._replace(yaw=0.7 * yaw, pitch=0.6 * pitch, roll=0.25 * roll, x=0.3 * x, y=0.3 * y)

    return path


PATHS: dict[str, Path] = {
    "zoom in": _zoom(1),
    "zoom out": _zoom(-1),
    "pan up": _slide(0, -1),
    "pan down": _slide(0, 1),
    "pan left": _slide(-1, 0),
    "pan right": _slide(1, 0),
    "tilt up": _rotate(0, 1),
    "tilt down": _rotate(0, -1),
    "tilt left": _rotate(-1, 0),
    "tilt right": _rotate(1, 0),
    "around left": _orbit(-1),
    "around right": _orbit(1),
    "static": _static,
    "handheld": _shaken(0.6, 2.5),
    "roll": _roll(1),
    "shake": _shaken(2.0, 6.0),
}
EXTRA_MOVES = ("roll", "shake")  # rendered too; "shake" is a violent "handheld"
