"""Scenes: cameras move as the definitions of their classes say, and the rendered pictures move as the truth says."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from examples.catalogue import films
from examples.effects import Logo, Look, write_texts
from examples.films import Film, Shot, layout
from examples.moves import (
    BACKGROUND_DEPTH,
    CAMERA_CLASSES,
    EXTRA_MOVES,
    PATHS,
    PIVOT_DEPTH,
    camera_path,
    plane_to_image,
)
from examples.scenes import Scene, build, layer_matrix, measure_scene, render_scene
from examples.textures import PHOTO_CROPS, TEXTURES, render_texture
from examples.truth import _counted
from examples.words import CAMERAS, GROUNDS, describe

WIDTH, HEIGHT, FPS = 160, 90, 24.0
TIMES = np.arange(25) / FPS
CENTRE = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)


def flow_at(move: str, depth: float, point: tuple[float, float] = CENTRE, speed: float = 0.1) -> np.ndarray:
    """px per second (right, down) at a point of the picture, of a plane at that depth, mid-way."""
    pose = camera_path(move, TIMES, speed, np.random.default_rng(0))
    middle = len(TIMES) // 2
    now, then = (plane_to_image(pose, index, depth, WIDTH, HEIGHT) for index in (middle, middle + 1))
    moved = then @ np.linalg.inv(now) @ np.array([*point, 1.0])
    return (moved[:2] / moved[2] - point) * FPS


DIRECTIONS = {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}  # camera -> where the picture flows


@pytest.mark.parametrize("way", DIRECTIONS)
def test_pan_flow_grows_with_nearness_and_tilt_flow_does_not(way: str) -> None:
    """Closed form: a slide flows by speed x width x background depth / depth; a turn by speed x width everywhere."""
    for depth in (1.0, 1.5, BACKGROUND_DEPTH):
        expected = np.array(DIRECTIONS[way]) * 0.1 * WIDTH
        assert flow_at(f"pan {way}", depth) == pytest.approx(expected * BACKGROUND_DEPTH / depth, abs=1e-6)
        assert flow_at(f"tilt {way}", depth) == pytest.approx(expected, rel=0.01, abs=1e-3)


@pytest.mark.parametrize(("way", "sign"), [("left", -1), ("right", 1)])
def test_around_leaves_the_subject_and_moves_near_against_far(way: str, sign: int) -> None:
    far, near = flow_at(f"around {way}", BACKGROUND_DEPTH), flow_at(f"around {way}", 0.85)
    assert flow_at(f"around {way}", PIVOT_DEPTH) == pytest.approx([0, 0], abs=0.05)
    assert far == pytest.approx([sign * 0.1 * WIDTH, 0], rel=0.05, abs=0.05)
    assert near[0] * far[0] < 0


@pytest.mark.parametrize(("move", "sign"), [("zoom in", 1), ("zoom out", -1)])
def test_zoom_flows_from_the_centre(move: str, sign: int) -> None:
    assert flow_at(move, 1.0) == pytest.approx([0, 0], abs=1e-9)
    edge = flow_at(move, BACKGROUND_DEPTH, (WIDTH - 1, CENTRE[1]))
    assert edge == pytest.approx([sign * 0.1 * (WIDTH - 1), 0], rel=0.02)


def test_static_and_handheld_go_nowhere_but_handheld_moves() -> None:
    assert flow_at("static", 1.0) == pytest.approx([0, 0])
    long = np.arange(240) / FPS
    flow = measure_scene(Scene("clouds", move="handheld", speed=0.2), 0, WIDTH, HEIGHT, long)
    assert flow.speed_px_s > 0.1 * WIDTH
    assert np.hypot(flow.right_px_s, flow.down_px_s) < 0.15 * flow.speed_px_s


def test_every_class_has_a_path_and_words() -> None:
    assert len(CAMERA_CLASSES) == 14
    assert set(PATHS) == {*CAMERA_CLASSES, *EXTRA_MOVES} == set(CAMERAS)
    assert set(GROUNDS) == {*TEXTURES, *PHOTO_CROPS}
    assert describe(Scene("city", ("teal", "grey"), "cross", "red", standing=3, move="tilt up")) == (
        "Red crosses in front of a city of grey houses under a teal sky. The camera tilts up."
    )


def test_a_flat_slide_has_no_class() -> None:
    assert Scene("tiles", move="pan left").camera is None
    assert Scene("tiles", move="pan left", standing=4).camera == "pan left"
    assert Scene("tiles", move="zoom in").camera == "zoom in"
    assert Scene("tiles", move="shake").camera == "handheld"
    assert Scene("tiles", move="roll", standing=4).camera is None


@pytest.mark.parametrize("move", [*CAMERA_CLASSES, *EXTRA_MOVES])
def test_the_next_frame_is_the_background_carried_by_its_homography(move: str) -> None:
    """The truth, applied to the pixels of one frame, predicts the next one."""
    scene = Scene("dots", ("blue", "sand"), move=move, speed=0.15)
    frames = list(render_scene(scene, 3, WIDTH, HEIGHT, TIMES))
    pose, layers = build(scene, 3, WIDTH, HEIGHT, TIMES)
    for index in (0, 12):
        now, then = (layer_matrix(pose, layers[0], at, WIDTH, HEIGHT) for at in (index, index + 1))
        carried = cv2.warpPerspective(frames[index], then @ np.linalg.inv(now), (WIDTH, HEIGHT))
        inside = np.s_[14:-14, 14:-14]
        error = np.abs(carried[inside].astype(float) - frames[index + 1][inside]).mean()
        unmoved = np.abs(frames[index][inside].astype(float) - frames[index + 1][inside]).mean()
        assert error < max(3.5, 0.5 * unmoved), (index, error, unmoved)


def test_things_move_as_measured() -> None:
    """Independent reference: the centre of the red pixels is where the matrices say the disc is."""
    scene = Scene("gradient", ("white", "grey"), "disc", "red", moving=1, thing_speed=0.2)
    frames = np.array(list(render_scene(scene, 5, WIDTH, HEIGHT, TIMES[:6]))).astype(int)
    red = (frames[..., 0] - frames[..., 1]) > 60
    places = [np.argwhere(one).mean(axis=0)[::-1] for one in red]
    pose, layers = build(scene, 5, WIDTH, HEIGHT, TIMES[:6])
    for index, place in enumerate(places):
        centre = layer_matrix(pose, layers[1], index, WIDTH, HEIGHT) @ [*np.array(layers[1].image.shape[1::-1]) / 2, 1]
        assert place == pytest.approx(centre[:2] / centre[2], abs=1.0)


def test_the_mean_speed_has_closed_forms() -> None:
    """A turn: (1 + x x, x y) x speed, x and y in widths from the middle. A zoom: the distance from the middle. What is cropped
    is not counted, what lies over the scene rests."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x, y = x - CENTRE[0], y - CENTRE[1]
    away, bent = np.hypot(x, y), np.hypot(1 + (x / WIDTH) ** 2, x * y / WIDTH**2)
    turn = measure_scene(Scene("tiles", move="tilt left", speed=0.1), 0, WIDTH, HEIGHT, TIMES)
    assert turn.speed_px_s == pytest.approx(0.1 * WIDTH * bent.mean(), rel=0.01)
    zoom = Scene("tiles", move="zoom in", speed=0.1)
    assert measure_scene(zoom, 0, WIDTH, HEIGHT, TIMES).speed_px_s == pytest.approx(0.2 * away.mean(), rel=0.01)
    inner = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    inner[20:70, 40:120] = 1
    found = measure_scene(zoom, 0, WIDTH, HEIGHT, TIMES, counted=inner)
    assert found.speed_px_s == pytest.approx(0.2 * away[20:70, 40:120].mean(), rel=0.02)
    inner[20:45, 40:120] = 0
    covered = measure_scene(zoom, 0, WIDTH, HEIGHT, TIMES, counted=inner)
    assert 0.45 < covered.speed_px_s / found.speed_px_s < 0.55 and covered.moving_area == pytest.approx(0.5, abs=0.05)


