"""A scene: a background plane, things standing nearer, things that move, and a camera. Rendered with exact truth.

    scene = Scene(background="clouds", colours=("blue", "white"), thing="tree", thing_colour="green", move="pan left")
    for frame in render_scene(scene, seed=0, width=320, height=180, times_s=np.arange(48) / 24): ...
    measure_scene(scene, seed=0, width=320, height=180, times_s=np.arange(48) / 24).speed_px_s

Each plane goes to the picture by a known homography, so the flow of every pixel is known in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from .moves import BACKGROUND_DEPTH, CAMERA_CLASSES, Pose, camera_path, plane_to_image
from .sprites import render_sprite
from .textures import Image, Rng, render_texture

NEAREST_DEPTH, FARTHEST_DEPTH = 0.85, 1.35  # where standing things are
STEP_PX = 4  # every so many px the flow is measured, another one in each frame


@dataclass(frozen=True)
class Scene:
    """What is to be seen. Speeds are in frame widths per second."""

    background: str  # a key of TEXTURES or PHOTO_CROPS
    colours: tuple[str, str] = ("blue", "white")  # of the background; keys of COLOURS
    thing: str = "disc"  # a key of SHAPES
    thing_colour: str = "red"
    standing: int = 0  # things at rest nearer than the background, per frame area: they give depth
    moving: int = 0  # things that move over the background
    thing_size: float = 0.4  # of the frame's short side
    thing_speed: float = 0.2
    move: str = "static"  # a key of moves.PATHS
    speed: float = 0.12  # of the camera: how fast the background flows

    @property
    def camera(self) -> str | None:
        """The camera's class; None for a roll, and where pan and tilt cannot be told apart for want of depth."""
        if self.move == "shake":
            return "handheld"
        flat = self.standing == 0 and self.move.split()[0] in ("pan", "tilt", "around")
        return self.move if self.move in CAMERA_CLASSES and not flat else None

    @property
    def still(self) -> bool:
        return self.move == "static" and self.moving == 0


class Layer(NamedTuple):
    """A picture on a plane; arrays (T,): where its centre is, in px of the plane from the plane's centre."""

    image: Image  # uint8 (h, w, 3) repeating background, or (h, w, 4) premultiplied
    depth: float
    x: Image
    y: Image
    angle: Image


class Flow(NamedTuple):
    """How the picture moves: mean speed of all its px, and the mean velocity (right, down), in px per second."""

    speed_px_s: float
    right_px_s: float
    down_px_s: float
    moving_area: float  # share of the px that move at all

    def scaled(self, scale: float) -> Flow:
        """The flow of the picture made larger by `scale`."""
        return Flow(self.speed_px_s * scale, self.right_px_s * scale, self.down_px_s * scale, self.moving_area)


def render_scene(scene: Scene, seed: int | list[int], width: int, height: int, times_s: Image) -> Iterator[Image]:
    """Frames uint8 (height, width, 3) RGB at times_s (T,). Equal arguments, equal bytes."""
    pose, layers = build(scene, seed, width, height, times_s)
    last_matrix, backdrop = None, np.empty(0)
    for index in range(len(times_s)):
        matrices = [layer_matrix(pose, layer, index, width, height) for layer in layers]
        if last_matrix is None or not np.array_equal(matrices[0], last_matrix):
            last_matrix, backdrop = matrices[0], _backdrop(layers[0].image, matrices[0], width, height)
        frame = backdrop.copy()
        for layer, matrix in zip(layers[1:], matrices[1:]):
            _lay_over(frame, layer.image, matrix)
        yield frame


