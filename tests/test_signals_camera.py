"""The camera signal: fits against closed forms, mirror images, scenes that were not fitted on, labelled real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import camera as camera_benchmark
from benchmarks.camera_scenes import FIT_TEXTURES, HELD_OUT_TEXTURES, judged
from benchmarks.signal_clips import real_clip
from curate.caption import measured
from curate.seen import Clip, Record
from curate.signals.camera import CLASSES, SIGNAL, classify, summary
from curate.signals.camera_fit import Fit, cells, fit, places
from curate.signals.camera_kinds import KINDS, features, probabilities
from examples.moves import CAMERA_CLASSES

WIDTH, HEIGHT, STEP_S = 256, 144, 0.1


def flow_of(values: list[float]) -> np.ndarray:
    """The flow in px that the model's eight values stand for."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x, y = (x + 0.5) / WIDTH - 0.5, (y + 0.5 - HEIGHT / 2) / WIDTH
    tx, ty, growth, turn, stretch, shear, bx, by = values
    right = tx + growth * x - turn * y + stretch * x + shear * y + bx * x * x + by * x * y
    down = ty + growth * y + turn * x - stretch * y + shear * x + bx * x * y + by * y * y
    return (np.stack([right, down], -1) * WIDTH * STEP_S).astype(np.float32)


@pytest.mark.parametrize("place", range(8))
def test_each_value_of_the_model_is_found(place: int) -> None:
    values = [0.0] * 8
    values[place] = 0.15
    found = fit(flow_of(values), STEP_S)
    assert np.allclose(found[:8], values, atol=1e-2), found[:8]  # the ridge takes a little off the bends


def test_the_background_is_fitted_though_a_third_of_the_picture_moves_otherwise() -> None:
    flow = flow_of([0.1, 0, 0, 0, 0, 0, 0, 0])
    flow[:, :80] += 20.0
    found = fit(flow, STEP_S)
    assert found.right == pytest.approx(0.1, abs=5e-3) and 0.25 < found.apart < 0.45


def test_a_still_picture_with_many_movers_rests() -> None:
    rng = np.random.default_rng(0)
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    for _ in range(9):
        y, x = rng.integers(0, HEIGHT - 40), rng.integers(0, WIDTH - 50)
        flow[y : y + 40, x : x + 50] = rng.normal(0, 6, 2)
    found = fit(flow, STEP_S)
    assert np.hypot(found.right, found.down) < 0.01 and found.rest > 0.4


def mirrored(one: Fit) -> Fit:
    return one._replace(right=-one.right, turn=-one.turn, shear=-one.shear, bend_x=-one.bend_x)


def test_features_are_those_of_the_mirror_image_and_the_class_is_the_opposite() -> None:
    example = judged(0, "pan left")
    flipped = [mirrored(one) for one in example.fits]
    assert np.allclose(features(example.fits), features(flipped), atol=1e-9)
    assert classify(example.fits)[0] == "pan left" and classify(flipped)[0] == "pan right"


def test_probabilities_add_up() -> None:
    values = np.random.default_rng(0).normal(0, 3, (5, len(features(judged(0, "static").fits))))
    assert np.allclose(probabilities(values).sum(axis=1), 1) and probabilities(values).shape == (5, len(KINDS))


def test_the_words_are_those_of_the_generated_footage() -> None:
    assert CLASSES == CAMERA_CLASSES and not set(FIT_TEXTURES) & set(HELD_OUT_TEXTURES)


def test_scenes_of_other_textures_and_seeds_are_classified() -> None:
    """The full count over many seeds is in benchmarks/camera.py and in the slow test; here one scene of each class."""
    found = {move: classify(judged(77, move).fits) for move in CLASSES}
    right = [move for move, (name, _) in found.items() if name == move]
    assert len(right) >= 13, found
    assert all(0 <= confidence <= 1 for _, confidence in found.values())


@pytest.mark.slow
def test_nine_of_ten_scenes_are_right_and_confident_words_more_so() -> None:
    rows = camera_benchmark.scenes(10)
    counts = camera_benchmark.matrix(rows)
    assert counts.sum() == 140 and (counts.sum(axis=1) == 10).all()
    found = camera_benchmark.summary(rows)
    assert found["top_1"] >= 0.9 and found["right_where_confident"] >= 0.95, counts
    assert np.trace(counts) == round(found["top_1"] * 140)


@pytest.mark.parametrize("confidence, words", [(0.9, "pan left"), (0.3, None)])
def test_a_confident_class_goes_into_the_caption(confidence: float, words: str | None) -> None:
    made = measured({"media": "video"}, {"camera": "pan left", "camera_confidence": confidence, "motion": 9.0})
    assert made.camera == words


def test_too_little_flow_is_unknown() -> None:
    clip = Clip(0.0, 3.0, 320, 180)
    some = Record(0.1, 0.0, fit(flow_of([0.1, 0, 0, 0, 0, 0, 0, 0]), STEP_S))
    assert summary([], clip) == {"camera": None, "camera_confidence": None}
    assert summary([some], clip)["camera"] is None
    assert summary([some._replace(time_s=k / 10 + 0.1, since_s=k / 10) for k in range(8)], clip)["camera"] is not None


def test_the_grid_keeps_its_shape() -> None:
    assert cells(256, 144) == (28, 16) and cells(144, 256) == (16, 28)
    assert places(28, 16).x_basis.shape == (28 * 16, 8)


def test_columns() -> None:
    assert list(SIGNAL.columns) == ["camera", "camera_confidence"] and SIGNAL.source == "pass"


@pytest.mark.parametrize("name, words", [
    ("perception/v1.m4v", ["zoom in"]), ("perception/v2.m4v", ["zoom in"]),
    ("ffmpegcore/input_hdr.mov", ["pan right", "tilt right"]), ("moviepy/fire2.mp4", ["handheld"]),
    ("threatexchange-tmk/doorknob-hd-no-bar.mp4", ["pan right", "tilt right"]),
])  # fmt: skip
def test_real_files_move_as_labelled(footage: Path, name: str, words: list[str]) -> None:
    assert name in json.dumps(json.loads((footage / "labels.json").read_text())["camera_motion_labels"])
    assert classify(real_clip(footage, name).fits)[0] in words
