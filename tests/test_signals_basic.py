"""Sharpness, exposure, borders, motion: closed forms, invariances, and generated footage with known truth."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_scan_videos import scan

from curate import crop
from curate.seen import Clip, Record
from curate.signals import borders, exposure, motion
from pipelines import SCORES

RNG = np.random.default_rng(0)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, 60, (height, width))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 2) * 3 - 256, 0, 255).astype(np.uint8)


def test_columns_are_the_scores_that_sets_may_bound() -> None:
    crops = set(crop.columns_of("borders"))
    for signal in (exposure.SIGNAL, borders.SIGNAL, motion.SIGNAL):
        assert set(signal.columns) - crops <= set(SCORES)


def test_light_has_closed_forms() -> None:
    half = np.zeros((40, 40), np.uint8)
    half[:, :20] = 255
    assert exposure.light(half) == pytest.approx(
        {"brightness": 0.5, "contrast": 0.5, "overexposed": 0.5, "underexposed": 0.5}
    )


def test_colourfulness_of_grey_is_nought_and_vivid_is_high() -> None:
    grey = np.repeat(RNG.integers(0, 255, (50, 50, 1), np.uint8), 3, axis=2)
    vivid = RNG.integers(0, 2, (50, 50, 3)).astype(np.uint8) * 255
    assert exposure.colourfulness(grey) == 0 and exposure.colourfulness(vivid) > 60


@pytest.mark.parametrize("sigma", [2.0, 5.0, 10.0])
def test_noise_is_measured_on_a_smooth_picture(sigma: float) -> None:
    ramp = np.add.outer(np.linspace(40, 120, 256), np.linspace(0, 80, 256))
    noisy = np.clip(ramp + np.random.default_rng(1).normal(0, sigma, ramp.shape), 0, 255).astype(np.uint8)
    measured = exposure.noise(noisy)
    assert measured is not None and 0.75 * sigma < measured < 1.15 * sigma


def test_noise_and_block_edges_are_those_of_the_formulas_written_out() -> None:
    """Immerkaer's kernel by a plain convolution, means of 16 x 16 tiles by slicing; steps between columns by numpy."""
    luma = np.random.default_rng(5).integers(0, 256, (70, 83)).astype(np.uint8)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float)
    wide = np.pad(luma.astype(float), 1, mode="reflect")
    response = sum(kernel[i, j] * wide[i : i + 70, j : j + 83] for i in range(3) for j in range(3))
    tiles = [np.abs(response)[y : y + 16, x : x + 16].mean() for y in range(0, 64, 16) for x in range(0, 80, 16)]
    assert exposure.noise(luma) == pytest.approx(np.sqrt(np.pi / 2) / 6 * np.quantile(tiles, 0.125), rel=1e-12)

    def excess(picture: np.ndarray) -> float:
        steps = np.abs(np.diff(picture.astype(float), axis=1)).mean(axis=0)
        edge = np.arange(len(steps)) % 8 == 7
        return (
            steps[edge].mean() - steps[~edge].mean() * (steps[~edge].mean() + 0.5) / (steps[~edge].mean() + 0.5)
        ) / (steps[~edge].mean() + 0.5)

    assert exposure.blockiness(luma) == pytest.approx(max(0.0, (excess(luma) + excess(luma.T)) / 2), abs=1e-12)


def test_blockiness_rises_with_compression() -> None:
    picture = texture(256, 256)
    values = []
    for quality in (95, 40, 20, 8, 3):
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        values.append(exposure.blockiness(cv2.imdecode(data, 0)))
    assert values == sorted(values) and values[-1] > 0.3


@pytest.mark.parametrize("sides", [(0, 0, 0, 0), (20, 0, 20, 0), (0, 31, 0, 17), (5, 7, 9, 11)])
@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_borders_are_exact(sides: tuple[int, int, int, int], level: int) -> None:
    left, top, right, bottom = sides
    picture = np.full((180, 320), level, np.uint8)
    inner = texture(180 - top - bottom, 320 - left - right, seed=level)
    picture[top : 180 - bottom, left : 320 - right] = inner
    found = borders.bars(picture)
    assert found is not None and np.abs(np.subtract(found, sides)).max() <= 1


def test_flat_pictures_have_unknown_borders_and_vignettes_none() -> None:
    assert borders.bars(np.zeros((90, 160), np.uint8)) is None
    y, x = np.mgrid[-1:1:180j, -1:1:320j]
    vignette = np.clip(200 * np.exp(-1.5 * (x**2 + y**2)), 0, 255).astype(np.uint8)
    assert borders.bars(vignette) == (0, 0, 0, 0)


def test_an_image_has_no_motion() -> None:
    assert set(motion.summary([], Clip(0.0, 0.0, 10, 10)).values()) == {None}
    assert borders.summary([], Clip(0.0, 0.0, 10, 10))["borders"] is None
    bar = borders.Bar(0, False)
    assert borders.summary([Record(0.0, 0.0, [bar] * 4)], Clip(0.0, 0.0, 10, 10))["borders"] == 0


def test_static_blurred_and_bordered_clips_stand_out(generated: Path) -> None:
    truth = json.loads((generated / "truth.json").read_text())["files"]
    still = scan(generated / "still.mp4", want=frozenset({"clips", "scores.motion"}))
    assert all(row["motion"] < 0.1 and row["still_frames"] > 0.9 for row in still["scores.motion"])
    blurred = scan(generated / "half_blurred.mp4", want=frozenset({"clips", "scores.sharpness"}))["scores.sharpness"]
    assert 5 * blurred[0]["sharpness"] < blurred[1]["sharpness"]
    for name in ("letterbox.mp4", "pillarbox.mp4"):
        for row in scan(generated / name, want=frozenset({"clips", "scores.borders"}))["scores.borders"]:
            for side, px in truth[name]["borders"].items():
                whole = truth[name]["width" if side in ("left", "right") else "height"]
                assert abs(row[f"borders_crop_{side}"] * whole - px) <= 2, (name, side)