def measure_scene(scene: Scene, seed: int | list[int], width: int, height: int, times_s: Image, first: int = 0,
                  stop: int | None = None, counted: Image | None = None) -> Flow:  # fmt: skip
    """The true flow: how fast what is seen moves, averaged over the time of frames [first, stop) and over the picture's px.

    counted (height, width): 1 where a px counts, 0 where something at rest lies over the scene, NaN where the picture ends;
    None counts them all. Of every STEP_PX x STEP_PX px one is looked at, in turn.
    """
    pose, layers = build(scene, seed, width, height, times_s)
    counted = np.ones((height, width), np.float32) if counted is None else counted
    end = (len(times_s) if stop is None else stop) - 1
    totals, area = np.zeros(4), 1e-9
    for index in range(first, end):
        y, x = np.mgrid[index // STEP_PX % STEP_PX : height : STEP_PX, index % STEP_PX : width : STEP_PX]
        shares, step_s = counted[y, x], times_s[index + 1] - times_s[index]
        known = ~np.isnan(shares)
        points = np.stack([x[known], y[known], np.ones(known.sum(), int)]).astype(float)
        flow = _flow(pose, layers, index, points, width, height) * shares[known]
        moving = np.hypot(*flow) / step_s > 1e-3
        totals += [np.hypot(*flow).sum(), flow[0].sum(), flow[1].sum(), step_s * moving.sum()]
        area += step_s * known.sum()
    return Flow(*(float(value) for value in totals / area))


def build(scene: Scene, seed: int | list[int], width: int, height: int, times_s: Image) -> tuple[Pose, list[Layer]]:
    """Camera poses and layers, far to near; the first layer is the background."""
    rng = np.random.default_rng(seed)
    pose = camera_path(scene.move, times_s, scene.speed, rng)
    tall, wide = int(1.3 * height), int(1.3 * width)
    backdrop = render_texture(scene.background, rng, tall, wide, scene.colours)
    still = np.zeros(len(times_s))
    layers = [Layer(backdrop, BACKGROUND_DEPTH, still, still, still)]
    layers += _movers(scene, rng, width, height, times_s)
    layers += sorted(_standers(scene, rng, width, height, times_s, pose), key=lambda layer: -layer.depth)
    return pose, layers


def layer_matrix(pose: Pose, layer: Layer, index: int, width: int, height: int) -> Image:
    """float64 (3, 3): px of the layer's picture -> px of frame `index`."""
    tall, wide = layer.image.shape[:2]
    cos, sin = np.cos(layer.angle[index]), np.sin(layer.angle[index])
    to_centre = np.array([[1, 0, -(wide - 1) / 2], [0, 1, -(tall - 1) / 2], [0, 0, 1]])
    place = np.array([[cos, -sin, layer.x[index]], [sin, cos, layer.y[index]], [0, 0, 1]])
    return plane_to_image(pose, index, layer.depth, width, height) @ place @ to_centre


def _movers(scene: Scene, rng: Rng, width: int, height: int, times_s: Image) -> list[Layer]:
    return [_mover(scene, rng, width, height, times_s) for _ in range(scene.moving)]


def _mover(scene: Scene, rng: Rng, width: int, height: int, times_s: Image) -> Layer:
    """A thing that flies straight and bounces off the frame's edges, turning slowly."""
    side = _side(scene, rng, width, height)
    heading, spin = rng.uniform(0, 2 * np.pi), rng.uniform(-0.8, 0.8)
    speed = scene.thing_speed * width * rng.uniform(0.8, 1.2)
    room_x, room_y = max(1.0, (width - side) / 2), max(1.0, (height - side) / 2)
    x = _bounce(rng.uniform(-1, 1) * room_x + speed * np.cos(heading) * times_s, room_x)
    y = _bounce(rng.uniform(-1, 1) * room_y + speed * np.sin(heading) * times_s, room_y)
    image = render_sprite(scene.thing, rng, side, scene.thing_colour)
    return Layer(image, BACKGROUND_DEPTH, x, y, spin * times_s)


def _bounce(way: Image, room: float) -> Image:
    """Triangle wave: goes to and fro in [-room, room]."""
    return np.abs((way - room) % (4 * room) - 2 * room) - room


def _standers(scene: Scene, rng: Rng, width: int, height: int, times_s: Image, pose: Pose) -> Iterator[Layer]:
    """Things spread evenly over what the camera sees on its way (a golden-ratio sequence leaves no gaps)."""
    reach_x, reach_y = _reach(pose, width, height)
    count = round(scene.standing * reach_x / width * reach_y / height)
    start = rng.random(2)
    still = np.zeros(len(times_s))
    for index in range(count):
        u, v = (start + (index + 1) * np.array([0.7548776662, 0.5698402910])) % 1 - 0.5
        depth = rng.uniform(NEAREST_DEPTH, FARTHEST_DEPTH)
        image = render_sprite(scene.thing, rng, _side(scene, rng, width, height), scene.thing_colour)
        tilt = rng.uniform(-0.15, 0.15)
        yield Layer(image, depth, still + u * reach_x, still + v * reach_y, still + tilt)


def _reach(pose: Pose, width: int, height: int) -> tuple[float, float]:
    """Size in px of the part of the near planes that the camera gets to see."""
    slide_x, slide_y = np.ptp(pose.x) / NEAREST_DEPTH + np.ptp(pose.yaw), np.ptp(pose.y) / NEAREST_DEPTH
    widest = 1.05 / float(pose.zoom.min())
    return width * (widest + slide_x), height * widest + width * float(slide_y + np.ptp(pose.pitch))


def _side(scene: Scene, rng: Rng, width: int, height: int) -> int:
    return max(12, int(scene.thing_size * min(width, height) * rng.uniform(0.75, 1.25)))


def _backdrop(image: Image, matrix: Image, width: int, height: int) -> Image:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(
        image, np.linalg.inv(matrix), (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )


def _lay_over(frame: Image, image: Image, matrix: Image) -> None:
    """Warps a premultiplied RGBA picture over the frame, in the rectangle it covers only."""
    height, width = frame.shape[:2]
    tall, wide = image.shape[:2]
    corners = matrix @ np.array([[0, wide, 0, wide], [0, 0, tall, tall], [1, 1, 1, 1]], float)
    if (corners[2] <= 1e-6).any():
        return  # (partly) behind the camera
    x, y = corners[:2] / corners[2]
    left, right = max(0, int(x.min()) - 1), min(width, int(x.max()) + 2)
    top, bottom = max(0, int(y.min()) - 1), min(height, int(y.max()) + 2)
    if right <= left or bottom <= top:
        return
    moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ matrix
    warped = cv2.warpPerspective(image, moved, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    under = frame[top:bottom, left:right]
    through = cv2.cvtColor(255 - warped[..., 3], cv2.COLOR_GRAY2BGR)
    frame[top:bottom, left:right] = cv2.add(cv2.multiply(under, through, scale=1 / 255), warped[..., :3])


def _flow(pose: Pose, layers: list[Layer], index: int, points: Image, width: int, height: int) -> Image:
    """(2, N) px from frame `index` to the next one, at homogeneous points (3, N): of the nearest layer there."""
    flow = np.zeros((2, points.shape[1]))
    for layer in layers:
        now = layer_matrix(pose, layer, index, width, height)
        then = layer_matrix(pose, layer, index + 1, width, height)
        if layer.image.shape[2] == 3:
            hit = np.ones(points.shape[1], bool)
        else:
            hit = _covers(layer.image, now, points)
        moved = then @ np.linalg.inv(now) @ points[:, hit]
        flow[:, hit] = moved[:2] / moved[2] - points[:2, hit]
    return flow


def _covers(image: Image, matrix: Image, points: Image) -> Image:
    """bool (N,): the picture, brought to the frame by the matrix, is opaque at homogeneous points (3, N)."""
    tall, wide = image.shape[:2]
    corners = matrix @ np.array([[-1, wide, -1, wide], [-1, -1, tall, tall], [1, 1, 1, 1]], float)
    hit = np.zeros(points.shape[1], bool)
    if (corners[2] <= 1e-6).any():
        return hit  # (partly) behind the camera: not drawn either
    low, high = (corners[:2] / corners[2]).min(axis=1), (corners[:2] / corners[2]).max(axis=1)
    near = np.flatnonzero(((points[:2] >= low[:, None]) & (points[:2] <= high[:, None])).all(axis=0))
    local = np.linalg.inv(matrix) @ points[:, near]
    x, y = (local[:2] / local[2]).round().astype(int)
    inside = (x >= 0) & (y >= 0) & (x < wide) & (y < tall)
    hit[near[inside]] = image[y[inside], x[inside], 3] > 127
    return hit
