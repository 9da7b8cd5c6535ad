"""Quality: falls with every fault, level by level; each defect in closed form; bounds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.blurs import FAULTS
from benchmarks.signal_clips import real_clip
from curate.signals.defects import blockiness, exposure
from curate.signals.quality import aesthetic, measure, technical
from examples.textures import photograph


def levels(picture: np.ndarray, fault: str) -> list[float]:
    return [float(measure([FAULTS[fault](picture, k, np.random.default_rng(k))])["quality"]) for k in range(1, 6)]


def rank_correlation(values: list[float]) -> float:
    """Spearman's, against ever worse levels: 1 where each is lower than the one before."""
    ranks = np.argsort(np.argsort(-np.array(values)))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


@pytest.mark.parametrize("fault", list(FAULTS))
def test_it_falls_with_each_fault(fault: str) -> None:
    picture = np.ascontiguousarray(photograph("china.jpg")[:288, :512])
    assert rank_correlation(levels(picture, fault)) >= 0.9


def test_blocks_are_seen_and_stripes_are_none() -> None:
    picture = cv2.cvtColor(np.ascontiguousarray(photograph("china.jpg")[:400, :600]), cv2.COLOR_RGB2GRAY)
    blocky = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 8])[1], 0)
    assert blockiness(picture) < 0.1 < 0.25 < blockiness(blocky)
    stripes = np.tile(np.repeat([60, 190], 4).astype(np.uint8), (200, 40))
    assert blockiness(stripes) < 0.05


def test_exposure_in_closed_form() -> None:
    ramp = np.tile(np.linspace(10, 240, 256).astype(np.uint8), (64, 1))
    assert exposure(ramp) == pytest.approx(0.0, abs=0.01)
    assert exposure(np.full((64, 64), 255, np.uint8)) > 2.5 and exposure(np.zeros((64, 64), np.uint8)) > 2.5


def test_bounds_and_unknown() -> None:
    for picture in (
        np.zeros((60, 90, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8),
    ):
        assert 0 <= technical(picture) <= 1 and 0 <= aesthetic(picture) <= 1
    assert measure([]) == {"quality": None, "aesthetic": None, "technical": None}


def test_plain_grey_is_less_of_a_picture() -> None:
    assert aesthetic(np.full((90, 160, 3), 128, np.uint8)) < 0.1 < 0.4 < aesthetic(photograph("flower.jpg"))


@pytest.mark.slow
def test_real_clips(footage: Path) -> None:
    names = ("sam2/05_default_juggle.mp4", "intel-sample-videos/book.mkv", "perception/v2.m4v", "moviepy/chaplin.mp4")
    middles = [real_clip(footage, name).frames[4] for name in names]
    for fault in FAULTS:
        assert np.mean([rank_correlation(levels(one, fault)) for one in middles]) >= 0.9, fault