def test_uneven_frames_weigh_by_their_time() -> None:
    """A shot that is the same but for where its frames lie has the same mean speed."""
    scene = Scene("dots", move="handheld", speed=0.2)
    even, uneven = np.arange(0, 2.01, 0.02), np.unique(np.r_[np.arange(0, 1, 0.02), np.arange(1, 2.01, 0.1)])
    one, other = (measure_scene(scene, 0, WIDTH, HEIGHT, times).speed_px_s for times in (even, uneven))
    assert one == pytest.approx(other, rel=0.1)


def test_rendering_is_a_function_of_its_arguments() -> None:
    scene = Scene("waves", thing="star", moving=3, standing=2, move="handheld")
    a, b, c = (np.array(list(render_scene(scene, seed, WIDTH, HEIGHT, TIMES[:3]))) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert a.shape == (3, HEIGHT, WIDTH, 3) and a.dtype == np.uint8


@pytest.mark.parametrize("name", [*TEXTURES, *PHOTO_CROPS])
def test_textures_have_the_size_asked_for_and_structure(name: str) -> None:
    image = render_texture(name, np.random.default_rng(0), 70, 110, ("teal", "sand"))
    assert image.shape == (70, 110, 3) and image.dtype == np.uint8
    assert cv2.Laplacian(image.mean(axis=2), cv2.CV_64F).std() > (0.5 if name in PHOTO_CROPS else 2)


@pytest.mark.parametrize(("join", "frames", "total"), [("cut", 0, 48), ("dissolve", 10, 38), ("fade", 12, 48)])
def test_joins_take_the_frames_they_should(join: str, frames: int, total: int) -> None:
    scene = Scene("tiles")
    film = Film("x.mp4", 64, 64, 24, (Shot(scene, 1, join=join, join_frames=frames), Shot(scene, 1)))
    spans, joins = layout(film)
    assert spans[-1].stop == total
    assert joins[0].last - joins[0].first + 1 == max(1, frames)
    light = np.zeros(total)
    for span in spans:
        light[span.first : span.stop] += span.weights
    assert (light.min() == 0) == (join == "fade") and light.max() == pytest.approx(1)
    if join == "dissolve":
        assert light == pytest.approx(np.ones(total))


def test_text_fits_and_its_box_holds_all_that_changed() -> None:
    blank = np.full((180, 320, 3), 90, np.uint8)
    written, boxes = write_texts(blank, Look(subtitle="A subtitle that is far too long for so small a picture, really"))
    changed = np.argwhere((written != blank).any(axis=2))
    (left, top, right, bottom), (first, last) = boxes[0], (changed.min(axis=0), changed.max(axis=0))
    assert left >= 0 and right <= 320 and bottom <= 180
    assert (first >= [top, left]).all() and (last < [bottom, right]).all()


def test_only_a_logo_that_hides_what_is_below_it_stands_still() -> None:
    """A watermark of half opacity shows what moves below it, in every px alike: rounding does not decide."""
    opaque, sheer = (
        _counted(replace(films()[0], logo=Logo("middle", opacity, "ring")), Look()) for opacity in (1.0, 0.5)
    )
    assert (opaque == 0).sum() > 200 and (sheer == 1).all()
